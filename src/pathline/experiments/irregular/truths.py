"""What the solvers did: evaluations, the error that their steps leave, and the way there and back."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from pathline.data import Series
from pathline.experiments.irregular.tasks import SPAN
from pathline.models import Forecaster, Latent
from pathline.models.recurrent import Flow


@dataclass(frozen=True)
class Truth:
    """Of one solve.

    Attributes:
        forward: Evaluations of the field.
        backward: Those of the backward pass.
        error: Root mean square change of the predictions when the equations are solved much more closely.
    """

    forward: int
    backward: int
    error: float


def of_latent(model: Latent, shown: Series, t: Tensor) -> Truth:
    """The flow of the latent ODE, at the tolerance of training and at 1e-7 in float64.

    Args:
        model: Trained; it stays as it is.
        shown: What it sees.
        t: Times ``(T,)``.
    """
    model, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    exact.dynamics.method, exact.dynamics.rtol, exact.dynamics.atol = "dopri5", 1e-7, 1e-7
    model.loss(shown).backward()
    forward, backward = model.dynamics.evaluations, model.dynamics.backward_evaluations
    with torch.no_grad():
        z0 = model.posterior(shown).mean
        change = exact.decoder(exact.states(z0.double(), t)) - model.decoder(model.states(z0, t)).double()
    return Truth(forward, backward, _rms(change))


def there_and_back(model: Latent, shown: Series) -> float:
    """How far the flow from the end of the span back to its start misses, relative, at the tolerance of training."""
    with torch.no_grad():
        z0 = model.posterior(shown).mean
        there = model.dynamics.solve(z0, (0.0, SPAN)).y1
        back = model.dynamics.solve(there, (SPAN, 0.0)).y1
    return float((back - z0).norm() / z0.norm())


def of_recurrent(model: Forecaster, shown: Series, asked: Series, steps: int = 8) -> Truth:
    """The ODE-RNN, with one Euler step a gap and with several of the classical Runge-Kutta method.

    Args:
        model: Trained; it stays as it is.
        shown: What it sees.
        asked: The times of its predictions.
        steps: Steps a gap, for comparison.
    """
    model, fine = copy.deepcopy(model), copy.deepcopy(model)
    between = fine.recurrent.between
    assert isinstance(between, Flow)
    between.method, between.steps = "rk4", steps
    model.recurrent(shown).final.sum().backward()
    forward, backward = model.recurrent.evaluations, model.recurrent.backward_evaluations
    with torch.no_grad():
        change = fine.predict(shown, asked) - model.predict(shown, asked)
    return Truth(forward, backward, _rms(change))


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())
