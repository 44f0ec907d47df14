"""From Gaussian to Gaussian the velocity is known: what a trained field has to come to."""

from __future__ import annotations

import torch
from torch import Tensor

from pathline import FlowMatching, fields
from pathline.train import Run

MEAN, SPREAD = (1.0, -0.5), (0.5, 2.0)


def exact_velocity(t: Tensor, x: Tensor) -> Tensor:
    r"""$E[x_1 - x_0 \mid x_t = x]$ for straight paths from $N(0, I)$ to $N(m, \mathrm{diag}(s^2))$.

    $$u(t, x) = m + \frac{t s^2 - (1 - t)}{t^2 s^2 + (1 - t)^2}\, (x - t m)$$
    """
    mean, variance = x.new_tensor(MEAN), x.new_tensor(SPREAD).square()
    return mean + (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2) * (x - t * mean)


def gaussian(count: int, device: torch.device) -> Tensor:
    """Draws of the data, ``(count, 2)``."""
    return torch.tensor(MEAN, device=device) + torch.tensor(SPREAD, device=device) * torch.randn(
        count, 2, device=device
    )


def velocity_error(run: Run, steps: int) -> float:
    """The relative error of a trained field along the paths, in L2."""
    model = FlowMatching(fields.MLP(2, (64, 64), activation="silu", time=True), 2).to(run.device)
    run.fit(
        "gaussian",
        model,
        lambda model, _: model.loss(gaussian(4096, run.device)),
        steps=steps,
        lr=2e-2,
        schedule="cosine",
    )
    with torch.no_grad():
        t, x, _ = model.draw(gaussian(16384, run.device))
        exact = exact_velocity(t, x)
        return float((model.field(t, x) - exact).norm() / exact.norm())
