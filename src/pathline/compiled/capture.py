"""What a field computes, and from which tensors: traced by TorchDynamo, which also watches that the trace stays true.

Dynamo's backend usually runs the graph. Ours only takes note of it: calling the traced function checks Dynamo's guards
(training flags, attributes, closures, globals, shapes, dtypes, autocast) in some twenty microseconds, and tells the
graph that is valid now and the very tensors that it reads now. So a graph is never stale, and is checked once a solve
instead of once a step.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pathline.terms import Bound

#: Graphs of one kind of field (of one class, of one function's code) before Dynamo gives up.
LIMIT = 256


#: What was traced and compiled so far in this process: fields, and programs made of them.
COUNTS = {"fields": 0, "programs": 0}


class Untraceable(Exception):
    """The field cannot be compiled; the text says why."""


_NUMBER = "it reads a number that became an input of its graph"


@dataclass
class Graph:
    """A field as a graph of tensor operations, valid for one shape of state.

    Attributes:
        module: takes the tensors that the field reads, in Dynamo's order; returns dy of the flat state.
        batched: the dimensions of its inputs whose size is that of the batch, where that may be any.
        programs: what was compiled of it.
        sizes: of a batch that shrinks, those for which Dynamo has checked the graph.
    """

    module: torch.fx.GraphModule
    batched: dict[int, list[int]]
    programs: dict[Any, Any] = field(default_factory=dict)
    checked: bool = False
    sizes: set[int] = field(default_factory=set)


@dataclass
class Reading:
    """A graph, and what it reads.

    Attributes:
        tensors: parameters, buffers and other tensors; None in the places of time and state.
        time, leaves: the places of time and of the leaves of the state; None where the field does not read it.
        sizes: the places of the size of the batch.
    """

    graph: Graph
    tensors: list[Tensor | None]
    time: int | None
    leaves: list[int | None]
    sizes: list[int]

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors beside time and state."""
        return [x for x in self.tensors if x is not None]


_NOTED = threading.local()


def read(term: Bound, t: Any, y: Tensor, args: Any) -> Reading:
    """The graph of a term at a state like ``y``.

    Raises:
        Untraceable: the field does what a graph cannot say.
    """
    return look(term, term.time(t), y, None if args is None else term.given(args))


def look(term: Bound, t: Tensor, y: Tensor, given: Any, rows: Sequence[Tensor] | None = None) -> Reading:
    """The graph of a term at a state like ``y``, with time and ``args`` as the field receives them.

    Args:
        term: the field.
        t: the time.
        y: the flat state.
        given: ``args``.
        rows: of a batch that shrinks during the solve, the tensors in ``given`` with an entry a sample. One graph then
            serves all sizes from the first on.
    """
    with torch.enable_grad():  # where a field turns gradients off, the graph must know to turn them on again
        time = t.detach()
        state = term.structure.unravel(y.detach().contiguous())
        # Strides of a part of the flat state would become numbers that vary with the batch.
        leaves = [x.detach().contiguous() for x in pytree.tree_leaves(state)]
        state = pytree.tree_unflatten(leaves, pytree.tree_structure(state))
        code = code_of(term.term)
        if rows is not None:
            _mark([time, *leaves, *rows])
        else:
            _let_batch_vary(code, leaves, given)
        _NOTED.graph, _NOTED.reading, _NOTED.shrinks = None, True, rows is not None
        try:
            _traced(code, rows is not None)(term.term, term.structure, time, state, given)
        except Untraceable:
            raise
        except Exception as error:
            raise Untraceable(_reason(error)) from error
        finally:
            _NOTED.reading = False
    if _NOTED.graph is None:
        raise Untraceable("nothing in it depends on a tensor")
    graph, tensors = _NOTED.graph, list(_NOTED.tensors)
    if not graph.checked:
        _check_rate(graph, y)
    _NOTED.graph = _NOTED.tensors = None
    sizes = [i for i, x in enumerate(tensors) if not isinstance(x, Tensor)]
    if rows is not None and any(tensors[i] != len(y) for i in sizes):
        raise Untraceable(_NUMBER)
    for i in sizes:
        tensors[i] = None
    places = [next((i for i, x in enumerate(tensors) if x is leaf), None) for leaf in (time, *leaves)]
    for place in places:
        if place is not None:
            tensors[place] = None
    return Reading(graph, tensors, places[0], places[1:], sizes)


def _check_rate(graph: Graph, y: Tensor) -> None:
    """A rate of another shape or dtype is refused here, and gets its error from the plain step that follows."""
    output: Any = graph.module.graph.output_node()
    dy = output.args[0][0].meta["example_value"]
    fits = dy.dim() == y.dim() and all(not isinstance(n, int) or n == m for n, m in zip(dy.shape, y.shape, strict=True))
    if not fits or (dy.dtype != y.dtype and not torch.is_autocast_enabled(y.device.type)):
        raise Untraceable(f"it returns {tuple(dy.shape)} in {dy.dtype} for a state {tuple(y.shape)} in {y.dtype}")
    graph.checked = True


def _rate(term: Any, structure: Any, t: Tensor, state: Any, args: Any) -> Tensor:
    """What Dynamo traces. The clone makes an output even of a field that returns what it was given."""
    return structure.ravel(term.rate(t, state, args)).clone()


#: The traced function for every kind of field and of batch, as long as that kind of field lives.
_TRACED: weakref.WeakKeyDictionary[Any, dict[bool, Callable[..., Any]]] = weakref.WeakKeyDictionary()


_OWN_CACHE = "isolate_recompiles" in inspect.signature(torch.compile).parameters
"""PyTorch before 2.13 traces eight kinds of field, then no more."""


def _traced(code: Any, shrinks: bool) -> Callable[..., Any]:
    kinds = _TRACED.setdefault(code, {})
    found = kinds.get(shrinks)
    if found is None:
        # A cache of its own for every kind of field: Dynamo's belong to a code object and hold eight entries.
        options: dict[str, Any] = {"recompile_limit": LIMIT, "isolate_recompiles": True} if _OWN_CACHE else {}
        with quietly():
            _keep_quiet()
            found = torch.compile(_rate, backend=_note, fullgraph=True, dynamic=False, **options)
        kinds[shrinks] = found
    return found


@functools.cache
def _keep_quiet() -> None:
    """What PyTorch's own insides warn of while they trace our fields is not the user's business."""
    from torch._dynamo.callback import on_compile_end, on_compile_start

    def begin(_: Any) -> None:
        if getattr(_NOTED, "reading", False):
            _NOTED.quiet = quietly()
            _NOTED.quiet.__enter__()

    def end(_: Any) -> None:
        quiet = getattr(_NOTED, "quiet", None)
        if quiet is not None:
            _NOTED.quiet = None
            quiet.__exit__(None, None, None)

    on_compile_start(begin)
    on_compile_end(end)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def code_of(f: Any) -> Any:
    """What tells kinds of fields apart: the class of a module, the code of a function."""
    while True:
        if isinstance(f, functools.partial):
            f = f.func
        elif getattr(f, "__func__", None) is not None:
            f = f.__func__
        elif not isinstance(f, nn.Module) and callable(getattr(f, "f", None)):
            f = f.f
        else:
            return getattr(f, "__code__", type(f))


def _note(module: torch.fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
    """Dynamo's backend: takes note of graph and inputs, and computes nothing."""
    _refuse_effects()
    fakes = [node.meta["example_value"] for node in module.graph.find_nodes(op="placeholder")]
    graph = Graph(_without_clone(module), _batched(fakes))
    COUNTS["fields"] += 1
    nothing = (torch.empty(0),)

    def noted(*inputs: Tensor) -> tuple[Tensor, ...]:
        _NOTED.graph, _NOTED.tensors = graph, inputs
        return nothing

    return noted


def _batched(examples: list[Any]) -> dict[int, list[int]]:
    """The dimensions of every input that vary with the batch."""
    symbols = {str(x.node.expr) for x in examples if isinstance(x, torch.SymInt)}
    # Of a batch that shrinks all sizes that vary are its own, or `look` refuses; else a second may be another tensor's.
    if any(not isinstance(x, Tensor | torch.SymInt) for x in examples) or (len(symbols) > 1 and not _NOTED.shrinks):
        raise Untraceable(_NUMBER)
    dims = {
        i: [j for j in range(x.dim()) if _varies(x.shape[j : j + 1])]
        for i, x in enumerate(examples)
        if isinstance(x, Tensor)
    }
    return {i: found for i, found in dims.items() if found}


def _varies(shape: Sequence[Any]) -> bool:
    """Whether one of these sizes is still open."""
    return any(isinstance(n, torch.SymInt) and n.node.maybe_as_int() is None for n in shape)


#: Sizes of batches that a kind of field has met, by the rest of the shapes.
_SIZES: weakref.WeakKeyDictionary[Any, dict[Any, set[int]]] = weakref.WeakKeyDictionary()


def _let_batch_vary(code: Any, leaves: list[Tensor], args: Any) -> None:
    """From the third size of a batch on, one graph for all sizes."""
    if not all(x.dim() for x in leaves) or len({x.shape[0] for x in leaves}) > 1:
        return
    size = leaves[0].shape[0]
    met = _SIZES.setdefault(code, {}).setdefault(tuple(x.shape[1:] for x in leaves), set())
    if len(met) < 3:
        met.add(size)
    if len(met) < 3 or size < 2:
        return
    own = [x for x in pytree.tree_leaves(args) if isinstance(x, Tensor) and x.dim() and x.shape[0] == size]
    _mark([*leaves, *own])


def _mark(tensors: Sequence[Tensor]) -> None:
    for x in tensors:
        torch._dynamo.maybe_mark_dynamic(x, 0)


def _refuse_effects() -> None:
    """A field that counts its calls, or fills a list, would do so once a solve instead of once an evaluation."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    effects = InstructionTranslator.current_tx().output.side_effects
    changed = [v.source.name for v in effects.id_to_variable.values() if v.source and effects.is_modified(v)]
    if changed:
        names = ", ".join(name.replace("L['term'].f", "f").replace("L['term']", "f") for name in changed)
        raise Untraceable(f"it changes {names} while it computes (solution.stats counts evaluations)")


def _without_clone(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    output: Any = module.graph.output_node()
    last: Any = output.args[0][0]
    if last.op == "call_method" and last.target == "clone":
        output.replace_input_with(last, last.args[0])
        module.graph.erase_node(last)
        module.recompile()
    return module


def _reason(error: Exception) -> str:
    """The first lines of an error, as the reason of a fallback."""
    cause: Any = error
    while cause is not None and not isinstance(cause, Untraceable):
        cause = getattr(cause, "inner_exception", None) or cause.__cause__
    if isinstance(cause, Untraceable):
        return str(cause)
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """The first sentences of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]
