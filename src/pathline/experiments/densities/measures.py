"""What is measured after training, in double precision and at a tight tolerance."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import pathline
from pathline.data import Target
from pathline.experiments.densities.models import cross_entropy, flow_of
from pathline.models.densities.couplings import OptimalTransport
from pathline.operators import Hutchinson


def exact(model: nn.Module, tol: float) -> Any:
    """A copy in double precision, solved at this tolerance; of a flow matching the flow itself."""
    model = copy.deepcopy(flow_of(model)).double().eval()
    if isinstance(model, pathline.CNF):
        model.rtol = model.atol = tol
    return model


def nll(model: nn.Module, target: Target, count: int, tol: float) -> float:
    """Nats a sample, by the exact trace, on points that no training saw."""
    x = target.sample(count, torch.Generator().manual_seed(2**31), dtype=torch.float64)
    return cross_entropy(exact(model, tol), x, target)


def mass(model: nn.Module, target: Target, side: int, tol: float = 1e-5) -> float:
    """The integral of the density over a square that is a half larger than the target's."""
    low, high = (1.5 * limit for limit in target.limits)
    spacing = (high - low) / side
    line = low + spacing * (torch.arange(side, dtype=torch.float64) + 0.5)
    with torch.no_grad():
        log_p = exact(model, tol)().log_prob(torch.cartesian_prod(line, line))
    return float(log_p.exp().sum() * spacing**2)


def there_and_back(model: nn.Module, x: Tensor, tol: float, dtype: torch.dtype = torch.float64) -> float:
    """The largest distance of a point from itself, after the way to the base and back."""
    flow, x = exact(model, tol).to(dtype), x.to(dtype)
    with torch.no_grad():
        back = flow.solve_from_base(flow.solve_to_base(x).end).end
    return float((back - x).norm(dim=1).max())


def samples(model: nn.Module, count: int, seed: int, **options: Any) -> Tensor:
    """Draws; the same seed gives the same points of the base, whatever the solver."""
    torch.manual_seed(seed)
    with torch.no_grad():
        if options:
            return model.sample(count, **options)  # pyright: ignore[reportCallIssue]
        return flow_of(model)().sample((count,))


def wasserstein(a: Tensor, b: Tensor) -> float:
    r"""The 2-Wasserstein distance, $\min_\pi (\tfrac1n \sum_i \lVert a_{\pi i} - b_i \rVert^2)^{1/2}$."""
    a, b = OptimalTransport()(a.double(), b.double())
    return float((a - b).square().sum(1).mean().sqrt())


def bending(model: nn.Module, count: int, seed: int, times: int = 32) -> float:
    r"""How far the model's paths are from straight lines, $E \int \lVert v - (x_1 - x_0) \rVert^2 dt$."""
    flow = exact(model, 1e-5)
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    t = (torch.arange(times, dtype=torch.float64) + 0.5) / times
    stops = torch.cat([torch.zeros(1, dtype=t.dtype), t, torch.ones(1, dtype=t.dtype)])
    with torch.no_grad():
        path = pathline.solve(flow.field, x0, stops, rtol=1e-5, atol=1e-5).ys
        v = torch.stack([flow.field(time, x) for time, x in zip(t, path[1:-1], strict=True)])
        return float((v - (path[-1] - x0)).square().sum(-1).mean())


def hutchinson_deviation(model: nn.Module, target: Target, points: int, noises: int = 256) -> float:
    """The mean log-density by single noises, against that of the exact trace, in standard errors of the mean."""
    flow = exact(model, 1e-5)
    x = target.sample(points, torch.Generator().manual_seed(7), dtype=torch.float64)
    with torch.no_grad():
        truth = flow().log_prob(x)
        flow.trace = Hutchinson()
        found = flow().log_prob(x.repeat(noises, 1)).reshape(noises, points)
    error = found.var(0).div(noises).sum().sqrt() / points
    return float((found.mean(0) - truth).mean().abs() / error)


def redrawn_evaluations(model: nn.Module, target: Target, tol: float, count: int = 256) -> tuple[int, int]:
    """Evaluations of one log-density with noise drawn once a solve, and anew at each evaluation."""
    flow = exact(model, tol)
    x = target.sample(count, torch.Generator().manual_seed(8), dtype=torch.float64)
    found = []
    for redraw in ("solve", "evaluation"):
        flow.trace = Hutchinson(redraw=redraw)
        with torch.no_grad():
            flow().log_prob(x)
        found.append(flow.evaluations)
    return found[0], found[1]
