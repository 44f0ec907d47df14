"""Couplings: what is optimal, what is drawn, and that the data keep their places."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

from pathline.models import COUPLINGS, Independent, OptimalTransport, Sinkhorn
from pathline.models.densities.couplings import find_coupling, squared_distances


def _batches(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator) + 1.0


def _cost(x0: torch.Tensor, x1: torch.Tensor) -> float:
    return float((x0 - x1).square().sum())


def test_optimal_pairs_are_the_best_of_all_permutations() -> None:
    x0, x1 = _batches(6, 2)
    least = min(_cost(x0[list(order)], x1) for order in itertools.permutations(range(6)))
    paired, same = OptimalTransport()(x0, x1)
    assert _cost(paired, x1) == pytest.approx(least, rel=1e-6)
    assert same is x1
    assert sorted(map(tuple, paired.tolist())) == sorted(map(tuple, x0.tolist()))


def test_on_the_line_optimal_pairs_are_sorted() -> None:
    x0, x1 = _batches(50, 1)
    paired, _ = OptimalTransport()(x0, x1)
    assert torch.equal(paired.flatten()[x1.flatten().argsort()], x0.flatten().sort().values)


def test_events_are_flattened_before_they_are_compared() -> None:
    x0, x1 = _batches(8, 2, 3, 4)
    paired, _ = OptimalTransport()(x0, x1)
    flat, _ = OptimalTransport()(x0.flatten(1), x1.flatten(1))
    assert torch.equal(paired.flatten(1), flat)
    distances = squared_distances(x0, x1)
    torch.testing.assert_close(distances[2, 5], (x0[2] - x1[5]).double().square().sum())


def test_independent_pairs_are_left_alone() -> None:
    x0, x1 = _batches(5, 2)
    assert Independent()(x0, x1) == (x0, x1)


def test_plan_has_its_margins_and_follows_the_entropy() -> None:
    x0, x1 = _batches(40, 2)
    plan = Sinkhorn(0.5, tolerance=1e-6).plan(x0, x1)
    torch.testing.assert_close(plan.sum(0), torch.full((40,), 1 / 40, dtype=plan.dtype))
    torch.testing.assert_close(plan.sum(1), torch.full((40,), 1 / 40, dtype=plan.dtype), rtol=1e-5, atol=0)
    # at the optimum log(plan) + cost / epsilon is a sum of a row's and a column's number
    potentials = plan.log() + squared_distances(x0, x1) / 0.5
    mixed = potentials[:-1, :-1] - potentials[1:, :-1] - potentials[:-1, 1:] + potentials[1:, 1:]
    assert float(mixed.abs().max()) < 1e-8


def test_little_entropy_comes_to_the_optimal_pairs_and_much_to_independent_ones() -> None:
    x0, x1 = _batches(16, 2)
    best, _ = OptimalTransport()(x0, x1)
    sharp = Sinkhorn(1e-2, iterations=20000).plan(x0, x1)
    assert torch.equal(x0[sharp.argmax(0)], best)
    flat = Sinkhorn(1e6).plan(x0, x1)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 256), rtol=1e-3, atol=0)


def test_drawn_pairs_follow_the_plan() -> None:
    x0, x1 = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.2], [0.7]])
    coupling = Sinkhorn(1.0, tolerance=1e-8)
    expected = coupling.plan(x0, x1)[:, 0] * 2
    drawn = torch.stack([coupling(x0, x1)[0][0, 0] for _ in range(1000)])
    assert 0.6 < float(expected[0]) < 0.9
    assert float((drawn == 0.0).double().mean()) == pytest.approx(float(expected[0]), abs=0.05)


def test_a_plan_that_has_not_settled_says_so() -> None:
    x0, x1 = _batches(20, 2)
    with pytest.warns(RuntimeWarning, match=r"misses its margins.*1 iterations.*larger `epsilon`"):
        plan = Sinkhorn(1e-2, iterations=1).plan(x0, x1)
    torch.testing.assert_close(plan.sum(0), torch.full((20,), 1 / 20, dtype=plan.dtype))


def test_equal_events_have_a_plan() -> None:
    x = torch.ones(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(Sinkhorn().plan(x, x), torch.full((4, 4), 1 / 16, dtype=torch.float64))


@pytest.mark.parametrize("name", COUPLINGS)
def test_batches_of_other_shapes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"equal shape, \(batch, \*event\), but \(4, 2\) and \(5, 2\) came"):
        find_coupling(name)(torch.zeros(4, 2), torch.zeros(5, 2))


def test_names() -> None:
    coupling = Sinkhorn(0.1)
    assert find_coupling(coupling) is coupling
    with pytest.raises(ValueError, match='No coupling is called "sinkhron". Did you mean "sinkhorn"'):
        find_coupling("sinkhron")
    with pytest.raises(TypeError, match="`coupling` is a name"):
        find_coupling(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "`epsilon` is a positive number"),
        ({"iterations": 0}, "`iterations`"),
        ({"tolerance": 0.0}, "`tolerance`"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Sinkhorn(**options)


@pytest.mark.parametrize("coupling", [OptimalTransport(), Sinkhorn()], ids=str)
def test_numbers_that_are_none_are_refused(coupling) -> None:
    x0, x1 = torch.randn(4, 2), torch.randn(4, 2)
    x1[2, 0] = float("nan")
    with pytest.raises(ValueError, match="`x1` is finite, but of its 4 rows row 2 holds NaN"):
        coupling(x0, x1)
    x0[[0, 1]] = float("inf")
    with pytest.raises(ValueError, match="`x0` is finite, but of its 4 rows rows 0, 1 hold"):
        coupling(x0, x1)
