from __future__ import annotations

import numpy as np
import pytest
import torch

from pathline.data import Series, SeriesFile

NAN = float("nan")


@pytest.fixture
def days():
    """Three series of visits at whole days, the second without one."""
    times = torch.tensor([4000.0, 4031.0, 4730.0, 10.0, 375.0])
    return Series(times, torch.arange(5.0)[:, None], torch.tensor([3, 0, 2]), ids=["a", "b", "c"])


def test_another_unit_divides_times_and_is_kept(days):
    years = days.with_time_unit(365.25)
    np.testing.assert_allclose(years.times, days.times / 365.25, rtol=1e-15)
    assert years.time_unit == 365.25
    np.testing.assert_allclose(years.original_times, days.times, rtol=1e-15)
    assert "(in units of 365.25)" in repr(years)
    assert "units" not in repr(days)


def test_a_unit_is_counted_in_the_first_one(days):
    weeks = days.with_time_unit(365.25).with_time_unit(7.0)
    np.testing.assert_allclose(weeks.times, days.times / 7, rtol=1e-15)
    assert weeks.time_unit == 7
    np.testing.assert_allclose(weeks.with_time_unit(1.0).times, days.times, rtol=1e-15)
    assert weeks.with_time_unit(1.0).time_unit == 1


def test_shifts_and_units_commute(days):
    one, other = days.shifted().with_time_unit(365.25), days.with_time_unit(365.25).shifted()
    np.testing.assert_allclose(one.times, other.times, atol=1e-14)
    np.testing.assert_allclose(one.origin, other.origin, rtol=1e-15)
    assert one.origin.tolist() == [4000, 0, 10]
    again = one.shifted(0.5).shifted(torch.tensor([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(again.origin, [4000 + 1.5 * 365.25, 2.5 * 365.25, 10 + 3.5 * 365.25])
    for series in (one, other, again):
        np.testing.assert_allclose(series.original_times, days.times, rtol=1e-14)


def test_the_unit_travels_with_parts_and_files(days, tmp_path):
    years = days.shifted().with_time_unit(365.25)
    parts = (years[1:], years[[0]], years.before(0.5), years.to(torch.float64), years.standardized())
    parts += (Series.cat([years[:1], years[1:]]), years.with_values(years.values), years.replace(labels=[0, 1, 1]))
    assert [part.time_unit for part in parts] == [365.25] * len(parts)
    years.to_parquet(tmp_path / "s.parquet")
    again = Series.read_parquet(tmp_path / "s.parquet")
    assert again.time_unit == 365.25
    assert torch.equal(again.times, years.times)
    batch = next(iter(SeriesFile(tmp_path / "s.parquet").batches(3, shuffle=False)))
    np.testing.assert_allclose(batch.original_times, days.times, rtol=1e-15)
    made = Series(years.times, years.values, years.lengths, origin=years.origin, time_unit=365.25)
    assert torch.equal(made.original_times, years.original_times)


def test_a_table_has_the_original_times_and_so_has_one_of_predictions(days):
    years = days.shifted().with_time_unit(365.25).standardized()
    np.testing.assert_allclose(years.to_table()["time"], days.times, rtol=1e-15)
    np.testing.assert_array_equal(years.to_table(original=False)["time"], years.times)
    predicted = years.last(1).with_values(torch.zeros(2, 1)).to_table()
    assert predicted["time"].tolist() == pytest.approx([4730, 375])
    assert predicted["channel 0"].tolist() == pytest.approx([2, 2])  # the mean


def test_units_do_not_mix(days, tmp_path):
    parts = [days, days.with_time_unit(365.25)]
    with pytest.raises(ValueError, match=r"but 1 and 365.25 original units came. Use series.with_time_unit\(1\)"):
        Series.cat(parts)
    with pytest.raises(ValueError, match="one unit"):
        SeriesFile.write(tmp_path / "s.parquet", parts, rows_per_group=1)


@pytest.mark.parametrize(
    ("unit", "error"), [(0.0, ValueError), (-7, ValueError), (NAN, ValueError), ("years", TypeError), (None, TypeError)]
)
def test_a_unit_is_a_positive_number(days, unit, error):
    with pytest.raises(error, match="`time_unit` is .* such as 365.25 for years out of days"):
        days.with_time_unit(unit)
    with pytest.raises(error, match="`time_unit`"):
        Series(days.times, days.values, days.lengths, time_unit=unit)


def test_times_stay_apart_and_finite(days):
    with pytest.raises(ValueError, match="twice.*Double precision does not tell them apart with this `origin`"):
        days.shifted(1e22)
    with pytest.raises(ValueError, match="finite numbers, but inf"):
        days.with_time_unit(1e-306)
    with pytest.raises(ValueError, match=r"`origin` is a finite number, but nan came for series 1 \(id 'b'\)"):
        days.shifted(days.starts)
    with pytest.raises(ValueError, match=r"`origin` is a number or one entry a series, \(3,\), but shape \(2,\)"):
        days.shifted([1.0, 2.0])


def test_numbers_of_python_are_double_precision():
    late = [1_700_000_000.25, 1_700_000_001.5]
    series = Series.from_arrays([late], [[0.1, 0.2]])
    assert series.times.tolist() == late
    assert series.dtype == torch.float32
    assert Series.from_arrays(late, torch.zeros(1, 2, 1)).times.tolist() == late
    assert series.shifted(0.1).origin.item() == 0.1
    assert series.shifted([0.1]).origin.item() == 0.1
    assert Series(late, [[0.1], [0.2]], [2], origin=[0.1]).origin.item() == 0.1
    assert series.before([1_700_000_001.0]).lengths.item() == 1
