"""Which event of the base is paired with which event of the data.

A coupling gives the rows of ``x0`` another order and leaves those of ``x1`` where they are, so that whatever belongs to
an event of the data (a context, a weight) stays beside it.
"""

from __future__ import annotations

import difflib
import importlib
import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathline.models.densities.checking import check_finite

__all__ = ["COUPLINGS", "Coupling", "Independent", "OptimalTransport", "Sinkhorn", "find_coupling"]


class Coupling(ABC):
    """A way to pair the events of two batches. *Maturing.*"""

    @abstractmethod
    def __call__(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Pair a batch of the base with a batch of the data.

        Args:
            x0: Events of the base, ``(batch, *event)``.
            x1: Events of the data, in the same shape.

        Returns:
            ``x0`` with its rows in another order (some perhaps twice), and ``x1`` as it came.
        """


@dataclass(frozen=True)
class Independent(Coupling):
    """Pairs as they come: base and data know nothing of each other. *Maturing.*"""

    def __call__(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        _check_pair(x0, x1)
        return x0, x1


@dataclass(frozen=True)
class OptimalTransport(Coupling):
    r"""The permutation of the batch with the least total squared distance, exactly. *Maturing.*

    $$\min_\pi \sum_i \lVert x_0^{\pi(i)} - x_1^i \rVert^2$$

    Distances are those of flattened events. The assignment is solved on the host, in time that grows with the cube of
    the batch: some tens of milliseconds for 512 pairs.

    Example:
        >>> import torch
        >>> x0, x1 = OptimalTransport()(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.1], [2.9]]))
        >>> x0.flatten().tolist()
        [1.0, 3.0]

    References:
        A. Tong, K. Fatras, N. Malkin, G. Huguet, Y. Zhang, J. Rector-Brooks, G. Wolf, Y. Bengio (2024), Improving and
        generalizing flow-based generative models with minibatch optimal transport.
        D. F. Crouse (2016), On implementing 2D rectangular assignment algorithms.
    """

    def __call__(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        _check_pair(x0, x1)
        _check_numbers(x0, x1)
        _, order = _assignment()(_reduced(x1, x0).cpu().numpy())
        return x0[torch.as_tensor(order, device=x0.device)], x1


@dataclass(frozen=True)
class Sinkhorn(Coupling):
    r"""Pairs drawn from the entropic transport plan of the batch. *Maturing.*

    $$\min_\pi \sum_{ij} \pi_{ij} \lVert x_0^i - x_1^j \rVert^2 + \epsilon \sum_{ij} \pi_{ij} \log \pi_{ij}$$

    For each event of the data one of the base is drawn from $\pi(\cdot \mid j)$, so an event of the base may come twice
    and another not at all.

    Args:
        epsilon: Strength of the entropy, in the unit of squared distances; by default a twentieth of their mean.
        iterations: Most updates of the potentials.
        tolerance: The updates end when each row of the plan holds its share to this relative error.

    References:
        M. Cuturi (2013), Sinkhorn distances: lightspeed computation of optimal transport.
    """

    epsilon: float | None = None
    iterations: int = 1000
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        if self.epsilon is not None and not (0.0 < self.epsilon < math.inf):
            raise ValueError(f"`epsilon` is a positive number or None, but {self.epsilon!r} came.")
        if self.iterations < 1:
            raise ValueError(f"`iterations` is 1 or more, but {self.iterations!r} came.")
        if not self.tolerance > 0.0:
            raise ValueError(f"`tolerance` is above 0, but {self.tolerance!r} came.")

    def __call__(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        plan = self.plan(x0, x1)
        return x0[torch.multinomial(plan.mT.contiguous(), 1).squeeze(1)], x1

    def plan(self, x0: Tensor, x1: Tensor) -> Tensor:
        """The transport plan: a row an event of the base, a column one of the data; its entries sum to one.

        Warns:
            RuntimeWarning: The potentials have not settled after ``iterations`` updates.
        """
        cost = squared_distances(x0, x1)
        _check_numbers(x0, x1)
        epsilon = float(cost.mean()) / 20 if self.epsilon is None else self.epsilon
        kernel = -cost / max(epsilon, torch.finfo(cost.dtype).tiny)
        share = -math.log(len(x0))
        rows, columns = torch.zeros_like(kernel[:, :1]), torch.zeros_like(kernel[:1])
        error = math.inf
        for _ in range(self.iterations):
            columns = share - torch.logsumexp(kernel + rows, 0, keepdim=True)
            excess = torch.logsumexp(kernel + columns, 1, keepdim=True) - share
            error = float((excess + rows).abs().max())
            if error <= self.tolerance:
                break
            rows = -excess
        else:
            warnings.warn(
                f"The plan misses its margins by {error:.1g} after {self.iterations} iterations, with epsilon = "
                f"{epsilon:.3g} and a mean squared distance of {float(cost.mean()):.3g}. "
                "Take a larger `epsilon`, more `iterations`, or OptimalTransport().",
                RuntimeWarning,
                stacklevel=2,
            )
            columns = share - torch.logsumexp(kernel + rows, 0, keepdim=True)
        return torch.exp(kernel + rows + columns)


COUPLINGS: dict[str, type[Coupling]] = {"independent": Independent, "ot": OptimalTransport, "sinkhorn": Sinkhorn}
"""Couplings by name, each with its default numbers."""


def find_coupling(coupling: Any) -> Coupling:
    """The coupling of that name, or the object itself.

    Raises:
        ValueError: No coupling has this name.
        TypeError: Neither a name nor a coupling.
    """
    if isinstance(coupling, Coupling):
        return coupling
    if isinstance(coupling, str):
        if coupling in COUPLINGS:
            return COUPLINGS[coupling]()
        close = difflib.get_close_matches(coupling, COUPLINGS, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        raise ValueError(f'No coupling is called "{coupling}".{hint} The names: {", ".join(COUPLINGS)}.')
    raise TypeError(
        f"`coupling` is a name ({', '.join(COUPLINGS)}) or a coupling such as Sinkhorn(0.1), but {coupling!r} came."
    )


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """The squared distance of each flattened event of ``a`` to each of ``b``, ``(batch, batch)`` in float64."""
    _check_pair(a, b)
    a, b = a.detach().flatten(1).double(), b.detach().flatten(1).double()
    return torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist").square()


def _reduced(a: Tensor, b: Tensor) -> Tensor:
    r"""Costs with the same best permutation as the squared distances, and one that is found sooner.

    $|a - b|^2 = |a / s - s b|^2$ up to numbers of a row or of a column alone, and so are means and least entries.
    """
    a, b = a.detach().flatten(1).double(), b.detach().flatten(1).double()
    a, b = a - a.mean(0), b - b.mean(0)
    s = (a.norm() / b.norm()).sqrt()
    s = s if 0.0 < float(s) < math.inf else torch.ones_like(s)
    cost = squared_distances(a / s, s * b)
    cost = cost - cost.amin(1, keepdim=True)
    return cost - cost.amin(0, keepdim=True)


def _check_pair(x0: Tensor, x1: Tensor) -> None:
    if x0.shape != x1.shape or x0.dim() < 2:
        raise ValueError(
            "`x0` and `x1` are batches of equal shape, (batch, *event), "
            f"but {tuple(x0.shape)} and {tuple(x1.shape)} came."
        )


def _check_numbers(x0: Tensor, x1: Tensor) -> None:
    """No distance is known to NaN, and all are infinite to infinity."""
    check_finite("x0", x0)
    check_finite("x1", x1)


def _assignment() -> Any:
    try:
        return importlib.import_module("scipy.optimize").linear_sum_assignment
    except ImportError:
        raise ImportError('Optimal pairs need scipy: pip install "pathline[app]".') from None
