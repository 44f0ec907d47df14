"""Every hundredth solve again, by ours and by the installed original, on copies that the program does not see."""

from __future__ import annotations

import copy
import functools
import importlib
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pathline._random import restored, snapshot
from pathline.compat._record import RECORD

EVERY = 100


def original(library: str) -> ModuleType:
    """The installed library, kept out of ``sys.modules``.

    Raises:
        SystemExit: it isn't installed.
    """

    def taken() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] == library]
        return {name: sys.modules.pop(name) for name in names}

    before = taken()
    try:
        return importlib.import_module(library)
    except ImportError:
        raise SystemExit(f"--check compares with {library}, which isn't installed: pip install {library}") from None
    finally:
        taken()
        sys.modules.update(before)


class Check:
    """The comparison of one run of a program."""

    def __init__(self) -> None:
        self.seen = 0
        self.repeated = 0
        self.values: list[float] = []
        self.gradients: list[float] = []
        self.seconds = {"ours": 0.0, "theirs": 0.0}
        self.refused: list[str] = []

    def start(self) -> None:
        """From now on the stand-in's solves are counted, and some repeated."""
        self.theirs = original("torchdiffeq")
        self.ours = importlib.import_module("pathline.compat.torchdiffeq")
        self.functions = {name: getattr(self.ours, name) for name in ("odeint", "odeint_adjoint")}
        for name, function in self.functions.items():
            setattr(self.ours, name, self._watched(name, function))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(func: Any, y0: Any, t: Any, **options: Any) -> Any:
            found = function(func, y0, t, **options)
            self.seen += 1
            if RECORD.open and (self.seen - 1) % EVERY == 0:
                RECORD.open = False
                try:
                    self.repeat(name, func, y0, t, options)
                finally:
                    RECORD.open = True
            return found

        return call

    def repeat(self, name: str, func: Any, y0: Any, t: Tensor, options: dict[str, Any]) -> None:
        """One solve and its gradient by both."""
        solvers = {"ours": self.functions[name], "theirs": getattr(self.theirs, name)}
        order = ("theirs", "ours", "theirs") if not self.repeated else ("ours", "theirs")  # the first is a warm-up
        found: dict[str, Any] = {}
        try:
            for who in order:
                found[who] = measured(solvers[who], func, y0, t, options)
        except Exception as error:  # noqa: BLE001  (what the original refuses is a finding, not a failure)
            self.refused.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}")
            return
        self.repeated += 1
        for who, (_, _, seconds) in found.items():
            self.seconds[who] += seconds
        (value, gradient, _), (other, slope, _) = found["ours"], found["theirs"]
        self.values.append(difference(value, other))
        if gradient:
            self.gradients.append(difference(gradient, slope))

    def report(self) -> list[str]:
        """What was found, in lines."""
        if not self.repeated:
            return ["check: no solve was repeated", *(f"check: not repeated, {line}" for line in set(self.refused))]
        of_gradients = f" and {max(self.gradients):.1e} in gradient" if self.gradients else ""
        ratio = self.seconds["theirs"] / self.seconds["ours"]
        name = f"torchdiffeq {self.theirs.__version__}"
        line = (
            f"check: {self.repeated} of {self.seen} solves repeated with {name}: largest difference "
            f"{max(self.values):.1e} in value{of_gradients}, relative to the largest element; it took {ratio:.2f} "
            "times as long as ours"
        )
        return [line, *(f"check: not repeated, {refused}" for refused in dict.fromkeys(self.refused))]


def measured(solve: Any, func: Any, y0: Any, t: Tensor, options: dict[str, Any]) -> tuple[list, list, float]:
    """Values, gradients of a loss that weighs them unequally, and seconds."""
    own = _copied(func)
    leaves, spec = pytree.tree_flatten(y0)
    graph = torch.is_grad_enabled()
    starts = [leaf.detach().clone().requires_grad_(graph) for leaf in leaves]
    inputs = [*starts, *(p for p in _parameters(own, options) if p.requires_grad)] if graph else []
    with restored(snapshot(leaves[0].device), leaves[0].device):
        start = time.perf_counter()
        found = pytree.tree_leaves(solve(own, pytree.tree_unflatten(starts, spec), t.detach(), **options))
        loss = torch.stack([(_weights(x) * x).abs().sum() for x in found]).sum()
        asked = graph and loss.requires_grad
        slopes = torch.autograd.grad(loss, inputs, allow_unused=True) if asked else ()
        seconds = time.perf_counter() - start
    grads = [torch.zeros_like(x) if g is None else g for g, x in zip(slopes, inputs, strict=bool(slopes))]
    return [x.detach() for x in found], grads, seconds


def difference(found: list[Tensor], truth: list[Tensor]) -> float:
    """The largest difference, relative to the largest element."""
    size = max((float(x.abs().max()) for x in truth if x.numel()), default=0.0) or 1.0
    return max((float((a - b).abs().max()) for a, b in zip(found, truth, strict=True) if a.numel()), default=0.0) / size


def _copied(func: Any) -> Any:
    try:
        return copy.deepcopy(func) if isinstance(func, nn.Module) else func
    except RuntimeError:  # a tensor with a history among its attributes
        return func


def _parameters(func: Any, options: dict[str, Any]) -> list[Tensor]:
    if isinstance(func, nn.Module):
        return list(func.parameters())
    return list(options.get("adjoint_params") or ())


def _weights(x: Tensor) -> Tensor:
    real = x.real if x.is_complex() else x
    return torch.linspace(0.5, 1.5, x.numel(), dtype=real.dtype, device=x.device).view(x.shape)


CHECK = Check()
