"""Tableaus of implicit Runge-Kutta methods, as the papers print them; letters stand for irrational numbers.

Rows read as in `pathline.tableaus`, with the diagonal, or all of the matrix, filled. Orders are derived from the same
rooted-tree conditions; numbers with square roots are floats, and a condition holds within ten digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product

import numpy as np

from pathline.tableaus import HIGHEST_ORDER, TOLERANCE, Row, _density, _stage_weights, order_of, rooted_trees

Letters = Mapping[str, float]


@dataclass(frozen=True)
class ImplicitTableau:
    """An implicit Runge-Kutta method: ``k_i = f(t0 + c_i h, y0 + h sum_j a_ij k_j)``, ``y1 = y0 + h sum_i b_i k_i``.

    Args:
        name: the name in the registry.
        a: ``(s, s)``; lower triangular where the stages are solved one after another.
        b: the weights that advance the solution.
        c: the nodes, each the sum of its row.
        embedded: weights of the solution that it is compared with; empty for a fixed-step method.
        filtered: whether the error estimate is divided by ``I - h gamma J``, so that it stays bounded where the step is
            long beside the fast time scales.
        source: where the numbers stand in print.

    Raises:
        ValueError: a row does not sum to its node.
    """

    name: str
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    embedded: np.ndarray | None = None
    filtered: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        for what, row, node in [
            *((f"stage {i + 1}", row, node) for i, (row, node) in enumerate(zip(self.a, self.c, strict=True))),
            ("weights", self.b, 1.0),
            *([] if self.embedded is None else [("embedded weights", self.embedded, 1.0)]),
        ]:
            if abs(row.sum() - node) > TOLERANCE:
                raise ValueError(
                    f"Tableau {self.name!r}: {what} sums to {row.sum()}, its node is {node}. "
                    "Compare the row with the printed one."
                )

    @property
    def stages(self) -> int:
        """Number of stages of a step."""
        return len(self.b)

    @property
    def diagonal(self) -> float:
        """The element that the diagonal repeats."""
        return float(self.a[-1, -1])

    @property
    def explicit_first(self) -> bool:
        """Whether the first stage is the slope at the start."""
        return not self.a[0].any()

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is the solution at the end."""
        return bool(np.array_equal(self.a[-1], self.b))

    @cached_property
    def damps(self) -> bool:
        """Whether a step that is long beside the fast time scales forgets them: R(z) -> 0 as z -> -infinity."""
        z = -1e9
        stages = np.linalg.solve(np.eye(self.stages) - z * self.a, np.ones(self.stages))
        return bool(abs(1 + z * (self.b @ stages)) < 1e-3)

    @cached_property
    def order(self) -> int:
        """Order of the weights that advance the solution."""
        return order_of(_exact(self.b), _rows(self.a))

    @cached_property
    def embedded_order(self) -> int | None:
        """Order q of the error estimate, which falls like h^(q + 1); None for a fixed-step method."""
        if self.embedded is None:
            return None
        return min(self.order, order_of(_exact(self.embedded), _rows(self.a)))

    @cached_property
    def dense(self) -> np.ndarray | None:
        """``(stages, degree)``, weights in powers of theta; None where the cubic through both ends is good enough.

        From order 5 on: the polynomials of degree 5 that satisfy the order conditions of order 4 for every theta, start
        and end with the slopes at both ends, and are the smallest that do.
        """
        if self.order < 5 or not (self.explicit_first and self.stiffly_accurate):
            return None
        return _continuous(self, 4, 5)

    @property
    def dense_order(self) -> int:
        """Order of the dense output."""
        return 3 if self.dense is None else 4


def _rows(a: np.ndarray) -> list[Row]:
    return [_exact(row) for row in a]


def _exact(row: np.ndarray) -> Row:
    return tuple(map(Fraction, row.tolist()))


def _continuous(tableau: ImplicitTableau, order: int, degree: int) -> np.ndarray:
    """Dense weights ``(stages, degree)`` of least squares among those that satisfy all conditions up to ``order``.

    The unknowns are the coefficients of theta, theta^2, ... for each stage: linear conditions, some of them redundant.
    """
    s, phi = tableau.stages, _stage_weights(tableau.a)
    trees = [tree for p in range(1, order + 1) for tree in rooted_trees(p)]
    sizes = [p for p in range(1, order + 1) for _ in rooted_trees(p)]
    conditions, values = [], []

    def condition(weights: np.ndarray, value: float) -> None:
        conditions.append(weights.reshape(-1))
        values.append(value)

    for tree, size in zip(trees, sizes, strict=True):
        for power in range(1, degree + 1):
            condition(np.outer(phi(tree), np.arange(1, degree + 1) == power), float(size == power) / _density(tree))
    for i in range(s):
        stage = np.arange(s) == i
        condition(np.outer(stage, np.ones(degree)), tableau.b[i])
        condition(np.outer(stage, np.arange(1, degree + 1) == 1), float(i == 0))
        condition(np.outer(stage, np.arange(1, degree + 1)), float(i == s - 1))
    weights, *_ = np.linalg.lstsq(np.array(conditions), np.array(values), rcond=1e-12)
    if np.abs(np.array(conditions) @ weights - values).max() > 1e-9:
        raise ValueError(f"Tableau {tableau.name!r} has no dense output of order {order} and degree {degree}.")
    return weights.reshape(s, degree)


# --- pairs of an implicit and an explicit method -----------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """An implicit and an explicit method with common nodes and weights, for the two parts of a `Sum`.

    Args:
        implicit: for the stiff part; also the name, and the embedded weights of both.
        explicit: ``(s, s)``, strictly lower triangular, for the other part.
    """

    implicit: ImplicitTableau
    explicit: np.ndarray

    def __post_init__(self) -> None:
        error = np.abs(self.explicit.sum(1) - self.implicit.c).max()
        if error > TOLERANCE:
            raise ValueError(f"Tableau {self.implicit.name!r}: the explicit rows miss their nodes by {error:.1e}.")

    @cached_property
    def order(self) -> int:
        """Order of the sum: the conditions of both methods, and all that couple them."""
        return self._order(self.implicit.b)

    @cached_property
    def embedded_order(self) -> int:
        """Order of the error estimate."""
        assert self.implicit.embedded is not None
        return min(self.order, self._order(self.implicit.embedded))

    def _order(self, b: np.ndarray) -> int:
        """Trees whose inner edges each carry one of the two matrices (Araujo, Murua and Sanz-Serna 1997)."""
        matrices = (self.implicit.a, self.explicit)
        for order in range(1, HIGHEST_ORDER):
            for tree in rooted_trees(order):
                for weights in _coloured(tree, matrices):
                    if abs(b @ weights - 1 / _density(tree)) > TOLERANCE:
                        return order - 1
        return HIGHEST_ORDER


def _coloured(tree: tuple, matrices: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """The elementary weights of every stage for each choice of a matrix on every edge."""
    found = []
    for children in product(*(_coloured(child, matrices) for child in tree)):
        for colours in product(matrices, repeat=len(children)):
            value = np.ones(len(matrices[0]))
            for a, phi in zip(colours, children, strict=True):
                value = value * (a @ phi)
            found.append(value)
    return found


# --- reading the printed form ------------------------------------------------------------------------------------


def printed(
    name: str, text: str, *, letters: Letters | None = None, filtered: bool = False, source: str = ""
) -> ImplicitTableau:
    """Read a tableau: lines ``c | a1 a2 ...``, then ``| b1 b2 ...`` and ``| embedded weights``.

    Args:
        name: the method's name.
        text: the lines; one without a bar continues the one before. A number is a fraction, a decimal or a letter, with
            its sign.
        letters: what the letters stand for.
        filtered: see `ImplicitTableau`.
        source: author, year, place.
    """
    lines: list[list[str]] = []
    for line in text.strip().splitlines():
        if "|" in line:
            lines.append(line.split("|"))
        else:
            lines[-1][1] += line
    known = letters or {}
    stages = [(node, row) for node, row in lines if node.strip()]
    weights = [_numbers(row, known) for node, row in lines if not node.strip()]
    a = np.zeros((len(stages), len(stages)))
    for i, (_, row) in enumerate(stages):
        numbers = _numbers(row, known)
        a[i, : len(numbers)] = numbers
    return ImplicitTableau(
        name=name,
        a=a,
        b=np.array(weights[0]),
        c=np.array([_numbers(node, known)[0] for node, _ in stages]),
        embedded=np.array(weights[1]) if len(weights) > 1 else None,
        filtered=filtered,
        source=source,
    )


def _numbers(text: str, letters: Letters) -> list[float]:
    return [_number(word, letters) for word in text.split()]


def _number(word: str, letters: Letters) -> float:
    sign, bare = (-1.0, word[1:]) if word.startswith("-") else (1.0, word)
    return sign * (letters[bare] if bare in letters else float(Fraction(bare)))


# --- one implicit stage after another ----------------------------------------------------------------------------

IMPLICIT_EULER = printed(
    "implicit_euler",
    """
    1 | 1
      | 1
    """,
    source="Cauchy (1824); Curtiss and Hirschfelder (1952), Integration of stiff equations",
)

IMPLICIT_MIDPOINT = printed(
    "implicit_midpoint",
    """
    1/2 | 1/2
        | 1
    """,
    source="Gauss's method with one stage: Butcher (1964), Implicit Runge-Kutta processes",
)

TRAPEZOID = printed(
    "trapezoid",
    """
    0 | 0
    1 | 1/2 1/2
      | 1/2 1/2
    """,
    source="Crank and Nicolson (1947), A practical method for numerical evaluation of solutions of partial "
    "differential equations of the heat-conduction type",
)


def _sdirk2() -> ImplicitTableau:
    """Alexander's method, with an error estimate of its own leading term.

    The estimate is a divided difference of the slopes over the nodes 0, g and 1. On y' = z y that is ``g z^3``, and the
    error of the method ``third z^3``.
    """
    g = 1 - math.sqrt(0.5)
    third = 1 / 6 - ((1 - g) * g * g + g * ((1 - g) * g + g))
    e = [third / g * d for d in (1 / g, -1 / (g * (1 - g)), 1 / (1 - g))]
    return printed(
        "sdirk2",
        """
        0 | 0
        g | 0   g
        1 | 0   1-g g
          | 0   1-g g
          | e0  e1  e2
        """,
        letters={"g": g, "1-g": 1 - g, "e0": e[0], "e1": 1 - g + e[1], "e2": g + e[2]},
        filtered=True,
        source="Alexander (1977), Diagonally implicit Runge-Kutta methods for stiff ODEs",
    )


SDIRK2 = _sdirk2()


def _trbdf2() -> ImplicitTableau:
    d, w = 1 - math.sqrt(0.5), math.sqrt(2) / 4
    return printed(
        "trbdf2",
        """
        0  | 0
        2d | d   d
        1  | w   w   d
           | w   w   d
           | e0  e1  e2
        """,
        letters={"d": d, "2d": 2 * d, "w": w, "e0": (1 - w) / 3, "e1": (3 * w + 1) / 3, "e2": d / 3},
        filtered=True,
        source="Bank et al. (1985), Transient simulation of silicon devices and circuits; the estimate by Hosea and "
        "Shampine (1996), Analysis and implementation of TR-BDF2",
    )


TRBDF2 = _trbdf2()

KVAERNO = "Kvaerno (2004), Singly diagonally implicit Runge-Kutta methods with an explicit first stage, BIT 44"


def _kvaerno3() -> ImplicitTableau:
    g = 0.435866521508459  # the root of x^3 - 3 x^2 + 3/2 x - 1/6 in between: L-stability
    for _ in range(3):
        g -= (g**3 - 3 * g**2 + 1.5 * g - 1 / 6) / (3 * g**2 - 6 * g + 1.5)
    return printed(
        "kvaerno3",
        """
        0  | 0
        2g | g   g
        1  | a31 a32 g
        1  | a41 a42 a43 g
           | a41 a42 a43 g
           | a31 a32 g   0
        """,
        letters={
            "g": g,
            "2g": 2 * g,
            "a31": (-4 * g**2 + 6 * g - 1) / (4 * g),
            "a32": (-2 * g + 1) / (4 * g),
            "a41": (6 * g - 1) / (12 * g),
            "a42": -1 / ((24 * g - 12) * g),
            "a43": (-6 * g**2 + 6 * g - 1) / (6 * g - 3),
        },
        source=KVAERNO + ", the pair 3(2)",
    )


KVAERNO3 = _kvaerno3()


def _kvaerno4() -> ImplicitTableau:
    g = 0.5728160625  # a root of x^4 - 4 x^3 + 3 x^2 - 2/3 x + 1/24: L-stability
    for _ in range(3):
        g -= float(np.polyval([1, -4, 3, -2 / 3, 1 / 24], g) / np.polyval([4, -12, 6, -2 / 3], g))

    def p(*coefficients: float) -> float:
        return float(np.polyval(coefficients, g))

    return printed(
        "kvaerno4",
        """
        0  | 0
        2g | g   g
        c3 | a31 a32 g
        1  | a41 a42 a43 g
        1  | a51 a52 a53 a54 g
           | a51 a52 a53 a54 g
           | a41 a42 a43 g   0
        """,
        letters={
            "g": g,
            "2g": 2 * g,
            "c3": (p(144, -180, 81, -15, 1) + p(-36, 39, -15, 2)) * g / p(12, -6, 1) ** 2 + g,
            "a31": p(144, -180, 81, -15, 1) * g / p(12, -6, 1) ** 2,
            "a32": p(-36, 39, -15, 2) * g / p(12, -6, 1) ** 2,
            "a41": p(-144, 396, -330, 117, -18, 1) / (12 * g**2 * p(12, -9, 2)),
            "a42": p(72, -126, 69, -15, 1) / (12 * g**2 * p(3, -1)),
            "a43": p(-6, 6, -1) * p(12, -6, 1) ** 2 / (12 * g**2 * p(12, -9, 2) * p(3, -1)),
            "a51": p(288, -312, 120, -18, 1) / (48 * g**2 * p(12, -9, 2)),
            "a52": p(24, -12, 1) / (48 * g**2 * p(3, -1)),
            "a53": -(p(12, -6, 1) ** 3) / (48 * g**2 * p(3, -1) * p(12, -9, 2) * p(6, -6, 1)),
            "a54": p(-24, 36, -12, 1) / p(24, -24, 4),
        },
        source=KVAERNO + ", the pair 4(3)",
    )


KVAERNO4 = _kvaerno4()

KVAERNO5 = printed(
    "kvaerno5",
    """
    0                   | 0
    0.52                | 0.26                0.26
    1.230333209967908   | 0.13                0.84033320996790809  0.26
    0.8957659843500759  | 0.22371961478320505 0.47675532319799699  -0.06470895363112615 0.26
    0.43639360985864756 | 0.16648564323248321 0.10450018841591720  0.03631482272098715 -0.13090704451073998 0.26
    1                   | 0.13855640231268224 0 -0.04245337201752043 0.02446657898003141 0.61943039072480676 0.26
    1                   | 0.13659751177640291 0 -0.05496908796538376 -0.04118626728321046 0.62993304899016403
                          0.06962479448202728 0.26
                        | 0.13659751177640291 0 -0.05496908796538376 -0.04118626728321046 0.62993304899016403
                          0.06962479448202728 0.26
                        | 0.13855640231268224 0 -0.04245337201752043 0.02446657898003141 0.61943039072480676 0.26 0
    """,
    source=KVAERNO + ", the pair 5(4)",
)

#: Methods whose stages are solved one after another, by name.
DIAGONAL: dict[str, ImplicitTableau] = {
    tableau.name: tableau
    for tableau in (IMPLICIT_EULER, IMPLICIT_MIDPOINT, TRAPEZOID, SDIRK2, TRBDF2, KVAERNO3, KVAERNO4, KVAERNO5)
}

# --- all stages at once ------------------------------------------------------------------------------------------

GAUSS = "Butcher (1964), Implicit Runge-Kutta processes; Kuntzmann (1961)"
RADAU = "Ehle (1969), On Pade approximations to the exponential function; Hairer and Wanner (1996), table IV.5.6"


def _gauss2() -> ImplicitTableau:
    r = math.sqrt(3) / 6
    return printed(
        "gl4",
        """
        1/2-r | 1/4   1/4-r
        1/2+r | 1/4+r 1/4
              | 1/2   1/2
        """,
        letters={"1/2-r": 0.5 - r, "1/2+r": 0.5 + r, "1/4-r": 0.25 - r, "1/4+r": 0.25 + r},
        source=GAUSS,
    )


def _gauss3() -> ImplicitTableau:
    r = math.sqrt(15)
    return printed(
        "gl6",
        """
        1/2-r/10 | 5/36      2/9-r/15 5/36-r/30
        1/2      | 5/36+r/24 2/9      5/36-r/24
        1/2+r/10 | 5/36+r/30 2/9+r/15 5/36
                 | 5/18      4/9      5/18
        """,
        letters={
            "1/2-r/10": 0.5 - r / 10,
            "1/2+r/10": 0.5 + r / 10,
            "2/9-r/15": 2 / 9 - r / 15,
            "2/9+r/15": 2 / 9 + r / 15,
            "5/36-r/30": 5 / 36 - r / 30,
            "5/36+r/30": 5 / 36 + r / 30,
            "5/36-r/24": 5 / 36 - r / 24,
            "5/36+r/24": 5 / 36 + r / 24,
        },
        source=GAUSS,
    )


def _radau3() -> ImplicitTableau:
    r = math.sqrt(6)
    return printed(
        "radauIIA5",
        """
        c1 | a11 a12 a13
        c2 | a21 a22 a23
        1  | b1  b2  1/9
           | b1  b2  1/9
        """,
        letters={
            "c1": (4 - r) / 10,
            "c2": (4 + r) / 10,
            "a11": (88 - 7 * r) / 360,
            "a12": (296 - 169 * r) / 1800,
            "a13": (-2 + 3 * r) / 225,
            "a21": (296 + 169 * r) / 1800,
            "a22": (88 + 7 * r) / 360,
            "a23": (-2 - 3 * r) / 225,
            "b1": (16 - r) / 36,
            "b2": (16 + r) / 36,
        },
        source=RADAU,
    )


GL4, GL6, RADAU5 = _gauss2(), _gauss3(), _radau3()

RADAU3 = printed(
    "radauIIA3",
    """
    1/3 | 5/12 -1/12
    1   | 3/4  1/4
        | 3/4  1/4
    """,
    source=RADAU,
)

#: Collocation methods, by name.
COLLOCATION: dict[str, ImplicitTableau] = {tableau.name: tableau for tableau in (RADAU3, RADAU5, GL4, GL6)}

# --- implicit and explicit ---------------------------------------------------------------------------------------

KENCARP4 = Pair(
    printed(
        "kencarp4",
        """
        0      | 0
        1/2    | 1/4 1/4
        83/250 | 8611/62500 -1743/31250 1/4
        31/50  | 5012029/34652500 -654441/2922500 174375/388108 1/4
        17/20  | 15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912 1/4
        1      | 82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4
               | 82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4
               | 4586570599/29645900160 0 178811875/945068544 814220225/1159782912 -3700637/11593932 61727/225920
        """,
        source="Kennedy and Carpenter (2003), Additive Runge-Kutta schemes for convection-diffusion-reaction "
        "equations: ARK4(3)6L[2]SA",
    ),
    printed(
        "kencarp4",
        """
        0      | 0
        1/2    | 1/2
        83/250 | 13861/62500 6889/62500
        31/50  | -116923316275/2393684061468 -2731218467317/15368042101831 9408046702089/11113171139209
        17/20  | -451086348788/2902428689909 -2682348792572/7519795681897 12662868775082/11960479115383
                 3355817975965/11060851509271
        1      | 647845179188/3216320057751 73281519250/8382639484533 552539513391/3454668386233
                 3354512671639/8306763924573 4040/17871
               | 82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4
        """,
    ).a,
)

#: Pairs of an implicit and an explicit method, by name.
PAIRS: dict[str, Pair] = {pair.implicit.name: pair for pair in (KENCARP4,)}
