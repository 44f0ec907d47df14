"""Ways of fitting a model to a trajectory.

Plain shooting, the mean square error of one long solve, has a poor landscape on anything that oscillates: the mean of
the series is a local minimum. Each strategy here is a small module that holds the model, the series and its own state,
and returns a loss when called; its parameters are what an optimiser should see.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.data.smoothing import SmoothingSpline
from pathline.terms import ODE


class TrajectoryLoss(nn.Module):
    """Base of the strategies: a model, a series, and the state that the model starts from. *Maturing.*

    Args:
        model: Anything with ``forward(y0, t) -> (len(t), *y0.shape)``.
        t: Increasing times, shape ``(n,)``.
        y: Observations, shape ``(n, ...)``.
        free_start: Whether the start is a parameter that begins at the first observation; else it is that observation.

    Raises:
        ValueError: Shapes that disagree, fewer than two times, or observations that are not finite.
    """

    model: Any  # what a user's model offers beside `forward` stays reachable
    t: Tensor
    y: Tensor

    def __init__(self, model: nn.Module, t: Tensor, y: Tensor, *, free_start: bool = False) -> None:
        super().__init__()
        _check_series(t, y)
        self.model = model
        self.register_buffer("t", t.detach().clone(), persistent=False)
        self.register_buffer("y", y.detach().clone(), persistent=False)
        self.free_start = free_start
        self._make_start()

    def _make_start(self) -> None:
        if self.free_start:
            self.first = nn.Parameter(self.y[0].clone())

    @property
    def start(self) -> Tensor:
        """The state at the first time."""
        return self.first if self.free_start else self.y[0]

    def predict(self, t: Tensor) -> Tensor:
        """The model's trajectory from the fitted start, at times whose first is that of the series."""
        return self.model(self.start, t)

    def error(self) -> Tensor:
        """The mean square error of one solve over the whole series, whatever the strategy."""
        return F.mse_loss(self.predict(self.t), self.y)

    def forward(self, batch: Any = None) -> Tensor:
        """The loss of this step."""
        raise NotImplementedError

    def _advances(self) -> bool:
        """Whether this call belongs to training, so that the strategy's own clock may go on."""
        return self.training and torch.is_grad_enabled()


class Full(TrajectoryLoss):
    """Plain shooting: the mean square error of one solve over the whole series. *Maturing.*

    Example:
        >>> import torch
        >>> from pathline import NeuralODE, fields
        >>> t = torch.linspace(0, 1, 5)
        >>> loss = Full(NeuralODE(fields.MLP(1)), t, t.exp().unsqueeze(1))
        >>> loss().backward()
    """

    def forward(self, batch: Any = None) -> Tensor:
        """The mean square error of the whole series."""
        return self.error()


class Horizon(TrajectoryLoss):
    """Shooting over a window that grows when its loss falls below a bound. *Maturing.*

    Args:
        model: As in ``TrajectoryLoss``.
        t: As in ``TrajectoryLoss``.
        y: As in ``TrajectoryLoss``.
        first: Points in the first window, the start included.
        grow: Points added at a time.
        bound: The window grows when its mean square error is below this fraction of the variance of the series.
        patience: The window grows after so many calls too, so that a model that cannot fit sees everything in the end.
        free_start: As in ``TrajectoryLoss``.

    Example:
        >>> import torch
        >>> from pathline import NeuralODE, fields
        >>> t = torch.linspace(0, 6, 13)
        >>> loss = Horizon(NeuralODE(fields.MLP(1)), t, t.sin().unsqueeze(1), first=3)
        >>> int(loss.window)
        3
        >>> loss().backward()
    """

    window: Tensor
    waited: Tensor

    def __init__(
        self,
        model: nn.Module,
        t: Tensor,
        y: Tensor,
        *,
        first: int = 4,
        grow: int = 1,
        bound: float = 0.05,
        patience: int = 200,
        free_start: bool = False,
    ) -> None:
        super().__init__(model, t, y, free_start=free_start)
        if not (first >= 2 and grow >= 1 and bound > 0 and patience >= 1):
            raise ValueError(
                "A horizon needs first >= 2 points, grow >= 1, bound > 0 and patience >= 1, "
                f"but first={first}, grow={grow}, bound={bound}, patience={patience} came."
            )
        self.grow, self.patience = grow, patience
        self.bound = bound * float(self.y.var(0, unbiased=False).mean())
        self.register_buffer("window", torch.tensor(min(first, len(t))))
        self.register_buffer("waited", torch.tensor(0))

    def forward(self, batch: Any = None) -> Tensor:
        """The mean square error of the window; the window grows for the next call when it is good enough."""
        n = int(self.window)
        loss = F.mse_loss(self.predict(self.t[:n]), self.y[:n])
        if self._advances() and n < len(self.t):
            self.waited += 1
            if float(loss.detach()) < self.bound or int(self.waited) >= self.patience:
                self.window.fill_(min(n + self.grow, len(self.t)))
                self.waited.zero_()
        return loss


class MultipleShooting(TrajectoryLoss):
    r"""Short segments with free starts, and a penalty on the jumps between them. *Maturing.*

    $$L = \frac1n \sum_i |\hat y_i - y_i|^2 + \rho\,\frac1K \sum_k |\hat y_k(t_{k+1}) - s_{k+1}|^2$$

    The starts ``s`` are parameters that begin at the observations. ``rho`` grows by a factor at each call until its
    last value, so that the segments end as one trajectory.

    Args:
        model: As in ``TrajectoryLoss``.
        t: As in ``TrajectoryLoss``.
        y: As in ``TrajectoryLoss``.
        segment: Intervals in a segment.
        penalty: ``rho`` at the first call.
        growth: Factor on ``rho`` at each call.
        last_penalty: Largest ``rho``.

    Example:
        >>> import torch
        >>> from pathline import NeuralODE, fields
        >>> t = torch.linspace(0, 6, 13)
        >>> loss = MultipleShooting(NeuralODE(fields.MLP(1)), t, t.sin().unsqueeze(1), segment=4)
        >>> loss.starts.shape
        torch.Size([3, 1])

    References:
        H. G. Bock, K. J. Plitt (1984), A multiple shooting algorithm for direct solution of optimal control problems.
    """

    penalty: Tensor

    def __init__(
        self,
        model: nn.Module,
        t: Tensor,
        y: Tensor,
        *,
        segment: int = 3,
        penalty: float = 1.0,
        growth: float = 1.0,
        last_penalty: float = 1e3,
    ) -> None:
        if not (isinstance(segment, int) and segment >= 1 and penalty > 0 and growth >= 1):
            raise ValueError(
                "Multiple shooting needs segment >= 1 intervals, penalty > 0 and growth >= 1, "
                f"but segment={segment!r}, penalty={penalty}, growth={growth} came."
            )
        self.segment = segment
        super().__init__(model, t, y, free_start=True)
        self.growth, self.last_penalty = growth, max(last_penalty, penalty)
        self.register_buffer("penalty", torch.tensor(float(penalty), dtype=torch.float64))

    def _make_start(self) -> None:
        self.starts = nn.Parameter(self.y[: -1 : self.segment].clone())

    @property
    def start(self) -> Tensor:
        """The state at the first time."""
        return self.starts[0]

    def segments(self) -> list[Tensor]:
        """The trajectory of each segment at its own times, the shared ends included."""
        edges = range(0, len(self.t) - 1, self.segment)
        return [
            self.model(start, self.t[edge : edge + self.segment + 1])
            for start, edge in zip(self.starts, edges, strict=True)
        ]

    def forward(self, batch: Any = None) -> Tensor:
        """The misfit of all segments and the penalised jumps."""
        pieces = self.segments()
        fitted = torch.cat([*(piece[:-1] for piece in pieces[:-1]), pieces[-1]])
        jumps = [piece[-1] - start for piece, start in zip(pieces[:-1], self.starts[1:], strict=True)]
        loss = F.mse_loss(fitted, self.y)
        if jumps:
            loss = loss + float(self.penalty) * torch.stack(jumps).square().mean()
        if self._advances():
            self.penalty.mul_(self.growth).clamp_(max=self.last_penalty)
        return loss


class DerivativeMatch(TrajectoryLoss):
    r"""The field learns the slopes of a smoothing spline first, without any solve; then plain shooting. *Maturing.*

    $$L = \frac1m \sum_j |f(t_j, g(t_j)) - g'(t_j)|^2$$

    Args:
        model: As in ``TrajectoryLoss``, with its rate as ``model.field``, or ``field`` beside it.
        t: As in ``TrajectoryLoss``.
        y: As in ``TrajectoryLoss``.
        steps: Calls that match slopes; 0 goes straight to shooting.
        points: Points of the spline in each interval.
        smoothing: ``lambda`` of the spline; without it generalised cross-validation chooses.
        field: The rate, where the model does not have it as ``field``; it gets a vector of times ``(m, 1, ..., 1)``.
        free_start: As in ``TrajectoryLoss``.

    Raises:
        TypeError: The model has no ``field``, and none was given.

    Example:
        >>> import torch
        >>> from pathline import NeuralODE, fields
        >>> t = torch.linspace(0, 6, 13)
        >>> loss = DerivativeMatch(NeuralODE(fields.MLP(1)), t, t.sin().unsqueeze(1), steps=100)
        >>> loss().backward()

    References:
        J. O. Ramsay, G. Hooker, D. Campbell, J. Cao (2007), Parameter estimation for differential equations.
    """

    calls: Tensor
    knots: Tensor
    values: Tensor
    slopes: Tensor

    def __init__(
        self,
        model: nn.Module,
        t: Tensor,
        y: Tensor,
        *,
        steps: int = 500,
        points: int = 4,
        smoothing: float | None = None,
        field: Any = None,
        free_start: bool = False,
    ) -> None:
        super().__init__(model, t, y, free_start=free_start)
        field = getattr(model, "field", None) if field is None else field
        if not callable(field):
            raise TypeError(
                "Matching slopes needs the rate: a model with a `field`, or `field=` beside it, "
                f"but {type(model).__name__} has none."
            )
        self.steps = steps
        self._rate = ODE(field).rate
        spline = SmoothingSpline(self.t, self.y, smoothing)
        fractions = torch.arange(points, dtype=t.dtype, device=t.device) / points
        knots = torch.cat([(self.t[:-1, None] + self.t.diff()[:, None] * fractions).flatten(), self.t[-1:]])
        self.register_buffer("knots", knots.reshape(-1, *[1] * (y.dim() - 1)), persistent=False)
        self.register_buffer("values", spline(knots), persistent=False)
        self.register_buffer("slopes", spline.derivative(knots), persistent=False)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, batch: Any = None) -> Tensor:
        """The misfit of the slopes during the first ``steps`` calls, then that of the trajectory."""
        matching = int(self.calls) < self.steps
        if self._advances():
            self.calls += 1
        if matching:
            return F.mse_loss(self._rate(self.knots, self.values, None), self.slopes)
        return self.error()


STRATEGIES: dict[str, type[TrajectoryLoss]] = {
    "full": Full,
    "horizon": Horizon,
    "multiple-shooting": MultipleShooting,
    "derivative-match": DerivativeMatch,
}


def trajectory_loss(
    model: nn.Module, t: Tensor, y: Tensor, strategy: str = "horizon", **options: Any
) -> TrajectoryLoss:
    """A loss that fits a model to a trajectory by one of four strategies. *Maturing.*

    What comes back is a module that holds the model, the series and, for some strategies, parameters and a clock of
    its own: train *it*, so that its starts are fitted and a resumed run goes on where it was.

    Args:
        model: Anything with ``forward(y0, t) -> (len(t), *y0.shape)``, such as ``NeuralODE``.
        t: Increasing times, shape ``(n,)``.
        y: Observations, shape ``(n, ...)``.
        strategy: ``"full"``, ``"horizon"``, ``"multiple-shooting"`` or ``"derivative-match"``.
        **options: Options of the strategy: ``Horizon(first=, grow=, bound=, patience=)``,
            ``MultipleShooting(segment=, penalty=, growth=, last_penalty=)``,
            ``DerivativeMatch(steps=, points=, smoothing=, field=)``; and ``free_start=`` for all but multiple
            shooting, whose starts are always free.

    Returns:
        A callable module: ``loss()`` is the loss of this step, ``loss.error()`` that of plain shooting over the whole
        series, ``loss.predict(t)`` the fitted trajectory.

    Raises:
        ValueError: No strategy has this name, or the series is not usable.

    Example:
        >>> import torch
        >>> from pathline import NeuralODE, fields
        >>> from pathline.train.trajectory import trajectory_loss
        >>> t = torch.linspace(0, 6, 13)
        >>> y = torch.stack([t.sin(), t.cos()], 1)
        >>> loss = trajectory_loss(NeuralODE(fields.MLP(2)), t, y, strategy="horizon", bound=0.01)
        >>> optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     loss().backward()
        ...     optimizer.step()
    """
    if strategy not in STRATEGIES:
        close = difflib.get_close_matches(str(strategy), STRATEGIES, n=1, cutoff=0.4)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        raise ValueError(f'No strategy is called "{strategy}".{hint} The strategies: {", ".join(STRATEGIES)}.')
    return STRATEGIES[strategy](model, t, y, **options)


def _check_series(t: Tensor, y: Tensor) -> None:
    if t.dim() != 1 or len(t) < 2 or y.shape[:1] != t.shape or not bool((t.diff() > 0).all()):
        raise ValueError(
            "A trajectory is two or more increasing times (n,) and observations (n, ...), "
            f"but `t` of shape {tuple(t.shape)} and `y` of shape {tuple(y.shape)} came; sort by time first."
        )
    if not bool(torch.isfinite(y).all()):
        raise ValueError("`y` has values that are not finite; leave out the times at which nothing was observed.")
