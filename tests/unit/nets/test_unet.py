"""The U-shaped network: shapes, shortcuts, and that no image sees another."""

from __future__ import annotations

import pytest
import torch

from pathline import fields, nets
from pathline.nets.unet import waves


def _awake(net: nets.UNet) -> nets.UNet:
    """With a last layer that is not zero."""
    torch.nn.init.normal_(next(net.leave[-1].parameters()), std=0.1)
    return net


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 3, 8, 8)),
        ({"patch": 2}, (2, 3, 12, 8)),
        ({"blocks": 2, "positions": 1}, (2, 3, 7, 9)),
        ({"outputs": 5, "patch": 2}, (2, 3, 8, 8)),
    ],
)
def test_shapes(options, shape) -> None:
    net = nets.UNet(3, (8, 16, 8), **options)
    assert net(torch.randn(shape)).shape == (2, options.get("outputs", 3), *shape[2:])


def test_it_starts_as_zero_and_learns() -> None:
    net, x = nets.UNet(1, (8, 16), positions=1), torch.randn(4, 1, 8, 8)
    assert torch.equal(net(x), torch.zeros_like(x))
    (net(x) - 1).square().mean().backward()
    grads = [parameter.grad for parameter in net.leave[-1].parameters()]
    assert all(grad is not None and float(grad.abs().max()) > 0 for grad in grads)


def test_no_image_sees_another() -> None:
    net, x, z = _awake(nets.UNet(2, (8, 16), modulation=3)), torch.randn(5, 2, 8, 8), torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(net(x, z)[3:4], net(x[3:4], z[3:4]), rtol=1e-4, atol=1e-5)


def test_far_pixels_meet_at_the_coarse_grid_and_near_ones_by_the_shortcut() -> None:
    net = _awake(nets.UNet(1, (8, 16, 16)))
    x = torch.randn(1, 1, 16, 16, requires_grad=True)
    (pull,) = torch.autograd.grad(net(x)[0, 0, 0, 0], x)
    assert float(pull[0, 0, 15, 15].abs()) > 0
    assert float(pull[0, 0, 0, 0].abs()) > 0


def test_positions_tell_pixels_apart_that_see_the_same() -> None:
    x = torch.zeros(1, 1, 16, 16)
    for positions, differ in ((0, False), (2, True)):
        torch.manual_seed(0)
        net = nets.UNet(1, (8,), positions=positions)
        with torch.no_grad():
            h = net.enter(torch.cat([x, waves(x, positions)], 1) if positions else x)[0, :, 2:-2, 2:-2]
        assert (float((h - h[:, :1, :1]).abs().max()) > 1e-3) is differ


def test_waves() -> None:
    found = waves(torch.zeros(2, 1, 3, 5), 2)
    assert found.shape == (2, 8, 3, 5)
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([-1.0, 0.0, 1.0]))  # sin(pi s) along the height
    torch.testing.assert_close(found[1, 7, 1], torch.tensor([-1.0, 0.0, 1.0, 0.0, -1.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (12,)}, r"`widths` are positive multiples of groups = 8.*\(12,\) came"),
        ({"widths": ()}, "`widths`"),
        ({"patch": 0}, "`patch` is a positive integer, but 0 came"),
        ({"modulation": -1}, "`modulation` is 0 or a positive integer, but -1 came"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        nets.UNet(1, **arguments)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(batch, 1, height, width\) with sides that 2 divides, but \(3, 1, 7, 8\)"):
        nets.UNet(1, (8,), patch=2)(torch.zeros(3, 1, 7, 8))
    with pytest.raises(ValueError, match="`z` is needed"):
        nets.UNet(1, (8,), modulation=4)(torch.zeros(3, 1, 8, 8))


def test_the_field_is_told_of_time_and_context() -> None:
    field = fields.UNet(1, (8,), context=3, embedding=8, patch=2)
    _awake(field.net)
    y, context = torch.randn(3, 1, 4, 4), torch.eye(3)
    with torch.no_grad():
        one, two = (field(torch.tensor(t), y, context) for t in (0.2, 0.8))
        assert float((one - two).abs().max()) > 1e-4
        assert float((one - field(torch.tensor(0.2), y, context.flip(0))).abs().max()) > 1e-4
        rows = field(torch.tensor([0.2, 0.8, 0.2]).reshape(3, 1, 1, 1), y, context)
        torch.testing.assert_close(rows, torch.stack([one[0], two[1], one[2]]), rtol=1e-4, atol=1e-5)


def test_a_field_without_context() -> None:
    field = fields.UNet(2, (8, 8), embedding=4)
    y = torch.randn(2, 2, 4, 4)
    assert field(torch.tensor(0.1), y).shape == (2, 2, 4, 4)
    with pytest.raises(TypeError, match="context"):
        field(torch.tensor(0.1), y, torch.zeros(2, 3))


def test_contexts_and_embeddings_that_do_not_fit_are_refused() -> None:
    field = fields.UNet(1, (8,), context=3, embedding=4)
    y = torch.zeros(2, 1, 4, 4)
    for context in (None, torch.zeros(2, 4), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match=r"`args` is the context, \(2, 3\) for 2 images"):
            field(torch.tensor(0.0), y, context)
    with pytest.raises(ValueError, match="`embedding` is an even number"):
        fields.UNet(1, (8,), embedding=3)
    with pytest.raises(ValueError, match="`context` is the size"):
        fields.UNet(1, (8,), context=-1)
