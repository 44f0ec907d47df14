"""Paths: their velocity is their derivative, and their ends are base and data."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pathline.models import PATHS, ConditionalOT, Rectified, SchroedingerBridge, VariancePreserving
from pathline.models.densities.paths import find_path

EVERY = [
    ConditionalOT(),
    ConditionalOT(0.1),
    Rectified(),
    Rectified(0.3),
    VariancePreserving(),
    SchroedingerBridge(),
    SchroedingerBridge(0.4, margin=0.01),
]


def _events(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, x1, noise = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return x0, x1, noise


@pytest.mark.parametrize("path", EVERY, ids=str)
def test_velocity_is_the_derivative_by_time(path) -> None:
    x0, x1, noise = _events(4, 2, 3)
    start, end = path.span
    times = start + (end - start) * torch.tensor([0.02, 0.3, 0.6, 0.98], dtype=torch.float64)
    t = times.reshape(4, 1, 1).requires_grad_()
    x, u = path(x0, x1, t, noise)
    for index in itertools.product(range(2), range(3)):
        (slope,) = torch.autograd.grad(x[:, *index].sum(), t, retain_graph=True)
        torch.testing.assert_close(u[:, *index], slope.flatten(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [ConditionalOT(), Rectified(), VariancePreserving()], ids=str)
def test_ends_are_the_two_events(path) -> None:
    x0, x1, _ = _events(5, 2)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(path(x0, x1, zero)[0], x0)
    torch.testing.assert_close(path(x0, x1, one)[0], x1)


def test_conditional_ot_ends_with_the_width_that_was_asked_for() -> None:
    x0, x1, _ = _events(5, 2)
    end, _ = ConditionalOT(0.1)(x0, x1, torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(end, x1 + 0.1 * x0)


def test_variance_preserving_keeps_the_variance() -> None:
    generator = torch.Generator().manual_seed(1)
    x0, x1 = (torch.randn(20000, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    for t in (0.1, 0.5, 0.9):
        x, _ = VariancePreserving()(x0, x1, torch.tensor(t, dtype=torch.float64))
        assert float(x.var()) == pytest.approx(1.0, abs=0.05)
        straight, _ = Rectified()(x0, x1, torch.tensor(t, dtype=torch.float64))
        assert float(straight.var()) == pytest.approx(t**2 + (1 - t) ** 2, abs=0.05)


def test_bridge_has_the_variance_of_a_brownian_bridge() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(20000, 1, generator=generator, dtype=torch.float64)
    at = torch.zeros_like(noise)
    for t in (0.1, 0.5):
        x, _ = SchroedingerBridge(0.5)(at, at, torch.tensor(t, dtype=torch.float64), noise)
        assert float(x.std()) == pytest.approx(0.5 * math.sqrt(t * (1 - t)), rel=0.03)


def test_noise_is_asked_for_where_it_is_used() -> None:
    x0, x1, _ = _events(5, 2)
    assert not Rectified().noisy
    assert Rectified(0.1).noisy
    with pytest.raises(ValueError, match=r"`noise` is needed.*randn_like"):
        SchroedingerBridge()(x0, x1, torch.tensor(0.5))


def test_names() -> None:
    assert {type(find_path(name)) for name in PATHS} == set(PATHS.values())
    path = ConditionalOT(0.2)
    assert find_path(path) is path
    with pytest.raises(ValueError, match='No path is called "rectifeid". Did you mean "rectified"'):
        find_path("rectifeid")
    with pytest.raises(TypeError, match="`path` is a name"):
        find_path(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConditionalOT(1.0), "`sigma_min` is 0 or more and less than 1, but 1.0 came"),
        (lambda: ConditionalOT(-0.1), "`sigma_min`"),
        (lambda: Rectified(math.inf), "`sigma` is 0 or more and finite"),
        (lambda: SchroedingerBridge(0.0), "`sigma` is above 0"),
        (lambda: SchroedingerBridge(1.0, margin=0.5), "`margin` is above 0 and less than 0.5"),
        (lambda: SchroedingerBridge(math.nan), "`sigma`"),
    ],
)
def test_widths_that_make_no_sense_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("path", EVERY, ids=str)
def test_shapes_that_would_broadcast_are_refused(path) -> None:
    x = torch.randn(4, 4)
    noise = torch.randn_like(x)
    with pytest.raises(ValueError, match=r"one an event, of shape \(4, 1\), but \(4,\) came. Try t.reshape\(-1, 1\)"):
        path(x, x, torch.full((4,), 0.5), noise)
    with pytest.raises(ValueError, match=r"of shape \(4, 1\), but \(3, 1\) came"):
        path(x, x, torch.full((3, 1), 0.5), noise)
    with pytest.raises(ValueError, match=r"`x0` and `x1` are events in equal number.*\(4, 4\) and \(1, 4\) came"):
        path(x, x[:1], torch.tensor(0.5), noise)
    if path.noisy:
        with pytest.raises(ValueError, match=r"`noise` is in the shape of `x1`, \(4, 4\), but \(4, 1\) came"):
            path(x, x, torch.tensor(0.5), noise[:, :1])
