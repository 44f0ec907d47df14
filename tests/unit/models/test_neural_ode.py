from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pathline
from pathline import fields, nets
from pathline.models import NeuralODE, ResNet


class Linear(nn.Module):
    """dy/dt = y A^T, with the matrix exponential as its flow."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t, y):
        return y @ self.matrix.T


MATRIX = torch.tensor([[-0.3, 1.0], [-1.0, -0.1]], dtype=torch.float64)


def exact(matrix=MATRIX, **options):
    return NeuralODE(Linear(matrix.clone()), rtol=1e-9, atol=1e-9, **options)


def test_without_times_it_returns_the_end_in_the_shape_of_the_start():
    y0 = torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(exact()(y0), y0 @ torch.linalg.matrix_exp(MATRIX).T, rtol=1e-7, atol=1e-7)
    assert exact()(y0[0]).shape == (2,)


def test_the_span_is_the_models():
    y0 = torch.randn(7, 2, dtype=torch.float64)
    there = exact(t=(1.0, 3.0))(y0)
    torch.testing.assert_close(there, y0 @ torch.linalg.matrix_exp(2 * MATRIX).T, rtol=1e-7, atol=1e-7)


def test_with_times_it_returns_the_trajectory():
    y0, t = torch.randn(7, 2, dtype=torch.float64), torch.linspace(0, 2, 5, dtype=torch.float64)
    ys = exact()(y0, t)
    assert ys.shape == (5, 7, 2)
    assert torch.equal(ys[0], y0)
    torch.testing.assert_close(ys[-1], y0 @ torch.linalg.matrix_exp(2 * MATRIX).T, rtol=1e-7, atol=1e-7)


def test_the_inverse_returns():
    model, y0 = exact(), torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(model.inverse(model(y0)), y0, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model(model.inverse(y0)), y0, rtol=1e-7, atol=1e-7)


def test_args_reach_the_field_and_are_differentiated():
    def driven(t, y, args):
        return args["gain"] * y

    gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y1 = NeuralODE(driven, rtol=1e-9, atol=1e-9)(torch.ones(1, dtype=torch.float64), args={"gain": gain})
    y1.sum().backward()
    assert float(y1.detach()) == pytest.approx(math.exp(0.5), rel=1e-7)
    assert float(gain.grad) == pytest.approx(math.exp(0.5), rel=1e-6)


@pytest.mark.parametrize("times", [None, torch.linspace(0, 1, 4)])
def test_augmented_zeros_come_and_go(times):
    field = fields.MLP(5, 8)
    y0 = torch.randn(7, 2)
    dropped = NeuralODE(field, augment=3)(y0, times)
    kept = NeuralODE(field, augment=3, return_augmented=True)(y0, times)
    assert dropped.shape == (*(() if times is None else (4,)), 7, 2)
    assert kept.shape[-1] == 5
    torch.testing.assert_close(kept[..., :2], dropped)
    by_hand = pathline.solve(field, torch.cat([y0, torch.zeros(7, 3)], 1), (0.0, 1.0)).y1
    torch.testing.assert_close(kept if times is None else kept[-1], by_hand)


@pytest.mark.parametrize("times", [None, torch.linspace(0, 1, 4)])
def test_channels_of_images_are_augmented(times):
    model = NeuralODE(nn.Conv2d(5, 5, 3, padding=1), augment=2, augment_dim=1)
    assert model(torch.randn(2, 3, 6, 6), times).shape == (*(() if times is None else (4,)), 2, 3, 6, 6)


def test_the_way_back_of_an_augmented_model_needs_what_was_added():
    y0 = torch.randn(7, 2, dtype=torch.float64)
    field = fields.MLP(3, 8, dtype=torch.float64)
    kept = NeuralODE(field, augment=1, return_augmented=True, rtol=1e-9, atol=1e-9)
    back = kept.inverse(kept(y0))
    torch.testing.assert_close(back[:, :2], y0, rtol=1e-6, atol=1e-7)
    assert float(back[:, 2].detach().abs().max()) < 1e-7
    with pytest.raises(ValueError, match=r"The way back needs the 1 augmented components.*return_augmented=True"):
        NeuralODE(field, augment=1).inverse(y0)


def test_it_is_a_layer_and_takes_a_plain_network():
    net = nn.Sequential(
        nn.Linear(4, 2), NeuralODE(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))), nn.Linear(2, 1)
    )
    net(torch.randn(5, 4)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net[1].parameters())


def test_states_of_any_structure():
    def turning(t, y):
        return {"q": y["p"], "p": -y["q"]}

    y0 = {"q": torch.ones(3, dtype=torch.float64), "p": torch.zeros(3, dtype=torch.float64)}
    y1 = NeuralODE(turning, rtol=1e-9, atol=1e-9)(y0)
    torch.testing.assert_close(y1["q"], torch.full((3,), math.cos(1.0), dtype=torch.float64))


def test_solve_gives_the_solution_with_options_of_the_call():
    solution = exact().solve(torch.ones(2, dtype=torch.float64), save=pathline.Save(dense=True), rtol=1e-5, atol=1e-5)
    half = torch.linalg.matrix_exp(0.5 * MATRIX) @ torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(solution(0.5), half, rtol=1e-4, atol=1e-4)
    assert solution.stats.evaluations < exact().solve(torch.ones(2, dtype=torch.float64)).stats.evaluations


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_evaluations_are_plain_numbers_of_the_last_pass(gradient):
    model = NeuralODE(fields.MLP(2, 8), method="rk4", dt=0.25, gradient=gradient)
    assert (model.evaluations, model.backward_evaluations) == (0, 0)
    y1 = model(torch.randn(3, 2))
    assert model.evaluations == 16
    y1.sum().backward()
    assert type(model.evaluations) is int
    assert type(model.backward_evaluations) is int
    assert (model.backward_evaluations > 0) == (gradient != "backprop")


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_the_gradient_is_handed_on(gradient):
    field, y0 = fields.MLP(2, 8, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    grads = []
    for way in ("backprop", gradient):
        field.zero_grad()
        NeuralODE(field, gradient=way, rtol=1e-9, atol=1e-9)(y0).square().sum().backward()
        grads.append([p.grad.clone() for p in field.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_loss_on_ends_and_on_trajectories():
    model, y0, t = exact(), torch.randn(7, 2, dtype=torch.float64), torch.linspace(0, 1, 4, dtype=torch.float64)
    with torch.no_grad():
        end, path = model(y0), model(y0, t)
        assert float(model.loss((y0, end))) == 0.0
        assert float(model.loss((y0, t, path + 1))) == pytest.approx(1.0)
        assert float(model.loss({"y0": y0, "target": end + 2})) == pytest.approx(4.0)
    with pytest.raises(TypeError, match="A batch is \\(y0, target\\).*but Tensor came"):
        model.loss(y0)


def test_state_dict_round_trip():
    model, other = NeuralODE(fields.MLP(2, 8), augment=1 - 1), NeuralODE(fields.MLP(2, 8))
    other.load_state_dict(model.state_dict())
    y0 = torch.randn(3, 2)
    assert torch.equal(model(y0), other(y0))
    assert set(model.state_dict()) == {f"field.{name}" for name in model.field.state_dict()}


def test_it_says_what_it_is():
    text = repr(NeuralODE(fields.MLP(3), augment=1, rtol=1e-3, method="dopri5", gradient="adjoint"))
    assert 't=(0, 1), method="dopri5", rtol=0.001, augment=1, gradient="adjoint"' in text
    assert "MLP" in text

    def drift(t, y):
        return -y

    assert "field=drift" in repr(NeuralODE(drift))


def test_a_fixed_step_method_needs_its_step_only_without_times():
    model = NeuralODE(fields.MLP(2, 8), method="rk4")
    assert model(torch.randn(3, 2), torch.linspace(0, 1, 5)).shape == (5, 3, 2)
    with pytest.raises(ValueError, match="`dt`|dt="):
        model(torch.randn(3, 2))


def test_errors():
    with pytest.raises(
        TypeError, match=r"`field` is a module or a function \(t, y\) -> dy, but an object of type int came"
    ):
        NeuralODE(3)
    with pytest.raises(ValueError, match=r"`t` is the start and the end .* but \(1.0, 1.0\) came"):
        NeuralODE(fields.MLP(2), t=(1.0, 1.0))
    with pytest.raises(ValueError, match="`t` is the start and the end"):
        NeuralODE(fields.MLP(2), t=torch.linspace(0, 1, 5))
    with pytest.raises(ValueError, match="`augment` is the number of added zeros, 0 or more, but -1 came"):
        NeuralODE(fields.MLP(2), augment=-1)
    with pytest.raises(TypeError, match="`augment` needs a state that is one tensor, but tuple came"):
        NeuralODE(fields.MLP(2), augment=1)((torch.zeros(1), torch.zeros(1)))


def test_an_euler_step_is_a_residual_block_bit_for_bit():
    block, x = nets.MLP(2, 2, 16), torch.randn(9, 2)
    assert torch.equal(NeuralODE(block, method="euler", dt=1.0)(x), ResNet(block, depth=1)(x))
    for k in (2, 3, 10):
        flow, network = NeuralODE(block, method="euler", dt=1 / k), ResNet(block, depth=k, step=1 / k)
        torch.testing.assert_close(flow(x), network(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(
            torch.autograd.grad(flow(x).sum(), list(block.parameters())),
            torch.autograd.grad(network(x).sum(), list(block.parameters())),
            rtol=1e-5,
            atol=1e-6,
        )


def test_resnet_shared_and_separate():
    block, x = nets.MLP(2, 2, 4), torch.randn(5, 2)
    shared = ResNet(block, depth=3)
    by_hand = x
    for _ in range(3):
        by_hand = by_hand + block(by_hand)
    torch.testing.assert_close(shared(x), by_hand)
    separate = ResNet([nets.MLP(2, 2, 4) for _ in range(3)], step=0.5)
    by_hand = x
    for part in separate.blocks:
        by_hand = by_hand + 0.5 * part(by_hand)
    torch.testing.assert_close(separate(x), by_hand)
    assert len(list(separate.parameters())) == 3 * len(list(shared.parameters()))
    assert len(separate.states(x)) == 4
    assert "depth=3 (shared), step=1" in repr(shared)
    assert "depth=3 (separate), step=0.5" in repr(separate)


def test_resnet_errors():
    block = nets.MLP(1, 1)
    with pytest.raises(ValueError, match="depth=None came with one block"):
        ResNet(block)
    with pytest.raises(ValueError, match="depth=3 came with 2 blocks"):
        ResNet([block, block], depth=3)
    with pytest.raises(ValueError, match="depth=0 came with one block"):
        ResNet(block, depth=0)
