"""Mechanics: rates that follow from an energy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pathline.operators import reads_others

Energy = Callable[[Tensor], Tensor]
Rate = Callable[[Tensor, Tensor], Tensor]


class Hamiltonian(nn.Module):
    r"""Hamilton's equations; the state is ``y = [q, p]`` along its last dimension. *Experimental.*

    $$\dot q = \frac{\partial H}{\partial p}, \qquad \dot p = -\frac{\partial H}{\partial q}$$

    An energy is a network or a function with one number a sample. ``H`` may be any function of the whole state. With
    ``kinetic`` (of p) and ``potential`` (of q), $H = T(p) + V(q)$, the field can be split into ``kick`` and ``drift``,
    and symplectic methods such as "leapfrog" take it. Derivatives are automatic, under ``no_grad`` too.

    Args:
        H: ``(..., 2n) -> (...)`` or ``(..., 1)``.
        kinetic: T, ``(..., n) -> (...)`` or ``(..., 1)``.
        potential: V, alike.

    Raises:
        TypeError: neither H nor both of its parts, or one that cannot be called.

    Example:
        >>> import torch, pathline
        >>> from pathline import fields
        >>> pendulum = fields.Hamiltonian(
        ...     kinetic=lambda p: p.square().sum(-1) / 2, potential=lambda q: -q.cos().sum(-1)
        ... )
        >>> pendulum(torch.tensor(0.0), torch.tensor([0.5, 1.0]))
        tensor([ 1.0000, -0.4794])
        >>> y0 = torch.tensor([0.5, 1.0])
        >>> y1 = pathline.solve(pendulum, y0, (0.0, 9.0), method="leapfrog", dt=0.1).y1
        >>> bool((pendulum.energy(y1) - pendulum.energy(y0)).abs() < 1e-2)
        True

    References:
        Greydanus, Dzamba, Yosinski (2019), Hamiltonian neural networks. Chen, Zhang, Arjovsky, Bottou (2020),
        Symplectic recurrent neural networks.
    """

    def __init__(
        self, H: Energy | None = None, *, kinetic: Energy | None = None, potential: Energy | None = None
    ) -> None:
        super().__init__()
        given = {"H": H, "kinetic": kinetic, "potential": potential}
        names = [name for name, energy in given.items() if energy is not None]
        if names not in (["H"], ["kinetic", "potential"]):
            raise TypeError(
                f"Hamiltonian takes `H`, or `kinetic` and `potential`; came {' and '.join(names) or 'nothing'}. "
                "Try Hamiltonian(MLP(2, 1)), or Hamiltonian(kinetic=MLP(1, 1), potential=MLP(1, 1))."
            )
        for name in names:
            if not callable(given[name]):
                raise TypeError(f"`{name}` is a module or a function; it is {given[name]!r}.")
        self.H, self.kinetic, self.potential = H, kinetic, potential

    def energy(self, y: Tensor) -> Tensor:
        """The energy of each sample, ``(...)``."""
        if self.H is not None:
            return _energies(self.H, y)
        q, p = halves(y)
        assert self.kinetic is not None
        assert self.potential is not None
        return _energies(self.kinetic, p) + _energies(self.potential, q)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The rate of ``y = [q, p]``, in its shape."""
        q, p = halves(y)
        if self.H is None:
            return torch.cat([self.drift(t, p), self.kick(t, q)], -1)
        force, velocity = halves(slope(self.H, y))
        return torch.cat([velocity, -force], -1)

    @property
    def kick(self) -> Rate:
        """``kick(t, q)``: dp/dt = -dV/dq. There is none where H isn't split."""
        potential = self._part(self.potential)
        return lambda t, q: -slope(potential, q)

    @property
    def drift(self) -> Rate:
        """``drift(t, p)``: dq/dt = dT/dp. There is none where H isn't split."""
        kinetic = self._part(self.kinetic)
        return lambda t, p: slope(kinetic, p)

    def _part(self, energy: Energy | None) -> Energy:
        if energy is None:
            raise AttributeError("This Hamiltonian isn't split: pass `kinetic` and `potential` in place of `H`.")
        return energy


def halves(y: Tensor) -> tuple[Tensor, Tensor]:
    """q and p."""
    n = y.shape[-1] if y.dim() else 1
    if n % 2:
        raise ValueError(
            f"A state is [q, p], of even size along its last dimension; it has shape {tuple(y.shape)}. "
            "Pass torch.cat([q, p], -1)."
        )
    return y[..., : n // 2], y[..., n // 2 :]


def slope(energy: Energy, x: Tensor) -> Tensor:
    """The gradient of the energy of each sample, in the shape of ``x``.

    Under a torch.func transform it is the transform's own; else `torch.autograd.grad`, at half the cost.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return torch.func.grad(lambda x: _energies(energy, x).sum())(x)
    outer = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        x = x if x.requires_grad and outer else x.clone() if x.is_inference() else x.detach()
        history = x.requires_grad
        total = _energies(energy, x.requires_grad_()).sum()
        if not total.requires_grad:
            return torch.zeros_like(x, requires_grad=False)
        keep = outer and (history or reads_others(total, x))
        (gradient,) = torch.autograd.grad(total, x, create_graph=keep, allow_unused=True, materialize_grads=True)
    return gradient


def _energies(energy: Energy, x: Tensor) -> Tensor:
    value = energy(x)
    if value.shape == (*x.shape[:-1], 1):
        return value.squeeze(-1)
    if value.shape != x.shape[:-1]:
        raise ValueError(
            f"An energy is one number a sample, {tuple(x.shape[:-1])} for {tuple(x.shape)}; it has shape "
            f"{tuple(value.shape)}. Sum over the last dimension alone."
        )
    return value
