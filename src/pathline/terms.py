"""Terms: what is integrated against what.

A term offers ``rate(t, y, args)`` (an ODE), perhaps in two parts (`Sum`, `Separable`), or ``control(t0, t1)`` and
``contract(t, y, control, args)`` (driven by data or noise). A solver names what it needs; a
term that lacks it is refused.
"""

from __future__ import annotations

import inspect
import math
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pathline._forward import forward_mode, moves
from pathline._structure import Structure, host, real_dtype
from pathline.tolerance import Tolerance

Time = float | Tensor


class Term:
    """Base of all terms. A subclass offers ``rate``, or ``control`` and ``contract``. *Maturing.*"""

    def offers(self, need: str) -> bool:
        """Whether the term has the method or part that a solver needs."""
        return callable(getattr(self, need, None))


class ODE(Term):
    """dy/dt = f(t, y, args).

    Args:
        f: ``f(t, y)``, ``f(t, y, args)``, or a module or function of ``y`` alone (autonomous). Decided once, from the
            signature. A module with methods ``kick`` and ``drift`` is separable too.
        jacobian: ``jacobian(t, y, args) -> df/dy`` for implicit methods, of shape ``(*state, *state)`` behind the
            dimensions of the batch; by default it is found by automatic differentiation.

    Raises:
        TypeError: ``f`` is not callable, or takes another number of arguments.

    Example:
        >>> import torch
        >>> ODE(lambda t, y: -y).rate(torch.tensor(0.0), torch.ones(2), None)
        tensor([-1., -1.])
    """

    def __init__(self, f: Callable[..., Any], jacobian: Callable[..., Tensor] | None = None) -> None:
        self.f = f
        self.takes = _remembered_arity(f)
        self.jacobian = jacobian

    def offers(self, need: str) -> bool:
        """Whether the term has what a solver needs."""
        if need in ("kick", "drift"):
            return callable(getattr(self.f, need, None))
        return super().offers(need)

    def rate(self, t: Tensor, y: Any, args: Any) -> Any:
        """The slope at ``(t, y)``, in the structure of ``y``."""
        if self.takes == 2:
            return self.f(t, y)
        if self.takes == 3:
            return self.f(t, y, args)
        return self.f(y)

    def kick(self, t: Tensor, q: Any, args: Any) -> Any:
        """dp/dt of a separable field."""
        return _call(self.f.kick, t, q, args)  # pyright: ignore[reportFunctionMemberAccess]

    def drift(self, t: Tensor, p: Any, args: Any) -> Any:
        """dq/dt of a separable field."""
        return _call(self.f.drift, t, p, args)  # pyright: ignore[reportFunctionMemberAccess]


class Sum(Term):
    """dy/dt = stiff(t, y, args) + nonstiff(t, y, args), for methods that are implicit in the first part alone.

    Any other method integrates the sum. *Maturing.*

    Args:
        stiff: a function, module or `ODE`; the implicit part.
        nonstiff: alike; the explicit part.

    Example:
        >>> import torch, pathline
        >>> term = pathline.Sum(lambda t, y: -1e3 * y, lambda t, y: torch.cos(t).expand_as(y))
        >>> pathline.solve(term, torch.ones(1), (0.0, 1.0), method="kencarp4").status.value
        'success'
    """

    def __init__(self, stiff: Callable[..., Any] | ODE, nonstiff: Callable[..., Any] | ODE) -> None:
        self.stiff = stiff if isinstance(stiff, ODE) else ODE(stiff)
        self.nonstiff = nonstiff if isinstance(nonstiff, ODE) else ODE(nonstiff)
        self.takes = max(self.stiff.takes, self.nonstiff.takes)

    def offers(self, need: str) -> bool:
        """Whether the term has the part that a solver needs."""
        return need in ("stiff", "nonstiff") or super().offers(need)

    def rate(self, t: Tensor, y: Any, args: Any) -> Any:
        """The sum of both parts."""
        return pytree.tree_map(torch.add, self.stiff.rate(t, y, args), self.nonstiff.rate(t, y, args))


class Separable(Term):
    """dq/dt = drift(t, p, args), dp/dt = kick(t, q, args): a state in two halves that push each other.

    The state is a pair (q, p): a tuple or dict of two tensors, or one tensor whose last dimension holds q, then p.
    *Maturing.*

    Args:
        kick: ``kick(t, q)`` or ``kick(t, q, args)``, the rate of p; minus the gradient of the potential.
        drift: ``drift(t, p)`` or ``drift(t, p, args)``, the rate of q; the gradient of the kinetic energy.

    Example:
        >>> import torch, pathline
        >>> pendulum = pathline.Separable(kick=lambda t, q: -torch.sin(q), drift=lambda t, p: p)
        >>> pathline.solve(pendulum, torch.tensor([1.0, 0.0]), (0.0, 1.0), method="leapfrog", dt=0.1).y1.shape
        torch.Size([2])
    """

    def __init__(self, kick: Callable[..., Any], drift: Callable[..., Any]) -> None:
        self._kick, self._drift = kick, drift
        self.takes = max(_remembered_arity(kick), _remembered_arity(drift))

    def kick(self, t: Tensor, q: Any, args: Any) -> Any:
        """dp/dt."""
        return _call(self._kick, t, q, args)

    def drift(self, t: Tensor, p: Any, args: Any) -> Any:
        """dq/dt."""
        return _call(self._drift, t, p, args)

    def rate(self, t: Tensor, y: Any, args: Any) -> Any:
        """Both halves at once, for methods that know no split."""
        if isinstance(y, Tensor):
            q, p = y.chunk(2, dim=-1)
            return torch.cat([self.drift(t, p, args), self.kick(t, q, args)], dim=-1)
        (q, p), spec = pytree.tree_flatten(y)
        return pytree.tree_unflatten([self.drift(t, p, args), self.kick(t, q, args)], spec)


def own_events(f: Any, ends: Any, args: Any, rate: Callable[..., Any] | None) -> dict[Any, Any]:
    """The events that a field brings along, by name; those of its parts, where it is a term.

    Args:
        f: a field or a term. Its method is ``own_events(span, args, rate)``, with the first and last time, ``(2,)`` in
            float64 (``(2, batch)`` with one clock a sample), and ``args`` as the field receives them.
        ends: first and last time.
        args: of the solve.
        rate: ``rate(t, y, args)`` of all that is solved, of which the field may be a part.
    """
    tellers = _tellers(f)
    if not tellers:
        _warn_of_lost(args)
        return {}
    span = torch.stack([torch.as_tensor(t, dtype=torch.float64).detach() for t in ends])
    found: dict[Any, Any] = {}
    for own in tellers:
        told = own(span, unwrapped(args, None), rate)
        if not isinstance(told, Mapping):
            raise TypeError(f"`own_events` of a field returns {{name: Event}}, but {type(told).__name__} came.")
        for name in found.keys() & told.keys():
            raise ValueError(f"Two parts of the field bring events of the name {name!r} along. Rename one of them.")
        found |= told
    return found


def _tellers(f: Any) -> list[Callable[..., Any]]:
    """The methods of a field, or of the parts of a term, that tell of events."""
    if isinstance(f, Sum):
        return [*_tellers(f.stiff), *_tellers(f.nonstiff)]
    own = getattr(f.f if isinstance(f, ODE) else f, "own_events", None)
    return [] if own is None else [own]


def _warn_of_lost(args: Any) -> None:
    """Some things in ``args`` come at times that the field has to tell: say so where it doesn't."""

    def timed(leaf: Any) -> bool:
        return getattr(leaf, "needs_own_events", False) is True

    for leaf in pytree.tree_leaves(args, is_leaf=timed) if args is not None else ():
        if timed(leaf):
            warnings.warn(
                f"`args` hold {type(leaf).__name__}, but the field brings no events along that tell `solve` when they "
                "come, so that they are lost or stepped over. Solve the field that takes them itself; one of your own "
                "around it hands on its `own_events`.",
                stacklevel=5,
            )
            return


def _call(f: Callable[..., Any], t: Tensor, y: Any, args: Any) -> Any:
    takes = _remembered_arity(f)
    return f(t, y, args) if takes == 3 else f(t, y) if takes == 2 else f(y)


class PerSample:
    """A leaf of ``args`` with one entry a sample, ``(batch, ...)``.

    On the per-sample clock the field receives those of the samples that are still active. *Maturing.*

    Args:
        value: a tensor, or a structure of tensors, with the batch first.

    Example:
        >>> import torch, pathline
        >>> rates = pathline.PerSample(torch.tensor([[1.0], [2.0]]))
        >>> field = lambda t, y, rate: -rate * y
        >>> pathline.solve(field, torch.ones(2, 1), (0.0, 1.0), args=rates, clock="per-sample").y1.shape
        torch.Size([2, 1])
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"PerSample({self.value!r})"


pytree.register_pytree_node(
    PerSample,
    lambda leaf: ([leaf.value], None),
    lambda children, _: PerSample(next(iter(children))),
    serialized_type_name="pathline.PerSample",
)


def _is_per_sample(leaf: Any) -> bool:
    return isinstance(leaf, PerSample)


def holds_per_sample(args: Any) -> bool:
    """Whether ``args`` has a leaf for each sample."""
    return any(map(_is_per_sample, pytree.tree_leaves(args, is_leaf=_is_per_sample)))


def unwrapped(args: Any, index: Tensor | None) -> Any:
    """``args`` as the field receives them: of the samples in ``index``, or of all."""

    def rows(leaf: Any) -> Any:
        if not isinstance(leaf, PerSample):
            return leaf
        if index is None:
            return leaf.value
        return pytree.tree_map(lambda x: x[index] if isinstance(x, Tensor) else x, leaf.value)

    return pytree.tree_map(rows, args, is_leaf=_is_per_sample)


_ARITIES: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_BOUND_ARITIES: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def _remembered_arity(f: Callable[..., Any]) -> int:
    """`_arity`, once a code object: reading a signature costs as much as an evaluation of a small field."""
    if isinstance(f, nn.Module):
        f = f._modules.get("_orig_mod") or f  # what torch.compile wraps tells its arguments, the wrapper does not
    target = type(f).forward if isinstance(f, nn.Module) and "forward" not in vars(f) else f
    bound = isinstance(target, types.MethodType)
    code = getattr(target, "__code__", None) if bound or isinstance(target, types.FunctionType) else None
    if code is None or torch.compiler.is_compiling():  # a dictionary that is read in a trace is guarded, entry by entry
        return _arity(f)
    known = _BOUND_ARITIES if bound else _ARITIES
    arity = known.get(code)
    if arity is None:
        arity = known[code] = _arity(f)
    return arity


def _arity(f: Callable[..., Any]) -> int:
    """How many of (t, y, args) the field takes: 1 means y alone."""
    if not callable(f):
        raise TypeError(f"`f` is a function f(t, y), f(t, y, args), a module or a Term; it is {type(f).__name__}.")
    target = f.forward if isinstance(f, nn.Module) else f
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return 1  # builtins such as torch.sin carry no signature; they take one tensor
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    needs_keyword = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and len(positional) < 2:
        return 2
    if not positional or len(required) > 3 or needs_keyword:
        raise TypeError(
            f"`f` takes (t, y), (t, y, args) or (y); its signature is {inspect.signature(target)}. "
            "Bind further arguments with functools.partial, or pass them in `args`."
        )
    if len(positional) >= 3 and (len(required) == 3 or positional[2].name == "args"):
        return 3
    return 1 if len(required) == 1 or len(positional) == 1 else 2


#: References to a tensor that nobody else holds: a local name, and the argument that counts them.
_OURS = 2


class Bound:
    """A term during one solve: it makes the time that the field receives, counts evaluations, and checks what returns.

    Solvers call it with flat states and with times as floats or tensors. Restricted to ``[low, high]`` it never shows
    the field a time outside: next to a jump the field sees only its own side. On the per-sample clock it serves the
    rows in ``index``: their times, their entries of ``args``.

    Attributes:
        tolerance: of the solve; None where the steps are fixed.
        per_sample: whether times are ``(rows,)``, one for each sample.
        index: the samples that are served; None for all.
        exact: whether steps will be made again from their records, so that an iteration has to converge to rounding.
        notes: what solvers have found out during this solve.
    """

    def __init__(
        self, term: Term, structure: Structure, y0: Tensor, stats: Any, tolerance: Tolerance | None = None
    ) -> None:
        self.term = term
        self.structure = structure
        self.dtype = real_dtype(y0.dtype)
        self.device = y0.device
        self.stats = stats
        self.tolerance = tolerance
        self.per_sample = structure.rows
        self.index: Tensor | None = None
        self.differentiates = False
        self.exact = False
        self.notes: dict[str, Any] = {}
        self.calls = 0
        self.low: Any = -float("inf")
        self.high: Any = float("inf")
        self.lead = (-1,) + (1,) * (y0.dim() - 1) if structure.plain else (-1,)
        self._none = y0.detach()[:0] if structure.rows else y0.detach().unsqueeze(0)[:0]
        self._args: tuple[Any, Any] = (None, None)
        self._sliced: bool | None = None

    def between(self, low: Any, high: Any) -> Bound:
        """The same term on one side of a jump."""
        return self._with(low=low, high=high)

    def empty(self) -> Tensor:
        """No states: ``(0, *state)``."""
        return self._none

    def exactly(self) -> Bound:
        """The same term for steps that will be made again."""
        return self._with(exact=True)

    def counting(self, stats: Any) -> Bound:
        """The same term with other counts."""
        return self._with(stats=stats)

    def select(self, index: Tensor) -> Bound:
        """The same term for some of its rows."""
        bounds = {name: value[index] for name in ("low", "high") if isinstance(value := getattr(self, name), Tensor)}
        return self._with(
            index=index if self.index is None else self.index[index],
            tolerance=None if self.tolerance is None else self.tolerance.select(index),
            _args=(None, None) if self._sliced else self._args,
            **bounds,
        )

    def _with(self, **changed: Any) -> Bound:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, calls=0, **changed)
        return other

    def _count(self) -> None:
        """One more evaluation; where samples are counted one by one, of those that this term serves."""
        self.stats.evaluations += 1
        if self.per_sample and (log := self.notes.get("calls")) is not None:
            if not self.calls:
                log.append(self)
            self.calls += 1

    def counted(self, evaluations: int) -> None:
        """So many evaluations were made elsewhere."""
        if not self.per_sample:
            self.stats.evaluations += evaluations
            return
        for _ in range(evaluations):
            self._count()

    def once(self, copies: Bound) -> None:
        """Count the last evaluation of copies of these rows as one of each row."""
        if copies.calls:
            copies.calls -= 1
            self.stats.evaluations -= 1
            self._count()

    def time(self, t: Time) -> Tensor:
        """The tensor that the field receives: 0-d, or ``(rows, 1, ..., 1)`` (``(rows,)`` for a structured state)."""
        if isinstance(t, Tensor):
            if t.dim() == len(self.lead) > 1:
                return t  # shaped already
            t = self._inside(t)
            if t.dim() == 0:
                return t.to(device=self.device, dtype=self.dtype)
            return t.to(device=self.device, dtype=self.dtype, copy=True).view(self.lead)
        return torch.full((), min(max(t, self.low), self.high), dtype=self.dtype, device=self.device)

    def shaped(self, times: Tensor) -> Tensor:
        """``(n, rows)`` times as the field receives them, ``(n, rows, 1, ..., 1)``."""
        times = self._inside(times).to(device=self.device, dtype=self.dtype)
        return times.view(*times.shape, *self.lead[1:])

    def _inside(self, t: Tensor) -> Tensor:
        """Times moved to their own side of a jump; their derivative stays."""
        if isinstance(self.low, Tensor) or self.low > -math.inf:
            return t + (t.clamp(self.low, self.high) - t).detach()
        return t

    def rate(self, t: Time, y: Tensor, args: Any) -> Tensor:
        """dy/dt of the flat state."""
        self._count()
        if args is not None:
            args = self.given(args)
        dy = self._differentiating(t, y, args) if self.differentiates else self._plain(t, y, args)
        if dy.__class__ is not Tensor or dy.shape != y.shape or dy.dtype != y.dtype or dy.device != y.device:
            dy = self._checked(dy, t, y)
        # A tensor that the field keeps, such as a buffer it fills, would change under our hands at its next call.
        return dy.clone() if sys.getrefcount(dy) > _OURS else dy

    def given(self, args: Any) -> Any:
        """``args`` as the field receives them; found once for each `args` and set of rows."""
        if args is not self._args[0]:
            self._sliced = holds_per_sample(args)
            given = unwrapped(args, self.index) if self._sliced else args
            if self._sliced and any(isinstance(x, Tensor) and moves(x) for x in pytree.tree_leaves(args)):
                return given  # a slice belongs to the graph, or to the absence of one, in which it was taken
            self._args = (args, given)
        return self._args[1]

    def apply(self, function: Any, t: Time, y: Tensor, args: Any) -> Any:
        """A user's function of (t, y), (t, y, args) or (y), with what the field would receive."""
        return _call(function, self.time(t), self.structure.unravel(y), None if args is None else self.given(args))

    # --- parts of a term

    @property
    def jacobian_given(self) -> Callable[[Time, Tensor, Any], Tensor] | None:
        """``df/dy`` as the user gave it, or None."""
        own = getattr(self.term, "jacobian", None)
        if own is None or not self.structure.plain:
            return None
        return lambda t, y, args: own(self.time(t), y, self.given(args))

    @property
    def parts(self) -> tuple[Bound, Bound]:
        """The stiff and the other part of a `Sum`."""
        term = self.term
        return self._with(term=term.stiff), self._with(term=term.nonstiff)  # pyright: ignore[reportAttributeAccessIssue]

    def halves(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """q and p of a flat state, along its last dimension."""
        if y.dim() == 0:
            raise ValueError(
                "A state that is split has q and p, the halves of its last dimension, or is a pair (q, p); `y0` is one "
                "number, of shape (). Pass both as torch.stack([q, p])."
            )
        if self.structure.plain and y.shape[-1] % 2:
            raise ValueError(
                f"A split state holds q, then p, of equal length in its last dimension; `y0` has {y.shape[-1]} entries "
                "there. Pass a tuple (q, p) where they differ."
            )
        n = y.shape[-1] // 2 if self.structure.plain else self.structure.widths[0]
        q, p = y.split([n, y.shape[-1] - n], dim=-1)
        return q, p

    def join(self, q: Tensor, p: Tensor) -> Tensor:
        """The flat state of two halves."""
        return torch.cat([q, p], dim=-1)

    def kick(self, t: Time, q: Tensor, args: Any) -> Tensor:
        """dp/dt of a separable term."""
        return self._half("kick", 0, t, q, args)

    def drift(self, t: Time, p: Tensor, args: Any) -> Tensor:
        """dq/dt of a separable term."""
        return self._half("drift", 1, t, p, args)

    def _half(self, name: str, which: int, t: Time, x: Tensor, args: Any) -> Tensor:
        self._count()
        args = None if args is None else self.given(args)
        function, structure = getattr(self.term, name), self.structure
        state = x if structure.plain else structure.leaf(x, which)
        dx = self._graphed(lambda state: function(self.time(t), state, args), state)
        if not isinstance(dx, Tensor) or dx.shape != structure.half(x, 1 - which):
            came = tuple(dx.shape) if isinstance(dx, Tensor) else type(dx).__name__
            raise ValueError(
                f"`{name}` returned {came} for {'qp'[which]} of shape {tuple(state.shape)}, at t = {_shown(t)}. It "
                f"returns the rate of {'pq'[which]}, in that one's shape."
            )
        return dx.to(x.dtype) if structure.plain else dx.reshape(*x.shape[:-1], -1)

    def _graphed(self, function: Callable[[Any], Any], x: Tensor) -> Any:
        """A half that differentiates inside gets a graph, as a whole field does."""
        if self.differentiates:
            return self._with_graph(function, x)
        try:
            return function(x.view_as(x) if torch.is_grad_enabled() and not x.requires_grad else x)
        except RuntimeError as error:
            if not wants_graph(error):
                raise
            self.differentiates = True
            return self._with_graph(function, x)

    def _with_graph(self, function: Callable[[Any], Any], x: Tensor) -> Any:
        if forward_mode() or torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
            return inner_graph(function, x)
        if torch.is_grad_enabled():
            return function(x if x.requires_grad else x.view_as(x).requires_grad_())
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x.detach()
            return function(x.requires_grad_()).detach()

    def control(self, t0: Time, t1: Time) -> Any:
        """The increment of the term's control over a step."""
        return self.term.control(t0, t1)  # pyright: ignore[reportAttributeAccessIssue]

    def contract(self, t: Time, y: Tensor, control: Any, args: Any) -> Tensor:
        """The vector field applied to a control's increment."""
        self._count()
        args = None if args is None else self.given(args)
        contract = self.term.contract  # pyright: ignore[reportAttributeAccessIssue]
        dy = self.structure.ravel(contract(self.time(t), self.structure.unravel(y), control, args))
        return self._checked(dy, t, y)

    def _plain(self, t: Time, y: Tensor, args: Any) -> Tensor:
        if not y.requires_grad and torch.is_grad_enabled():
            y = y.view_as(y)  # a field that calls y.requires_grad_() must not reach the caller's tensor
        try:
            return self._call(self.time(t), y, args)
        except RuntimeError as error:
            if self.index is not None and "size of tensor" in str(error):
                error.add_note(
                    f"Of the batch {len(y)} samples are still active. What belongs to single samples reaches the field "
                    "as a PerSample leaf of `args`: solve(..., args=pathline.PerSample(x))."
                )
            # A field that differentiates inside needs a graph, whatever mode the solve runs in.
            if not wants_graph(error):
                raise
            self.differentiates = True
            return self._differentiating(t, y, args)

    def _differentiating(self, t: Time, y: Tensor, args: Any) -> Tensor:
        return self._with_graph(lambda y: self._call(self.time(t), y, args), y)

    def _call(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        if self.structure.plain:
            return self.term.rate(t, y, args)  # pyright: ignore[reportAttributeAccessIssue]
        dy = self.term.rate(t, self.structure.unravel(y), args)  # pyright: ignore[reportAttributeAccessIssue]
        return self.structure.ravel(dy)

    def _checked(self, dy: Any, t: Time, y: Tensor) -> Tensor:
        at = f"at t = {_shown(t)}"
        if not isinstance(dy, Tensor):
            raise TypeError(
                f"`f` returned {type(dy).__name__} for a tensor state, {at}. A field returns dy as a tensor."
            )
        if dy.shape != y.shape:
            raise ValueError(
                f"`f` returned shape {tuple(dy.shape)} for a state of shape {tuple(y.shape)}, {at}. "
                "A field returns dy in the shape of y."
            )
        if dy.device != y.device:
            raise ValueError(
                f"`f` returned dy on {dy.device} for a state on {y.device}, {at}. Move the field with .to()."
            )
        if dy.dtype != y.dtype:
            if torch.is_autocast_enabled(y.device.type):
                return dy.to(y.dtype)
            raise TypeError(
                f"`f` returned {dy.dtype} for a state of {y.dtype}, {at}. "
                f"Move the field with .to({y.dtype}), or pass y0.to({dy.dtype})."
            )
        return dy


def wants_graph(error: RuntimeError) -> bool:
    """Whether a field failed for want of a graph, or because it asked for one where a transform forbids that."""
    text = str(error)
    return "does not require grad" in text or "requires_grad_()" in text or torch.is_inference_mode_enabled()


def inner_graph(function: Callable[[Any], Any], x: Any) -> Any:
    """A graph of the field's own, inside a torch.func transform or beside tangents, which pass through it."""

    def own(x: Any) -> Any:
        allowed = torch._C._functorch.get_inplace_requires_grad_allowed()  # pyright: ignore[reportAttributeAccessIssue]
        torch._C._functorch.set_inplace_requires_grad_allowed(True)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return function(x)
        finally:
            torch._C._functorch.set_inplace_requires_grad_allowed(allowed)  # pyright: ignore[reportAttributeAccessIssue]

    return torch.func.vjp(own, x)[0]


def _shown(t: Time) -> str:
    """A time in a message; the first of many."""
    return f"{host(t) if not isinstance(t, Tensor) or t.dim() == 0 else host(t.flatten()[0]):g}"
