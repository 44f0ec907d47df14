"""diffrax's solves of the same problems, compiled by XLA.

Import this module for the first time where the number of threads is settled: `threads` writes it into the environment,
which XLA reads once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tasks import ATOL, METHOD, RTOL, ConvField, MLPField, Task


def threads(number: int) -> None:
    """How many threads XLA may use; before the first import of JAX."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["NPROC"] = os.environ["PJRT_NPROC"] = str(number)
    if number == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


if "NPROC" not in os.environ:
    threads(torch.get_num_threads())

import diffrax  # noqa: E402  # after the setting above
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

SOLVERS = {"dopri5": diffrax.Dopri5, "dopri8": diffrax.Dopri8, "tsit5": diffrax.Tsit5}
#: Evaluations of a step, and those before the first one: the slope there, and a second one for the size of the step.
STAGES = {"dopri5": 6, "tsit5": 6, "dopri8": 13}
ADJOINTS = {"checkpointed": diffrax.RecursiveCheckpointAdjoint, "backsolve": diffrax.BacksolveAdjoint}


def to_jax(x: Tensor) -> Any:
    """The same numbers."""
    return jnp.asarray(x.detach().numpy())


def field_of(module: nn.Module) -> tuple[Callable[..., Any], list[Any]]:
    """A field and its parameters, in the order of the module's own."""
    parameters = [to_jax(p) for p in module.parameters()]
    if isinstance(module, MLPField):
        return _mlp(module.power), parameters
    if isinstance(module, ConvField):
        return _convolutions, parameters
    raise TypeError(f"no field in JAX for {type(module).__name__}")


def _mlp(power: int) -> Callable[..., Any]:
    def field(t: Any, y: Any, parameters: list[Any]) -> Any:
        x = y if power == 1 else y**power
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            x = jnp.tanh(x @ weight.T + bias)
        return x @ parameters[-2].T + parameters[-1]

    return field


def _convolution(x: Any, weight: Any, bias: Any) -> Any:
    same = jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return same + bias[:, None, None]


def _convolutions(t: Any, y: Any, parameters: list[Any]) -> Any:
    return _convolution(jnp.tanh(_convolution(y, *parameters[:2])), *parameters[2:])


class DiffraxTrial:
    """A training step: value and gradient in one compiled function."""

    def __init__(self, task: Task, mode: str) -> None:
        field, self.parameters = field_of(task.field)
        y0, ts = to_jax(task.y0), to_jax(task.t)

        def loss(parameters: list[Any]) -> Any:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                SOLVERS[METHOD](),
                ts[0],
                ts[-1],
                None,
                y0,
                parameters,
                saveat=diffrax.SaveAt(ts=ts),
                stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
                adjoint=ADJOINTS[mode](),
            )
            return (solution.ys**2).mean(), solution.stats["num_steps"]

        self.step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        self.found: Any = None

    def work(self) -> None:
        self.found = jax.block_until_ready(self.step(self.parameters))

    def gradient(self) -> Tensor:
        return torch.from_numpy(np.concatenate([np.asarray(g, np.float64).reshape(-1) for g in self.found[1]]))

    def evaluations(self) -> tuple[int, int]:
        """Of the forward solve; those of the backward pass aren't told."""
        self.work()
        return 2 + STAGES[METHOD] * int(self.found[0][1]), 0

    def memory(self) -> tuple[int | None, int]:
        """XLA's own buffers for what lies between its inputs and outputs."""
        analysis = self.step.lower(self.parameters).compile().memory_analysis()
        return None, int(analysis.temp_size_in_bytes)


def oscillators(mu: float) -> Callable[..., Any]:
    """Van der Pol's equation; the last dimension is position and velocity."""

    def field(t: Any, y: Any, args: Any) -> Any:
        u, v = y[..., 0], y[..., 1]
        return jnp.stack((v, mu * (1.0 - u * u) * v - u), -1)

    return field


def lotka_volterra(t: Any, y: Any, args: Any) -> Any:
    """Prey and predators, as in the catalogue of problems."""
    prey, predator = y
    return jnp.stack((1.1 * prey - 0.4 * prey * predator, 0.1 * prey * predator - 0.4 * predator))


class Solve:
    """A compiled solve without gradient.

    Args:
        field: in JAX.
        y0: the start, NumPy; with ``each`` its first dimension has one clock a sample.
        t: the output times, or the two ends.
        tol: relative and absolute tolerance.
        method: a name from `SOLVERS`.
        rows: whether the times are returned, or the last state alone.
        each: whether every sample is solved by itself (`vmap`).
    """

    def __init__(
        self,
        field: Callable[..., Any],
        y0: np.ndarray,
        t: np.ndarray,
        *,
        tol: float,
        method: str = METHOD,
        rows: bool = True,
        each: bool = False,
    ) -> None:
        self.stages = STAGES[method]
        ts = jnp.asarray(t)

        def solve(y0: Any) -> Any:
            found = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                SOLVERS[method](),
                ts[0],
                ts[-1],
                None,
                y0,
                saveat=diffrax.SaveAt(ts=ts) if rows else diffrax.SaveAt(t1=True),
                stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
                max_steps=2**20,
                throw=False,
            )
            return found.ys, found.stats["num_steps"]

        self.y0 = jnp.asarray(y0)
        self.solve = jax.jit(jax.vmap(solve) if each else solve)
        self.found: Any = None

    def work(self) -> None:
        self.found = jax.block_until_ready(self.solve(self.y0))

    def evaluations(self) -> int:
        """The most that a sample took."""
        return 2 + self.stages * int(np.max(self.found[1]))

    def rows(self) -> np.ndarray:
        """The trajectories."""
        return np.array(self.found[0], np.float64)


def double(on: bool) -> None:
    """Whether JAX keeps float64."""
    jax.config.update("jax_enable_x64", on)
