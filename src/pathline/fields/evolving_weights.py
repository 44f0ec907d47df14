"""Weights that move while the state does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pathline.nets.activations import ACTIVATIONS, Activation, check_activation
from pathline.terms import ODE

Weights = dict[str, Tensor]


class EvolvingWeights(nn.Module):
    r"""A field with weights that follow an equation of their own. *Experimental.*

    $$\dot z = f(t, z, \theta), \qquad \dot\theta = q(t, \theta), \qquad \theta(t_0) = \theta_0$$

    The weights at the start are the parameters of a module. There are two ways to evolve them. With a state
    ``(z, weights)``, made by ``start``, both move in lock-step, and a solver sees other weights at each of its stages.
    With a state ``z`` and ``args=weights`` the weights were evolved beforehand, on a grid of their own: once for the
    whole way, or as a function of time such as a dense ``Solution`` of ``evolution``. Either way they and the
    parameters of ``evolution`` receive gradients in every gradient mode.

    An adaptive method controls the error of ``z`` and of the weights together.

    Args:
        module: The rate of ``z``, a module of ``z``, ``(t, z)`` or ``(t, z, args)``. Its parameters are the weights
            at the start.
        evolution: The rate of the weights, ``(t, weights) -> rates``, both mappings from a parameter's name to a
            tensor; by default ``ReactionDiffusionAdvection``, which starts at rest.
        kernels: The parameters that evolve, by name, each with its number of grid axes, counted from the last; by
            default all weights of convolutions. The others are constant.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: ``kernels`` names something that ``module`` lacks, or nothing evolves.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pathline import NeuralODE, fields
        >>> field = fields.EvolvingWeights(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()))
        >>> z0 = torch.zeros(7, 4, 8, 8)
        >>> z1, weights1 = NeuralODE(field, method="rk4", dt=0.25)(field.start(z0))
        >>> weights1 = NeuralODE(field.evolution, method="rk4", dt=0.05)(field.weights())
        >>> NeuralODE(field, method="rk4", dt=0.25)(z0, args=weights1).shape
        torch.Size([7, 4, 8, 8])

    References:
        T. Zhang, Z. Yao, A. Gholami, K. Keutzer, J. Gonzalez, G. Biros, M. Mahoney (2019), ANODEV2: a coupled neural
        ODE evolution framework.
    """

    evolution: Any

    def __init__(
        self,
        module: nn.Module,
        evolution: Callable[..., Any] | None = None,
        *,
        kernels: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"`module` is a module, but {type(module).__name__} came. "
                "Try EvolvingWeights(torch.nn.Conv2d(4, 4, 3, padding=1))."
            )
        self.module = module
        self.kernels = _kernels_of(module) if kernels is None else _checked(kernels, module)
        like = self.weights()[next(iter(self.kernels))]
        self.evolution = (
            ReactionDiffusionAdvection(self.kernels, dtype=like.dtype, device=like.device)
            if evolution is None
            else evolution
        )
        self._takes = ODE(module).takes
        self._warned = False

    def weights(self) -> Weights:
        """The weights at the start: the parameters that evolve, by name."""
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        return {name: parameters[name] for name in self.kernels}

    def start(self, z: Tensor) -> tuple[Tensor, Weights]:
        """The state at the start: ``z``, and the weights in its dtype."""
        return z, {name: weight.to(z.dtype) for name, weight in self.weights().items()}

    def forward(self, t: Tensor, state: Any, args: Any = None) -> Any:
        """The rate of ``(z, weights)``, in its structure; or of ``z`` alone, with weights from ``args``.

        Args:
            t: The time.
            state: ``(z, weights)``, or ``z``.
            args: Beside ``(z, weights)`` what the module takes as its third argument. Beside ``z`` the weights, or a
                function of the time that gives them; None stands for those at the start, with a warning where the
                evolution has something to learn.

        Raises:
            ValueError: Weights whose names are not those of parameters; or ``(z, weights)`` with a time of its own for
                each sample, which one set of weights cannot follow.
            TypeError: Weights that are no mapping.
        """
        if isinstance(state, Tensor):
            weights: Any = args(t) if callable(args) else args
            if weights is None:
                self._warn_of_rest()
                weights = {}
            self._check_names(weights)
            return self._rate(t, state, weights, None)
        if isinstance(t, Tensor) and t.dim() > 0:
            raise ValueError(
                "A state (z, weights) has one time for all samples, since they share the weights, but a time for each "
                'sample came. Use clock="shared", or evolve the weights beforehand: args=weights.'
            )
        z, weights = state
        self._check_names(weights)
        return self._rate(t, z, weights, args), self.evolution(t, weights)

    def _warn_of_rest(self) -> None:
        if self._warned or torch.compiler.is_compiling() or not _has_parameters(self.evolution):
            return
        self._warned = True
        warnings.warn(
            "EvolvingWeights got a state z without weights, so they stay at those of the start and `evolution` learns "
            "nothing. Pass field.start(z) as the state, or args=weights; args=field.weights() says that they rest.",
            stacklevel=2,
        )

    def _check_names(self, weights: Any) -> None:
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"Weights are a mapping from names to tensors, or in `args` a function of the time that gives one, but "
                f"{type(weights).__name__} came. Try args=field.weights()."
            )
        if weights.keys() <= self.kernels.keys():
            return
        known = [name for name, _ in (*self.module.named_parameters(), *self.module.named_buffers())]
        unknown = [name for name in weights if name not in known and name not in self.kernels]
        if unknown:
            raise ValueError(
                f"`module` has no weights that are called {', '.join(map(repr, unknown))}. "
                f"Those that evolve are {', '.join(map(repr, self.kernels))}; all are {', '.join(known)}."
            )

    def _rate(self, t: Tensor, z: Tensor, weights: Weights, args: Any) -> Tensor:
        inputs = ((z,), (t, z), (t, z, args))[self._takes - 1]
        return torch.func.functional_call(self.module, weights, inputs)

    def extra_repr(self) -> str:
        return f"kernels={self.kernels}"


class ReactionDiffusionAdvection(nn.Module):
    r"""Convolution kernels that diffuse, drift and grow, each on its own small grid. *Experimental.*

    $$\dot w = \sigma\left(d\,\Delta w + v \cdot \nabla w + \rho\,w\right)$$

    The grid is periodic with spacing 1: the neighbour of the last entry is the first. $\Delta$ is the sum of second
    differences and $\nabla$ the central difference, so that with the identity for $\sigma$ the mode of wave number
    $\kappa$ evolves with $\exp((\rho - d \sum_i (2 - 2 \cos \kappa_i) + i \sum_i v_i \sin \kappa_i)\,t)$. Input and
    output channels do not mix. ``diffusion``, ``velocity`` and ``reaction`` are learned and start at zero, where the
    kernels rest.

    Args:
        kernels: Name of each kernel, and the number of its grid axes, counted from the last: 2 for the weights of
            ``nn.Conv2d``.
        groups: The group of each kernel, numbered from 0; kernels of one group share their coefficients. By default
            each is a group of its own.
        activation: ``sigma``, as in ``pathline.nets.MLP``; the kernels rest at the start where it maps 0 to 0.
        dtype: Type of the parameters.
        device: Device of the parameters.

    Raises:
        ValueError: No kernel, a kernel without axes or without a group, or no activation has this name.

    Example:
        >>> import torch
        >>> from pathline import fields
        >>> evolution = fields.ReactionDiffusionAdvection({"weight": 2})
        >>> with torch.no_grad():
        ...     evolution.reaction.fill_(0.5)
        Parameter containing:
        tensor([0.5000], requires_grad=True)
        >>> evolution(torch.tensor(0.0), {"weight": torch.ones(1, 1, 3, 3)})["weight"][0, 0, 0]
        tensor([0.5000, 0.5000, 0.5000], grad_fn=<SelectBackward0>)

    References:
        T. Zhang, Z. Yao, A. Gholami, K. Keutzer, J. Gonzalez, G. Biros, M. Mahoney (2019), ANODEV2: a coupled neural
        ODE evolution framework.
    """

    def __init__(
        self,
        kernels: Mapping[str, int],
        *,
        groups: Mapping[str, int] | None = None,
        activation: Activation = "identity",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.kernels = dict(kernels)
        if not self.kernels or any(not isinstance(axes, int) or axes < 1 for axes in self.kernels.values()):
            raise ValueError(
                f'`kernels` maps names to numbers of grid axes, such as {{"weight": 2}}, but {kernels!r} came.'
            )
        self.groups = {name: i for i, name in enumerate(self.kernels)} if groups is None else dict(groups)
        if set(self.groups) != set(self.kernels) or sorted(set(self.groups.values())) != list(
            range(len(set(self.groups.values())))
        ):
            raise ValueError(
                f"`groups` gives each of {', '.join(self.kernels)} a number, counted from 0 without gaps, "
                f"but {groups!r} came."
            )
        check_activation(activation)
        self.activation = activation
        count, axes = len(set(self.groups.values())), max(self.kernels.values())
        self.diffusion = nn.Parameter(torch.zeros(count, dtype=dtype, device=device))
        self.velocity = nn.Parameter(torch.zeros(count, axes, dtype=dtype, device=device))
        self.reaction = nn.Parameter(torch.zeros(count, dtype=dtype, device=device))

    def forward(self, t: Tensor, weights: Weights) -> Weights:
        """The rate of each kernel, by name; ``t`` does not matter."""
        return {name: self._rate(name, weight) for name, weight in weights.items()}

    def _rate(self, name: str, w: Tensor) -> Tensor:
        group = self.groups[name]
        d, v, rho = self.diffusion[group], self.velocity[group], self.reaction[group]
        axes = self.kernels[name]
        # The second and the central difference gathered by neighbour: three products an axis become two.
        rate = (rho - 2 * axes * d) * w
        for i in range(axes):
            rate = rate + (d + v[i] / 2) * w.roll(-1, i - axes) + (d - v[i] / 2) * w.roll(1, i - axes)
        return self._sigma(rate)

    def _sigma(self, rate: Tensor) -> Tensor:
        function: Any = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        return function(rate)

    def extra_repr(self) -> str:
        return f"kernels={self.kernels}, activation={self.activation}"


def _has_parameters(evolution: Any) -> bool:
    return isinstance(evolution, nn.Module) and any(True for _ in evolution.parameters())


def _kernels_of(module: nn.Module) -> dict[str, int]:
    """The weights of all convolutions, with their spatial axes."""
    found = {
        f"{name}.weight" if name else "weight": part.weight.dim() - 2
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    if not found:
        raise ValueError(
            "`module` has no convolution whose weights could evolve. "
            'Say which parameters do, and on how many axes: kernels={"0.weight": 2}.'
        )
    return found


def _checked(kernels: Mapping[str, int], module: nn.Module) -> dict[str, int]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, axes in kernels.items():
        if name not in parameters:
            raise ValueError(f"`kernels` names {name!r}, but the parameters are: {', '.join(parameters) or 'none'}.")
        if not 1 <= axes <= parameters[name].dim():
            raise ValueError(f"`kernels` gives {name!r} {axes} axes, but it has {parameters[name].dim()}.")
    if not kernels:
        raise ValueError("`kernels` is empty. Without evolving weights the module is a field by itself.")
    return dict(kernels)
