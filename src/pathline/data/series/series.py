"""Irregular multivariate series: ragged rows in one tensor, nothing padded, nothing filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.series import arrays, checking, choosing, clocks, converting, dicts, layout, ragged, views
from pathline.data.series.batches import collated, shuffled
from pathline.data.series.describing import described
from pathline.data.series.scaling import Standardization, fitted, renamed

if TYPE_CHECKING:
    import pandas

__all__ = ["Series"]


class Series:
    """Irregular series of several channels, all in one tensor, one after the other. *Maturing.*

    Series ``i`` is the rows ``offsets[i]`` to ``offsets[i + 1]``; a row is a time with ``D`` values, of which NaN are
    missing. Nothing is padded and nothing is filled in: memory and time are linear in the number of rows. A batch is
    again a ``Series``.

    Most series come from a table (`from_table`), from arrays (`from_arrays`) or from a dict (`from_dict`); these sort
    out repeated times and empty series. This constructor takes tensors that are right already. A series without rows
    is allowed here, as the past of a patient before the first visit. Tensors are never written to.

    Args:
        times: ``(N,)``, strictly increasing within each series; kept in double precision.
        values: ``(N, D)``, floating; NaN is missing, and so are masked entries of ``numpy.ma``.
        lengths: ``(n,)``, how many rows each series has.
        static: ``(n, S)``, what is known of each series at any time; NaN is missing.
        inputs: ``(N, K)``, what is known at each row: a dose, a control, the weather forecast. No NaN.
        labels: ``(n, ...)``, one a series; as classes whole numbers, with -1 for unknown.
        row_labels: ``(N, ...)``, one a row.
        channels: Names of the ``D`` channels.
        static_names: Names of the ``S`` static columns.
        input_names: Names of the ``K`` inputs.
        ids: Names of the series, ``n`` of them.
        origin: ``(n,)``, what was subtracted from the times of each series, 0 by default, in their original unit.
        time_unit: How many of the original units of time make the present one: 365.25 for years out of days.
        scaling: How the values were standardized, by default not at all.

    Attributes:
        offsets: ``(n + 1,)``, where each series begins.
        rows: ``(N,)``, the number of the series of each row.
        mask: ``(N, D)``, whether a value was observed.

    Raises:
        ValueError: For times that are not finite, repeat or decrease, infinite values, and shapes that disagree.

    Example:
        >>> series = Series(
        ...     times=torch.tensor([0.0, 1.0, 4.0, 0.5, 2.5]),
        ...     values=torch.tensor([[1.0], [2.0], [float("nan")], [5.0], [6.0]]),
        ...     lengths=torch.tensor([3, 2]),
        ... )
        >>> series
        Series(2 series of 1 channel (channel 0), 5 rows (2 to 3 a series), 20 % missing, times 0 to 4)
        >>> series[1].times
        tensor([0.5000, 2.5000], dtype=torch.float64)
        >>> series.padded().values[..., 0]
        tensor([[1., 2., 0.],
                [5., 6., 0.]])
        >>> series.before(2.0).lengths
        tensor([2, 1])
    """

    times: Tensor
    values: Tensor
    lengths: Tensor
    static: Tensor | None
    inputs: Tensor | None
    labels: Tensor | None
    row_labels: Tensor | None
    channels: tuple[str, ...]
    static_names: tuple[str, ...]
    input_names: tuple[str, ...]
    ids: np.ndarray | None
    origin: Tensor
    time_unit: float
    scaling: Standardization | None

    def __init__(
        self,
        times: Tensor,
        values: Tensor,
        lengths: Tensor,
        *,
        static: Tensor | None = None,
        inputs: Tensor | None = None,
        labels: Tensor | None = None,
        row_labels: Tensor | None = None,
        channels: Sequence[str] | None = None,
        static_names: Sequence[str] | None = None,
        input_names: Sequence[str] | None = None,
        ids: Sequence[Any] | np.ndarray | None = None,
        origin: Tensor | None = None,
        time_unit: float = 1.0,
        scaling: Standardization | None = None,
    ) -> None:
        self.values = converting.as_floating("values", values)
        device = self.values.device
        self.times = converting.as_floating("times", times, torch.float64).to(device)
        self.lengths = torch.as_tensor(lengths).to(device, torch.int64)
        if self.times.dim() != 1:
            raise ValueError(
                f"`times` are the times of all series one after the other, (N,), but shape {tuple(self.times.shape)} "
                "came. Series.from_arrays takes a list of arrays, or rectangles (n, T)."
            )
        checking.check_lengths(self.lengths, len(self.times))
        checking.check_rows("values", self.values, len(self.times), "row", dims=2)
        self.ids = None if ids is None else checking.check_ids_alike(ids)
        if self.ids is not None and self.ids.shape != (len(self.lengths),):
            raise ValueError(f"`ids` has one name a series, {len(self.lengths)}, but shape {self.ids.shape} came.")
        self.static = converting.beside("static", static, len(self.lengths), "series", self.values, dims=2)
        self.inputs = converting.beside("inputs", inputs, len(self.times), "row", self.values, dims=2)
        self.labels = converting.beside("labels", labels, len(self.lengths), "series", self.values)
        self.row_labels = converting.beside("row_labels", row_labels, len(self.times), "row", self.values)
        self.channels = checking.names("channel", channels, self.values.shape[1])
        self.static_names = checking.names("static", static_names, 0 if self.static is None else self.static.shape[1])
        self.input_names = checking.names("input", input_names, 0 if self.inputs is None else self.inputs.shape[1])
        start = self.times.new_zeros(len(self.lengths)) if origin is None else origin
        self.origin = converting.as_floating("origin", start, torch.float64).to(device)
        checking.check_rows("origin", self.origin, len(self.lengths), "series")
        self.time_unit = clocks.checked_unit(time_unit)
        self.scaling = scaling
        checking.check_times(
            self.times,
            self.rows,
            self.ids,
            'Series.from_arrays(..., duplicates="mean") and Series.from_table(..., duplicates="mean") average them. '
            "Where single precision made them equal, pass times in double precision; events, of which each counts, "
            "move apart.",
        )
        if self.inputs is not None:
            checking.check_known("inputs", self.inputs, self.ids, self.rows)
        checking.check_all_bounded(self)

    # -------------------------------------------------------------------------------------------- where they come from
    @classmethod
    def from_table(
        cls,
        table: pandas.DataFrame,
        *,
        time: str,
        id: str | None = None,  # noqa: A002 - the word that everybody has in the table
        values: Sequence[str] | None = None,
        variable: str | None = None,
        value: str | None = None,
        static: Sequence[str] = (),
        inputs: Sequence[str] = (),
        labels: str | Sequence[str] | None = None,
        row_labels: str | Sequence[str] | None = None,
        duplicates: str = "error",
        empty: str = "error",
        unit: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Series:
        """Series from a ``pandas`` table: wide, a column a channel, or long, a row a single value.

        Rows may come in any order. Empty cells are missing values.

        Args:
            table: The table. A level of its index counts as a column, where its name is asked for.
            time: The column of times: numbers, or dates where ``unit`` is given.
            id: The column that says which series a row belongs to; without it the table is one series.
            values: Of a wide table the columns that are channels; by default every column of numbers that has no other
                role. Of a long table the variables to take, in this order; by default all, sorted.
            variable: Of a long table the column that names the channel.
            value: Of a long table the column of values.
            static: Columns that say something of the whole series, constant in each.
            inputs: Columns that are known at each row (wide tables).
            labels: The column, or a list of columns, of labels of the series, constant in each. A single column of
                whole numbers with empty cells becomes whole numbers with -1 for unknown; a list keeps NaN.
            row_labels: The column, or a list of columns, of labels of the rows (wide tables), as ``labels``.
            duplicates: For two values of one channel at one time: ``"error"``, ``"mean"``, ``"first"`` or ``"last"``.
                The mean is that of values and inputs; row labels have to agree.
            empty: For series without a value: ``"error"``, ``"drop"`` or ``"keep"``.
            unit: ``"seconds"``, ``"minutes"``, ``"hours"``, ``"days"``, ``"weeks"`` or ``"years"`` (of 365.25 days):
                turns dates into numbers, counted from 1970-01-01, and durations.
            dtype: Of values, static and inputs; by default torch's default type.

        Raises:
            TypeError: For text where numbers are wanted.
            ValueError: For a column that the table lacks (with the closest name), missing or repeated times, series
                without values, or columns that change where they should be constant.

        Example:
            >>> import pandas
            >>> table = pandas.DataFrame(
            ...     {"patient": ["a", "a", "b"], "day": [0, 30, 5], "bili": [1.1, None, 0.7], "age": [58, 58, 41]}
            ... )
            >>> series = Series.from_table(table, id="patient", time="day", values=["bili"], static=["age"])
            >>> series.values[:, 0], series.static[:, 0]
            (tensor([1.1000,    nan, 0.7000]), tensor([58., 41.]))
            >>> long = pandas.DataFrame(
            ...     {"id": [1, 1, 1], "day": [0, 0, 9], "test": ["hdl", "chol", "hdl"], "value": [60, 180, 55]}
            ... )
            >>> series = Series.from_table(long, id="id", time="day", variable="test", value="value")
            >>> series.channels, series.values
            (('chol', 'hdl'), tensor([[180.,  60.],
                    [ nan,  55.]]))
        """
        from pathline.data.series.tables import read

        roles = {"values": values, "static": static, "inputs": inputs, "labels": labels, "row_labels": row_labels}
        return read(cls, table, time, id, roles, (variable, value), duplicates, empty, unit, dtype)

    @classmethod
    def from_arrays(
        cls,
        times: Any,
        values: Any,
        *,
        mask: Any = None,
        lengths: Any = None,
        sort: bool = False,
        duplicates: str = "error",
        empty: str = "error",
        dtype: torch.dtype | None = None,
        **more: Any,
    ) -> Series:
        """Series from a list of arrays, or from rectangles.

        Args:
            times: A list of ``(T_i,)``; or ``(T,)``, the times of all series; or ``(n, T)``.
            values: A list of ``(T_i, D)`` or, for one channel, ``(T_i,)``; or ``(n, T, D)``. NaN is missing.
            mask: In the layout of ``values``, or without its last dimension: where false, a value is missing,
                whatever number stands there.
            lengths: ``(n,)``, how many columns of a rectangle each series has; what follows is padding.
            sort: Sort each series by its times; without it, times that decrease are an error.
            duplicates: For a repeated time: ``"error"``, ``"mean"``, ``"first"`` or ``"last"`` (of each channel).
            empty: For series without a value: ``"error"``, ``"drop"`` or ``"keep"``.
            dtype: Of values, static and inputs; by default that of tensors, and torch's default type otherwise.
            **more: ``static``, ``labels``, ``ids``, ``channels``, ... as `Series` takes them; ``inputs`` and
                ``row_labels`` in the layout of ``values``.

        Raises:
            ValueError: For shapes that disagree, and for times and series as above.

        Example:
            >>> series = Series.from_arrays([[0.0, 1.0], [0.0, 0.3, 0.9]], [[1.0, 2.0], [3.0, 4.0, 5.0]])
            >>> series.lengths
            tensor([2, 3])
            >>> padded = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [0.0], [0.0]]])
            >>> series = Series.from_arrays(torch.arange(3.0), padded, lengths=[3, 1])
            >>> series.values[:, 0]
            tensor([1., 2., 3., 4.])
            >>> Series.from_arrays(torch.linspace(0, 1, 5), torch.randn(10, 5, 3))
            Series(10 series of 3 channels (channel 0, channel 1, channel 2), 50 rows (5 a series), times 0 to 1)
        """
        return arrays.read(
            cls, times, values, sort, duplicates, empty, dtype, more | {"mask": mask, "lengths": lengths}
        )

    @classmethod
    def from_dict(cls, series: Mapping[Any, Any], *, duplicates: str = "error", **more: Any) -> Series:
        """Series from ``{id: (times, values)}``, or ``{id: {channel: (times, values)}}`` with times of each channel.

        Args:
            series: For each series its times ``(T_i,)`` and values ``(T_i, D)``; or for each of its channels times and
                values ``(T,)``. A channel may be absent.
            duplicates: As for `from_arrays`.
            **more: As for `from_arrays`.

        Example:
            >>> series = Series.from_dict({"left": {"hr": ([0, 1], [60, 64]), "bp": ([0.5], [120])}})
            >>> series.channels, series.times
            (('bp', 'hr'), tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64))
        """
        return dicts.read(cls, series, duplicates, more)

    @classmethod
    def cat(cls, parts: Sequence[Series]) -> Series:
        """The series of all ``parts``, one after the other."""
        parts = list(parts)
        changes = layout.joined(parts)
        return parts[0]._new(**changes)

    @classmethod
    def collate(cls, items: Any) -> Any:
        """The ``collate_fn`` of a ``DataLoader`` over series, or over tuples and dicts that contain series.

        Example:
            >>> series = Series.from_arrays(torch.linspace(0, 1, 5), torch.randn(10, 5, 3))
            >>> loader = torch.utils.data.DataLoader(series, batch_size=4, collate_fn=Series.collate)
            >>> [len(batch) for batch in loader]
            [4, 4, 2]
        """
        return collated(cls, items)

    def _new(self, **changes: Any) -> Series:
        """A copy that shares what did not change. Nothing is checked: what a series yields is a series."""
        copy = object.__new__(type(self))
        for name in (*layout.OF_ROWS, *layout.OF_SERIES, *layout.FOR_ALL, "ids"):
            setattr(copy, name, changes[name] if name in changes else getattr(self, name))
        return copy

    # -------------------------------------------------------------------------------------------- what can be read off
    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> Tensor:
        return ragged.offsets_of(self.lengths)

    @cached_property
    def rows(self) -> Tensor:
        return ragged.rows_of(self.lengths, len(self.times))

    @property
    def mask(self) -> Tensor:
        return ~self.values.isnan()

    @cached_property
    def places(self) -> Tensor:
        """The number of each row in its series, ``(N,)``: 0 for the first."""
        return ragged.places(self.rows, self.offsets)

    @cached_property
    def gaps(self) -> Tensor:
        """The time since the row before in the same series, ``(N,)``; 0 for the first."""
        step = torch.cat([self.times.new_zeros(min(1, len(self.times))), self.times.diff()])
        return torch.where(self.places == 0, 0.0, step)

    @property
    def starts(self) -> Tensor:
        """The first time of each series, ``(n,)``; NaN where it has no rows."""
        return self._edge(self.offsets[:-1])

    @property
    def ends(self) -> Tensor:
        """The last time of each series, ``(n,)``; NaN where it has no rows."""
        return self._edge(self.offsets[1:] - 1)

    def _edge(self, index: Tensor) -> Tensor:
        if not len(self.times):
            return self.times.new_full((len(self),), torch.nan)
        return torch.where(self.lengths > 0, self.times[index.clamp(0, len(self.times) - 1)], torch.nan)

    @property
    def original_times(self) -> Tensor:
        """The times before `shifted` and `with_time_unit`, ``(N,)``: ``origin + time_unit * times``."""
        return clocks.original(self)

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def __repr__(self) -> str:
        return described(self)

    # ---------------------------------------------------------------------------------------------- some of the series
    def __getitem__(self, index: Any) -> Series:
        if isinstance(index, slice) and index.step in (None, 1):
            start, stop, _ = index.indices(len(self))
            return self._new(**layout.stretch(self, start, max(start, stop)))
        return self._new(**layout.taken(self, choosing.numbers(index, self)))

    def __getitems__(self, index: Sequence[int]) -> Series:
        return self[index]

    def __iter__(self) -> Iterator[Series]:
        return (self[i : i + 1] for i in range(len(self)))

    def by_id(self, *ids: Any) -> Series:
        """The series of these names, or of a list of names, in this order.

        Raises:
            ValueError: For a name that no series has, or several have, or series without names.

        Example:
            >>> series = Series.from_dict({"ann": ([0, 1], [5.0, 6.0]), "bob": ([0], [7.0])})
            >>> series.by_id("bob").values
            tensor([[7.]])
        """
        return self[choosing.named(ids, self.ids, self._places_of_names)]

    @cached_property
    def _places_of_names(self) -> dict[Any, int]:
        return choosing.places_of_names(self.ids)

    def split(
        self, parts: Sequence[float] = (0.8, 0.1, 0.1), generator: torch.Generator | None = None
    ) -> tuple[Series, ...]:
        """Shuffle the series and deal them out: whole series, never their rows.

        Args:
            parts: Fractions with the sum 1, or counts with the sum n.
            generator: Of the shuffle; on the CPU.

        Raises:
            ValueError: For another sum, or a part without a series.

        Example:
            >>> series = Series.from_arrays(torch.linspace(0, 1, 5), torch.randn(10, 5, 1))
            >>> [len(part) for part in series.split((0.7, 0.3), torch.Generator().manual_seed(0))]
            [7, 3]
        """
        return tuple(self[numbers] for numbers in choosing.dealt(len(self), parts, generator))

    # ------------------------------------------------------------------------------------------------ some of the rows
    def keep(self, rows: Tensor) -> Series:
        """The rows where ``rows``, booleans ``(N,)``, is true; all series stay, some perhaps without a row."""
        return self._new(**layout.kept(self, choosing.booleans(rows, self)))

    def observed(self) -> Series:
        """Without the rows in which nothing was observed."""
        return self.keep(self.mask.any(1))

    def before(self, t: float | Tensor) -> Series:
        """The rows with ``times < t``, for a number or one time a series, ``(n,)``."""
        return self.keep(self.times < choosing.of_each("t", t, self))

    def after(self, t: float | Tensor) -> Series:
        """The rows with ``times >= t``: with `before` the whole."""
        return self.keep(self.times >= choosing.of_each("t", t, self))

    def between(self, start: float | Tensor, stop: float | Tensor) -> Series:
        """The rows with ``start <= times < stop``, for numbers or one time a series, ``(n,)``."""
        after = self.times >= choosing.of_each("start", start, self)
        return self.keep(after & (self.times < choosing.of_each("stop", stop, self)))

    def first(self, count: int | Tensor) -> Series:
        """The first rows of each series, ``count`` or, of shape ``(n,)``, as many as it says; fewer where it is short.

        ``series.first(series.lengths - 3)`` leaves out the last three rows of each.

        Raises:
            ValueError: For a negative number or a fraction.
        """
        return self.keep(self.places < choosing.counts(count, self))

    def last(self, count: int | Tensor) -> Series:
        """The last rows of each series, as in `first`."""
        return self.keep(self.places >= self.lengths[self.rows] - choosing.counts(count, self))

    def thin(self, keep: float | Tensor, generator: torch.Generator | None = None) -> Series:
        """Random rows of each series, drawn without replacement; they stay in their order.

        Args:
            keep: A fraction above 0 and up to 1, of which each series keeps at least one row; or a count from 1 on; or
                fractions or counts ``(n,)``.
            generator: Of the choice; on the CPU.

        Raises:
            ValueError: For a count that a series does not have.

        Example:
            >>> series = Series.from_arrays(torch.linspace(0, 1, 6), torch.randn(2, 6, 1))
            >>> series.thin(0.5, torch.Generator().manual_seed(0)).lengths
            tensor([3, 3])
        """
        return self.keep(choosing.drawn(keep, self, generator))

    # ----------------------------------------------------------------------------------------------------- other units
    def standardized(self, scaling: Standardization | None = None) -> Series:
        """Each channel with mean 0 and standard deviation 1 over the values that are there.

        The map is kept in ``scaling``, so that other series are scaled alike and results are scaled back.

        Args:
            scaling: That of other series, such as the training part; by default fitted to these. Its channels are
                found by their names.

        Raises:
            ValueError: For series that are standardized already, a channel without values, or a scaling of others.

        Example:
            >>> train = Series.from_arrays([[0.0, 1.0]], [[10.0, 14.0]]).standardized()
            >>> train.values[:, 0], train.unscale(torch.tensor([[0.5]]))
            (tensor([-1.,  1.]), tensor([[13.]]))
            >>> test = Series.from_arrays([[0.0]], [[16.0]]).standardized(train.scaling)
            >>> test.values
            tensor([[2.]])
        """
        if self.scaling is not None:
            raise ValueError(
                "These series are standardized already. Start from series.unstandardized(), or scale the original."
            )
        chosen = fitted(self.values, self.channels) if scaling is None else scaling.ordered(self.channels)
        return self._new(values=chosen(self.values), scaling=chosen)

    def unstandardized(self) -> Series:
        """The series in the units they had."""
        return self._new(values=self.unscale(self.values), scaling=None)

    def unscale(self, values: Tensor) -> Tensor:
        """``values`` ``(..., D)``, such as a prediction, in the units before `standardized`; as they are without it."""
        return values if self.scaling is None else self.scaling.undo(values)

    def shifted(self, origin: float | Tensor | None = None) -> Series:
        """Each series with its own time origin; what is subtracted is added to ``origin``.

        Args:
            origin: The new zero in the present unit, a number or one a series, ``(n,)``; by default each series' first
                time.

        Raises:
            ValueError: For an origin that is not finite, or so far away that double precision merges times.

        Example:
            >>> series = Series.from_arrays([[3.0, 4.0], [7.0]], [[1.0, 2.0], [3.0]]).shifted()
            >>> series.times, series.origin
            (tensor([0., 1., 0.], dtype=torch.float64), tensor([3., 7.], dtype=torch.float64))
        """
        return self._new(**clocks.shifted(self, origin))

    def with_time_unit(self, unit: float) -> Series:
        """The same moments counted in another unit, which is kept in ``time_unit``: years rather than days.

        Models learn best where times are of the order of 1 to 10. ``series.shifted().with_time_unit(365.25)`` counts
        days in years from the first row of each series; other series follow by
        ``other.shifted().with_time_unit(series.time_unit)``. Rates that a model learns, those of events among them, are
        rates in this unit.

        Args:
            unit: How many of the original units make one, above 0; 1 goes back to the original unit.

        Raises:
            TypeError: ``unit`` is no number.
            ValueError: ``unit`` is not finite and positive.

        Example:
            >>> days = Series.from_arrays([[0.0, 73.05, 730.5]], [[1.0, 2.0, 3.0]])
            >>> years = days.with_time_unit(365.25)
            >>> years.times
            tensor([0.0000, 0.2000, 2.0000], dtype=torch.float64)
            >>> years.original_times.tolist()
            [0.0, 73.05, 730.5]
        """
        return self._new(**clocks.in_unit(self, unit))

    def carried_forward(self) -> Series:
        """Each missing value replaced by the last one before it in the same series and channel, where there is one.

        That is a way of forecasting, and a simple one to beat, rather than a way of preparing data.

        Example:
            >>> series = Series.from_arrays([[0.0, 1.0, 2.0], [0.0, 1.0]], [[1.0, None, 3.0], [None, 5.0]])
            >>> series.carried_forward().values[:, 0]
            tensor([1., 1., 3., nan, 5.])
        """
        return self._new(values=ragged.carried_forward(self.values, self.offsets[:-1][self.rows]))

    def with_values(self, values: Tensor, channels: Sequence[str] | None = None) -> Series:
        """Other values ``(N, D')`` at the same rows: a transform of these, or a prediction."""
        values = converting.as_floating("values", values)
        checking.check_rows("values", values, len(self.times), "row", dims=2)
        same = values.shape[1] == len(self.channels)
        names = self.channels if channels is None and same else checking.names("channel", channels, values.shape[1])
        checking.check_bounded("values", values, names, lambda row: checking.row_of(self, row))
        return self._new(values=values, channels=names, scaling=renamed(self.scaling, self.channels, names))

    def select(self, *channels: str) -> Series:
        """Some of the channels, in this order; all rows stay, and `observed` drops those that are left without a value.

        Raises:
            ValueError: For a name that no channel has.

        Example:
            >>> series = Series.from_arrays([[0.0, 1.0]], [[[1.0, 2.0], [3.0, 4.0]]], channels=["hdl", "sbp"])
            >>> series.select("sbp").values
            tensor([[2.],
                    [4.]])
        """
        places = choosing.places_of_channels(channels, self)
        scaling = None if self.scaling is None else self.scaling.at(places)
        return self._new(values=self.values[:, places], channels=channels, scaling=scaling)

    def replace(self, **changes: Any) -> Series:
        """The same rows with other companions, checked as those of a new series.

        Args:
            **changes: Among ``static``, ``inputs``, ``labels``, ``row_labels``, ``static_names``, ``input_names`` and
                ``ids``; None takes one away.

        Raises:
            TypeError: For another name.
            ValueError: For shapes that disagree with the series.

        Example:
            >>> series = Series.from_arrays([[0.0, 1.0], [2.0]], [[1.0, 2.0], [3.0]])
            >>> series.replace(labels=torch.tensor([1, 0])).labels
            tensor([1, 0])
        """
        return type(self)(**layout.replaced(self, changes))

    def to(
        self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None, **more: Any
    ) -> Series:
        """On another device, or with values, static and inputs in another type; times stay in double precision.

        Raises:
            TypeError: For a type without NaN.
            ValueError: For values that the type does not hold.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        converting.check_dtype(dtype)
        copy = self._new(**layout.moved(self, self.device if device is None else device, dtype, more))
        narrower = dtype is not None and torch.finfo(dtype).max < torch.finfo(self.dtype).max
        if narrower and copy.device.type != "meta":
            checking.check_all_bounded(copy)
        return copy

    def pin_memory(self) -> Series:
        """In page-locked memory, from which copies to a GPU need not wait."""
        return self._new(**layout.pinned(self))

    # ------------------------------------------------------------------------------------------------------ rectangles
    def padded(self) -> views.Padded:
        """The rows as a rectangle, by their number in the series: ``.times .values .mask .present``."""
        return views.padded(self)

    def union(self) -> views.Union:
        """The rows as a rectangle over all distinct times: ``.times .values .mask .present .index``."""
        return views.union(self)

    def align(self, tensor: Tensor) -> Tensor:
        """What stands at the rows in a rectangle ``(n, L, ...)`` or ``(n, T, ...)``, as ``(N, ...)``.

        Raises:
            ValueError: For a shape that is neither's.
        """
        return views.aligned(self, tensor)

    # ----------------------------------------------------------------------------------------------- batches and files
    def batches(self, size: int, seed: int = 0, drop_last: bool = False) -> Callable[[int], Series]:
        """Shuffled batches as a pure function of the step, for `fit`; every epoch has its own permutation.

        Among several processes each batch is dealt out by rank.

        Args:
            size: Series in a batch, over all processes.
            seed: Of the permutations.
            drop_last: Leave out the smaller batch at the end of an epoch.

        Example:
            >>> series = Series.from_arrays(torch.linspace(0, 1, 5), torch.randn(10, 5, 1))
            >>> batch = series.batches(size=4)
            >>> [len(batch(step)) for step in range(3)]
            [4, 4, 2]
        """
        return shuffled(self, size, seed, drop_last)

    def to_table(self, *, original: bool = True) -> pandas.DataFrame:
        """A wide ``pandas`` table: ``id``, ``time``, a column a channel, inputs, static columns and labels.

        A row is a row of a series: series without rows have no place in it. Where two columns have one name, the later
        one has its role in front, as in ``static age``.

        Args:
            original: In the units of the beginning: times in their first unit and with the origins added, to rounding;
                the scaling undone.
        """
        from pathline.data.series.tables import write

        return write(self, original)

    def to_parquet(self, path: str | Path, *, rows_per_group: int = 65_536) -> None:
        """Write a Parquet file with one row a series; `read_parquet` gives back the same series, bit for bit.

        Args:
            path: The file.
            rows_per_group: About how many rows a group of series has; `SeriesFile` reads one group at a time.
        """
        from pathline.data.series.files import write

        write(path, [self], rows_per_group)

    @classmethod
    def read_parquet(cls, path: str | Path) -> Series:
        """The series of a file that `to_parquet` wrote."""
        from pathline.data.series.files import SeriesFile

        return SeriesFile(path).read()
