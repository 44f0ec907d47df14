"""Counts of one solve, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class RowStats:
    """The same counts for each sample, ``(batch,)`` whole numbers; on the per-sample clock alone. *Maturing.*"""

    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor


@dataclass
class Stats:
    """What a solve did. *Stable.*

    Attributes:
        steps: steps tried, ``accepted + rejected``. On the per-sample clock a step moves all active samples, and counts
            as rejected where it moved none of them.
        accepted, rejected: verdicts of the controller.
        evaluations: calls of the field.
        jacobians, factorizations: Jacobians and factorisations of matrices made by implicit methods; those of a whole
            batch count once.
        backward_steps, backward_evaluations: the same for the backward pass, filled in by ``backward()``; zero under
            ``gradient="backprop"``, whose backward pass reuses the recorded forward one.
        backward_remade: steps that the backward pass made again, or undid, to get at states that had not been kept,
            beside the ``backward_steps`` it differentiated.
        backward_accepted, backward_rejected: of the backward steps; a step that is recomputed counts as accepted.
        compiled: whether steps ran as compiled graphs.
        rows: the counts of each sample, on the per-sample clock.
    """

    steps: int = 0
    accepted: int = 0
    rejected: int = 0
    evaluations: int = 0
    jacobians: int = 0
    factorizations: int = 0
    backward_steps: int = 0
    backward_evaluations: int = 0
    backward_remade: int = 0
    backward_accepted: int = 0
    backward_rejected: int = 0
    compiled: bool = False
    rows: RowStats | None = None
