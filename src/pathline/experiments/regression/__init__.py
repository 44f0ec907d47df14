"""Ten points of a cubic, fitted by a residual network and by the flow that it discretises."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline import fields, nets
from pathline.data import cubic
from pathline.experiments.regression import controls, figures, identities
from pathline.experiments.regression.config import Config
from pathline.models import NeuralODE, ResNet
from pathline.train import Run


def run(config: Config, run: Run) -> None:
    """Measure the identities, fit both models, and show what each cannot do."""
    if config.part == "all":
        for name, value in identities.measure(run.seed, config.width).items():
            run.metric(name, value)
    resnet, odenet = _fits(config, run)
    x, y = cubic()
    run.figure("fit", figures.fit(resnet, odenet, x, y), figures.FIT)
    run.figure("adjoint", figures.adjoint(odenet, x, y), figures.ADJOINT)
    if config.part == "all":
        controls.cross(config, run)
        controls.deepen(config, run)


def _fits(config: Config, run: Run) -> tuple[ResNet, NeuralODE]:
    """Both models from each seed: what they reach, how smooth they are, what the solver did; those of the first."""
    x, y = (tensor.to(run.device) for tensor in cubic())
    results = []
    for seed in range(run.seed, run.seed + config.repeats):
        torch.manual_seed(seed)
        resnet = ResNet(nets.MLP(1, 1, config.width, init=config.init), config.depth).to(run.device)
        field = fields.MLP(1, config.width, time=True, init=config.init)
        odenet = NeuralODE(field, method=config.method, rtol=config.tol, atol=config.tol).to(run.device)
        ending = f"-{seed}" if config.repeats > 1 else ""
        for name, model in (("resnet", resnet), ("odenet", odenet)):
            run.fit(name + ending, model, _mse(x, y), steps=config.steps, lr=config.lr, optimizer=config.optimizer)
        measured = {name: _measured(model, x, y) for name, model in (("resnet", resnet), ("odenet", odenet))}
        results.append({"seed": seed, "models": (resnet.cpu(), odenet.cpu()), **measured})
    if config.repeats > 1:
        _table_of_seeds(run, results)
    means = {
        name: {key: sum(result[name][key] for result in results) / len(results) for key in results[0][name]}
        for name in ("resnet", "odenet")
    }
    for name, values in means.items():
        for key, value in values.items():
            run.metric(f"{name}_{key}", value)
    _say(run, means["resnet"], means["odenet"])
    resnet, odenet = results[0]["models"]
    _solver_truth(run, odenet, x.cpu(), y.cpu())
    return resnet, odenet


def _mse(x: Tensor, y: Tensor) -> Any:
    return lambda model, batch: F.mse_loss(model(x), y)


def _measured(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    grid = torch.linspace(-3.0, 3.0, 1000, device=x.device).unsqueeze(1)
    with torch.no_grad():
        return {
            "mse": float(F.mse_loss(model(x), y)),
            "inversions": float((model(grid).diff(dim=0) < 0).sum()),
            "curvature": curvature(model),
        }


def curvature(model: nn.Module) -> float:
    r"""The mean of $|u''|$ on $[-3, 3]$, by central differences in float64 and, for a flow, at tolerance 1e-10."""
    model = copy.deepcopy(model).double().cpu()
    if isinstance(model, NeuralODE):
        model.rtol = model.atol = 1e-10
    grid = torch.linspace(-3.0, 3.0, 601, dtype=torch.float64).unsqueeze(1)
    with torch.no_grad():
        u = model(grid)
    return float(u.diff(n=2, dim=0).abs().mean() / (grid[1] - grid[0]) ** 2)


def _solver_truth(run: Run, odenet: NeuralODE, x: Tensor, y: Tensor) -> None:
    """Evaluations, tolerance, type, and the way there and back at the tolerance of training."""
    odenet.loss((x, y)).backward()
    forward, backward = odenet.evaluations, odenet.backward_evaluations
    odenet.zero_grad()
    with torch.no_grad():
        there_and_back = float((odenet.inverse(odenet(x)) - x).norm() / x.norm())
    run.metric("odenet_there_and_back", there_and_back)
    run.table(
        "What the solver did, after training",
        ["evaluations", "in the backward pass", "tolerance", "number type", "there and back"],
        [[forward, backward, odenet.rtol, str(x.dtype).removeprefix("torch."), there_and_back]],
    )


def _table_of_seeds(run: Run, results: list[dict[str, Any]]) -> None:
    keys = ("mse", "curvature", "inversions")
    columns = ["seed", *(f"{name}, {key}" for key in keys for name in ("ResNet", "ODE-Net"))]
    rows = [[r["seed"], *(r[name][key] for key in keys for name in ("resnet", "odenet"))] for r in results]
    means = [sum(row[i] for row in rows) / len(rows) for i in range(1, len(columns))]
    run.table("Both models over the seeds", columns, [*rows, ["mean", *means]])


def _say(run: Run, resnet: dict[str, float], odenet: dict[str, float]) -> None:
    smoother, other = (
        ("ODE-Net", "residual network")
        if odenet["curvature"] < resnet["curvature"]
        else ("residual network", "ODE-Net")
    )
    low, high = sorted((resnet["curvature"], odenet["curvature"]))
    run.answer(
        f"A residual block is an Euler step, bit for bit. On the ten points the residual network reaches a mean square "
        f"error of {resnet['mse']:.2g}, the ODE-Net {odenet['mse']:.2g}; the targets vary by 17."
    )
    run.note(
        f"Is the ODE-Net smoother, as is often said? Here the {smoother} is: its mean |u''| on [-3, 3] is {low:.3g}, "
        f"that of the {other} {high:.3g}. That the ODE-Net is monotone is certain; that it is smoother is not."
    )
