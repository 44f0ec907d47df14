"""What recurrent networks are used for: to forecast, and to classify."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.models.batches import check_series, pair, query
from pathline.models.labels import class_numbers
from pathline.models.means import mean_over_processes, tied
from pathline.models.recurrent.gaps import Gaps
from pathline.models.recurrent.order import order
from pathline.models.sizes import check_sizes
from pathline.nets import MLP

if TYPE_CHECKING:
    from pathline.data import Series
    from pathline.models.recurrent.recurrent import Recurrent
    from pathline.models.recurrent.states import States


class Forecaster(nn.Module):
    r"""A recurrent network that says what comes next, one row ahead or many. *Maturing.*

    $$\hat x_i = \mathrm{readout}(h_i^-)$$

    from the state just before each row, which knows the rows before and the time of this one. Where the time since the
    row before is an input of the network (``dt``), it is one of the readout too: the state alone does not know it.

    Static covariates and known inputs of the series count only where the network was built for them, as by
    ``GRU(channels, hidden, static=2, inputs=1)``.

    A far forecast of an ODE-RNN is one gap: give its flow a longest step (``dt``) or an adaptive method, else a single
    step of Euler crosses it.

    Args:
        recurrent: The network.
        readout: A module from the state to the channels; by default one hidden layer as wide as the state.
        scale: None to train by the mean square error; a standard deviation, or ``"learn"`` for one a channel that is
            learned, to train by the Gaussian likelihood.
        feedback: Whether, behind the last row, ``predict`` hands its own forecasts to the network as if they were
            observed. Without it the state goes on alone, by what happens between observations.

    Raises:
        TypeError: ``recurrent`` is no ``Recurrent``.
        ValueError: ``scale`` is neither None, ``"learn"`` nor positive.

    Example:
        >>> import torch
        >>> from pathline.data import Series
        >>> from pathline.models import Forecaster, ODERNN
        >>> series = Series(torch.tensor([0.0, 0.7, 0.1, 0.4, 2.0]), torch.randn(5, 3), torch.tensor([2, 3]))
        >>> model = Forecaster(ODERNN(channels=3, hidden=8))
        >>> model.loss(series).shape, model.predict(series, torch.tensor([2.5, 3.0])).shape
        (torch.Size([]), torch.Size([2, 2, 3]))
    """

    stored_as = {"scale": "trained_by"}

    def __init__(
        self,
        recurrent: Recurrent,
        readout: nn.Module | None = None,
        *,
        scale: float | str | None = None,
        feedback: bool = False,
    ) -> None:
        super().__init__()
        if not callable(getattr(recurrent, "advance", None)):
            raise TypeError(
                "`recurrent` is a Recurrent, such as GRUdt(channels, hidden) or ODERNN(channels, hidden), but "
                f"{type(recurrent).__name__} came. A latent model forecasts by itself: model.predict(observed, t)."
            )
        if not (scale is None or scale == "learn" or (isinstance(scale, int | float) and 0 < scale < math.inf)):
            raise ValueError(f'`scale` is None, "learn" or a positive standard deviation, but {scale!r} came.')
        self.recurrent, self.trained_by, self.feedback = recurrent, scale, feedback
        size = recurrent.hidden + recurrent.dt
        self.readout = MLP(size, recurrent.channels, (recurrent.hidden,)) if readout is None else readout
        if scale == "learn":
            self.log_scale = nn.Parameter(torch.zeros(recurrent.channels))

    @property
    def scale(self) -> Tensor | None:
        """The standard deviation as it is now, 0-d or ``(channels,)``; None without one."""
        if self.trained_by is None:
            return None
        return self.log_scale.exp() if self.trained_by == "learn" else torch.tensor(float(self.trained_by))

    def forward(self, series: Series) -> Tensor:
        """The forecast of each row from the rows before it, ``(N, channels)``."""
        states = self.recurrent(series)
        return self._read(states.before, states.gap)

    def loss(self, batch: Series | tuple[Series, Series]) -> Tensor:
        """The mean error over all values that were observed; while training in several processes, over those of all.

        Args:
            batch: Series, of which each row but the first with a value is forecast from those before it; or a pair
                (observed, target) over the same series, where the rows of ``target`` are forecast from the rows of
                ``observed`` that lie before them.

        Returns:
            The mean square error or, with ``scale``, the mean negative log-likelihood, in nats a value.
        """
        if isinstance(batch, tuple | list):
            observed, target = pair(batch)
            forecast, mask = self.predict(observed, target), target.mask
        else:
            target: Any = check_series(batch)
            forecast, mask = self(target), target.mask & ~_begins(target)[:, None]
        square = torch.where(mask, forecast - torch.where(mask, target.values, 0.0), 0.0).square()
        if self.trained_by is None:
            return self._mean(square.sum(), mask)
        learned = self.trained_by == "learn"
        log_scale = self.log_scale if learned else square.new_tensor(math.log(float(self.trained_by)))
        scale = log_scale.exp()
        each = 0.5 * square / scale**2 + torch.where(mask, 0.5 * math.log(2 * math.pi) + log_scale, 0.0)
        return self._mean(each.sum(), mask)

    def predict(self, observed: Series, t: Tensor | Series, *, feedback: bool | None = None) -> Tensor:
        """The forecast at any times, each from the rows that lie before it.

        Args:
            observed: What is known.
            t: ``(T,)``, a tensor or numbers, for all series; or a ``Series`` over the same series, whose times count
                (and whose known inputs, where the network has them and forecasts are fed back).
            feedback: In place of the model's own.

        Returns:
            ``(T, n, channels)``; for a ``Series`` ``(N, channels)``, in the order of its rows.
        """
        states, t = self.recurrent(observed), query(t, observed)
        forecast = self._read(states.at(t, including=False), states.since(t, including=False))
        if not (self.feedback if feedback is None else feedback):
            return forecast
        times, which, shape = states.asked(t)
        inputs = getattr(t, "inputs", None)
        return self._fed_back(observed, states, times, which, inputs, forecast.flatten(0, len(shape) - 1)).unflatten(
            0, shape
        )

    def _mean(self, total: Tensor, mask: Tensor) -> Tensor:
        return tied(mean_over_processes(total, mask.sum(), training=self.training), self)

    def _read(self, h: Tensor, gap: Tensor) -> Tensor:
        found = self.readout(torch.cat([h, gap[..., None].to(h.dtype)], -1) if self.recurrent.dt else h)
        return _checked(found, self.recurrent.channels, "channels")

    def _fed_back(
        self, observed: Series, states: States, times: Tensor, which: Tensor, inputs: Any, forecast: Tensor
    ) -> Tensor:
        """Forecasts whose values behind the last row are made one from the other."""
        if self.recurrent.inputs and inputs is None:
            raise ValueError(
                "With `feedback` the network needs its known inputs at the times of the forecast: pass a Series with "
                "`inputs` as `t`."
            )
        last = states.last
        index = torch.nonzero(times > last[which]).squeeze(-1)
        index = index[torch.argsort(times[index], stable=True)]
        index = index[torch.argsort(which[index], stable=True)]
        counts = torch.bincount(which[index], minlength=len(observed))
        places = order(counts, which[index])
        index = index[places.rows]
        h, clock, silent, found = states.final, last, states.silent, []
        for rows in index.split(places.sizes):
            series = which[rows]
            # A series without a row begins at its first forecast.
            start = torch.where(clock[series].isfinite(), clock[series], times[rows])
            gap = times[rows] - start
            before = self.recurrent.advance(h[series], Gaps(start, gap, silent[series] + gap[:, None]))
            x = self._read(before, gap)
            own = None if inputs is None else inputs[rows].nan_to_num(0.0)
            after = self.recurrent.update(before, x, gap, observed, series, own)
            h, clock = h.index_copy(0, series, after), clock.index_copy(0, series, times[rows])
            silent = silent.index_fill(0, series, 0.0)
            found.append(x)
        return forecast.index_copy(0, index, torch.cat(found)) if found else forecast

    def extra_repr(self) -> str:
        shown = [] if self.scale is None else [f"{scale:.4g}" for scale in self.scale.reshape(-1).tolist()]
        parts = [f"scale={', '.join(shown)}, learn={self.trained_by == 'learn'}"] if shown else []
        return ", ".join([*parts, *(["feedback=True"] if self.feedback else [])])


def _checked(found: Tensor, size: int, what: str) -> Tensor:
    if found.shape[-1] != size:
        raise ValueError(
            f"`readout` gives one number for each of {size} {what}, but {found.shape[-1]} came. Its last layer has "
            f"{size} outputs."
        )
    return found


def _begins(series: Series) -> Tensor:
    """Whether a row is the first of its series with a value, ``(N,)``."""
    seen = series.mask.any(-1)
    count = torch.cat([series.offsets.new_zeros(1), seen.cumsum(0)])
    return seen & (count[1:] - count[series.offsets[:-1]][series.rows] == 1)


class Classifier(nn.Module):
    """A class for each series, or for each of its rows. *Maturing.*

    Args:
        encoder: A ``Recurrent``, or any module that returns an object with ``final`` ``(n, hidden)`` and, for classes
            of rows, ``after`` ``(N, hidden)``.
        classes: Number of classes.
        per_time: Whether each row has a class, read from the state after it.
        reverse: Whether the encoder goes backward in time.
        readout: A module from the state to the classes; by default one linear layer.

    Labels are whole numbers from 0 to ``classes - 1``, and -1 where the class is unknown.

    Raises:
        TypeError: ``encoder`` does not say how large its states are, and there is no ``readout``.
        ValueError: ``classes`` is no whole number, or less than 1.

    Example:
        >>> import torch
        >>> from pathline.data import Series
        >>> from pathline.models import Classifier, GRUdt
        >>> series = Series(torch.tensor([0.0, 0.7, 0.1, 0.4, 2.0]), torch.randn(5, 3), torch.tensor([2, 3]))
        >>> Classifier(GRUdt(channels=3, hidden=8), classes=4).predict(series).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        *,
        per_time: bool = False,
        reverse: bool = False,
        readout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_sizes(classes=classes)
        self.encoder, self.classes, self.per_time, self.reverse = encoder, classes, per_time, reverse
        hidden: Any = getattr(encoder, "hidden", None)
        if readout is None and not isinstance(hidden, int):
            raise TypeError(
                "`encoder` is a Recurrent, such as GRUdt(channels, hidden), or a module with a size `hidden`, but "
                f"{type(encoder).__name__} came. Pass a `readout`; a latent model classifies by itself: "
                "LatentODE(..., classifier=nn.Linear(latent, classes))."
            )
        self.readout = nn.Linear(hidden, classes) if readout is None else readout

    def forward(self, series: Series) -> Tensor:
        """Logits, ``(n, classes)``; of rows ``(N, classes)``."""
        states = self.encoder(series, reverse=self.reverse) if self.reverse else self.encoder(series)
        return _checked(self.readout(states.after if self.per_time else states.final), self.classes, "classes")

    def loss(self, batch: Series) -> Tensor:
        """The mean cross-entropy in nats; what is labelled -1 does not count. In several processes as in one.

        Raises:
            ValueError: The series have no labels of the kind that is asked for, or one that is no class.
        """
        labels = self._labels(batch)
        total = F.cross_entropy(self(batch), labels, ignore_index=-1, reduction="sum")
        return tied(mean_over_processes(total, (labels != -1).sum(), training=self.training), self)

    def predict(self, series: Series) -> Tensor:
        """Probabilities, ``(n, classes)``; of rows ``(N, classes)``."""
        return self(series).softmax(-1)

    def _labels(self, series: Series) -> Tensor:
        labels = check_series(series).row_labels if self.per_time else check_series(series).labels
        if labels is None:
            kind = "row labels, (N,)" if self.per_time else "labels, (n,)"
            name = "row_labels" if self.per_time else "labels"
            raise ValueError(f"The series have no {kind}. Pass them as Series(..., {name}=...).")
        return class_numbers(labels, self.classes, series, series.rows if self.per_time else None)
