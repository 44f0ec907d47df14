from __future__ import annotations

import pytest
import torch

from pathline.data import Series

NAN = float("nan")


@pytest.fixture
def series():
    times = torch.tensor([0.0, 1.0, 4.0, 1.0, 4.0, 7.0, 8.0])
    values = torch.tensor([[1.0, NAN], [2.0, 3.0], [NAN, NAN], [5.0, 6.0], [7.0, 8.0], [9.0, NAN], [NAN, 1.0]])
    return Series(times, values, torch.tensor([3, 0, 4]), inputs=torch.arange(7.0)[:, None])


def test_padded_entry_by_entry(series):
    view = series.padded()
    assert view.times.tolist() == [[0, 1, 4, 4], [0, 0, 0, 0], [1, 4, 7, 8]]  # the last time goes on
    for i in range(3):
        own = series[i]
        for j in range(4):
            there = j < len(own.times)
            assert view.present[i, j] == there
            assert view.inputs[i, j, 0] == (own.inputs[j, 0] if there else 0)
            for d in range(2):
                seen = there and not own.values[j, d].isnan()
                assert view.mask[i, j, d] == seen
                assert view.values[i, j, d] == (own.values[j, d] if seen else 0)


def test_union_entry_by_entry(series):
    view = series.union()
    assert view.times.tolist() == [0, 1, 4, 7, 8]
    for i in range(3):
        own = dict(zip(series[i].times.tolist(), series[i].values, strict=True))
        for j, t in enumerate(view.times.tolist()):
            assert view.present[i, j] == (t in own)
            row = own.get(t, torch.full((2,), NAN))
            assert torch.equal(view.mask[i, j], ~row.isnan())
            assert torch.equal(view.values[i, j], row.nan_to_num(0.0))


def test_rows_come_back(series):
    for view in (series.padded(), series.union()):
        answer = torch.randn(*view.present.shape, 5)
        rows = view.align(answer)
        again = torch.zeros_like(answer)
        again[view.series, view.index] = rows
        assert torch.equal(again, answer * view.present[..., None])
        assert torch.equal(view.align(answer.transpose(0, 1), time_first=True), rows)
        assert torch.equal(series.align(answer), rows)
        assert torch.equal(view.align(view.values), series.values.nan_to_num(0.0))


def test_a_rectangle_that_is_neither(series):
    with pytest.raises(ValueError, match=r"\(3, 4, \.\.\.\), as padded\(\) has, or \(3, 5, \.\.\.\), as union\(\) has"):
        series.align(torch.zeros(3, 6))
    with pytest.raises(ValueError, match=r"begins with \(5, 3\) \(times first\), but \(3, 5\) came"):
        series.union().align(torch.zeros(3, 5), time_first=True)
    twofold = Series.from_arrays([[0.0, 1.0], [1.0]], [[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match="cannot tell which"):
        twofold.align(torch.zeros(2, 2))
    assert Series.from_arrays([[0.0, 1.0]], [[1.0, 2.0]]).align(torch.eye(2)[:1]).tolist() == [1, 0]


def test_no_series_and_no_rows():
    empty = Series(torch.zeros(0), torch.zeros(0, 2), torch.zeros(2, dtype=torch.long))
    assert empty.padded().values.shape == (2, 0, 2)
    assert empty.union().values.shape == (2, 0, 2)
    assert empty[:0].padded().times.shape == (0, 0)
    assert empty.gaps.shape == (0,)
    assert empty.starts.isnan().all()
    assert repr(empty) == "Series(2 series of 2 channels (channel 0, channel 1), 0 rows)"


def test_gradients_pass_both_views():
    values = torch.tensor([[1.0], [NAN], [2.0]], requires_grad=True)
    series = Series(torch.tensor([0.0, 1.0, 1.0]), values, torch.tensor([2, 1]))
    (series.padded().values.sum() + series.union().values.sum()).backward()
    assert values.grad[:, 0].tolist() == [2, 0, 2]
