"""The series, the baselines and the split of the hare and lynx experiment."""

from __future__ import annotations

import pytest
import torch

from pathline.experiments.hare_lynx.series import Series, last_cycle, persistence, training_mean

CPU = torch.device("cpu")


@pytest.fixture
def series():
    return Series.load(1914, CPU)


def test_fifteen_years_are_known_and_six_are_not(series):
    assert series.known == 15
    assert series.years[series.known].item() == 1915
    assert len(series.years) - series.known == 6


def test_the_coordinates_know_nothing_of_the_later_years(series):
    known = series.z[: series.known]
    torch.testing.assert_close(known.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(known.std(0, unbiased=False), torch.ones(2))
    changed = Series(series.years, torch.cat([series.pelts[:15], 100 * series.pelts[15:]]), 15)
    torch.testing.assert_close(changed.z[:15], known)
    torch.testing.assert_close(series.to_pelts(series.z), series.pelts)


def test_the_last_cycle_is_chosen_on_the_training_years_and_repeats(series):
    repeated, lag = last_cycle(series)
    assert lag == 10
    torch.testing.assert_close(repeated[15:], series.z[5:11])
    changed = Series(series.years, torch.cat([series.pelts[:15], series.pelts[15:].flip(0)]), 15)
    assert last_cycle(changed)[1] == lag


def test_a_lag_shorter_than_the_forecast_repeats_itself():
    years = torch.arange(1900.0, 1921.0)
    wave = torch.stack([(years * torch.pi / 2.5).sin().exp(), (years * torch.pi / 2.5).cos().exp()], 1)
    series = Series(years, wave, 14)
    repeated, lag = last_cycle(series)
    assert lag == 5
    torch.testing.assert_close(repeated, series.z, atol=1e-3, rtol=0)


def test_errors_are_in_both_units_on_both_parts(series):
    found = series.errors(series.z)
    assert max(found.values()) < 1e-4
    shifted = series.errors(series.z + torch.cat([torch.zeros(15, 2), torch.ones(6, 2)]))
    assert shifted["train_rmse"] == 0.0
    assert shifted["forecast_rmse_log"] == pytest.approx(1.0)
    raw = series.pelts[15:] * (series.scale.exp() - 1)
    assert shifted["forecast_rmse"] == pytest.approx(float(raw.square().mean().sqrt()), rel=1e-4)


def test_the_other_baselines(series):
    assert series.errors(training_mean(series))["train_rmse"] == pytest.approx(1.0)
    torch.testing.assert_close(persistence(series)[20], series.z[14])


@pytest.mark.parametrize("year", [1905, 1920])
def test_a_split_without_a_cycle_or_a_forecast_is_refused(year):
    with pytest.raises(ValueError, match="`train_until` leaves .* choose a year from 1911 to 1919"):
        Series.load(year, CPU)
