"""The whole recursion as one differentiable operation, with its derivative written out.

At the sizes of these models a step is a dozen small operations, and recording them costs more than doing them. On the
way back only what one step hands to the step before is computed step by step. All else is computed for all rows at
once: the slopes before, and the derivatives by the weights after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pathline._forward import forward_mode
from pathline.fields import MLP
from pathline.gradients.inputs import transforming
from pathline.models.recurrent.between import Decay, Flow, Hold
from pathline.models.recurrent.cells import GRUCell, update
from pathline.nets.slopes import SLOPES, slope_of

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]

Activation = tuple[Callable[[Tensor], tuple[Tensor, Tensor]], Callable[[Tensor, Tensor], Tensor]]
"""The value and something to keep; and the cotangent before it from that behind it and what was kept."""


class Held:
    """Nothing happens."""

    tensors: tuple[Tensor, ...] = ()

    def advance(self, h: Tensor, k: int) -> Tensor:
        """The state at the end of gap ``k``."""
        return h

    def pull(self, cotangent: Tensor, k: int) -> Tensor:
        """From the end of gap ``k`` to its start."""
        return cotangent

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of ``tensors``."""
        return ()


class Decayed(Held):
    """A factor for each row.

    Args:
        tensors: The factors, ``(N, hidden)``.
        sizes: Rows of each step.
    """

    def __init__(self, tensors: Sequence[Tensor], sizes: list[int]) -> None:
        (factor,) = tensors
        self.factors = factor.split(sizes)
        self.states: list[Tensor] = []
        self.found: list[Tensor] = []

    def advance(self, h: Tensor, k: int) -> Tensor:
        self.states.append(h)
        return h * self.factors[k]

    def pull(self, cotangent: Tensor, k: int) -> Tensor:
        self.found.append(cotangent * self.states[k])
        return cotangent * self.factors[k]

    def gradients(self) -> tuple[Tensor | None, ...]:
        return (torch.cat(self.found[::-1]),)


class Flown(Held):
    """Steps of Euler along a multilayer perceptron.

    Args:
        tensors: Weights and biases, layer by layer.
        lengths: The lengths of the steps in each gap, ``(rows, 1)`` each.
        activations: Behind each hidden layer.
    """

    def __init__(self, tensors: Sequence[Tensor], lengths: list[list[Tensor]], activations: list[Activation]) -> None:
        self.weights, self.biases = tensors[::2], tensors[1::2]
        self.lengths, self.activations = lengths, activations
        self.kept: list[list[tuple[list[Tensor], list[Tensor]]]] = []
        self.found: list[tuple[list[Tensor], list[Tensor]]] = []

    def advance(self, h: Tensor, k: int) -> Tensor:
        steps = []
        for length in self.lengths[k]:
            x, inputs, kept = h, [h], []
            for weight, bias, (function, _) in zip(self.weights, self.biases, self.activations, strict=False):
                x, slope = function(torch.addmm(bias, x, weight.t()))
                inputs.append(x)
                kept.append(slope)
            h = torch.addcmul(h, torch.addmm(self.biases[-1], x, self.weights[-1].t()), length)
            steps.append((inputs, kept))
        self.kept.append(steps)
        return h

    def pull(self, cotangent: Tensor, k: int) -> Tensor:
        for length, (inputs, kept) in zip(reversed(self.lengths[k]), reversed(self.kept[k]), strict=True):
            down = cotangent * length
            found = [down]
            for i in range(len(kept), 0, -1):
                down = self.activations[i - 1][1](torch.mm(down, self.weights[i]), kept[i - 1])
                found.append(down)
            cotangent = torch.addmm(cotangent, down, self.weights[0])
            self.found.append((inputs, found[::-1]))
        return cotangent

    def gradients(self) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = []
        for i in range(len(self.weights)):
            inputs = torch.cat([inputs[i] for inputs, _ in self.found])
            down = torch.cat([found[i] for _, found in self.found])
            gradients += [down.t() @ inputs, down.sum(0)]
        return tuple(gradients)


def _tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    value = x.tanh()
    return value, value


def _activation(slope: Slope) -> Activation:
    """An activation from its value and slope; for tanh the value alone says what the slope is."""
    if slope is SLOPES["tanh"]:
        return _tanh, torch.ops.aten.tanh_backward
    return slope, torch.mul


@dataclass(frozen=True)
class Plan:
    """What the recursion needs beside tensors with a gradient.

    Attributes:
        sizes: Rows of each step.
        between: Makes the object for the gaps from its tensors.
    """

    sizes: list[int]
    between: Callable[[Sequence[Tensor]], Held]


def recur(plan: Plan, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Held, list[Any]]:
    """States before and after each row, and the last of each series; with what their derivatives need."""
    projected, h, weight, *own = tensors
    between, gates = plan.between(own), []
    before, after, ended = [], [], []
    active, hidden = h.shape
    sums, fresh = (part.split(plan.sizes) for part in projected.split((3 * hidden, hidden), 1))
    for k, size in enumerate(plan.sizes):
        if size < active:
            ended.append(h[size:])
            h, active = h[:size], size
        h = between.advance(h, k)
        before.append(h)
        h, gate = update(sums[k], fresh[k], h, weight)
        gates.append(gate)
        after.append(h)
    last = torch.cat([h, *reversed(ended)]) if ended else h.clone()
    return torch.cat(before), torch.cat(after), last, between, gates


class Recursion(torch.autograd.Function):
    """`recur`, differentiated by hand."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before, after, last, between, gates = recur(plan, tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(before, *tensors)
        ctx.plan, ctx.between, ctx.gates = plan, between, gates
        return before, after, last

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        before, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_differentiable(ctx.plan, tensors, cotangents)
        ctx.between.found = []
        return None, *_pulled(ctx.plan, before, tensors, ctx.between, ctx.gates, cotangents)


def _pulled(
    plan: Plan, before: Tensor, tensors: Sequence[Tensor], between: Held, gates: list[Any], cotangents: Any
) -> tuple[Tensor | None, ...]:
    _, start, weight, *_ = tensors
    d_before, d_after, d_last = cotangents
    d_last = torch.zeros_like(start) if d_last is None else d_last
    by_new, by_sums, keep = _slopes(before, gates)
    slopes, kept = by_sums.split(plan.sizes), keep.split(plan.sizes)
    d_before = None if d_before is None else d_before.split(plan.sizes)
    d_after = None if d_after is None else d_after.split(plan.sizes)
    cotangent, active, ends, downs = d_last[:0], 0, [], []
    for k, size in reversed(list(enumerate(plan.sizes))):
        if size > active:
            cotangent = torch.cat([cotangent, d_last[active:size]])
            active = size
        if d_after is not None:
            cotangent = cotangent + d_after[k]
        down = (slopes[k] * cotangent.unsqueeze(1)).flatten(1)
        ends.append(cotangent)
        downs.append(down)
        cotangent = torch.addmm(cotangent * kept[k], down, weight)
        if d_before is not None:
            cotangent = cotangent + d_before[k]
        cotangent = between.pull(cotangent, k)
    down, end = torch.cat(downs[::-1]), torch.cat(ends[::-1])
    d_start = torch.cat([cotangent, d_last[active:]])
    return torch.cat([down, end * by_new], 1), d_start, down.t() @ before, *between.gradients()


def _slopes(h: Tensor, gates: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """How the state after a row depends on the sums inside its update, for all rows at once.

    Returns:
        ``(N, hidden)`` by the sum of the new state; ``(N, 3, hidden)`` by the state's part in the sums of both
        gates and of the new state; and ``(N, hidden)``, how much of the state is kept.
    """
    reset, keep, new, recalled = (torch.cat(parts) for parts in zip(*gates, strict=True))
    by_new = (1 - keep) * (1 - new.square())
    by_keep = (h - new) * keep * (1 - keep)
    by_reset = by_new * recalled * reset * (1 - reset)
    return by_new, torch.stack([by_reset, by_keep, by_new * reset], 1), keep


def _differentiable(plan: Plan, tensors: Sequence[Tensor], cotangents: Any) -> list[Tensor | None]:
    """The same by autograd, for derivatives of the derivative."""
    wanted = [x for x in tensors if x.requires_grad]
    results = [(y, g) for y, g in zip(recur(plan, tensors)[:3], cotangents, strict=True) if g is not None]
    outputs, given = zip(*results, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True))
    return [next(found) if x.requires_grad else None for x in tensors]


# --- what it can do ----------------------------------------------------------------------------------------------


def fused(
    between: nn.Module,
    cell: nn.Module,
    h: Tensor,
    projected: Tensor,
    gaps: tuple[Tensor, ...],
    sizes: list[int],
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The recursion in one operation; None where a part is not one whose derivative is written here.

    Args:
        between: What happens between rows.
        cell: The update.
        h: ``(n, hidden)``, the states before the first rows, the longest series first.
        projected: ``(N, 4 hidden)``, the input's half of each update.
        gaps: What ``between`` has prepared, ``(N, ...)``.
        sizes: Rows of each step.
    """
    if type(cell) is not GRUCell or not sizes or _watched(between, cell) or _elsewhere(h):
        return None
    found = _gaps(between, gaps, sizes, h.shape[1])
    if found is None:
        return None
    make, own = found
    plan = Plan(sizes, make)
    return Recursion.apply(plan, projected, h, cell.state.weight, *own)  # pyright: ignore[reportReturnType]


def _gaps(
    between: nn.Module, gaps: tuple[Tensor, ...], sizes: list[int], hidden: int
) -> tuple[Callable[[Sequence[Tensor]], Held], Sequence[Tensor]] | None:
    """How to make the object for the gaps, and its tensors."""
    if type(between) is Hold:
        return lambda _: Held(), ()
    if type(between) is Decay:
        return lambda tensors: Decayed(tensors, sizes), gaps
    if type(between) is not Flow or between.method != "euler" or between.gradient != "backprop":
        return None
    layers = _layers(between.field)
    if layers is None or len(layers[0][-1]) != hidden or any(gap.requires_grad for gap in gaps):
        return None
    lengths = _lengths(gaps, between.steps, sizes)
    between._evaluations += sum(map(len, lengths))
    tensors, activations = layers
    return lambda given: Flown(given, lengths, activations), tensors


def _lengths(gaps: tuple[Tensor, ...], steps: int, sizes: list[int]) -> list[list[Tensor]]:
    """The lengths of the steps in each gap."""
    _, length, *counts = gaps
    if not counts:
        return [[part] * steps for part in (length / steps).split(sizes)]
    parts = list(zip((length / counts[0]).split(sizes), counts[0].split(sizes), strict=True))
    most = torch.stack([count.max() for _, count in parts]).int().tolist()
    return [
        [torch.where(count > j, part, 0.0) for j in range(number)]
        for (part, count), number in zip(parts, most, strict=True)
    ]


def _layers(field: Any) -> tuple[list[Tensor], list[Activation]] | None:
    """Weights and biases of a multilayer perceptron of the state alone, and the slopes of its activations."""
    if type(field) is MLP and not field.time and not field.context:
        linear, activations = list(field.net.layers), field.net._slopes()
    elif type(field) is nn.Sequential and len(field) % 2:
        parts = list(field)
        linear, activations = parts[::2], [slope_of(activation) for activation in parts[1::2]]
    else:
        return None
    known = [_activation(slope) for slope in activations if slope is not None]
    plain = [layer for layer in linear if type(layer) is nn.Linear and layer.bias is not None]
    if len(known) < len(activations) or len(plain) < len(linear):
        return None
    return [tensor for layer in plain for tensor in (layer.weight, layer.bias)], known


def _elsewhere(h: Tensor) -> bool:
    """Whether something else wants to see the single operations."""
    return torch.compiler.is_compiling() or transforming() or forward_mode() or torch.is_autocast_enabled(h.device.type)


def _watched(*modules: nn.Module) -> bool:
    """Whether somebody hangs on to a module's calls."""
    return any(part._forward_hooks or part._forward_pre_hooks for module in modules for part in module.modules())
