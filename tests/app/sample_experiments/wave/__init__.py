from __future__ import annotations

import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader, TensorDataset

from pathline.status import SolveError, Status


def run(config, run):
    x = torch.linspace(-1.0, 1.0, config.points)[:, None]
    y = torch.sin(3.0 * x) + 0.1 * torch.randn_like(x)
    loader = DataLoader(TensorDataset(x, y), batch_size=config.batch, shuffle=True)
    calls = [0]

    def loss(model, batch):
        inputs, targets = batch
        time.sleep(config.pause)
        noise = 0.01 * torch.randn_like(inputs)
        return ((model(inputs + noise) - targets) ** 2).mean(), {"largest": float(inputs.max())}

    def failing(model, batch):
        calls[0] += 1
        if calls[0] - 1 in config.fail_at:
            raise SolveError("The step size fell to 1e-12 at t = 0.25.", None, Status.STEP_UNDERFLOW)
        return loss(model, batch)

    def network():
        act = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[config.net.activation]
        return torch.nn.Sequential(torch.nn.Linear(1, config.net.width), act(), torch.nn.Linear(config.net.width, 1))

    first, second = network(), network()
    run.fit("first", first, loss, steps=config.steps, lr=config.lr, batches=loader, schedule="cosine", clip=1.0)
    with torch.no_grad():
        run.metric("first_error", ((first(x) - y) ** 2).mean())
    run.fit(
        "second", second, failing, steps=config.steps, lr=config.lr, batches=loader,
        evaluate=lambda model: ((model(x) - y) ** 2).mean(),
    )  # fmt: skip
    with torch.no_grad():
        run.metric("train_error", ((second(x) - y) ** 2).mean(), "squared")
    run.metric("samples", len(x))
    run.metric("draw", torch.rand(()))
    run.answer(f"The second network reaches an error of **{run.metrics['train_error']:.3f}**.")
    run.table(
        "Both networks",
        ["network", "error", "steps"],
        [["first", run.metrics["first_error"], config.steps], ["second", float("nan"), None]],
    )
    run.note("The noise of the targets has a variance of 0.01, and no fit goes *below* it.\n\n<b>no html</b>")
    if config.plot:
        figure, axes = plt.subplots(figsize=(6, 3.2))
        axes.plot(x, y, ".", color="0.6")
        axes.plot(x, second(x).detach(), color="#0f6b75")
        run.figure("fit", figure, "The targets, and the second network.")
