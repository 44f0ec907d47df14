"""The original's adjoint: its parameters, its norm that programs may exchange, its callbacks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pathline.compat._calls import NO_HOOKS, Call, hooks, mixed_norm
from pathline.compat._errors import ERRORS
from pathline.compat._methods import plan
from pathline.compat._record import RECORD
from pathline.controllers import PID
from pathline.gradients.adjoint import Adjoint
from pathline.gradients.inputs import Inputs, find, mark, reached, transforming
from pathline.gradients.interpolated import Trail
from pathline.gradients.recompute import Recipe, bare
from pathline.loop import Problem
from pathline.status import SolveError

#: How far, relative to its size, the state integrated backwards may miss its stored value before a program hears of it.
LOST = 0.1

Norm = Callable[[tuple[Tensor, ...]], Any]


class Given(Inputs):
    """The parameters that the program names, and no others; places are looked for when they are needed."""

    def __init__(self, parameters: Sequence[Tensor], source: Any) -> None:
        super().__init__(None)
        self.source = source
        self.located = False
        for parameter in parameters:
            self.add(parameter, None)

    def fixed_outside(self) -> bool:
        """Tensors made by other operations may stay: the graph of a recomputation ends at them."""
        return not any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in self.tensors)  # pyright: ignore[reportAttributeAccessIssue]

    @contextmanager
    def replaced(self, tensors: Sequence[Tensor]) -> Iterator[Any]:
        """The field reads ``tensors`` in place of its own."""
        if not self.located:
            self.located = True
            found = find(self.source, None)
            for tensor, places in zip(found.tensors, found.places, strict=True):
                if id(tensor) in self._index:
                    self.places[self._index[id(tensor)]] = places
        with super().replaced(tensors) as args:
            yield args


@dataclass(frozen=True)
class Live(Adjoint):
    """An adjoint whose options may be exchanged until the backward pass: ``grad_fn.adjoint_options``.

    Args:
        parameters: that receive gradients.
        options: the adjoint's options with the norm in force, on ``(a_t, y, a, *a_theta)`` with flat ``y`` and ``a``.
        seminorm: the norm that leaves time and parameters out.
        named: whether the program named the parameters.
    """

    parameters: tuple[Tensor, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    seminorm: Norm | None = None
    named: bool = True

    def prepare(self, problem: Problem, y0: Tensor, args: Any, field: Any) -> Recipe:
        """The parameters as the only inputs; others that the field reads are told of."""
        recipe = bare(problem, args)
        recipe.inputs = inputs = Given(self.parameters, field)
        if self.named or transforming() or not problem.solver.carries_slope:
            return recipe
        since = mark()
        with torch.enable_grad():
            probe = y0.detach().requires_grad_()
            slope = problem.term.rate(problem.times[0], probe, args)
        recipe.slope = slope.detach()
        try:
            lost = bool(reached([slope], [probe, *inputs.tensors], since))
        except RuntimeError:
            lost = True
        if lost:
            warnings.warn(
                "`func` reads a tensor that requires grad and is none of its parameters; the adjoint gives it no "
                "gradient. Name all of them: adjoint_params=(*func.parameters(), ...).",
                stacklevel=5,
            )
        return recipe

    def backward(self, recipe: Recipe, trail: Trail, *given: Any) -> list[Tensor | None]:
        """The backward pass under the norm that is in force now."""
        norm = self.options["norm"]
        if norm is self.seminorm and self.hooks is None:
            chosen = replace(self, norm="seminorm")
        else:
            chosen = replace(self, norm=lambda parts: abs(norm(flat_parts(parts))))
        with RECORD.backward():
            try:
                found = Adjoint.backward(chosen, recipe, trail, *given)
            except SolveError as error:
                status = error.status
                raise ERRORS[status](str(error), error.solution, status) from None  # pyright: ignore[reportArgumentType]
        unused = zip(found[2:], given[-1], strict=True)
        return [*found[:2], *(torch.zeros_like(x) if g is None else g for g, x in unused)]

    def missed(self, message: str, worst: float) -> None:
        """The original says nothing. Fixed steps are not expected to return; of others a wide miss is told."""
        if worst > LOST and isinstance(self.controller, PID):
            warnings.warn(f"{message} Use odeint, which is exact.", stacklevel=3)


def flat_parts(parts: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """``(a_t, y, a, *a_theta)`` with the state and its adjoint as one vector each."""
    time, y, a, *rest = parts
    y, a = (torch.cat([x.reshape(-1) for x in z]) if isinstance(z, tuple) else z for z in (y, a))
    return time, y, a, *rest


def parameters_of(func: Any) -> list[Tensor]:
    """Its parameters; those of a replica of DataParallel are plain attributes."""
    if not getattr(func, "_is_replica", False):
        return list(func.parameters())
    return [x for m in func.modules() for x in vars(m).values() if isinstance(x, Tensor) and x.requires_grad]


def wanted(parameters: Sequence[Tensor], options: dict[str, Any]) -> tuple[Tensor, ...]:
    """Those that require grad; a norm of the program's own is told that the others are missing."""
    kept = tuple(x for x in parameters if x.requires_grad)
    if len(kept) < len(parameters) and callable(options.get("norm")):
        warnings.warn(
            "An adjoint parameter was passed without requiring gradient. For efficiency this will be excluded from the "
            "adjoint pass, and will not appear as a tensor in the adjoint norm.",
            stacklevel=3,
        )
    return kept


@dataclass(frozen=True)
class Wishes:
    """What a call says of its backward solve.

    Raises:
        ValueError: ``func`` is no module and its parameters are not named, or the options cannot be inherited.
    """

    func: Any
    method: str | None
    options: dict[str, Any] | None
    rtol: Any
    atol: Any
    adjoint_rtol: Any
    adjoint_atol: Any
    adjoint_method: str | None
    adjoint_options: dict[str, Any] | None
    adjoint_params: Any

    def __post_init__(self) -> None:
        if self.adjoint_params is None and not isinstance(self.func, nn.Module):
            raise ValueError(
                "func must be an instance of nn.Module to specify the adjoint parameters; alternatively they can be "
                "specified explicitly via the `adjoint_params` argument. If there are no parameters then it is "
                "allowable to set `adjoint_params=()`."
            )
        if self.own_method != self.method and self.options is not None and self.adjoint_options is None:
            raise ValueError(
                "If `adjoint_method != method` then we cannot infer `adjoint_options` from `options`. So as `options` "
                "has been passed then `adjoint_options` must be passed as well."
            )

    @property
    def own_method(self) -> str | None:
        """Of the backward solve."""
        return self.method if self.adjoint_method is None else self.adjoint_method

    def own_options(self) -> dict[str, Any]:
        """Of the backward solve: its own, or those of the forward one without its norm."""
        if self.adjoint_options is not None:
            return dict(self.adjoint_options)
        return {key: value for key, value in (self.options or {}).items() if key != "norm"}

    def gradient(self, call: Call) -> Live:
        """The adjoint of a call."""
        options, norms = self.own_options(), _norms(call)
        rtol, atol = (
            call.tolerance("adjoint_" + name, given if own is None else own)
            for name, own, given in (("rtol", self.adjoint_rtol, self.rtol), ("atol", self.adjoint_atol, self.atol))
        )
        parameters = parameters_of(self.func) if self.adjoint_params is None else tuple(self.adjoint_params)
        chosen = plan(self.own_method, options, rtol, atol, None, call.t.dtype, inner=False)
        called = hooks(self.func, chosen, "_adjoint", flat_parts)
        return Live(
            method=chosen.solver,
            rtol=rtol,  # pyright: ignore[reportArgumentType]
            atol=atol,  # pyright: ignore[reportArgumentType]
            controller=chosen.controller,
            control_parameters=True,
            max_steps=chosen.max_steps,
            hooks=None if called is NO_HOOKS else called,
            parameters=wanted(parameters, options),
            options={**options, "norm": _chosen(options.get("norm"), norms, call)},
            seminorm=norms[1],
            named=self.adjoint_params is not None,
        )


def _norms(call: Call) -> tuple[Norm, Norm]:
    """The original's two: the largest norm of the parts, and that of time, state and adjoint alone."""

    def of_state(x: Tensor) -> Tensor:
        parts = call.structure.unravel(x)
        if call.norm is None:
            return mixed_norm(parts if call.parts else (x,))
        return call.norm(parts)

    def seminorm(parts: tuple[Tensor, ...]) -> Tensor:
        time, y, a, *_ = parts
        return torch.stack([time.abs(), of_state(y), of_state(a)]).max()

    def largest(parts: tuple[Tensor, ...]) -> Tensor:
        found = seminorm(parts)
        return torch.maximum(found, mixed_norm(parts[3:])) if parts[3:] else found

    return largest, seminorm


def _chosen(norm: Any, norms: tuple[Norm, Norm], call: Call) -> Norm:
    largest, seminorm = norms
    if norm is None or norm == "seminorm":
        return largest if norm is None else seminorm
    if not call.parts:
        return norm
    unravel = call.structure.unravel
    return lambda parts: norm((parts[0], *unravel(parts[1]), *unravel(parts[2]), *parts[3:]))
