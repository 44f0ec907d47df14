"""Compiled kernels of a function of tensors and of its vector-Jacobian product.

The function's joint forward-and-backward graph is traced once and cut in two, so that what is cheap to keep is kept and
the rest computed again. Both halves are compiled by Inductor and called without the guards of torch.compile, which
`capture` has checked already. All of PyTorch that is not public is named in this file; where an entry is missing,
torch.compile compiles the two halves instead.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pathline.compiled.capture import COUNTS, Untraceable, first_line, quietly

#: A line on stderr after so many seconds of compiling.
PATIENCE = 3.0

Function = Callable[..., Sequence[Tensor]]
Batched = dict[int, list[int]]


class Kernel:
    """A compiled function.

    Args:
        function: takes tensors, returns a tuple of tensors.
        examples: tensors like those that it will be called with.
        batched: the dimensions of the examples whose size may be any from 2 on, the same for all.
        options: of Inductor.
        label: what is being compiled, for the line on stderr.
        checked: the outputs that are compared with plain operations once; an estimate of an error is all rounding.
    """

    def __init__(
        self,
        function: Function,
        examples: Sequence[Tensor],
        batched: Batched,
        options: dict,
        label: str,
        *,
        checked: Collection[int] = (),
    ) -> None:
        with _patiently(label), quietly():
            try:
                self._call = _plain(function, examples, batched, options)
            except _MISSING:
                self._call = _by_compile(function, examples, options)
            if checked:
                with torch.no_grad():
                    found, wanted = self(*examples), function(*[x.detach() for x in examples])
                _confirm(_miss([found[i] for i in checked], [wanted[i] for i in checked]))

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(self._call(list(tensors)))


class Pair:
    """A compiled function and the pull-back of cotangents through it.

    Args:
        function, examples, batched, options, label: as in `Kernel`.
        wanted: places of the tensors whose cotangents are asked for.
        pulled: the outputs that have cotangents, with the dimension of the batch in each.
        recompute: keep as little as can be, and compute the rest again.
    """

    def __init__(
        self,
        function: Function,
        examples: Sequence[Tensor],
        batched: Batched,
        options: dict,
        label: str,
        *,
        wanted: Sequence[int],
        pulled: dict[int, int],
        recompute: bool,
    ) -> None:
        self.function, self.wanted, self.pulled = function, list(wanted), dict(pulled)
        with torch.no_grad():
            self.outputs = len(function(*[x.detach() for x in examples]))

        with _patiently(label), quietly():
            try:
                self._forward, self._backward = _halves(self, examples, batched, options, recompute=recompute)
            except _MISSING:
                self._forward, self._backward = _halves_by_compile(self, examples, options)
            _confirm(self._miss(examples))

    def _miss(self, examples: Sequence[Tensor]) -> float:
        """How far the kernels are from plain operations."""
        with torch.no_grad():
            outputs, saved = self.forward(examples)
            draw = torch.Generator(examples[0].device).manual_seed(0)
            cotangents = [
                torch.randn(outputs[i].shape, generator=draw, dtype=outputs[i].dtype, device=draw.device)
                for i in self.pulled
            ]
            grads = self.backward(saved, cotangents)
        primals = [x.detach().requires_grad_(i in self.wanted) for i, x in enumerate(examples)]
        plain = self.joint(primals, cotangents)
        checked = [*self.pulled, *range(self.outputs, len(plain))]
        found = [*outputs, *grads]
        return _miss([found[i] for i in checked], [plain[i] for i in checked])

    def forward(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], list[Any]]:
        """The outputs, and what `backward` needs."""
        values = self._forward(list(tensors))
        return tuple(values[: self.outputs]), list(values[self.outputs :])

    def backward(self, saved: Sequence[Any], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        """The cotangents of the wanted tensors."""
        return list(self._backward([*saved, *cotangents]))

    def joint(self, primals: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Any]:
        """Outputs, then the cotangents of the wanted tensors, in plain operations."""
        with torch.enable_grad():
            outputs = self.function(*primals)
            grads = self.pull(outputs, primals, cotangents)
        zeros = [torch.zeros_like(primals[i]) if g is None else g for i, g in zip(self.wanted, grads, strict=True)]
        return [*outputs, *zeros]

    def pull(
        self, outputs: Sequence[Tensor], primals: Sequence[Tensor], cotangents: Sequence[Any], **options: bool
    ) -> list[Tensor | None]:
        """Vector-Jacobian products by autograd."""
        pairs = [
            (outputs[i], g)
            for i, g in zip(self.pulled, cotangents, strict=True)
            if g is not None and outputs[i].requires_grad
        ]
        if not pairs:
            return [None] * len(self.wanted)
        wanted = [primals[i] for i in self.wanted]
        live = [x for x in wanted if x.requires_grad]
        grads = iter(
            torch.autograd.grad([y for y, _ in pairs], live, [g for _, g in pairs], allow_unused=True, **options)
        )
        return [next(grads) if x.requires_grad else None for x in wanted]


def built(programs: dict[Any, Any], key: Any, make: Callable[[], Kernel | Pair]) -> Kernel | Pair:
    """The program of this key, compiled at its first call.

    Raises:
        Untraceable: it cannot be compiled, for whatever reason.
    """
    program = programs.get(key)
    if program is None:
        try:
            program = make()
        except Untraceable:
            raise
        except Exception as error:
            raise Untraceable(f"Inductor fails with {type(error).__name__}: {first_line(error)}") from error
        programs[key] = program
        COUNTS["programs"] += 1
    return program


# --- trust, but verify -------------------------------------------------------------------------------------------


def _confirm(miss: float) -> None:
    """Refuse kernels that disagree with plain operations on the data that they were compiled with.

    Inductor of torch 2.13 miscompiles some chains of scattered sums, the derivative of indexing by a tensor.
    """
    if miss > 1.0:
        raise Untraceable(f"Inductor's kernels miss plain operations by {miss:.1g} times what rounding explains")


def _miss(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest difference, in units of what rounding may explain."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if a is None or b is None or not b.numel():
            continue
        a, b = a.detach().double(), b.detach().double()
        same = torch.isfinite(b)
        if not torch.equal(same, torch.isfinite(a)):
            return math.inf
        scale = b[same].abs().amax() if same.any() else b.new_ones(())
        miss = (a - b)[same].abs().amax() if same.any() else b.new_zeros(())
        allowed = 30.0 * torch.finfo(wanted[0].dtype).eps ** 0.5
        worst = max(worst, float(miss / (allowed * scale + torch.finfo(wanted[0].dtype).tiny)))
    return worst


# --- Inductor ----------------------------------------------------------------------------------------------------

_MISSING = (ImportError, AttributeError, TypeError)


def known_options() -> set[str]:
    """The options that Inductor takes."""
    from torch._inductor import list_options

    return set(list_options())


def _plain(function: Function, examples: Sequence[Tensor], batched: Batched, options: dict) -> Any:
    module, mode = _traced(function, examples, batched)
    return _inductor(module, mode, options)


def _halves(pair: Pair, examples: Sequence[Tensor], batched: Batched, options: dict, *, recompute: bool) -> Any:
    from torch._functorch.partitioners import default_partition, min_cut_rematerialization_partition

    n = pair.outputs
    with torch.no_grad():
        outputs = pair.function(*[x.detach() for x in examples])
    cotangents = [torch.empty_like(outputs[i]) for i in pair.pulled]
    primals = [x.detach().requires_grad_(i in pair.wanted) for i, x in enumerate(examples)]
    if batched:
        batched = {**batched, **{len(examples) + j: [dim] for j, dim in enumerate(pair.pulled.values())}}
    joint = [*primals, *cotangents]
    module, mode = _traced(lambda *x: pair.joint(x[: len(examples)], x[len(examples) :]), joint, batched)
    _name_inputs(module, len(examples))
    cut: Any = default_partition if recompute else min_cut_rematerialization_partition
    forward, backward = cut(module, None, num_fwd_outputs=n, static_lifetime_input_indices=[])
    ends: Any = forward.graph.output_node().args[0]
    kept = [node.name for node in ends[n:]]
    asked = [node.name for node in backward.graph.find_nodes(op="placeholder")]
    order = [kept.index(name) for name in asked if not name.startswith("tangents_")]
    ahead = _inductor(forward, mode, options)
    back = _inductor(backward, mode, options, backward=True)

    def run(tensors: list[Any]) -> list[Any]:
        values = list(ahead(tensors))
        return [*values[:n], *(values[n + i] for i in order)]

    return (ahead if order == list(range(len(kept))) else run), back


def _traced(function: Function, examples: Sequence[Tensor], batched: Batched) -> Any:
    """The graph of ATen operations, and the mode of its fake tensors."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._dynamo.source import ConstantSource
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = []
    for i, x in enumerate(examples):
        none: list[Any] = [None] * x.dim()
        kinds = [DimDynamic.DUCK if j in batched.get(i, ()) else DimDynamic.STATIC for j in range(x.dim())]
        context = StatelessSymbolicContext(dynamic_sizes=kinds, constraint_sizes=none)
        fakes.append(mode.from_tensor(x, symbolic_context=context, source=ConstantSource(f"x{i}")))
    table = select_decomp_table()
    with mode, enable_python_dispatcher():
        module = make_fx(function, decomposition_table=table, tracing_mode="real")(*fakes)
        _refuse_draws(module)
        if _changes(module):
            pure = torch.func.functionalize(module, remove="mutations")
            with torch.no_grad():
                module = make_fx(pure, decomposition_table=table, tracing_mode="real")(*[x.detach() for x in fakes])
            if _changes(module):
                raise Untraceable("it changes a tensor in place that it was given")
    if any(size.is_number for size in mode.shape_env.replacements.values()):  # pyright: ignore[reportOptionalMemberAccess]
        raise Untraceable("it holds for one size of the batch alone")
    module.graph.eliminate_dead_code()
    module.recompile()
    return module, mode


def _refuse_draws(module: torch.fx.GraphModule) -> None:
    """A recomputation would draw other numbers than the step did."""
    for node in module.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise Untraceable(f"it draws random numbers ({node.target}); draw them outside and pass them in `args`")


def _changes(module: torch.fx.GraphModule) -> bool:
    """Whether an operation writes into a tensor."""
    nodes = (node for node in module.graph.nodes if node.op == "call_function")
    return any(getattr(node.target, "_schema", None) is not None and node.target._schema.is_mutable for node in nodes)


def _name_inputs(module: torch.fx.GraphModule, primals: int) -> None:
    """The names by which the partitioners tell inputs from cotangents."""
    for i, node in enumerate(module.graph.find_nodes(op="placeholder")):
        name = f"primals_{i + 1}" if i < primals else f"tangents_{i - primals + 1}"
        node._rename(name)
        node.target = name
    module.recompile()


def _inductor(module: torch.fx.GraphModule, mode: Any, options: dict, *, backward: bool = False) -> Any:
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner

    examples = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    # A call from C++ costs a fraction of one from Python; on an accelerator the launches outweigh both.
    on_cpu = all(x.device.type == "cpu" for x in examples if isinstance(x, Tensor))
    ours = {"cpp_wrapper": on_cpu, **options}
    # Inductor's own tanh on the CPU is several times slower than its decomposed form; and whether the processor's
    # vector instructions work, it would ask a subprocess in every process anew. A step's tensors are contiguous: behind
    # a convolution that Inductor has laid out anew the next step would not fit.
    known = config.patch({"cpp.use_decompose_tanh": True, "cpp.vec_isa_ok": True, "layout_optimization": False})
    with tracing(TracingContext(mode)), known, config.patch(ours), torch.no_grad():
        compiled = compile_fx_inner(module, examples, is_backward=backward, cpp_wrapper=ours["cpp_wrapper"])
    return getattr(compiled, "current_callable", None) or compiled


def while_loop(go_on: Any, body: Any, carried: Any, read: Any) -> Any:
    """``while go_on(*carried, *read): carried = body(*carried, *read)`` as one operation of a graph."""
    from torch._higher_order_ops.while_loop import while_loop_op

    return while_loop_op(go_on, body, carried, read)


# --- torch.compile -----------------------------------------------------------------------------------------------


def _by_compile(function: Function, examples: Sequence[Tensor], options: dict) -> Any:
    compiled = torch.compile(lambda *x: function(*x), fullgraph=True, dynamic=True, options=options or None)

    def run(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(compiled(*[x.detach() for x in tensors]))

    run(examples)
    return run


def _halves_by_compile(pair: Pair, examples: Sequence[Tensor], options: dict) -> Any:
    """Two compiled functions, the second of which computes the first again."""
    n = len(examples)
    forward = _by_compile(pair.function, examples, options)

    def pulled(*values: Tensor) -> tuple[Tensor, ...]:
        def part(*wanted: Tensor) -> tuple[Tensor, ...]:
            primals = list(values[:n])
            for i, x in zip(pair.wanted, wanted, strict=True):
                primals[i] = x
            found = pair.function(*primals)
            return tuple(found[i] for i in pair.pulled)

        _, pull = torch.func.vjp(part, *(values[i] for i in pair.wanted))  # pyright: ignore[reportAssignmentType]
        return pull(tuple(values[n:]))

    with torch.no_grad():
        outputs = pair.function(*[x.detach() for x in examples])
    cotangents = [torch.empty_like(outputs[i]) for i in pair.pulled]
    backward = _by_compile(pulled, [*examples, *cotangents], options)

    def run(tensors: list[Tensor]) -> list[Any]:
        return [*forward(tensors), *tensors]

    return run, backward


# --- patience ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _patiently(label: str) -> Iterator[None]:
    """A line on the terminal while something takes long."""
    began = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        if done.wait(PATIENCE):
            return
        while True:
            sys.stderr.write(f"\rpathline: compiling {label}, {time.monotonic() - began:.0f} s ")
            sys.stderr.flush()
            if done.wait(1.0):
                sys.stderr.write("\n")
                return

    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
