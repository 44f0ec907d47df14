"""Several series one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series.layout import OF_ROWS, OF_SERIES
from pathline.data.series.scaling import same

if TYPE_CHECKING:
    from pathline.data.series.series import Series


def joined(parts: Sequence[Series]) -> dict[str, Any]:
    """All entries of all parts, of which what is for all has to agree.

    Raises:
        ValueError: For no part, and for parts of other columns, another unit of time or another scaling.
    """
    if not parts:
        raise ValueError("`Series.cat` takes at least one part, but an empty list came.")
    for part in parts[1:]:
        _check_alike(parts[0], part)
    changes: dict[str, Any] = {
        name: _cat(name, [getattr(part, name) for part in parts]) for name in (*OF_ROWS, *OF_SERIES)
    }
    ids = [part.ids for part in parts if part.ids is not None]
    return changes | {"ids": np.concatenate(ids) if len(ids) == len(parts) else None}


def _check_alike(first: Series, part: Series) -> None:
    for what, names in (("channels",) * 2, ("static columns", "static_names"), ("inputs", "input_names")):
        ours, theirs = getattr(first, names), getattr(part, names)
        if ours != theirs and ours and theirs:
            raise ValueError(
                f"Series of the same {what} are joined, but {', '.join(ours)} and {', '.join(theirs)} came."
            )
    if part.time_unit != first.time_unit:
        raise ValueError(
            f"Series that count time in one unit are joined, but {first.time_unit:g} and {part.time_unit:g} original "
            f"units came. Use series.with_time_unit({first.time_unit:g})."
        )
    if not same(part.scaling, first.scaling):
        raise ValueError(
            "Series that were standardized alike are joined. Use series.standardized(scaling) with one scaling."
        )


def _cat(name: str, tensors: list[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    if there and len(there) < len(tensors):
        raise ValueError(f"Either all parts have `{name}` or none, but {len(there)} of {len(tensors)} have them.")
    return torch.cat(there) if there else None
