"""Independent systems in a batch, and their Jacobians."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pathline._forward import forward_mode
from pathline.solvers.krylov import Products

if TYPE_CHECKING:
    from pathline.terms import Bound, Time


#: Up to so many vector-Jacobian products are made one by one, more of them in one batch.
FEW = 2
#: On the per-sample clock, Jacobians of systems of up to so many unknowns are made of as many copies of each row.
SMALL = 8


@dataclass(frozen=True)
class Systems:
    """How a flat state splits into systems of equations that know nothing of each other.

    Seen as ``(rows, size)`` real numbers; a complex number counts as two.

    Attributes:
        by_rows: whether each row of the state's first dimension is a system; else the whole state is one.
        tail: the shape of one system's state.
        paired: whether the state is complex.
    """

    by_rows: bool
    tail: torch.Size
    paired: bool

    @property
    def size(self) -> int:
        """Real unknowns of one system."""
        return self.tail.numel() * (2 if self.paired else 1)

    def flat(self, y: Tensor) -> Tensor:
        """``(rows, size)`` of a state, or of a slope."""
        if self.paired:
            y = torch.view_as_real(y)
        return y.reshape(self._rows(y), self.size)

    def state(self, z: Tensor) -> Tensor:
        """The state again; of any number of rows."""
        shape = (len(z), *self.tail) if self.by_rows else self.tail
        if self.paired:
            return torch.view_as_complex(z.reshape(*shape, 2))
        return z.reshape(shape)

    def scale(self, scale: Tensor) -> Tensor:
        """``(rows, size)`` of a tolerance, which is real and has the shape of the state."""
        if self.paired:
            scale = torch.stack((scale, scale), -1)
        return scale.reshape(self._rows(scale), self.size)

    def _rows(self, y: Tensor) -> int:
        if y.numel():
            return -1
        return len(y) if self.by_rows else 1  # nothing in it tells their number


def split(term: Bound, t: Time, y: Tensor, args: Any) -> Systems:
    """The systems of a state.

    With one clock a sample each row is one. On the shared clock a vector is one system; the rows of more dimensions are
    systems of their own where one look at the derivatives shows that no row's rate depends on another row.
    """
    if term.per_sample:
        return Systems(True, y.shape[1:], y.is_complex())
    if y.dim() < 2:
        return Systems(False, y.shape, y.is_complex())
    key = f"rows apart {id(term.term)} {tuple(y.shape)}"
    apart = term.notes.get(key)
    if apart is None:
        apart = term.notes[key] = _given_by_rows(term, t, y, args) if term.jacobian_given else _apart(term, t, y, args)
    return Systems(apart, y.shape[1:] if apart else y.shape, y.is_complex())


def _given_by_rows(term: Bound, t: Time, y: Tensor, args: Any) -> bool:
    given = term.jacobian_given
    assert given is not None
    with torch.no_grad():
        return given(t, y, args).shape != (*y.shape, *y.shape)


def _apart(term: Bound, t: Time, y: Tensor, args: Any) -> bool:
    """Whether no row's rate depends on another row.

    Any two rows differ in a bit of their index: weights on the rates of the rows that have the bit must leave no trace
    on the others, and the other way round. Seen at two states, since a derivative may vanish at one.
    """
    n = len(y)
    if n < 2 or not y.numel():
        return True
    bits = torch.arange(n)[None, :] >> torch.arange((n - 1).bit_length())[:, None] & 1
    masks = torch.cat([bits, 1 - bits]).bool().to(y.device)
    whole = Systems(False, y.shape, y.is_complex())
    here = whole.flat(y.detach())
    wave = torch.sin(torch.arange(1, here.shape[1] + 1, dtype=here.dtype, device=y.device))
    ripple = 1 + 0.01 * wave
    for z in (here, here * ripple + 1e-3 * wave * (here.abs().mean() + 1e-3)):
        weights = masks.unsqueeze(-1).expand(*masks.shape, whole.size // n).reshape(len(masks), 1, -1) * ripple
        traces = _traces(term, t, z, args, whole, weights)[:, 0].reshape(len(masks), n, -1)
        if bool((traces[~masks].nan_to_num() != 0).any()):
            return False
    return True


def _traces(term: Bound, t: Time, z: Tensor, args: Any, systems: Systems, weights: Tensor) -> Tensor:
    """``(n, *z)``: vector-Jacobian products of the rate, as numbers."""

    def rate(x: Tensor) -> Tensor:
        return systems.flat(term.rate(t, systems.state(x), args))

    if transforming():
        with torch.no_grad():
            value, pull = torch.func.vjp(rate, z)  # pyright: ignore[reportAssignmentType]
            return torch.stack([pull(w.to(value.dtype))[0] for w in weights])
    with _recording([z]) as (x,):
        return _pull_back(term, [rate(x)], [x], weights, graph=False)[0].detach()


# --- Jacobians ---------------------------------------------------------------------------------------------------


def linearize(
    term: Bound, t: Time, z: Tensor, args: Any, systems: Systems, *, graph: bool | str = False
) -> tuple[Tensor, Tensor]:
    """The rate ``(rows, size)`` and its Jacobian ``(rows, size, size)``, from one evaluation.

    Args:
        term: the term.
        t: the time.
        z: ``(rows, size)``, the state.
        args: handed to the field.
        systems: of the state.
        graph: False for numbers alone; True for a rate and a Jacobian that can be differentiated; "value" for such a
            rate and a constant Jacobian.

    Returns:
        The rate, and ``J[r, i, j] = d rate[r, i] / d z[r, j]``.
    """
    (rate,), (jacobian,) = linearize_all(term, [t], [z], args, systems, graph=graph)
    return rate, jacobian


def linearize_all(
    term: Bound, times: Sequence[Time], zs: Sequence[Tensor], args: Any, systems: Systems, *, graph: bool | str = False
) -> tuple[list[Tensor], list[Tensor]]:
    """`linearize` at several points, in one backward pass for all of them."""
    term.stats.jacobians += len(zs)
    given = term.jacobian_given
    if given is not None or transforming():
        alone = _transformed if given is None else _given
        pairs = [alone(term, t, z, args, systems, graph) for t, z in zip(times, zs, strict=True)]
        return [rate for rate, _ in pairs], [jacobian for _, jacobian in pairs]

    few = term.per_sample and len(zs) == 1 and systems.size <= SMALL
    if few and not graph and not term.notes.get("no copies"):
        try:
            rate, jacobian = _copied(term, times[0], zs[0], args, systems)
        except (RuntimeError, ValueError):  # the field holds something of the batch's size
            term.notes["no copies"] = True
        else:
            return [rate], [jacobian]

    def at(xs: Sequence[Tensor]) -> list[Tensor]:
        return [systems.flat(term.rate(t, systems.state(x), args)) for t, x in zip(times, xs, strict=True)]

    if graph:
        xs = [z if z.requires_grad else z.detach().requires_grad_() for z in zs]
        rates = at(xs)
        return rates, _rows(term, rates, xs, graph=graph is True)
    with _recording(zs) as xs:
        rates = at(xs)
        jacobians = _rows(term, rates, xs, graph=False)
    return [rate.detach() for rate in rates], jacobians


def products(term: Bound, times: Sequence[Time], zs: Sequence[Tensor], args: Any, systems: Systems) -> Products:
    """The Jacobians at several points as products.

    Raises:
        RuntimeError: under a torch.func transform, which these products cannot cross.
    """
    if transforming():
        raise RuntimeError(
            f"torch.func transforms need the Jacobian of an implicit method, and with {systems.size} unknowns it is "
            "not made. Use torch.autograd, or a solver with newton=Newton(krylov=...) above that number."
        )
    term.stats.jacobians += len(zs)
    with _recording(zs) as xs:
        rates = [systems.flat(term.rate(t, systems.state(x), args)) for t, x in zip(times, xs, strict=True)]
        return Products(rates, xs)


def _copied(term: Bound, t: Time, z: Tensor, args: Any, systems: Systems) -> tuple[Tensor, Tensor]:
    """The same on the per-sample clock, where rows do not mix: a copy of each row for each component."""
    n, size = z.shape
    copies = repeated(term, n, size)
    with _recording([z.repeat_interleave(size, 0)]) as (x,):
        times = t.repeat_interleave(size) if isinstance(t, Tensor) else t
        rate = systems.flat(copies.rate(times, systems.state(x), args))
        term.once(copies)
        weights = torch.eye(size, dtype=rate.dtype, device=rate.device).repeat(n, 1).unsqueeze(0)
        (jacobian,) = _pull_back(term, [rate], [x], weights, graph=False)
    return rate.detach()[::size], jacobian.reshape(n, size, size)


def repeated(term: Bound, rows: int, copies: int) -> Bound:
    """The term of a batch in which each row stands ``copies`` times, one behind the other."""
    known = term.__dict__.get("copies", {}).get(copies)
    if known is None or known[0] is not term or known[1] != rows:
        index = torch.arange(rows, device=term.device).repeat_interleave(copies)
        known = term, rows, term.select(index)
        term.__dict__["copies"] = {**term.__dict__.get("copies", {}), copies: known}
    return known[2]


@contextlib.contextmanager
def _recording(zs: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """A place where derivatives are taken, whatever mode the solve runs in, and the states to take them at."""
    with torch.inference_mode(False), torch.enable_grad():
        yield [(z.clone() if z.is_inference() else z.detach()).requires_grad_() for z in zs]


def _rows(term: Bound, rates: Sequence[Tensor], xs: Sequence[Tensor], *, graph: bool) -> list[Tensor]:
    """All rows of the Jacobians: one vector-Jacobian product for each component, of every system at once."""
    n, size = xs[0].shape
    basis = torch.eye(size, dtype=xs[0].dtype, device=xs[0].device)[:, None, :].expand(size, n, size)
    return [columns.movedim(0, 1) for columns in _pull_back(term, rates, xs, basis, graph=graph)]


def _pull_back(
    term: Bound, rates: Sequence[Tensor], xs: Sequence[Tensor], weights: Tensor, *, graph: bool
) -> list[Tensor]:
    """For each rate and its ``x`` ``(n, *x)``: the vector-Jacobian products with the ``n`` weights."""
    tracked = [i for i, rate in enumerate(rates) if rate.requires_grad]
    found = [x.new_zeros(len(weights), *x.shape) for x in xs]
    if not tracked or not weights.numel():
        return found

    def one(w: Tensor, batched: bool) -> list[Tensor | None]:
        return list(
            torch.autograd.grad(
                [rates[i] for i in tracked],
                [xs[i] for i in tracked],
                [w.to(rates[i].dtype) for i in tracked],
                retain_graph=True,
                create_graph=graph,
                allow_unused=True,
                is_grads_batched=batched,
            )
        )

    columns = None
    if len(weights) > FEW and not term.notes.get("loop over products"):
        try:
            columns = one(weights, True)
        except RuntimeError:  # an operation inside has no batched derivative
            term.notes["loop over products"] = True
    if columns is None:
        products = [one(w, False) for w in weights]
        columns = [
            None if column[0] is None else torch.stack([c for c in column if c is not None])
            for column in zip(*products, strict=True)
        ]
    for i, column in zip(tracked, columns, strict=True):
        found[i] = found[i] if column is None else column
    return found


def _transformed(
    term: Bound, t: Time, z: Tensor, args: Any, systems: Systems, graph: bool | str
) -> tuple[Tensor, Tensor]:
    """The same under torch.func transforms, which autograd.grad must not cross."""

    def rate(x: Tensor) -> Tensor:
        return systems.flat(term.rate(t, systems.state(x), args))

    def jacobian() -> tuple[Tensor, Tensor]:
        value, pull = torch.func.vjp(rate, z)  # pyright: ignore[reportAssignmentType]
        n, size = z.shape
        basis = torch.eye(size, dtype=z.dtype, device=z.device)
        rows: list[Tensor] = [pull(row.expand(n, size))[0] for row in basis]
        return value, torch.stack(rows, 1)

    if graph is True:
        return jacobian()
    with torch.no_grad():
        value, constant = jacobian()
    if graph:
        value = rate(z)
    return value, constant


def _given(term: Bound, t: Time, z: Tensor, args: Any, systems: Systems, graph: bool | str) -> tuple[Tensor, Tensor]:
    """The user's own Jacobian."""
    given, y = term.jacobian_given, systems.state(z)
    assert given is not None
    with torch.set_grad_enabled(bool(graph) and torch.is_grad_enabled()):
        rate = systems.flat(term.rate(t, y, args))
    with torch.set_grad_enabled(graph is True and torch.is_grad_enabled()):
        jacobian = given(t, y, args)
    n, size = len(z), systems.tail.numel()
    if jacobian.numel() != n * size * size:
        raise ValueError(
            f"`jacobian` returned shape {tuple(jacobian.shape)} for a state of shape {tuple(y.shape)}; expected "
            f"{(*y.shape, *systems.tail)}: the derivative of each component of dy with respect to each of y."
        )
    jacobian = jacobian.reshape(n, size, size)
    return rate, _as_pairs(jacobian) if systems.paired else jacobian


def _as_pairs(matrix: Tensor) -> Tensor:
    """A complex matrix as a real one of twice the size, on pairs (real part, imaginary part)."""
    matrix = matrix if matrix.is_complex() else torch.complex(matrix, torch.zeros_like(matrix))
    a, b = matrix.real, matrix.imag
    blocks = torch.stack((torch.stack((a, -b), -1), torch.stack((b, a), -1)), -3)  # (n, i, 2, j, 2)
    return blocks.reshape(len(matrix), 2 * matrix.shape[-1], 2 * matrix.shape[-1])


def transforming() -> bool:
    """Whether derivatives are to be taken by torch.func: inside one of its transforms, or where tangents travel."""
    if forward_mode():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
