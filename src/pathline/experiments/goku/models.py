"""The model of known equations, two that know nothing, and one that knows something wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline import fields
from pathline.data import Series
from pathline.experiments.goku.config import Config
from pathline.experiments.goku.films import GRAVITY
from pathline.models import GOKU, GOKUEncoder, Latent, NeuralODE, annealing, likelihoods
from pathline.nets import MLP

#: With this scale, minus the log-likelihood is the sum of squared errors, but for a constant.
SCALE = 0.5**0.5

#: Metres: rods so short that no step of the solver resolves their swing are left out.
BOUNDS = (0.3, math.inf)


class Drawn(nn.Module):
    """A picture of the first components of a state.

    Args:
        inputs: How many of them are seen.
        config: Of the experiment.
    """

    def __init__(self, inputs: int, config: Config) -> None:
        super().__init__()
        self.inputs = inputs
        self.net = MLP(inputs, config.pixels**2, (config.width,) * 3, activation="relu")

    def forward(self, state: Tensor) -> Tensor:
        """Pixels ``(..., pixels * pixels)`` between 0 and 1."""
        return self.net(state[..., : self.inputs]).sigmoid()


class CubicPendulum(fields.Pendulum):
    r"""An equation that no pendulum obeys, with the cube of the angle in place of its sine."""

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """The rate of ``(angle, speed)``."""
        length, gravity, friction = self.values(args)
        angle, speed = y.unbind(-1)
        return torch.stack([speed, -gravity / length * angle**3 - friction * speed], -1)


def reader(config: Config) -> MLP:
    """What looks at a picture, alike in all models."""
    return MLP(config.pixels**2, config.read, (config.width,) * 2, activation="relu")


def explained(config: Config) -> int:
    """Frames of a whole window that are explained."""
    return len(range(0, config.window, config.every))


def goku(config: Config, *, kl: float | None = None, field: type[fields.Pendulum] = fields.Pendulum) -> Latent:
    """Known equations; the picture shows the angle, not how fast it changes."""
    return GOKU(
        config.pixels**2,
        field(length=1.5, gravity=GRAVITY),
        Drawn(1, config),
        likelihoods.Gaussian(SCALE),
        unknown={"length": BOUNDS},
        size=2,
        latent=(config.latent, config.latent),
        hidden=config.hidden,
        reader=reader(config),
        read=config.read,
        scale=config.scale,
        method="rk4",
        compile=config.compile,
        annealing=annealing.Constant((config.kl if kl is None else kl) * explained(config)),
    )


def latent_ode(config: Config) -> Latent:
    """The same encoder, a network as field, and a picture of its whole state."""
    half = config.state // 2
    encoder = GOKUEncoder(
        config.pixels**2, (config.state - half, half), config.hidden, reader=reader(config), read=config.read
    )
    field = fields.MLP(config.state, (config.field,), activation="elu")
    dynamics = NeuralODE(field, method="rk4", compile=config.compile)
    weight = annealing.Constant(config.kl * explained(config))
    return Latent(encoder, dynamics, Drawn(config.state, config), likelihoods.Gaussian(SCALE), annealing=weight)


class LSTM(nn.Module):
    """A recurrent network that says the next picture, and goes on from its own pictures where there are no others.

    Args:
        config: Of the experiment.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.look = reader(config)
        self.cell = nn.LSTM(config.read, config.memory, batch_first=True)
        self.draw = Drawn(config.memory, config)

    def forward(self, frames: Tensor, steps: int) -> Tensor:
        """Pictures from the second on, ``(n, T - 1 + steps, D)``, after reading ``(n, T, D)``."""
        hidden, memory = self.cell(self.look(frames))
        said = [self.draw(hidden)]
        for _ in range(steps - 1):
            hidden, memory = self.cell(self.look(said[-1][:, -1:]), memory)
            said.append(self.draw(hidden))
        return torch.cat(said, 1)

    def loss(self, frames: Tensor) -> Tensor:
        """Squared errors summed over pixels, in the mean over frames; the second half of a window is said unseen."""
        half = frames.shape[1] // 2
        said = self(frames[:, :half], frames.shape[1] - half)
        return F.mse_loss(said, frames[:, 1:]) * frames.shape[-1]


def frame_loss(model: nn.Module, batch: tuple[Series, Series, Tensor]) -> Tensor:
    """The loss of a frame: squared errors summed over pixels, and its share of the weighted divergence."""
    if isinstance(model, LSTM):
        return model.loss(batch[2])
    observed, target, _ = batch
    pixels, frames = target.values.shape[-1], len(target.times) / len(target)
    # The density's constant would hide how small the errors are.
    return model.loss((observed, target)) / frames - 0.5 * math.log(2 * math.pi * SCALE**2) * pixels  # pyright: ignore[reportCallIssue]
