"""Hare and lynx pelts of the Hudson's Bay Company."""

from __future__ import annotations

import csv
from importlib import resources

import torch
from torch import Tensor


def hudson_bay(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Pelts of snowshoe hare and Canadian lynx, in thousands, 1900 to 1920. *Maturing.*

    Args:
        dtype: Type of both tensors.

    Returns:
        The years, shape ``(21,)``, and the pelts ``(hare, lynx)``, shape ``(21, 2)``.

    Example:
        >>> years, pelts = hudson_bay()
        >>> pelts[0]
        tensor([30.,  4.], dtype=torch.float64)

    References:
        C. G. Hewitt (1921), The Conservation of the Wild Life of Canada, from the records of the Hudson's Bay Company.
        P. Howard (2009), Modeling Basics, lecture notes for Math 442, Texas A&M University: the table in numbers.
    """
    with resources.files("pathline.data").joinpath("hudson_bay.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if not row[0].startswith("#")]
    table = torch.tensor([[float(value) for value in row] for row in rows[1:]], dtype=dtype)
    return table[:, 0], table[:, 1:]
