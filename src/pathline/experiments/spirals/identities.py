"""Where the likelihood is known: a latent state that moves linearly, seen linearly through normal noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from pathline.data import Series
from pathline.models import Latent, NeuralODE, likelihoods

NOISE = 0.3


class Linear(nn.Module):
    """A turn that fades, ``dz = A z``."""

    matrix: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        matrix = torch.tensor([[-0.3, 1.0], [-1.0, -0.1]], dtype=torch.float64, device=device)
        self.register_buffer("matrix", matrix)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The rate."""
        return z @ self.matrix.T


class Posterior:
    """The exact posterior of ``z0``, and the exact density of what was observed, for series of equal length."""

    def __init__(self, field: Linear) -> None:
        self.field = field

    def __call__(self, series: Series, t0: float) -> Distribution:
        """The distribution that an encoder would have to learn."""
        maps = self.maps(series)
        precision = torch.eye(2).to(maps) + maps.mT @ maps / NOISE**2
        x = series.values.reshape(len(series), -1, 1)
        mean = torch.linalg.solve(precision, maps.mT @ x / NOISE**2).squeeze(-1)
        return MultivariateNormal(mean, precision_matrix=precision)

    def marginal(self, series: Series) -> Tensor:
        """The logarithm of the density of each series."""
        maps = self.maps(series)
        spread = maps @ maps.mT + NOISE**2 * torch.eye(maps.shape[1]).to(maps)
        x = series.values.reshape(len(series), -1)
        return MultivariateNormal(torch.zeros_like(x), spread).log_prob(x)

    def maps(self, series: Series) -> Tensor:
        """From ``z0`` to the rows of each series, ``(n, 2 L, 2)``."""
        flows = torch.matrix_exp(self.field.matrix * series.times[:, None, None])
        return flows.reshape(len(series), -1, 2)


def bound_error(seed: int, device: torch.device) -> float:
    """The largest distance between a weighted bound of one draw and the exact log-likelihood, in nats."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(20, 7, generator=generator, dtype=torch.float64).sort(1).values * 3
    values = torch.randn(140, 2, generator=generator, dtype=torch.float64)
    series = Series(times.flatten(), values, torch.full((20,), 7)).to(device)
    field = Linear(device)
    dynamics = NeuralODE(field, method="dopri5", rtol=1e-9, atol=1e-9)
    posterior = Posterior(field)
    model = Latent(posterior, dynamics, nn.Identity(), likelihoods.Gaussian(NOISE)).to(device, torch.float64)
    each = [float(model.iwae(series[i : i + 1], 1) - posterior.marginal(series[i : i + 1])) for i in range(20)]
    return max(map(abs, each))
