"""Films of pendulums: their motion, and what a picture shows."""

from __future__ import annotations

import pytest
import torch

from pathline import fields, solve
from pathline.data import PendulumDraws, pendulum_frames
from pathline.data.pendulum_frames import drawn


def films(count=6, steps=20, **options):
    return pendulum_frames(count, steps, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("friction", [0.0, 0.5])
def test_the_motion_is_that_of_pendulums(friction):
    found = films(friction=friction)
    field = fields.Pendulum(gravity=10.0, friction=friction, dtype=torch.float64)
    args = {"length": found.lengths}
    exact = solve(field, found.states[:, 0], found.times, args=args, method="dopri8", rtol=1e-11, atol=1e-12).ys
    torch.testing.assert_close(found.states, exact.transpose(0, 1), rtol=0, atol=1e-6)


def test_draws_lie_in_their_ranges_and_come_from_the_generator():
    found = films(400, 1, draws=PendulumDraws((0.5, 0.7), (0.2, 1.0), 3.0))
    first = found.states[:, 0]
    for values, low, high in ((found.lengths, 0.5, 0.7), (first[:, 0].abs(), 0.2, 1.0), (first[:, 1], -3.0, 3.0)):
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    assert 0.4 < (first[:, 0] > 0).double().mean() < 0.6
    assert films().frames.equal(films().frames)
    assert films().frames.dtype == torch.float32


def test_a_picture_shows_the_angle_alone():
    found = films()
    assert found.frames.equal(drawn(found.states[..., 0]).float())
    assert found.frames.shape == (6, 20, 16, 16)


@pytest.mark.parametrize("pixels", [16, 28])
def test_pictures_turn_and_mirror_with_the_angle(pixels):
    angle = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64)
    pictures = drawn(angle, pixels)
    torch.testing.assert_close(drawn(-angle, pixels), pictures.flip(-1))
    torch.testing.assert_close(drawn(angle + torch.pi / 2, pixels), pictures.rot90(1, (-2, -1)))
    down = drawn(torch.zeros(()), pixels)
    assert down[pixels * 3 // 4 :].sum() > 10 * down[: pixels // 4].sum()
    right = drawn(torch.tensor(torch.pi / 2), pixels)
    assert right[:, pixels * 3 // 4 :].sum() > 10 * right[:, : pixels // 4].sum()


def test_edges_are_smooth():
    """A small turn changes the picture a little, and its brightness hardly: no pixel jumps."""
    angle = torch.linspace(0.0, 6.28, 629, dtype=torch.float64)
    pictures = drawn(angle)
    assert bool(((pictures >= 0) & (pictures <= 1)).all())
    assert (pictures[1:] - pictures[:-1]).abs().max() < 0.1
    total = pictures.sum((1, 2))
    assert (total / total.mean() - 1).abs().max() < 0.05
    assert ((pictures > 0.05) & (pictures < 0.95)).sum((1, 2)).min() > 5


def test_refusals():
    for options in ({"count": 0}, {"pixels": 0}, {"dt": 0.0}, {"draws": PendulumDraws(lengths=(0.0, 1.0))}):
        with pytest.raises(ValueError, match="1 or more"):
            pendulum_frames(**options)
