"""Counts of one solve, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Stats:
    """What a solve did. *Stable.*

    Attributes:
        steps: steps tried, ``accepted + rejected``.
        accepted, rejected: verdicts of the controller.
        evaluations: calls of the field.
        backward_steps, backward_evaluations: the same for the backward pass, filled in by ``backward()``; zero under
            ``gradient="backprop"``, whose backward pass reuses the recorded forward one.
    """

    steps: int = 0
    accepted: int = 0
    rejected: int = 0
    evaluations: int = 0
    backward_steps: int = 0
    backward_evaluations: int = 0
