"""What `advise` returns: a table, facts about the field, and a recommendation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

#: Columns of the table: heading, attribute of a `Trial`, how it is written.
COLUMNS = (
    ("method", "method", str),
    ("gradient", "gradient", str),
    ("error", "error", "{:.1e}".format),
    ("gradient error", "gradient_error", "{:.1e}".format),
    ("time", "seconds", lambda s: f"{1e3 * s:.3g} ms"),
    ("steps", "steps", str),
    ("evaluations", "evaluations", str),
    ("backward", "backward_evaluations", str),
    ("memory", "bytes", lambda n: size(n)),
)


@dataclass(frozen=True)
class Trial:
    """One method with one gradient, tried. Numbers are None where the trial did not get so far. *Experimental.*

    Attributes:
        method, gradient: as `solve` takes them; of an object its Python expression.
        error: the largest error of a row against the reference, relative to the largest component of the solution.
        gradient_error: of the gradient by the start and all parameters, in the Euclidean norm, relative to it; or,
            where the solve forgets its start and it vanishes, to ``rtol`` times the slope of the loss by the states.
        seconds: of a forward and a backward pass.
        steps: accepted ones of the forward pass.
        evaluations, backward_evaluations: of the field, in the forward and in the backward pass.
        bytes: the peak of the tensors made by a forward and a backward pass.
        note: why there are no numbers, or what is to be known of them; empty where all is well.
    """

    method: str
    gradient: str
    error: float | None = None
    gradient_error: float | None = None
    seconds: float | None = None
    steps: int | None = None
    evaluations: int | None = None
    backward_evaluations: int | None = None
    bytes: int | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the trial came to its end."""
        return self.seconds is not None


@dataclass(frozen=True)
class Facts:
    """What was found out about the field along its solution. None where it could not be. *Experimental.*

    Attributes:
        lipschitz: the largest spectral norm of the Jacobian, a lower bound of the Lipschitz constant.
        fastest: the largest size of an eigenvalue of the Jacobian.
        stiffness: ``fastest`` times the mean step of an explicit method of order 5: near 3 and above, its steps are
            as short as its stability demands, and not as its error does.
        stiff: whether stability alone limits them.
        smooth: whether the field has no kinks, as far as can be seen.
        kinks: activations and layers with kinks that were found, by name.
        back_again: the largest miss, relative to the size of the state, of a solve from the first time to the last and
            back; above 0.01 an adjoint that integrates the state backwards is not to be trusted.
    """

    lipschitz: float | None = None
    fastest: float | None = None
    stiffness: float | None = None
    stiff: bool | None = None
    smooth: bool | None = None
    kinks: tuple[str, ...] = ()
    back_again: float | None = None

    def lines(self) -> list[str]:
        """In words."""
        found: list[str] = []
        if self.lipschitz is not None:
            found.append(f"Lipschitz constant at least {self.lipschitz:.3g} along the solution.")
        if self.fastest is not None:
            how = "" if self.stiffness is None else f"; times an explicit step {self.stiffness:.2g}"
            verdict = "" if self.stiff is None else ", stiff" if self.stiff else ", not stiff"
            found.append(f"Fastest rate {self.fastest:.3g}{how}{verdict}.")
        if self.smooth is not None:
            kinks = f" ({', '.join(self.kinks)})" if self.kinks else ""
            found.append("No kinks were seen." if self.smooth else f"The field has kinks{kinks}.")
        if self.back_again is not None:
            lost = (
                "does not come to its end"
                if self.back_again == math.inf
                else f"misses the start by {self.back_again:.1e}"
            )
            found.append(f"A solve there and back again {lost}{'' if self.back_again == math.inf else ' of its size'}.")
        return found


@dataclass(frozen=True)
class Advice:
    """What `advise` found: the rows of its table, each a `Trial`, and what follows from it. *Experimental.*

    Attributes:
        about: what was solved.
        facts: about the field.
        trials: one for each method and gradient, in the order they were tried.
        recommended: the trial that serves best; None where none came to its end.
        why: in a sentence.
        line: to paste.
    """

    about: str
    facts: Facts
    trials: tuple[Trial, ...] = ()
    recommended: Trial | None = None
    why: str = ""
    line: str = ""

    def __len__(self) -> int:
        return len(self.trials)

    def __getitem__(self, index: int) -> Trial:
        return self.trials[index]

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def table(self) -> str:
        """The trials as plain text."""
        head = [[name for name, _, _ in COLUMNS]]
        body = [[_shown(trial, name, write) for _, name, write in COLUMNS] for trial in self.trials]
        widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
        lines = []
        for row, trial in zip(head + body, [None, *self.trials], strict=True):
            cells = [x.ljust(w) if i < 2 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True))]
            mark = "> " if trial is not None and trial is self.recommended else "  "
            note = f"  {trial.note}" if trial is not None and trial.note else ""
            lines.append((mark + "  ".join(cells) + note).rstrip())
        return "\n".join(lines)

    def __str__(self) -> str:
        parts = [self.about, *(f"  {line}" for line in self.facts.lines()), "", self.table(), "", self.why]
        return "\n".join([*parts, *([f"  {self.line}"] if self.line else [])])


def _shown(trial: Trial, name: str, write: Callable[[Any], str]) -> str:
    value = getattr(trial, name)
    return "-" if value is None else write(value)


def size(n: int) -> str:
    """Bytes, as they are read."""
    value = float(n)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
