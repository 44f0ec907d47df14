"""`python -m benchmarks.energy [--quick]`: what the structure-preserving methods preserve, and for how long.

Three records. *Energy*: Kepler's problem (eccentricity 0.5) and the pendulum over 100 000 steps of several sizes; a
symplectic method's energy error stays within its first swings and falls with its order, a method that isn't drifts.
*Return*: 10 000 steps and the same back by the inverse of each step. *Damping*: 10 000 steps of a damped pendulum,
which comes to rest.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pathline
from benchmarks.environment import environment
from pathline._structure import Structure
from pathline.plotting.style import PALETTE
from pathline.stats import Stats
from pathline.terms import ODE, Bound, Separable, Term

STEPS, RETURN_STEPS = 100_000, 10_000
#: The symplectic methods, with the sizes of step in units of each problem's own; one that isn't for comparison.
SIZES = {
    "symplectic_euler": (0.02, 0.01, 0.005, 0.0025),
    "leapfrog": (0.04, 0.02, 0.01, 0.005),
    "yoshida4": (0.04, 0.02, 0.01, 0.005),
    "yoshida6": (0.08, 0.04, 0.02),
    "rk4": (0.04, 0.02),
}
#: The largest energy error of the last tenth of the steps over that of the first tenth.
BOUNDED = 1.5
ORDER_WINDOW = 0.25
RETURN_BARS = {"pendulum": 1e-10, "kepler": 1e-10, "damped pendulum": 1e-8}
DOCS = Path(__file__).parents[1] / "docs"
RESULT, FIGURE = DOCS / "results" / "energy.json", DOCS / "images" / "energy.png"

TITLES = {"kepler": "Kepler's problem", "pendulum": "pendulum", "damped pendulum": "pendulum, damping 0.3"}

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class System:
    """A Hamiltonian that splits into T(p) + V(q), or a damped one that doesn't.

    Attributes:
        unit: the size of step that SIZES multiplies.
        step: the size of step for the way there and back.
    """

    name: str
    term: Term
    start: tuple[float, ...]
    energy: Function
    unit: float
    step: float


def kepler_force(t: Tensor, q: Tensor) -> Tensor:
    return -q / q.square().sum(-1, keepdim=True) ** 1.5


def kepler_energy(y: Tensor) -> Tensor:
    q, p = y.chunk(2, -1)
    return p.square().sum(-1) / 2 - 1 / torch.linalg.vector_norm(q, dim=-1)


def pendulum_energy(y: Tensor) -> Tensor:
    return y[..., 1].square() / 2 - y[..., 0].cos()


def damped(rate: float) -> Term:
    return ODE(lambda t, y: torch.stack([y[..., 1], -y[..., 0].sin() - rate * y[..., 1]], -1))


KEPLER = System("kepler", Separable(kepler_force, lambda t, p: p), (0.5, 0.0, 0.0, 3**0.5), kepler_energy, 1.0, 0.01)
PENDULUM = System("pendulum", Separable(lambda t, q: -q.sin(), lambda t, p: p), (1.0, 0.3), pendulum_energy, 4.0, 0.05)
DAMPED = System("damped pendulum", damped(0.1), (1.0, 0.3), pendulum_energy, 4.0, 0.1)


# --- energy ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Energy:
    """The energy error of one method and size of step; `first` and `last` are over a tenth of the steps each."""

    system: str
    method: str
    step: float
    steps: int
    first: float
    last: float
    largest: float

    @property
    def bounded(self) -> bool:
        """Whether the error of the end is that of the beginning."""
        return self.last <= BOUNDED * self.first


def bound(term: Term, y0: Tensor) -> Bound:
    """A term as solvers see it; every row of ``y0`` has its own clock."""
    return Bound(term, Structure(y0, rows=True), y0, Stats())


def march(method: str, system: System, sizes: Sequence[float], steps: int) -> Tensor:
    """``(steps, sizes)``: the energy error behind every step, all sizes of step at once."""
    solver, h = pathline.METHODS[method], torch.tensor(sizes, dtype=torch.float64)
    y = torch.tensor(system.start, dtype=torch.float64).expand(len(sizes), -1).contiguous()
    term, zero = bound(system.term, y), torch.zeros_like(h)
    errors, start = torch.empty(steps, len(sizes), dtype=torch.float64), system.energy(y)
    carry = solver.init(term, zero, y, None)
    for i in range(steps):
        step = solver.step(term, zero, h, y, None, carry)  # autonomous: every step may begin at time zero
        y, carry = step.y1, step.carry
        errors[i] = (system.energy(y) - start).abs()
    return errors


def energies(method: str, system: System, steps: int) -> tuple[list[Energy], Tensor]:
    sizes = [system.unit * size for size in SIZES[method]]
    errors = march(method, system, sizes, steps)
    tenth = steps // 10
    columns = [errors[:tenth].amax(0), errors[-tenth:].amax(0), errors.amax(0)]
    rows = torch.stack(columns, 1).tolist()
    return [Energy(system.name, method, h, steps, *row) for h, row in zip(sizes, rows, strict=True)], errors


def order(rows: Sequence[Energy]) -> float:
    """The slope of log(largest error) against log(step)."""
    return float(np.polyfit([math.log(r.step) for r in rows], [math.log(r.largest) for r in rows], 1)[0])


# --- there and back ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Return:
    """How far from the start the way back ends; `reached` is the size of the state where it turned."""

    system: str
    method: str
    step: float
    steps: int
    reached: float
    missed: float
    bar: float | None

    @property
    def kept(self) -> bool:
        """Whether the bar is met, where there is one."""
        return self.bar is None or self.missed <= self.bar


def there_and_back(solver: Any, system: System, steps: int, bar: float | None) -> Return:
    y0 = torch.tensor(system.start, dtype=torch.float64)
    term = Bound(system.term, Structure(y0), y0, Stats())
    h, y, carry = system.step, y0, solver.init(term, 0.0, y0, None)
    for i in range(steps):
        step = solver.step(term, i * h, (i + 1) * h, y, None, carry)
        y, carry = step.y1, step.carry
    reached = float(y.abs().max())
    for i in reversed(range(steps)):
        y, carry = solver.inverse(term, i * h, (i + 1) * h, y, None, carry)
    return Return(system.name, solver.name, h, steps, reached, float((y - y0).abs().max()), bar)


#: The coupling that keeps every digit where nothing is damped.
TIGHT = pathline.Reversible("bosh3", coupling=1.0)


def returns(steps: int) -> list[Return]:
    """Both reversible methods and the symplectic ones on conservative systems; the coupled form on the damped one."""
    methods = [pathline.METHODS[name] for name in ("reversible_heun", "alf")]
    splits = [pathline.METHODS[name] for name in ("leapfrog", "yoshida4")]
    loose = [pathline.Reversible("bosh3", coupling=c) for c in (0.999, 0.99)]
    coupled = [pathline.Reversible(base, coupling=0.99) for base in ("bosh3", "rk4", "tsit5")]
    held = [(solver, system) for system in (PENDULUM, KEPLER) for solver in (*methods, *splits, TIGHT)]
    held += [(solver, DAMPED) for solver in coupled]
    shown = [*((solver, system) for system in (PENDULUM, KEPLER) for solver in loose), *((m, DAMPED) for m in methods)]
    rows = [there_and_back(solver, system, steps, RETURN_BARS[system.name]) for solver, system in held]
    return rows + [there_and_back(solver, system, steps, None) for solver, system in shown]


# --- damping -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damping:
    """The size of the state behind all steps, and whether that is rest."""

    method: str
    damping: float
    step: float
    steps: int
    reached: float
    diverges: bool


def dampings(steps: int) -> tuple[list[Damping], dict[str, list[float]]]:
    rows, curves = [], {}
    h, y0 = DAMPED.step, torch.tensor(DAMPED.start, dtype=torch.float64)
    term = Bound(damped(0.3), Structure(y0), y0, Stats())
    methods = [pathline.METHODS[name] for name in ("reversible_heun", "alf")]
    for solver in (*methods, pathline.Reversible("bosh3", coupling=0.97)):
        y, carry, sizes = y0, solver.init(term, 0.0, y0, None), []
        for i in range(steps):
            step = solver.step(term, i * h, (i + 1) * h, y, None, carry)
            y, carry = step.y1, step.carry
            sizes.append(float(torch.linalg.vector_norm(y)))
        curves[solver.name] = sizes
        rows.append(Damping(solver.name, 0.3, h, steps, sizes[-1], diverges=not sizes[-1] <= 1e3))
    return rows, curves


# --- the record --------------------------------------------------------------------------------------------------


def blocks(errors: Tensor, count: int = 60) -> tuple[list[int], list[float]]:
    """The largest error up to each of a few steps, evenly spread on a logarithmic axis."""
    ends = sorted({round(10 ** (k * math.log10(len(errors)) / count)) for k in range(1, count + 1)})
    highest = errors.cummax(0).values
    return ends, [float(highest[end - 1]) for end in ends]


def figure(curves: dict[str, dict[str, Any]], sizes: dict[str, list[float]]) -> None:
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for axis, (name, methods) in zip(axes, curves.items(), strict=False):
        for color, (method, (ends, highest)) in zip(PALETTE, methods.items(), strict=False):
            axis.loglog(ends, highest, color=color, label=method)
        axis.set(title=TITLES[name], xlabel="step", ylabel="largest energy error so far")
    for color, (name, states) in zip(PALETTE, sizes.items(), strict=False):
        shown = [x if math.isfinite(x) else math.nan for x in states]
        axes[2].semilogy(range(1, len(shown) + 1), shown, color=color, label=name)
    axes[2].set(title=TITLES["damped pendulum"], xlabel="step", ylabel="size of the state", ylim=(1e-40, 1e60))
    for axis in axes:
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(FIGURE, dpi=110)
    plt.close(fig)


def main() -> int:
    """Run all, print, write; the exit status is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.energy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    with torch.no_grad():
        return record(STEPS // 100 if quick else STEPS, RETURN_STEPS // 100 if quick else RETURN_STEPS, write=not quick)


def record(steps: int, return_steps: int, *, write: bool) -> int:
    rows: list[Energy] = []
    orders, curves, missed = {}, {}, 0
    for system in (KEPLER, PENDULUM):
        for method in SIZES:
            found, errors = energies(method, system, steps)
            rows += found
            orders[f"{system.name} {method}"] = order(found)
            curves.setdefault(system.name, {})[f"{method}, step {found[1].step:g}"] = blocks(errors[:, 1])
            for row in found:
                print(
                    f"{row.system:9s} {row.method:17s} h={row.step:<7g} {row.first:9.2e} {row.last:9.2e} {row.bounded}"
                )
            print(f"{system.name:9s} {method:17s} order {order(found):.2f}", flush=True)
            if method != "rk4":
                right = abs(order(found) - pathline.METHODS[method].order) <= ORDER_WINDOW
                missed += not (right and all(row.bounded for row in found))
    backs = returns(return_steps)
    for row in backs:
        print(
            f"{row.system:16s} {row.method:24s} turned at {row.reached:9.2e}, back within {row.missed:9.2e} {row.kept}"
        )
    rest, sizes = dampings(return_steps)
    for row in rest:
        print(f"damping {row.damping} {row.method:24s} {row.reached:9.2e} diverges={row.diverges}")
    missed += sum(not row.kept for row in backs) + sum(row.diverges == ("reversible(" in row.method) for row in rest)
    if write:
        figure(curves, sizes)
        entry = {
            "environment": environment(),
            "energy": [asdict(row) | {"bounded": row.bounded} for row in rows],
            "orders": orders,
            "returns": [asdict(row) | {"kept": row.kept} for row in backs],
            "damping": [asdict(row) for row in rest],
            "curves": curves,
        }
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(entry, indent=1) + "\n")
    return 1 if missed and write else 0  # a hundredth of the steps is too short to diverge


if __name__ == "__main__":
    sys.exit(main())
