"""Roots of functions of one variable between two points of opposite sign: one, or a batch of them."""

from __future__ import annotations

import math
from collections.abc import Callable

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
