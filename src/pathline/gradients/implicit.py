"""Roots differentiated by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from pathline.gradients.inputs import find
from pathline.solvers.jacobians import Systems, linearize, products, transforming
from pathline.solvers.krylov import gmres
from pathline.solvers.linear import factor, solve
from pathline.terms import Bound, Time

Product = Callable[[Tensor], Tensor]

#: How often the Krylov space is begun anew.
RESTARTS = 10


@dataclass(frozen=True)
class Implicit:
    r"""The implicit function theorem, for a root of $f(y, \theta) = 0$ however it was found.

    $$\frac{dy}{d\theta} = -\left(\frac{\partial f}{\partial y}\right)^{-1} \frac{\partial f}{\partial \theta}$$

    Two Newton corrections with the constant Jacobian of the root carry the derivatives: the first one the first, both
    together the second. So memory is that of two evaluations whatever the number of iterations, and the value is the
    better for it. Third derivatives are not right. *Maturing.*

    Args:
        root: how the linear equations of the theorem are solved: "lu" makes the Jacobian, "gmres" asks for products
            with it alone; "auto" takes LU up to ``dense`` unknowns.
        dense: see there.
        rtol: how far GMRES goes; by default the rounding unit to the power 0.75.

    Raises:
        ValueError: another ``root``.

    Example:
        >>> import torch, pathline
        >>> a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> found = pathline.solve_steady_state(lambda t, y: a - y**2, torch.ones(1, dtype=torch.float64))
        >>> found.y.sum().backward()
        >>> round(float(a.grad), 6)  # 1 / (2 sqrt(a))
        0.353553

    References:
        Bai, Kolter, Koltun (2019), Deep equilibrium models. Blondel et al. (2022), Efficient and modular implicit
        differentiation.
    """

    root: str = "auto"
    dense: int = 512
    rtol: float | None = None

    def __post_init__(self) -> None:
        if self.root not in ("auto", "lu", "gmres"):
            raise ValueError(f'`root` is "auto", "lu" or "gmres"; it is {self.root!r}.')

    def free(self, size: int) -> bool:
        """Whether so many unknowns are served without a Jacobian."""
        return self.root == "gmres" or (self.root == "auto" and size > self.dense)

    def attach(self, term: Bound, t: Time, z: Tensor, args: Any, systems: Systems) -> Tensor:
        """The root ``z`` ``(rows, size)`` with its derivatives to all that the field reads.

        Raises:
            RuntimeError: the Jacobian is singular there.
        """
        z = z.detach()

        def rate(z: Tensor) -> Tensor:
            return systems.flat(term.rate(t, systems.state(z), args))

        if self.free(systems.size):
            value, known = rate(z), Known(term, t, z, args, systems)
            rtol = torch.finfo(z.dtype).eps ** 0.75 if self.rtol is None else self.rtol

            def corrected(z: Tensor, value: Tensor) -> Tensor:
                return z - _Linear.apply(value, known.forth, known.back, rtol)  # pyright: ignore[reportOperatorIssue]
        else:
            value, jacobian = linearize(term, t, z, args, systems, graph="value")
            factors = factor(jacobian, term.stats)

            def corrected(z: Tensor, value: Tensor) -> Tensor:
                return z - solve(factors, value)

        if not (value.requires_grad or transforming()):
            return z
        once = corrected(z, value)
        if not bool(torch.isfinite(once.detach()).all()):
            raise RuntimeError(
                "The Jacobian df/dy is singular at the steady state: it is no isolated root, and has no derivative. "
                "Solve under torch.no_grad(), or take out what the equations leave free, such as a conserved sum."
            )
        return corrected(once, rate(once))


class Known:
    """Products with the Jacobian at one point, as numbers.

    Args:
        term: the term.
        t: the time.
        z: ``(rows, size)``, the point.
        args: handed to the field.
        systems: of the state.
    """

    def __init__(self, term: Bound, t: Time, z: Tensor, args: Any, systems: Systems) -> None:
        self.products = None if transforming() else products(term, [t], [z], args, systems)
        if self.products is None:
            inputs = find(term.term, args)
            self.z, plain = unwrapped(z), [unwrapped(x) for x in inputs.tensors]

            def rate(z: Tensor) -> Tensor:
                with inputs.replaced(plain) as own:
                    return systems.flat(term.rate(t, systems.state(z), own))

            self.rate = rate

    def forth(self, v: Tensor) -> Tensor:
        """``J v``."""
        if self.products is not None:
            return self.products.forth(v.unsqueeze(1))[:, 0]
        return torch.func.jvp(self.rate, (self.z,), (v,))[1]  # pyright: ignore[reportReturnType]

    def back(self, v: Tensor) -> Tensor:
        """``J^T v``."""
        if self.products is not None:
            return self.products.back(v.unsqueeze(1))[:, 0]
        return torch.func.vjp(self.rate, self.z)[1](v)[0]  # pyright: ignore[reportCallIssue]


def unwrapped(x: Tensor) -> Tensor:
    """The values of a tensor inside derivatives of torch.func."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    with temporarily_clear_interpreter_stack():  # a level would wrap what it sees
        return x.detach()


def restarted(apply: Product, b: Tensor, rtol: float) -> Tensor:
    """``apply(x) = b`` by GMRES, begun anew until the residual is small.

    Raises:
        RuntimeError: it does not become so.
    """
    x, left = torch.zeros_like(b), b
    size = torch.linalg.vector_norm(b, dim=1)
    for _ in range(RESTARTS):
        x = x + gmres(apply, left, rtol=rtol)
        left = b - apply(x)
        if bool((torch.linalg.vector_norm(left, dim=1) <= 10 * rtol * size).all()):
            return x
    missed = float((torch.linalg.vector_norm(left, dim=1) / size).nan_to_num(float("inf")).max())
    raise RuntimeError(
        f"GMRES left {missed:.1e} of the right side of an equation with the Jacobian of {b.shape[1]} unknowns; "
        f'{10 * rtol:.1e} was asked. Pass gradient=Implicit(root="lu"), or a larger rtol.'
    )


class _Linear(torch.autograd.Function):
    """``J^-1 b`` for a constant ``J``, of which products are known; every derivative of it is such a solution again."""

    @staticmethod
    def forward(b: Tensor, forth: Product, back: Product, rtol: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return restarted(forth, b, rtol)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.known = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        forth, back, rtol = ctx.known
        return _Linear.apply(g, back, forth, rtol), None, None, None  # pyright: ignore[reportReturnType]

    @staticmethod
    def jvp(ctx: Any, v: Tensor, *_: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Linear.apply(v, *ctx.known)  # pyright: ignore[reportReturnType]

    @staticmethod
    def vmap(info: Any, dims: Any, b: Tensor, *known: Any) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.stack([_Linear.apply(x, *known) for x in b.unbind(dims[0])]), 0  # pyright: ignore[reportArgumentType]
