"""Rosenbrock methods: stiff steps that solve linear systems and iterate nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathline._forward import constant, recording
from pathline.solvers.base import Memory, Weights, sparse, spread
from pathline.solvers.curves import Curve
from pathline.solvers.jacobians import Systems, linearize, split, transforming
from pathline.solvers.linear import factor, solve

if TYPE_CHECKING:
    from pathline.terms import Bound, Time


@dataclass(frozen=True)
class Coefficients:
    """A Rosenbrock method in the form without products with the Jacobian (Hairer and Wanner, IV.7).

    ``(1 / (h gamma) I - J) u_i = f(t0 + c_i h, y0 + sum_j a_ij u_j) + sum_j b_ij u_j / h + d_i h df/dt``

    Attributes:
        name: in the registry.
        order: of the solution.
        embedded_order: of the second solution.
        gamma: on the diagonal.
        a, b: strictly lower triangular.
        c: the nodes.
        d: the row sums of gamma.
        weights: ``y1 = y0 + sum m_i u_i``.
        errors: weights of the error estimate.
        dense: ``(degree, stages)``, weights of the powers of theta.
        dense_order: of the dense output.
        stiffly_accurate: whether stiff components are damped like the last stage.
        source: where it is printed.
    """

    name: str
    order: int
    embedded_order: int
    gamma: float
    a: Sequence[Sequence[float]]
    b: Sequence[Sequence[float]]
    c: Sequence[float]
    d: Sequence[float]
    weights: Sequence[float]
    errors: Sequence[float]
    dense: np.ndarray
    dense_order: int
    stiffly_accurate: bool
    source: str


class Rosenbrock:
    """A linearly implicit method: a Jacobian and a factorisation a step, a linear solve a stage.

    The Jacobian is that of the field at the start of the step, df/dt included; the gradient of a step is exact, which
    takes second derivatives of the field. *Maturing.*

    Args:
        coefficients: of the method.

    Example:
        >>> import torch, pathline
        >>> stiff = lambda t, y: -1e4 * (y - t.cos())
        >>> y1 = pathline.solve(
        ...     stiff, torch.zeros(1).double(), (0.0, 2.0), method="rodas5p", rtol=1e-6, atol=1e-8
        ... ).y1
        >>> bool((y1 - torch.tensor(2.0).double().cos()).abs() < 1e-3)
        True

    References:
        Hairer, Wanner (1996), Solving Ordinary Differential Equations II, IV.7 and VI.3.
    """

    needs = "rate"
    adaptive = True
    carries_slope = False
    implicit = True
    fsal = False

    def __init__(self, coefficients: Coefficients) -> None:
        self.coefficients = coefficients
        self.name = coefficients.name
        self.order, self.embedded_order = coefficients.order, coefficients.embedded_order
        self.dense_order, self.stiffly_accurate = coefficients.dense_order, coefficients.stiffly_accurate
        self.stages = len(coefficients.c)

    @cached_property
    def _rows(self) -> list[tuple[float, float, Weights, Weights]]:
        k = self.coefficients
        rows = zip(k.c, k.d, k.a, k.b, strict=True)
        return [(float(c), float(d), sparse(a), sparse(b)) for c, d, a, b in rows]

    @cached_property
    def _sums(self) -> tuple[Weights, Weights]:
        return sparse(self.coefficients.weights), sparse(self.coefficients.errors)

    @cached_property
    def _polynomial(self) -> Tensor:
        return constant(lambda: torch.from_numpy(self.coefficients.dense))

    def init(self, term: Bound, t0: Time, y0: Tensor, args: Any) -> None:
        """Each step begins with the slope and the Jacobian at its start: nothing is carried on."""
        return

    def step(self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, carry: Any) -> RosenbrockStep:
        """One step."""
        moving = isinstance(t1, Tensor) and t1.requires_grad
        graph = recording() and (y.requires_grad or moving or transforming())
        known = carry.tree if isinstance(carry, Memory) else None
        if known is not None and graph and not known[1].requires_grad:
            known = None
        step = self._made(term, t0, t1, y, args, known, graph=graph)
        if step.y1.requires_grad and not graph:  # the field reads what requires grad: then the Jacobian must show it
            step = self._made(term, t0, t1, y, args, None, graph=True)
        return step

    def _made(
        self, term: Bound, t0: Time, t1: Time, y: Tensor, args: Any, known: Any, *, graph: bool
    ) -> RosenbrockStep:
        systems = split(term, t0, y, args)
        if known is None:
            start = systems.flat(y)
            slope, jacobian = linearize(term, t0, start, args, systems, graph=graph)
            timeless = getattr(term.term, "takes", None) == 1
            drift = None if timeless else _drift(term, t0, start, args, systems, graph=graph)
            known = tuple(None if x is None else _wide(x) for x in (slope, jacobian, drift))
        slope, jacobian, drift = known
        z = _wide(systems.flat(y))
        h = spread(t1 - t0, z)
        eye = torch.eye(systems.size, dtype=z.dtype, device=z.device)
        factors = factor(eye / _square(h * self.coefficients.gamma) - jacobian, term.stats)
        us: list[Tensor] = []
        for c, d, a, b in self._rows:
            if us:
                state = systems.state(_plus(z, a, us)).to(y.dtype)
                slope = _wide(systems.flat(term.rate(t1 if c == 1.0 else t0 + c * (t1 - t0), state, args)))
            right = slope if not b else slope + _plus(None, b, us) / h
            if drift is not None and d:
                right = right + (h * d) * drift
            us.append(solve(factors, right))
        weights, errors = self._sums
        y1 = systems.state(_plus(z, weights, us)).to(y.dtype)
        return RosenbrockStep(self, systems, known, t0, t1, y, us, y1, errors)


class RosenbrockStep(Curve):
    """One step and its dense output."""

    carry = None

    def __init__(
        self,
        solver: Rosenbrock,
        systems: Systems,
        known: tuple[Tensor, Tensor, Tensor | None],
        t0: Time,
        t1: Time,
        y0: Tensor,
        us: list[Tensor],
        y1: Tensor,
        errors: Weights,
    ) -> None:
        self.solver, self.systems, self.t0, self.t1, self.y0, self.us = solver, systems, t0, t1, y0, us
        self.jacobian, self.y1 = known[1].detach(), y1
        self.retry = Memory(known)  # a shorter step begins with the same derivatives
        with torch.no_grad():
            self.error = systems.state(_plus(None, errors, us)).to(y0.dtype)

    def polynomial(self) -> Tensor:
        """``(degree + 1, *state)``: powers of theta."""
        stages = torch.stack(self.us)
        matrix = self.solver._polynomial.to(stages)
        products = (matrix @ stages.reshape(len(stages), -1)).reshape(len(matrix), *stages.shape[1:])
        return torch.stack([self.y0, *(self.systems.state(p).to(self.y0.dtype) for p in products.unbind())])

    def part(self, index: Tensor) -> Curve:
        """The step of some of its rows."""
        part = copy.copy(self)
        part.y0, part.us = self.y0[index], [u[index] for u in self.us]
        return part


def _plus(z: Tensor | None, weights: Weights, us: Sequence[Tensor]) -> Tensor:
    """``z + sum w u``."""
    for i, w in weights:
        z = us[i] * w if z is None else torch.add(z, us[i], alpha=w)
    assert z is not None
    return z


def _wide(x: Tensor) -> Tensor:
    """At least single precision: the stages cancel to a hundredth of their size."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _square(h: Any) -> Any:
    """A step a row as something that divides matrices."""
    return h.unsqueeze(-1) if isinstance(h, Tensor) and h.dim() else h


# --- derivatives -------------------------------------------------------------------------------------------------


def _drift(term: Bound, t: Time, z: Tensor, args: Any, systems: Systems, *, graph: bool) -> Tensor | None:
    """``df/dt`` as the derivative of ``<w, df/dt>``, which one pull-back gives, with respect to ``w``.

    None where the field does not read the time.
    """
    y = systems.state(z)
    s = torch.as_tensor(t, dtype=torch.float64)

    def rate(s: Tensor) -> Tensor:
        return systems.flat(term.rate(s, y, args))

    if transforming():
        value, pull = torch.func.vjp(rate, s)  # pyright: ignore[reportAssignmentType]
        _, push = torch.func.vjp(lambda w: pull(w)[0], torch.zeros_like(value))  # pyright: ignore[reportAssignmentType]
        return push(torch.ones_like(s))[0]
    with torch.inference_mode(False), torch.enable_grad():
        s = _watched(s, z, graph=graph)
        value = rate(s)
        if not value.requires_grad:
            return None
        w = torch.zeros_like(value, requires_grad=True)
        if graph and z.requires_grad:  # for a leaf, autograd would walk through the graph of all steps before
            w = torch.where(torch.zeros_like(value, dtype=torch.bool), z.to(value.dtype), 0.0)
        (pulled,) = torch.autograd.grad(value, s, w, create_graph=True, allow_unused=True)
        if pulled is None or not pulled.requires_grad:
            return None
        (drift,) = torch.autograd.grad(pulled.sum(), w, create_graph=graph, allow_unused=True)
    return drift


def _watched(t: Tensor, z: Tensor, *, graph: bool) -> Tensor:
    """The time as a tensor to differentiate by.

    Where a graph is kept it hangs on the state, whose part in it is zero: a leaf made here would be taken for an input
    of the field.
    """
    if t.is_inference():
        return t.clone().requires_grad_()
    if not graph or not z.numel() or not (t.requires_grad or z.requires_grad):
        return t.detach().requires_grad_()
    if t.requires_grad:
        return t
    anchor = z[:, 0] if t.dim() else z[0, 0]
    return torch.where(torch.zeros_like(t, dtype=torch.bool), anchor.to(t.dtype), t)


# --- methods -----------------------------------------------------------------------------------------------------


def _lower(*rows: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    return ((), *(tuple(row) for row in rows))


def _stiffly_accurate(
    a: Sequence[Sequence[float]], corrections: int
) -> tuple[list[Sequence[float]], list[float], list[float]]:
    """Rows of ``a``, weights and error weights where the last stages each add a correction to the one before.

    The last stage is evaluated at the embedded solution, and its ``u`` is the error estimate.
    """
    rows = [*a, *((*a[-1], *[1.0] * i) for i in range(1, corrections))]
    weights = [*a[-1], *[1.0] * corrections]
    return rows, weights, [0.0] * (len(weights) - 1) + [1.0]


def _between(weights: Sequence[float], *rows: Sequence[float]) -> np.ndarray:
    """``theta m + theta (1 - theta) (r_1 + theta r_2 + ...)`` in powers of theta, one column a stage."""
    degree, n = len(rows) + 1, len(weights)
    out = np.zeros((degree, n))
    out[0] = weights
    for power, row in enumerate(rows):
        padded = np.array([*row, *[0.0] * (n - len(row))])
        out[power] += padded
        out[power + 1] -= padded
    return out


def _from_print(
    name: str,
    order: int,
    embedded_order: int,
    gamma: Sequence[Sequence[float]],
    alpha: Sequence[Sequence[float]],
    weights: Sequence[float],
    errors: Sequence[float],
    dense: Sequence[Sequence[float]],
    **more: Any,
) -> Coefficients:
    """A method printed with ``J k`` in its stages, in the form without: ``u = h Gamma k``."""
    g, a = np.array(gamma), np.array(alpha)
    inverse = np.linalg.inv(g)
    products = np.diag(1.0 / np.diag(g)) - inverse
    n = len(g)
    return Coefficients(
        name=name,
        order=order,
        embedded_order=embedded_order,
        gamma=float(g[0, 0]),
        a=[(a @ inverse)[i, :i].tolist() for i in range(n)],
        b=[products[i, :i].tolist() for i in range(n)],
        c=a.sum(1).tolist(),
        d=[0.0 if abs(x) < 1e-14 else float(x) for x in g.sum(1)],
        weights=(np.array(weights) @ inverse).tolist(),
        errors=(np.array(errors) @ inverse).tolist(),
        dense=np.array(dense) @ inverse,
        **more,
    )


def _rosenbrock23() -> Coefficients:
    d = 1.0 / (2.0 + 2.0**0.5)
    e = 6.0 + 2.0**0.5
    s = 1.0 / (1.0 - 2.0 * d)
    return _from_print(
        "rosenbrock23",
        2,
        2,
        gamma=((d, 0.0, 0.0), (-d, d, 0.0), (d * (e - 2.0), -d * e, d)),
        alpha=((0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 1.0, 0.0)),
        weights=(0.0, 1.0, 0.0),
        errors=(1 / 6, -1 / 3, 1 / 6),
        dense=((s, -2.0 * d * s, 0.0), (-s, s, 0.0)),
        dense_order=2,
        stiffly_accurate=False,
        source="Shampine and Reichelt (1997), The MATLAB ODE suite, section 3",
    )


def _rodas4() -> Coefficients:
    a = _lower(
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950),
    )
    rows, weights, errors = _stiffly_accurate(a, 2)
    return Coefficients(
        name="rodas4",
        order=4,
        embedded_order=3,
        gamma=0.25,
        a=rows,
        b=_lower(
            (-5.6688,),
            (-2.430093356833875, -0.2063599157091915),
            (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
            (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
            (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
        ),
        c=(0.0, 0.386, 0.21, 0.63, 1.0, 1.0),
        d=(0.25, -0.1043, 0.1035, -0.03620000000000023, 0.0, 0.0),
        weights=weights,
        errors=errors,
        dense=_between(
            weights,
            (10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823, 1.025137723295662),
            (-0.6762803392806898, 6.087714651680015, 16.43084320892478, 24.76722511418386, -6.594389125716872),
        ),
        dense_order=3,
        stiffly_accurate=True,
        source="Hairer and Wanner (1996), Solving Ordinary Differential Equations II, VI.4 (RODAS)",
    )


def _rodas5p() -> Coefficients:
    a = _lower(
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946),
    )
    rows, weights, errors = _stiffly_accurate(a, 3)
    gamma = 0.21193756319429014
    return Coefficients(
        name="rodas5p",
        order=5,
        embedded_order=4,
        gamma=gamma,
        a=rows,
        b=_lower(
            (-14.155112264123755,),
            (-17.97296035885952, -2.859693295451294),
            (147.12150275711716, -1.41221402718213, 71.68940251302358),
            (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
            (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
            (
                30.91273214028599,
                -3.1208243349937974,
                77.79954646070892,
                34.28646028294783,
                -19.097331116725623,
                -28.087943162872662,
            ),
            (
                37.80277123390563,
                -3.2571969029072276,
                112.26918849496327,
                66.9347231244047,
                -40.06618937091002,
                -54.66780262877968,
                -9.48861652309627,
            ),
        ),
        c=(0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0),
        d=(gamma, -2.0 * gamma, -0.3384627126235924, 1.8046452872882734, 2.325825639765069, 0.0, 0.0, 0.0),
        weights=weights,
        errors=errors,
        dense=_between(
            weights,
            (
                25.948786856663858,
                -2.5579724845846235,
                10.433815404888879,
                -2.3679251022685204,
                0.524948541321073,
                1.1241088310450404,
                0.4272876194431874,
                -0.17202221070155493,
            ),
            (
                -9.91568850695171,
                -0.9689944594115154,
                3.0438037242978453,
                -24.495224566215796,
                20.176138334709044,
                15.98066361424651,
                -6.789040303419874,
                -6.710236069923372,
            ),
            (
                11.419903575922262,
                2.8879645146136994,
                72.92137995996029,
                80.12511834622643,
                -52.072871366152654,
                -59.78993625266729,
                -0.15582684282751913,
                4.883087185713722,
            ),
        ),
        dense_order=4,
        stiffly_accurate=True,
        source="Steinebach (2023), Construction of Rosenbrock-Wanner method Rodas5P",
    )


#: The Rosenbrock methods of the registry.
ROSENBROCK = {k.name: Rosenbrock(k) for k in (_rosenbrock23(), _rodas4(), _rodas5p())}
