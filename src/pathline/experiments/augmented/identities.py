"""What holds exactly for an augmented flow."""

from __future__ import annotations

import torch

from pathline import fields
from pathline.models import NeuralODE


def measure(seed: int) -> dict[str, float]:
    """Every identity's deviation, under the name of its metric."""
    torch.manual_seed(seed)
    return {"augment_0_to_node": nothing_added(), "augmented_start": start()}


def nothing_added() -> float:
    """With no added dimension the flow and its gradients are those of the plain one, bit for bit."""
    field, x = fields.MLP(2, 16, time=True), torch.randn(32, 2)
    results = []
    for model in (NeuralODE(field), NeuralODE(field, augment=0, return_augmented=True)):
        y = model(x)
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), list(field.parameters()))))
    return max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))


def start() -> float:
    """The largest added component at the start of the flow."""
    model = NeuralODE(fields.MLP(5, 16), augment=3)
    with torch.no_grad():
        return float(model.solve(torch.randn(32, 2)).ys[0][:, 2:].abs().max())
