"""How values were scaled stays with them, to the last digit."""

from __future__ import annotations

import pytest
import torch

from pathline.data import Series, Standardization


def test_the_scaling_stays_in_double_precision():
    """Latitudes within one town: what single precision makes of their mean is a third of their deviation away."""
    draws = torch.randn(500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    series = Series.from_arrays([torch.arange(500.0)], [48.1 + 1e-5 * draws])
    single = series.standardized().to(torch.float32)
    assert single.values.dtype == torch.float32
    assert single.scaling.mean.dtype == torch.float64
    again = series.standardized(single.scaling).values
    torch.testing.assert_close(again, series.standardized().values, rtol=0, atol=0)
    back = single.to(torch.float64).unstandardized().values
    torch.testing.assert_close(back, series.values, rtol=0, atol=1e-11)


def test_values_of_another_number_of_channels_are_refused():
    series = Series.from_arrays(torch.arange(5.0), torch.randn(3, 5, 2), channels=["a", "b"]).standardized()
    with pytest.raises(ValueError, match="The scaling is of 2 channels"):
        series.unscale(torch.zeros(4, 1))
    assert series.select("b").unscale(torch.zeros(4, 1)).shape == (4, 1)


def test_columns_are_a_rectangle():
    series = Series.from_arrays(torch.arange(5.0), torch.randn(3, 5, 2))
    for wrong in (series, torch.zeros(3)):
        with pytest.raises(TypeError, match=r"`columns` is a tensor \(n, D\)"):
            Standardization.of(wrong)
