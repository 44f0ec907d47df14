"""Which trial serves best, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pathline.advising.advice import Facts, Trial, size

#: A global error may be so many times the tolerance; what is worse is not compared by its time.
LOOSE = 100.0
#: Times closer than this are the same; then memory decides.
SAME = 1.1
#: Beyond this the way back misses, and with it an adjoint.
RECONSTRUCTION = 0.01


def choose(trials: Sequence[Trial], facts: Facts, rtol: float, memory: int | None) -> tuple[Trial | None, str]:
    """The fastest of the trials that are right, and a sentence of reasons."""
    done = [x for x in trials if x.ok]
    if not done:
        return None, "No method came to its end. The notes say why; try a larger budget, or looser tolerances."
    fit = [x for x in done if memory is None or (x.bytes or 0) <= memory]
    if not fit:
        least = min(done, key=lambda x: x.bytes or 0)
        return least, f"Nothing keeps within {size(memory or 0)}; {_both(least)} needs least, {size(least.bytes or 0)}."
    right = _right(fit, rtol)
    quick = min(x.seconds or math.inf for x in right)
    close = [x for x in right if (x.seconds or math.inf) <= SAME * quick]
    best = min(close, key=lambda x: (x.bytes or 0, x.seconds))
    return best, " ".join([_fastest(best, right, done, rtol), *_reasons(best, right, facts, memory)])


def _right(trials: Sequence[Trial], rtol: float) -> list[Trial]:
    """Those whose rows and gradient are as good as the tolerance lets one expect, or as the best are."""

    def bar(values: list[float]) -> float:
        return max(LOOSE * rtol, 3 * min(values)) if values else math.inf

    error = bar([x.error for x in trials if x.error is not None])
    gradient = bar([x.gradient_error for x in trials if x.gradient_error is not None])
    return [x for x in trials if (x.error or 0.0) <= error and (x.gradient_error or 0.0) <= gradient] or list(trials)


def _both(trial: Trial) -> str:
    return f"{trial.method} with {trial.gradient}"


def _fastest(best: Trial, right: Sequence[Trial], done: Sequence[Trial], rtol: float) -> str:
    wrong = len(done) - len(right)
    apart = f"; {wrong} more missed states or gradient by over {LOOSE:g} times rtol" if wrong else ""
    among = "the only trial that serves" if len(right) == 1 else f"the fastest of {len(right)} trials that serve"
    return f"{_both(best)}: {among} ({1e3 * (best.seconds or 0):.3g} ms, {size(best.bytes or 0)}){apart}."


def _reasons(best: Trial, right: Sequence[Trial], facts: Facts, memory: int | None) -> list[str]:
    found: list[str] = []
    if facts.stiff:
        found.append("The field is stiff: explicit steps are limited by stability.")
    if facts.smooth is False:
        found.append(
            "It has kinks, where methods of high order lose theirs; a smooth activation would need fewer steps."
        )
    if facts.back_again is not None and facts.back_again > RECONSTRUCTION:
        found.append(
            "Solving back misses the start: an adjoint that integrates the state backwards is not to be trusted."
        )
    lean = min(right, key=lambda x: x.bytes or 0)
    if memory is None and lean.bytes and lean.seconds and best.seconds and 2 * lean.bytes < (best.bytes or 0):
        slower = lean.seconds / best.seconds
        found.append(f"Where memory is short: {_both(lean)} takes {size(lean.bytes)} and {slower:.2g} times the time.")
    return found
