"""Many van der Pol oscillators, without gradient: one clock for all and one for each, from one sample to many.

dopri5 at 1e-5, float32, with 200 output times and with the end alone. torchdiffeq and `diffrax joint` have one clock;
torchode and `diffrax vmapped` one for each sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import pathline
from benchmarks.contenders import Unavailable, explained, need, run_once
from benchmarks.rows import Point, Row
from benchmarks.timing import Race, race

TOL, TIMES, METHOD = 1e-5, 200, "dopri5"
BATCHES = (1, 16, 256, 4096, 65536)
#: The batch, and the two settings (mu, and the end of the span) that are held to bars.
BAR_BATCH, SETTINGS = 256, ((2.0, 20.0), (25.0, 40.0))
EAGER_BAR = 2.0
#: Ours compiled against diffrax, as times faster: of one clock and of one a sample, without outputs and with them.
COMPILED_BARS = {("joint", False): 1 / 1.5, ("vmapped", False): 1.0, ("joint", True): 1 / 4, ("vmapped", True): 1 / 2}


@dataclass(frozen=True)
class Ensemble:
    """The oscillators, where they start, and whether the way is asked for or the end alone."""

    mu: float
    end: float
    batch: int
    outputs: bool

    @property
    def name(self) -> str:
        """As it is called in tables and figures."""
        return f"mu={self.mu:g}, batch {self.batch}, {f'{TIMES} outputs' if self.outputs else 'no outputs'}"

    def y0(self) -> Tensor:
        """The starts."""
        return torch.randn(self.batch, 2, generator=torch.Generator().manual_seed(0))

    def t(self) -> Tensor:
        """The output times."""
        return torch.linspace(0.0, self.end, TIMES if self.outputs else 2)


class Oscillators:
    """The field, counting its evaluations."""

    def __init__(self, mu: float) -> None:
        self.mu, self.calls, self.rows = mu, 0, 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(y)
        u, v = y.unbind(-1)
        return torch.stack((v, self.mu * (1.0 - u * u) * v - u), -1)

    def counts(self, work: Callable[[], object]) -> tuple[int, int]:
        """Calls, and rows evaluated, of one piece of work."""
        self.calls = self.rows = 0
        work()
        return self.calls, self.rows


class Solve:
    """A solve that can be timed: its last trajectory ``(times, batch, 2)``, and the calls of the field."""

    def __init__(self, work: Callable[[], Any], calls: Callable[[], int], rows: Callable[[Any], Any]) -> None:
        self.inner, self.calls, self._rows = work, calls, rows
        self.last: Any = None

    def work(self) -> None:
        self.last = self.inner()

    def rows(self) -> Tensor:
        """Of the last piece of work."""
        return torch.as_tensor(self._rows(self.last)).double()


# --- who takes part -----------------------------------------------------------------------------------------------


def pathline_solve(task: Ensemble, *, clock: str, compiled: bool) -> Solve:
    """Ours. Compiled, the field is a plain function: a count of Python calls would be none."""
    mu, y0, t = task.mu, task.y0(), task.t()

    def oscillator(t: Tensor, y: Tensor) -> Tensor:
        u, v = y.unbind(-1)
        return torch.stack((v, mu * (1.0 - u * u) * v - u), -1)

    options: dict[str, Any] = {"compile": True} if compiled else {}

    @torch.no_grad()
    def work() -> pathline.Solution:
        return pathline.solve(
            oscillator,
            y0,
            t if task.outputs else (0.0, task.end),
            method=METHOD,
            rtol=TOL,
            atol=TOL,
            clock=clock,  # pyright: ignore[reportArgumentType]
            controller=pathline.PID(),
            max_steps=2**20,
            **options,
        )

    found = Solve(work, lambda: found.last.stats.evaluations, lambda solution: solution.ys)
    return found


def torchdiffeq_solve(task: Ensemble) -> Solve:
    """One clock in PyTorch."""
    need("torchdiffeq")
    import torchdiffeq  # a peer may be missing

    field, y0, t = Oscillators(task.mu), task.y0(), task.t()

    @torch.no_grad()
    def work() -> Tensor:
        return torchdiffeq.odeint(field, y0, t, method=METHOD, rtol=TOL, atol=TOL)  # pyright: ignore[reportReturnType]

    return Solve(work, lambda: field.counts(work)[0], lambda ys: ys)


def torchode_solve(field: Oscillators, y0: Tensor, t: Tensor) -> Callable[[], Any]:
    """Torchode's solve with the same method, integral controller and tolerance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, under this torch
        import torchode  # a peer may be missing

        term = torchode.ODETerm(field)
        controller = torchode.IntegralController(atol=TOL, rtol=TOL, term=term)
        solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
        problem = torchode.InitialValueProblem(y0=y0, t_eval=t.repeat(len(y0), 1))

    @torch.no_grad()
    def work() -> Tensor:
        return solver.solve(problem).ys

    return work


def torchode_entry(task: Ensemble) -> Solve:
    """One clock a sample in PyTorch."""
    need("torchode")
    field = Oscillators(task.mu)
    work = torchode_solve(field, task.y0(), task.t())
    return Solve(work, lambda: field.counts(work)[0], lambda ys: ys.transpose(0, 1))


def diffrax_solve(task: Ensemble, *, each: bool) -> Solve:
    """Either clock in JAX."""
    need("diffrax")
    from benchmarks import diffrax_peer  # JAX takes its settings when it is imported

    solve = diffrax_peer.Solve(
        diffrax_peer.oscillators(task.mu),
        task.y0().numpy(),
        task.t().numpy(),
        tol=TOL,
        method=METHOD,
        rows=task.outputs,
        each=each,
    )
    return Solve(solve.work, solve.evaluations, lambda _: np.swapaxes(solve.rows(), 0, 1) if each else solve.rows())


WHO: dict[str, Callable[[Ensemble], Solve]] = {
    "pathline shared": lambda task: pathline_solve(task, clock="shared", compiled=False),
    "pathline per-sample": lambda task: pathline_solve(task, clock="per-sample", compiled=False),
    "pathline compiled shared": lambda task: pathline_solve(task, clock="shared", compiled=True),
    "pathline compiled per-sample": lambda task: pathline_solve(task, clock="per-sample", compiled=True),
    "torchdiffeq": torchdiffeq_solve,
    "torchode": torchode_entry,
    "diffrax joint": lambda task: diffrax_solve(task, each=False),
    "diffrax vmapped": lambda task: diffrax_solve(task, each=True),
}


# --- the section --------------------------------------------------------------------------------------------------


def ensembles(*, quick: bool) -> Iterator[Row | Point]:
    """Both settings at the batch that bears the bars, and the first of them from one sample to many."""
    batches = (1, BAR_BATCH) if quick else BATCHES
    for outputs in (True, False):
        for mu, end in SETTINGS:
            for batch in batches if mu == SETTINGS[0][0] else () if quick else (BAR_BATCH,):
                yield from measured(Ensemble(mu, end, batch, outputs), quick=quick)


def measured(task: Ensemble, *, quick: bool) -> Iterator[Row | Point]:
    """One ensemble."""
    solves, points = entered(task)
    works = {name: solve.work for name, solve in solves.items()}
    rounds, budget = (3, 0.1) if quick else (30, 1.5)
    times = race(works, rounds=rounds, budget=budget, least=1 if quick else 4)
    for name, point in points.items():
        if name in solves:
            ms, *interval = times.milliseconds(name)
            point = replace(point, ms=ms, interval=(interval[0], interval[1]))
        yield point
    if task.batch == BAR_BATCH:
        yield from ratios(task, times, points)


def entered(task: Ensemble) -> tuple[dict[str, Solve], dict[str, Point]]:
    """Every library that runs, with its evaluations and its error."""
    solves, points = {}, {}
    truth = reference(task.mu, task.y0(), task.t()) if task.batch <= BAR_BATCH else None
    for name, make in WHO.items():
        try:
            solve = make(task)
            run_once(name, solve.work, lambda solve=solve: solve.last.stats)
            points[name] = Point(task.name, name, notes=notes(solve, truth))
            solves[name] = solve
        except Exception as error:  # noqa: BLE001  # one that breaks must not end the run of the others
            reason = str(error) if isinstance(error, Unavailable) else explained(error)
            points[name] = Point(task.name, name, reason=reason)
    return solves, points


def notes(solve: Solve, truth: Tensor | None) -> dict[str, Any]:
    """Evaluations, and the largest error at the end."""
    found: dict[str, Any] = {"evaluations": solve.calls()}
    if truth is not None:
        found["error at the end"] = float((solve.rows()[-1] - truth[-1]).abs().max())
    return found


def ratios(task: Ensemble, times: Race, points: dict[str, Point]) -> Iterator[Row]:
    """The pairs that have bars."""
    outputs = "200 outputs" if task.outputs else "no outputs"
    eager = EAGER_BAR if task.outputs else None
    yield ratio(task, times, points, "pathline per-sample", "torchode", eager, "van der Pol, eager, per-sample clock")
    for clock, kind in (("shared", "joint"), ("per-sample", "vmapped")):
        bar = COMPILED_BARS[kind, task.outputs]
        line = f"van der Pol, compiled, {outputs}"
        yield ratio(task, times, points, f"pathline compiled {clock}", f"diffrax {kind}", bar, line)
    yield ratio(task, times, points, "pathline shared", "torchdiffeq", None, "")


def ratio(
    task: Ensemble, times: Race, points: dict[str, Point], ours: str, theirs: str, bar: float | None, line: str
) -> Row:
    """How many times faster one is than the other."""
    name = f"van der Pol, {task.name}: {ours} / {theirs}"
    for who in (ours, theirs):
        if who not in times.times:
            return Row(name, None, None, "x", bar, line=line, reason=f"{who}: {points[who].reason}")
    timed = times.pair(ours, theirs)
    mine, other = points[ours].notes, points[theirs].notes
    shown = {"ms": timed.milliseconds(), "pairs": len(timed.ours)}
    shown |= {key: (mine[key], other[key]) for key in mine}
    return Row(name, timed.ratio, timed.bounds[0], "x", bar, notes=shown, line=line, interval=timed.bounds)


def reference(mu: float, y0: Tensor, t: Tensor) -> Tensor:
    """The trajectories at 1e-11 in float64, ``(times, batch, 2)``, by scipy."""

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        u, v = y.reshape(-1, 2).T
        return np.stack((v, mu * (1.0 - u * u) * v - u), -1).reshape(-1)

    times = t.double().numpy()
    answer = solve_ivp(
        rate, (times[0], times[-1]), y0.double().numpy().reshape(-1), "LSODA", t_eval=times, rtol=1e-11, atol=1e-11
    )
    return torch.from_numpy(answer.y.T.copy()).reshape(len(times), -1, 2)
