from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pathline.data import Series

NAN = float("nan")


@pytest.fixture
def series():
    """Five series of 3, 0, 1, 4 and 2 rows, with everything that a series can carry."""
    lengths = torch.tensor([3, 0, 1, 4, 2])
    times = torch.tensor([0.0, 1.0, 4.0, 2.0, -1.0, 0.0, 0.5, 3.0, 1.0, 9.0])
    values = torch.arange(20.0).reshape(10, 2)
    values[[1, 4, 7, 7], [0, 1, 0, 1]] = NAN
    return Series(
        times,
        values,
        lengths,
        static=torch.arange(5.0)[:, None],
        inputs=torch.arange(30.0).reshape(10, 3),
        labels=torch.arange(5),
        row_labels=torch.arange(10),
        channels=("a", "b"),
        ids=list("vwxyz"),
    )


def pieces(series):
    """Each series alone, read with offsets: times, values, inputs, row labels."""
    ends = series.offsets.tolist()
    return [
        tuple(t[a:b] for t in (series.times, series.values, series.inputs, series.row_labels))
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


def test_what_can_be_read_off(series):
    assert len(series) == 5
    assert series.offsets.tolist() == [0, 3, 3, 4, 8, 10]
    assert series.rows.tolist() == [0, 0, 0, 2, 3, 3, 3, 3, 4, 4]
    assert series.places.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 0, 1]
    assert series.gaps.tolist() == [0, 1, 3, 0, 0, 1, 0.5, 2.5, 0, 8]
    assert series.mask.sum().item() == 16
    assert series.times.dtype == torch.float64
    assert series.starts[[0, 2, 3, 4]].tolist() == [0, 2, -1, 1]
    assert series.ends[[0, 2, 3, 4]].tolist() == [4, 2, 3, 9]
    assert series.starts[1].isnan()
    assert series.ends[1].isnan()
    assert repr(series).startswith("Series(5 series of 2 channels (a, b), 10 rows (0 to 4 a series), 20 % missing")


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 4),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(3, 1),
        [4, 0, 0, 3],
        [],
        torch.tensor([3, -1]),
        torch.tensor([True, False, True, True, False]),
        np.array([2, 1]),
    ],
)
def test_series_are_chosen_as_from_a_list(series, index):
    chosen = series[index]
    key = index if isinstance(index, slice) else torch.as_tensor(index).long()
    if isinstance(index, torch.Tensor) and index.dtype == torch.bool:
        key = index
    numbers = np.arange(5)[key if isinstance(key, slice) else key.numpy()].tolist()
    assert chosen.lengths.tolist() == [int(series.lengths[i]) for i in numbers]
    for got, i in zip(pieces(chosen), numbers, strict=True):
        same(got, pieces(series)[i])
    assert chosen.ids.tolist() == ["vwxyz"[i] for i in numbers]
    assert chosen.labels.tolist() == numbers
    assert chosen.static[:, 0].tolist() == numbers


def test_one_of_them_and_all_in_turn(series):
    assert series[-2].times.tolist() == [-1, 0, 0.5, 3]
    assert [len(one.times) for one in series] == series.lengths.tolist()
    with pytest.raises(IndexError, match="There are 5 series, but number 5 was asked for"):
        series[5]
    with pytest.raises(TypeError, match="numbers \\(m,\\), or booleans"):
        series[torch.tensor([0.5])]


def test_series_are_chosen_by_their_names(series):
    assert series.by_id("z", "v").ids.tolist() == ["z", "v"]
    assert series.by_id("z").times.tolist() == [1, 9]
    named = Series(series.times, series.values, series.lengths, ids=["ann", "bob", "eve", "kim", "lee"])
    with pytest.raises(ValueError, match="No series is called 'annn'. Did you mean 'ann'?"):
        named.by_id("annn")
    with pytest.raises(ValueError, match="The first of the 5 names: 'ann', 'bob'"):
        named.by_id(7)
    with pytest.raises(ValueError, match="have no names"):
        Series(series.times, series.values, series.lengths).by_id("a")
    with pytest.raises(IndexError, match="There are 5 series, but 2 booleans came"):
        series[[True, False]]


def test_joined_is_what_was_taken_apart(series):
    joined = Series.cat(list(series))
    same(
        (joined.times, joined.values, joined.inputs, joined.labels, joined.lengths),
        (series.times, series.values, series.inputs, series.labels, series.lengths),
    )
    assert joined.ids.tolist() == series.ids.tolist()
    with pytest.raises(ValueError, match="same channels are joined, but a, b and channel 0 came"):
        Series.cat([series, Series.from_arrays([[0.0]], [[1.0]])])
    without = Series(series.times, series.values, series.lengths, channels=("a", "b"))
    labelled = Series(series.times, series.values, series.lengths, channels=("a", "b"), labels=torch.arange(5))
    with pytest.raises(ValueError, match="all parts have `labels` or none, but 1 of 2"):
        Series.cat([labelled, without])
    with pytest.raises(ValueError, match="standardized alike"):
        Series.cat([series, series.standardized()])


def test_before_and_after_share_all_rows(series):
    for t in (0.5, torch.tensor([1.0, 7.0, 2.0, 0.5, 10.0])):
        early, late = series.before(t), series.after(t)
        assert (early.lengths + late.lengths).tolist() == series.lengths.tolist()
        edges = torch.as_tensor(t).expand(5)
        for i in range(5):
            own = series[i].times
            assert early[i].times.tolist() == own[own < edges[i]].tolist()
            assert late[i].times.tolist() == own[own >= edges[i]].tolist()
        assert early.ids.tolist() == list("vwxyz")
    assert series.between(0.0, 1.0).times.tolist() == [0.0, 0.0, 0.5]
    with pytest.raises(ValueError, match="`t` is a number or one entry a series, \\(5,\\), but shape \\(2,\\) came"):
        series.before(torch.zeros(2))


def test_the_first_and_the_last_rows(series):
    assert series.first(2).times.tolist() == [0, 1, 2, -1, 0, 1, 9]
    assert series.last(2).times.tolist() == [1, 4, 2, 0.5, 3, 1, 9]
    counts = torch.tensor([1, 0, 1, 3, 0])
    assert series.first(counts).lengths.tolist() == counts.tolist()
    assert series.first(series.lengths - 1).times.tolist() == [0, 1, -1, 0, 0.5, 1]


def test_rows_without_a_value_go(series):
    assert series.observed().times.tolist() == [0, 1, 4, 2, -1, 0, 0.5, 1, 9]
    with pytest.raises(ValueError, match="`keep` takes booleans, one a row"):
        series.keep(torch.ones(5, dtype=torch.bool))


def test_thinned_series_are_random_subsets_in_order(series):
    draw = lambda seed: series.thin(0.5, torch.Generator().manual_seed(seed))  # noqa: E731
    assert draw(0).lengths.tolist() == [2, 0, 1, 2, 1]  # 1.5 rounds to even
    assert draw(0).times.tolist() == draw(0).times.tolist()
    assert len({tuple(draw(seed).times.tolist()) for seed in range(20)}) > 5
    for i in range(5):
        assert set(draw(1)[i].times.tolist()) <= set(series[i].times.tolist())
    counts = torch.tensor([3, 0, 1, 1, 0])
    assert series.thin(counts).lengths.tolist() == counts.tolist()
    with pytest.raises(ValueError, match=r"asks series 1 \(id 'w'\) for 2 rows, but it has 0"):
        series.thin(2)
    with pytest.raises(ValueError, match="fraction above 0 and up to 1"):
        series.thin(1.5)


def test_every_row_is_kept_equally_often():
    series = Series.from_arrays(torch.linspace(0, 1, 10), torch.randn(4000, 10, 1))
    kept = series.thin(3, torch.Generator().manual_seed(0))
    share = torch.bincount((kept.times * 9).round().long(), minlength=10) / 4000
    assert (share - 0.3).abs().max() < 4 * (0.3 * 0.7 / 4000) ** 0.5


def test_split_deals_out_whole_series(series):
    parts = series.split((0.4, 0.4, 0.2), torch.Generator().manual_seed(1))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert sorted(name for part in parts for name in part.ids) == list("vwxyz")
    assert [len(part) for part in series.split((4, 1))] == [4, 1]
    with pytest.raises(ValueError, match="with the sum 0.5"):
        series.split((0.3, 0.2))
    with pytest.raises(ValueError, match="at least one of the 5 series"):
        series.split((0.95, 0.05))


def test_standardized_and_back(series):
    scaled = series.standardized()
    np.testing.assert_allclose(np.nanmean(scaled.values, 0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(scaled.values, 0), 1, rtol=1e-6)
    torch.testing.assert_close(scaled.unstandardized().values, series.values, equal_nan=True)
    assert torch.equal(series[:2].standardized(scaled.scaling).values.isnan(), series[:2].values.isnan())
    torch.testing.assert_close(scaled.unscale(scaled.values), series.values, equal_nan=True)
    with pytest.raises(ValueError, match="standardized already"):
        scaled.standardized()
    with pytest.raises(ValueError, match="but 'b' has none"):
        series.with_values(series.values * torch.tensor([1.0, NAN])).standardized()


def test_a_constant_channel_keeps_its_unit():
    flat = Series.from_arrays([[0.0, 1.0, 2.0]], [[0.1, 0.1, 0.1]]).standardized()
    assert flat.scaling.std.tolist() == [1.0]
    assert flat.values.abs().max() < 1e-7


def test_origins_add_up(series):
    moved = series.shifted().shifted(2.0)
    assert moved.origin.tolist() == [2, 2, 4, 1, 3]
    torch.testing.assert_close(moved.times + moved.origin[moved.rows], series.times)
    assert series.shifted(torch.arange(5.0)).times.tolist() == [0, 1, 4, 0, -4, -3, -2.5, 0, -3, 5]


def test_what_was_last_known():
    values = torch.tensor([[NAN, 1.0], [2.0, NAN], [NAN, NAN], [NAN, 4.0], [5.0, NAN]])
    series = Series(torch.arange(5.0), values, torch.tensor([3, 2])).carried_forward()
    expected = torch.tensor([[NAN, 1.0], [2.0, 1.0], [2.0, 1.0], [NAN, 4.0], [5.0, 4.0]])
    torch.testing.assert_close(series.values, expected, rtol=0, atol=0, equal_nan=True)


def test_other_values_at_the_same_rows(series):
    other = series.with_values(torch.randn(10, 3))
    assert other.channels == ("channel 0", "channel 1", "channel 2")
    assert other.times is series.times
    assert series.with_values(-series.values).channels == ("a", "b")
    assert series.with_values(torch.randn(10, 1), ["risk"]).channels == ("risk",)
    with pytest.raises(ValueError, match="`values` has one entry a row"):
        series.with_values(torch.randn(9, 2))


def test_types_change_and_times_stay_double(series):
    half = series.to(dtype=torch.float16)
    assert half.values.dtype == half.static.dtype == half.inputs.dtype == torch.float16
    assert half.times.dtype == half.origin.dtype == torch.float64
    assert half.labels.dtype == torch.int64
    assert series.standardized().to(torch.float64).scaling.mean.dtype == torch.float64
    assert series.to("meta").values.device.type == series.to("meta").rows.device.type == "meta"


def test_gradients_reach_the_values():
    values = torch.randn(4, 1, requires_grad=True)
    series = Series(torch.arange(4.0), values, torch.tensor([2, 2]))
    series[[1]].padded().values.sum().backward()
    assert values.grad[:, 0].tolist() == [0, 0, 1, 1]


def test_a_series_survives_pickling(series):
    again = pickle.loads(pickle.dumps(series))
    same(pieces(again)[3], pieces(series)[3])
    assert again.channels == series.channels


# ------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": [0.0, NAN, 2.0]}, r"`times` are finite numbers, but nan came at row 1, in series 1 \(id 'q'\)"),
        ({"times": [0.0, 5.0, 2.0]}, r"in series 1 \(id 'q'\) 2.0 follows 5.0 \(row 2\); there is 1 such row"),
        ({"times": [0.0, 2.0, 2.0]}, r"series 1 \(id 'q'\) has the time 2.0 twice.*duplicates=\"mean\""),
        ({"lengths": [1, 1]}, r"how many of the 3 rows .* with the sum 2 came"),
        ({"values": [[1.0], [2.0]]}, r"`values` has one entry a row, \(3, D\), but shape \(2, 1\) came"),
        ({"values": [1.0, 2.0, 3.0]}, r"`values` has one entry a row.*One channel is `values\[:, None\]`"),
        ({"times": [[0.0], [1.0], [2.0]]}, r"`times` are the times of all series .*from_arrays"),
        ({"static": [[1.0]]}, r"`static` has one entry a series"),
        ({"inputs": [[1.0], [NAN], [0.0]]}, r"`inputs` are known at each row, but there is a NaN at row 1"),
        ({"labels": [1, 2, 3]}, r"`labels` has one entry a series, \(2, \.\.\.\), but shape \(3,\) came"),
        ({"row_labels": [1, 2]}, r"`row_labels` has one entry a row"),
        ({"channels": ["a", "b"]}, r"1 different names are wanted for the channels, but \['a', 'b'\] came"),
        ({"ids": ["p"]}, r"`ids` has one name a series, 2"),
        ({"origin": [0.0]}, r"`origin` has one entry a series"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    right = {"times": [0.0, 1.0, 2.0], "values": [[1.0], [2.0], [3.0]], "lengths": [1, 2], "ids": ["p", "q"]}
    tensors = {name: torch.tensor(x) if name not in ("ids", "channels") else x for name, x in (right | changes).items()}
    with pytest.raises(ValueError, match=message):
        Series(**tensors)


def test_values_are_real_numbers():
    with pytest.raises(TypeError, match="`values` are real numbers, but torch.complex64 came"):
        Series(torch.zeros(1), torch.zeros(1, 1, dtype=torch.complex64), torch.tensor([1]))
    assert Series(torch.zeros(1), torch.zeros(1, 1, dtype=torch.int32), torch.tensor([1])).dtype == torch.float32


def test_times_may_go_back_from_one_series_to_the_next():
    series = Series(torch.tensor([5.0, 5.0, 1.0]), torch.zeros(3, 1), torch.tensor([1, 1, 1]))
    assert series.gaps.tolist() == [0, 0, 0]


def test_scaling_finds_the_channels_by_their_names():
    times = torch.arange(3.0)
    ab = Series.from_arrays(times, torch.randn(2, 3, 2) * torch.tensor([1.0, 100.0]), channels=["a", "b"])
    ba = ab.with_values(ab.values[:, [1, 0]], ["b", "a"])
    scaled = ab.standardized()
    torch.testing.assert_close(ba.standardized(scaled.scaling).values[:, [1, 0]], scaled.values)
    torch.testing.assert_close(ba.standardized(scaled.scaling).unstandardized().values, ba.values)
    turned = scaled.with_values(scaled.values[:, [1, 0]], ["b", "a"])
    torch.testing.assert_close(turned.unstandardized().values, ba.values)
    with pytest.raises(ValueError, match="`scaling` is of the channels a, b, but the series have a, c"):
        ab.with_values(ab.values, ["a", "c"]).standardized(scaled.scaling)
    nameless = Series.from_arrays(times, ab.values.reshape(2, 3, 2))
    assert torch.equal(nameless.standardized(scaled.scaling).values, scaled.values)


def test_types_without_room_are_refused(series):
    with pytest.raises(TypeError, match="`dtype` is a floating type, as missing values are NaN, but torch.int64 came"):
        series.to(torch.int64)
    large = series.with_values(series.values * 1e5)
    with pytest.raises(
        ValueError, match=r"inf came in the column 'b' at the time 0.0 \(row 0\), in series 0 \(id 'v'\)"
    ):
        large.to(torch.float16)
    with pytest.raises(ValueError, match="-inf came in the column 'a'"):
        series.with_values((0 * series.values).log())


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda s: s["v"], TypeError, r"but 'v' came. By their names: series.by_id"),
        (lambda s: s[["v"]], TypeError, "By their names"),
        (lambda s: s[0, 1], TypeError, r"by one index, but \(0, 1\) came. Several are series\[\[0, 1\]\]"),
        (lambda s: s.first(-1), ValueError, "`count` is a whole number from 0 on.*but -1 came"),
        (lambda s: s.last(1.5), ValueError, "`count` is a whole number from 0 on.*but 1.5 came"),
        (lambda s: s.before(NAN), ValueError, "`t` is a number, but NaN came"),
        (lambda s: s.after([1.0, 2.0]), ValueError, r"`t` is a number or one entry a series, \(5,\), but shape \(2,\)"),
        (lambda s: s.before([1.0, 1.0, NAN, 1.0, 1.0]), ValueError, r"but NaN came in series 2 \(id 'x'\)"),
        (lambda s: s[[0, 1, 0]].by_id("v"), ValueError, "2 series are called 'v'"),
    ],
)
def test_wrong_questions_are_named(series, ask, error, message):
    with pytest.raises(error, match=message):
        ask(series)


def test_lists_are_one_entry_a_series(series):
    assert series.before([1.0, 9.0, 9.0, 0.0, 9.0]).lengths.tolist() == [1, 0, 1, 1, 1]
    assert series.first([1, 2, 0, 3, 9]).lengths.tolist() == [1, 0, 0, 3, 2]
    assert series.before(series.starts).lengths.sum() == 0
