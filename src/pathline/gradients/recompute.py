"""What the recomputing gradients share: the inputs of a solve, its surroundings, and how they are restored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathline._random import snapshot
from pathline.gradients.base import aliases
from pathline.gradients.inputs import Inputs, find, mark, reached, transforming
from pathline.loop import Problem


@dataclass
class Recipe:
    """A solve as a function of the tensors that the field reads.

    Attributes:
        draws: whether the field draws random numbers, so that a recomputation must see the same ones.
        slope: the first slope, from the evaluation that showed the inputs.
    """

    problem: Problem
    inputs: Inputs
    autocast: tuple[str, bool, torch.dtype]
    draws: bool = False
    slope: Tensor | None = None

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """Autocast as it was in the forward pass."""
        kind, enabled, dtype = self.autocast
        with torch.autocast(kind, dtype=dtype, enabled=enabled) if enabled else torch.autocast(kind, enabled=False):
            yield

    @contextmanager
    def leaves(self, tensors: Sequence[Tensor], create_graph: bool) -> Iterator[tuple[list[Tensor], Any]]:
        """Inputs to differentiate a recomputation by, and the ``args`` to call the field with."""
        with ExitStack() as stack:
            stack.enter_context(self.surroundings())
            stack.enter_context(torch.enable_grad())
            if not create_graph and not transforming() and self.inputs.fixed_outside():
                yield list(tensors), self.inputs.args
                return
            fresh: list[Any] = aliases(tensors, create_graph or transforming())
            args = stack.enter_context(self.inputs.replaced(fresh))
            yield fresh, args

    @contextmanager
    def forward(self, tensors: Sequence[Tensor]) -> Iterator[Any]:
        """The ``args`` of the forward pass; under a transform the field must read what the transform handed in."""
        if transforming() or not self.inputs.fixed_outside():
            with self.inputs.replaced(tensors) as args:
                yield args
        else:
            yield self.inputs.args


def prepare(problem: Problem, y0: Tensor, args: Any, field: Any) -> Recipe:
    """Find what a solve depends on, with one evaluation of the field (which serves as the first slope)."""
    inputs = find((field, problem.save.fn), args)
    recipe = Recipe(problem, inputs, _autocast(y0.device.type))
    if problem.solver.needs != "rate":
        return recipe
    before = snapshot(y0.device)
    since = mark()
    with torch.enable_grad():
        probe = y0.detach().requires_grad_()
        slope = problem.term.rate(problem.times[0], probe, args)
    if not transforming():
        for leaf in reached([slope], [probe, *inputs.tensors], since):
            inputs.add(leaf, None)
    after = snapshot(y0.device)
    recipe.draws = any(a is not None and not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if problem.solver.carries_slope and not recipe.draws:
        recipe.slope = slope.detach()
    return recipe


def bare(problem: Problem, args: Any) -> Recipe:
    """A recipe for a recomputation that asks for no gradient of the field's inputs."""
    return Recipe(problem, Inputs(args), _autocast(problem.term.device.type))


def _autocast(kind: str) -> tuple[str, bool, torch.dtype]:
    return kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


class Watch:
    """Looks for tensors that the field began to read after the search at the start; their gradient would be lost."""

    def __init__(self, recipe: Recipe) -> None:
        self.active = not (recipe.inputs.complete or transforming())
        self.since = mark() if self.active else 0

    def check(self, outputs: Sequence[Tensor | None], known: Sequence[Tensor | None], t: float) -> None:
        """Raise RuntimeError if the graph of ``outputs`` reaches a tensor that is not ``known``."""
        if not self.active:
            return
        found = reached([x for x in outputs if x is not None], [x for x in known if x is not None], self.since)
        if found:
            shapes = ", ".join(str(tuple(x.shape)) for x in found)
            raise RuntimeError(
                f"Near t = {t:g} the field reads a tensor that requires grad (shape {shapes}) and that it did not "
                "read at the start; its gradient would be lost. Hold it in the module, or pass it in `args`."
            )
