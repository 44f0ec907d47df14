"""Series in Parquet files, one row a series, read group by group."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series.batches import place
from pathline.data.series.scaling import Standardization, merged
from pathline.data.series.series import Series

if TYPE_CHECKING:
    import pyarrow

__all__ = ["SeriesFile"]

_KEY = b"pathline.series"
_FORMAT = 1


class SeriesFile:
    """Series in a Parquet file, of which only some groups are in memory at a time. *Maturing.*

    One row of the file is one series: its times and each channel are lists, so that pandas, polars and DuckDB read it
    too. Rows stand in groups of whole series, and a group is what is read at once.

    Args:
        path: A file written by `Series.to_parquet` or `SeriesFile.write`.

    Attributes:
        groups: How many groups the file has.
        channels: Names of the channels.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds something else.

    Example:
        >>> import tempfile
        >>> series = Series.from_arrays(torch.linspace(0, 1, 5), torch.randn(10, 5, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     series.to_parquet(f"{folder}/series.parquet", rows_per_group=20)
        ...     file = SeriesFile(f"{folder}/series.parquet")
        ...     sizes = [len(batch) for batch in file.batches(size=3)]
        >>> len(file), file.groups, sizes
        (10, 3, [3, 3, 3, 1])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file {self.path}. Series.to_parquet(path) writes one.")
        self._file = _parquet().ParquetFile(self.path)
        self._facts = _facts(self._file.schema_arrow, self.path)
        self.groups: int = self._file.num_row_groups
        self.channels: tuple[str, ...] = tuple(self._facts["channels"])

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def __repr__(self) -> str:
        return (
            f"SeriesFile({str(self.path)!r}: {len(self)} series of {len(self.channels)} channels, {self.groups} groups)"
        )

    def group(self, number: int) -> Series:
        """The series of one group."""
        return _series(self._file.read_row_group(number, use_threads=False), self._facts)

    def read(self) -> Series:
        """All series."""
        return _series(self._file.read(use_threads=False), self._facts)

    def __iter__(self) -> Iterator[Series]:
        """The groups, one after the other."""
        return (self.group(number) for number in range(self.groups))

    def scaling(self) -> Standardization:
        """Mean and standard deviation of each channel over the whole file, in one pass."""
        return merged((part.values for part in self), self.channels, self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self._facts["dtype"])

    def batches(
        self,
        size: int,
        shuffle: bool = True,
        *,
        seed: int = 0,
        mixed: int = 4,
        drop_last: bool = False,
        transform: Callable[[Series], Any] | None = None,
    ) -> StreamedBatches:
        """Batches for `fit`, read while they are used; each time that they are gone through is an epoch.

        Memory holds ``mixed`` groups and a batch, whatever the size of the file. A shuffled epoch takes the groups in
        random order, ``mixed`` at a time, and shuffles their series among one another.

        Args:
            size: Series in a batch, over all processes; each batch is dealt out by rank.
            shuffle: In another order each epoch; without it in that of the file.
            seed: Of the orders.
            mixed: How many groups are shuffled together.
            drop_last: Leave out the smaller batch at the end.
            transform: Applied to each batch, as in ``lambda batch: batch.standardized(scaling).shifted()``.

        Raises:
            ValueError: For a size that yields no batch.
        """
        if not 1 <= size <= len(self) or mixed < 1:
            raise ValueError(
                f"`size` lies between 1 and the number of series, {len(self)}, and `mixed` is at least 1, but {size} "
                f"and {mixed} came."
            )
        return StreamedBatches(self, size, shuffle, seed, mixed, drop_last, transform)

    @staticmethod
    def write(path: str | Path, parts: Iterable[Series], *, rows_per_group: int = 65_536) -> SeriesFile:
        """Write series that come in parts, of which only a group is in memory at a time.

        Args:
            path: The file.
            parts: `Series` of the same channels, one after the other: from a generator, for what does not fit into
                memory.
            rows_per_group: About how many rows a group has. A series is never cut.

        Returns:
            The file, open.
        """
        write(path, parts, rows_per_group)
        return SeriesFile(path)


class StreamedBatches:
    """What `SeriesFile.batches` returns: an iterable that `fit` goes through again and again, and can resume."""

    def __init__(
        self,
        file: SeriesFile,
        size: int,
        shuffle: bool,
        seed: int,
        mixed: int,
        drop_last: bool,
        transform: Callable[[Series], Any] | None,
    ) -> None:
        self.file, self.size, self.shuffle, self.mixed = file, size, shuffle, mixed
        self.drop_last, self.transform = drop_last, transform
        self.generator = torch.Generator().manual_seed(seed)  # by this name a fit finds it and stores its state

    def __len__(self) -> int:
        return len(self.file) // self.size if self.drop_last else -(-len(self.file) // self.size)

    def __iter__(self) -> Iterator[Any]:
        # a stream of its own: an epoch that is broken off leaves the next ones as they would have been
        epoch = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
        rank, world = place()
        for batch in self._whole(epoch):
            mine = batch[rank::world] if world > 1 else batch
            yield mine if self.transform is None else self.transform(mine)

    def _whole(self, epoch: torch.Generator) -> Iterator[Series]:
        count = self.file.groups
        order = (torch.randperm(count, generator=epoch) if self.shuffle else torch.arange(count)).tolist()
        rest: list[Series] = []
        for start in range(0, count, self.mixed):
            pool = Series.cat([*rest, *map(self.file.group, order[start : start + self.mixed])])
            if self.shuffle:
                pool = pool[torch.randperm(len(pool), generator=epoch)]
            whole = len(pool) - len(pool) % self.size
            yield from (pool[first : first + self.size] for first in range(0, whole, self.size))
            rest = [pool[torch.arange(whole, len(pool))]]  # a copy, where a slice would keep the whole pool alive
        if rest and len(rest[0]) and not self.drop_last:
            yield rest[0]


def write(path: str | Path, parts: Iterable[Series], rows_per_group: int) -> None:
    """Groups of whole series; the file appears when it is complete."""
    if rows_per_group < 1:
        raise ValueError(f"`rows_per_group` is at least 1, but {rows_per_group} came.")
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    writer: Any = None
    try:
        for group in _grouped(parts, rows_per_group):
            table = _table(group)
            if writer is None:
                writer = _parquet().ParquetWriter(partial, table.schema)
            elif table.schema != writer.schema or table.schema.metadata != writer.schema.metadata:
                raise ValueError(
                    "All parts of a file have the same channels, types, names and scaling, but a part differs from "
                    f"the first: {group}."
                )
            writer.write_table(table, row_group_size=max(1, len(group)))
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise ValueError("`parts` has at least one series, but none came.")
    partial.replace(target)


def _grouped(parts: Iterable[Series], rows: int) -> Iterator[Series]:
    """Parts joined and cut to groups of about as many rows."""
    waiting: list[Series] = []
    for part in parts:
        waiting.append(part)
        if sum(len(piece.times) for piece in waiting) < rows:
            continue
        pool = Series.cat(waiting)
        *groups, last = zip(*_cuts(pool, rows), strict=True)
        yield from (pool[a:b] for a, b in groups)
        waiting = [pool[last[0] : last[1]]]
    if waiting and sum(map(len, waiting)):
        yield Series.cat(waiting)


def _cuts(series: Series, rows: int) -> tuple[list[int], list[int]]:
    """Where groups begin and end, in series: a new one begins where a first row passes a multiple of ``rows``."""
    group = series.offsets[:-1].cpu() // rows
    inner = ((group.diff() > 0).nonzero()[:, 0] + 1).tolist()
    return [0, *inner], [*inner, len(series)]


# ---------------------------------------------------------------------------------------------------- to and from Arrow
def _table(series: Series) -> pyarrow.Table:
    import pyarrow

    series = series.to("cpu")
    offsets = pyarrow.array(series.offsets.numpy().astype(np.int32))

    def ragged(rows: Tensor) -> pyarrow.Array:
        return pyarrow.ListArray.from_arrays(offsets, _array(rows))

    columns: dict[str, pyarrow.Array] = {}
    if series.ids is not None:
        columns["id"] = pyarrow.array(series.ids.tolist())
    columns |= {"origin": _array(series.origin), "times": ragged(series.times)}
    columns |= {f"values.{name}": ragged(column) for name, column in _named(series.channels, series.values)}
    if series.inputs is not None:
        columns |= {f"inputs.{name}": ragged(column) for name, column in _named(series.input_names, series.inputs)}
    if series.static is not None:
        columns |= {f"static.{name}": _array(column) for name, column in _named(series.static_names, series.static)}
    if series.labels is not None:
        columns["labels"] = _array(series.labels)
    if series.row_labels is not None:
        columns["row_labels"] = ragged(series.row_labels)
    table = pyarrow.table(columns)
    return table.replace_schema_metadata({_KEY: json.dumps(_described(series))})


def _named(names: tuple[str, ...], table: Tensor) -> Iterator[tuple[str, Tensor]]:
    return zip(names, table.detach().unbind(1), strict=True)


def _array(rows: Tensor) -> pyarrow.Array:
    import pyarrow

    if rows.dtype == torch.bfloat16:
        raise TypeError("Parquet has no bfloat16. Write series.to(torch.float32).")
    flat = pyarrow.array(rows.detach().contiguous().numpy().reshape(-1))
    return flat if rows.dim() == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, rows[0].numel())


def _described(series: Series) -> dict[str, Any]:
    """What the columns do not say."""
    scaling = series.scaling
    return {
        "format": _FORMAT,
        "channels": series.channels,
        "static_names": series.static_names,
        "input_names": series.input_names,
        "dtype": str(series.dtype).removeprefix("torch."),
        "labels": _kind(series.labels),
        "row_labels": _kind(series.row_labels),
        "static": series.static is not None,
        "inputs": series.inputs is not None,
        "ids": series.ids is not None,
        "scaling": None
        if scaling is None
        else {
            "mean": scaling.mean.tolist(),
            "std": scaling.std.tolist(),
            "dtype": str(scaling.mean.dtype).removeprefix("torch."),
        },
    }


def _kind(tensor: Tensor | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape[1:])}


def _facts(schema: pyarrow.Schema, path: Path) -> dict[str, Any]:
    stored = (schema.metadata or {}).get(_KEY)
    if stored is None:
        raise ValueError(
            f"{path} is a Parquet file, but not one of series. A table is read by pandas.read_parquet and turned into "
            "series by Series.from_table."
        )
    facts = json.loads(stored)
    if facts["format"] != _FORMAT:
        raise ValueError(f"{path} has the format {facts['format']}, but this version reads {_FORMAT}; update pathline.")
    return facts


def _series(table: pyarrow.Table, facts: dict[str, Any]) -> Series:
    dtype = getattr(torch, facts["dtype"])
    times, lengths = _ragged(table, "times")

    def beside(kind: str, names: list[str], count: int, read: Callable[[str], Tensor]) -> Tensor:
        columns = [read(f"{kind}.{name}") for name in names]
        return torch.stack(columns, 1) if columns else torch.empty(count, 0, dtype=dtype)

    def rows(name: str) -> Tensor:
        return _ragged(table, name)[0]

    def entries(name: str) -> Tensor:
        return _tensor(table[name].combine_chunks())

    scaling = facts["scaling"]
    kinds = {name: facts[name] for name in ("labels", "row_labels")}
    read = {"labels": entries, "row_labels": rows}
    labels = {name: None if kind is None else _shaped(read[name](name), kind) for name, kind in kinds.items()}
    return Series(
        times,
        beside("values", facts["channels"], len(times), rows),
        lengths,
        static=beside("static", facts["static_names"], len(lengths), entries) if facts["static"] else None,
        inputs=beside("inputs", facts["input_names"], len(times), rows) if facts["inputs"] else None,
        **labels,
        channels=facts["channels"],
        static_names=facts["static_names"] if facts["static"] else None,
        input_names=facts["input_names"] if facts["inputs"] else None,
        ids=table["id"].to_numpy() if facts["ids"] else None,
        origin=entries("origin"),
        scaling=None
        if scaling is None
        else Standardization(
            *(torch.tensor(scaling[k], dtype=getattr(torch, scaling["dtype"])) for k in ("mean", "std")),
            channels=tuple(facts["channels"]),
        ),
    )


def _ragged(table: pyarrow.Table, name: str) -> tuple[Tensor, Tensor]:
    column = table[name].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return _tensor(column.flatten()), torch.as_tensor(lengths.astype(np.int64))


def _tensor(array: pyarrow.Array) -> Tensor:
    flat = array.flatten() if hasattr(array.type, "list_size") else array
    return torch.from_numpy(np.array(flat.to_numpy(zero_copy_only=False)))


def _shaped(flat: Tensor, kind: dict[str, Any]) -> Tensor:
    width = int(np.prod(kind["shape"], dtype=np.int64))
    count = len(flat) // width if width else 0
    return flat.to(getattr(torch, kind["dtype"])).reshape(count, *kind["shape"])


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise ModuleNotFoundError(
            'Parquet files are read by pyarrow, which is not installed. pip install "pathline[app]"', name="pyarrow"
        ) from error
    return pyarrow.parquet
