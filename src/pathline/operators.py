"""Derivatives of a field in space: its divergence, exact or estimated by a few products with its Jacobian.

A field may offer closed forms, in plain tensor code: ``push(t, y, v, args) -> (dy, dv)``, its rate and the derivatives
of the rate along tangents ``v``, which broadcast to ``(k, *y.shape)``; and ``divergence(t, y, args) -> (dy, div)``.
Either may return None where it can't. All other fields are differentiated automatically.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: How noise is drawn, by name.
NOISES = ("rademacher", "gaussian")


# --- a field at one time -----------------------------------------------------------------------------------------


class At:
    """A field at one time, as a function of the state alone that keeps its closed forms; see `at`."""

    def __init__(self, field: Any, t: Tensor | float, args: Any = None) -> None:
        self.field, self.t, self.args = field, t, args

    def _time(self, y: Tensor) -> Tensor:
        t = self.t
        return t if isinstance(t, Tensor) else torch.tensor(t, dtype=y.dtype, device=y.device)

    def __call__(self, y: Tensor) -> Tensor:
        """The rate."""
        t = self._time(y)
        return self.field(t, y) if self.args is None else self.field(t, y, self.args)

    def push(self, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The rate, and its derivatives along ``v``."""
        closed = getattr(self.field, "push", None)
        found = None if closed is None else closed(self._time(y), y, v, self.args)
        return differentiated(self.__call__, y, v) if found is None else found

    def divergence(self, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """The rate and its divergence, where the field has a closed form."""
        closed = getattr(self.field, "divergence", None)
        return None if closed is None else closed(self._time(y), y, self.args)


def at(field: Callable[..., Tensor], t: Tensor | float, args: Any = None) -> At:
    """A field at one time, as a function of the state alone; its closed forms are kept. *Experimental.*

    Args:
        field: ``(t, y)`` or, where ``args`` is given, ``(t, y, args)``.
        t: The time, a tensor or a number.
        args: Handed to the field.

    Raises:
        TypeError: ``field`` can't be called, or ``t`` is neither a tensor nor a number.

    Example:
        >>> import torch
        >>> from pathline import fields, operators
        >>> f = operators.at(fields.ConcatSquash(2), 0.5)
        >>> value, div = operators.divergence(f, torch.zeros(7, 2))
        >>> value.shape, div.shape
        (torch.Size([7, 2]), torch.Size([7]))
    """
    if not callable(field):
        raise TypeError(f"`field` is a function of (t, y), but {type(field).__name__} came. Try at(field, 0.5).")
    if isinstance(t, bool) or not isinstance(t, Tensor | float | int):
        raise TypeError(f"`t` is a tensor or a number, but {type(t).__name__} came. Try at(field, 0.5).")
    return At(field, t, args)


# --- traces ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exact:
    """The trace of the whole Jacobian, all columns at once or a few at a time. *Maturing.*

    Args:
        chunk: How many columns are computed at once; by default all. For a state of ``d`` numbers the columns take as
            much memory as ``d`` states behind each operation of the field. Fewer at a time take that much less where
            no gradient is recorded, and one more evaluation of the field each time. A closed form of the divergence has
            no columns.

    Raises:
        ValueError: A chunk that is not positive.
    """

    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and (type(self.chunk) is not int or self.chunk < 1):
            raise ValueError(f"`chunk` is a number of columns, 1 or more, or None for all, but {self.chunk!r} came.")

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> None:
        """No noise is needed."""

    def directions(self, push: Callable[[Tensor], Tensor], y: Tensor, noise: None) -> tuple[Tensor, Tensor]:
        """All axes of the state, each with weight one."""
        return axes(y, 0, y[0].numel())


def axes(y: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
    """That many axes of the state, from one of them on, ``(count, 1, *event)``, each with weight one."""
    size = y[0].numel()
    eye = torch.zeros(count, size, dtype=y.dtype, device=y.device)
    eye.diagonal(start).fill_(1.0)
    return eye.reshape(count, 1, *y.shape[1:]), y.new_ones(count)


@dataclass(frozen=True)
class Hutchinson:
    r"""The estimate $\mathrm{tr}\,J \approx \epsilon^\top J \epsilon$ with $E\,\epsilon\epsilon^\top = I$. *Maturing.*

    Args:
        kind: ``"rademacher"`` (signs; no estimate of this form varies less without knowing J) or ``"gaussian"``.
        probes: How many draws are averaged, at least 1.
        redraw: ``"solve"``: one draw for a whole solve, so that the integrand is smooth in time; or ``"evaluation"``: a
            new one at every evaluation, which an adaptive method takes for error (to show that it does).

    Raises:
        ValueError: Another kind, no probe, or another ``redraw``.

    References:
        M. F. Hutchinson (1990), A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
        splines. W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud (2019), FFJORD.
    """

    kind: str = "rademacher"
    probes: int = 1
    redraw: str = "solve"

    def __post_init__(self) -> None:
        _check_noise(self.kind, self.probes)
        if self.redraw not in ("solve", "evaluation"):
            raise ValueError(f'`redraw` is "solve" or "evaluation", but {self.redraw!r} came.')

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise for states like ``y``, samples first: ``(batch, probes, *event)``."""
        return _noise(self.kind, (len(y), self.probes, *y.shape[1:]), y, generator)

    def directions(self, push: Callable[[Tensor], Tensor], y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The draws, each with weight ``1 / probes``."""
        if self.redraw == "evaluation":
            noise = self.draw(y)
        return noise.transpose(0, 1), y.new_full((self.probes,), 1.0 / self.probes)


@dataclass(frozen=True)
class HutchPlusPlus:
    r"""The trace on a sketch of the Jacobian's range, exactly, and Hutchinson's estimate of the rest. *Experimental.*

    $$\mathrm{tr}\,J = \mathrm{tr}\,Q^\top J Q + E\,g^\top (1 - QQ^\top) J (1 - QQ^\top)\, g, \qquad
    Q = \mathrm{orth}(J S)$$

    It varies less than ``Hutchinson`` where few directions hold most of the trace. An evaluation costs
    ``2 sketch + probes`` products. ``Q`` follows the state but carries no gradient: the estimate is right for any
    ``Q``, and so is its gradient, in the mean over the noise.

    Args:
        sketch: Columns of ``S``, at least 1; from the size of the state on the trace is exact.
        probes: Draws of ``g``, at least 1.
        kind: ``"rademacher"`` or ``"gaussian"``.

    Raises:
        ValueError: Another kind, or a number that is not positive.

    References:
        R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff (2021), Hutch++: optimal stochastic trace estimation.
    """

    sketch: int = 1
    probes: int = 1
    kind: str = "rademacher"

    def __post_init__(self) -> None:
        _check_noise(self.kind, self.probes)
        if isinstance(self.sketch, bool) or not isinstance(self.sketch, int) or self.sketch < 1:
            raise ValueError(f"`sketch` is a whole number, at least 1, but {self.sketch!r} came.")

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``S`` and ``g`` for states like ``y``, samples first: ``(batch, sketch + probes, *event)``."""
        return _noise(self.kind, (len(y), self.sketch + self.probes, *y.shape[1:]), y, generator)

    def directions(self, push: Callable[[Tensor], Tensor], y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The columns of ``Q`` with weight one, and what is left of each ``g`` with weight ``1 / probes``."""
        sketched = push(noise[:, : self.sketch].transpose(0, 1)).detach()
        q, _ = torch.linalg.qr(sketched.flatten(2).permute(1, 2, 0))
        g = noise[:, self.sketch :].flatten(2).mT
        columns = torch.cat([q, g - q @ (q.mT @ g)], 2)
        weights = torch.cat([y.new_ones(q.shape[2]), y.new_full((self.probes,), 1.0 / self.probes)])
        return columns.permute(2, 0, 1).reshape(-1, *y.shape), weights


TRACES: dict[str, Any] = {"exact": Exact, "hutchinson": Hutchinson, "hutch++": HutchPlusPlus}


def find_trace(trace: Any) -> Any:
    """A trace from its name or object.

    Raises:
        ValueError: No trace has this name.
        TypeError: Neither a name nor a trace.
    """
    if isinstance(trace, str):
        if trace not in TRACES:
            close = difflib.get_close_matches(trace, TRACES, 1)
            hint = f' Did you mean "{close[0]}"?' if close else ""
            raise ValueError(
                f"`trace` is one of {', '.join(map(repr, TRACES))} or a trace object, but {trace!r} came.{hint}"
            )
        return TRACES[trace]()
    if isinstance(trace, type) or not hasattr(trace, "directions"):
        raise TypeError(
            f"`trace` is one of {', '.join(map(repr, TRACES))} or an object such as Hutchinson(probes=4), but "
            f"{trace!r} came."
        )
    return trace


def _check_noise(kind: str, probes: int) -> None:
    if kind not in NOISES:
        raise ValueError(f'`kind` is "rademacher" or "gaussian", but {kind!r} came.')
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"`probes` is a whole number, at least 1, but {probes!r} came.")


def _noise(kind: str, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    if kind == "gaussian":
        return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
    signs = torch.randint(0, 2, shape, device=like.device, generator=generator)
    return (2 * signs - 1).to(like.dtype)


# --- divergence --------------------------------------------------------------------------------------------------


def divergence(
    f: Callable[[Tensor], Tensor], y: Tensor, *, trace: Any = "exact", noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""A field and its divergence $\mathrm{tr}\,\partial f/\partial y$ at each sample. *Maturing.*

    Args:
        f: A function of the state alone that doesn't mix samples; see `at` for a field at one time.
        y: States, ``(batch, *event)``.
        trace: ``"exact"``, ``"hutchinson"``, or an object such as ``Hutchinson("gaussian", probes=8)``.
        noise: What ``trace.draw(y)`` returned; by default it is drawn.

    Returns:
        ``f(y)`` and the divergence, ``(batch,)``.

    Raises:
        TypeError: ``f`` takes more than the state, or ``y`` is no tensor of real floating numbers.
        ValueError: ``y`` isn't ``(batch, *event)``, or ``f(y)`` has another shape.

    Example:
        >>> import torch
        >>> from pathline import operators
        >>> A = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> value, div = operators.divergence(lambda y: y @ A.T, torch.zeros(3, 2))
        >>> div
        tensor([5., 5., 5.])
    """
    trace = find_trace(trace)
    _check_function(f, y)
    _check_states(y)
    if len(y) == 0:
        return _like(f(y), y), y.new_zeros(0)
    if noise is None:
        noise = trace.draw(y)
    value, div, _ = traced(f, y, trace, noise)
    return value, div


def _check_states(y: Any) -> None:
    if not isinstance(y, Tensor) or not y.is_floating_point():
        came = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"`y` is a tensor of floating numbers, but {came} came. Try torch.as_tensor(y).double().")
    if y.dim() < 2:
        raise ValueError(
            f"`y` is (batch, *event), but the shape {tuple(y.shape)} came. "
            "Write y.unsqueeze(0) for one state, or y.unsqueeze(1) for a batch of numbers."
        )


def _check_function(f: Any, y: Any) -> None:
    """Refuse a field of (t, y), which needs `at` first; what has no signature is let through."""
    if not callable(f):
        raise TypeError(f"`f` is a function of the state alone, but {type(f).__name__} came. Try at(field, 0.5).")
    if torch.compiler.is_compiling():
        return
    try:
        signature = inspect.signature(f.forward if isinstance(f, torch.nn.Module) else f)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(y)
    except TypeError as error:
        raise TypeError(
            f"`f` is a function of the state alone, but one of {signature} came. "
            "Fix the time of a field (t, y) first: divergence(at(field, 0.5), y)."
        ) from error


def _like(value: Any, y: Tensor) -> Tensor:
    """A rate, if it has the shape of the state."""
    if not isinstance(value, Tensor):
        raise TypeError(f"A field returns a tensor like its state, but {type(value).__name__} came.")
    if value.shape != y.shape:
        raise ValueError(
            f"A field returns a rate of the shape of its state, {tuple(y.shape)}, but {tuple(value.shape)} came. "
            "A divergence is of as many outputs as inputs."
        )
    return value


def traced(f: Any, y: Tensor, trace: Any, noise: Any, *, norm: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """``f(y)``, its divergence and, where asked for, the squared norm of its Jacobian, by the same products."""
    closed = getattr(f, "divergence", None)
    if closed is not None and type(trace) is Exact and not norm and (found := closed(y)) is not None:
        return *found, None
    push = getattr(f, "push", None) or (lambda y, v: differentiated(f, y, v))
    size, chunk = y[0].numel(), getattr(trace, "chunk", None)
    if chunk is None or chunk >= size:
        v, weights = trace.directions(lambda v: push(y, v)[1], y, noise)
        return _products(push, y, v, weights, norm)
    value, div, squares = _products(push, y, *axes(y, 0, chunk), norm)
    for start in range(chunk, size, chunk):
        _, more, others = _products(push, y, *axes(y, start, min(chunk, size - start)), norm)
        div, squares = div + more, None if squares is None or others is None else squares + others
    return value, div, squares


def _products(push: Any, y: Tensor, v: Tensor, weights: Tensor, norm: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """``f(y)``, and the parts of the divergence and of the squared norm along some directions."""
    value, along = push(y, v)
    along = along.expand(len(v), *y.shape)
    return value, _weighted(v * along, weights), _weighted(along.square(), weights) if norm else None


def _weighted(products: Tensor, weights: Tensor) -> Tensor:
    """The sum over components, ``(k, batch, *event)``, then over products with their weights: ``(batch,)``."""
    return torch.mv(products.flatten(2).sum(2).T, weights)


# --- fields without closed forms ---------------------------------------------------------------------------------


def differentiated(f: Callable[[Tensor], Tensor], y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """``f(y)`` and vector-Jacobian products with ``v``, ``(k, *y.shape)``.

    A trace and a norm are the same for a Jacobian and its transpose, so products from the left serve as well.
    """
    v = v.expand(len(v), *y.shape)
    if torch.compiler.is_compiling() or _transforming():
        value, pull = torch.func.vjp(f, y)  # pyright: ignore[reportAssignmentType]
        return _like(value, y), torch.func.vmap(lambda e: pull(e)[0])(v)
    recording = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        own = recording and y.requires_grad
        x = y.view_as(y) if own else (y.clone() if y.is_inference() else y.detach()).requires_grad_()
        value = _like(f(x), x)
        recording = own or (recording and reads_others(value, x))
        if not value.requires_grad:
            return value, torch.zeros_like(v)
        along = _pulled(value, x, v, recording)
    return (value, along) if recording else (value.detach(), along.detach())


def _pulled(value: Tensor, x: Tensor, v: Tensor, recording: bool) -> Tensor:
    options = {"create_graph": recording, "retain_graph": True, "allow_unused": True, "materialize_grads": True}
    if len(v) > 1:
        try:
            return torch.autograd.grad(value, x, v, is_grads_batched=True, **options)[0]
        except RuntimeError:
            # Some operations have no derivative of their derivative for many cotangents at once, such as GroupNorm.
            return torch.stack([torch.autograd.grad(value, x, e, **options)[0] for e in v])
    return torch.autograd.grad(value, x, v[0], **options)[0].unsqueeze(0)


def _transforming() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]


def reads_others(value: Tensor, x: Tensor) -> bool:
    """Whether the graph reaches a tensor that requires grad beside ``x``, such as a weight."""
    stack: list[Any] = [value.grad_fn]
    seen = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and variable is not x:
            return True
        stack += [following for following, _ in node.next_functions]
    return False
