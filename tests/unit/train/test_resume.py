"""A resumed run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pathline.status import SolveError, Status
from pathline.train import Interrupted, Run, minibatches

X = torch.linspace(-1.0, 1.0, 14)[:, None]
Y = torch.sin(3.0 * X)
STEPS = 12


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(1, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)
    )


class NoisyLoss:
    """Draws from every global generator, so that a generator that is not restored shows."""

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        x, y = (X, Y) if batch is None else batch
        noise = 0.05 * torch.randn_like(x) + 0.01 * float(np.random.randn()) + 0.01 * random.random()  # noqa: NPY002
        return ((model(x + noise) - y) ** 2).mean(), {"noise": float(noise.mean())}


class GrowingLoss(NoisyLoss):
    """Keeps state of its own."""

    def __init__(self) -> None:
        self.weight = 1.0

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        self.weight *= 1.1
        value, extra = super().__call__(model, batch)
        return self.weight * value, extra

    def state_dict(self) -> dict[str, float]:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.weight = state["weight"]


class PlainLoss(NoisyLoss):
    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        return ((model.eval()(X) - Y) ** 2).mean(), {}


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=5, **options)


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "full batch": dict,
    "shuffled loader": lambda: {"batches": loader(shuffle=True)},
    "loader with a generator": lambda: {"batches": loader(shuffle=True, generator=torch.Generator().manual_seed(3))},
    "minibatches": lambda: {"batches": minibatches(X, Y, size=5, seed=1), "optimizer": "adamw", "schedule": "cosine"},
    "drawn batches": lambda: {"batches": lambda step: ((x := torch.rand(5, 1)), torch.sin(3 * x)), "clip": 0.1},
    "momentum": lambda: {
        "batches": loader(shuffle=True), "optimizer": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    },
    "evaluated": lambda: {
        "batches": loader(shuffle=True), "evaluate": lambda model: ((model(X) - Y) ** 2).mean() + 0.1 * torch.rand(()),
        "evaluate_every": 3, "restore_best": True,
    },
    "growing loss": lambda: {"loss": GrowingLoss()},
    "lbfgs": lambda: {"loss": PlainLoss(), "steps": 5, "lbfgs_steps": 7},
    "shrinking": lambda: {"on_solve_failure": "shrink-lr"},
}  # fmt: skip


def experiment(run: Run, case: str, stops: set[int]) -> dict[str, Any]:
    """Two fits and draws between them; an interrupt comes in the calls of the loss that ``stops`` names."""
    calls = [0]
    models = [network(), network()]
    draws = [torch.rand(()).item()]
    histories = []
    for index, model in enumerate(models):
        options = CASES[case]()
        inner = options.pop("loss", NoisyLoss())

        class Interrupting(type(inner)):  # keeps what the loss offers, state_dict included
            def __call__(self, model: nn.Module, batch: Any) -> Any:
                calls[0] += 1
                if calls[0] in stops:
                    signal.raise_signal(signal.SIGINT)
                return super().__call__(model, batch)

        inner.__class__ = Interrupting
        histories.append(run.fit(f"fit-{index}", model, inner, lr=0.02, **{"steps": STEPS, **options}))
        draws += [torch.rand(()).item(), float(np.random.rand()), random.random()]  # noqa: NPY002
    run.write_history()
    return {"models": [model.state_dict() for model in models], "draws": draws, "histories": histories}


def outcome(folder: Path, case: str, stops: list[set[int]]) -> dict[str, Any]:
    for attempt, stop in enumerate([*stops, set()]):
        run = Run("resume", folder=folder, device="cpu", seed=5, quiet=True, resumed=attempt > 0)
        try:
            result = experiment(run, case, stop)
        except Interrupted:
            continue
        assert attempt == len(stops), "the interrupt did not come"
        return {**result, "csv": (folder / "metrics.csv").read_bytes()}
    raise AssertionError


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "stops", [[{1}], [{4}], [{6}, {2}], [{STEPS + 3}], [{5}, {STEPS}]], ids=["1", "4", "6+2", "15", "5+12"]
)
def test_resumed_equals_uninterrupted(case: str, stops: list[set[int]], tmp_path: Path):
    whole = outcome(tmp_path / "whole", case, [])
    parts = outcome(tmp_path / "parts", case, stops)
    for left, right in zip(whole["models"], parts["models"], strict=True):
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert whole["draws"] == parts["draws"]
    assert whole["csv"] == parts["csv"]
    for left, right in zip(whole["histories"], parts["histories"], strict=True):
        assert (left.best_step, left.best_value, left.stopped) == (right.best_step, right.best_value, right.stopped)


def test_a_finished_fit_is_not_trained_again(tmp_path: Path):
    first = outcome(tmp_path, "evaluated", [])
    run = Run("resume", folder=tmp_path, device="cpu", seed=5, quiet=True, resumed=True)
    again = experiment(run, "evaluated", stops={1})  # an interrupt would come in the first call
    assert all(
        torch.equal(left[key], right[key])
        for left, right in zip(first["models"], again["models"], strict=True)
        for key in left
    )
    assert first["draws"] == again["draws"]


@pytest.mark.parametrize("stop", [3, 5, 8, 10])
def test_a_failure_policy_is_resumed(stop: int, tmp_path: Path):
    def train(folder: Path, stop: int) -> tuple[Any, torch.Tensor]:
        calls = [0]  # counted on over the interrupt, which waits for the end of its step

        def loss(model: nn.Module, _: Any) -> torch.Tensor:
            calls[0] += 1
            if calls[0] == stop:
                signal.raise_signal(signal.SIGINT)
            if calls[0] in (5, 9):
                raise SolveError("no", None, Status.MAX_STEPS)
            return ((model(X) - Y) ** 2).mean()

        for attempt in range(2):
            run = Run("resume", folder=folder, device="cpu", seed=5, quiet=True, resumed=attempt > 0)
            model = nn.Linear(1, 1)
            try:
                return run.fit(
                    "net", model, loss, steps=12, on_solve_failure="shrink-lr"
                ).columns, model.weight.detach()
            except Interrupted:
                assert attempt == 0
        raise AssertionError

    whole, weight = train(tmp_path / "whole", stop=0)
    parts, other = train(tmp_path / "parts", stop)
    assert torch.equal(weight, other)
    assert whole["loss"] == parts["loss"]
    assert whole["lr"] == parts["lr"]
