"""What holds exactly for any weights: between ODE-RNN, GRU and the flow alone, and at missing values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pathline.data import Series
from pathline.models import GRU, ODERNN, Recurrent

SIZE = 6


class Linear(nn.Module):
    """The field ``A h``, whose flow is a matrix exponential."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, h: Tensor) -> Tensor:
        """The rate, ``(..., size)``."""
        return h @ self.matrix.mT


def measure(seed: int) -> dict[str, float]:
    """Every identity's deviation, under the name of its metric."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        series = with_gaps(generator)
        return {
            "still_field_to_gru": still_field(series),
            "flow_between_observations": flow_between(series, generator),
            "untouched_by_missing_rows": missing_rows(series),
            "untouched_by_companions": companions(series),
        }


def with_gaps(generator: torch.Generator, count: int = 5, rows: int = 12) -> Series:
    """Series at times of their own, with missing values and with rows in which nothing was observed."""
    gaps = 0.1 + torch.rand(count, rows, generator=generator, dtype=torch.float64)
    values = torch.randn(count, rows, 2, generator=generator, dtype=torch.float64)
    values[torch.rand(values.shape, generator=generator) < 0.3] = math.nan
    values[:, 3::4] = math.nan
    return Series.from_arrays(list(gaps.cumsum(1)), list(values))


def still_field(series: Series) -> float:
    """An ODE-RNN whose field is zero, and the GRU with the same cell."""
    gru = GRU(2, SIZE).double()
    ode_rnn = with_cell(gru, torch.zeros(SIZE, SIZE, dtype=torch.float64))
    return _largest(ode_rnn(series).after - gru(series).after)


def flow_between(series: Series, generator: torch.Generator) -> float:
    """The state at times without an observation, and the exact flow from the observation before."""
    matrix = 0.3 * torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    model = with_cell(GRU(2, SIZE).double(), matrix, method="rk4", steps=256)
    states, worst = model(series), 0.0
    for number in range(len(series)):
        rows = torch.arange(int(series.offsets[number]), int(series.offsets[number + 1]))
        for row, later in zip(rows[:-1], rows[1:], strict=True):
            t = (series.times[row] + series.times[later]) / 2
            exact = torch.linalg.matrix_exp((t - series.times[row]) * matrix) @ states.after[row]
            worst = max(worst, _largest(states.at(t[None])[0, number] - exact))
    return worst


def missing_rows(series: Series) -> float:
    """The state just after a row in which nothing was observed, and just before it."""
    states = ODERNN(2, SIZE).double()(series)
    empty = ~series.mask.any(1)
    return _largest((states.after - states.before)[empty])


def companions(series: Series) -> float:
    """The state of a series in a batch, and alone: what others observe, and when, is nothing to it."""
    model = ODERNN(2, SIZE).double()
    alone = torch.cat([model(series[i : i + 1]).final for i in range(len(series))])
    return _largest(model(series).final - alone)


def with_cell(gru: Recurrent, matrix: Tensor, method: str = "euler", steps: int = 1) -> Recurrent:
    """The ODE-RNN with the cell of a GRU and a linear field."""
    model = ODERNN(gru.channels, gru.hidden, Linear(matrix), method=method, steps=steps).double()
    model.cell.load_state_dict(gru.cell.state_dict())
    return model


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
