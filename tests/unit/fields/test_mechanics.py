"""Hamilton's equations of an energy, whole and split."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

import pathline
from pathline.fields import Hamiltonian
from pathline.nets import MLP

DOUBLE = torch.float64
T0 = torch.tensor(0.0)


def kinetic(p):
    return p.square().sum(-1) / 2


def potential(q):
    return -q.cos().sum(-1)


def swinging(y):
    q, p = y.chunk(2, -1)
    return kinetic(p) + potential(q)


def network(size=2):
    torch.manual_seed(0)
    return MLP(size, 1, 8).double()


BATCH = torch.linspace(-1.0, 1.0, 12, dtype=DOUBLE).reshape(3, 4)


@pytest.mark.parametrize("field", [Hamiltonian(swinging), Hamiltonian(kinetic=kinetic, potential=potential)])
@pytest.mark.parametrize("y", [BATCH, BATCH[0], BATCH.reshape(3, 1, 4)])
def test_the_rates_and_the_energy_of_pendulums(field, y):
    q, p = y.chunk(2, -1)
    torch.testing.assert_close(field(T0, y), torch.cat([p, -q.sin()], -1))
    torch.testing.assert_close(field.energy(y), swinging(y))


def test_kick_and_drift():
    field = Hamiltonian(kinetic=kinetic, potential=potential)
    q, p = BATCH.chunk(2, -1)
    torch.testing.assert_close(field.kick(T0, q), -q.sin())
    torch.testing.assert_close(field.drift(T0, p), p)
    whole = Hamiltonian(swinging)
    assert not hasattr(whole, "kick")
    assert not hasattr(whole, "drift")


def test_networks_with_one_output_and_their_field():
    """Nothing flows in or out: the divergence is zero, and the energy is kept along the field."""
    field = Hamiltonian(network(4))
    assert field.energy(BATCH).shape == (3,)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda y: field(T0, y)))(BATCH)
    assert torch.diagonal(jacobians, dim1=-2, dim2=-1).sum(-1).abs().max() < 1e-14
    y = BATCH.clone().requires_grad_()
    (slope,) = torch.autograd.grad(field.energy(y).sum(), y)
    assert (slope * field(T0, BATCH)).sum(-1).abs().max() < 1e-15
    assert slope.abs().max() > 1e-3


def test_the_learned_energy_is_kept_by_a_symplectic_method_alone():
    net = network(1)
    field = Hamiltonian(
        kinetic=lambda p: kinetic(p) + 0.1 * net(p)[..., 0], potential=lambda q: kinetic(q) + 0.2 * net(q)[..., 0]
    )
    y0, spread = torch.tensor([0.8, 0.4], dtype=DOUBLE), {}
    with torch.no_grad():
        for method in ("leapfrog", "midpoint"):
            ys = pathline.solve(field, y0, (0.0, 200.0), method=method, dt=0.5, save=pathline.Save(steps=True)).ys
            energy = field.energy(ys)
            spread[method] = [float((energy[part] - energy[0]).abs().max()) for part in (slice(80), slice(-80, None))]
    assert spread["leapfrog"][1] <= 1.05 * spread["leapfrog"][0]
    assert spread["midpoint"][1] > 2.0 * spread["midpoint"][0]


@pytest.mark.parametrize("method", ["implicit_midpoint", "rk4", "gl4"])
def test_a_whole_energy_with_a_method_that_needs_no_split(method):
    whole = Hamiltonian(lambda y: (1 + y[..., 0] ** 2) * (1 + y[..., 1] ** 2) / 2)
    y0 = torch.tensor([0.4, 0.6], dtype=DOUBLE)
    y1 = pathline.solve(whole, y0, (0.0, 5.0), method=method, dt=0.1).y1
    assert (whole.energy(y1) - whole.energy(y0)).abs() < 4e-3


# --- surroundings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_grad_mode(mode):
    field = Hamiltonian(kinetic=network(1), potential=network(1))
    wanted = field(T0, BATCH[:, :2]).detach()
    with mode():
        found = field(T0, BATCH[:, :2].clone())
        rolled = pathline.solve(field, BATCH[:, :2].clone(), (0.0, 1.0), method="leapfrog", dt=0.1).y1
    torch.testing.assert_close(found, wanted)
    assert found.requires_grad == rolled.requires_grad == (mode is torch.enable_grad)


def test_nothing_to_learn_leaves_no_graph():
    field = Hamiltonian(kinetic=kinetic, potential=potential)
    assert not field(T0, BATCH).requires_grad
    assert not pathline.solve(field, BATCH, (0.0, 1.0), method="leapfrog", dt=0.1).y1.requires_grad
    for p in (net := network(4)).parameters():
        p.requires_grad_(False)
    assert not Hamiltonian(net)(T0, BATCH).requires_grad
    assert Hamiltonian(network(4))(T0, BATCH).requires_grad
    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    assert Hamiltonian(lambda y: weight * swinging(y))(T0, BATCH).requires_grad


def test_a_part_that_does_not_depend_on_its_half():
    field = Hamiltonian(kinetic=kinetic, potential=lambda q: q.new_zeros(q.shape[:-1]))
    torch.testing.assert_close(field(T0, BATCH), torch.cat([BATCH[:, 2:], torch.zeros(3, 2, dtype=DOUBLE)], -1))
    weight = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    with_graph = Hamiltonian(kinetic=kinetic, potential=lambda q: weight)
    torch.testing.assert_close(with_graph(T0, BATCH)[:, 2:], torch.zeros(3, 2, dtype=DOUBLE))


def test_gradients_to_weights_and_states():
    """Against finite differences, and the same under torch.func."""
    field, y = Hamiltonian(network(2)), BATCH[:, :2].clone().requires_grad_()
    names, weights = zip(*field.named_parameters(), strict=True)

    def loss(y, *weights):
        return functional_call(field, dict(zip(names, weights, strict=True)), (T0, y)).square().sum()

    assert torch.autograd.gradcheck(loss, (y, *weights))
    plain = torch.autograd.grad(loss(y, *weights), (y, *weights), allow_unused=True)
    under = torch.func.grad(loss, argnums=tuple(range(1 + len(weights))))(y, *weights)
    for a, b in zip(plain, under, strict=True):
        torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b)


def test_copies_and_files(tmp_path):
    field = Hamiltonian(kinetic=MLP(1, 1, 8), potential=MLP(1, 1, 8))
    model, y = pathline.NeuralODE(field, method="leapfrog", dt=0.1), torch.tensor([[0.5, 0.1]])
    wanted = model(y)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(y), wanted)
    assert torch.equal(pathline.load(pathline.save(model, tmp_path))(y), wanted)
    whole = pathline.NeuralODE(Hamiltonian(MLP(2, 1, 8)), method="rk4", dt=0.1)
    assert torch.equal(pathline.load(pathline.save(whole, tmp_path / "whole"))(y), whole(y))


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "came"),
    [
        ({}, "nothing"),
        ({"kinetic": kinetic}, "kinetic"),
        ({"potential": potential}, "potential"),
        ({"H": swinging, "kinetic": kinetic}, "H and kinetic"),
    ],
)
def test_an_energy_or_both_of_its_parts(given, came):
    with pytest.raises(TypeError, match=f"takes `H`, or `kinetic` and `potential`; came {came}. Try Hamiltonian"):
        Hamiltonian(**given)


def test_what_is_no_energy():
    with pytest.raises(TypeError, match="`H` is a module or a function; it is 3"):
        Hamiltonian(3)
    for energy in (lambda y: y.square().sum(), nn.Linear(4, 2).double()):
        with pytest.raises(ValueError, match=r"An energy is one number a sample, \(3,\) for \(3, 4\)"):
            Hamiltonian(energy)(T0, BATCH)


def test_a_state_of_odd_size():
    with pytest.raises(ValueError, match=r"A state is \[q, p\], of even size.*\(3, 3\)"):
        Hamiltonian(swinging)(T0, BATCH[:, :3])
