"""What the recomputing gradients share: the inputs of a solve, its surroundings, and how they are restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathline._random import restore, snapshot
from pathline.gradients.base import aliases, pull_back
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
    if problem.solver.needs == "contract":
        return recipe
    if transforming():  # a transform hands tensors in through places, which the search sees
        return recipe
    before = snapshot(y0.device)
    since = mark()
    with torch.enable_grad():
        probe = y0.detach().requires_grad_()
        slope = problem.term.rate(problem.times[0], probe, args)
    for leaf in reached([slope], [probe, *inputs.tensors], since):
        inputs.add(leaf, None)
    after = snapshot(y0.device)
    restore(before, y0.device)
    recipe.draws = any(a is not None and not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if problem.solver.carries_slope and not recipe.draws:
        recipe.slope = slope.detach()
    return recipe


def bare(problem: Problem, args: Any) -> Recipe:
    """A recipe for a recomputation that asks for no gradient of the field's inputs."""
    return Recipe(problem, Inputs(args), _autocast(problem.term.device.type))


def _autocast(kind: str) -> tuple[str, bool, torch.dtype]:
    return kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def no_forward_mode() -> RuntimeError:
    """The answer to torch.func.jvp, jacfwd and hessian."""
    return RuntimeError('Forward mode (jvp, jacfwd, hessian) is offered by gradient="backprop" alone. Use that.')


Piece = Callable[[Sequence[Any], Any, Any], Sequence[Tensor | None]]


class Tape:
    """Vector-Jacobian products of pieces of a solve that are computed again.

    A piece is a function ``piece(own, t, args) -> tensors`` of its own tensors, of the requested times (or None) and of
    what the field reads. Ordinary tensors stand in as fresh names at which the graph ends, so that the product is
    itself differentiable; under a torch.func transform the product is the transform's.

    Args:
        recipe: of the solve.
        t: the requested times, where they are differentiated.
        tensors: the inputs of the field.
        create_graph: whether the product is to be differentiated in turn.
    """

    def __init__(self, recipe: Recipe, t: Tensor | None, tensors: Sequence[Tensor], create_graph: bool) -> None:
        self.recipe, self.create_graph = recipe, create_graph
        self.transform = transforming()
        self.nested = False
        self.t, self.inputs = t, list(tensors)
        self.args: Any = recipe.inputs.args
        self.watch = not (recipe.inputs.complete or self.transform)
        self.since = mark() if self.watch else 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """The surroundings of the forward pass, and the field reading this tape's tensors."""
        inputs = self.recipe.inputs
        with ExitStack() as stack:
            stack.enter_context(self.recipe.surroundings())
            if not self.transform:
                (self.t,) = aliases([self.t], self.create_graph)
                if self.create_graph or not inputs.fixed_outside():
                    self.inputs = [x for x in aliases(self.inputs, self.create_graph) if x is not None]
                    self.args = stack.enter_context(inputs.replaced(self.inputs))
            yield

    def pull(
        self,
        piece: Piece,
        own: Sequence[Tensor | None],
        cotangents: Sequence[Tensor | None],
        at: float,
        *,
        parameters: bool | None = None,
        keep: bool = False,
        through: bool = False,
    ) -> tuple[Tensor | None, list[Tensor | None], Tensor | None, list[Tensor | None]]:
        """The piece's first output, and the cotangents of its own tensors, of the times, and of the inputs.

        Args:
            piece: what to compute again.
            own: its tensors; None stays None.
            cotangents: of its outputs; None is zero.
            at: the time, for messages.
            parameters: True asks for the cotangents of times and inputs alone, False for its own tensors' alone.
            keep: whether the first output is wanted.
            through: whether output and cotangents are differentiated by the own tensors at once, for a Jacobian.
        """
        if self.transform:
            return self._transformed(piece, own, cotangents)
        graph = self.create_graph or through
        own = aliases(own, graph)
        if self.create_graph and not self.nested:
            return self._nested(piece, own, cotangents, at, parameters, keep)
        with torch.enable_grad():
            outputs = list(piece(own, self.t, self.args))
        if self.watch and not through:
            self._check(outputs, [x for x in (*own, self.t, *self.inputs) if x is not None], at)
        asked = [
            *(own if parameters is not True else [None] * len(own)),
            *([self.t, *self.inputs] if parameters is not False else [None] * (1 + len(self.inputs))),
        ]
        first = outputs[0] if keep else None
        pulled = iter(pull_back(outputs, cotangents, [x for x in asked if x is not None], graph))
        grads = [None if x is None else next(pulled) for x in asked]
        n = len(own)
        return first, grads[:n], grads[n], grads[n + 1 :]

    def _nested(
        self,
        piece: Piece,
        own: Any,
        cotangents: Sequence[Tensor | None],
        at: float,
        parameters: bool | None,
        keep: bool,
    ) -> Any:
        """`pull` with a graph: own tensors may depend on the inputs, and names for this piece alone keep them apart."""
        t, inputs, args = self.t, self.inputs, self.args
        self.nested = True
        try:
            (self.t,) = aliases([t], True)
            self.inputs = [x for x in aliases(inputs, True) if x is not None]
            with self.recipe.inputs.replaced(self.inputs) as self.args:
                return self.pull(piece, own, cotangents, at, parameters=parameters, keep=keep)
        finally:
            self.t, self.inputs, self.args, self.nested = t, inputs, args, False

    def _transformed(self, piece: Piece, own: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]) -> Any:
        given = [*own, self.t, *self.inputs]
        present = [i for i, x in enumerate(given) if x is not None]
        kept: list[int] = []

        def run(*primals: Tensor) -> tuple[Tensor, ...]:
            full: list[Any] = [None] * len(given)
            for i, x in zip(present, primals, strict=True):
                full[i] = x
            with self.recipe.inputs.replaced(full[len(own) + 1 :]) as args:
                outputs = piece(full[: len(own)], full[len(own)], args)
            kept[:] = [j for j, x in enumerate(outputs) if x is not None]
            return tuple(x for x in outputs if x is not None)

        values, pull = torch.func.vjp(run, *(given[i] for i in present))  # pyright: ignore[reportAssignmentType]
        wanted = [cotangents[j] for j in kept]
        pulled = pull(tuple(torch.zeros_like(v) if g is None else g for v, g in zip(values, wanted, strict=True)))
        grads: list[Any] = [None] * len(given)
        for i, g in zip(present, pulled, strict=True):
            grads[i] = g
        return values[0], grads[: len(own)], grads[len(own)], grads[len(own) + 1 :]

    def _check(self, outputs: Sequence[Tensor | None], known: Sequence[Tensor], at: float) -> None:
        """Raise RuntimeError if the graph reaches a tensor that the search at the start did not see."""
        found = reached([x for x in outputs if x is not None], known, self.since)
        if found:
            shapes = ", ".join(str(tuple(x.shape)) for x in found)
            raise RuntimeError(
                f"Near t = {at:g} the field reads a tensor that requires grad (shape {shapes}) and that it did not "
                "read at the start; its gradient would be lost. Hold it in the module, or pass it in `args`."
            )
