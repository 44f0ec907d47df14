"""Tensors that no search finds: recomputing gradients say so, they never return a silent zero."""

from __future__ import annotations

import functools

import pytest
import torch

import pathline

LATE = torch.tensor([[0.3, -0.2], [0.1, 0.4]], requires_grad=True)
EARLY = torch.tensor([[0.1, 0.2], [-0.3, 0.4]], requires_grad=True)


class Weights:
    late = property(lambda self: globals()["LATE"])


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
@pytest.mark.parametrize("read", [lambda: globals()["LATE"], lambda: Weights().late], ids=["globals", "property"])
def test_a_leaf_that_is_first_read_late(read, gradient):
    y0 = torch.ones(2, requires_grad=True)
    field = lambda t, y: torch.tanh(y @ (EARLY if t < 0.5 else read()))  # noqa: E731
    with pytest.raises(RuntimeError, match="its gradient would be lost"):
        pathline.solve(field, y0, [0.0, 1.0], gradient=gradient).y1.sum().backward()


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_a_tensor_with_a_history_behind_a_cache(gradient):
    """It stands in a closure, where it is replaced, and is read through the cache, where it is not."""
    w = torch.randn(4, requires_grad=True)
    matrix = (2 * w).view(2, 2)
    memo = functools.lru_cache(lambda key: matrix)
    memo(0)
    y0 = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"ViewBackward0.*`args`"):
        pathline.solve(lambda t, y: torch.tanh(y @ memo(0)), y0, [0.0, 1.0], gradient=gradient).y1.sum().backward()


@pytest.mark.parametrize(("gradient", "draws"), [("backprop", 2), ("checkpointed", 3), ("adjoint", 2)])
def test_the_search_draws_no_random_numbers(gradient, draws):
    """Two Euler steps draw twice; a recomputing gradient draws the first slope again, inside its step."""
    field = lambda t, y: -y * (1 + 0 * torch.rand(()))  # noqa: E731
    y0 = torch.ones(2, requires_grad=True)
    torch.manual_seed(0)
    pathline.solve(field, y0, (0.0, 0.5), method="euler", dt=0.25, gradient=gradient)
    after = torch.rand(())
    torch.manual_seed(0)
    for _ in range(draws):
        torch.rand(())
    assert torch.equal(after, torch.rand(()))
