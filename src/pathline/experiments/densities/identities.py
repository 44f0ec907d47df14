"""Where the answer is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import pathline
from pathline import fields
from pathline.experiments.densities.config import Config
from pathline.train import Run

MEAN, SCALE = (1.0, -0.5), (0.5, 2.0)


def linear(seed: int) -> tuple[float, float]:
    """The change of the log-density under ``dy = A y`` against ``-tr A``, and the way there and back."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    x = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    flow = pathline.CNF(lambda t, y: y @ matrix.T, 2, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        z = flow.solve_to_base(x).end
        change = flow().log_prob(x) - flow.base_distribution(z).log_prob(z)
        back = flow.solve_from_base(z).end
    return float((change + matrix.trace()).abs().max()), float((back - x).norm(dim=1).max())


class BetweenGaussians(nn.Module):
    r"""The velocity that carries $\mathcal N(0, I)$ to $\mathcal N(m, \mathrm{diag}\, s^2)$ along straight lines.

    With independent pairs, $x_t = (1 - t) x_0 + t x_1$ is Gaussian, and so is $x_1 - x_0$ given $x_t$:

    $$u_t(x) = m + \frac{t s^2 - (1 - t)}{(1 - t)^2 + t^2 s^2}\, (x - t m)$$
    """

    m: Tensor
    s: Tensor

    def __init__(self, mean: tuple[float, ...] = MEAN, scale: tuple[float, ...] = SCALE) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale
        self.register_buffer("m", torch.tensor(mean))
        self.register_buffer("s", torch.tensor(scale))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The velocity."""
        variance = (1 - t) ** 2 + (t * self.s) ** 2
        return self.m + (t * self.s**2 - (1 - t)) / variance * (y - t * self.m)

    def draw(self, count: int, seed: int) -> Tensor:
        """Data."""
        return self.m + self.s * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).to(self.m)

    def data(self) -> Independent:
        """What the base is carried to."""
        return Independent(Normal(self.m, self.s), 1)


def closed_form(seed: int) -> float:
    """The density that the exact velocity makes of the base, against the Gaussian that it has to be."""
    field = BetweenGaussians().double()
    x = field.draw(64, seed)
    with torch.no_grad():
        found = pathline.CNF(field, 2, rtol=1e-9, atol=1e-9)().log_prob(x)
    return float((found - field.data().log_prob(x)).abs().max())


def learned(config: Config, run: Run) -> float:
    """The distance of a learned velocity from the exact one, relative, over the times and places that paths visit."""
    torch.manual_seed(run.seed)
    truth = BetweenGaussians()
    model = pathline.FlowMatching(fields.MLP(2, (64, 64), time=True, activation="silu"), 2).to(run.device)
    run.fit(
        "gaussian", model, lambda model, batch: model.loss(batch), steps=config.gaussian_steps, lr=config.lr,
        batches=lambda step: truth.draw(512, 1_000_003 * run.seed + step), schedule="cosine",
    )  # fmt: skip
    t, x, _ = model.cpu().draw(truth.draw(10_000, run.seed))
    with torch.no_grad():
        exact = truth(t, x)
        return float((model.field(t, x) - exact).norm() / exact.norm())


def measure(config: Config, run: Run) -> None:
    """All of them as metrics."""
    log_det, back = linear(run.seed)
    run.metric("linear_log_det", log_det, "nats")
    run.metric("linear_there_and_back", back)
    run.metric("gaussian_closed_form", closed_form(run.seed), "nats")
    run.metric("gaussian_learned", learned(config, run))
