"""The networks: one state a patient, read as later laboratory values and as the risk."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.data import Series
from pathline.experiments.clinic.visits import Pairs, error, last_value
from pathline.models import GRU, ODERNN, GRUdt
from pathline.models.recurrent import Gaps, Recurrent
from pathline.nets import MLP

if TYPE_CHECKING:
    from pathline.experiments.clinic.config import Config

NAMES = {"last": "last value", "mixed": "linear mixed trend", "gru": "GRU-dt", "ode": "ODE-RNN", "held": "state held"}


class Return(nn.Module):
    r"""A field whose solutions stay where a gated unit puts its states, over decades too.

    $$\dot h = \sigma(W h + b) \odot (\tanh(U h + c) - h)$$

    References:
        E. De Brouwer, J. Simm, A. Arany, Y. Moreau (2019), GRU-ODE-Bayes: continuous modeling of sporadically-observed
        time series. Their field has the same form.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.pace, self.goal = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        nn.init.constant_(self.pace.bias, -1.0)  # years rather than months, to begin with

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return self.pace(h).sigmoid() * (self.goal(h).tanh() - h)


class Course(nn.Module):
    r"""The course of a disease: what is known at a visit, carried on to any later time.

    $$\hat x(t) = x_{\mathrm{last}} + \mathrm{readout}(h(t)), \qquad
      p(\mathrm{event\ soon}) = \sigma(w^\top h_j + c)$$

    Args:
        recurrent: The network that goes through the visits.
        dropout: Share of the state that the readouts do not see while training.
    """

    def __init__(self, recurrent: Recurrent, dropout: float) -> None:
        super().__init__()
        self.recurrent = recurrent
        # A network that does not carry its state on is told how far ahead to look, as it is told the gaps.
        self.readout = MLP(recurrent.hidden + recurrent.dt, recurrent.channels, (recurrent.hidden,))
        self.risk = nn.Linear(recurrent.hidden, 1)
        self.dropout = nn.Dropout(dropout)
        last = [module for module in self.readout.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.zeros_(last.weight)  # the first forecast is the last value
        nn.init.zeros_(last.bias)

    def forward(self, series: Series, which: Pairs) -> tuple[Tensor, Tensor]:
        """Forecasts ``(P, channels)``, and the log-odds of an event after each visit, ``(N,)``."""
        after = self.recurrent(series).after
        then = self.dropout(self.carried(after, series, which))
        if self.recurrent.dt:
            then = torch.cat([then, which.lead.to(then)[:, None]], 1)
        return last_value(series, which) + self.readout(then), self.risk(self.dropout(after))[:, 0]

    def carried(self, after: Tensor, series: Series, which: Pairs) -> Tensor:
        """The states after the visits ``now``, at the times of ``then``."""
        lead = which.lead[:, None].expand(-1, self.recurrent.channels)
        return self.recurrent.advance(after[which.now], Gaps(series.times[which.now], which.lead, lead))


def make(name: str, config: Config, series: Series) -> Course:
    """GRU-dt, ODE-RNN, or a GRU that knows nothing of time."""
    channels, static = len(series.channels), len(series.static_names)
    make_recurrent: dict[str, Callable[[], Recurrent]] = {
        "gru": lambda: GRUdt(channels, config.hidden, static=static),
        "ode": lambda: ODERNN(
            channels, config.hidden, Return(config.hidden), method=config.method, dt=config.dt, static=static
        ),
        "held": lambda: GRU(channels, config.hidden, static=static),
    }
    return Course(make_recurrent[name](), config.dropout).to(series.device)


def optimizer(config: Config) -> Callable[..., torch.optim.Optimizer]:
    """AdamW with the weight decay of the configuration."""
    return functools.partial(torch.optim.AdamW, weight_decay=config.decay)


def loss(model: Course, series: Series, which: Pairs, weight: float) -> Tensor:
    """The mean square error, and ``weight`` times the cross-entropy where the outcome is known."""
    forecast, risk = model(series, which)
    return error(forecast, series, which) + weight * cross_entropy(risk, series)


def cross_entropy(risk: Tensor, series: Series) -> Tensor:
    """In nats a visit."""
    assert series.row_labels is not None
    known = series.row_labels >= 0
    return F.binary_cross_entropy_with_logits(risk[known], series.row_labels[known].to(risk.dtype))


def scores(series: Series) -> Tensor:
    """What a physician has at hand: the last values, and who the patient is."""
    assert series.static is not None
    values = series.carried_forward().values.nan_to_num(0.0)
    return torch.cat([values, series.static[series.rows]], 1).double()


def logistic(series: Series, ridge: float) -> Callable[[Series], Tensor]:
    """The log-odds of an event from the scores, by ridge logistic regression."""
    x, weights = scores(series), nn.Parameter(torch.zeros(scores(series).shape[1] + 1, dtype=torch.float64))
    weights.data = weights.data.to(series.device)
    search = torch.optim.LBFGS(
        [weights], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def odds(x: Tensor) -> Tensor:
        return x @ weights[1:] + weights[0]

    def closure() -> Any:
        search.zero_grad()
        value = cross_entropy(odds(x), series) + ridge * weights[1:].square().sum()
        value.backward()
        return value

    search.step(closure)
    return lambda other: odds(scores(other)).detach()


def area_under_curve(risk: Tensor, label: Tensor) -> float:
    """How often a visit before an event has the higher risk than one without; ties count half."""
    events, others = risk[label == 1], risk[label == 0]
    ahead = (events[:, None] > others).double() + 0.5 * (events[:, None] == others).double()
    return float(ahead.mean())
