"""One catalogue of initial value problems, for the tests and for the benchmarks.

Every problem knows its answer: a closed form where there is one, otherwise a state at the end of its span that
`python -m benchmarks.references` computed with an independent solver and stored in `references.json`. Stiff problems know it at several times: their end alone is often an equilibrium, which says
little about the way there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from pathline.testing.problems import (
    LINEAR,
    NON_AUTONOMOUS,
    NONLINEAR,
    ORDER_PROBLEMS,
    Curve,
    Problem,
    Rate,
    kepler,
    kepler_orbit,
)

__all__ = [
    "CLASSICS",
    "ENRIGHT_PRYCE",
    "LINEAR",
    "NONLINEAR",
    "NON_AUTONOMOUS",
    "ORDER_PROBLEMS",
    "PLEIADES",
    "PROBLEMS",
    "STIFF",
    "Problem",
]

REFERENCES = Path(__file__).with_name("references.json")


@cache
def _references() -> dict[str, dict[str, list[list[float]]]]:
    return json.loads(REFERENCES.read_text())["problems"]


def _stored(name: str) -> Callable[[], Sequence[Sequence[float]]]:
    return lambda: _references()[name]["rows"]


# --- classics ---------------------------------------------------------------------------------------------------------


def _lotka_volterra(t: Tensor, y: Tensor) -> Tensor:
    prey, predator = y.unbind(-1)
    return torch.stack((1.1 * prey - 0.4 * prey * predator, 0.1 * prey * predator - 0.4 * predator), -1)


def _van_der_pol(mu: float) -> Rate:
    def rate(t: Tensor, y: Tensor) -> Tensor:
        u, v = y.unbind(-1)
        return torch.stack((v, mu * (1.0 - u * u) * v - u), -1)

    return rate


def _classic(name: str, rate: Rate, y0: tuple[float, ...], end: float, stiffness: float, *tags: str) -> Problem:
    every = frozenset({"nonlinear", "autonomous", *tags})
    return Problem(name, rate, y0, (0.0, end), reference=_stored(name), stiffness=stiffness, tags=every)


LOTKA_VOLTERRA = _classic("Lotka-Volterra", _lotka_volterra, (10.0, 10.0), 20.0, 4.0)
VAN_DER_POL = _classic("van der Pol, mu=2", _van_der_pol(2.0), (2.0, 0.0), 20.0, 8.0)
VAN_DER_POL_25 = _classic("van der Pol, mu=25", _van_der_pol(25.0), (2.0, 0.0), 40.0, 75.0, "stiff")
CLASSICS: tuple[Problem, ...] = (LOTKA_VOLTERRA, VAN_DER_POL, VAN_DER_POL_25)


# --- the 25 non-stiff problems of Hull, Enright, Fellen and Sedgwick (1972), numbered as by Enright and Pryce (1987) --


def _a1(t: Tensor, y: Tensor) -> Tensor:
    return -y


def _a2(t: Tensor, y: Tensor) -> Tensor:
    return -0.5 * y**3


def _a3(t: Tensor, y: Tensor) -> Tensor:
    return y * torch.cos(t)


def _a4(t: Tensor, y: Tensor) -> Tensor:
    return 0.25 * y * (1.0 - y / 20.0)


def _a5(t: Tensor, y: Tensor) -> Tensor:
    return (y - t) / (y + t)


def _b1(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    return torch.stack((2.0 * (u - u * v), -(v - u * v)), -1)


def _b2(t: Tensor, y: Tensor) -> Tensor:
    u, v, w = y.unbind(-1)
    return torch.stack((-u + v, u - 2.0 * v + w, v - w), -1)


def _b3(t: Tensor, y: Tensor) -> Tensor:
    u, v, _ = y.unbind(-1)
    return torch.stack((-u, u - v * v, v * v), -1)


def _b4(t: Tensor, y: Tensor) -> Tensor:
    u, v, w = y.unbind(-1)
    radius = torch.sqrt(u * u + v * v)
    return torch.stack((-v - u * w / radius, u - v * w / radius, u / radius), -1)


def _b5(t: Tensor, y: Tensor) -> Tensor:
    u, v, w = y.unbind(-1)
    return torch.stack((v * w, -u * w, -0.51 * u * v), -1)


def _c1(t: Tensor, y: Tensor) -> Tensor:
    decay = torch.cat((y[..., :9], torch.zeros_like(y[..., :1])), -1)
    return torch.cat((torch.zeros_like(y[..., :1]), y[..., :9]), -1) - decay


def _c2(t: Tensor, y: Tensor) -> Tensor:
    flow = y[..., :9] * torch.arange(1, 10, dtype=y.dtype)
    zero = torch.zeros_like(y[..., :1])
    return torch.cat((zero, flow), -1) - torch.cat((flow, zero), -1)


def _heat(t: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(y[..., :1])
    return torch.cat((zero, y[..., :-1]), -1) - 2.0 * y + torch.cat((y[..., 1:], zero), -1)


SUN = 1.00000597682
PLANETS = (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778)
GRAVITY = 2.95912208286


def _c5(t: Tensor, y: Tensor) -> Tensor:
    x = y[..., :15].unflatten(-1, (5, 3))
    mass = torch.tensor(PLANETS, dtype=y.dtype)
    to_sun = x / x.square().sum(-1, keepdim=True) ** 1.5
    apart = x.unsqueeze(-3) - x.unsqueeze(-2)
    distance = apart.square().sum(-1, keepdim=True) + torch.eye(5, dtype=y.dtype).unsqueeze(-1)
    pull = apart / distance**1.5 - to_sun.unsqueeze(-3)
    others = 1.0 - torch.eye(5, dtype=y.dtype)
    indirect = torch.einsum("jk,...jkc->...jc", others * mass, pull)
    acceleration = GRAVITY * (indirect - (SUN + mass).unsqueeze(-1) * to_sun)
    return torch.cat((y[..., 15:], acceleration.flatten(-2)), -1)


def _e1(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    s = t + 1.0
    return torch.stack((v, -(v / s + (1.0 - 0.25 / (s * s)) * u)), -1)


def _e3(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unbind(-1)
    return torch.stack((v, u**3 / 6.0 - u + 2.0 * torch.sin(2.78535 * t)), -1)


def _e4(t: Tensor, y: Tensor) -> Tensor:
    _, v = y.unbind(-1)
    return torch.stack((v, 0.032 - 0.4 * v * v), -1)


def _e5(t: Tensor, y: Tensor) -> Tensor:
    _, v = y.unbind(-1)
    return torch.stack((v, torch.sqrt(1.0 + v * v) / (25.0 - t)), -1)


def _b2_exact(t: float) -> Sequence[float]:
    # the symmetric matrix has eigenvalues 0, -1, -3 with eigenvectors (1,1,1), (1,0,-1), (1,-2,1)
    slow, fast = 0.5 * math.exp(-t), 0.5 * math.exp(-3.0 * t)
    return 1.0 + slow + fast, 1.0 - 2.0 * fast, 1.0 - slow + fast


def _c1_exact(t: float) -> Sequence[float]:
    chain = [math.exp(-t) * t**i / math.factorial(i) for i in range(9)]
    return *chain, -math.expm1(-t) - sum(chain[1:])


def _c2_exact(t: float) -> Sequence[float]:
    # a linear death process run backwards: component i is geometric with parameter exp(-t)
    stay, leave = math.exp(-t), -math.expm1(-t)
    return *(stay * leave**i for i in range(9)), leave**9


def _heat_exact(n: int) -> Curve:
    angles = [math.pi * k / (n + 1) for k in range(1, n + 1)]

    def curve(t: float) -> Sequence[float]:
        weights = [2.0 / (n + 1) * math.sin(a) * math.exp(-4.0 * t * math.sin(0.5 * a) ** 2) for a in angles]
        return [math.fsum(w * math.sin(i * a) for w, a in zip(weights, angles, strict=True)) for i in range(1, n + 1)]

    return curve


def _e1_exact(t: float) -> Sequence[float]:
    s = t + 1.0
    scale = math.sqrt(2.0 / (math.pi * s))
    return scale * math.sin(s), scale * (math.cos(s) - 0.5 * math.sin(s) / s)


def _e4_exact(t: float) -> Sequence[float]:
    # y2 = v tanh(k t) with 0.4 v^2 = 0.032 and k = 0.4 v
    v = math.sqrt(0.08)
    return 30.0 + math.log(math.cosh(0.4 * v * t)) / 0.4, v * math.tanh(0.4 * v * t)


def _e5_exact(t: float) -> Sequence[float]:
    s = 25.0 - t
    return 12.5 * math.log(25.0 / s) - (625.0 - s * s) / 100.0, 0.5 * (25.0 / s - s / 25.0)


_PLANET_ROWS = (
    (3.42947415189, 3.35386959711, 1.35494901715),
    (6.64145542550, 5.97156957878, 2.18231499728),
    (11.2630437207, 14.6952576794, 6.27960525067),
    (-30.1552268759, 1.65699966404, 1.43785752721),
    (-21.1238353380, 28.4465098142, 15.3882659679),
    (-0.557160570446, 0.505696783289, 0.230578543901),
    (-0.415570776342, 0.365682722812, 0.169143213293),
    (-0.325325669158, 0.189706021964, 0.0877265322780),
    (-0.0240476254170, -0.287659532608, -0.117219543175),
    (-0.176860753121, -0.216393453025, -0.0148647893090),
)
_PLANETS_START = tuple(value for row in _PLANET_ROWS for value in row)


def _enright_pryce(
    name: str, rate: Rate, y0: Sequence[float], about: str, exact: Curve | None = None, stiffness: float = 1.0
) -> Problem:
    tags = frozenset({"enright-pryce", name[0]})
    return Problem(name, rate, tuple(y0), (0.0, 20.0), exact, _stored(name), stiffness, tags, about)


def _unit(n: int) -> tuple[float, ...]:
    return (1.0,) + (0.0,) * (n - 1)


def _orbit(name: str, e: float) -> Problem:
    start = (1.0 - e, 0.0, 0.0, math.sqrt((1.0 + e) / (1.0 - e)))
    return _enright_pryce(name, kepler, start, f"orbit of eccentricity {e}", kepler_orbit(e), (1.0 - e) ** -1.5)


ENRIGHT_PRYCE: tuple[Problem, ...] = (
    _enright_pryce("A1", _a1, (1.0,), "decay", lambda t: (math.exp(-t),)),
    _enright_pryce("A2", _a2, (1.0,), "a special case of the Riccati equation", lambda t: (1.0 / math.sqrt(1.0 + t),)),
    _enright_pryce("A3", _a3, (1.0,), "an oscillating rate", lambda t: (math.exp(math.sin(t)),)),
    _enright_pryce("A4", _a4, (1.0,), "the logistic curve", lambda t: (20.0 / (1.0 + 19.0 * math.exp(-0.25 * t)),)),
    _enright_pryce("A5", _a5, (4.0,), "a spiral curve"),
    _enright_pryce("B1", _b1, (1.0, 3.0), "two conflicting populations", stiffness=6.0),
    _enright_pryce("B2", _b2, (2.0, 0.0, 1.0), "a linear chemical reaction", _b2_exact, 3.0),
    _enright_pryce("B3", _b3, (1.0, 0.0, 0.0), "a nonlinear chemical reaction"),
    _enright_pryce("B4", _b4, (3.0, 0.0, 0.0), "a curve on a torus"),
    _enright_pryce("B5", _b5, (0.0, 1.0, 1.0), "Euler's equations of a free rigid body"),
    _enright_pryce("C1", _c1, _unit(10), "a radioactive decay chain", _c1_exact),
    _enright_pryce("C2", _c2, _unit(10), "a decay chain with growing rates", _c2_exact, 9.0),
    _enright_pryce("C3", _heat, _unit(10), "the heat equation on 10 points", _heat_exact(10), 4.0),
    _enright_pryce("C4", _heat, _unit(51), "the heat equation on 51 points", _heat_exact(51), 4.0),
    _enright_pryce("C5", _c5, _PLANETS_START, "the five outer planets about the sun"),
    _orbit("D1", 0.1),
    _orbit("D2", 0.3),
    _orbit("D3", 0.5),
    _orbit("D4", 0.7),
    _orbit("D5", 0.9),
    _enright_pryce("E1", _e1, _e1_exact(0.0), "Bessel's equation of order 1/2", _e1_exact),
    _enright_pryce("E2", _van_der_pol(1.0), (2.0, 0.0), "van der Pol's equation", stiffness=3.0),
    _enright_pryce("E3", _e3, (0.0, 0.0), "Duffing's equation"),
    _enright_pryce("E4", _e4, (30.0, 0.0), "a falling body", _e4_exact),
    _enright_pryce("E5", _e5, (0.0, 0.0), "a linear pursuit", _e5_exact),
)


# --- the Pleiades: seven stars in a plane, of masses 1 to 7 (Hairer, Norsett, Wanner 1993, II.10) ------------------------


def _pleiades(t: Tensor, y: Tensor) -> Tensor:
    place, velocity = y.unflatten(-1, (4, 7))[..., :2, :], y[..., 14:]
    apart = place.unsqueeze(-2) - place.unsqueeze(-1)  # (2, i, j): from star i to star j
    mass = torch.arange(1, 8, dtype=y.dtype)
    cube = (apart.square().sum(-3, keepdim=True) + torch.eye(7, dtype=y.dtype)) ** 1.5
    return torch.cat((velocity, (mass * apart / cube).sum(-1).flatten(-2)), -1)


_STARS = (
    (3.0, 3.0, -1.0, -3.0, 2.0, -2.0, 2.0),
    (3.0, -3.0, 2.0, 0.0, 0.0, -4.0, 4.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 1.75, -1.5),
    (0.0, 0.0, 0.0, -1.25, 1.0, 0.0, 0.0),
)
PLEIADES = Problem(
    name="Pleiades",
    field=_pleiades,
    y0=tuple(value for row in _STARS for value in row),
    span=(0.0, 3.0),
    reference=_stored("Pleiades"),
    stiffness=100.0,
    tags=frozenset({"nonlinear", "autonomous"}),
    about="seven stars in a plane, with close encounters",
)


# --- stiff problems (Hairer and Wanner 1996; Mazzia and Magherini, Test Set for IVP Solvers, 2008) ----------------------


def robertson(t: Tensor, y: Tensor, rates: Sequence[float | Tensor] = (0.04, 3e7, 1e4)) -> Tensor:
    """Robertson's reaction A -> B, 2 B -> B + C, B + C -> A + C; ``rates`` broadcast against the batch."""
    slow, fast, middle = rates
    a, b, c = y.unbind(-1)
    first, second, third = slow * a, fast * b * b, middle * b * c
    return torch.stack((third - first, first - third - second, second), -1)


def _van_der_pol_scaled(mu: float) -> Rate:
    """Van der Pol's equation in the slow time, with 1 / mu before the derivative of the second component."""

    def rate(t: Tensor, y: Tensor) -> Tensor:
        u, v = y.unbind(-1)
        return torch.stack((v, mu * ((1.0 - u * u) * v - u)), -1)

    return rate


def _hires(t: Tensor, y: Tensor) -> Tensor:
    y1, y2, y3, y4, y5, y6, y7, y8 = y.unbind(-1)
    bound = 280.0 * y6 * y8
    return torch.stack(
        (
            -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
            1.71 * y1 - 8.75 * y2,
            -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
            8.32 * y2 + 1.71 * y3 - 1.12 * y4,
            -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
            -bound + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
            bound - 1.81 * y7,
            -bound + 1.81 * y7,
        ),
        -1,
    )


def _oregonator(t: Tensor, y: Tensor) -> Tensor:
    u, v, w = y.unbind(-1)
    return torch.stack((77.27 * (v + u * (1.0 - 8.375e-6 * u - v)), (w - (1.0 + u) * v) / 77.27, 0.161 * (u - w)), -1)


# Air pollution over the Netherlands (Verwer 1994): rate constant, reactants, products; species are numbered from 1.
_REACTIONS: tuple[tuple[float, tuple[int, ...], tuple[int, ...]], ...] = (
    (0.35, (1,), (2, 3)),
    (26.6, (2, 4), (1,)),
    (1.23e4, (5, 2), (6, 1)),
    (8.6e-4, (7,), (5, 5, 8)),
    (8.2e-4, (7,), (8,)),
    (1.5e4, (7, 6), (5, 8)),
    (1.3e-4, (9,), (10, 5, 8)),
    (2.4e4, (9, 6), (11,)),
    (1.65e4, (11, 2), (10, 12, 1)),
    (9e3, (11, 1), (13,)),
    (0.022, (13,), (11, 1)),
    (1.2e4, (10, 2), (14, 1)),
    (1.88, (14,), (7, 5)),
    (1.63e4, (1, 6), (15,)),
    (4.8e6, (3,), (4,)),
    (3.5e-4, (4,), (16,)),
    (0.0175, (4,), (3,)),
    (1e8, (16,), (6, 6)),
    (4.44e11, (16,), (3,)),
    (1.24e3, (17, 6), (18, 5)),
    (2.1, (19,), (2,)),
    (5.78, (19,), (1, 3)),
    (0.0474, (1, 4), (19,)),
    (1.78e3, (19, 1), (20,)),
    (3.12, (20,), (19, 1)),
)


def _stoichiometry(species: int) -> Tensor:
    """``(reactions, species)``: what one event of each reaction adds."""
    change = torch.zeros(len(_REACTIONS), species, dtype=torch.float64)
    for row, (_, reactants, products) in zip(change, _REACTIONS, strict=True):
        for i in reactants:
            row[i - 1] -= 1.0
        for i in products:
            row[i - 1] += 1.0
    return change


def _pollution(t: Tensor, y: Tensor) -> Tensor:
    constants = torch.tensor([k for k, _, _ in _REACTIONS], dtype=y.dtype)
    first, second = (torch.tensor(column) for column in zip(*((*r, 21)[:2] for _, r, _ in _REACTIONS), strict=True))
    known = torch.cat((y, torch.ones_like(y[..., :1])), -1)  # a missing partner counts as one
    events = constants * known[..., first - 1] * known[..., second - 1]
    return events @ _stoichiometry(20).to(y.dtype)


def second_difference(y: Tensor, left: float, right: float) -> Tensor:
    """``(n + 1)^2 (y_(i-1) - 2 y_i + y_(i+1))`` with given values at both ends of the unit interval."""
    padded = torch.cat((torch.full_like(y[..., :1], left), y, torch.full_like(y[..., :1], right)), -1)
    return (y.shape[-1] + 1) ** 2 * (padded[..., :-2] - 2.0 * y + padded[..., 2:])


def _points(n: int) -> list[float]:
    return [i / (n + 1) for i in range(1, n + 1)]


def _heated(t: Tensor, y: Tensor) -> Tensor:
    x = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype) / (y.shape[-1] + 1)
    return second_difference(y, 0.0, 0.0) + 20.0 * torch.sin(math.pi * x) * torch.cos(5.0 * t)


def _heated_exact(n: int) -> Curve:
    """Sine modes of the difference equation: those of the start decay, the first one is driven."""
    x = torch.tensor(_points(n), dtype=torch.float64)
    k = torch.arange(1, n + 1, dtype=torch.float64)
    modes = torch.sin(math.pi * k[:, None] * x)
    decay = 4.0 * (n + 1) ** 2 * torch.sin(0.5 * math.pi * k / (n + 1)) ** 2
    start = 2.0 / (n + 1) * modes @ torch.tensor(_box(n), dtype=torch.float64)

    def curve(t: float) -> Sequence[float]:
        slow = float(decay[0])
        driven = slow * (math.cos(5.0 * t) - math.exp(-slow * t)) + 5.0 * math.sin(5.0 * t)
        amplitude = start * torch.exp(-decay * t)
        amplitude[0] += 20.0 * driven / (slow * slow + 25.0)
        return (amplitude @ modes).tolist()

    return curve


def _box(n: int) -> list[float]:
    """One in the middle half, zero outside: every mode is excited."""
    return [1.0 if 0.25 < x < 0.75 else 0.0 for x in _points(n)]


def _brusselator(t: Tensor, y: Tensor) -> Tensor:
    u, v = y.unflatten(-1, (2, -1)).unbind(-2)
    made = u * u * v
    du = 1.0 + made - 4.0 * u + 0.02 * second_difference(u, 1.0, 1.0)
    dv = 3.0 * u - made + 0.02 * second_difference(v, 3.0, 3.0)
    return torch.cat((du, dv), -1)


def _stiff(
    name: str,
    rate: Rate,
    y0: Sequence[float],
    times: tuple[float, ...],
    atol: float,
    stiffness: float,
    about: str,
    exact: Curve | None = None,
) -> Problem:
    return Problem(
        name=name,
        field=rate,
        y0=tuple(y0),
        span=(0.0, times[-1]),
        exact=exact,
        reference=_stored(name),
        times=times,
        atol=atol,
        stiffness=stiffness,
        tags=frozenset({"stiff", "nonlinear"} if exact is None else {"stiff"}),
        about=about,
    )


ROBERTSON = _stiff(
    "Robertson",
    robertson,
    (1.0, 0.0, 0.0),
    (*(0.4 * 10.0**k for k in range(11)), 1e11),
    1e-6,
    1e4,
    "three chemicals, rates over nine decades",
)
VAN_DER_POL_MILLION = _stiff(
    "van der Pol, mu=1e6",
    _van_der_pol_scaled(1e6),
    (2.0, 0.0),
    (0.5, 1.0, 1.5, 2.0),
    1e-4,
    3e6,
    "a relaxation oscillation in its slow time",
)
HIRES = _stiff(
    "HIRES",
    _hires,
    (*_unit(7), 0.0057),
    (1.0, 10.0, 100.0, 300.0, 321.8122),
    1e-4,
    300.0,
    "the response of a plant to light",
)
OREGONATOR = _stiff(
    "Oregonator",
    _oregonator,
    (1.0, 2.0, 3.0),
    (30.0, 90.0, 150.0, 210.0, 270.0, 330.0, 360.0),
    1e-4,
    1e5,
    "the Belousov-Zhabotinsky reaction",
)
_AIR = {2: 0.2, 4: 0.04, 7: 0.1, 8: 0.3, 9: 0.01, 17: 0.007}
POLLU = _stiff(
    "POLLU",
    _pollution,
    [_AIR.get(i, 0.0) for i in range(1, 21)],
    (0.1, 1.0, 10.0, 60.0),
    1e-4,
    4.4e11,
    "20 pollutants of the air, 25 reactions",
)
HEAT = _stiff(
    "heat, n=400",
    _heated,
    _box(400),
    (0.001, 0.01, 0.1, 0.5, 1.0),
    1e-2,
    6.4e5,
    "a rod with a jump at the start and a swinging source",
    _heated_exact(400),
)
BRUSSELATOR = _stiff(
    "Brusselator, n=200",
    _brusselator,
    [1.0 + math.sin(2.0 * math.pi * x) for x in _points(100)] + [3.0] * 100,
    (1.0, 3.0, 6.0, 10.0),
    1e-2,
    820.0,
    "two chemicals that react and diffuse on 100 points",
)
STIFF: tuple[Problem, ...] = (ROBERTSON, VAN_DER_POL_MILLION, HIRES, OREGONATOR, POLLU, HEAT, BRUSSELATOR)

PROBLEMS: dict[str, Problem] = {p.name: p for p in (*ORDER_PROBLEMS, *CLASSICS, *ENRIGHT_PRYCE, PLEIADES)}
