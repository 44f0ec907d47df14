"""The stage equations of implicit methods, and what Newton's method needs of them.

The equations are ``Z_i = h sum_j a_ij f(t_j, base + Z_j)``. With one Jacobian ``J`` for all stages and
``a^-1 = T diag(lambda) T^-1`` the linear systems fall apart into ``(lambda / h - J) w = r``, one for each eigenvalue
(Hairer and Wanner (1996), Solving Ordinary Differential Equations II, IV.8).

Gradients come from the implicit function theorem. The iteration runs without a graph; to its result ``z`` two more
corrections are applied, ``z <- z - M^-1 G(z)``, with the exact, constant ``M = dG/dz`` and a differentiable ``G``. They
leave the value as it is; the first gives the derivative ``-M^-1 dG``, the second the second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline._forward import constant
from pathline.solvers.jacobians import Systems, linearize_all, products, repeated, transforming
from pathline.solvers.krylov import Products, Solved, gmres
from pathline.solvers.linear import Factors, factor, solve

if TYPE_CHECKING:
    from pathline.terms import Bound, Time


#: Up to so many unknowns of all stages together are solved for at once.
WHOLE = 12


@dataclass(frozen=True)
class Spectrum:
    """A Runge-Kutta matrix ``a``, and ``a^-1 = T diag(lambda) T^-1`` in real numbers.

    Attributes:
        a: ``(s, s)``.
    """

    a: np.ndarray

    @cached_property
    def inverse(self) -> np.ndarray:
        """``a^-1``."""
        return np.linalg.inv(self.a)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eig(self.inverse)
        values, vectors = values.astype(complex), vectors.astype(complex)
        real = np.abs(np.imag(values)) < 1e-9 * np.abs(values)
        order = [*np.flatnonzero(real), *np.flatnonzero(~real & (np.imag(values) > 0))]
        return values[order], vectors[:, order], np.linalg.inv(vectors)[order]

    @cached_property
    def values(self) -> list[float | complex]:
        """The real eigenvalues, then one of each conjugate pair."""
        return [v.real if v.imag == 0 or abs(v.imag) < 1e-9 * abs(v) else v for v in self._sorted[0].tolist()]

    @cached_property
    def forth(self) -> np.ndarray:
        """``T^-1``: a row for a real eigenvalue, two (real part, imaginary part) for a pair."""
        rows = zip(self.values, self._sorted[2], strict=True)
        return np.array([part for v, w in rows for part in ([w.real, w.imag] if isinstance(v, complex) else [w.real])])

    @cached_property
    def back(self) -> np.ndarray:
        """``T``: the columns that go with ``forth``; of a pair ``2 Re(v w)`` enters."""
        columns = zip(self.values, self._sorted[1].T, strict=True)
        parts = [p for v, w in columns for p in ([2 * w.real, -2 * w.imag] if isinstance(v, complex) else [w.real])]
        return np.array(parts).T

    @cached_property
    def first(self) -> np.ndarray:
        """``(s, 1)``: the eigenvector of the first eigenvalue, divided by both it and its first entry."""
        vector = self.back[:, :1]
        return vector / vector[0] / self.values[0].real

    def tensor(self, name: str, like: Tensor) -> Tensor:
        """One of the matrices, in the dtype and on the device of ``like``."""
        key = f"_{name}_{like.dtype}_{like.device}"
        found = self.__dict__.get(key)
        if found is None:
            matrix = getattr(self, name)
            found = constant(lambda: torch.tensor(matrix, dtype=like.dtype, device=like.device))
            self.__dict__[key] = found
        return found


@dataclass(frozen=True)
class Stages:
    """The equations ``Z_i = h sum_j a_ij f(t_j, base + Z_j)`` of one step.

    Attributes:
        times: of the stages, as `Bound.rate` takes them.
        base: ``(rows, size)``, the part of the stages that is known.
        h: the step: a number, a 0-d tensor, or ``(rows,)``.
        spectrum: of the matrix ``a``.
    """

    term: Bound
    times: Sequence[Time]
    base: Tensor
    h: Time
    spectrum: Spectrum
    args: Any
    systems: Systems

    @property
    def step(self) -> Any:
        """``h`` as something that multiplies ``(rows, stages, size)``."""
        if not isinstance(self.h, Tensor):
            return self.h
        h = self.h.to(device=self.base.device, dtype=self.base.dtype)
        return h.reshape(-1, 1, 1) if h.dim() else h

    @property
    def stages(self) -> int:
        """Their number."""
        return len(self.spectrum.a)

    def slopes(self, z: Tensor) -> Tensor:
        """``(rows, stages, size)``: the rates at the stages."""
        if len(self.times) == 1:
            return self._rate(self.term, self.times[0], self.base + z[:, 0]).unsqueeze(1)
        if self.term.per_sample and not self.term.notes.get("no copies"):
            try:
                return self._stacked(z)
            except (RuntimeError, ValueError):  # the field holds something of the batch's size
                self.term.notes["no copies"] = True
        return torch.stack([self._rate(self.term, t, self.base + z[:, i]) for i, t in enumerate(self.times)], 1)

    def _rate(self, term: Bound, t: Time, y: Tensor) -> Tensor:
        return self.systems.flat(term.rate(t, self.systems.state(y), self.args))

    def _stacked(self, z: Tensor) -> Tensor:
        """All stages in one call, as rows of their own: rows know nothing of each other on the per-sample clock."""
        y = (self.base.unsqueeze(1) + z).reshape(-1, z.shape[-1])
        term, times = self._repeated
        term.stats.evaluations += len(self.times) - 1
        return self._rate(term, times, y).reshape(z.shape)

    @property
    def _repeated(self) -> tuple[Bound, Tensor]:
        """Made anew each time: what the iterations made has no graph, and the last call of all needs one."""
        times = torch.stack([torch.as_tensor(t) for t in self.times], 1).reshape(-1)
        return repeated(self.term, len(self.base), len(self.times)), times

    def select(self, index: Tensor) -> Stages:
        """The equations of some rows, on the per-sample clock."""
        times = [t[index] if isinstance(t, Tensor) and t.dim() else t for t in self.times]
        h = self.h[index] if isinstance(self.h, Tensor) and self.h.dim() else self.h
        return replace(self, term=self.term.select(index), times=times, base=self.base[index], h=h)

    # --- simplified Newton

    @property
    def whole(self) -> bool:
        """Whether the few unknowns of all stages are solved for at once: one operation in place of a dozen."""
        return self.stages > 1 and self.stages * self.systems.size <= WHOLE

    def factorize(self, jacobian: Tensor, step: Any) -> list[Factors]:
        """What `correction` and `filtered` solve with, for a step."""
        stats = self.term.stats
        if self.whole:
            return [factor(self._matrix(jacobian.unsqueeze(1), step), stats)]
        return [factor(_shifted(jacobian, value, step), stats) for value in self.spectrum.values]

    def filtered(self, r: Tensor, factors: Sequence[Factors] | Free) -> Tensor:
        """``(lambda / h - J)^-1 r`` ``(rows, size)`` for the first eigenvalue, a real one."""
        if not r.numel():
            return r
        if isinstance(factors, Free):
            return factors.filtered(r)
        if not self.whole:
            return solve(factors[0], r)
        # With the eigenvector v, dG/dz (v w) = h / lambda (v r): the w of its first stage, where v is one.
        stretched = self.spectrum.tensor("first", r) * r.unsqueeze(1) * self.plain_step
        return applied(factors[0], stretched)[:, 0]

    def _matrix(self, jacobians: Tensor, step: Any) -> Tensor:
        """``dG/dz`` ``(rows, stages * size, stages * size)`` for the Jacobians ``(rows, stages or 1, size, size)``."""
        n, _, size, _ = jacobians.shape
        a = self.spectrum.tensor("a", jacobians)
        blocks = (step * a)[..., :, None, :, None] * jacobians.permute(0, 2, 1, 3)[:, None]
        unknowns = self.stages * size
        return torch.eye(unknowns, dtype=a.dtype, device=a.device) - blocks.reshape(n, unknowns, unknowns)

    def correction(self, z: Tensor, factors: Sequence[Factors] | Free) -> Tensor:
        """The Newton correction ``(rows, stages, size)`` for one kept Jacobian."""
        spectrum = self.spectrum
        if isinstance(factors, Free):
            return -factors.solve(self.residual(z, self.slopes(z)))
        if self.whole:
            return applied(factors[0], torch.baddbmm(z, self._weights, self.slopes(z), beta=-1))
        if self.stages == 1:
            residual = self.slopes(z)[:, 0] - z[:, 0] * (float(spectrum.inverse[0, 0]) / self._column)
            return solve(factors[0], residual).unsqueeze(1)
        residual = self.slopes(z) - torch.matmul(spectrum.tensor("inverse", z), z) / self.step
        parts = torch.matmul(spectrum.tensor("forth", z), residual).unbind(1)
        solved: list[Tensor] = []
        i = 0
        for value, lu in zip(spectrum.values, factors, strict=True):
            if isinstance(value, complex):
                w = solve(lu, torch.complex(parts[i], parts[i + 1]))
                solved += [w.real, w.imag]
                i += 2
            else:
                solved.append(solve(lu, parts[i]))
                i += 1
        return torch.matmul(spectrum.tensor("back", z), torch.stack(solved, 1))

    @property
    def _column(self) -> Any:
        step = self.step
        return step[:, 0] if isinstance(step, Tensor) and step.dim() else step

    # --- exact Newton

    def exact(self, z: Tensor, *, graph: bool = False, free: bool = False) -> tuple[Tensor, Factors | Free | None]:
        """The residual ``G(z)`` and the factors of the exact ``dG/dz`` at ``z``; None where G has no graph."""
        states = [self.base + z[:, i] for i in range(self.stages)]
        if free:
            residual = self.residual(z, self.slopes(z))
            if graph and not residual.requires_grad:
                return residual, None
            known = products(self.term, self.times, [x.detach() for x in states], self.args, self.systems)
            return residual, Free(self, known, torch.finfo(z.dtype).eps ** 0.8)
        keep: bool | str = "value" if graph else False
        rates, jacobians = linearize_all(self.term, self.times, states, self.args, self.systems, graph=keep)
        slopes = torch.stack(rates, 1)
        residual = self.residual(z, slopes)
        if graph and not (residual.requires_grad or transforming()):
            return residual, None
        with torch.no_grad():
            return residual, factor(self._matrix(torch.stack(jacobians, 1), self.plain_step), self.term.stats)

    @cached_property
    def _weights(self) -> Tensor:
        """``h a`` ``(rows, stages, stages)``, without a graph."""
        weights = self.plain_step * self.spectrum.tensor("a", self.base)
        return weights.expand(len(self.base), -1, -1)

    @property
    def plain_step(self) -> Any:
        """The step, without a graph."""
        return self.step.detach() if isinstance(self.step, Tensor) else self.step

    def residual(self, z: Tensor, slopes: Tensor) -> Tensor:
        """``Z - h a f``, zero at the solution."""
        if self.stages == 1:
            return z - slopes * (self.step * float(self.spectrum.a[0, 0]))
        return z - self.step * torch.matmul(self.spectrum.tensor("a", z), slopes)


class Free:
    """In place of factors: solutions by GMRES, from products with the Jacobians.

    Args:
        stages: the equations.
        known: products with one Jacobian, or with one for each stage.
        rtol: how small the residuals of the linear systems are to be.
    """

    def __init__(self, stages: Stages, known: Products, rtol: float) -> None:
        self.stages, self.known, self.rtol = stages, known, rtol

    def solve(self, g: Tensor) -> Tensor:
        """``(dG/dz)^-1 g``, differentiable in ``g``."""
        return Solved.apply(g, self._forth, self._back, self.rtol)  # pyright: ignore[reportReturnType]

    def filtered(self, r: Tensor) -> Tensor:
        """``(lambda / h - J)^-1 r`` for the first eigenvalue, a real one."""
        shift = self.stages.spectrum.values[0].real / self.stages.plain_step
        return gmres(lambda v: shift * v - self.known.forth(v), r.unsqueeze(1), rtol=self.rtol)[:, 0]

    def _forth(self, v: Tensor) -> Tensor:
        step, a = self.stages.plain_step, self.stages.spectrum.tensor("a", v)
        return v - step * torch.matmul(a, self.known.forth(v))

    def _back(self, v: Tensor) -> Tensor:
        step, a = self.stages.plain_step, self.stages.spectrum.tensor("a", v)
        return v - self.known.back(step * torch.matmul(a.T, v))


def applied(factors: Factors | Free, g: Tensor) -> Tensor:
    """``(dG/dz)^-1 g`` ``(rows, stages, size)``."""
    if isinstance(factors, Free):
        return factors.solve(g)
    return solve(factors, g.reshape(len(g), -1)).reshape(g.shape)


def _shifted(jacobian: Tensor, value: float | complex, step: Any) -> Tensor:
    """``value / h - J``."""
    matrix = torch.complex(-jacobian, torch.zeros_like(jacobian)) if isinstance(value, complex) else -jacobian
    shift = value / step
    matrix.diagonal(dim1=-2, dim2=-1).add_(shift.squeeze(-1) if isinstance(shift, Tensor) and shift.dim() else shift)
    return matrix


def attach(stages: Stages, z: Tensor, *, free: bool = False) -> Tensor:
    """The solution ``z`` of the equations, with first and second derivatives to all that they depend on."""
    z = z.detach()
    g, factors = stages.exact(z, graph=True, free=free)
    if factors is None:
        return z
    z = z - applied(factors, g)
    return z - applied(factors, stages.residual(z, stages.slopes(z)))
