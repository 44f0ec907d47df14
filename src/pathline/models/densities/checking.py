"""What a flow is given, checked once and refused in words; and which rows of a batch failed."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils import _pytree as pytree

from pathline.mapped import batched
from pathline.models.densities.moving import COSTS
from pathline.solving import solve
from pathline.status import SolveError
from pathline.terms import PerSample

#: Rows that a message names at most.
_NAMED = 8

_CASTS = {"float32": "float", "float64": "double", "float16": "half"}


def checked_event_shape(event_shape: Any) -> torch.Size:
    """A shape from a size or a shape."""
    shape = (event_shape,) if isinstance(event_shape, int) else event_shape  # True is no size, though an int
    if not (isinstance(shape, Sequence) and shape and all(type(n) is int and n > 0 for n in shape)):
        raise ValueError(
            f"`event_shape` is the size of a sample or its shape, such as 2 or (1, 8, 8), but {event_shape!r} came."
        )
    return torch.Size(shape)


def checked_times(t: Any) -> tuple[float, float]:
    """Two different finite numbers."""
    try:
        start, end = (float(time) for time in t)
    except (TypeError, ValueError):
        start = end = math.nan
    if not (start != end and math.isfinite(start) and math.isfinite(end)):
        raise ValueError(f"`t` is the times of the base and of the data, two different numbers, but {t!r} came.")
    return start, end


def checked_base(base: Any, event_shape: torch.Size) -> Any:
    """A base over one event, or what makes one."""
    if base is None or (callable(base) and not isinstance(base, Distribution)):
        return base
    if not isinstance(base, Distribution):
        raise TypeError(
            "`base` is a torch.distributions.Distribution or a module that returns one, "
            f"but {type(base).__name__} came."
        )
    if base.event_shape == event_shape and not base.batch_shape:
        return base
    came = f"a base with event shape {tuple(base.event_shape)} and batch shape {tuple(base.batch_shape)} came"
    whole = base.batch_shape + base.event_shape == event_shape
    cure = f"Wrap it: Independent(base, {len(base.batch_shape)})." if whole else "Choose a base of the samples' shape."
    raise ValueError(f"`base` is a density of events of shape {tuple(event_shape)}, but {came}. {cure}")


def checked_regularizers(regularizers: Any, span: float) -> dict[str, Any]:
    """Weights, and pairs of costs and weights, by name."""
    if regularizers is None:
        return {}
    if not isinstance(regularizers, Mapping):
        raise TypeError(f'`regularizers` is a mapping such as {{"kinetic": 0.01}}, but {regularizers!r} came.')
    names = (*COSTS, "steer")
    for name, setting in regularizers.items():
        pair = isinstance(setting, tuple) and len(setting) == 2 and callable(setting[0])
        weight = setting[1] if pair else setting
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(
                f"`regularizers[{name!r}]` is a weight, 0 or more, or a pair (cost, weight), but {setting!r} came."
            )
        if not pair and name not in names:
            close = difflib.get_close_matches(str(name), names, 1)
            hint = f' Did you mean "{close[0]}"?' if close else ""
            raise ValueError(
                f"`regularizers` knows {', '.join(names)}; {name!r} came with a weight alone.{hint} A cost of your "
                "own is a pair (cost, weight)."
            )
        if pair and name in names:
            raise ValueError(f"`regularizers[{name!r}]` is a weight; choose another name for a cost of your own.")
    if regularizers.get("steer", 0.0) >= span:
        raise ValueError(
            f"`regularizers['steer']` is smaller than the span of time, {span:g}, but {regularizers['steer']!r} came."
        )
    return dict(regularizers)


def unpacked(batch: Any, keys: Sequence[str] = ("x", "context")) -> tuple[Tensor, Tensor | None]:
    """``x`` and the context of a batch; a mapping has no other keys than these."""
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping) and "x" in batch:
        _check_keys(batch, keys)
        return batch["x"], batch.get("context")
    if isinstance(batch, Sequence) and len(batch) in (1, 2):
        return batch[0], batch[1] if len(batch) == 2 else None
    came = f"a mapping with {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
    raise TypeError(f'A batch is x, (x, context) or a mapping with "x" and "context", but {came} came.')


def _check_keys(batch: Mapping[Any, Any], keys: Sequence[str]) -> None:
    for key in batch:
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, 1)
            hint = f' Did you mean "{close[0]}"?' if close else " Leave it out."
            raise ValueError(f"A batch as a mapping has the keys {', '.join(keys)}, but {key!r} came.{hint}")


def checked_sample_shape(sample_shape: Any) -> torch.Size:
    """A shape from a number of draws or a shape."""
    try:
        shape = torch.Size((sample_shape,) if isinstance(sample_shape, int) else sample_shape)
    except TypeError:
        shape = torch.Size((-1,))
    if any(n < 0 for n in shape):
        raise ValueError(f"`sample_shape` is a number of draws or a shape, 0 or more, but {sample_shape!r} came.")
    return shape


def checked_value(value: Any, event_shape: torch.Size) -> torch.Size:
    """The dimensions of a value before those of an event."""
    if not isinstance(value, Tensor):
        raise TypeError(f"`value` is a tensor of samples, but {type(value).__name__} came.")
    lead = value.dim() - len(event_shape)
    if lead < 0 or value.shape[lead:] != event_shape:
        raise ValueError(
            f"`value` ends in the event shape {tuple(event_shape)}, but its shape is {tuple(value.shape)}."
        )
    return value.shape[:lead]


def checked_events(name: str, x: Any, event_shape: torch.Size) -> Tensor:
    """Finite floating point numbers, ``(batch, *event)``."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"`{name}` is a tensor of floating point numbers, but {came} came. Try {name}.float().")
    if x.dim() != 1 + len(event_shape) or x.shape[1:] != event_shape:
        raise ValueError(f"`{name}` is (batch, {_listed(event_shape)}), but its shape is {tuple(x.shape)}.")
    check_finite(name, x)
    return x


def check_some(x: Any) -> None:
    """A mean over no samples is nothing."""
    if isinstance(x, Tensor) and x.dim() and not len(x):
        raise ValueError("A batch has at least one sample; this one has none.")


def check_dtype(x: Tensor, own: torch.dtype | None) -> None:
    """The dtype of the parameters, where there are some; autocast takes any."""
    if own is not None and own != x.dtype and not torch.is_autocast_enabled(x.device.type):
        wanted = str(own).removeprefix("torch.")
        raise TypeError(
            f"`x` is in {x.dtype} and the parameters are in {own}. Use x.{_CASTS.get(wanted, wanted)}(), or "
            f"model.to({x.dtype})."
        )


def checked_samples(x: Any, context: Any, event_shape: torch.Size, takes: int) -> tuple[Tensor, Tensor | None]:
    """Samples ``(batch, *event)`` and a context for each."""
    checked_events("x", x, event_shape)
    if context is None:
        return x, None
    if takes != 3:
        raise TypeError(
            "A context came, but the field does not take one: its signature is not f(t, y, args). Add `args` to it."
        )
    if not isinstance(context, Tensor) or not context.dim() or len(context) != len(x):
        came = f"shape {tuple(context.shape)}" if isinstance(context, Tensor) else type(context).__name__
        raise ValueError(
            f"`context` has one row for each of the {len(x)} samples, but {came} came. Pass it as (batch, ...)."
        )
    if context.is_floating_point():
        check_finite("context", context)
    return x, context


def check_finite(name: str, x: Tensor) -> None:
    """Refuse NaN and infinite numbers, naming their rows."""
    mapped = batched(x)
    values = _values(x) if mapped else x.detach()
    # One number tells, and costs a third of a look at each. Where it overflows, the look at each decides.
    if math.isfinite(float(values.sum())):
        return
    good = torch.isfinite(values)
    if bool(good.all()):
        return
    if mapped:  # which dimensions are rows, vmap alone knows
        raise ValueError(f"`{name}` is finite, but NaN or infinite values came. Drop them, or fill them in.")
    rows = (~good.flatten(1).all(1)).nonzero().flatten().tolist()
    raise ValueError(
        f"`{name}` is finite, but of its {len(x)} rows {_rows(rows)} {_verb('hold', rows)} NaN or infinite values. "
        "Drop them, or fill them in."
    )


def _values(x: Tensor) -> Tensor:
    """The numbers behind the transforms of torch.func."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x.detach()


def check_not_overflown(log_p: Tensor, z: Tensor, base: Distribution) -> None:
    """Refuse rows whose log-density in the base is infinite by rounding alone: where the base is supported."""
    if batched(log_p) or math.isfinite(float(log_p.detach().sum())):
        return
    with torch.no_grad():
        try:
            inside = base.support.check(z)  # pyright: ignore[reportOptionalMemberAccess]
        except NotImplementedError:
            return
        rows = (~torch.isfinite(log_p) & inside).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"The log-density of the base is beyond the numbers of {log_p.dtype} where {_rows(rows)} of {len(z)} "
            f"{_verb('end', rows)}, at up to {float(z[rows].detach().abs().max()):.1g}. Standardise the data, drop "
            "what lies that far out, or use float64."
        )


def check_precision(dtype: torch.dtype, rtol: Any) -> None:
    """Warn of a tolerance that the dtype can't resolve."""
    if dtype not in (torch.float16, torch.bfloat16) or not isinstance(rtol, float | int):
        return
    resolves = torch.finfo(dtype).eps
    if rtol < resolves:
        warnings.warn(
            f"{dtype} resolves {resolves:.1g}, and the tolerance is {rtol:g}: the solver can't see such errors, and "
            "nor can the result. Use model.float(), under torch.autocast where it has to be fast; or say what is "
            "wanted, as in rtol=0.02, atol=0.02, or None for the defaults of the dtype.",
            UserWarning,
            stacklevel=2,
        )


def _rows(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:_NAMED]))
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}{more}"


def _verb(verb: str, rows: list[int]) -> str:
    return verb + "s" if len(rows) == 1 else verb


def _listed(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def located(
    error: SolveError, term: Any, start: Tensor, times: Any, args: Any, options: Mapping[str, Any]
) -> SolveError:
    """The error of a solve, with the rows that fail by themselves: each is followed alone, on a clock of its own."""
    failed = getattr(getattr(error.solution, "status", None), "failed", None)
    if failed is None:
        failed = _failing(term, start, times, args, options)
    if failed is None:
        said = "The flow of a batch failed."
    elif not failed:
        said = f'The flow of {len(start)} samples failed, though none does alone: try clock="per-sample".'
    else:
        said = (
            f"The flow of {len(start)} samples failed: {_rows(failed)} {_verb('fail', failed)}, and nothing is made up "
            "for what failed."
        )
    return type(error)(f"{said} {error}", error.solution, error.status)


def _failing(term: Any, start: Tensor, times: Any, args: Any, options: Mapping[str, Any]) -> list[int] | None:
    """The rows whose solve fails; None where the method has no clock for each of them."""
    alone = {**options, "clock": "per-sample", "compile": False, "gradient": "backprop", "on_failure": "return"}
    args = pytree.tree_map(lambda value: PerSample(value.detach()) if isinstance(value, Tensor) else value, args)
    times = pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, times)
    try:
        with torch.no_grad():
            return solve(term, start.detach(), times, args=args, **alone).status.failed  # pyright: ignore[reportAttributeAccessIssue]
    except (ValueError, TypeError, RuntimeError):
        return None
