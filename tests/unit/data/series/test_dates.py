from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pyarrow
import pytest

from pathline.data import Series


def read(column, unit="days", **roles):
    return Series.from_table(pd.DataFrame({"t": column, "x": np.arange(len(column))}), time="t", unit=unit, **roles)


@pytest.mark.parametrize("resolution", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Zurich"])
@pytest.mark.parametrize("arrow", [False, True])
def test_dates_in_every_resolution_and_zone(resolution, zone, arrow):
    moments = pd.to_datetime(["2020-01-01 12:00", "2020-07-01 12:00"])
    column = pd.Series(moments).astype(f"datetime64[{resolution}]").dt.tz_localize(zone)
    if arrow:
        column = column.astype(pd.ArrowDtype(pyarrow.timestamp(resolution, tz=zone)))
    ahead = 0 if zone is None else np.array([1, 2]) / 24  # winter and summer time
    np.testing.assert_allclose(read(column).times, np.array([18262.5, 18444.5]) - ahead, rtol=1e-15)


def test_dates_beyond_what_nanoseconds_hold():
    column = np.array(["1500-01-03", "3020-01-01"], dtype="datetime64[s]")
    assert read(column).times.tolist() == [-171662, 383504]
    column = pd.Series([datetime.date(2020, 1, 1)], dtype=pd.ArrowDtype(pyarrow.date32()))
    assert read(column).times.tolist() == [18262]


def test_what_is_no_time():
    with pytest.raises(TypeError, match="but numbers or dates are wanted.*to_timestamp"):
        read(pd.period_range("2020-01", periods=2, freq="M"))
    with pytest.raises(ValueError, match="nan came at row 1"):
        read(pd.to_datetime(["2020-01-01", None]))
    with pytest.raises(ValueError, match=r"Another unit of numbers: series.with_time_unit\(365.25\)"):
        read([0.0, 1.0])
