"""Butcher tableaus as the books print them; everything that can be derived from the numbers is derived.

A row reads ``c | a1 a2 ...``; the rows without a ``c`` are weights: the first advances the solution, the others
                  are the
embedded ones. Order, embedded order, order of the dense output, FSAL and stage count are computed from the rooted-tree
conditions when a method is first used. Sources stand beside each tableau.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

#: Order conditions are tried up to this order.
HIGHEST_ORDER = 9
#: A condition holds when its residual is below this (coefficients printed as decimals carry about 15 digits).
TOLERANCE = 1e-10

Row = tuple[Fraction, ...]
Tree = tuple["Tree", ...]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method, with its embedded weights and its dense output.

    A step of size h from y0 computes ``k_i = f(t0 + c_i h, y0 + h sum_j a_ij k_j)`` and ``y1 = y0 + h sum_i b_i k_i``.
    Dense output is ``y(t0 + theta h) = y0 + h sum_i b_i(theta) k_i`` over the stages, then the slope at the end of the
    step (unless the last stage is that slope already), then ``extra`` stages that only dense output needs.

    Args:
        name: the name in the registry.
        a: rows of the strictly lower triangle, the first one empty.
        b: the weights that advance the solution.
        c: nodes; each must be the sum of its row.
        embedded: no row for a fixed-step method, one for a pair, two for a pair with two estimates (order 5 and 3
            in the 8(5,3) method).
        extra: ``(c, row)`` of the stages that only dense output needs.
        dense: polynomial weights: one row per stage, coefficients of theta, theta^2, ... Empty for cubic Hermite.
        source: where the numbers stand in print.

    Raises:
        ValueError: a row does not sum to its node, or has the wrong length.
    """

    name: str
    a: tuple[Row, ...]
    b: Row
    c: Row
    embedded: tuple[Row, ...] = ()
    extra: tuple[tuple[Fraction, Row], ...] = ()
    dense: tuple[Row, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for i, (node, row) in enumerate(zip(self.c, self.a, strict=True)):
            self._check_row(f"stage {i + 1}", node, row, length=i)
        for weights in (self.b, *self.embedded):
            self._check_row("weights", Fraction(1), weights, length=len(self.a))
        first = len(self.a) + (not self.fsal)
        for i, (node, row) in enumerate(self.extra):
            self._check_row(f"extra stage {i + 1}", node, row, length=first + i)
        if self.dense and len(self.dense) != first + len(self.extra):
            raise ValueError(
                f"Tableau {self.name!r}: `dense` has {len(self.dense)} rows for {first + len(self.extra)} stages."
            )

    def _check_row(self, what: str, node: Fraction, row: Row, *, length: int) -> None:
        if len(row) != length:
            raise ValueError(f"Tableau {self.name!r}: {what} has {len(row)} coefficients, expected {length}.")
        if abs(sum(row, Fraction(0)) - node) > TOLERANCE:
            raise ValueError(
                f"Tableau {self.name!r}: {what} sums to {float(sum(row))}, its node is {float(node)}. "
                "Compare the row with the printed one."
            )

    @property
    def stages(self) -> int:
        """Number of stages of a step."""
        return len(self.a)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is the slope at the end of the step ("first same as last")."""
        return len(self.a) > 1 and self.a[-1] == self.b[:-1] and self.b[-1] == 0

    @cached_property
    def order(self) -> int:
        """Order of the weights that advance the solution."""
        return order_of(self.b, self.a)

    @cached_property
    def embedded_order(self) -> int | None:
        """Order q of the error estimate, which falls like h^(q + 1); None for a fixed-step method.

        Two embedded rows of orders q1 > q2 are combined to ``e1^2 / e2``, an estimate of order ``2 q1 - q2``.
        """
        orders = [order_of(row, self.a) for row in self.embedded]
        if not orders:
            return None
        return orders[0] if len(orders) == 1 else 2 * orders[0] - orders[1]

    @cached_property
    def dense_order(self) -> int:
        """Order of the dense output: every condition up to it holds as a polynomial in theta."""
        return dense_order_of(self)

    @cached_property
    def dense_weights(self) -> np.ndarray:
        """``(stages with the extra ones, degree)``: the coefficients of theta, theta^2, ... for each stage."""
        return np.array(_dense_rows(self), dtype=float)

    @cached_property
    def error_weights(self) -> tuple[tuple[float, ...], ...]:
        """``b - b_embedded`` for each embedded row."""
        return tuple(tuple(float(b - e) for b, e in zip(self.b, row, strict=True)) for row in self.embedded)


# --- order conditions --------------------------------------------------------------------------------------------


@lru_cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with ``order`` nodes, each a sorted tuple of its subtrees."""

    def forests(nodes: int, largest: Tree | None) -> list[Tree]:
        if nodes == 0:
            return [()]
        found = []
        for size in range(nodes, 0, -1):
            for tree in rooted_trees(size):
                if largest is None or _key(tree) <= _key(largest):
                    found += [(tree, *rest) for rest in forests(nodes - size, tree)]
        return found

    return tuple(forests(order - 1, None))


def _key(tree: Tree) -> tuple[int, str]:
    return _nodes(tree), repr(tree)


def _nodes(tree: Tree) -> int:
    return 1 + sum(map(_nodes, tree))


def _density(tree: Tree) -> int:
    density = _nodes(tree)
    for child in tree:
        density *= _density(child)
    return density


def _stage_weights(a: np.ndarray) -> Callable[[Tree], np.ndarray]:
    """The elementary weights of every stage, ``Phi_i(tree) = prod over children of sum_j a_ij Phi_j(child)``."""
    known: dict[Tree, np.ndarray] = {}

    def phi(tree: Tree) -> np.ndarray:
        if tree not in known:
            product = np.array([a.dtype.type(1) if a.dtype != object else Fraction(1)] * len(a), dtype=a.dtype)
            for child in tree:
                product = product * (a @ phi(child))
            known[tree] = product
        return known[tree]

    return phi


def _square(rows: Sequence[Row], dtype: Any = float) -> np.ndarray:
    n = len(rows)
    return np.array([[*row, *[Fraction(0)] * (n - len(row))] for row in rows], dtype=dtype)


def order_of(weights: Row, a: Sequence[Row], *, exact: bool = False) -> int:
    """The order of ``weights`` over the stages ``a``: all conditions ``sum b_i Phi_i(tree) = 1/density(tree)`` hold.

    Args:
        weights: one weight per stage.
        a: the rows of the tableau.
        exact: compare in fractions (tests) instead of floats.
    """
    dtype = object if exact else float
    phi, b = _stage_weights(_square(a, dtype)), np.array(weights, dtype=dtype)
    for order in range(1, HIGHEST_ORDER + 1):
        residuals = [abs(b @ phi(tree) - Fraction(1, _density(tree))) for tree in rooted_trees(order)]
        if max(residuals) > (0 if exact else TOLERANCE):
            return order - 1
    return HIGHEST_ORDER


def dense_order_of(tableau: Tableau) -> int:
    """The order of the dense output: ``sum b_i(theta) Phi_i(tree) = theta^nodes / density`` for every theta."""
    weights = tableau.dense_weights
    phi = _stage_weights(_square(_dense_stages(tableau)))
    for order in range(1, HIGHEST_ORDER + 1):
        for tree in rooted_trees(order):
            polynomial = phi(tree) @ weights
            if order <= len(polynomial):
                polynomial[order - 1] -= 1 / _density(tree)
            if order > len(polynomial) or np.abs(polynomial).max() > TOLERANCE * 100:
                return order - 1
    return HIGHEST_ORDER


def _dense_stages(tableau: Tableau) -> tuple[Row, ...]:
    end = () if tableau.fsal else (tableau.b,)
    return (*tableau.a, *end, *(row for _, row in tableau.extra))


def _dense_rows(tableau: Tableau) -> tuple[Row, ...]:
    """The printed dense weights, or those of cubic Hermite interpolation between both ends of the step."""
    if tableau.dense:
        return tableau.dense
    b = tableau.b if tableau.fsal else (*tableau.b, Fraction(0))
    rows = [[Fraction(0), 3 * w, -2 * w] for w in b]
    rows[0] = [x + y for x, y in zip(rows[0], (1, -2, 1), strict=True)]
    rows[-1] = [x + y for x, y in zip(rows[-1], (0, -1, 1), strict=True)]
    return tuple(map(tuple, rows))


# --- reading the printed form ------------------------------------------------------------------------------------


def printed(name: str, text: str, *, extra: str = "", dense: str | tuple[Row, ...] = "", source: str = "") -> Tableau:
    """Read a tableau from its printed form.

    Args:
        name: the method's name.
        text: lines ``c | a1 a2 ...``, then lines ``| b1 b2 ...`` (weights, then embedded weights). A line without a bar
            continues the one before.
        extra: lines ``c | a1 a2 ...`` of the stages for dense output.
        dense: a line per stage with the coefficients of theta, theta^2, ..., or such rows.
        source: author, year, place.
    """
    stages, weights = [], []
    for node, row in _lines(text):
        (stages if node else weights).append((node, row))
    return Tableau(
        name=name,
        a=tuple(row for _, row in stages),
        b=weights[0][1],
        c=tuple(Fraction(node) for node, _ in stages),
        embedded=tuple(row for _, row in weights[1:]),
        extra=tuple((Fraction(node), row) for node, row in _lines(extra)),
        dense=dense if isinstance(dense, tuple) else tuple(_numbers(line) for line in dense.strip().splitlines()),
        source=source,
    )


def _lines(text: str) -> list[tuple[str, Row]]:
    rows: list[list[str]] = []
    for line in text.strip().splitlines():
        if "|" in line:
            rows.append(line.split("|"))
        else:
            rows[-1][1] += line
    return [(node.strip(), _numbers(row)) for node, row in rows]


def _numbers(text: str) -> Row:
    return tuple(Fraction(word) for word in text.split())


def _product(scale: str, *factors: str) -> Row:
    """A polynomial printed in factored form, as coefficients of theta, theta^2, ...

    A factor lists its own coefficients, lowest power first.
    """
    total = [Fraction(scale)]
    for factor in map(_numbers, factors):
        product = [Fraction(0)] * (len(total) + len(factor) - 1)
        for i, x in enumerate(total):
            for j, y in enumerate(factor):
                product[i + j] += x * y
        total = product
    return tuple(total[1:])


def _from_nested(b: Row, nested: Sequence[Row]) -> tuple[Row, ...]:
    """Dense weights of the 8(5,3) code, which nests ``theta`` and ``1 - theta``, as plain polynomials.

    The code writes y(theta) = y0 + theta (F0 + (1 - theta) (F1 + theta (F2 + ... theta F6))) with F0 = y1 - y0,
    F1 = h k1 - F0, F2 = 2 F0 - h (k1 + k_end) and F3..F6 = h d k.
    """
    zero = Fraction(0)
    size, end = len(nested[0]), len(b)
    f0 = [*b, *[zero] * (size - end)]
    f1 = [Fraction(i == 0) - x for i, x in enumerate(f0)]
    f2 = [2 * x - (i == 0) - (i == end) for i, x in enumerate(f0)]
    polynomials = [[zero]] * size
    for level in range(6, -1, -1):
        terms = ([f0, f1, f2, *nested])[level]
        factor = (zero, Fraction(1)) if level % 2 == 0 else (Fraction(1), Fraction(-1))
        for i in range(size):
            inner = [polynomials[i][0] + terms[i], *polynomials[i][1:]]
            product = [zero] * (len(inner) + 1)
            for j, x in enumerate(inner):
                product[j] += factor[0] * x
                product[j + 1] += factor[1] * x
            polynomials[i] = product
    return tuple(tuple(p[1:]) for p in polynomials)


# --- the methods -------------------------------------------------------------------------------------------------

EULER = printed(
    "euler",
    """
    0 |
      | 1
    """,
    source="Euler (1768), Institutiones calculi integralis",
)

MIDPOINT = printed(
    "midpoint",
    """
    0   |
    1/2 | 1/2
        | 0   1
    """,
    source="Runge (1895), Ueber die numerische Aufloesung von Differentialgleichungen",
)

HEUN = printed(
    "heun",
    """
    0 |
    1 | 1
      | 1/2 1/2
    """,
    source="Heun (1900), Neue Methode zur approximativen Integration",
)

RALSTON = printed(
    "ralston",
    """
    0   |
    2/3 | 2/3
        | 1/4 3/4
    """,
    source="Ralston (1962), Runge-Kutta methods with minimum error bounds",
)

HEUN3 = printed(
    "heun3",
    """
    0   |
    1/3 | 1/3
    2/3 | 0   2/3
        | 1/4 0   3/4
    """,
    source="Heun (1900), Neue Methode zur approximativen Integration",
)

RK4 = printed(
    "rk4",
    """
    0   |
    1/2 | 1/2
    1/2 | 0   1/2
    1   | 0   0   1
        | 1/6 1/3 1/3 1/6
    """,
    source="Kutta (1901), Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen",
)

RK4_38 = printed(
    "rk4_38",
    """
    0   |
    1/3 | 1/3
    2/3 | -1/3 1
    1   | 1    -1  1
        | 1/8  3/8 3/8 1/8
    """,
    source="Kutta (1901), the 3/8 rule",
)

ADAPTIVE_HEUN = printed(
    "adaptive_heun",
    """
    0 |
    1 | 1
      | 1/2 1/2
      | 1   0
    """,
    source="Heun (1900), with Euler's method embedded",
)

FEHLBERG2 = printed(
    "fehlberg2",
    """
    0   |
    1/2 | 1/2
    1   | 1/256 255/256
        | 1/512 255/256 1/512
        | 1/256 255/256 0
    """,
    source="Fehlberg (1969), NASA TR R-315, RK1(2)",
)

BOSH3 = printed(
    "bosh3",
    """
    0   |
    1/2 | 1/2
    3/4 | 0    3/4
    1   | 2/9  1/3 4/9
        | 2/9  1/3 4/9 0
        | 7/24 1/4 1/3 1/8
    """,
    source="Bogacki and Shampine (1989), A 3(2) pair of Runge-Kutta formulas",
)

DOPRI5 = printed(
    "dopri5",
    """
    0    |
    1/5  | 1/5
    3/10 | 3/40       9/40
    4/5  | 44/45      -56/15      32/9
    8/9  | 19372/6561 -25360/2187 64448/6561 -212/729
    1    | 9017/3168  -355/33     46732/5247 49/176  -5103/18656
    1    | 35/384     0           500/1113   125/192 -2187/6784    11/84
         | 35/384     0           500/1113   125/192 -2187/6784    11/84    0
         | 5179/57600 0           7571/16695 393/640 -92097/339200 187/2100 1/40
    """,
    dense="""
    1 -8048581381/2820520608   8663915743/2820520608   -12715105075/11282082432
    0 0                        0                       0
    0 131558114200/32700410799 -68118460800/10900136933 87487479700/32700410799
    0 -1754552775/470086768    14199869525/1410260304  -10690763975/1880347072
    0 127303824393/49829197408 -318862633887/49829197408 701980252875/199316789632
    0 -282668133/205662961     2019193451/616988883    -1453857185/822651844
    0 40617522/29380423        -110615467/29380423     69997945/29380423
    """,
    source="Dormand and Prince (1980), A family of embedded Runge-Kutta formulae; dense output by Shampine (1986)",
)

TSIT5 = printed(
    "tsit5",
    """
    0          |
    0.161      | 0.161
    0.327      | -0.008480655492356989 0.335480655492357
    0.9        | 2.8971530571054935    -6.359448489975075  4.3622954328695815
    0.9800255409045097 | 5.325864828439257 -11.748883564062828 7.4955393428898365 -0.09249506636175525
    1          | 5.86145544294642      -12.92096931784711  8.159367898576159  -0.071584973281401 -0.028269050394068383
    1 | 0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774
      | 0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774 0
      | 0.09468075576583945 0.009183565540343254 0.4877705284247616 1.234297566930479 -2.7077123499835256
        1.866628418170587 0.015151515151515152
    """,
    dense=(
        _product("-1.0530884977290216", "0 1", "-1.3299890189751412 1", "0.7139816917074209 -1.4364028541716351 1"),
        _product("0.1017", "0 0 1", "1.2949852507374631 -2.1966568338249754 1"),
        _product("2.490627285651252793", "0 0 1", "1.57803468208092486 -2.38535645472061657 1"),
        _product("-16.54810288924490272", "0 0 1", "-1.21712927295533244 1", "-0.61620406037800089 1"),
        _product("47.37952196281928122", "0 0 1", "-1.203071208372362603 1", "-0.658047292653547382 1"),
        _product("-34.87065786149660974", "0 0 1", "-1.2 1", "-0.666666666666666667 1"),
        _product("2.5", "0 0 1", "-1 1", "-0.6 1"),
    ),
    source="Tsitouras (2011), Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption",
)

_DOP853_WEIGHTS = _numbers(
    "0.054293734116568765 0 0 0 0 4.450312892752409 1.8915178993145003 -5.801203960010585 "
    "0.3111643669578199 -0.1521609496625161 0.20136540080403034 0.04471061572777259"
)

DOPRI8 = printed(
    "dopri8",
    """
    0 |
    0.05260015195876773 | 0.05260015195876773
    0.0789002279381516 | 0.0197250569845379 0.0591751709536137
    0.1183503419072274 | 0.02958758547680685 0 0.08876275643042054
    0.2816496580927726 | 0.2413651341592667 0 -0.8845494793282861 0.924834003261792
    0.3333333333333333 | 0.037037037037037035 0 0 0.17082860872947386 0.12546768756682242
    0.25 | 0.037109375 0 0 0.17025221101954405 0.06021653898045596 -0.017578125
    0.3076923076923077 | 0.03709200011850479 0 0 0.17038392571223998 0.10726203044637328 -0.015319437748624402
                         0.008273789163814023
    0.6512820512820513 | 0.6241109587160757 0 0 -3.3608926294469414 -0.868219346841726 27.59209969944671
                         20.154067550477894 -43.48988418106996
    0.6 | 0.47766253643826434 0 0 -2.4881146199716677 -0.590290826836843 21.230051448181193 15.279233632882423
          -33.28821096898486 -0.020331201708508627
    0.8571428571428571 | -0.9371424300859873 0 0 5.186372428844064 1.0914373489967295 -8.149787010746927
                         -18.52006565999696 22.739487099350505 2.4936055526796523 -3.0467644718982196
    1 | 2.273310147516538 0 0 -10.53449546673725 -2.0008720582248625 -17.9589318631188 27.94888452941996
        -2.8589982771350235 -8.87285693353063 12.360567175794303 0.6433927460157636
      | 0.054293734116568765 0 0 0 0 4.450312892752409 1.8915178993145003 -5.801203960010585 0.3111643669578199
        -0.1521609496625161 0.20136540080403034 0.04471061572777259
      | 0.04117368912237389 0 0 0 0 5.675469339128614 2.3872768489717506 -7.465581142465571 0.6614932157077935
        -0.48634006837553356 0.11944219431891463 0.06706592359165889
      | 0.2440944881889764 0 0 0 0 0 0 0 0.7338466882816118 0 0 0.022058823529411766
    """,
    extra="""
    0.1 | 0.056167502283047954 0 0 0 0 0 0.25350021021662483 -0.2462390374708025 -0.12419142326381637
          0.15329179827876568 0.00820105229563469 0.007567897660545699 -0.008298
    0.2 | 0.03183464816350214 0 0 0 0 0.028300909672366776 0.053541988307438566 -0.05492374857139099 0 0
          -0.00010834732869724932 0.0003825710908356584 -0.00034046500868740456 0.1413124436746325
    0.7777777777777778 | -0.42889630158379194 0 0 0 0 -4.697621415361164 7.683421196062599 4.06898981839711
                         0.3567271874552811 0 0 0 -0.0013990241651590145 2.9475147891527724 -9.15095847217987
    """,
    dense=_from_nested(
        _DOP853_WEIGHTS,
        [
            _numbers(
                "-8.428938276109013 0 0 0 0 0.5667149535193777 -3.0689499459498917 2.38466765651207 2.117034582445028 "
                "-0.871391583777973 2.2404374302607883 0.6315787787694688 -0.08899033645133331 18.148505520854727 "
                "-9.194632392478356 -4.436036387594894"
            ),
            _numbers(
                "10.427508642579134 0 0 0 0 242.28349177525817 165.20045171727028 -374.5467547226902 "
                "-22.113666853125306 7.733432668472264 -30.674084731089398 -9.332130526430229 15.697238121770845 "
                "-31.139403219565178 -9.35292435884448 35.81684148639408"
            ),
            _numbers(
                "19.985053242002433 0 0 0 0 -387.0373087493518 -189.17813819516758 527.8081592054236 "
                "-11.57390253995963 6.8812326946963 -1.0006050966910838 0.7777137798053443 -2.778205752353508 "
                "-60.19669523126412 84.32040550667716 11.99229113618279"
            ),
            _numbers(
                "-25.69393346270375 0 0 0 0 -154.18974869023643 -231.5293791760455 357.6391179106141 "
                "93.40532418362432 -37.45832313645163 104.0996495089623 29.8402934266605 -43.53345659001114 "
                "96.32455395918828 -39.17726167561544 -149.72683625798564"
            ),
        ],
    ),
    source="Prince and Dormand (1981), High order embedded Runge-Kutta formulae; estimates of order 5 and 3 and "
    "dense output of order 7 by Hairer, Norsett and Wanner (1993), Solving Ordinary Differential Equations I (DOP853)",
)

# The nodes of the pair determine the other coefficients: these solve the order conditions to 50 digits, of which 20
# stand here. Its dense output is our own. The two extra rows are the smallest of order 5 over the stages before; the
# weights are of order 6, meet value and slope at both ends, and among those of degree 7 leave the smallest residual
# (in the mean square over the step) in the conditions of order 7.
VERN7 = printed(
    "vern7",
    """
    0 |
    1/200 | 1/200
    49/450 | -4361/4050 2401/2025
    49/300 | 49/1200 0 49/400
    911/2000 | 0.63891392362557267805 0 -2.4556726382236568097 2.2722587145980841316
    3480084980/5709648941 | -2.6615773750187571311 0 10.804513886456137696 -8.353914657396199412
                            0.82048759495665697914
    221/250 | 6.0677414346967709927 0 -24.711273635911085797 20.42751793078889394 -1.9061579788166471506
              1.0061722492420680148
    37/40 | 12.054670076253202995 0 -49.754784950468989328 41.142888638604676633 -4.4617601499740041856
            2.0423348222391749598 -0.098348436654061073795
    1 | 10.138146522881807876 0 -42.641136031717502146 35.763840039922570071 -4.3480228403929076533
        2.0098622683770358954 0.3487490460338272406 -0.27143900510483128424
    1 | -45.030072034298677124 0 187.32724376545888408 -154.02882369350186906 18.564653063475362339
        -7.1418096792950788549 1.3088085781613786251 0 0
      | 0.047155618486272221704 0 0 0.25750564298434151896 0.26216653977412620477 0.15216092656738557403
        0.49399691700324842469 -0.29430311714032504416 0.081317472324951099997 0
      | 0.044608606606341176287 0 0 0.26716403785713726805 0.220101830017729302 0.2188431703143156831
        0.22898717054112028834 0 0 0.020295184663356282228
    """,
    extra="""
    7/20 | 0.047123114620280272548 0 0 0.25315599517565404714 0.069247553654697580704 -0.020032011864441087923
           -0.0030918536813477981895 0.0039383488280461894047 0.0013860082866682224723 0.0028512824804425738384
           -0.0045784375
    3/5 | 0.059757692185562549197 0 0 0.197019383994853983 0.11814361055966710847 0.053376645451806468129
          0.0059942372093221238006 0.0027415546776953059344 -0.0057920315524555778223 -0.0014582484117313365165
          0.0020178685333212960192 0.16819928735195807978
    """,
    dense=(
        _numbers(
            "1 -6.6483489205416751241 19.903903182253983728 -29.609605039077969647 "
            "21.375137864207263304 -5.9652394080842714054 -0.008692060271058633395"
        ),
        _numbers("0 0 0 0 0 0 0"),
        _numbers("0 0 0 0 0 0 0"),
        _numbers(
            "0 13.088117391722175111 -57.954048415013416301 101.30577661904189814 "
            "-79.523882980084730135 23.308582305376946127 0.032960721941468575597"
        ),
        _numbers(
            "0 7.5795303033609826295 -31.707882294241309647 50.396003566070649925 "
            "-34.557034358923151293 8.695101458213561683 -0.14355213470660709326"
        ),
        _numbers(
            "0 1.6497708836306630086 -4.077597492248534199 0.20884498162414527066 "
            "6.356547702188570894 -4.2129683124370568289 0.22756316380959742859"
        ),
        _numbers(
            "0 -1.203593509189328274 13.320745019789665071 -45.692801277516370387 "
            "58.297337504550854806 -23.32330529074187839 -0.90438552988969440078"
        ),
        _numbers(
            "0 0.43341149534240482882 -5.0729891013468323538 20.06043755272297123 "
            "-27.397018932223542303 10.677502314971200878 1.0043535533934726758"
        ),
        _numbers(
            "0 -0.61552810293716774311 3.8058048297665096129 -10.240853959981062439 "
            "11.736802598715983266 -4.327399815594321252 -0.27750807764499034514"
        ),
        _numbers(
            "0 -0.18812144614995919869 1.1335381939424284199 -2.4482106061495682169 "
            "2.3175527784394997614 -0.88401928345021255835 0.069260363367811792587"
        ),
        _numbers(
            "0 1.0626550868486352357 -7.5088030249320571901 20.031460475008862106 "
            "-22.787132222616093584 9.2018196856906534326 0"
        ),
        _numbers(
            "0 -13.612194257355547678 76.0554345807802029 -149.08593710437028409 "
            "124.4543474958221502 -37.811650714876521328 0"
        ),
        _numbers(
            "0 -1.5456989247311827957 -7.898105478750640041 45.074884792626728111 "
            "-60.272657450076804916 24.641577060931899642 0"
        ),
    ),
    source="Verner (2010), Numerically optimal Runge-Kutta pairs with interpolants, the 'most efficient' 7(6) pair",
)

#: Every explicit tableau by its name.
TABLEAUS: dict[str, Tableau] = {
    tableau.name: tableau
    for tableau in (
        *(EULER, MIDPOINT, HEUN, RALSTON, HEUN3, RK4, RK4_38),
        *(FEHLBERG2, ADAPTIVE_HEUN, BOSH3, TSIT5, DOPRI5, VERN7, DOPRI8),
    )
}
