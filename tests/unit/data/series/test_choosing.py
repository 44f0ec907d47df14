from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pathline.data import Series, Standardization

NAN = float("nan")


@pytest.fixture
def series():
    """Two series of 4 and 10 rows with three channels."""
    values = torch.arange(42.0).reshape(14, 3)
    values[::2, 2] = NAN
    return Series(
        torch.cat([torch.arange(4.0), torch.arange(10.0)]),
        values,
        torch.tensor([4, 10]),
        static=torch.tensor([[50.0, 1.0], [70.0, NAN]]),
        static_names=["age", "sex"],
        labels=torch.tensor([1, 0]),
        channels=["hdl", "sbp", "bmi"],
        ids=[3, 14],
    )


@pytest.mark.parametrize(
    ("keep", "lengths"),
    [
        (torch.tensor(0.5), [2, 5]),
        (np.float32(0.5), [2, 5]),
        ([0.25, 0.9], [1, 9]),
        (torch.tensor([1.0, 0.01]), [4, 1]),
        (np.int64(3), [3, 3]),
        ([0, 10], [0, 10]),
    ],
)
def test_thinned_by_fractions_and_counts(series, keep, lengths):
    assert series.thin(keep).lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda s: s.thin(torch.tensor([0.5, 1.5])), ValueError, "fraction above 0 and up to 1"),
        (lambda s: s.thin([1, 2, 3]), ValueError, r"or one a series, \(2,\), but torch.int64 of shape \(3,\) came"),
        (lambda s: s.thin(s.mask.any(1)), ValueError, r"Rows are chosen by booleans in series.keep\("),
        (lambda s: s.thin(0.5, 0), TypeError, "`generator` is a torch.Generator, but 0 came.*manual_seed"),
        (lambda s: s.split((0.5, 0.5), 0), TypeError, "`generator` is a torch.Generator"),
        (lambda s: s.before(pd.Timestamp("2020-01-01")), TypeError, "`t` is a number, in the unit of the series"),
        (lambda s: s.by_id("14"), ValueError, "No series is called '14'. Did you mean 14?"),
        (lambda s: s.by_id(15), ValueError, "The first of the 2 names: 3, 14"),
        (lambda s: s["hdl"], TypeError, r"channels: series.select\(...\)"),
        (lambda s: s.select("hbl"), ValueError, "no channel 'hbl'. Did you mean 'hdl'\\? Its channels: hdl, sbp, bmi"),
        (lambda s: s.select(), ValueError, "at least one channel, of hdl, sbp, bmi, but none came"),
        (lambda s: s.select("hdl", "hdl"), ValueError, "2 different names are wanted"),
        (lambda s: s.replace(labels=[1]), ValueError, "`labels` has one entry a series"),
        (lambda s: s.replace(labels=["yes", "no"]), TypeError, r"`labels` are numbers.*pandas.factorize"),
        (lambda s: s.replace(values=s.values), TypeError, r"'values' came. Values and channels have with_values"),
    ],
)
def test_wrong_questions_are_named(series, ask, error, message):
    with pytest.raises(error, match=message):
        ask(series)


def test_names_come_one_by_one_or_in_a_list(series):
    for found in (series.by_id(14, 3), series.by_id([14, 3]), series.by_id(series.ids[::-1])):
        assert found.ids.tolist() == [14, 3]


def test_parts_may_be_counted_by_numpy(series):
    assert [len(part) for part in series.split(np.array([1, 1]))] == [1, 1]


def test_some_of_the_channels_with_their_scaling(series):
    scaled = series.standardized()
    some = scaled.select("bmi", "hdl")
    assert some.channels == some.scaling.channels == ("bmi", "hdl")
    torch.testing.assert_close(some.values, scaled.values[:, [2, 0]], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(some.unstandardized().values, series.values[:, [2, 0]], equal_nan=True)
    assert series.select("bmi").observed().lengths.tolist() == [2, 5]
    assert torch.equal(some.times, series.times)


def test_companions_are_replaced_and_checked(series):
    years = series.standardized().shifted(1.0)
    other = years.replace(labels=torch.tensor([5, 6]), static=torch.zeros(2, 1))
    assert (other.labels.tolist(), other.static_names) == ([5, 6], ("static 0",))
    assert other.scaling is years.scaling
    assert torch.equal(other.origin, years.origin)
    assert other.ids.tolist() == [3, 14]
    assert years.replace(static=torch.zeros(2, 2)).static_names == ("age", "sex")
    assert years.replace(static=torch.zeros(2, 1), static_names=["risk"]).static_names == ("risk",)
    bare = years.replace(static=None, labels=None, ids=None)
    assert (bare.static, bare.labels, bare.ids, bare.static_names) == (None, None, None, ())


def test_static_covariates_are_scaled_by_hand(series):
    scaling = Standardization.of(series.static[:, :1], ["age"])
    assert (scaling.mean.tolist(), scaling.std.tolist(), scaling.channels) == ([60], [10], ("age",))
    assert Standardization.of(series.static).mean.tolist() == [60, 1]
    with pytest.raises(ValueError, match="'age' has none"):
        Standardization.of(torch.tensor([[NAN]]), ["age"])
