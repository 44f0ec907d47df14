"""Roots: between two points of opposite sign, one or a batch of them; and of systems of equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Bisection alone needs 64 halvings from any bracket to neighbouring floats of one sign; few roots need ten.
MOST = 200


def bracket(g: Callable[[float], float], a: float, b: float, ga: float, gb: float, tol: float) -> float:
    """A root of ``g`` between ``a`` and ``b``, by Chandrupatla's method.

    Inverse quadratic interpolation where the three last points say that it can be trusted, else bisection: it converges
    whatever ``g`` is.

    Args:
        g: a function of a float.
        a: one end.
        b: the other end, on either side.
        ga: the value at ``a``.
        gb: the value at ``b``, of the opposite sign unless one is zero.
        tol: how far the root may be missed; rounding sets a floor.

    Returns:
        The end of the last bracket at which ``|g|`` is smaller.

    Raises:
        ValueError: both values have the same sign, or one is NaN.

    Example:
        >>> round(bracket(lambda t: t * t - 2.0, 0.0, 2.0, -2.0, 2.0, 1e-12), 9)
        1.414213562

    References:
        Chandrupatla (1997), A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
        without using derivatives.
    """
    if not ga * gb <= 0:
        raise ValueError(
            f"A root is bracketed by values of opposite sign; they are {ga:g} at {a:g} and {gb:g} at {b:g}."
        )
    if ga == 0 or gb == 0:
        return a if ga == 0 else b
    part = 0.5
    for _ in range(MOST):
        x = a + part * (b - a)
        gx = g(x)
        if math.copysign(1.0, gx) == math.copysign(1.0, ga):
            c, gc = a, ga
        else:
            c, gc, b, gb = b, gb, a, ga
        a, ga = x, gx
        best, least = (a, abs(ga)) if abs(ga) < abs(gb) else (b, abs(gb))
        room = (tol + 4 * math.ulp(best)) / abs(b - a) if b != a else 1.0
        if least == 0 or room > 0.5:
            return best
        part = 0.5
        across, along = (ga - gb) / (gc - gb), (a - b) / (c - b)
        if across**2 < along and (1 - across) ** 2 < 1 - along:
            part = ga / (gb - ga) * gc / (gb - gc) + (c - a) / (b - a) * ga / (gc - ga) * gb / (gc - gb)
        part = min(max(part, room), 1 - room)
    return best  # pyright: ignore[reportPossiblyUnboundVariable]


def bracket_rows(
    g: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, ga: Tensor, gb: Tensor, tol: float | Tensor
) -> Tensor:
    """A root between ``a`` and ``b`` in every row, by Chandrupatla's method as in `bracket`.

    Args:
        g: ``(rows,) -> (rows,)``, each entry a function of its own; it is called with all rows until the last is done.
        a: ``(rows,)``, one end.
        b: ``(rows,)``, the other end.
        ga: ``(rows,)``, the values at ``a``.
        gb: ``(rows,)``, the values at ``b``, of the opposite sign unless one is zero.
        tol: how far a root may be missed.

    Returns:
        ``(rows,)``, without gradient.

    Raises:
        ValueError: in a row both values have the same sign, or one is NaN.

    Example:
        >>> two, zero = torch.tensor([2.0, 3.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        >>> bracket_rows(lambda t: t * t - two, zero, two, -two, two * two - two, 1e-10)
        tensor([1.4142, 1.7321], dtype=torch.float64)
    """
    with torch.no_grad():
        if not bool((ga * gb <= 0).all()):
            row = int((~(ga * gb <= 0)).nonzero()[0])
            raise ValueError(
                f"A root is bracketed by values of opposite sign; in row {row} they are {ga[row]:g} and {gb[row]:g}."
            )
        found = torch.where(ga == 0, a, b)
        done = (ga == 0) | (gb == 0)
        part = torch.full_like(a, 0.5)
        for _ in range(MOST):
            if bool(done.all()):
                break
            x = a + part * (b - a)
            gx = g(torch.where(done, found, x)).to(ga.dtype)
            same = torch.signbit(gx) == torch.signbit(ga)
            c, gc = torch.where(same, a, b), torch.where(same, ga, gb)
            b, gb = torch.where(same, b, a), torch.where(same, gb, ga)
            a, ga = x, gx
            nearer = ga.abs() < gb.abs()
            best, least = torch.where(nearer, a, b), torch.where(nearer, ga, gb).abs()
            room = (tol + 4 * torch.finfo(a.dtype).eps * best.abs()) / (b - a).abs()
            found = torch.where(done, found, best)
            done = done | (least == 0) | ~(room <= 0.5)
            across, along = (ga - gb) / (gc - gb), (a - b) / (c - b)
            trusted = (across**2 < along) & ((1 - across) ** 2 < 1 - along)
            curved = ga / (gb - ga) * gc / (gb - gc) + (c - a) / (b - a) * ga / (gc - ga) * gb / (gc - gb)
            part = torch.where(trusted, curved, 0.5).clamp(room.clamp(max=0.5), 1 - room.clamp(max=0.5))
        return found


# --- systems of equations ----------------------------------------------------------------------------------------

Residual = Callable[[Tensor], Tensor]
#: What a correction is measured by: ``(rows, size)`` of the unknowns.
Scale = Callable[[Tensor], Tensor]


@dataclass
class Root:
    """Where an iteration for ``g(z) = 0`` has come to.

    Attributes:
        z: ``(rows, size)``; each row is a system of its own.
        done: ``(rows,)``, which rows have converged: the root mean square of their last correction over its scale is at
            most one.
        finite: ``(rows,)``, which rows met finite numbers alone.
        iterations: how many were made.
    """

    z: Tensor
    done: Tensor
    finite: Tensor
    iterations: int = 0

    @classmethod
    def at(cls, z: Tensor) -> Root:
        """The start."""
        none = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        return cls(z, none, ~none)

    def moved(self, z: Tensor, size: Tensor, whole: Tensor | bool = True) -> bool:
        """Take ``z`` in the rows that still move; whether that was the last iteration."""
        self.iterations += 1
        self.finite &= self.done | torch.isfinite(z).all(1)
        live = (~self.done & self.finite).unsqueeze(1)
        self.z = torch.where(live, z, self.z)
        self.done |= self.finite & (size <= 1) & whole
        return bool((self.done | ~self.finite).all())


def scaled_size(dz: Tensor, scale: Tensor) -> Tensor:
    """``(rows,)``: the root mean square of a correction over its scale."""
    return torch.linalg.vector_norm(dz / scale, dim=1) / max(dz.shape[1], 1) ** 0.5


def newton(
    g: Residual,
    linear: Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]],
    z: Tensor,
    scale: Scale,
    *,
    most: int,
    least: float = 1e-4,
) -> Root:
    """Newton's method with the Jacobian of every iterate, in steps so short that the next correction shrinks.

    Args:
        g: ``(rows, size) -> (rows, size)``, which does not mix rows.
        linear: ``g(z)``, and the solution of linear systems with the Jacobian there.
        z: ``(rows, size)``, the start.
        scale: of corrections.
        most: iterations.
        least: the shortest part of a correction; 1 for whole corrections alone, which converge near a root.

    References:
        Deuflhard (2004), Newton Methods for Nonlinear Problems, 3.3: the natural monotonicity test.
    """
    root, part = Root.at(z), z.new_ones(len(z), 1)
    for _ in range(most):
        value, solve = linear(root.z)
        dz = -solve(value)
        wide = scale(root.z)
        size = scaled_size(dz, wide)
        part = (2 * part).clamp_max(1.0)
        trial, after = root.z, size
        while True:
            trial = root.z + part * dz
            after = scaled_size(solve(g(trial)), wide)
            worse = ~(after <= (1 - part[:, 0] / 4) * size) & (size > 1) & ~root.done & torch.isfinite(size)
            if not bool(worse.any()) or float(part[worse].min()) <= least:
                break
            part = torch.where(worse.unsqueeze(1), part / 2, part)
        root.finite &= root.done | ~worse  # a row that no part of its correction brings nearer stays where it is
        if root.moved(trial, torch.minimum(size, after), part[:, 0] == 1):
            break
    return root


def broyden(g: Residual, z: Tensor, scale: Scale, *, most: int, memory: int = 20, mixing: float = 1.0) -> Root:
    """Broyden's method: an inverse Jacobian learnt from the steps, with one value of ``g`` an iteration.

    Args:
        g: as in `newton`.
        z: the start.
        scale: of corrections.
        most: iterations.
        memory: updates that are kept; then it begins anew.
        mixing: the first correction is ``mixing * g``.

    References:
        Broyden (1965), A class of methods for solving nonlinear simultaneous equations.
        Li and Fukushima (2000), A derivative-free line search and global convergence of Broyden-like method.
    """
    root, value = Root.at(z), g(z)
    pairs: list[tuple[Tensor, Tensor]] = []

    def inverse(x: Tensor, forth: bool = True) -> Tensor:
        found = -mixing * x
        for u, v in pairs:
            a, b = (u, v) if forth else (v, u)
            found = found + a * (b * x).sum(1, keepdim=True)
        return found

    for k in range(most):
        dz = -inverse(value)
        part, size = torch.ones_like(dz[:, :1]), torch.linalg.vector_norm(value, dim=1)
        slack, after = 1 + 1 / (1 + k) ** 2, value
        for _ in range(8):
            after = g(root.z + part * dz)
            longer = ~(torch.linalg.vector_norm(after, dim=1) <= slack * size) & ~root.done
            if not bool(longer.any()):
                break
            part = torch.where(longer.unsqueeze(1), part / 2, part)
        step, rise = part * dz, after - value
        last = root.moved(root.z + step, scaled_size(dz, scale(root.z)), part[:, 0] == 1)
        value = torch.where(root.done.unsqueeze(1), value, after)
        if last:
            break
        learnt = inverse(rise)
        along = (step * learnt).sum(1, keepdim=True)
        fit = torch.where(along.abs() > torch.finfo(z.dtype).tiny, (step - learnt) / along, 0.0)
        back = inverse(step, forth=False)
        if len(pairs) == memory:
            pairs.clear()
        pairs.append((fit, back))
    return root


def anderson(
    g: Residual, z: Tensor, scale: Scale, *, most: int, memory: int = 5, mixing: float = 1.0, ridge: float = 1e-10
) -> Root:
    """Anderson's acceleration of the iteration ``z <- z + mixing * g(z)``.

    The corrections of the last iterations are combined so that the combined residual is least.

    Args:
        g: as in `newton`.
        z: the start.
        scale: of corrections.
        most: iterations.
        memory: iterations that are combined.
        mixing: of the iteration.
        ridge: relative, against columns that are nearly parallel.

    References:
        Anderson (1965), Iterative procedures for nonlinear integral equations.
        Walker and Ni (2011), Anderson acceleration for fixed-point iterations.
    """
    root = Root.at(z)
    steps: list[Tensor] = []
    rises: list[Tensor] = []
    last: tuple[Tensor, Tensor] | None = None
    for _ in range(most):
        value = g(root.z)
        if last is not None:
            steps, rises = [*steps, root.z - last[0]][-memory:], [*rises, value - last[1]][-memory:]
        last = root.z, value
        dz = mixing * value
        if steps:
            dr, ds = torch.stack(rises, 2), torch.stack(steps, 2)
            gram = dr.mT @ dr
            trace = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(torch.finfo(z.dtype).tiny)
            eye = torch.eye(len(steps), dtype=z.dtype, device=z.device)
            mix = torch.linalg.solve_ex(gram + ridge * trace[:, None, None] * eye, dr.mT @ value.unsqueeze(2))[0]
            dz = dz - ((ds + mixing * dr) @ mix).squeeze(2)
        if root.moved(root.z + dz, scaled_size(dz, scale(root.z))):
            break
    return root
