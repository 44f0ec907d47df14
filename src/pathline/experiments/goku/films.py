"""The films, and windows of them as batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pathline.data import PendulumFilms, Series, pendulum_frames
from pathline.experiments.goku.config import Config

GRAVITY = 10.0


class Films(NamedTuple):
    """Three sets that share nothing."""

    train: PendulumFilms
    validation: PendulumFilms
    test: PendulumFilms


def films(config: Config, seed: int) -> Films:
    """Draw all films of a run."""
    generator = torch.Generator().manual_seed(1000 + seed)
    counts = (config.films, config.validation, config.test)
    options = {"pixels": config.pixels, "dt": config.interval, "gravity": GRAVITY}
    return Films(*(pendulum_frames(n, config.frames, generator=generator, **options) for n in counts))


def as_series(frames: Tensor, config: Config) -> Series:
    """One frame in ``config.every`` of films ``(n, T, pixels, pixels)``, a channel a pixel, from time 0."""
    frames = frames[:, :: config.every]
    n, steps = frames.shape[:2]
    times = config.every * config.interval * torch.arange(steps, dtype=torch.float64, device=frames.device)
    return Series(times.repeat(n), frames.reshape(n * steps, -1), torch.full((n,), steps, device=frames.device))


def windows(config: Config, frames: Tensor, seed: int) -> Callable[[int], tuple[Series, Series, Tensor]]:
    """Batches as a function of the step: windows anywhere in the films, what of them is to be explained, all frames.

    A pendulum's state drifts away from any film within some swings, and a film that is half a swing off tells nothing
    about the length. So the first frames are explained first, and more of them as training goes on.
    """
    place = torch.arange(config.window)

    def batch(step: int) -> tuple[Series, Series, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        film = torch.randint(len(frames), (config.batch,), generator=generator)
        start = torch.randint(frames.shape[1] - config.window + 1, (config.batch,), generator=generator)
        window = frames[film[:, None], start[:, None] + place]
        explained = horizon(config, step)
        return as_series(window, config), as_series(window[:, :explained], config), window.flatten(2)

    return batch


def horizon(config: Config, step: int) -> int:
    """Frames of a window to be explained at a step."""
    grown = config.first + (config.window - config.first) * step / max(1.0, config.growth * config.updates)
    return min(config.window, int(grown))
