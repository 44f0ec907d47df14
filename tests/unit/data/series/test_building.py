from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pathline.data import Series

NAN = float("nan")


def table(seed=0, rows=300):
    """Visits in disorder: 20 people, times on a grid so that some repeat, three channels with holes."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "who": draw.choice(list("abcdefghijklmnopqrst"), rows),
            "when": draw.integers(0, 60, rows) / 4,
            "x": draw.normal(size=rows),
            "y": draw.normal(size=rows),
            "z": draw.normal(size=rows),
        }
    )
    for name in "xyz":
        frame.loc[draw.random(rows) < 0.4, name] = NAN
    return frame


def by_pandas(frame, how):
    """The same by pandas' own group-by: id, time, then the mean (or first, or last) that is there."""
    return getattr(frame.groupby(["who", "when"])[["x", "y", "z"]], how)()


@pytest.mark.parametrize("how", ["mean", "first", "last"])
def test_a_wide_table_becomes_what_pandas_groups(how):
    frame = table()
    series = Series.from_table(
        frame, id="who", time="when", values=["x", "y", "z"], duplicates=how, dtype=torch.float64
    )
    expected = by_pandas(frame, how)
    assert len(series) == frame.who.nunique()
    assert series.ids.tolist() == frame.who.unique().tolist()  # in the order in which they come
    for name, one in zip(series.ids, series, strict=True):
        own = expected.loc[name]
        assert one.times.tolist() == own.index.tolist()
        np.testing.assert_allclose(one.values.numpy(), own.to_numpy(), rtol=1e-14)


@pytest.mark.parametrize("how", ["mean", "first", "last"])
def test_a_long_table_says_the_same_as_a_wide_one(how):
    frame = table()
    long = frame.melt(["who", "when"], var_name="test", value_name="result", ignore_index=False)
    long = long.sort_index(kind="stable").dropna()
    a = Series.from_table(frame, id="who", time="when", duplicates=how).observed()
    b = Series.from_table(long, id="who", time="when", variable="test", value="result", duplicates=how)
    b = b[[b.ids.tolist().index(name) for name in a.ids]]
    assert a.channels == b.channels == ("x", "y", "z")
    torch.testing.assert_close((a.times, a.values), (b.times, b.values), equal_nan=True)


def test_a_long_table_takes_the_variables_that_are_named():
    long = pd.DataFrame({"id": [1, 1, 2, 2], "t": [0, 1, 0, 3], "k": ["b", "a", "b", "c"], "v": [1.0, 2.0, 3.0, 4.0]})
    series = Series.from_table(long, id="id", time="t", variable="k", value="v", values=["c", "b"])
    assert series.channels == ("c", "b")
    torch.testing.assert_close(series.values, torch.tensor([[NAN, 1], [NAN, 3], [4, NAN]]), equal_nan=True)
    assert series.times.tolist() == [0, 0, 3]
    with pytest.raises(ValueError, match="no column 'd'"):
        Series.from_table(long, id="id", time="t", variable="k", value="v", values=["d"])
    with pytest.raises(ValueError, match="one column names the channel and another"):
        Series.from_table(long, id="id", time="t", variable="k")
    with pytest.raises(ValueError, match="pivot_table"):
        Series.from_table(long, id="id", time="t", variable="k", value="v", inputs=["t"])


def test_columns_with_other_roles():
    frame = table().groupby(["who", "when"], as_index=False).mean()
    frame["dose"] = np.arange(len(frame), dtype=float)
    frame["age"] = frame.who.map(ord)
    frame["died"] = frame.who.map(lambda name: int(name in "abc"))
    frame["asleep"] = np.arange(len(frame)) % 2
    shuffled = frame.sample(frac=1, random_state=1)
    series = Series.from_table(
        shuffled, id="who", time="when", static=["age"], inputs=["dose"], labels="died", row_labels="asleep"
    )
    assert series.channels == ("x", "y", "z")
    assert series.labels.dtype == series.row_labels.dtype == torch.int64
    for name, one in zip(series.ids, series, strict=True):
        own = frame[frame.who == name]
        assert one.inputs[:, 0].tolist() == own.dose.tolist()
        assert one.row_labels.tolist() == own.asleep.tolist()
        assert (one.static.item(), one.labels.item()) == (ord(name), int(name in "abc"))
    assert (series.static_names, series.input_names) == (("age",), ("dose",))


def test_one_series_without_an_id_and_dates():
    days = pd.to_datetime(["2024-01-03 00:00", "2024-01-01 00:00", "2024-01-02 12:00"])
    frame = pd.DataFrame({"day": days, "level": [3.0, 1.0, 2.0]})
    series = Series.from_table(frame, time="day", unit="days").shifted()
    assert series.times.tolist() == [0.0, 1.5, 2.0]
    assert series.values[:, 0].tolist() == [1, 2, 3]
    assert series.origin.item() == (pd.Timestamp("2024-01-01") - pd.Timestamp(0)).days
    hours = Series.from_table(frame.assign(day=frame.day.dt.tz_localize("UTC")), time="day", unit="hours")
    assert hours.gaps.tolist() == [0, 36, 12]
    with pytest.raises(ValueError, match='holds dates. Say in which unit to count them.*unit="days"'):
        Series.from_table(frame, time="day")
    with pytest.raises(ValueError, match='Did you mean "days"'):
        Series.from_table(frame, time="day", unit="day")
    with pytest.raises(ValueError, match="holds numbers. Leave `unit` out"):
        Series.from_table(frame, time="level", unit="days")


def test_there_and_back():
    frame = table()
    frame["age"] = frame.who.map(ord)
    series = Series.from_table(frame, id="who", time="when", static=["age"], duplicates="mean", dtype=torch.float64)
    back = series.standardized().shifted().to_table()
    assert list(back.columns) == ["id", "time", "x", "y", "z", "age"]
    again = Series.from_table(back, id="id", time="time", static=["age"], dtype=torch.float64)
    torch.testing.assert_close(
        (again.times, again.values, again.static), (series.times, series.values, series.static), equal_nan=True
    )
    scaled = series.standardized()
    np.testing.assert_array_equal(scaled.to_table(original=False)[["x", "y", "z"]], scaled.values)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"time": "when_"}, ValueError, "`time`: the table has no column 'when_'. Did you mean 'when'\\?"),
        ({"values": ["x", "yy"]}, ValueError, "`values`: the table has no column 'yy'"),
        ({"values": ["word"]}, TypeError, "`values`: the column 'word' holds .*, but numbers are wanted"),
        ({"time": "word"}, TypeError, "`time`: the column 'word' holds"),
        (
            {"static": ["x"], "values": ["y"], "duplicates": "mean"},
            ValueError,
            "the column 'x' is constant in each series, but series 5",
        ),
        ({"duplicates": "meen"}, ValueError, 'Did you mean "mean"'),
        ({"empty": "skip", "duplicates": "mean"}, ValueError, "`empty` is one of 'error', 'drop', 'keep'"),
        ({}, ValueError, r"series \d+ \(id '.'\) has the time .* twice; there are \d+ repeated rows"),
    ],
)
def test_wrong_columns_are_named(changes, error, message):
    frame = table().assign(word="w")
    with pytest.raises(error, match=message):
        Series.from_table(frame, **({"id": "who", "time": "when", "values": ["x", "y"]} | changes))


def test_rows_without_a_time_or_an_id():
    frame = table().drop_duplicates(["who", "when"]).reset_index(drop=True)
    frame.loc[7, "when"] = NAN
    with pytest.raises(ValueError, match=r"nan came at row 7, in series \d+ \(id '.'\); 1 rows have none.*dropna"):
        Series.from_table(frame, id="who", time="when")
    frame = table().astype({"who": object})
    frame.loc[3, "who"] = None
    with pytest.raises(ValueError, match="the column 'who' is empty in 1 rows, the first being row 3"):
        Series.from_table(frame, id="who", time="when")
    with pytest.raises(ValueError, match="`table` has no rows"):
        Series.from_table(frame[:0], id="who", time="when")
    with pytest.raises(TypeError, match="pandas.DataFrame, but dict came"):
        Series.from_table({}, time="when")
    with pytest.raises(ValueError, match="No column of numbers is left"):
        Series.from_table(frame[["who", "when"]].dropna(), id="who", time="when")


def test_series_without_a_value():
    frame = pd.DataFrame({"id": ["a", "b", "c"], "t": [0, 0, 0], "x": [1.0, NAN, NAN]})
    with pytest.raises(ValueError, match=r"series 1 \(id 'b'\) has none, as 1 others. Pass empty=\"drop\""):
        Series.from_table(frame, id="id", time="t")
    assert Series.from_table(frame, id="id", time="t", empty="drop").ids.tolist() == ["a"]
    assert Series.from_table(frame, id="id", time="t", empty="keep").lengths.tolist() == [1, 1, 1]


# ------------------------------------------------------------------------------------------------------ arrays
def test_lists_of_arrays():
    series = Series.from_arrays([[0, 1], torch.tensor([2.0])], [np.ones((2, 3)), torch.zeros(1, 3)])
    assert series.lengths.tolist() == [2, 1]
    assert series.dtype == torch.float32
    assert Series.from_arrays([torch.zeros(1)], [torch.zeros(1, 2, dtype=torch.float64)]).dtype == torch.float64
    assert Series.from_arrays([[0]], [[1.0]], dtype=torch.float64).dtype == torch.float64
    labelled = Series.from_arrays([[0, 1], [2]], [[1.0, 2.0], [3.0]], row_labels=[[0, 1], [2]], labels=[5, 6])
    assert labelled.row_labels.tolist() == [0, 1, 2]


def test_rectangles():
    values = torch.randn(4, 6, 2)
    shared = Series.from_arrays(torch.linspace(0, 1, 6), values, inputs=values[..., :1])
    assert torch.equal(shared.values.reshape(4, 6, 2), values)
    assert torch.equal(shared.inputs[:, 0], values[..., 0].flatten())
    own = Series.from_arrays(torch.rand(4, 6).sort(1).values, values)
    assert own.lengths.tolist() == [6] * 4
    with pytest.raises(ValueError, match=r"One series is values\[None\], one channel values\[..., None\]"):
        Series.from_arrays(torch.linspace(0, 1, 6), values[0])
    with pytest.raises(ValueError, match=r"`times` has the shape \(6,\) or \(4, 6\)"):
        Series.from_arrays(torch.linspace(0, 1, 5), values)


def test_disorder_is_an_error_unless_it_is_sorted():
    times, values = [[0.0, 2.0, 1.0], [5.0]], [[0.0, 2.0, 1.0], [5.0]]
    with pytest.raises(ValueError, match="series 0 .*1.0 follows 2.0.*sort=True"):
        Series.from_arrays(times, values)
    assert Series.from_arrays(times, values, sort=True).values[:, 0].tolist() == [0, 1, 2, 5]
    with pytest.raises(ValueError, match="1.0 follows 2.0"):
        Series.from_arrays(times, values, duplicates="mean")
    labelled = Series.from_arrays(times, values, sort=True, row_labels=[[7, 8, 9], [6]])
    assert labelled.row_labels.tolist() == [7, 9, 8, 6]


@pytest.mark.parametrize(("how", "expected"), [("mean", [1.5, 9.0]), ("first", [1.0, 9.0]), ("last", [2.0, 9.0])])
def test_repeated_times_are_merged(how, expected):
    values = [[[1.0, NAN], [2.0, 9.0]]]
    series = Series.from_arrays([[3.0, 3.0]], values, duplicates=how, inputs=[[[4.0], [4.0]]])
    assert series.times.tolist() == [3.0]
    assert series.values[0].tolist() == expected
    assert series.inputs[0].tolist() == [4.0]


def test_lists_that_disagree():
    with pytest.raises(ValueError, match="but 2 and 1 entries came"):
        Series.from_arrays([[0], [1]], [[1.0]])
    with pytest.raises(ValueError, match=r"Series 1 has `times` of shape \(1,\) and `values` of shape \(2, 1\)"):
        Series.from_arrays([[0], [1]], [[1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="at least one series, but an empty list"):
        Series.from_arrays([], [])
    with pytest.raises(ValueError, match=r"series 1 has none. Pass empty=\"drop\""):
        Series.from_arrays([[0], []], [[1.0], []])
    assert Series.from_arrays([[0], []], [[[1.0, 2.0]], []], empty="keep").lengths.tolist() == [1, 0]
    assert len(Series.from_arrays([[0], []], [[1.0], []], empty="drop")) == 1
    with pytest.raises(TypeError, match="`values` are numbers"):
        Series.from_arrays([[0]], [["high"]])


# ------------------------------------------------------------------------------------------------------- dicts
def test_a_dict_of_series():
    series = Series.from_dict({"p": ([0, 1], [[1.0, 2.0], [3.0, 4.0]]), "q": ([5], [[6.0, 7.0]])}, channels=["a", "b"])
    assert series.ids.tolist() == ["p", "q"]
    assert series.values.tolist() == [[1, 2], [3, 4], [6, 7]]


def test_a_dict_of_channels_with_times_of_their_own():
    data = {"p": {"a": ([0, 2], [1.0, 2.0]), "b": ([2, 3], [8.0, 9.0])}, "q": {"b": ([1], [7.0])}}
    series = Series.from_dict(data)
    assert series.times.tolist() == [0, 2, 3, 1]
    expected = torch.tensor([[1, NAN], [2, 8], [NAN, 9], [NAN, 7]])
    torch.testing.assert_close(series.values, expected, equal_nan=True)
    assert Series.from_dict(data, channels=("b", "a")).channels == ("b", "a")
    with pytest.raises(ValueError, match="`channels`: the table has no column 'b'"):
        Series.from_dict(data, channels=("a",))
    with pytest.raises(ValueError, match=r"Channel 'a' of series 0 \(id 'p'\) has times of shape \(2,\)"):
        Series.from_dict({"p": {"a": ([0, 2], [1.0])}})
    with pytest.raises(TypeError, match="but an empty dict came"):
        Series.from_dict({})


# ----------------------------------------------------------------------------------------------- what would be silent
def test_a_mask_says_missing():
    masked = np.ma.array([1.0, 999.0], mask=[False, True])
    one = Series.from_arrays([np.arange(2)], [masked])
    flat = Series.from_arrays(np.arange(2), masked[None, :, None])
    named = Series.from_dict({"a": {"x": (np.arange(2), masked)}})
    made = Series(torch.arange(2.0), masked[:, None], torch.tensor([2]), static=np.ma.array([[7]], mask=[[True]]))
    for series in (one, flat, named, made):
        assert series.mask[:, 0].tolist() == [True, False]
        assert series.values[0].item() == 1
    assert made.static.isnan().all()
    labels = np.ma.array([1, 0], mask=[False, True])
    assert Series.from_arrays([[0.0], [0.0]], [[1.0], [2.0]], labels=labels).labels.tolist() == [1, -1]


def test_numbers_that_a_type_does_not_hold_are_named():
    frame = pd.DataFrame({"id": [1, 1], "t": [0, 3], "x": [1.0, 2.0], "bp": [1.0, 1e40]})
    with pytest.raises(
        ValueError, match=r"inf came in the column 'bp' at the time 3.0 \(row 1\), in series 0 \(id 1\)"
    ):
        Series.from_table(frame, id="id", time="t")
    assert Series.from_table(frame, id="id", time="t", dtype=torch.float64).values[1, 1] == 1e40
    with pytest.raises(ValueError, match="float16 holds numbers up to 6.6e"):
        Series.from_arrays([[0.0]], [[1e6]], dtype=torch.float16)
    with pytest.raises(TypeError, match="`dtype` is a floating type"):
        Series.from_arrays([[0.0]], [[1.0]], dtype=torch.int64)
    with pytest.raises(TypeError, match="real numbers, but torch.complex64 came"):
        Series.from_arrays(torch.arange(2.0), torch.zeros(1, 2, 1, dtype=torch.complex64))


def labelled(**columns):
    return pd.DataFrame({"id": [1, 1, 2, 3], "t": [0, 1, 0, 0], "x": [1.0, 2.0, 3.0, 4.0], **columns})


def test_labels_with_empty_cells():
    def read(column, **how):
        return Series.from_table(labelled(y=column), id="id", time="t", values=["x"], **how)

    for column in ([1, 1, NAN, 0], pd.array([1, 1, None, 0], dtype="Int64")):
        labels = read(column, labels="y").labels
        assert labels.tolist() == [1, -1, 0]
        assert labels.dtype == torch.int64
    assert read([1, 1, NAN, 0], row_labels="y").row_labels.tolist() == [1, 1, -1, 0]
    assert read([1.5, 1.5, NAN, 0], labels=["y"]).labels[:, 0].isnan().tolist() == [False, True, False]
    assert read([1.5, 1.5, 2, 0], labels="y").labels.tolist() == [1.5, 2, 0]
    with pytest.raises(ValueError, match=r"but 'y' holds fractions. For a quantity pass labels=\['y'\]"):
        read([1.5, 1.5, NAN, 0], labels="y")
    with pytest.raises(ValueError, match="but 'y' holds nothing"):
        read([NAN] * 4, labels="y")


def test_whole_times_that_double_precision_would_merge():
    late = 1_600_000_000_000_000_000
    with pytest.raises(ValueError, match=f"{late + 1} becomes {late}: neighbours.*Subtract an origin"):
        Series.from_arrays([np.array([late + 1, late + 2])], [[1.0, 2.0]], duplicates="mean")
    with pytest.raises(ValueError, match="Subtract an origin"):
        Series.from_table(pd.DataFrame({"t": [late + 1, late + 2], "x": [1.0, 2.0]}), time="t", duplicates="mean")
    seconds = Series.from_arrays([np.array([late, late + 10**9])], [[1.0, 2.0]])
    assert seconds.gaps.tolist() == [0, 1e9]


def test_columns_of_pandas_with_another_index():
    time, x = pd.Series([0, 1], index=[5, 6]), pd.Series([1.0, None], index=[5, 6])
    for entry in ((time, x), {"x": (time, x)}):
        series = Series.from_dict({"a": entry})
        torch.testing.assert_close(series.values, torch.tensor([[1.0], [NAN]]), equal_nan=True)
    nullable = pd.array([1, None], dtype="Int64")
    assert Series.from_arrays([[0, 1]], [nullable]).mask[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_dates_and_durations(zone):
    dates = pd.Series(pd.to_datetime(["2020-01-01", "2020-01-02"]).tz_localize(zone))
    with pytest.raises(TypeError, match=r"`times` are numbers, .* is no number. Count in a unit"):
        Series.from_arrays([dates], [[1.0, 2.0]])
    with pytest.raises(TypeError, match="is no number"):
        Series.from_dict({"a": {"x": (dates, [1.0, 2.0])}})
    frame = pd.DataFrame({"t": dates - dates[0], "x": [1.0, 2.0]})
    assert Series.from_table(frame, time="t", unit="hours").times.tolist() == [0, 24]
    with pytest.raises(ValueError, match='holds durations. Say in which unit.*unit="days"'):
        Series.from_table(frame, time="t")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"a": [1, 2, 3]}, TypeError, r"\(times, values\), .* but series 0 \(id 'a'\) has \[1, 2, 3\]"),
        ({"a": {"x": 5}}, TypeError, r"but series 0 \(id 'a'\) has {'x': 5}"),
        ({"a": ([0], [1.0]), "b": {"x": ([0], [1.0])}}, TypeError, r"but series 1 \(id 'b'\) has"),
        ({"a": {}}, ValueError, "at least one channel"),
        ({"a": {"x": ([0], ["w"])}}, TypeError, "`values` are numbers, but could not convert"),
        ({1: ([0], [1.0]), "2": ([0], [1.0])}, TypeError, r"all text or none is, but both came, as \[1, '2'\]"),
    ],
)
def test_wrong_entries_of_a_dict_are_named(given, error, message):
    with pytest.raises(error, match=message):
        Series.from_dict(given)


def test_columns_that_say_two_things():
    frame = labelled()
    for role in ({"static": ["x"]}, {"labels": "x"}):
        with pytest.raises(ValueError, match="'x' is either in `values` or"):
            Series.from_table(frame, id="id", time="t", values=["x"], **role)
    with pytest.raises(ValueError, match="'t' is either in `values` or `time`"):
        Series.from_table(frame, id="id", time="t", values=["t", "x"])
    with pytest.raises(ValueError, match="but `table` has 'x' twice"):
        Series.from_table(pd.concat([frame, frame[["x"]]], axis=1), id="id", time="t")
    long = pd.DataFrame({"t": [0, 1], "k": ["a", None], "v": [1.0, 2.0]})
    with pytest.raises(ValueError, match="the column 'k' is empty in 1 rows, the first being row 1"):
        Series.from_table(long, time="t", variable="k", value="v")


def test_rows_of_one_time_that_disagree():
    given = {"times": [[0.0, 0.0]], "values": [[1.0, 3.0]], "row_labels": [torch.tensor([0, 1])]}
    with pytest.raises(
        ValueError, match=r'`row_labels` .* series 0 \(id 0\) has two at the time 0.0; duplicates="first"'
    ):
        Series.from_arrays(**given, duplicates="mean")
    assert Series.from_arrays(**given, duplicates="last").row_labels.tolist() == [1]
    same = given | {"row_labels": [torch.tensor([1, 1])]}
    assert Series.from_arrays(**same, duplicates="mean").row_labels.tolist() == [1]


def test_no_series_with_a_value():
    with pytest.raises(ValueError, match="none of the 1 series has one"):
        Series.from_arrays([[0.0]], [[NAN]], empty="drop")


# ------------------------------------------------------------------------------------------------ padding and masks
def test_padded_rectangles_with_their_lengths():
    values = torch.arange(12.0).reshape(2, 3, 2)
    times = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]])
    series = Series.from_arrays(times, values, lengths=[3, 1], inputs=values[..., :1], row_labels=values[..., 0].long())
    assert series.times.tolist() == [0, 1, 2, 5]
    assert torch.equal(series.values, values.reshape(6, 2)[:4])
    assert series.inputs[:, 0].tolist() == series.row_labels.tolist() == [0, 2, 4, 6]
    again = series.padded()
    assert torch.equal(Series.from_arrays(again.times, again.values, lengths=series.lengths).values, series.values)
    for lengths in ([3], [4, 1], [-1, 3]):
        with pytest.raises(ValueError, match=r"`lengths` \(2,\) say how many of the 3 columns"):
            Series.from_arrays(times, values, lengths=lengths)
    with pytest.raises(ValueError, match="a list has arrays of their own lengths already"):
        Series.from_arrays([[0.0]], [[1.0]], lengths=[1])


def test_a_mask_beside_the_values():
    values = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[[1, 1], [0, 1], [1, 0]], [[1, 1]] * 3])
    flat = values.where(mask == 1, NAN).reshape(6, 2)
    for given in (mask, mask.bool().numpy(), mask.double()):
        series = Series.from_arrays(torch.arange(3.0), values, mask=given)
        torch.testing.assert_close(series.values, flat, equal_nan=True)
    listed = Series.from_arrays([torch.arange(3.0)] * 2, list(values), mask=list(mask))
    torch.testing.assert_close(listed.values, flat, equal_nan=True)
    rows = Series.from_arrays(torch.arange(3.0), values, mask=torch.tensor([[True, False, True]] * 2))
    assert rows.mask.tolist() == [[True] * 2, [False] * 2, [True] * 2] * 2
    for wrong in (mask * 2, mask[:1], mask[..., 0] - 1):
        with pytest.raises(ValueError, match="`mask` says of each of the values whether it was observed"):
            Series.from_arrays(torch.arange(3.0), values, mask=wrong)


def test_lists_of_one_channel_in_their_simplest_form():
    series = Series.from_arrays([[0, 1], [2]], [[1.0, 2.0], [3.0]], inputs=[[7, 8], [9]])
    assert series.inputs[:, 0].tolist() == [7, 8, 9]
    clocks = [torch.arange(2.0), torch.tensor([0.5, 9.0])]
    assert Series.from_arrays(clocks, torch.zeros(2, 2, 1)).times.tolist() == [0, 1, 0.5, 9]
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.arange(2.0), np.arange(3.0)]
    assert Series.from_arrays(ragged, ragged).lengths.tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"A single series is Series.from_arrays\(\[times\], \[values\]\)"):
        Series.from_arrays([0.0, 1.0], [1.0, 2.0])


# --------------------------------------------------------------------------------------------- tables as they come
def test_levels_of_the_index_count_as_columns():
    hours = pd.date_range("2024-01-01", periods=3, freq="h", name="hour")
    one = pd.DataFrame({"x": [1.0, NAN, 3.0]}, index=hours)
    assert Series.from_table(one, time="hour", unit="hours").gaps.tolist() == [0, 1, 1]
    both = pd.concat({"a": one, "b": one[:2]}, names=["station", "hour"])
    series = Series.from_table(both, id="station", time="hour", unit="hours")
    assert (series.ids.tolist(), series.lengths.tolist(), series.channels) == (["a", "b"], [3, 2], ("x",))
    with pytest.raises(ValueError, match=r"Its index holds dates, but has no name: table.rename_axis\('when'\)"):
        Series.from_table(one.rename_axis(None), time="when", unit="hours")
    with pytest.raises(ValueError, match=r"has 2 levels of names.*stack\(0"):
        Series.from_table(pd.concat({"a": one, "b": one}, axis=1), time="hour", unit="hours")
    with pytest.raises(TypeError, match=r"but a table came. Tables of the same columns make one"):
        Series.from_dict({"a": one})


def test_several_columns_for_one():
    with pytest.raises(ValueError, match=r"`id` is one column, but \['id', 't'\] came. Several make one: table.assign"):
        Series.from_table(labelled(), id=["id", "t"], time="t")
    with pytest.raises(ValueError, match="`values` names at least one channel, but an empty list came"):
        Series.from_table(labelled(), id="id", time="t", values=[])


def test_words_leave_what_is_missing_missing():
    with pytest.raises(TypeError, match=r"to_numeric\(table\['y'\], errors='coerce'\).*\.map\(\{'no': 0.0") as told:
        Series.from_table(labelled(y=["1", "<5", "2", "3"]), id="id", time="t", values=["y"])
    assert "cat.codes" not in str(told.value)  # there missing would become -1, a value
    with pytest.raises(TypeError, match=r"or table\['y'\].astype\('category'\).cat.codes"):
        Series.from_table(labelled(y=list("aabc")), id="id", time="t", values=["x"], labels="y")


@pytest.mark.parametrize(
    "column", [["1", "<5", "2", "3"], np.array([1, None, 2, 3], object), pd.Categorical([1, 2, 2, 3])]
)
def test_numbers_in_disguise_are_not_left_out_in_silence(column):
    frame = labelled(y=column, note=list("abcd"))
    with pytest.warns(UserWarning, match="and 'y' is none: it holds .*to_numeric"):
        series = Series.from_table(frame, id="id", time="t")
    assert series.channels == ("x",)
    assert Series.from_table(frame, id="id", time="t", values=["x"]).channels == ("x",)


def test_infinite_cells_are_found_in_the_table():
    frame = pd.DataFrame({"t": [3, 1, 2], "x": [1.0, np.inf, -np.inf]})
    with pytest.raises(ValueError, match="inf came in the column 'x' at row 1 of the table, and 2 times in all"):
        Series.from_table(frame, time="t")


def test_a_type_that_loses_the_variation_is_named():
    frame = pd.DataFrame({"t": [0, 1, 2], "lat": [48.1, 48.10001, 48.10002], "year": [2019, 2020, 2021]})
    with pytest.warns(UserWarning, match="'lat' varies by 8.2e-06 around 48.10001, where torch.float32 has steps of"):
        Series.from_table(frame, time="t")
    with pytest.warns(UserWarning, match="'channel 0' varies by 1 around 100000001.*dtype=torch.float64"):
        Series.from_arrays([np.arange(3)], [1e8 + np.array([0.0, 1.25, 2.5])])
    wide = Series.from_table(frame, time="t", dtype=torch.float64).standardized().to(torch.float32)
    torch.testing.assert_close(wide.values[:, 0], torch.tensor([-1.5, 0.0, 1.5]).sign() * 1.5**0.5)
    assert Series.from_arrays([np.arange(2.0)], [np.full(2, 0.1)]).dtype == torch.float32  # constants vary not at all


def test_columns_of_one_name_stay_apart_in_a_table():
    series = Series.from_arrays(
        [[5.0, 6.0]],
        [[[1.0, 2.0], [3.0, 4.0]]],
        channels=["time", "age"],
        static=[[58.0]],
        static_names=["age"],
        inputs=[[[7.0], [8.0]]],
        input_names=["age"],
    )
    table = series.to_table()
    assert list(table.columns) == ["id", "time", "values time", "age", "inputs age", "static age"]
    assert table.iloc[1].tolist() == [0, 6, 3, 4, 8, 58]
