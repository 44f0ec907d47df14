"""Two points of the line that are to change places."""

from __future__ import annotations

import torch

from pathline import fields
from pathline.data import crossing
from pathline.experiments.augmented.config import Config
from pathline.models import NeuralODE
from pathline.train import Run


def cross(config: Config, run: Run) -> None:
    """Ask flows on the line and in the plane to map -1 to 1 and 1 to -1."""
    x, y = (tensor.to(run.device) for tensor in crossing())
    for name, augment in (("node", 0), ("anode", 1)):
        torch.manual_seed(run.seed)
        field = fields.MLP(1 + augment, 32, time=True)
        flow = NeuralODE(field, augment=augment, method=config.method, rtol=config.tol, atol=config.tol).to(run.device)
        steps = config.crossing_steps
        run.fit(f"crossing-{name}", flow, lambda model, batch: model.loss((x, y)), steps=steps, lr=1e-2)
        with torch.no_grad():
            run.metric(f"crossing_{name}_mse", float(flow.loss((x, y))))
