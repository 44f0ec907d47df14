"""`log_prob` and a training step of a continuous normalising flow, beside zuko's.

Both sides hold the very same field with the same weights: FFJORD's layers, trained for a while (a fresh field is solved
in three steps, which shows nothing), and the network that zuko makes, Fourier features of the time included. Method
(dopri5), tolerances, dtype and data are the same too. zuko measures the largest error of any number
and lets that of the log-density be a hundred times larger; ours measures the root mean square, the log-density
included. What either makes of it stands beside the times: evaluations, and the largest error of a log-density. Where
ours is larger than theirs at the same number, ours runs once more "as accurate": at the largest tolerance with which it
is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import pathline
from benchmarks.contenders import Unavailable, explained, need, run_once
from benchmarks.rows import Point, Row
from benchmarks.timing import Race, race
from pathline import fields
from pathline.nets import MLP

TOLERANCE = 1e-5
#: Ours, compiled, is at least so many times faster; eager it has no bar.
BAR = 1.5
EAGER, COMPILED, ACCURATE, THEIRS = "pathline", "pathline compiled", "pathline compiled, as accurate", "zuko"


class Fourier(nn.Module):
    """The field of zuko's CNF: a network of the state and of sines and cosines of the time."""

    def __init__(self, size: int, hidden: tuple[int, ...], frequencies: int = 3) -> None:
        super().__init__()
        self.net = MLP(size + 2 * frequencies, size, hidden, activation="elu", init="torch")
        self.register_buffer("frequencies", torch.arange(1, frequencies + 1) * math.pi)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The rate."""
        return self.net(self._inputs(t, y))

    def divergence(self, t: Tensor, y: Tensor, args: None = None) -> tuple[Tensor, Tensor] | None:
        """The rate and its divergence."""
        return self.net.trace(self._inputs(t, y))

    def push(self, t: Tensor, y: Tensor, v: Tensor, args: None = None) -> tuple[Tensor, Tensor] | None:
        """The rate and its derivatives along tangents."""
        return self.net.push(self._inputs(t, y), v)

    def _inputs(self, t: Tensor, y: Tensor) -> Tensor:
        phase = self.frequencies * t  # pyright: ignore[reportOperatorIssue]
        return torch.cat([y, torch.cat([phase.cos(), phase.sin()]).expand(*y.shape[:-1], -1)], -1)


@dataclass(frozen=True)
class Task:
    """A field, a batch, and how the trace is found."""

    name: str
    size: int
    batch: int
    trace: str
    make: Callable[[], nn.Module]
    training: int
    bar: float | None = BAR

    def data(self, n: int, seed: int) -> Tensor:
        """Eight Gaussians on a circle; beyond two dimensions, Gaussians that are bent."""
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(n, self.size, generator=draw)
        if self.size > 2:
            return (x[:, :1] * 0.5 + x).tanh() * 2
        angle = torch.randint(8, (n,), generator=draw) * math.pi / 4
        return (4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.5 * x) / 1.414

    def field(self) -> nn.Module:
        """Trained with equal steps, which neither side is timed with."""
        torch.manual_seed(0)
        field = self.make()
        flow = pathline.CNF(field, self.size, trace="hutchinson", method="rk4", dt=0.125)
        updates = torch.optim.Adam(field.parameters(), lr=5e-3)
        for step in range(self.training):
            updates.zero_grad()
            flow.loss(self.data(256, seed=step + 1)).backward()
            updates.step()
        return field


def tasks(*, quick: bool) -> list[Task]:
    """FFJORD's toy with either trace, zuko's own network, and one of 64 dimensions."""
    if quick:
        return [Task("FFJORD, exact", 2, 32, "exact", lambda: fields.ConcatSquash(2, (16, 16, 16)), 3)]
    squash = lambda: fields.ConcatSquash(2, (64, 64, 64))  # noqa: E731
    return [
        Task("FFJORD 3 x 64, exact", 2, 512, "exact", squash, 120),
        Task("FFJORD 3 x 64, Hutchinson", 2, 512, "hutchinson", squash, 120),
        Task("zuko's network 2 x 64, exact", 2, 512, "exact", lambda: Fourier(2, (64, 64)), 120),
        Task("64 numbers, 2 x 128, exact", 64, 256, "exact", lambda: Fourier(64, (128, 128)), 20, None),
    ]


# --- who takes part -----------------------------------------------------------------------------------------------


@dataclass
class Contender:
    """A way to log-densities of the task's batch, and the calls of the field by the last solve."""

    log_prob: Callable[[], Tensor]
    calls: Callable[[], int]


def ours(task: Task, field: nn.Module, who: str, tolerance: float = TOLERANCE) -> Contender:
    """The flow, eager or compiled."""
    options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "compile": who != EAGER}
    flow, x = pathline.CNF(field, task.size, trace=task.trace, **options), task.data(task.batch, 0)
    contender = Contender(lambda: flow().log_prob(x), lambda: flow.evaluations)
    run_once(who, contender.log_prob, lambda: flow._stats)
    return contender


def accurate(task: Task, field: nn.Module) -> Contender:
    """Ours at the largest tolerance that makes no larger an error than theirs."""
    if task.trace != "exact":
        raise Unavailable("a drawn trace has no error to compare")
    theirs = error(task, field, zuko(task, field))
    for tolerance in (TOLERANCE, 3e-6, 1e-6, 3e-7, 1e-7):
        if error(task, field, ours(task, field, EAGER, tolerance)) <= theirs:
            return ours(task, field, ACCURATE, tolerance)
    raise Unavailable("rounding is larger than its error")


def zuko(task: Task, field: nn.Module) -> Contender:
    """The peer's transform with the same field."""
    need("zuko")
    from zuko.transforms import FreeFormJacobianTransform  # a peer may be missing

    x, parameters, calls = task.data(task.batch, 0), tuple(field.parameters()), [0]
    base = Independent(Normal(torch.zeros(task.size), torch.ones(task.size)), 1)

    def counted(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return field(t, y)

    def log_prob() -> Tensor:
        calls[0] = 0
        exact = task.trace == "exact"
        options: dict[str, Any] = {"rtol": TOLERANCE, "atol": TOLERANCE, "exact": exact, "t0": 1.0, "t1": 0.0}
        z, log_det = FreeFormJacobianTransform(counted, phi=parameters, **options).call_and_ladj(x)  # pyright: ignore[reportAttributeAccessIssue]
        return base.log_prob(z) + log_det

    return Contender(log_prob, lambda: calls[0])


# --- measuring ----------------------------------------------------------------------------------------------------


def densities(*, quick: bool) -> Iterator[Row | Point]:
    """Each task: a point for each contender and kind of work, then the ratios."""
    for task in tasks(quick=quick):
        yield from measured(task, quick=quick)


def measured(task: Task, *, quick: bool) -> Iterator[Row | Point]:
    """One task."""
    field = task.field()
    makers: dict[str, Callable[[], Contender]] = {
        EAGER: lambda: ours(task, field, EAGER),
        COMPILED: lambda: ours(task, field, COMPILED),
        ACCURATE: lambda: accurate(task, field),
        THEIRS: lambda: zuko(task, field),
    }
    contenders, missing = {}, {}
    for who, make in makers.items():
        try:
            contenders[who] = make()
        except Unavailable as error:
            missing[who] = str(error)
        except Exception as error:  # noqa: BLE001  # one that breaks must not end the run of the others
            missing[who] = f"failed: {explained(error)}"
    notes = {who: looked_at(task, field, contender) for who, contender in contenders.items()}
    for kind, work in (("log_prob", evaluated), ("training step", stepped)):
        works = {who: work(contender, field) for who, contender in contenders.items()}
        rounds, budget = (4, 0.2) if quick else (60, 6.0)
        times = race(works, rounds=rounds, budget=budget, least=4 if quick else 15)
        title = f"{task.name}: {kind}"
        for who in makers:
            if who in missing:
                yield Point(title, who, reason=missing[who])
            else:
                ms, *interval = times.milliseconds(who)
                yield Point(title, who, ms, (interval[0], interval[1]), notes[who])
        yield from ratios(task, title, times, notes, missing)


def evaluated(contender: Contender, field: nn.Module) -> Callable[[], object]:
    """The log-densities alone."""
    return torch.no_grad()(contender.log_prob)


def stepped(contender: Contender, field: nn.Module) -> Callable[[], object]:
    """The loss and the gradient of all parameters."""

    def work() -> None:
        field.zero_grad(set_to_none=True)
        (-contender.log_prob().mean()).backward()

    return work


def looked_at(task: Task, field: nn.Module, contender: Contender) -> dict[str, Any]:
    """Evaluations, and the largest error of a log-density; the latter has no meaning where the trace is drawn."""
    found = error(task, field, contender)
    notes: dict[str, Any] = {"evaluations": contender.calls()}
    return notes | {"error": found} if task.trace == "exact" else notes


def error(task: Task, field: nn.Module, contender: Contender) -> float:
    """The largest of a log-density."""
    with torch.no_grad():
        return float((contender.log_prob().double() - reference(task, field)).abs().max())


def reference(task: Task, field: nn.Module) -> Tensor:
    """The log-densities in double precision, at a tight tolerance."""
    flow = pathline.CNF(field.double(), task.size, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        found = flow().log_prob(task.data(task.batch, 0).double())
    field.float()
    return found


def ratios(task: Task, title: str, times: Race, notes: dict[str, Any], missing: dict[str, str]) -> Iterator[Row]:
    """How many times faster ours is, in each of its ways."""
    for mine in (EAGER, COMPILED, ACCURATE):
        bar = None if mine == EAGER or (mine == ACCURATE and task.trace != "exact") else task.bar
        row = Row(f"{title}: {mine} / {THEIRS}", None, None, "x", bar, line=f"{title}, against zuko's CNF")
        absent = [who for who in (mine, THEIRS) if who in missing]
        if absent:
            yield replace(row, reason=f"{absent[0]}: {missing[absent[0]]}")
            continue
        timed = times.pair(mine, THEIRS)
        said: dict[str, object] = {"ms": timed.milliseconds(), "pairs": len(timed.ours)}
        said |= {key: (notes[mine][key], notes[THEIRS][key]) for key in notes[mine]}
        yield replace(row, value=timed.ratio, bound=timed.bounds[0], interval=timed.bounds, notes=said)
