"""`solve` under torch.func.vmap: every entry is a sample with a clock of its own.

A solve reads values, and under vmap there are none to read. So it becomes one operation, a function of all tensors that
it depends on, with rules for the transforms around it: vmap makes it a solve with one clock a sample, whose field is
the user's under vmap over the rows that are active; a derivative makes it the same function under torch.func.vjp or
jvp, which has these rules in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pathline._random import restore, snapshot
from pathline._structure import real_dtype
from pathline.gradients.inputs import Inputs, find
from pathline.solution import Solution
from pathline.solvers import Solver, find_solver
from pathline.stats import Stats
from pathline.status import Status
from pathline.surroundings import check_layers
from pathline.terms import ODE, PerSample, Separable, Sum, Term, inner_graph, own_events, unwrapped, wants_graph
from pathline.times import as_times

Tensors = tuple[Tensor, ...]


def vmapping() -> bool:
    """Whether a torch.func.vmap is active."""
    stack = torch._C._functorch.get_interpreter_stack()  # pyright: ignore[reportAttributeAccessIssue]
    return stack is not None and any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)  # pyright: ignore[reportAttributeAccessIssue]


def batched(x: Tensor) -> bool:
    """Whether the values of a tensor are those of many entries, at any level."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


def solve_mapped(
    solve: Callable[..., Solution], f: Any, y0: Any, t: Any, args: Any, options: Mapping[str, Any]
) -> Solution | None:
    """A solve of which something is batched by vmap; None where nothing is.

    Args:
        solve: the front door, for one entry or with one clock a sample.
        f: what it was given, as the next three.
        y0: the start.
        t: the times.
        args: of the field.
        options: its other arguments.
    """
    inputs = find(f, args)
    leaves, spec = pytree.tree_flatten(y0)
    moving = any(isinstance(x, Tensor) for x in pytree.tree_leaves(t))
    ts = t if isinstance(t, Tensor) else as_times(t, leaves[0].device)
    operands = [*leaves, *([ts] if moving else []), *inputs.tensors]
    term = f if isinstance(f, Term) else ODE(f)
    if not inputs.complete:
        look_for_hidden(term, inputs, leaves, spec, ts)
    if not any(isinstance(x, Tensor) and batched(x) for x in operands):
        return None
    options = dict(options)
    _refuse_own_events(term, args, ts)
    _refuse(f, args, options)
    check_layers(f, args)
    save = options.pop("save")
    single = Single(solve, term, spec, None if moving else t, inputs, options)
    try:
        *outputs, valid = Operation.apply(single, *operands)  # pyright: ignore[reportGeneralTypeIssues]
    except RuntimeError as error:
        if "INTERNAL ASSERT" not in str(error):
            raise
        raise RuntimeError(  # torch found a tensor of a level that was taken off
            "The field reads a tensor that a transform inside torch.func.vmap differentiates by, and that was not "
            "found in its closure, its attributes or `args`. Pass it in `args`."
        ) from error
    ys, y1 = (pytree.tree_unflatten(outputs[i : i + len(leaves)], spec) for i in (0, len(leaves)))
    if save is not None and save.fn is not None:
        rows = [
            save.fn(ts[i].to(leaves[0].real.dtype), pytree.tree_map(lambda x, i=i: x[i], ys)) for i in range(len(ts))
        ]
        ys = pytree.tree_map(lambda *values: torch.stack(values), *rows)
    return Solution(ts=ts, ys=ys, y1=y1, t1=ts[-1], valid=valid, status=Status.SUCCESS, stats=single.stats)


def look_for_hidden(term: Term, inputs: Inputs, leaves: Sequence[Tensor], spec: Any, ts: Tensor) -> None:
    """Raise RuntimeError if the field reads a batched tensor that was not found: one entry's slope shows it."""
    if not term.offers("rate") or not all(isinstance(x, Tensor) for x in leaves):
        return
    y0, *tensors = pytree.tree_unflatten(list(map(_first, leaves)), spec), *map(_first, inputs.tensors)
    t0 = _first(ts).flatten()[0].to(device=leaves[0].device, dtype=real_dtype(leaves[0].dtype))
    device = leaves[0].device
    before = snapshot(device)
    try:
        with torch.no_grad(), inputs.replaced(tensors) as args:
            slope = term.rate(t0, y0, unwrapped(args, None))  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:  # noqa: BLE001 - the solve will say it better
        return
    finally:
        after = snapshot(device)
        restore(before, device)
    drew = any(a is not None and not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if not drew and any(isinstance(x, Tensor) and batched(x) for x in pytree.tree_leaves(slope)):
        raise RuntimeError(
            "The field reads a tensor batched by torch.func.vmap that was not found in its closure, its attributes or "
            "`args`. Pass it in `args`."
        )


def _refuse_own_events(term: Term, args: Any, ts: Tensor) -> None:
    """Raise for events that the field brings along, as the first entry tells."""
    single = pytree.tree_map(lambda x: _first(x) if isinstance(x, Tensor) else x, args)
    own = own_events(term, _first(ts)[[0, -1]], single, getattr(term, "rate", None))
    if own:
        raise ValueError(
            f"The field brings events along ({', '.join(map(str, own))}), and under torch.func.vmap entries would meet "
            "different numbers of them. Pass the batch as the first dimension of `y0` instead."
        )


def _first(x: Tensor) -> Tensor:
    """The values of the first entry."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_functorch_wrapped_tensor(x):
        dim = functorch.maybe_get_bdim(x)
        x = functorch.get_unwrapped(x)
        x = x if dim < 0 else x.select(dim, 0)
    return x.detach()


def _refuse(f: Any, args: Any, options: dict[str, Any]) -> None:
    """Raise for what has no answer that vmap could hand on as one tensor."""
    reasons = {
        "events": "entries meet different numbers of them",
        "integrals": "what their functions read does not reach them entry by entry; make them part of the state",
        "hooks": "it would see a batch in place of an entry",
        "progress": "entries end at different times",
    }
    for name, reason in reasons.items():
        if options.get(name):
            raise ValueError(
                f"`{name}` under torch.func.vmap is not available: {reason}. Pass the batch as the first dimension of "
                '`y0` with clock="per-sample" instead.'
            )
        options.pop(name, None)
    save = options["save"]
    if save is not None and (save.dense or save.steps):
        name = "dense" if save.dense else "steps"
        raise ValueError(
            f"Save({name}=True) under torch.func.vmap is not available: entries take different numbers of steps. Ask "
            "for the times you need in `t`."
        )
    if options.pop("on_failure") != "raise":
        raise ValueError(
            '`on_failure="return"` under torch.func.vmap is not available: an entry has no status of its own there. '
            'Pass the batch as the first dimension of `y0` with clock="per-sample" instead.'
        )
    if options.pop("clock") != "shared":
        raise ValueError(
            '`clock="per-sample"` under torch.func.vmap is not available: vmap gives every entry a clock of its own '
            "already. Leave out `clock`, or the vmap: then the first dimension of `y0` is the batch."
        )
    if isinstance(f, Term) and type(f) not in (ODE, Sum, Separable):
        raise TypeError(
            f"torch.func.vmap over `solve` knows ODE, Sum and Separable terms; it is given {type(f).__name__}. Pass "
            "the batch as the first dimension of `y0` instead."
        )
    for name in ("rtol", "atol", "dt", "controller"):
        value = options.get(name)
        held = vars(value).values() if name == "controller" and value is not None else [value]
        if any(isinstance(x, Tensor) and batched(x) for x in pytree.tree_leaves(list(held))):
            raise ValueError(f"`{name}` is batched by torch.func.vmap, and is the same for all entries. Pass numbers.")


# --- one operation with rules for all transforms -------------------------------------------------------------------


class Operation(torch.autograd.Function):
    """``function(*xs)``, whatever transforms are around it."""

    @staticmethod
    def forward(function: Any, *xs: Tensor) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        return function(*xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        function, *xs = inputs
        ctx.function = function
        ctx.save_for_backward(*xs)
        ctx.save_for_forward(*xs)
        flags = [y for y in output if not _floats(y)]
        ctx.flags = len(flags)
        ctx.mark_non_differentiable(*flags)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        xs = ctx.saved_tensors
        wanted = tuple(i for i in range(len(xs)) if ctx.needs_input_grad[i + 1])
        found = iter(_applied(Pulled(ctx.function, len(xs), wanted), *xs, *(g for g in cotangents if _floats(g))))
        return None, *(next(found) if i in wanted else None for i in range(len(xs)))

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        xs = ctx.saved_tensors
        wanted = tuple(i for i, v in enumerate(tangents) if v is not None)
        pushed = Pushed(ctx.function, len(xs), wanted)
        return (*_applied(pushed, *xs, *(v for v in tangents if v is not None)), *[None] * ctx.flags)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], function: Any, *xs: Tensor) -> tuple[Tensors, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dims = dims[1:]
        rows = [x if dim is None else x.movedim(dim, 0) for x, dim in zip(xs, dims, strict=True)]
        inner = function.mapped(info.batch_size, tuple(dim is not None for dim in dims), info.randomness)
        found = _applied(inner, *rows)
        return found, (0,) * len(found)


def _applied(function: Any, *xs: Tensor) -> Tensors:
    """The function as it is where the tensors have values, else as an operation that waits for them."""
    if vmapping() and any(batched(x) for x in xs):
        return Operation.apply(function, *xs)  # pyright: ignore[reportReturnType]
    return function(*xs)


def _floats(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


@dataclass(frozen=True)
class _Derivative:
    """A derivative of an operation, by its tensors in ``wanted``, as an operation of its own.

    Attributes:
        function: the operation.
        count: how many tensors it takes.
        wanted: which of them the derivative is taken by.
    """

    function: Any
    count: int
    wanted: tuple[int, ...]

    def part(self, xs: Sequence[Tensor]) -> Callable[..., Tensors]:
        """The operation as a function of what is wanted, without its flags."""

        def function(*values: Tensor) -> Tensors:
            full = list(xs)
            for i, value in zip(self.wanted, values, strict=True):
                full[i] = value
            return tuple(y for y in self.function(*full) if _floats(y))

        return function

    def mapped(self, size: int, flags: tuple[bool, ...], randomness: str) -> Callable[..., Tensors]:
        """The derivative of all entries at once; each has its own, also by what they share."""
        if not any(flags[: self.count]):
            return Entries(self, size, flags)
        own = tuple(flag or i in self.wanted for i, flag in enumerate(flags[: self.count]))
        inner = replace(self, function=self.function.mapped(size, own, randomness))
        spread = (*own, *[True] * (len(flags) - self.count))
        return Spread(inner, size, flags, spread)


class Pulled(_Derivative):
    """The vector-Jacobian product: of the tensors and the cotangents."""

    def __call__(self, *given: Tensor) -> Tensors:
        xs, cotangents = given[: self.count], given[self.count :]
        _, pull = torch.func.vjp(self.part(xs), *(xs[i] for i in self.wanted))  # pyright: ignore[reportAssignmentType]
        return pull(tuple(cotangents))


class Pushed(_Derivative):
    """The Jacobian-vector product: of the tensors and their tangents."""

    def __call__(self, *given: Tensor) -> Tensors:
        xs, tangents = given[: self.count], given[self.count :]
        return torch.func.jvp(self.part(xs), tuple(xs[i] for i in self.wanted), tuple(tangents))[1]  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Spread:
    """An operation whose shared tensors are given to every entry as its own.

    Attributes:
        flags: which tensors have an entry for each already.
        wanted: which are to have one.
        outer: which have another dimension before it.
    """

    function: Any
    size: int
    flags: tuple[bool, ...]
    wanted: tuple[bool, ...]
    outer: tuple[bool, ...] = ()

    def __call__(self, *xs: Tensor) -> Tensors:
        outer = self.outer or (False,) * len(xs)
        new = [wanted and not flag for flag, wanted in zip(self.flags, self.wanted, strict=True)]
        return self.function(*(self._spread(x, o) if n else x for x, n, o in zip(xs, new, outer, strict=True)))

    def _spread(self, x: Tensor, outer: bool) -> Tensor:
        return x.unsqueeze(1).expand(-1, self.size, *x.shape[1:]) if outer else x.expand(self.size, *x.shape)

    def mapped(self, size: int, flags: tuple[bool, ...], randomness: str) -> Any:
        """The same of entries of entries."""
        if self.outer:
            return Entries(self, size, flags)
        return replace(self, function=self.function.mapped(size, flags, randomness), outer=flags)


@dataclass(frozen=True)
class Entries:
    """An operation applied to one entry after the other.

    Attributes:
        flags: which tensors have an entry for each.
        outer: which have another dimension before it, which the operation takes whole; none by default.
    """

    function: Any
    size: int
    flags: tuple[bool, ...]
    outer: tuple[bool, ...] = ()

    def __call__(self, *xs: Tensor) -> Tensors:
        dims = [int(flag) for flag in self.outer] or [0] * len(xs)
        rows = [
            self.function(*(x.select(d, i) if f else x for x, f, d in zip(xs, self.flags, dims, strict=True)))
            for i in range(self.size)
        ]
        return tuple(torch.stack(column, 1 if self.outer else 0) for column in zip(*rows, strict=True))

    def mapped(self, size: int, flags: tuple[bool, ...], randomness: str) -> Any:
        """One after the other of as many as there are in the new dimension."""
        if self.outer or not any(flags):
            return Entries(self, size, flags)
        return replace(self, function=self.function.mapped(size, flags, randomness), outer=flags)


# --- the solve as such an operation --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Single:
    """The solve of one entry: of the leaves of the start, the times where they are tensors, and what the field reads.

    Returns the leaves of the rows, those of the last state, and which rows are valid.
    """

    solve: Callable[..., Solution]
    term: Term
    spec: Any
    times: Any
    inputs: Inputs
    options: Mapping[str, Any]
    stats: Stats = field(default_factory=Stats)

    def __call__(self, *xs: Tensor) -> Tensors:
        y0, t, tensors = self.parts(xs)
        solution = self.solve(self.field(self._entry), y0, t, args=list(tensors), **self.options)
        return self.outputs(solution)

    @property
    def solver(self) -> Solver:
        """The method; what has none, such as a steady state, is served like an explicit one."""
        return find_solver(self.options.get("method", "euler"))

    def parts(self, xs: Sequence[Tensor]) -> tuple[Any, Any, Sequence[Tensor]]:
        """Start, times, and the tensors of the field."""
        n = self.spec.num_leaves
        y0 = pytree.tree_unflatten(list(xs[:n]), self.spec)
        return (y0, xs[n], xs[n + 1 :]) if self.times is None else (y0, self.times, xs[n:])

    def outputs(self, solution: Solution) -> Tensors:
        """What is handed on; counts are added up."""
        for name in ("steps", "accepted", "rejected", "evaluations", "jacobians", "factorizations"):
            setattr(self.stats, name, getattr(self.stats, name) + getattr(solution.stats, name))
        return (*pytree.tree_leaves(solution.ys), *pytree.tree_leaves(solution.y1), solution.valid)

    def mapped(self, size: int, flags: tuple[bool, ...], randomness: str) -> Any:
        """All entries at once where the method knows clocks of single samples, else one after the other."""
        solver = self.solver
        if "per-sample" in getattr(solver, "clocks", ("per-sample",)):
            return Rows(self, size, flags, randomness)
        return Entries(self, size, flags)

    def field(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Term:
        """The term with its functions wrapped; they receive their tensors as ``args``.

        The wrappers are this module's own, so that no search looks for tensors behind them.
        """
        term = self.term
        if isinstance(term, Sum):
            return Sum(wrap(term.stiff.rate), wrap(term.nonstiff.rate))
        if self.solver.needs == "split":
            return Separable(wrap(term.kick), wrap(term.drift))  # pyright: ignore[reportAttributeAccessIssue]
        return ODE(wrap(term.rate))  # pyright: ignore[reportAttributeAccessIssue]

    def _entry(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def rate(t: Tensor, y: Any, args: Any) -> Any:
            with self.inputs.replaced(args) as own:
                return function(t, y, unwrapped(own, None))

        return rate


@dataclass(frozen=True)
class Rows:
    """The solves of all entries, with a clock for each.

    Attributes:
        single: the solve of one.
        size: how many there are.
        flags: which tensors have an entry for each, in their first dimension.
    """

    single: Single
    size: int
    flags: tuple[bool, ...]
    randomness: str
    flags_out = 1
    notes: dict[str, bool] = field(default_factory=dict)

    def __call__(self, *xs: Tensor) -> Tensors:
        single, n = self.single, self.single.spec.num_leaves
        starts = [x if flag else x.expand(self.size, *x.shape) for x, flag in zip(xs[:n], self.flags, strict=False)]
        y0, t, tensors = single.parts([*starts, *xs[n:]])
        own = self.flags[len(self.flags) - len(tensors) :]
        if single.times is None and self.flags[n]:
            t = t.T
        args = [PerSample(x) if flag else x for x, flag in zip(tensors, own, strict=True)]
        term = single.field(lambda function: self._rows(function, own))
        solution = single.solve(term, y0, t, args=args, clock="per-sample", **single.options)
        *ys, valid = single.outputs(solution)
        return (*(y.movedim(1, 0) for y in ys[:n]), *ys[n:], valid.T)

    def _rows(self, function: Callable[..., Any], own: tuple[bool, ...]) -> Callable[..., Any]:
        inputs, notes = self.single.inputs, self.notes

        def one(t: Tensor, y: Any, tensors: Tensors) -> Any:
            with inputs.replaced(tensors) as own:
                args = unwrapped(own, None)
                if "differentiates" not in notes:
                    try:
                        return function(t, y, args)
                    except RuntimeError as error:
                        if not wants_graph(error):
                            raise
                        notes["differentiates"] = True
                return inner_graph(lambda y: function(t, y, args), y)

        every = torch.func.vmap(
            one, in_dims=(0, 0, tuple(0 if flag else None for flag in own)), randomness=self.randomness
        )

        def rate(t: Tensor, y: Any, args: Any) -> Any:
            return every(t.reshape(-1), y, tuple(args))

        return rate

    def mapped(self, size: int, flags: tuple[bool, ...], randomness: str) -> Any:
        """Entries of entries: all of them in one row."""
        return Nested(self, size, flags, randomness)


@dataclass(frozen=True)
class Nested:
    """Entries of entries, as so many entries in one row."""

    rows: Rows
    size: int
    flags: tuple[bool, ...]
    randomness: str

    def __call__(self, *xs: Tensor) -> Tensors:
        rows = self.rows
        together = [self._joined(x, outer, inner) for x, outer, inner in zip(xs, self.flags, rows.flags, strict=True)]
        flags = tuple(a or b for a, b in zip(self.flags, rows.flags, strict=True))
        found = Rows(rows.single, self.size * rows.size, flags, self.randomness, rows.notes)(*together)
        return tuple(y.unflatten(0, (self.size, rows.size)) for y in found)

    def _joined(self, x: Tensor, outer: bool, inner: bool) -> Tensor:
        if outer and inner:
            return x.flatten(0, 1)
        if outer:
            return x.repeat_interleave(self.rows.size, 0)
        return x.repeat(self.size, *[1] * (x.dim() - 1)) if inner else x

    def mapped(self, size: int, flags: tuple[bool, ...], randomness: str) -> Any:
        """Entry by entry of these."""
        return Entries(self, size, flags)
