"""Series in Parquet files, one row a series, read group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from pathline.data.series import arrow
from pathline.data.series.batches import place
from pathline.data.series.scaling import Standardization, merged
from pathline.data.series.series import Series

__all__ = ["SeriesFile"]


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
        self._file = _opened(self.path)
        self._facts = arrow.facts_of(self._file.schema_arrow, self.path)
        self.groups: int = self._file.num_row_groups
        self.channels: tuple[str, ...] = tuple(self._facts["channels"])

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def __repr__(self) -> str:
        return (
            f"SeriesFile({str(self.path)!r}: {len(self)} series of {len(self.channels)} channels, {self.groups} groups)"
        )

    def __reduce__(self) -> tuple[type[SeriesFile], tuple[Path]]:
        return type(self), (self.path,)  # what pyarrow has open does not travel to another process

    def group(self, number: int) -> Series:
        """The series of one group."""
        return arrow.series_of(self._file.read_row_group(number, use_threads=False), self._facts)

    def read(self) -> Series:
        """All series."""
        return arrow.series_of(self._file.read(use_threads=False), self._facts)

    def __iter__(self) -> Iterator[Series]:
        """The groups, one after the other."""
        return (self.group(number) for number in range(self.groups))

    def scaling(self) -> Standardization:
        """Mean and standard deviation of each channel over the whole file, in one pass."""
        return merged((part.values for part in self), self.channels)

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
    """What `SeriesFile.batches` returns: an iterable that `fit` goes through again and again, and can resume.

    It is for `fit` or a loop of your own, which reads one epoch; a ``DataLoader`` takes a `Series`.
    """

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
            table = arrow.table_of(group)
            if writer is None:
                writer = _parquet().ParquetWriter(partial, table.schema)
            elif table.schema != writer.schema or table.schema.metadata != writer.schema.metadata:
                raise ValueError(
                    "All parts of a file have the same channels, types, names and scaling, and one unit of time, but a "
                    f"part differs from the first: {group}."
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


def _opened(path: Path) -> Any:
    parquet = _parquet()
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no readable Parquet file: {error} Write it again by Series.to_parquet.") from error


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
