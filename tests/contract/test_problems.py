"""The catalogue itself: fields, closed forms and stored references agree with one another and with print."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.peers import scipy_solve
from tests.problems import ENRIGHT_PRYCE, GRAVITY, LOTKA_VOLTERRA, PLANETS, PROBLEMS, SUN

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


def problem(name):
    return PROBLEMS[name]


def test_there_are_25():
    assert [p.name for p in ENRIGHT_PRYCE] == [f"{family}{i}" for family in "ABCDE" for i in range(1, 6)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_end_of_the_span_against_scipy(name):
    p = problem(name)
    other = torch.from_numpy(scipy_solve(p, "DOP853", 1e-11, 1e-13).y1)
    torch.testing.assert_close(other, p.end(), rtol=2e-8, atol=2e-8)


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


@pytest.mark.parametrize("name", PROBLEMS)
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


def test_without_a_closed_form_only_the_end_is_known():
    with pytest.raises(LookupError, match="only the state at its end"):
        LOTKA_VOLTERRA.at(1.0)
