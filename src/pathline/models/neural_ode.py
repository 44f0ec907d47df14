"""The neural ordinary differential equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.gradients import find_gradient
from pathline.solvers import find_solver
from pathline.solving import solve


class NeuralODE(nn.Module):
    r"""A field and the way it is solved: the map $y(t_0) \mapsto y(t_1)$ of $\dot y = f(t, y)$. *Maturing.*

    Called with a state alone it returns the state at the end, in the same shape, and so is a layer of any
    ``nn.Sequential``; called with times it returns the whole trajectory.

    Args:
        field: The rate, ``(t, y) -> dy`` or ``(t, y, args) -> dy``, or a module of ``y`` alone.
        t: Start and end of the flow.
        method: A name in ``pathline.METHODS``, or a solver.
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance of an adaptive method.
        dt: Step of a fixed-step method.
        augment: Number of zeros appended to the state at the start and dropped at the end.
        gradient: ``"backprop"``, ``"checkpointed"``, ``"reversible"``, ``"adjoint"``, or a gradient object.
        return_augmented: Keep the augmented components in what is returned.
        augment_dim: The dimension that grows: -1 for vectors, 1 for the channels of images.
        controller: As in ``pathline.solve``.
        max_steps: As in ``pathline.solve``.
        clock: As in ``pathline.solve``; with ``"per-sample"`` an output does not depend on the rest of the batch.
        compile: As in ``pathline.solve``.

    Raises:
        TypeError: ``field`` is not callable.
        ValueError: ``t`` is not two different times, ``augment`` is negative, or no such method or gradient exists.

    Example:
        >>> import torch
        >>> from pathline import NeuralODE, fields
        >>> model = NeuralODE(fields.MLP(2, hidden=32))
        >>> y0 = torch.zeros(7, 2)
        >>> model(y0).shape, model(y0, torch.linspace(0, 1, 5)).shape
        (torch.Size([7, 2]), torch.Size([5, 7, 2]))

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
        E. Dupont, A. Doucet, Y. W. Teh (2019), Augmented neural ODEs.
    """

    stored_as = {"compile": "compile_steps"}  # `nn.Module.compile` is taken

    def __init__(
        self,
        field: nn.Module | Callable[..., Any],
        *,
        t: tuple[float, float] = (0.0, 1.0),
        method: Any = "tsit5",
        rtol: Any = None,
        atol: Any = None,
        dt: float | None = None,
        augment: int = 0,
        gradient: Any = "backprop",
        return_augmented: bool = False,
        augment_dim: int = -1,
        controller: Any = None,
        max_steps: int | None = None,
        clock: Literal["shared", "per-sample"] = "shared",
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not callable(field):
            raise TypeError(
                "`field` is a module or a function (t, y) -> dy, "
                f"but an object of type {type(field).__name__} came. Try NeuralODE(pathline.fields.MLP(2))."
            )
        if not isinstance(augment, int) or augment < 0:
            raise ValueError(f"`augment` is the number of added zeros, 0 or more, but {augment!r} came.")
        find_solver(method)
        find_gradient(gradient)
        self.field = field
        self.t = _checked_span(t)
        self.method, self.rtol, self.atol, self.dt = method, rtol, atol, dt
        self.augment, self.augment_dim, self.return_augmented = augment, augment_dim, return_augmented
        self.gradient, self.controller, self.max_steps, self.compile_steps = gradient, controller, max_steps, compile
        self.clock = clock
        self._stats: Any = None

    def forward(self, y0: Any, t: Tensor | Sequence[float] | None = None, args: Any = None) -> Any:
        """Follow the flow from ``y0``.

        Args:
            y0: State, shape ``(..., size)``; any structure that ``pathline.solve`` takes when ``augment`` is 0.
            t: Times of the trajectory, the first being the time of ``y0``; without it the span of the model.
            args: Handed to the field as its third argument, and differentiated.

        Returns:
            Without ``t`` the state at the end, in the shape of ``y0``; with ``t`` the states, ``(len(t), *y0.shape)``.
        """
        solution = self.solve(y0, t, args=args)
        return self.shown(solution.y1) if t is None else self.shown(solution.ys, times=1)

    def inverse(self, y1: Any, args: Any = None) -> Any:
        """Follow the flow back from the end of the span to its start.

        Args:
            y1: State at the end of the span. A model with ``augment`` needs all of it: ``return_augmented=True``.
            args: Handed to the field.

        Returns:
            The state at the start, in the shape of ``y1``.

        Raises:
            ValueError: The model dropped the augmented components, without which there is no way back.
        """
        if self.augment and not self.return_augmented:
            raise ValueError(
                f"The way back needs the {self.augment} augmented components, but this model drops them. "
                "Build it with return_augmented=True."
            )
        return self.solve_field(self.field, y1, (self.t[1], self.t[0]), args=args).y1

    def solve(self, y0: Any, t: Tensor | Sequence[float] | None = None, *, args: Any = None, **options: Any) -> Any:
        """The ``Solution`` itself, augmented components included.

        Args:
            y0: State at the start, without augmented components.
            t: Times to return; without it the span of the model.
            args: Handed to the field.
            **options: Options of ``pathline.solve`` for this call: ``save``, ``events``, ``progress``, or other
                values than the model's own.
        """
        times = self.t if t is None else t
        return self.solve_field(self.field, self.augmented(y0), times, args=args, **options)

    def solve_field(self, field: Callable[..., Any], y0: Any, t: Any, *, args: Any = None, **options: Any) -> Any:
        """The ``Solution`` of another system, solved as this model solves its own; its evaluations count as ours.

        Args:
            field: The rate.
            y0: The whole state of that system; nothing is appended.
            t: Times to return.
            args: Handed to the field.
            **options: As in ``solve``.
        """
        own = {
            "method": self.method,
            "rtol": self.rtol,
            "atol": self.atol,
            "dt": self.dt,
            "gradient": self.gradient,
            "controller": self.controller,
            "max_steps": self.max_steps,
            "clock": self.clock,
            "compile": self.compile_steps,
        }
        solution = solve(field, y0, t, args=args, **(own | options))
        self._stats = solution.stats
        return solution

    def loss(self, batch: Any) -> Tensor:
        """The mean square error on a batch.

        Args:
            batch: ``(y0, target)`` for the state at the end, or ``(y0, t, target)`` for a trajectory; or a mapping with
                these keys.
        """
        if isinstance(batch, Mapping):
            y0, t, target = batch["y0"], batch.get("t"), batch["target"]
        elif isinstance(batch, Sequence) and len(batch) in (2, 3):
            y0, t, target = batch[0], batch[1] if len(batch) == 3 else None, batch[-1]
        else:
            raise TypeError(
                "A batch is (y0, target), (y0, t, target) or a mapping with these keys, "
                f"but {type(batch).__name__} came."
            )
        return F.mse_loss(self(y0, t), target)

    @property
    def evaluations(self) -> int:
        """Evaluations of the field in the last solve."""
        return 0 if self._stats is None else int(self._stats.evaluations)

    @property
    def backward_evaluations(self) -> int:
        """Evaluations of the field in the backward pass of the last solve, after ``backward()``."""
        return 0 if self._stats is None else int(self._stats.backward_evaluations)

    def augmented(self, y0: Any) -> Any:
        """A state with the zeros that augment it."""
        if not self.augment:
            return y0
        if not isinstance(y0, Tensor):
            raise TypeError(f"`augment` needs a state that is one tensor, but {type(y0).__name__} came.")
        if not -y0.dim() <= self.augment_dim < y0.dim():
            raise ValueError(
                f"`augment_dim` = {self.augment_dim} is no dimension of a state of shape {tuple(y0.shape)}. "
                "It is -1 for vectors, 1 for the channels of images."
            )
        shape = list(y0.shape)
        shape[self.augment_dim] = self.augment
        return torch.cat([y0, y0.new_zeros(shape)], self.augment_dim)

    def shown(self, y: Any, times: int = 0) -> Any:
        """States as the model returns them, without what augments them; behind so many dimensions of times."""
        if not self.augment or self.return_augmented:
            return y
        # With times in front, a channel dimension counted from the left is one further to the right.
        dim = self.augment_dim if self.augment_dim < 0 else self.augment_dim + times
        return y.narrow(dim, 0, y.shape[dim] - self.augment)

    def extra_repr(self) -> str:
        parts = [f"t=({self.t[0]:g}, {self.t[1]:g})", f"method={_name(self.method)}"]
        parts += [f"{key}={getattr(self, key)}" for key in ("rtol", "atol", "dt") if getattr(self, key) is not None]
        parts += [f"augment={self.augment}"] if self.augment else []
        parts += ["return_augmented=True"] if self.return_augmented else []
        parts += [f"gradient={_name(self.gradient)}"] if self.gradient != "backprop" else []
        parts += [] if isinstance(self.field, nn.Module) else [f"field={_name(self.field)}"]
        return ", ".join(parts)


def _name(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


def _checked_span(t: Any) -> tuple[float, float]:
    try:
        t0, t1 = (float(time) for time in t)
    except (TypeError, ValueError):
        t0 = t1 = float("nan")
    if not (t0 != t1 and abs(t0) < float("inf") and abs(t1) < float("inf")):
        raise ValueError(
            f"`t` is the start and the end of the flow, two different finite numbers, but {t!r} came. "
            "For a trajectory, hand the times to the call: model(y0, t)."
        )
    return t0, t1
