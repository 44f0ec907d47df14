"""What is measured on films that no model was trained on."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pathline
from pathline import fields
from pathline.data import PendulumFilms
from pathline.experiments.goku.config import Config
from pathline.experiments.goku.films import GRAVITY, as_series
from pathline.experiments.goku.models import LSTM
from pathline.models import Latent, quantities


@dataclass
class Seen:
    """What a model makes of films, given their first frames."""

    frames: Tensor
    """``(n, T, pixels, pixels)``: seen frames as reconstructed, later ones as extrapolated."""
    errors: Tensor
    """``(T,)``: mean squared error of a pixel at each frame."""
    lengths: Tensor | None = None
    """``(n,)``, inferred."""
    angles: Tensor | None = None
    """``(n, T)``, in the model's own units."""

    def error(self, frames: slice) -> float:
        """Mean squared error of a pixel over some frames; the LSTM says nothing of the first."""
        errors = self.errors[frames]
        return float(errors[~errors.isnan()].mean())


@torch.no_grad()
def look(config: Config, model: nn.Module, films: PendulumFilms, device: torch.device) -> Seen:
    """Show a model the first frames of films, and let it go on."""
    frames = films.frames.to(device)
    seen = frames[:, : config.window]
    lengths = angles = None
    if isinstance(model, LSTM):
        said = model(seen.flatten(2), config.frames - config.window)
        shown = torch.cat([torch.full_like(said[:, :1], torch.nan), said], 1)
    else:
        assert isinstance(model, Latent)
        observed = as_series(seen, config)
        prediction = model.predict(observed, films.times.to(device), samples=0)
        shown = prediction.mean.transpose(0, 1)
        if model.start is not None:
            lengths = quantities(model, observed)["length"].double().cpu()
            angles = prediction.states[0, ..., 0].T.double().cpu()
    shown = shown.reshape(frames.shape)
    return Seen(shown.cpu(), (shown - frames).square().mean((0, 2, 3)).cpu(), lengths, angles)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, over all entries."""
    return float(torch.corrcoef(torch.stack([a.reshape(-1).double(), b.reshape(-1).double()]))[0, 1])


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, where no two entries are alike."""
    return correlation(a.argsort().argsort(), b.argsort().argsort())


def slope(inferred: Tensor, true: Tensor) -> float:
    """Of the regression of what was inferred on what is true."""
    centred = true - true.mean()
    return float((centred * (inferred - inferred.mean())).sum() / centred.square().sum())


def true_start_error(config: Config, films: PendulumFilms) -> float:
    """Largest distance of the model's equation, solved from true states with true lengths, to the films' motion."""
    field = fields.Pendulum(gravity=GRAVITY, dtype=torch.float64)
    args = {"length": films.lengths}
    solved = pathline.solve(field, films.states[:, 0], films.times, args=args, rtol=1e-9, atol=1e-9).ys
    return float((solved - films.states.transpose(0, 1)).abs().max())


@torch.no_grad()
def solver_truth(config: Config, model: Latent, films: PendulumFilms, device: torch.device) -> dict[str, Any]:
    """Evaluations, the error of the steps that are used, and the way there and back."""
    observed = as_series(films.frames[:, : config.window].to(device), config)
    begun: Any = model.posterior(observed).mean
    y0, args = model.start(begun) if model.start is not None else (begun, None)
    t, dynamics = films.times.to(device), model.dynamics
    used = dynamics.solve(y0, t, args=args)
    field: Any = copy.deepcopy(dynamics.field)
    exact = pathline.solve(field.double(), y0.double(), t, args=args, method="dopri8", rtol=1e-8, atol=1e-8)
    back = dynamics.solve(used.y1, t.flip(0), args=args)
    return {
        "evaluations": used.stats.evaluations,
        "error of the steps": float((used.ys - exact.ys).abs().max()),
        "there and back": float((back.y1 - y0).norm() / y0.norm()),
    }
