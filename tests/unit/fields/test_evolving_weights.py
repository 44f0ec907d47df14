"""Weights that move while the state does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pathline
from pathline import NeuralODE, Save, fields
from pathline.models import load, save
from pathline.testing import peak_memory

DOUBLE = torch.float64


def network(channels=2, dtype=DOUBLE):
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular", dtype=dtype) for _ in range(2)]
    return nn.Sequential(convolutions[0], nn.Tanh(), convolutions[1])


def moving(field, scale=0.3):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in field.evolution.parameters():
            parameter.normal_(std=scale)
    return field


def lock_step(field, z, gradient="backprop", steps=8):
    return NeuralODE(field, method="rk4", dt=1 / steps, gradient=gradient)(field.start(z))[0]


def ahead(field, z, gradient="backprop", steps=8):
    curve = pathline.solve(field.evolution, field.weights(), (0.0, 1.0), method="rk4", dt=1 / 16, save=Save(dense=True))
    return NeuralODE(field, method="rk4", dt=1 / steps, gradient=gradient)(z, args=curve)


def at_the_end(field, z, gradient="backprop", steps=8):
    weights = NeuralODE(field.evolution, method="rk4", dt=1 / 16, gradient=gradient)(field.weights())
    return NeuralODE(field, method="rk4", dt=1 / steps, gradient=gradient)(z, args=weights)


WAYS = [lock_step, ahead, at_the_end]


def gradients(field, end):
    return torch.autograd.grad((end - 0.3).square().sum(), list(field.parameters()))


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def z0(dtype=DOUBLE):
    return torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).to(dtype)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_weights_at_rest_are_the_plain_field_bit_for_bit(method):
    module, z = network(dtype=torch.float32), z0(torch.float32)
    field = fields.EvolvingWeights(module)
    expected = NeuralODE(module, method=method, dt=0.25)(z)
    model = NeuralODE(field, method=method, dt=0.25)
    assert torch.equal(model(field.start(z))[0], expected)
    with pytest.warns(UserWarning, match="field.start"):
        assert torch.equal(model(z), expected)
    assert torch.equal(model(z), expected)
    assert torch.equal(model(z, args=field.weights()), expected)
    curve = pathline.solve(field.evolution, field.weights(), (0.0, 1.0), save=Save(dense=True))
    assert torch.equal(model(z, args=curve), expected)
    assert torch.equal(model(z, args=curve.y1), expected)


def test_beforehand_an_adaptive_solve_at_rest_is_the_plain_one_too():
    module, z = network(dtype=torch.float32), z0(torch.float32)
    field = fields.EvolvingWeights(module)
    weights = NeuralODE(field.evolution)(field.weights())
    assert torch.equal(NeuralODE(field)(z, args=weights), NeuralODE(module)(z))


def test_lock_step_and_the_curve_are_the_same_flow():
    field = moving(fields.EvolvingWeights(network()))
    tight = {"rtol": 1e-6, "atol": 1e-6}
    together = NeuralODE(field, **tight)(field.start(z0()))[0]
    curve = pathline.solve(
        field.evolution, field.weights(), (0.0, 1.0), save=Save(dense=True), method="dopri8", **tight
    )
    torch.testing.assert_close(NeuralODE(field, **tight)(z0(), args=curve), together, rtol=1e-4, atol=1e-5)
    resting = NeuralODE(field.module, **tight)(z0())
    assert relative(resting, together) > 0.05


@pytest.mark.parametrize("way", WAYS)
def test_every_gradient_mode_agrees(way):
    field = moving(fields.EvolvingWeights(network()))
    expected = gradients(field, way(field, z0(), steps=16))
    assert all(float(gradient.norm()) > 1e-3 for gradient in expected)
    for gradient, tolerance in (("checkpointed", 1e-12), ("adjoint", 1e-3), (pathline.Adjoint(state="dense"), 1e-3)):
        found = gradients(field, way(field, z0(), gradient, steps=16))
        assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < tolerance, gradient


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_finite_differences(way):
    field = moving(fields.EvolvingWeights(network()))
    names = ["evolution.diffusion", "evolution.velocity", "evolution.reaction", "module.0.weight"]
    parameters = [field.get_parameter(name) for name in names]
    found = torch.autograd.grad((way(field, z0()) - 0.3).square().sum(), parameters)
    for name, parameter, gradient in zip(names, parameters, found, strict=True):
        entry, h = parameter.data.view(-1), 1e-5
        before, values = float(entry[0]), []
        for sign in (1, -1):
            entry[0] = before + sign * h
            with torch.no_grad():
                values.append(float((way(field, z0()) - 0.3).square().sum()))
        entry[0] = before
        expected = (values[0] - values[1]) / (2 * h)
        assert abs(expected) > 1e-4, name
        assert float(gradient.view(-1)[0]) == pytest.approx(expected, rel=1e-4), name


def test_checkpoints_hold_one_state_a_step():
    """A state and its weights for each step more; all else is one recomputed step."""
    field = fields.EvolvingWeights(network(4, torch.float32))
    z = torch.randn(8, 4, 8, 8)
    state = 4 * (z.numel() + sum(w.numel() for w in field.weights().values()))

    def peak(gradient, steps):
        def work():
            end, _ = NeuralODE(field, method="euler", dt=1 / steps, gradient=gradient)(field.start(z))
            end.square().mean().backward()
            return end

        return peak_memory(work)

    assert peak("checkpointed", 8) - peak("checkpointed", 4) <= 1.05 * 4 * state
    assert peak("backprop", 8) - peak("backprop", 4) > 2 * 4 * state


@pytest.mark.parametrize(
    ("shape", "axes"), [((3, 2, 3, 3), 2), ((2, 1, 7), 1), ((1, 2, 4, 5), 2), ((2, 2, 3, 3, 3), 3)]
)
def test_each_mode_of_a_kernel_is_an_exponential(shape, axes):
    torch.manual_seed(3)
    evolution = fields.ReactionDiffusionAdvection({"w": axes}, dtype=DOUBLE)
    w = torch.randn(shape, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in evolution.parameters():
            parameter.normal_()
        d, v, rho = (float(evolution.diffusion), evolution.velocity[0].tolist(), float(evolution.reaction))
        end = pathline.solve(evolution, {"w": w}, (0.0, 0.7), rtol=1e-9, atol=1e-9).y1["w"]
    rates = torch.zeros(shape[-axes:], dtype=torch.complex128)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in shape[-axes:])).view(-1, axes).tolist():
        waves = [2 * math.pi * i / n for i, n in zip(index, shape[-axes:], strict=True)]
        diffused = sum(2 - 2 * math.cos(wave) for wave in waves)
        moved = sum(speed * math.sin(wave) for speed, wave in zip(v, waves, strict=True))
        rates[tuple(index)] = complex(rho - d * diffused, moved)
    dims = tuple(range(-axes, 0))
    exact = torch.fft.ifftn(torch.exp(0.7 * rates) * torch.fft.fftn(w, dim=dims), dim=dims)
    torch.testing.assert_close(end, exact.real, rtol=1e-6, atol=1e-7)


def test_the_stencil_of_a_point():
    evolution = fields.ReactionDiffusionAdvection({"w": 1})
    with torch.no_grad():
        evolution.diffusion.fill_(2.0)
        evolution.velocity.fill_(1.0)
        evolution.reaction.fill_(0.5)
    rate = evolution(torch.tensor(0.0), {"w": torch.tensor([1.0, 0.0, 0.0, 0.0])})["w"]
    # d (w[-1] - 2 w[0] + w[1]) + v (w[1] - w[-1]) / 2 + rho w, around the end.
    assert rate.tolist() == [0.5 - 4.0, 2.0 - 0.5, 0.0, 2.0 + 0.5]


def test_groups_share_their_coefficients():
    kernels = {"a": 2, "b": 2, "c": 1}
    evolution = fields.ReactionDiffusionAdvection(kernels, groups={"a": 0, "b": 0, "c": 1}, activation="tanh")
    assert evolution.diffusion.shape == (2,)
    assert evolution.velocity.shape == (2, 2)
    with torch.no_grad():
        evolution.reaction.copy_(torch.tensor([1.0, -1.0]))
    w = torch.full((2, 3, 3), 0.4)
    rates = evolution(torch.tensor(0.0), {"a": w, "b": w, "c": w})
    torch.testing.assert_close(rates["a"], torch.full_like(w, math.tanh(0.4)))
    torch.testing.assert_close(rates["c"], -rates["b"])


def test_any_module_and_any_evolution():
    """A turning linear field: z' = A z, A' = -A, so that z(1) = exp(A0 (1 - 1/e)) z(0)."""

    class Fading(nn.Module):
        def forward(self, t, weights):
            return {name: -weight for name, weight in weights.items()}

    linear = nn.Linear(2, 2, bias=False, dtype=DOUBLE)
    field = fields.EvolvingWeights(linear, Fading(), kernels={"weight": 2})
    z = torch.randn(5, 2, dtype=DOUBLE)
    end = NeuralODE(field, method="dopri8", rtol=1e-9, atol=1e-9)(field.start(z))[0]
    exact = z @ torch.matrix_exp((1 - math.exp(-1)) * linear.weight).T
    torch.testing.assert_close(end, exact, rtol=1e-6, atol=1e-7)


def test_modules_of_time_and_of_more():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1)

        def forward(self, t, z, args):
            return t * self.conv(z) + args

    field = fields.EvolvingWeights(Timed())
    assert field.kernels == {"conv.weight": 1}
    z, shift = torch.randn(2, 1, 6), torch.ones(2, 1, 6)
    rate, weights = field(torch.tensor(0.5), field.start(z), shift)
    torch.testing.assert_close(rate, 0.5 * field.module.conv(z) + 1.0)
    assert not weights["conv.weight"].any()


def test_it_is_saved_and_read(tmp_path):
    field = moving(fields.EvolvingWeights(network(dtype=torch.float32)))
    model = NeuralODE(field, method="rk4", dt=0.25)
    read = load(save(model, tmp_path / "model"))
    z = z0(torch.float32)
    assert torch.equal(read(read.field.start(z))[0], model(field.start(z))[0])


def test_a_field_without_anything_to_learn_in_its_evolution_rests_silently():
    linear = nn.Linear(2, 2)
    field = fields.EvolvingWeights(linear, lambda t, weights: weights, kernels={"weight": 2})
    z = torch.ones(3, 2)
    assert torch.equal(field(torch.tensor(0.0), z), linear(z))


def test_weights_of_other_names_are_refused():
    field, z, t = fields.EvolvingWeights(network()), z0(), torch.tensor(0.0)
    weight = field.weights()["0.weight"]
    with pytest.raises(ValueError, match=r"'0.kernel'.* '0.weight', '2.weight'"):
        field(t, z, {"0.kernel": weight})
    with pytest.raises(ValueError, match="'module.0.weight'"):
        field(t, z, lambda t: {"module.0.weight": weight})
    with pytest.raises(TypeError, match="Parameter came"):
        field(t, z, weight)
    constant = {"0.bias": torch.ones(2, dtype=DOUBLE)}
    assert not torch.equal(field(t, z, constant), field(t, z, {}))


def test_weights_in_the_state_have_no_clock_a_sample():
    field, z = fields.EvolvingWeights(network()), z0()[:2]
    # As many samples as the kernels have output channels: nothing else shows that these are no samples.
    with pytest.raises(ValueError, match='clock="shared"'):
        NeuralODE(field, clock="per-sample")(field.start(z))
    with pytest.raises(ValueError, match="one time for all samples"):
        field(torch.zeros(len(z)), field.start(z))


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: fields.EvolvingWeights(torch.tanh), TypeError, "`module`"),
        (lambda: fields.EvolvingWeights(nn.Linear(2, 2)), ValueError, "no convolution"),
        (lambda: fields.EvolvingWeights(nn.Linear(2, 2), kernels={"w": 2}), ValueError, "weight, bias"),
        (lambda: fields.EvolvingWeights(nn.Linear(2, 2), kernels={"weight": 3}), ValueError, "3 axes"),
        (lambda: fields.EvolvingWeights(nn.Linear(2, 2), kernels={}), ValueError, "empty"),
        (lambda: fields.ReactionDiffusionAdvection({}), ValueError, "`kernels`"),
        (lambda: fields.ReactionDiffusionAdvection({"w": 0}), ValueError, "`kernels`"),
        (lambda: fields.ReactionDiffusionAdvection({"w": 1}, groups={"w": 1}), ValueError, "`groups`"),
        (lambda: fields.ReactionDiffusionAdvection({"w": 1}, activation="tan"), ValueError, "tanh"),
    ],
)
def test_what_makes_no_sense_is_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()
