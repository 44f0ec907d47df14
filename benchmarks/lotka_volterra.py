"""Prey and predators in float64: the error at the end against the time and the evaluations, from 1e-3 to 1e-10.

dopri5 is the same method everywhere; tsit5 too, where a library has it right; the methods of order 8 are each library's
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import pathline
from benchmarks.contenders import Unavailable, explained, need, run_once
from benchmarks.ensembles import Solve
from benchmarks.rows import Point, Row
from benchmarks.timing import race
from tests.problems import LOTKA_VOLTERRA as PROBLEM

TOLERANCES = tuple(10.0**-k for k in range(3, 11))
METHODS = {
    "pathline": ("dopri5", "tsit5", "dopri8"),
    "torchdiffeq": ("dopri5", "dopri8"),
    "diffrax": ("dopri5", "tsit5", "dopri8"),
}


def contenders() -> dict[str, Callable[[float], Solve]]:
    """By name, what makes a solve at a tolerance."""
    found: dict[str, Callable[[float], Solve]] = {}
    for compiled in (False, True):
        for method in METHODS["pathline"]:
            name = f"pathline {'compiled ' if compiled else ''}{method}"
            found[name] = lambda tol, m=method, c=compiled: pathline_solve(m, tol, compiled=c)
    for method in METHODS["torchdiffeq"]:
        found[f"torchdiffeq {method}"] = lambda tol, m=method: torchdiffeq_solve(m, tol)
    for method in METHODS["diffrax"]:
        found[f"diffrax {method}"] = lambda tol, m=method: diffrax_solve(m, tol)
    return found


def pathline_solve(method: str, tol: float, *, compiled: bool) -> Solve:
    """Ours."""
    y0, field = PROBLEM.start(), PROBLEM.field
    options: dict[str, Any] = {"compile": True} if compiled else {}

    @torch.no_grad()
    def work() -> pathline.Solution:
        return pathline.solve(field, y0, PROBLEM.span, method=method, rtol=tol, atol=tol, max_steps=2**20, **options)

    found = Solve(work, lambda: found.last.stats.evaluations, lambda solution: solution.ys)
    return found


def torchdiffeq_solve(method: str, tol: float) -> Solve:
    """The peer in PyTorch."""
    need("torchdiffeq")
    import torchdiffeq  # a peer may be missing

    y0, t = PROBLEM.start(), torch.tensor(PROBLEM.span, dtype=torch.float64)
    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return PROBLEM.field(t, y)

    @torch.no_grad()
    def work() -> Tensor:
        nonlocal calls
        calls = 0
        return torchdiffeq.odeint(field, y0, t, method=method, rtol=tol, atol=tol)  # pyright: ignore[reportReturnType]

    return Solve(work, lambda: calls, lambda ys: ys)


def diffrax_solve(method: str, tol: float) -> Solve:
    """The peer in JAX."""
    need("diffrax")
    import numpy as np

    from benchmarks import diffrax_peer  # JAX takes its settings when it is imported

    diffrax_peer.double(on=True)
    y0, t = PROBLEM.start().numpy(), np.array(PROBLEM.span)
    solve = diffrax_peer.Solve(diffrax_peer.lotka_volterra, y0, t, tol=tol, method=method, rows=False)
    return Solve(solve.work, solve.evaluations, lambda _: solve.rows())


def lotka_volterra(*, quick: bool) -> Iterator[Row | Point]:
    """All tolerances."""
    for tol in TOLERANCES[::4] if quick else TOLERANCES:
        yield from measured(tol, quick=quick)


def measured(tol: float, *, quick: bool) -> Iterator[Row | Point]:
    """All contenders at one tolerance."""
    solves: dict[str, Solve] = {}
    points: dict[str, Point] = {}
    for name, make in contenders().items():
        try:
            solve = make(tol)
            run_once(name, solve.work, lambda solve=solve: solve.last.stats)
            points[name] = Point(
                task(tol), name, notes={"evaluations": solve.calls(), "error": error(solve), "tol": tol}
            )
            solves[name] = solve
        except Exception as problem:  # noqa: BLE001  # one that breaks must not end the run of the others
            reason = str(problem) if isinstance(problem, Unavailable) else explained(problem)
            points[name] = Point(task(tol), name, reason=reason, notes={"tol": tol})
    rounds, budget = (3, 0.1) if quick else (20, 0.7)
    times = race({name: solve.work for name, solve in solves.items()}, rounds=rounds, budget=budget, least=3)
    if "diffrax dopri5" in solves:
        from benchmarks import diffrax_peer

        diffrax_peer.double(on=False)
    for name, point in points.items():
        if name in solves:
            ms, *interval = times.milliseconds(name)
            point = replace(point, ms=ms, interval=(interval[0], interval[1]))
        yield point
    for ours, theirs in (("pathline dopri5", "torchdiffeq dopri5"), ("pathline compiled dopri5", "diffrax dopri5")):
        if ours in solves and theirs in solves:
            timed = times.pair(ours, theirs)
            notes = {key: (points[ours].notes[key], points[theirs].notes[key]) for key in ("evaluations", "error")}
            title = f"{task(tol)}: {ours} / {theirs}"
            yield Row(title, timed.ratio, timed.bounds[0], "x", notes=notes, interval=timed.bounds)


def task(tol: float) -> str:
    """As it is called in tables."""
    return f"Lotka-Volterra at {tol:.0e}"


def error(solve: Solve) -> float:
    """The largest |e| / (1 + |y|) at the end."""
    truth = PROBLEM.end()
    return float(((solve.rows()[-1] - truth).abs() / (1.0 + truth.abs())).max())
