"""Ready-made running costs for ``solve(integrals=...)``, and end times that jitter.

A cost is a function ``fn(t, y, dy)``; by the name of a parameter it may also ask for ``args`` (those of the solve),
``pull`` (``pull(v) = v^T df/dy``, the vector-Jacobian product of the field where it was just evaluated) and ``drawn``
(what its method ``draw(y0)`` returned at the start of the solve). One whose value does not depend on ``t`` may say so
with ``timeless = True``. Sums and weights are plain arithmetic in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pathline.terms import ODE

#: How noise is drawn, by name.
NOISES = ("gaussian", "rademacher")


def per_row(t: Tensor, state: Any) -> Tensor:
    """The sum of all numbers of a state: ``(batch,)``, or a 0-d tensor for a single vector.

    The first dimension is the batch where the state has more than one, where all leaves of a structured state share it
    and one of them has more, and on the per-sample clock.
    """
    if isinstance(state, Tensor) and state.dim() > 1:
        return state.flatten(1).sum(1)
    leaves = pytree.tree_leaves(state)
    lengths = {x.shape[0] if x.dim() else None for x in leaves}
    batched = t.dim() > 0 or (len(lengths) == 1 and max(x.dim() for x in leaves) > 1)
    sums = [x.flatten(1).sum(1) if batched and x.dim() > 1 else x if batched else x.sum() for x in leaves]
    return torch.stack(sums).sum(0) if len(sums) > 1 else sums[0]


def squares(state: Any) -> Any:
    """``|x|^2`` of every number."""
    if isinstance(state, Tensor):
        return (state * state.conj()).real if state.is_complex() else state.square()
    return pytree.tree_map(squares, state)


class KineticEnergy:
    """``|dy|^2``, summed over the components of each sample: straight, slow paths are cheap to solve.

    *Maturing.*

    Example:
        >>> import torch, pathline
        >>> costs = {"energy": pathline.KineticEnergy()}
        >>> solution = pathline.solve(
        ...     lambda t, y: torch.ones_like(y), torch.zeros(3, 2), (0.0, 1.0), integrals=costs
        ... )
        >>> solution.integrals["energy"][-1].round(decimals=3)
        tensor([2., 2., 2.])

    References:
        Finlay, Jacobsen, Nurbekyan, Oberman (2020), How to Train Your Neural ODE: the World of Jacobian and Kinetic
        Regularization.
    """

    timeless = True

    def __call__(self, t: Tensor, y: Any, dy: Any) -> Tensor:
        """``(batch,)``, or a number."""
        return per_row(t, squares(dy))


class JacobianNorm:
    """An unbiased estimate of ``|df/dy|_F^2`` for each sample, by Hutchinson: ``|v^T df/dy|^2`` with ``E v v^T = I``.

    The noise ``v`` stays the same over a solve, so that the integrand is smooth in time; a new one is drawn for each
    solve. One vector-Jacobian product of the field for each probe and evaluation; works under ``torch.no_grad()``, in
    every gradient mode and under ``torch.func``. A sample's estimate holds only its own row of the Jacobian where the
    field does not mix samples. *Maturing.*

    Args:
        noise: ``v``, in the structure and shape of ``y0``; with ``probes > 1`` leaves ``(probes, *shape)``. By default
            it is drawn.
        probes: how many products are averaged, at least 1.
        kind: "gaussian", or "rademacher" (signs), whose estimate varies less.
        generator: of the draws; by default torch's own.

    Raises:
        TypeError: ``noise`` is no tensor.
        ValueError: another kind, or no probe.

    Example:
        >>> import torch, pathline
        >>> A = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> costs = {"jacobian": pathline.JacobianNorm(kind="rademacher")}
        >>> solution = pathline.solve(lambda t, y: y @ A, torch.ones(3, 2), (0.0, 1.0), integrals=costs)
        >>> solution.integrals["jacobian"][-1].round(decimals=3)
        tensor([2., 2., 2.])

    References:
        Hutchinson (1990), A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines.
        Finlay, Jacobsen, Nurbekyan, Oberman (2020), How to Train Your Neural ODE.
    """

    timeless = True

    def __init__(
        self,
        noise: Any = None,
        *,
        probes: int = 1,
        kind: str = "gaussian",
        generator: torch.Generator | None = None,
    ) -> None:
        if kind not in NOISES:
            raise ValueError(f'`kind` is "gaussian" or "rademacher"; it is {kind!r}.')
        if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
            raise ValueError(f"`probes` is a whole number, at least 1; it is {probes!r}.")
        if not all(isinstance(x, Tensor) for x in pytree.tree_leaves(noise) if x is not None):
            raise TypeError(
                f"`noise` is a tensor like `y0`, or a structure of them, or None to draw it; it is {noise!r}. What is "
                'drawn is said by `kind`: "gaussian" or "rademacher".'
            )
        self.noise, self.probes, self.kind, self.generator = noise, probes, kind, generator

    def draw(self, y0: Any) -> Any:
        """The noise of one solve, samples first: leaves ``(batch, probes, ...)``, or ``(1, probes, *shape)``."""
        if self.noise is None:
            return pytree.tree_map(self._drawn, y0)
        noise, spec = pytree.tree_flatten(self.noise)
        leaves, wanted = pytree.tree_flatten(y0)
        shapes = [((self.probes,) if self.probes > 1 else ()) + tuple(x.shape) for x in leaves]
        if spec != wanted or [tuple(v.shape) for v in noise] != shapes:
            raise ValueError(
                f"`noise` has the structure of `y0` and, with {self.probes} probe(s), shapes {shapes}; it has "
                f"{[tuple(v.shape) for v in noise]}."
            )
        found = [v if self.probes > 1 else v.unsqueeze(0) for v in noise]
        return pytree.tree_unflatten([v.transpose(0, 1) if v.dim() > 1 else v.unsqueeze(0) for v in found], spec)

    def _drawn(self, x: Tensor) -> Tensor:
        shape = (self.probes, *x.shape)
        if self.kind == "gaussian":
            v = torch.randn(shape, dtype=x.dtype, device=x.device, generator=self.generator)
        else:
            signs = torch.randint(0, 2, shape, device=x.device, generator=self.generator)
            v = (2 * signs - 1).to(x.dtype)
        return v.transpose(0, 1) if v.dim() > 1 else v.unsqueeze(0)

    def __call__(self, t: Tensor, y: Any, dy: Any, pull: Callable[[Any], Any], drawn: Any) -> Tensor:
        """``(batch,)``, or a number."""
        total: Any = 0.0
        for i in range(self.probes):
            v = pytree.tree_map(lambda x, like, i=i: (x[:, i] if like.dim() else x[0, i]).reshape(like.shape), drawn, y)
            total = total + per_row(t, squares(pull(v)))
        return total / self.probes


class ControlEffort:
    """``|u|^2`` of a control ``u(t, y, args)``, summed over the components of each sample.

    *Maturing.*

    Args:
        control: ``u(t, y, args)``, ``u(t, y)`` or ``u(y)``: a tensor ``(batch, ...)``, or of any shape for one sample.

    Example:
        >>> import torch, pathline
        >>> push = lambda t, y: -0.5 * y
        >>> costs = {"effort": pathline.ControlEffort(push)}
        >>> solution = pathline.solve(
        ...     lambda t, y: y + push(t, y), torch.ones(3, 1), (0.0, 1.0), integrals=costs
        ... )
        >>> solution.integrals["effort"][-1]
        tensor([0.4296, 0.4296, 0.4296])
    """

    def __init__(self, control: Callable[..., Any]) -> None:
        if not callable(control):
            raise TypeError(f"`control` is a function u(t, y, args); it is {control!r}. Pass the policy itself.")
        self.control = ODE(control)

    def __call__(self, t: Tensor, y: Any, dy: Any, args: Any) -> Tensor:
        """``(batch,)``, or a number."""
        return per_row(t, squares(self.control.rate(t, y, args)))


class EndTimeJitter(nn.Module):
    """Times whose last one is moved by ``Uniform(-b, b)``, a new draw a call: the flow learns to arrive early and stay.

    For training; in evaluation mode times pass unchanged. It is a module, so that ``model.eval()`` reaches it.
    *Maturing.*

    Args:
        b: half the width of the jitter, in units of time; smaller than the last interval, so that times stay in order.
        generator: of the draws; by default torch's own.

    Raises:
        ValueError: ``b`` is negative or not finite; at a call, ``b >= |t[-1] - t[0]|``, or so large that the last time
            could pass the one before it.

    Example:
        >>> import torch, pathline
        >>> jitter = pathline.EndTimeJitter(0.25, generator=torch.Generator().manual_seed(0))
        >>> t = jitter((0.0, 1.0))
        >>> 0.75 < t[-1] < 1.25, jitter.eval()((0.0, 1.0))
        (True, (0.0, 1.0))

    References:
        Ghosh, Behl, Dupont, Torr, Namboodiri (2020), STEER: Simple Temporal Regularization For Neural ODEs.
    """

    def __init__(self, b: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not isinstance(b, int | float) or not 0 <= b < math.inf:
            raise ValueError(f"`b` is a finite number >= 0; it is {b!r}.")
        self.b, self.generator = float(b), generator

    def forward(self, t: Tensor | Sequence[float]) -> Any:
        """The times to solve for, of the kind that came."""
        if not self.training or not self.b:
            return t
        ends = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
        self._check(ends.detach())
        device = "cpu" if self.generator is None else self.generator.device
        move = self.b * (2 * torch.rand((), dtype=torch.float64, generator=self.generator, device=device).item() - 1)
        if isinstance(t, Tensor):
            return torch.cat([t[:-1], t[-1:] + move])
        moved = [*t[:-1], t[-1] + move]
        return tuple(moved) if isinstance(t, tuple) else moved

    def _check(self, t: Tensor) -> None:
        if len(t) < 2:
            raise ValueError("`t` has a first and a last time; it has one entry.")
        span, last = ((t[-1] - x).abs().min().item() for x in (t[0], t[-2]))
        if self.b >= last:
            which = "the span t[-1] - t[0]" if last == span else "the last interval t[-1] - t[-2]"
            raise ValueError(
                f"`b` is smaller than {which}, {last:g}; it is {self.b:g}, and the last time could pass the one before "
                "it. Make it smaller, or leave out the times in between."
            )
