"""Irregular series and fans of samples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from pathline.data import Series, sinusoids
from pathline.plotting import fan, forecast, observations

NAN = float("nan")


@pytest.fixture
def axes():
    return Figure().subplots()


@pytest.fixture
def series():
    times, values = (
        torch.tensor([0.0, 1.0, 0.5, 2.0, 3.0]),
        torch.tensor([[1.0, 2.0], [3.0, NAN], [5.0, NAN], [NAN, 8.0], [9.0, 1.0]]),
    )
    return Series(times, values, torch.tensor([2, 3]))


def bands(axes):
    return [c for c in axes.collections if isinstance(c, PolyCollection)]


@pytest.mark.parametrize(
    ("number", "channel", "points"),
    [(0, 0, [(0.0, 1.0), (1.0, 3.0)]), (1, 0, [(0.5, 5.0), (3.0, 9.0)]), (1, 1, [(2.0, 8.0), (3.0, 1.0)])],
)
def test_what_was_observed_is_drawn_and_nothing_else(axes, series, number, channel, points):
    assert observations(series, axes, number=number, channel=channel, color="red") is axes
    (line,) = axes.lines
    assert list(zip(*line.get_data(), strict=True)) == points
    assert (line.get_color(), line.get_marker(), line.get_linestyle()) == ("red", "o", "None")


def test_a_band_contains_its_share_of_the_samples(axes):
    t = torch.linspace(0, 1, 6)
    samples = torch.arange(101.0)[:, None] + 10 * torch.arange(6.0)
    fan(samples, t, axes, levels=(0.5, 0.9))
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 50 + 10 * np.arange(6))
    wide, narrow = bands(axes)
    for band, low, high in ((wide, 5, 95), (narrow, 25, 75)):
        at_the_start = band.get_paths()[0].vertices
        at_the_start = at_the_start[at_the_start[:, 0] == 0.0][:, 1]
        assert (at_the_start.min(), at_the_start.max()) == pytest.approx((low, high))


def test_a_fan_takes_a_prediction_and_picks_a_series_and_a_channel(axes):
    t = torch.linspace(0, 1, 5)
    samples = torch.zeros(7, 5, 3, 2)
    samples[:, :, 2, 1] = 4.0
    fan(SimpleNamespace(samples=samples.requires_grad_()), t, axes, number=2, channel=1, linestyle=":")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), 4.0)
    assert axes.lines[0].get_linestyle() == ":"


@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 3, 2), (7, 5, 3)])
def test_samples_at_other_times_are_refused(axes, shape):
    with pytest.raises(ValueError, match=r"`prediction` has samples .* at the T = 5 times"):
        fan(torch.zeros(shape), torch.linspace(0, 1, 5), axes)


@pytest.mark.parametrize("level", [0.0, 1.0, 90])
def test_a_level_is_a_share(axes, level):
    with pytest.raises(ValueError, match="`levels` are shares between 0 and 1"):
        fan(torch.zeros(7, 5), torch.linspace(0, 1, 5), axes, levels=(0.5, level))


def test_a_forecast_shows_what_was_known_and_what_was_not(axes):
    series = sinusoids(3, 20, generator=torch.Generator().manual_seed(0))
    t, samples = torch.linspace(0, 5, 9), torch.randn(11, 9, 3, 1)
    known, later = series.before(2.5), series.after(2.5)
    truth = (t, torch.sin(t))
    assert forecast(known, samples, t, axes, truth=truth, later=later, since=2.5, number=1) is axes
    labels = dict(zip(axes.get_legend_handles_labels()[1], axes.get_legend_handles_labels()[0], strict=True))
    assert set(labels) == {"truth", "median, 50 % and 90 %", "not shown", "observed"}
    np.testing.assert_allclose(labels["observed"].get_xdata(), known[1].times)
    np.testing.assert_allclose(labels["not shown"].get_xdata(), later[1].times)
    assert labels["not shown"].get_markerfacecolor() == "white"
    np.testing.assert_allclose(labels["truth"].get_ydata(), t.sin().double().numpy())
    (shade,) = axes.patches
    assert shade.get_x() == 2.5


def test_channels_have_names_too(axes, series):
    named = series.with_values(series.values, ["hdl", "sbp"])
    observations(named, axes, number=1, channel="sbp")
    assert axes.lines[0].get_ydata().tolist() == [8, 1]
    t = torch.linspace(0, 3, 4)
    samples = torch.stack([torch.zeros(5, 4, 2), torch.ones(5, 4, 2)], -1)
    drawn = forecast(named, samples, t, Figure().subplots(), number=1, channel="sbp").lines
    assert drawn[0].get_ydata().tolist() == [1] * 4
    assert drawn[1].get_ydata().tolist() == [8, 1]
    with pytest.raises(ValueError, match="`channel` is one of hdl, sbp, but 'bmi' came"):
        observations(named, axes, channel="bmi")
    with pytest.raises(ValueError, match="the number of one of 2 channels, or its name, but 2 came"):
        observations(named, axes, channel=2)


def test_a_series_is_named_by_its_id():
    named = Series.from_dict({"ann": ([0.0, 1.0], [5.0, 6.0]), "bob": ([0.0, 2.0], [7.0, 8.0])})
    axes = observations(named, Figure().subplots(), number="bob")
    assert axes.lines[0].get_ydata().tolist() == [7.0, 8.0]
    for wrong in ("eve", 2):
        with pytest.raises(ValueError, match="`number` is that of one of 2 series, or its id"):
            observations(named, Figure().subplots(), number=wrong)
    with pytest.raises(TypeError, match="`channel` is a number"):
        fan(torch.randn(5, 3, 2, 1), torch.arange(3.0), Figure().subplots(), channel="crp")
