"""Field evaluations, read off the models that count them."""

from __future__ import annotations

import math

from torch import nn

__all__ = ["EvaluationCounts"]

_COLUMNS = ("evaluations", "backward_evaluations")


class EvaluationCounts:
    """Sums ``.evaluations`` and ``.backward_evaluations`` over the outermost modules that have them."""

    def __init__(self, model: nn.Module) -> None:
        self._counting: list[nn.Module] = []
        self._search(model)

    def _search(self, module: nn.Module) -> None:
        if hasattr(type(module), _COLUMNS[0]) or _COLUMNS[0] in module.__dict__:
            self._counting.append(module)
            return
        for child in module.children():
            self._search(child)

    def __call__(self) -> dict[str, float]:
        """The counts of the last forward and backward pass; a count that is not known yet is left out."""
        if not self._counting:
            return {}
        row: dict[str, float] = {}
        for column in _COLUMNS:
            counts = [getattr(module, column, None) for module in self._counting]
            known = [float(count) for count in counts if count is not None and not math.isnan(count)]
            if known:
                row[column] = sum(known)
        return row
