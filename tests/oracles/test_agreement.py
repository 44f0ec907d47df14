"""Every gradient mode on twelve problems: the exact ones repeat the accepted steps, the adjoint meets its tolerance.

The exact modes are compared with finite differences of a solve that makes the accepted steps again, at a loose
tolerance; the adjoint with finite differences of the solution itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import pathline
from pathline import Adjoint, Checkpointed, Event, Separable
from pathline.testing import finite_difference, relative_error

DOUBLE = torch.float64
EXACT = {
    "backprop": "backprop",
    "checkpointed": "checkpointed",
    "every third": Checkpointed(schedule=3),
    "logarithmic": Checkpointed(schedule="logarithmic", states=3),
}


def tensor(*values):
    return torch.tensor(values, dtype=DOUBLE)


def as_it_is(x):
    return x


@dataclass(frozen=True, eq=False)
class Case:
    """A solve that depends on two vectors: ``x``, from which ``state`` makes the start, and ``args``."""

    name: str
    rate: Callable[..., Any]
    x: torch.Tensor
    args: torch.Tensor
    times: torch.Tensor
    state: Callable[[torch.Tensor], Any] = as_it_is
    method: str = "tsit5"
    loose: float = 1e-4
    tight: float = 1e-8
    adjoint: Any = "adjoint"
    more: dict[str, Any] = field(default_factory=dict)

    def solve(self, x, args, **options):
        options = {"method": self.method, **self.more, **options}
        return pathline.solve(self.rate, self.state(x), self.times, args=args, **options)

    def loss(self, ys):
        """Every row and component counts, each with another weight."""
        leaves = [torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf in pytree.tree_leaves(ys)]
        rows = torch.arange(1, len(self.times) + 1, dtype=DOUBLE)
        return sum(
            (rows.reshape(-1, *[1] * (leaf.dim() - 1)) * (leaf + 0.3 * i).sin()).sum() for i, leaf in enumerate(leaves)
        )

    def gradients(self, **options):
        x, args = self.x.clone().requires_grad_(), self.args.clone().requires_grad_()
        solution = self.solve(x, args, **options)
        return torch.autograd.grad(self.loss(solution.ys), (x, args)), solution


def linear(t, y, a):
    return a.reshape(3, 3) @ y


def lotka_volterra(t, y, p):
    return torch.stack((p[0] * y[0] - p[1] * y[0] * y[1], p[1] * y[0] * y[1] - p[2] * y[1]))


def forced(t, y, p):
    return torch.stack((y[1], -p[0] * torch.sin(y[0]) - 0.1 * y[1] + p[1] * torch.cos(2.0 * t)))


def relaxation(t, y, p):
    """Two slow variables, one of which drags a fast one behind it."""
    slow = -p[0] * y[0]
    return torch.stack((slow, -200.0 * (y[1] - torch.cos(p[1] * y[0]))))


def oregonator(t, y, p):
    """Stiff and nonlinear: two of its reactions, fast and slow."""
    a, b = y
    return torch.stack((50.0 * (b - a * b + a - p[0] * a * a), p[1] * (-b - a * b + 1.0)))


def falling(t, y, p):
    return torch.stack((y[1], -p[0] - 0.05 * y[1] * y[1].abs()))


def bounced(t, y, args):
    return torch.stack((torch.zeros_like(y[0]), -args[1] * y[1]))


def lorenz_pair(t, y, p):
    """A tuple of a pair and a number."""
    (a, b), c = (y[0][0], y[0][1]), y[1]
    return torch.stack((p[0] * (b - a), a * (p[1] - c) - b)), a * b - p[2] * c


def chain(t, y, p):
    """A dict of matrices."""
    q, v = y["q"], y["v"]
    return {"q": v, "v": -p[0] * q - p[1] * q**3 + 0.5 * q.flip(0)}


def two_levels(t, y, p):
    """i dy/dt = H y, with a drive."""
    drive = p[1] * torch.cos(3.0 * t)
    h = torch.stack((p[0] * y[0] + drive * y[1], drive * y[0] - p[0] * y[1]))
    return torch.complex(h.imag, -h.real) - 0.05 * y * (y.abs() ** 2)


def network(t, y, p):
    return torch.tanh(y @ p.reshape(2, 2) + torch.sin(t)) - 0.2 * y


def kick(t, q, p):
    return -p[0] * torch.sin(q) * (1.0 + 0.2 * torch.cos(t))


def drift(t, v, p):
    return torch.tanh(p[1] * v)


TIMES = tensor(0.0, 0.4, 1.1, 1.6)
#: What contracts so strongly grows backwards in time; the state is read from the forward solve.
DENSE = Adjoint(state="dense")
CASES = [
    Case("linear", linear, tensor(1.0, -0.5, 0.8), tensor(-0.4, 1.3, 0.2, -1.1, -0.2, 0.5, 0.3, -0.6, 0.1), TIMES),
    Case("nonlinear", lotka_volterra, tensor(1.5, 0.7), tensor(1.1, 0.6, 0.9), 2.0 * TIMES),
    Case("non-autonomous", forced, tensor(0.4, 1.0), tensor(2.0, 0.7), 2.0 * TIMES),
    Case("backwards in time", forced, tensor(0.4, 1.0), tensor(2.0, 0.7), TIMES.flip(0), method="dopri5"),
    Case("stiff, linear in the fast part", relaxation, tensor(1.0, 0.2), tensor(0.8, 1.5), TIMES, method="kvaerno5", tight=1e-6, adjoint=DENSE),
    Case("stiff, nonlinear", oregonator, tensor(0.5, 0.8), tensor(0.4, 0.9), TIMES, method="rodas5p", tight=1e-6, adjoint=DENSE),
    Case("tuple state", lorenz_pair, tensor(1.0, 0.5, 1.2), tensor(3.0, 2.0, 0.7), TIMES, lambda x: (x[:2], x[2:].sum())),
    Case(
        "dict of matrices",
        chain,
        tensor(0.3, -0.5, 0.9, 0.1, 0.2, -0.4, 0.6, 0.0),
        tensor(1.2, 0.5),
        2.0 * TIMES,
        lambda x: {"q": x[:4].reshape(2, 2), "v": x[4:].reshape(2, 2)},
        method="dopri8",
    ),
    Case(
        "complex state",
        two_levels,
        tensor(0.8, 0.1, -0.3, 0.5),
        tensor(0.9, 0.6),
        2.0 * TIMES,
        lambda x: torch.view_as_complex(x.reshape(2, 2)),
    ),
    Case("a network and a batch", network, tensor(0.7, -0.4, -1.2, 0.3), tensor(0.6, -1.2, 0.9, 0.3), TIMES, lambda x: x.reshape(2, 2), method="bosh3", tight=1e-7),
    Case("a split field", Separable(kick, drift), tensor(0.9, 0.2), tensor(1.4, 0.8), 2.0 * TIMES, method="vern7"),
    Case(
        "with events",
        falling,
        tensor(1.0, 0.3),
        tensor(9.81, 0.6),
        tensor(0.0, 0.2, 0.45, 0.7),
        more={"events": Event(crossing=lambda t, y: y[0], direction=-1, terminal=False, reset=bounced)},
    ),
]  # fmt: skip
IDS = [case.name for case in CASES]


@lru_cache(maxsize=len(CASES))
def differences(case, *, of_the_solution=False):
    """Of the loss by ``x`` and ``args``: of a solve that repeats the loose steps, or of the solution itself.

    A solve with events makes other steps where they move, so its differences are always those of the solution.
    """
    if of_the_solution or "events" in case.more:
        options = {"method": "dopri8", "rtol": 1e-3 * case.tight, "atol": 1e-3 * case.tight}
        step = 1e-3
    else:
        x = case.x.clone().requires_grad_()
        taken = case.solve(x, case.args, rtol=case.loose, atol=case.loose, save=pathline.Save(steps=True)).ts
        options = {"controller": pathline.Grid(taken)}
        step = 2e-3

    def loss(x, args):
        # With gradients, as where they are checked: iterations go to rounding then, which differences magnify.
        with torch.set_grad_enabled("controller" in options):
            x = x.clone().requires_grad_(torch.is_grad_enabled())
            return case.loss(case.solve(x, args, **options).ys).detach()

    return (
        finite_difference(lambda x: loss(x, case.args), case.x, step=step),
        finite_difference(lambda args: loss(case.x, args), case.args, step=step),
    )


@pytest.mark.parametrize("mode", EXACT)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_exact_modes_repeat_the_accepted_steps(case, mode):
    tolerance = 1e-10 if "events" in case.more else case.loose
    found, solution = case.gradients(gradient=EXACT[mode], rtol=tolerance, atol=tolerance)
    assert solution.stats.accepted >= 4
    for name, mine, truth in zip(("x", "args"), found, differences(case), strict=True):
        assert relative_error(mine, truth) <= 1e-6, name


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_adjoint_meets_its_tolerance(case):
    found, solution = case.gradients(gradient=case.adjoint, rtol=case.tight, atol=case.tight)
    assert solution.stats.backward_evaluations > 0
    for name, mine, truth in zip(("x", "args"), found, differences(case, of_the_solution=True), strict=True):
        assert relative_error(mine, truth) <= 100 * case.tight, name


def test_differences_of_loose_steps_are_not_those_of_the_solution():
    """Else repeating the steps would prove nothing."""
    case = CASES[IDS.index("nonlinear")]
    pairs = zip(differences(case), differences(case, of_the_solution=True), strict=True)
    assert all(relative_error(a, b) > 1e-5 for a, b in pairs)
