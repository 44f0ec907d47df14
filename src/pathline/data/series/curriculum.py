"""Batches whose end moves away: at first the beginning of a series is to be explained, then all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathline.data.series.series import Series

__all__ = ["growing"]


def growing(
    batches: Callable[[int], Any], end: float, steps: float, *, begin: float = 0.0, first: float = 0.2
) -> Callable[[int], tuple[Series, Series]]:
    r"""Pairs (observed, target) whose target reaches further step by step. *Maturing.*

    Before step ``steps`` the target has the rows before

    $$b + (e - b)\, (a + (1 - a)\, \mathrm{step} / \mathrm{steps})$$

    with $b$, $e$ and $a$ for ``begin``, ``end`` and ``first``; from then on all. A path through a long span that starts
    wrong is wrong everywhere behind, and some models never leave that state; a model that knows the beginning has the
    rest to add. What is observed stays whole.

    Args:
        batches: A function of the step that returns a ``Series`` or a pair (observed, target), as ``series.batches``.
        end: Time behind the last row.
        steps: Step from which on everything counts; 0 for at once.
        begin: Time at which the span begins; for pairs of past and future that of the first target, since a target
            without rows teaches nothing.
        first: Share of the span that counts at step 0, above 0 and up to 1.

    Raises:
        TypeError: ``batches`` is no function.
        ValueError: ``first`` is no such share, ``steps`` is negative, or ``end`` does not lie behind ``begin``.

    Example:
        >>> import torch
        >>> from pathline.data import Series, growing
        >>> series = Series.from_arrays(torch.linspace(0, 1, 11)[:10], torch.randn(8, 10, 1))
        >>> batch = growing(series.batches(size=4), end=1.0, steps=100)
        >>> [len(batch(step)[1].times) // 4 for step in (0, 50, 100)]
        [2, 6, 10]
    """
    if not callable(batches):
        raise TypeError(
            f"`batches` is a function of the step, such as series.batches(32), but {type(batches).__name__} came."
        )
    if not 0.0 < first <= 1.0:
        raise ValueError(f"`first` is a share above 0 and up to 1, but {first} came.")
    if not steps >= 0:
        raise ValueError(f"`steps` is a number of updates from 0 on, but {steps} came.")
    if not end > begin:
        raise ValueError(f"The span ends behind its `begin`, {begin:g}, but `end` is {end:g}.")

    def batch(step: int) -> tuple[Series, Series]:
        found = batches(step)
        observed, target = found if isinstance(found, tuple | list) else (found, found)
        if step < steps:
            target = target.before(begin + (end - begin) * (first + (1.0 - first) * step / steps))
        return observed, target

    return batch
