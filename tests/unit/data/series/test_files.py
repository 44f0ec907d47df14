from __future__ import annotations

import pickle
from itertools import chain

import pandas as pd
import pyarrow.parquet
import pytest
import torch

from pathline.data import Series, SeriesFile
from pathline.train import fit
from pathline.train.batches import Source

NAN = float("nan")


def made(count=30, seed=0, dtype=torch.float32):
    """Series of 0 to 9 rows with holes and all that can travel beside them."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 10, (count,), generator=draw)
    total = int(lengths.sum())
    values = torch.randn(total, 3, generator=draw, dtype=dtype)
    values[torch.rand(total, 3, generator=draw) < 0.3] = NAN
    return Series(
        torch.arange(float(total)) + torch.rand(total, generator=draw, dtype=torch.float64) / 2,
        values,
        lengths,
        static=torch.randn(count, 2, generator=draw, dtype=dtype),
        inputs=torch.randn(total, 1, generator=draw, dtype=dtype),
        labels=torch.randint(0, 5, (count, 2, 2), generator=draw),
        row_labels=torch.rand(total, generator=draw) < 0.5,
        channels=["a", "b.c", "d e"],
        ids=[f"p{i}" for i in range(count)],
    )


TENSORS = ("times", "values", "lengths", "static", "inputs", "labels", "row_labels", "origin")


def same(a, b):
    for name in TENSORS:
        x, y = getattr(a, name), getattr(b, name)
        if x is None:
            assert y is None
        else:
            assert x.dtype == y.dtype
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    assert (a.channels, a.static_names, a.input_names) == (b.channels, b.static_names, b.input_names)
    assert a.ids is None or a.ids.tolist() == b.ids.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("rows", [1, 20, 10_000])
def test_there_and_back_bit_for_bit(tmp_path, dtype, rows):
    series = made(dtype=dtype)
    if dtype != torch.float16:
        series = series.standardized().shifted()
    series.to_parquet(tmp_path / "s.parquet", rows_per_group=rows)
    again = Series.read_parquet(tmp_path / "s.parquet")
    same(again, series)
    if series.scaling is not None:
        assert torch.equal(again.scaling.mean, series.scaling.mean)
        assert torch.equal(again.scaling.std, series.scaling.std)
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_series_with_nothing_but_values(tmp_path):
    series = Series.from_arrays([[0.0], [1.0, 2.0]], [[1.0], [2.0, NAN]])
    series.to_parquet(tmp_path / "s.parquet")
    again = Series.read_parquet(tmp_path / "s.parquet")
    same(again, series)
    assert again.scaling is None


def test_other_programs_read_lists(tmp_path):
    series = made()
    series.to_parquet(tmp_path / "s.parquet")
    frame = pd.read_parquet(tmp_path / "s.parquet")
    assert frame["id"].tolist() == series.ids.tolist()
    assert frame["times"].iloc[3].tolist() == series[3].times.tolist()
    torch.testing.assert_close(torch.tensor(frame["values.b.c"].iloc[3]), series[3].values[:, 1], equal_nan=True)


def test_groups_are_whole_series_of_about_so_many_rows(tmp_path):
    series = made(200)
    series.to_parquet(tmp_path / "s.parquet", rows_per_group=50)
    file = SeriesFile(tmp_path / "s.parquet")
    sizes = [len(part.times) for part in file]
    assert sum(sizes) == len(series.times)
    assert max(sizes) <= 50 + 9
    assert min(sizes[:-1]) >= 50 - 9
    same(Series.cat(list(file)), series)
    assert (len(file), file.channels) == (200, series.channels)


def test_parts_are_written_as_they_come(tmp_path):
    series = made(100)
    parts = (series[i : i + 7] for i in range(0, 100, 7))
    file = SeriesFile.write(tmp_path / "s.parquet", parts, rows_per_group=60)
    same(file.read(), series)
    assert file.groups < 12
    with pytest.raises(ValueError, match="at least one series"):
        SeriesFile.write(tmp_path / "none.parquet", [])
    with pytest.raises(ValueError, match="standardized alike"):
        SeriesFile.write(tmp_path / "mixed.parquet", [series, series.standardized()])
    mixed = [series, series.to(torch.float64)]
    with pytest.raises(ValueError, match="the same channels, types, names and scaling"):
        SeriesFile.write(tmp_path / "mixed.parquet", mixed, rows_per_group=20)
    assert not (tmp_path / "mixed.parquet").exists()


def test_each_epoch_has_every_series_once_and_an_order_of_its_own(tmp_path):
    series = made(101)
    file = SeriesFile.write(tmp_path / "s.parquet", [series], rows_per_group=30)
    stream = file.batches(8, seed=1, mixed=3)
    epochs = [[batch.ids.tolist() for batch in stream] for _ in range(3)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [8] * 12 + [5]
        assert sorted(chain(*epoch)) == sorted(series.ids)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [[batch.ids.tolist() for batch in file.batches(8, seed=1, mixed=3)]] == epochs[:1]
    in_order = [batch.ids.tolist() for batch in file.batches(8, shuffle=False)]
    assert list(chain(*in_order)) == series.ids.tolist()
    assert len(list(file.batches(8, drop_last=True))) == len(file.batches(8, drop_last=True)) == 12
    by_id = dict(zip(series.ids, series, strict=True))
    for one in next(iter(stream)):
        same(one, by_id[one.ids[0]])


def test_an_epoch_holds_some_groups_and_reads_each_once(tmp_path, monkeypatch):
    file = SeriesFile.write(tmp_path / "s.parquet", [made(400)], rows_per_group=50)
    read, held = [], []
    plain_group, plain_cat = SeriesFile.group, Series.cat.__func__
    monkeypatch.setattr(SeriesFile, "group", lambda self, k: read.append(k) or plain_group(self, k))
    monkeypatch.setattr(Series, "cat", classmethod(lambda kind, parts: held.append(plain_cat(kind, parts)) or held[-1]))
    batches = list(file.batches(10, mixed=2))
    assert sorted(read) == list(range(file.groups))
    assert sum(len(batch) for batch in batches) == 400
    # two groups, each with at most a series of nine rows over, and what is left of a batch of ten
    assert max(len(pool.times) for pool in held) <= 2 * 59 + 9 * 9
    assert file.groups > 30


def test_streamed_batches_are_dealt_out_by_rank(tmp_path, monkeypatch):
    from pathline.data.series import files

    file = SeriesFile.write(tmp_path / "s.parquet", [made(40)], rows_per_group=30)
    whole = [batch.ids.tolist() for batch in file.batches(7)]
    shares = []
    for rank in range(2):
        monkeypatch.setattr(files, "place", lambda rank=rank: (rank, 2))
        shares.append([batch.ids.tolist() for batch in file.batches(7)])
    assert [a[0::2] for a in whole] == shares[0]
    assert [a[1::2] for a in whole] == shares[1]


def test_batches_are_transformed_as_they_come(tmp_path):
    series = made(60)
    file = SeriesFile.write(tmp_path / "s.parquet", [series], rows_per_group=30)
    scaling = file.scaling()
    torch.testing.assert_close(scaling.mean, series.standardized().scaling.mean)
    torch.testing.assert_close(scaling.std, series.standardized().scaling.std)
    batch = next(iter(file.batches(10, transform=lambda part: part.standardized(scaling).shifted())))
    assert batch.scaling is scaling
    assert batch.starts.nan_to_num(0.0).abs().max() == 0


def test_a_fit_streams(tmp_path):
    file = SeriesFile.write(tmp_path / "s.parquet", [made(60)], rows_per_group=40)
    model = torch.nn.Linear(1, 3)

    def loss(model, batch):
        error = model(batch.times.float()[:, None] / 100) - batch.values.nan_to_num(0.0)
        return error.square().mean()

    assert fit(model, loss, steps=20, batches=file.batches(8), quiet=True).steps == 20


def test_a_resumed_fit_gets_the_batches_it_would_have_had(tmp_path):
    file = SeriesFile.write(tmp_path / "s.parquet", [made(60)], rows_per_group=40)
    first = Source(file.batches(8))
    for step in range(11):
        first(step)
    kept = first.state_dict()
    resumed = Source(file.batches(8))
    resumed.load_state_dict(kept)
    for step in range(11, 30):
        assert first(step).ids.tolist() == resumed(step).ids.tolist()


def test_a_file_of_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file .*to_parquet"):
        SeriesFile(tmp_path / "s.parquet")
    pd.DataFrame({"x": [1.0]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="not one of series.*Series.from_table"):
        SeriesFile(tmp_path / "t.parquet")
    made().to_parquet(tmp_path / "s.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "s.parquet")
    stored = {key: value.replace(b'"format": 1', b'"format": 7') for key, value in table.schema.metadata.items()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(stored), tmp_path / "later.parquet")
    with pytest.raises(ValueError, match="has the format 7, but this version reads 1"):
        SeriesFile(tmp_path / "later.parquet")
    with pytest.raises(ValueError, match="`size` lies between 1 and the number of series, 30"):
        SeriesFile(tmp_path / "s.parquet").batches(31)
    with pytest.raises(TypeError, match="Parquet has no bfloat16"):
        made(dtype=torch.bfloat16).to_parquet(tmp_path / "half.parquet")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"s.parquet is no readable Parquet file: .*Series.to_parquet"):
        Series.read_parquet(tmp_path / "s.parquet")


def test_labels_of_several_numbers_where_no_row_is_left(tmp_path):
    series = Series.from_arrays([[0.0]], [[1.0]], row_labels=[[[1, 2]]]).first(0)
    series.to_parquet(tmp_path / "s.parquet")
    assert Series.read_parquet(tmp_path / "s.parquet").row_labels.shape == (0, 2)


def test_a_file_goes_to_other_processes(tmp_path):
    made().to_parquet(tmp_path / "s.parquet")
    file = pickle.loads(pickle.dumps(SeriesFile(tmp_path / "s.parquet")))
    same(file.read(), made())
