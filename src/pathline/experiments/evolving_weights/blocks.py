"""The four blocks that are compared: they differ in what their weights do while the state flows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pathline import Save
from pathline.fields import EvolvingWeights
from pathline.models import NeuralODE, ResNet

FINER = 2


class LockStep(nn.Module):
    """State and weights in one system: the solver moves both by the same steps.

    Args:
        module: The rate of the state; its parameters are the weights at the start.
        steps: Steps of the solver.
        method: As in ``NeuralODE``, with fixed steps.
        gradient: As in ``NeuralODE``.
    """

    def __init__(self, module: nn.Module, steps: int, method: str = "rk4", gradient: str = "backprop") -> None:
        super().__init__()
        self.field = EvolvingWeights(module)
        self.ode = NeuralODE(self.field, method=method, dt=1 / steps, gradient=gradient)

    def forward(self, z: Tensor) -> Tensor:
        """The state at the end."""
        return self.ode(self.field.start(z))[0]


class Ahead(nn.Module):
    """The weights first, on a grid twice as fine; the state then reads them off their curve.

    Args:
        module: The rate of the state; its parameters are the weights at the start.
        steps: Steps of the state.
        method: As in ``NeuralODE``, with fixed steps.
        gradient: As in ``NeuralODE``.
    """

    def __init__(self, module: nn.Module, steps: int, method: str = "rk4", gradient: str = "backprop") -> None:
        super().__init__()
        self.field = EvolvingWeights(module)
        self.weights = NeuralODE(self.field.evolution, method=method, dt=1 / (FINER * steps))
        self.ode = NeuralODE(self.field, method=method, dt=1 / steps, gradient=gradient)

    def forward(self, z: Tensor) -> Tensor:
        """The state at the end."""
        curve = self.weights.solve(self.field.weights(), save=Save(dense=True))
        return self.ode(z, args=curve)


def constant(module: nn.Module, steps: int, method: str = "rk4") -> NeuralODE:
    """The plain neural ODE: the same weights all the way."""
    return NeuralODE(module, method=method, dt=1 / steps)


def independent(modules: Sequence[nn.Module]) -> ResNet:
    """A residual network with weights of its own in each block."""
    return ResNet(modules, step=1 / len(modules))


def size(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
