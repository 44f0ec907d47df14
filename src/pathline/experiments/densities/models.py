"""The models by name, how each is trained, and the clock that all of them share."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pathline
from pathline import fields
from pathline.data import Target
from pathline.experiments.densities.config import Config
from pathline.models import PlanarFlow, RealNVP
from pathline.models.densities.couplings import Coupling, OptimalTransport
from pathline.train import Run

NAMES = {
    "planar": "planar flow",
    "ffjord": "FFJORD",
    "flow-matching": "flow matching",
    "ot-flow-matching": "flow matching, optimal transport",
    "planar-nf": "planar layers",
    "realnvp": "RealNVP",
    "constant": "planar flow, constant parameters",
    "shuffled": "flow matching, shuffled plan",
}


def make(name: str, config: Config) -> nn.Module:
    """A model of this name, with fresh weights."""
    solver: dict[str, Any] = {"rtol": config.tol, "atol": config.tol}
    if name in ("planar", "constant"):
        field = fields.Planar(2, units=config.units, hidden=config.hyper, time_dependent=name == "planar")
        return pathline.CNF(field, 2, compile=config.compile, **solver)
    if name == "ffjord":
        return pathline.CNF(fields.ConcatSquash(2, config.hidden, init="torch"), 2, compile=config.compile, **solver)
    if name in COUPLINGS:
        field = fields.ConcatSquash(2, config.hidden, activation="silu", init="torch")
        return pathline.FlowMatching(field, 2, coupling=COUPLINGS[name], **solver)
    if name == "planar-nf":
        return PlanarFlow(2, config.depth)
    return RealNVP(2, config.couplings, config.coupling_hidden)


@dataclass(frozen=True)
class Shuffled(Coupling):
    """Another coupling's pairs, put in disorder: the ablation."""

    coupling: Coupling

    def __call__(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        x0, x1 = self.coupling(x0, x1)
        return x0[torch.randperm(len(x0), device=x0.device)], x1


COUPLINGS: dict[str, Any] = {
    "flow-matching": "independent",
    "ot-flow-matching": "ot",
    "shuffled": Shuffled(OptimalTransport()),
}


def steps_of(name: str, config: Config) -> int:
    """Updates of a model."""
    if name in COUPLINGS:
        return config.matching_steps
    steps = {
        "planar": config.planar_steps,
        "constant": config.planar_steps,
        "ffjord": config.ffjord_steps,
        "planar-nf": config.planar_nf_steps,
        "realnvp": config.realnvp_steps,
    }
    return steps[name]


@dataclass
class Fit:
    """A trained model, what the training took, and the likelihood on the way."""

    name: str
    model: nn.Module
    seconds: float
    curve: list[tuple[float, float]]
    evaluations: tuple[int, int]

    @property
    def key(self) -> str:
        """The name as the beginning of a metric's."""
        return self.name.replace("-", "_")

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def train(name: str, config: Config, run: Run, target: Target) -> Fit:
    """Train one model on fresh samples of the target, and watch its likelihood."""
    torch.manual_seed(run.seed)
    model = make(name, config).to(run.device)
    steps, every = steps_of(name, config), max(1, steps_of(name, config) // 15)
    watched = target.sample(min(500, config.test), torch.Generator().manual_seed(run.seed)).to(run.device)
    clock = Clock(lambda model: cross_entropy(plain(model), watched, target))
    clip = 1.0 if isinstance(model, pathline.CNF) else None
    history = run.fit(
        name, model, clock.loss, steps=steps, lr=config.lr, schedule="cosine", clip=clip,
        batches=lambda step: target.sample(config.batch, torch.Generator().manual_seed(1_000_003 * run.seed + step)),
        evaluate=clock.evaluate, evaluate_every=every,
    )  # fmt: skip
    columns = history.columns
    curve = [(s, w) for s, w in zip(columns["seconds"], columns["watched"], strict=True) if w == w]
    evaluations = tuple(int(columns[key][-1]) if key in columns else 0 for key in EVALUATIONS)
    return Fit(name, plain(model.cpu()), clock.seconds, curve, evaluations)  # pyright: ignore[reportArgumentType]


EVALUATIONS = ("evaluations", "backward_evaluations")


class Clock:
    """Seconds of a processor, whatever else the machine does. Compilation counts; what only watches does not."""

    def __init__(self, watched: Callable[[nn.Module], float]) -> None:
        self.watched, self.seconds = watched, 0.0
        self._last: float | None = None

    def loss(self, model: Any, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The model's own loss, and the seconds up to this update."""
        now = time.process_time()
        self.seconds += 0.0 if self._last is None else now - self._last
        self._last = now
        return model.loss(batch), {"seconds": self.seconds}

    def evaluate(self, model: nn.Module) -> float:
        """The watched number."""
        began = time.process_time()
        value = self.watched(model)
        if self._last is not None:
            self._last += time.process_time() - began
        return value

    def state_dict(self) -> dict[str, float]:
        """What a resumed fit needs."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on counting from there."""
        self.seconds = state["seconds"]


def plain(model: nn.Module) -> nn.Module:
    """The same model without compiled steps: what is solved a few times is not worth a compilation."""
    if isinstance(model, pathline.CNF):
        model = copy.copy(model)
        model.compile_steps = False
    return model


def flow_of(model: nn.Module) -> Any:
    """The continuous flow inside a model."""
    return model.flow if isinstance(model, pathline.FlowMatching) else model


def cross_entropy(model: nn.Module, x: Tensor, target: Target) -> float:
    r"""The mean negative log-likelihood, $H(p) + \mathrm{mean}(\log p - \log q)$.

    The target's own log-density is a control variate: what the sample happens to be like cancels in the difference.
    """
    with torch.no_grad():
        log_q = model().log_prob(x).double().cpu()
    return target.entropy + float((target.log_prob(x.double().cpu()) - log_q).mean())
