"""Training steps by every library and in every gradient mode, called alike."""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

import pathline
from benchmarks.allocations import allocations
from benchmarks.environment import installed
from benchmarks.tasks import METHOD, Task, count


class Unavailable(Exception):
    """A contender that can't run, and the reason."""


class Trial(Protocol):
    """A training step that can be timed and asked what it did."""

    def work(self) -> None: ...

    def gradient(self) -> Tensor:
        """Of the last piece of work, all parameters in one float64 vector."""
        ...

    def evaluations(self) -> tuple[int, int]:
        """Forward, and backward."""
        ...

    def memory(self) -> tuple[int | None, int]:
        """Bytes kept between forward and backward beside the trajectory, and the peak."""
        ...


@dataclass(frozen=True)
class Contender:
    """A name and how to make its trial for a task; ``make`` may raise `Unavailable`."""

    name: str
    make: Callable[[Task], Trial]


def explained(error: BaseException | str) -> str:
    """The first sentence of an error, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[a-z)])[.;] ", text)[0][:120]


def run_once(name: str, work: Callable[[], Any], stats: Callable[[], Any]) -> None:
    """The first run of a contender; one that is called compiled, and was not, is unavailable."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    if "compiled" in name and not stats().compiled:
        said = [str(warning.message) for warning in caught if "`compile=True`" in str(warning.message)]
        raise Unavailable(explained(said[-1]) if said else "its steps ran as they are")


def ready(contender: Contender, task: Task) -> Trial:
    """A trial that ran once; a fall-back to another way of solving counts as unavailable."""
    try:
        trial = contender.make(task)
        run_once(contender.name, trial.work, lambda: trial.stats)  # pyright: ignore[reportAttributeAccessIssue]
    except Unavailable:
        raise
    except Exception as error:  # one that breaks must not end the run of the others
        raise Unavailable(explained(error)) from error
    return trial


# --- pathline and torchdiffeq ------------------------------------------------------------------------------------


class TorchTrial:
    """Forward by some solve in PyTorch, backward by autograd."""

    def __init__(self, task: Task, trajectory: Callable[[], Tensor]) -> None:
        self.task, self.trajectory = task, trajectory
        self.rows = 0

    def forward(self) -> Tensor:
        self.task.field.zero_grad(set_to_none=True)
        ys = self.trajectory()
        self.rows = ys.nbytes
        return ys.square().mean()

    def work(self) -> None:
        self.forward().backward()

    def gradient(self) -> Tensor:
        return self.task.gradient()

    def evaluations(self) -> tuple[int, int]:
        losses: list[Tensor] = []
        forward = count(self.task.field, lambda: losses.append(self.forward()))
        return forward, count(self.task.field, lambda: losses.pop().backward())

    def memory(self) -> tuple[int | None, int]:
        self.task.field.zero_grad(set_to_none=True)
        gc.collect()
        kept, peak = allocations(self.forward, lambda loss: loss.backward())
        return kept - self.rows, peak


class OurTrial(TorchTrial):
    """Evaluations from the statistics of the solve: hooks of a module do not run in a compiled graph."""

    def __init__(self, task: Task, options: dict[str, Any]) -> None:
        super().__init__(task, self.solve)
        self.options = options
        self.stats: Any = None

    def solve(self) -> Tensor:
        solution = self.task.solution(**self.options)
        self.stats = solution.stats
        return solution.ys

    def evaluations(self) -> tuple[int, int]:
        self.work()
        return self.stats.evaluations, self.stats.backward_evaluations


def logarithmic(**budget: float) -> Any:
    """States at logarithmically few steps."""
    return pathline.Checkpointed(schedule="logarithmic", **budget)  # pyright: ignore[reportArgumentType]


#: The ways to compute a gradient: options of `solve`, made when a trial is.
MODES: dict[str, Callable[[], dict[str, Any]]] = {
    "backprop": lambda: {"gradient": "backprop"},
    "checkpointed": lambda: {"gradient": "checkpointed"},
    "checkpointed logarithmic": lambda: {"gradient": logarithmic(states=4)},
    "adjoint": lambda: {"gradient": "adjoint"},
    "reversible": lambda: {"gradient": "reversible", "method": pathline.Reversible(METHOD, coupling=0.999)},
}


def ours(mode: str, *, compiled: bool) -> Contender:
    """Pathline in one mode."""

    def make(task: Task) -> Trial:
        return OurTrial(task, MODES[mode]() | ({"compile": True} if compiled else {}))

    return Contender(our_name(mode, compiled=compiled), make)


def our_name(mode: str, *, compiled: bool) -> str:
    """How a contender of ours is called."""
    return f"pathline {'compiled ' if compiled else ''}{mode}"


def torchdiffeq(mode: str) -> Contender:
    """The peer in PyTorch."""

    def make(task: Task) -> Trial:
        need("torchdiffeq")
        return TorchTrial(task, lambda: task.theirs(mode))

    return Contender(f"torchdiffeq {mode}", make)


def diffrax(mode: str) -> Contender:
    """The peer in JAX, compiled."""

    def make(task: Task) -> Trial:
        need("diffrax")
        from benchmarks.diffrax_peer import DiffraxTrial  # JAX takes its settings when it is imported

        return DiffraxTrial(task, mode)

    return Contender(f"diffrax {mode}", make)


def need(package: str) -> None:
    """Raise `Unavailable` where a peer is missing."""
    if installed(package) is None:
        raise Unavailable(f"{package} isn't installed")


def everyone() -> Iterator[Contender]:
    """All of them; ours first."""
    for compiled in (False, True):
        yield from (ours(mode, compiled=compiled) for mode in MODES)
    yield from (torchdiffeq(mode) for mode in ("backprop", "adjoint"))
    yield from (diffrax(mode) for mode in ("checkpointed", "backsolve"))
