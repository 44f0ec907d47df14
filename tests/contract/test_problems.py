"""The catalogue itself: fields, closed forms and stored references agree with one another and with print."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.peers import scipy_solve
from tests.problems import ENRIGHT_PRYCE, GRAVITY, LOTKA_VOLTERRA, PLANETS, PROBLEMS, STIFF, SUN

# Ends of the span as printed with the NSDTST package (Enright and Pryce, 1987), problems without a closed form.
PUBLISHED = {
    "A5": [-0.7887826688964196],
    "B1": [0.6761876008576667, 0.1860816099640036],
    "B4": [0.9826950928005993, 2.198447081694832, 0.9129452507276399],
    "B5": [-0.9396570798729192, -0.3421177754000779, 0.7414126596199957],
    "C5": [-4.792730224323733, -2.420550725448973, -0.9212509306014886, -4.217310404035213, 7.356202947498970],
    "E2": [2.008149762174948, -0.4250887527320057e-1],
    "E3": [-0.1004178858647128, 0.2411400132095954],
}

# Ends of the span as printed with the Test Set for IVP Solvers (Mazzia and Magherini, 2008), to the digits sure here.
PUBLISHED_STIFF = {
    "Pleiades": [0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310, 0.3425581707156584],
    "Robertson": [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050],
    "van der Pol, mu=1e6": [1.706167732170483, -0.8928097010247975],
    "HIRES": [
        0.7371312573325668e-3,
        0.1442485726316185e-3,
        0.5888729740967575e-4,
        0.1175651343283149e-2,
        0.2386356198831331e-2,
        0.6238968252742796e-2,
        0.2849998395185769e-2,
        0.2850001604814231e-2,
    ],
    "Oregonator": [1.000814870318523, 1228.178521549917, 132.0554942846706],
    "POLLU": [
        0.5646255480022769e-1,
        0.1342484130422339,
        0.4139734331099427e-8,
        0.5523140207484359e-2,
        0.2018977262302196e-6,
        0.1464541863493966e-6,
        0.7784249118997964e-1,
        0.3245075353396018,
        0.7494013383880406e-2,
        0.1622293157301561e-7,
        0.1135863833257075e-7,
        0.2230505975721359e-2,
        0.2087162882798630e-3,
        0.1396921016840158e-4,
        0.8964884856898295e-2,
        0.4352846369330103e-17,
        0.6899219696263405e-2,
        0.1007803037365946e-3,
        0.1772146513969984e-5,
        0.5682943292316392e-4,
    ],
}


EVERY = PROBLEMS | {p.name: p for p in STIFF}


def problem(name):
    return EVERY[name]


def test_there_are_25():
    assert [p.name for p in ENRIGHT_PRYCE] == [f"{family}{i}" for family in "ABCDE" for i in range(1, 6)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_end_of_the_span_against_scipy(name):
    p = problem(name)
    other = torch.from_numpy(scipy_solve(p, "DOP853", 1e-11, 1e-13).y1)
    torch.testing.assert_close(other, p.end(), rtol=2e-8, atol=2e-8)


@pytest.mark.parametrize("name", [p.name for p in STIFF])
def test_known_times_of_stiff_problems_against_scipy(name):
    """BDF, of another family than the references; errors of thousands of its steps add up."""
    p = problem(name)
    other = torch.from_numpy(scipy_solve(p, "BDF", 1e-7, p.atol * 1e-7).rows)
    assert p.known()[-1] == p.span[1]
    torch.testing.assert_close(other, p.rows(), rtol=3e-4, atol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED_STIFF)
def test_stored_reference_against_the_test_set(name):
    published = torch.tensor(PUBLISHED_STIFF[name], dtype=torch.float64)
    rtol = 1e-9 if name == "Pleiades" else 1e-10  # a close encounter multiplies every error
    torch.testing.assert_close(problem(name).end()[: len(published)], published, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("name", [p.name for p in PROBLEMS.values() if p.exact is not None])
def test_closed_form_solves_the_equation(name):
    p = problem(name)
    torch.testing.assert_close(p.at(p.span[0]), p.start(), rtol=1e-14, atol=1e-14)
    for t in np.linspace(*p.span, 7)[1:-1].tolist():
        h = 1e-4
        slope = (8.0 * (p.at(t + h) - p.at(t - h)) - (p.at(t + 2 * h) - p.at(t - 2 * h))) / (12.0 * h)
        rate = p.field(torch.tensor(t, dtype=torch.float64), p.at(t))
        torch.testing.assert_close(slope, rate, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", PUBLISHED)
def test_stored_reference_against_print(name):
    published = torch.tensor(PUBLISHED[name], dtype=torch.float64)
    torch.testing.assert_close(problem(name).end()[: len(published)], published, rtol=2e-12, atol=2e-12)


@pytest.mark.parametrize("name", EVERY)
def test_fields_take_batches(name):
    p = problem(name)
    t, y = torch.tensor(0.3, dtype=torch.float64), p.start() + 0.01
    batch = torch.stack((y, y + 0.1))
    torch.testing.assert_close(p.field(t, batch)[0], p.field(t, y))
    assert p.field(t, batch).shape == batch.shape


def planets_energy(y):
    """Total energy of the sun and five planets in the frame of their centre of mass, up to G."""
    x, v = (half.reshape(5, 3) for half in y.split(15))
    mass = torch.tensor((SUN, *PLANETS), dtype=torch.float64)
    x, v = (torch.cat((torch.zeros(1, 3, dtype=torch.float64), part)) for part in (x, v))
    v = v - (mass[:, None] * v).sum(0) / mass.sum()
    pairs = torch.triu(mass[:, None] * mass / (torch.cdist(x, x) + torch.eye(6)), diagonal=1)
    return 0.5 * (mass * v.square().sum(-1)).sum() - GRAVITY * pairs.sum()


def test_planets_keep_their_energy_and_distances():
    c5 = problem("C5")
    torch.testing.assert_close(planets_energy(c5.end()), planets_energy(c5.start()), rtol=1e-12, atol=0.0)
    x, v = c5.start().split(15)
    radius, speed = x.reshape(5, 3).norm(dim=-1), v.reshape(5, 3).norm(dim=-1)
    axes = 1.0 / (2.0 / radius - speed.square() / (GRAVITY * SUN))
    known = torch.tensor([5.20, 9.58, 19.2, 30.1, 39.5], dtype=torch.float64)  # astronomical units
    torch.testing.assert_close(axes, known, rtol=0.02, atol=0.0)


def test_invariants():
    rigid = problem("B5").end()
    torch.testing.assert_close(rigid[:2].square().sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(0.51 * rigid[0] ** 2 + rigid[2] ** 2, torch.ones((), dtype=torch.float64))
    prey, predator = torch.stack((LOTKA_VOLTERRA.start(), LOTKA_VOLTERRA.end())).T
    level = 0.1 * prey - 0.4 * prey.log() + 0.4 * predator - 1.1 * predator.log()
    torch.testing.assert_close(level[1], level[0], rtol=1e-11, atol=0.0)
    assert float(problem("B3").end().sum()) == pytest.approx(1.0, abs=1e-14)


def test_the_rod_is_a_difference_equation():
    """Sine modes are eigenvectors of the second difference; a closed form that misses one would show here."""
    rod, h = problem("heat, n=400"), 1e-4
    torch.testing.assert_close(rod.at(0.0), rod.start(), rtol=0.0, atol=1e-13)
    for t in (0.2, 0.5):
        slope = (8.0 * (rod.at(t + h) - rod.at(t - h)) - (rod.at(t + 2 * h) - rod.at(t - 2 * h))) / (12.0 * h)
        rate = rod.field(torch.tensor(t, dtype=torch.float64), rod.at(t))
        torch.testing.assert_close(slope, rate, rtol=1e-7, atol=1e-8)


def test_stiff_chemistry_keeps_its_mass():
    torch.testing.assert_close(problem("Robertson").rows().sum(-1), torch.ones(12, dtype=torch.float64))
    hires = problem("HIRES").rows()
    torch.testing.assert_close(hires[:, 6] + hires[:, 7], torch.full((5,), 0.0057, dtype=torch.float64))


def test_without_a_closed_form_only_the_end_is_known():
    with pytest.raises(LookupError, match="only the state at its end"):
        LOTKA_VOLTERRA.at(1.0)
