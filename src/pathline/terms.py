"""Terms: what is integrated against what.

A term offers ``rate(t, y, args)`` (an ODE), or ``control(t0, t1)`` and ``contract(t, y, control, args)`` (driven by
data or noise). A solver names what it needs; a term that lacks it is refused.
"""

from __future__ import annotations

import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pathline._structure import Structure, host, real_dtype

Time = float | Tensor


class Term:
    """Base of all terms. A subclass offers ``rate``, or ``control`` and ``contract``. *Maturing.*"""

    def offers(self, need: str) -> bool:
        """Whether the term has the method that a solver needs."""
        return callable(getattr(self, need, None))


class ODE(Term):
    """dy/dt = f(t, y, args).

    Args:
        f: ``f(t, y)``, ``f(t, y, args)``, or a module or function of ``y`` alone (autonomous). Decided once, from the
            signature.

    Raises:
        TypeError: ``f`` is not callable, or takes another number of arguments.

    Example:
        >>> import torch
        >>> ODE(lambda t, y: -y).rate(torch.tensor(0.0), torch.ones(2), None)
        tensor([-1., -1.])
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f
        self.takes = _remembered_arity(f)

    def rate(self, t: Tensor, y: Any, args: Any) -> Any:
        """The slope at ``(t, y)``, in the structure of ``y``."""
        if self.takes == 2:
            return self.f(t, y)
        if self.takes == 3:
            return self.f(t, y, args)
        return self.f(y)


_ARITIES: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def _remembered_arity(f: Callable[..., Any]) -> int:
    """`_arity`, once a code object: reading a signature costs as much as an evaluation of a small field."""
    target = type(f).forward if isinstance(f, nn.Module) and "forward" not in vars(f) else f
    code = getattr(target, "__code__", None) if isinstance(target, types.FunctionType) else None
    if code is None:
        return _arity(f)
    arity = _ARITIES.get(code)
    if arity is None:
        arity = _ARITIES[code] = _arity(f)
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


class Bound:
    """A term during one solve: it makes the time that the field receives, counts evaluations, and checks what returns.

    Solvers call it with flat states and with times as floats or tensors. Restricted to ``[low, high]`` it never shows
    the field a time outside: next to a jump the field sees only its own side.
    """

    def __init__(self, term: Term, structure: Structure, y0: Tensor, stats: Any) -> None:
        self.term = term
        self.structure = structure
        self.dtype = real_dtype(y0.dtype)
        self.device = y0.device
        self.stats = stats
        self.differentiates = False
        self.low, self.high = -float("inf"), float("inf")

    def between(self, low: float, high: float) -> Bound:
        """The same term on one side of a jump."""
        return self._with(low=low, high=high)

    def counting(self, stats: Any) -> Bound:
        """The same term with other counts."""
        return self._with(stats=stats)

    def _with(self, **changed: Any) -> Bound:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **changed)
        return other

    def time(self, t: Time) -> Tensor:
        """The 0-d tensor that the field receives."""
        if isinstance(t, Tensor):
            return t.to(device=self.device, dtype=self.dtype)
        return torch.full((), min(max(t, self.low), self.high), dtype=self.dtype, device=self.device)

    def rate(self, t: Time, y: Tensor, args: Any) -> Tensor:
        """dy/dt of the flat state."""
        self.stats.evaluations += 1
        dy = self._differentiating(t, y, args) if self.differentiates else self._plain(t, y, args)
        if dy.__class__ is not Tensor or dy.shape != y.shape or dy.dtype != y.dtype or dy.device != y.device:
            dy = self._checked(dy, t, y)
        return dy

    def control(self, t0: Time, t1: Time) -> Any:
        """The increment of the term's control over a step."""
        return self.term.control(t0, t1)  # pyright: ignore[reportAttributeAccessIssue]

    def contract(self, t: Time, y: Tensor, control: Any, args: Any) -> Tensor:
        """The vector field applied to a control's increment."""
        self.stats.evaluations += 1
        contract = self.term.contract  # pyright: ignore[reportAttributeAccessIssue]
        dy = self.structure.ravel(contract(self.time(t), self.structure.unravel(y), control, args))
        return self._checked(dy, t, y)

    def _plain(self, t: Time, y: Tensor, args: Any) -> Tensor:
        if not y.requires_grad and torch.is_grad_enabled():
            y = y.detach()  # a field that calls y.requires_grad_() must not reach the caller's tensor
        try:
            return self._call(self.time(t), y, args)
        except RuntimeError as error:
            # A field that differentiates inside needs a graph, whatever mode the solve runs in.
            if "does not require grad" not in str(error) and not torch.is_inference_mode_enabled():
                raise
            self.differentiates = True
            return self._differentiating(t, y, args)

    def _differentiating(self, t: Time, y: Tensor, args: Any) -> Tensor:
        if torch.is_grad_enabled():
            return self._call(self.time(t), y if y.requires_grad else y.detach().requires_grad_(), args)
        with torch.inference_mode(False), torch.enable_grad():
            y = y.clone() if y.is_inference() else y.detach()
            dy = self._call(self.time(t), y.requires_grad_(), args)
        return dy.detach()

    def _call(self, t: Tensor, y: Tensor, args: Any) -> Tensor:
        if self.structure.plain:
            return self.term.rate(t, y, args)  # pyright: ignore[reportAttributeAccessIssue]
        dy = self.term.rate(t, self.structure.unravel(y), args)  # pyright: ignore[reportAttributeAccessIssue]
        return self.structure.ravel(dy)

    def _checked(self, dy: Any, t: Time, y: Tensor) -> Tensor:
        at = f"at t = {host(t):g}"
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
