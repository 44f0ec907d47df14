"""Normalizing flows in discrete layers: what the continuous ones are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Transform, TransformedDistribution, constraints
from torch.nn import functional as F

from pathline import nets
from pathline.models.densities.bases import in_dtype
from pathline.models.densities.captured import Captured
from pathline.models.densities.checking import (
    check_dtype,
    check_not_overflown,
    check_some,
    checked_base,
    checked_events,
    checked_sample_shape,
    checked_value,
    unpacked,
)
from pathline.nets.activations import Activation


class LayeredFlow(nn.Module):
    """A density, by default a standard normal, pushed through layers: the base of the discrete flows. *Maturing.*

    ``model()`` is a ``torch.distributions.Distribution``, as that of every density here. A flow of your own gives
    ``transforms``, from the base to the data.

    Args:
        size: Size of the last dimension of the data.
        base: What is pushed, a ``Distribution`` with events ``(size,)``, or a module that returns one when called; by
            default a standard normal.
    """

    def __init__(self, size: int, base: Any = None) -> None:
        super().__init__()
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"`size` is the number of components of a sample, at least 1; {size!r} came.")
        self.size, self.base = size, checked_base(base, torch.Size((size,)))

    def transforms(self) -> list[Transform]:
        """The layers in the order in which a sample passes them."""
        raise NotImplementedError  # each kind of layer has its own

    def forward(self) -> Distribution:
        """The density, with ``log_prob``, ``sample`` and ``rsample``."""
        return LayeredDistribution(self)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one sample."""
        return torch.Size((self.size,))

    @property
    def dtype(self) -> torch.dtype | None:
        """That of the parameters; None without any."""
        return next((x.dtype for x in self.parameters() if x.is_floating_point()), None)

    def transformed(self) -> TransformedDistribution:
        """The base behind the layers, made of the parameters as they are."""
        # The support of a composition of layers is checked by none of them.
        return TransformedDistribution(self.base_distribution(), self.transforms(), validate_args=False)

    def base_distribution(self) -> Distribution:
        """What the layers push."""
        if self.base is not None:
            base = self.base if isinstance(self.base, Distribution) else checked_base(self.base(), self.event_shape)
            return in_dtype(base, self.dtype)
        like = next(self.parameters())
        zero = torch.zeros(self.size, dtype=like.dtype, device=like.device)
        return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1)

    def loss(self, batch: Any) -> Tensor:
        """The mean negative log-likelihood in nats.

        Args:
            batch: ``x`` of shape ``(batch, size)``, ``(x,)``, or a mapping with ``"x"``.
        """
        x, context = unpacked(batch)
        if context is not None:
            raise TypeError(f"A context came, but {type(self).__name__} takes none. Use CNF for a density given one.")
        check_some(x)
        return -self().log_prob(checked_events("x", x, self.event_shape)).mean()

    def extra_repr(self) -> str:
        return f"size={self.size}"


class LayeredDistribution(Distribution):
    """The density of a flow in layers; what ``model()`` returns. *Maturing.*

    Args:
        flow: The model, whose parameters are taken as in ``CNF``.
        batch_shape: Of the distribution.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, flow: LayeredFlow, batch_shape: torch.Size | None = None) -> None:
        self.flow, self._captured = flow, Captured(flow)
        super().__init__(torch.Size() if batch_shape is None else batch_shape, flow.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the base has it."""
        return self._captured(lambda flow: flow.base_distribution().has_rsample)

    @property
    def support(self) -> Any:
        """That of the last layer."""
        return self._captured(lambda flow: flow.transformed().support)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LayeredDistribution:
        """The same density for a larger batch shape."""
        expanded = LayeredDistribution(self.flow, torch.Size(batch_shape))
        expanded._captured = self._captured
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density in nats, ``(*sample, *batch)`` for ``(*sample, *batch, size)``.

        Raises:
            TypeError: Another dtype than that of the parameters.
            ValueError: Another shape, or values that are not finite.
        """
        lead = torch.broadcast_shapes(checked_value(value, self.event_shape), self.batch_shape)
        return self._captured(_log_prob, value).expand(lead)

    def sample(self, sample_shape: int | Sequence[int] = ()) -> Tensor:
        """Draws, ``(*sample_shape, *batch, size)``; a number of draws, or their shape."""
        shape = checked_sample_shape(sample_shape) + self.batch_shape
        return self._captured(lambda flow: flow.transformed().sample(shape))

    def rsample(self, sample_shape: int | Sequence[int] = ()) -> Tensor:
        """Draws that carry gradients; as ``sample``."""
        shape = checked_sample_shape(sample_shape) + self.batch_shape
        return self._captured(lambda flow: flow.transformed().rsample(shape))

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"LayeredDistribution({type(self.flow).__name__}, {shapes})"


def _log_prob(flow: LayeredFlow, value: Tensor) -> Tensor:
    check_dtype(checked_events("x", value.reshape(-1, flow.size), flow.event_shape), flow.dtype)
    if not value.numel():
        return value.new_zeros(value.shape[:-1])  # torch's own transforms take no empty batch
    log_p = flow.transformed().log_prob(value)
    if flow.base is None:
        check_not_overflown(log_p.reshape(-1), value.reshape(-1, flow.size), flow.base_distribution())
    return log_p


class PlanarFlow(LayeredFlow):
    r"""A normalizing flow of planar layers. *Maturing.*

    $$f(x) = x + \hat u \tanh(w^{\mathsf T} x + b), \qquad
      \log\lvert\det f'\rvert = \log\lvert 1 + \hat u^{\mathsf T} w\, (1 - \tanh^2)\rvert$$

    A layer is invertible only if $u^{\mathsf T} w \ge -1$. So $u$ is not free: its component along $w$ is replaced by
    $m(u^{\mathsf T} w)$ with $m(a) = \log(1 + e^a) - 1 > -1$, as in the paper's appendix. Without it the density need
    not integrate to one, and its likelihood means nothing.

    The layers lead from the data to the base, so that ``log_prob`` is a formula; a sample solves one monotone equation
    on the line in each layer.

    Args:
        size: Size of the last dimension of the data.
        depth: Number of layers.
        base: As in ``LayeredFlow``.

    Example:
        >>> import torch
        >>> from pathline.models import PlanarFlow
        >>> flow = PlanarFlow(2, depth=8)
        >>> flow().log_prob(torch.zeros(5, 2)).shape, flow().sample((3,)).shape
        (torch.Size([5]), torch.Size([3, 2]))

    References:
        D. J. Rezende, S. Mohamed (2015), Variational inference with normalizing flows, section 4.1 and appendix A.1.
    """

    def __init__(self, size: int, depth: int = 32, *, base: Any = None) -> None:
        super().__init__(size, base)
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"`depth` is the number of layers, at least 1; {depth!r} came.")
        self.depth = depth
        # Directions of all lengths and offsets in the range of the data; layers start near the identity.
        self.w = nn.Parameter(torch.randn(depth, size) / math.sqrt(size))
        self.u = nn.Parameter(0.1 * torch.randn(depth, size))
        self.b = nn.Parameter(torch.randn(depth))

    def transforms(self) -> list[Transform]:
        """The layers in the order in which a sample passes them."""
        u = constrained(self.u, self.w)
        layers = zip(u.unbind(), self.w.unbind(), self.b.unbind(), strict=True)
        return [PlanarLayer(*parameters).inv for parameters in layers][::-1]

    def extra_repr(self) -> str:
        return f"size={self.size}, depth={self.depth}"


MARGIN = 1e-4
"""The smallest slope of a planar layer along ``w``."""


def constrained(u: Tensor, w: Tensor) -> Tensor:
    """``u`` with its component along ``w`` changed such that ``u . w > -1``; shapes ``(..., size)``."""
    along = (u * w).sum(-1, keepdim=True)
    # A little more than the paper's m, so that rounding never reaches -1.
    wanted = F.softplus(along) - 1 + MARGIN
    return u + (wanted - along) * w / w.square().sum(-1, keepdim=True)


class PlanarLayer(Transform):
    """``x + u tanh(w . x + b)`` as a transform of torch; ``u . w > -1`` is the caller's promise. *Maturing.*

    Args:
        u: Direction of the move, ``(size,)``.
        w: Normal of the plane, ``(size,)``.
        b: Offset of the plane, ``()``.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.u, self.w, self.b = u, w, b
        self._seen: tuple[Tensor, Tensor] | None = None

    def _call(self, x: Tensor) -> Tensor:
        tanh = torch.tanh(x @ self.w + self.b)
        self._seen = x, tanh
        return x + self.u * tanh.unsqueeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        place = self._place(y @ self.w + self.b, self.u @ self.w)
        return y - self.u * place.tanh().unsqueeze(-1)

    def _place(self, target: Tensor, slope: Tensor) -> Tensor:
        """The root ``a`` of ``a + slope tanh(a) = target``, by bisection, with a derivative from a last Newton step."""
        with torch.no_grad():
            low, high = target - slope.abs() - 1, target + slope.abs() + 1
            for _ in range(40 if target.dtype == torch.float32 else 70):
                middle = (low + high) / 2
                below = middle + slope * middle.tanh() < target
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            a = (low + high) / 2
            rate = 1 + slope * (1 - a.tanh().square())
        return a - (a + slope * a.tanh() - target) / rate

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self._seen is None or self._seen[0] is not x:
            self._seen = x, torch.tanh(x @ self.w + self.b)
        tanh = self._seen[1]
        return torch.log1p((self.u @ self.w) * (1 - tanh.square()))


class RealNVP(LayeredFlow):
    r"""A normalizing flow of affine coupling layers. *Maturing.*

    $$y_A = x_A, \qquad y_B = x_B \odot e^{s(x_A)} + m(x_A), \qquad \log\lvert\det\rvert = \sum_i s_i(x_A)$$

    Half of the components stay and decide how the others are scaled and moved; the halves alternate, by parity and,
    with more than two components, by position. The logarithms of the scales are kept within ``scale`` by a tanh.

    Args:
        size: Size of the last dimension of the data, at least 2.
        layers: Number of coupling layers.
        hidden: Hidden layers of each network.
        activation: As in ``pathline.nets.MLP``.
        scale: Largest logarithm of a scale.
        base: As in ``LayeredFlow``.

    Example:
        >>> import torch
        >>> from pathline.models import RealNVP
        >>> flow = RealNVP(2, layers=4, hidden=(32,))
        >>> flow().log_prob(torch.zeros(5, 2)).shape, flow().sample((3,)).shape
        (torch.Size([5]), torch.Size([3, 2]))

    References:
        L. Dinh, J. Sohl-Dickstein, S. Bengio (2017), Density estimation using Real NVP.
    """

    def __init__(
        self,
        size: int,
        layers: int = 8,
        hidden: int | Sequence[int] = (64, 64),
        *,
        activation: Activation = "relu",
        scale: float = 3.0,
        base: Any = None,
    ) -> None:
        super().__init__(size, base)
        if size < 2 or not isinstance(layers, int) or layers < 1:
            raise ValueError(
                f"A coupling needs two components or more, and a flow one layer or more; size={size!r}, "
                f"layers={layers!r} came."
            )
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ValueError(f"`scale` is the largest logarithm of a scale, a positive number, but {scale!r} came.")
        self.layers, self.hidden = layers, (hidden,) if isinstance(hidden, int) else tuple(hidden)
        self.activation, self.scale = activation, scale
        # The last layers start at zero: the flow starts as the identity.
        self.networks = nn.ModuleList(
            nets.MLP(len(stay), 2 * len(move), self.hidden, activation=activation, output_scale=0.0)
            for stay, move in map(self._halves, range(layers))
        )

    def _halves(self, layer: int) -> tuple[Tensor, Tensor]:
        """The components that stay and those that move in a layer."""
        places = torch.arange(self.size)
        by_position = self.size > 2 and layer % 4 >= 2
        first = places < self.size // 2 if by_position else places % 2 == 0
        stay, move = places[first], places[~first]
        return (stay, move) if layer % 2 == 0 else (move, stay)

    def transforms(self) -> list[Transform]:
        """The layers in the order in which a sample passes them."""
        device, transforms = next(self.parameters()).device, []
        for layer, network in enumerate(self.networks):
            stay, move = self._halves(layer)
            transforms.append(CouplingLayer(network, stay.to(device), move.to(device), self.scale))
        return transforms

    def extra_repr(self) -> str:
        return f"size={self.size}, layers={self.layers}, scale={self.scale:g}"


class CouplingLayer(Transform):
    """An affine coupling as a transform of torch. *Maturing.*

    Args:
        network: From the components that stay to logarithms of scales and shifts of those that move.
        stay: Their places, long.
        move: The places of the others.
        scale: Largest logarithm of a scale.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, network: nn.Module, stay: Tensor, move: Tensor, scale: float) -> None:
        super().__init__()
        self.network, self.stay, self.move, self.scale = network, stay, move, scale
        self._seen: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the scales, and shifts; the network is asked once for the map and its determinant."""
        if self._seen is None or self._seen[0] is not x:
            log_scale, shift = self.network(x[..., self.stay]).chunk(2, -1)
            self._seen = x, (self.scale * torch.tanh(log_scale / self.scale), shift)
        return self._seen[1]

    def _call(self, x: Tensor) -> Tensor:
        log_scale, shift = self._affine(x)
        return x.index_copy(-1, self.move, x[..., self.move] * log_scale.exp() + shift)

    def _inverse(self, y: Tensor) -> Tensor:
        log_scale, shift = self._affine(y)
        return y.index_copy(-1, self.move, (y[..., self.move] - shift) * torch.exp(-log_scale))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        # The components that stay are those of x and of y: whichever the map started from serves.
        start = x if self._seen is not None and self._seen[0] is x else y
        return self._affine(start)[0].sum(-1)
