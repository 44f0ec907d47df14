"""The training loop, on Lightning Fabric: one function that reads from top to bottom."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from signal import SIGINT
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pathline.status import SolveError
from pathline.train.batches import Batches, Source
from pathline.train.counting import EvaluationCounts
from pathline.train.failures import FailurePolicy, NonFiniteLoss, check_finite
from pathline.train.history import History
from pathline.train.keeping import Best, Keeper
from pathline.train.lbfgs import lbfgs_iteration, make_lbfgs
from pathline.train.optimizers import MakeOptimizer, Schedule, make_optimizer, make_schedule
from pathline.train.progress import Progress
from pathline.train.stopping import FitStopped, Interrupted, InterruptFlag

if TYPE_CHECKING:
    from pathline.train.run import Run

__all__ = ["Evaluate", "Loss", "fit"]

Loss = Callable[[Any, Any], "Tensor | tuple[Tensor, Mapping[str, float]]"]
"""``loss(model, batch)``: a scalar, or a scalar and numbers to record."""

Evaluate = Callable[[Any], "float | Tensor"]
"""``evaluate(model)``: the watched number; less is better."""


def fit(  # noqa: C901 - the whole loop in one place, to be read from top to bottom
    model: nn.Module,
    loss: Loss,
    *,
    steps: int,
    run: Run | None = None,
    name: str = "model",
    optimizer: str | MakeOptimizer = "adam",
    lr: float = 1e-2,
    batches: Batches = None,
    schedule: str | Schedule | None = None,
    clip: float | None = None,
    patience: int | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    restore_best: bool = False,
    lbfgs_steps: int = 0,
    max_time: float | None = None,
    on_solve_failure: str | None = None,
    quiet: bool = False,
) -> History:
    r"""Minimise ``loss(model, batch)``, by Adam (or another optimizer) and then, where asked for, by L-BFGS.

    .. math:: \theta_{k+1} = \theta_k - \eta_k\, \mathrm{optimizer}(\nabla_\theta\, L(\theta_k, b_k))

    With a ``run``, its folder receives ``checkpoints/<name>/{last,best}``, a resumed run goes on where it stopped (on
    the CPU bit for bit), and ``--max-time``, Ctrl-C and ``--on-solve-failure`` are the run's. A loss that keeps
    state of its own offers ``state_dict()`` and ``load_state_dict()``, and is resumed with the rest.

    Tier: *maturing*.

    Args:
        model: Trained in place. It ends with the last parameters, or with the best ones if ``restore_best``.
        loss: Called as ``loss(model, batch)``; returns a scalar, or ``(scalar, {name: number})``.
        steps: Number of updates.
        run: The run that this fit belongs to; experiments call ``run.fit(name, model, loss, ...)``.
        name: Of the checkpoints and the curves.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"``, ``"rmsprop"``, or a function of ``(parameters, lr=...)``.
        lr: Learning rate at a schedule's factor of 1.
        batches: None to pass ``batch=None`` each time; a function of the step; or an iterable such as a
            ``DataLoader``, gone through again and again.
        schedule: ``"cosine"``, ``"linear"``, or a function from the step to a factor on ``lr``.
        clip: Largest norm of the gradient.
        patience: Stop after this many checks without a better watched value.
        evaluate: The watched value at a check, called without gradients and in eval mode. Without it the training
            loss is watched.
        evaluate_every: Steps between two checks, by default a hundredth of ``steps``.
        restore_best: Leave the best parameters in the model.
        lbfgs_steps: Iterations of L-BFGS with a strong Wolfe line search after the updates, on the full batch.
        max_time: Seconds after which the fit stops.
        on_solve_failure: ``"stop"``, ``"skip"`` or ``"shrink-lr"``; by default the run's choice, else ``"stop"``.
        quiet: Show no progress.

    Returns:
        The record: one row a step.

    Warns:
        UserWarning: The last loss is above a hundred times the first one; or several processes train without a run.

    Raises:
        ValueError: For options that contradict one another.
        FitStopped: Where a solve failed and the policy could not go on.
        Interrupted: After Ctrl-C, with the checkpoint written.

    Example:
        >>> net = torch.nn.Linear(1, 1)
        >>> x = torch.linspace(-1.0, 1.0, 16)[:, None]
        >>> history = fit(
        ...     net, lambda model, _: ((model(x) - 3.0 * x) ** 2).mean(), steps=200, lr=0.1, quiet=True
        ... )
        >>> history.final_loss < 1e-3
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` is a torch.nn.Module, but {type(model).__name__} came.")
    _check_options(steps, lbfgs_steps, batches, evaluate_every, patience)
    fabric = run.fabric if run is not None else _fabric_of(model)
    updates = make_optimizer(optimizer, model.parameters(), lr)
    polish = make_lbfgs(model) if lbfgs_steps else None
    entry, stepper = fabric.setup(_Entry(model, loss), updates)
    source, best, counts = Source(_dealt_out(fabric, batches)), Best(model, patience), EvaluationCounts(model)
    policy = FailurePolicy(on_solve_failure or (run.on_solve_failure if run else "stop"), steps, model, updates)
    watch, factor = _Watch(fabric, model, evaluate), make_schedule(schedule, steps)
    every, total = evaluate_every or max(1, steps // 100), steps + lbfgs_steps
    initial_lrs = [group["lr"] for group in updates.param_groups]
    parts = {
        "updates": updates,
        "polish": polish,
        "batches": source,
        "policy": policy,
        "best": best,
        "watch": watch,
        "loss": loss,
    }
    keeper = Keeper(run, name, model, best, parts, max_time)
    history, step = keeper.restore()
    keeper.replay(lambda batch: entry(fabric.to_device(batch)))
    if keeper.finished:
        return keeper.leave(history, step, restore_best)

    model.train()
    with InterruptFlag() as flag, Progress(name, total, start=step, quiet=quiet or bool(run and run.quiet)) as progress:

        def halts() -> bool:
            if _anywhere(fabric, flag.signal is not None):
                keeper.save(history, step)
                raise Interrupted(
                    f"The fit {name} was interrupted after {step} of {total} steps.", flag.signal or SIGINT
                )
            if _anywhere(fabric, keeper.out_of_time):
                history.stopped = "max-time"
            keeper.save_sometimes(history, step)
            return history.stopped != "running"

        while step < steps and not halts():
            batch = fabric.to_device(source(step))
            keeper.remember_random_state()
            value, number, extra, error = _forward(entry, batch)
            if not _anywhere(fabric, error is not None):
                watch.add(number)
                if step % every == 0:
                    extra["watched"] = watch.take()
                    if best.check(step, extra["watched"]):
                        history.stopped = "patience"
                        break
                policy.remember()
                error = _backward(fabric, stepper, value)
            if _anywhere(fabric, error is not None):
                _after_failure(keeper, policy, history, step, batch, error)
                step += 1
                continue
            if clip is not None:
                fabric.clip_gradients(entry, stepper, max_norm=clip, error_if_nonfinite=False)
            for group, initial in zip(updates.param_groups, initial_lrs, strict=True):
                group["lr"] = initial * factor(step) * policy.lr_factor
            stepper.step()
            step += 1
            history.append({"step": step, "loss": number, "lr": updates.param_groups[0]["lr"], **counts(), **extra})
            progress.update(step, history.last)

        while polish is not None and steps <= step < total and not halts():
            number, extra, error = lbfgs_iteration(fabric, entry, polish)
            if error is not None:
                keeper.event("L-BFGS ended early", step=step, message=str(error))
                break
            step += 1
            history.append({"step": step, "loss": number, "lr": 1.0, **counts(), **extra})
            progress.update(step, history.last)

    if history.stopped == "running":
        best.check(step, watch.at_the_end(entry, full_batch=batches is None))
    _warn_of_growth(history, name)
    return keeper.leave(history, step, restore_best)


class _Entry(nn.Module):
    """The loss as a module's ``forward``, so that wrappers for processes and mixed precision see the whole of it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.extra: dict[str, float] = {}

    def forward(self, batch: Any) -> Tensor:
        result = self.loss(self.model, batch)
        value, extra = result if isinstance(result, tuple) else (result, {})
        if not isinstance(value, Tensor) or value.ndim != 0:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"`loss` returns a scalar tensor; {came} came. Take the mean or the sum of it.")
        self.extra = {name: float(torch.as_tensor(number).detach()) for name, number in extra.items()}
        return value


class _Watch:
    """The number that decides which parameters are best."""

    def __init__(self, fabric: Fabric, model: nn.Module, evaluate: Evaluate | None) -> None:
        self._fabric, self._model, self._evaluate = fabric, model, evaluate
        self._sum, self._count = 0.0, 0

    def add(self, number: float) -> None:
        self._sum, self._count = self._sum + number, self._count + 1

    def take(self) -> float:
        """``evaluate(model)``, or the mean training loss since the last time."""
        if self._evaluate is not None:
            return self._everywhere(self._evaluated(self._evaluate))
        mean = self._sum / self._count if self._count else math.inf
        self._sum, self._count = 0.0, 0
        return self._everywhere(mean)

    def at_the_end(self, entry: Any, full_batch: bool) -> float:
        """As ``take``, for the parameters after the last update."""
        if self._evaluate is None and full_batch:
            _, number, _, error = _forward(entry, None)
            return self._everywhere(math.inf if error is not None else number)
        return self.take()

    def _evaluated(self, evaluate: Evaluate) -> float:
        self._model.eval()
        try:
            with torch.no_grad():
                return float(evaluate(self._model))
        except SolveError:
            return math.inf
        finally:
            self._model.train()

    def _everywhere(self, value: float) -> float:
        if self._fabric.world_size == 1:
            return value
        return _reduced(self._fabric, value, "mean")

    def state_dict(self) -> dict[str, float]:
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sum, self._count = state["sum"], state["count"]


def _forward(entry: Any, batch: Any) -> tuple[Tensor, float, dict[str, float], Exception | None]:
    try:
        value = entry(batch)
        number = check_finite(value)
    except (SolveError, NonFiniteLoss) as error:
        return torch.tensor(math.nan), math.nan, {}, error
    return value, number, dict(entry.module.extra), None


def _backward(fabric: Fabric, stepper: Any, value: Tensor) -> Exception | None:
    """The gradients; a solve that runs backwards can fail as well."""
    stepper.zero_grad()
    try:
        fabric.backward(value)
    except SolveError as error:
        if fabric.world_size > 1:  # the other processes already wait for these gradients
            raise
        return error
    return None


def _warn_of_growth(history: History, name: str) -> None:
    if history.grew:
        warnings.warn(
            f"The fit {name} ended with a loss of {history.final_loss:.4g}, far above the first one, "
            f"{history.loss[0]:.4g}. Try a smaller `lr`, or clip=1.0.",
            stacklevel=3,
        )


def _after_failure(
    keeper: Keeper, policy: FailurePolicy, history: History, step: int, batch: Any, error: Exception | None
) -> None:
    replay = keeper.keep_failed(step, batch)
    try:
        done = policy.decide(step, error, keeper.name, replay)
    except FitStopped as stopped:
        keeper.save(history, step)
        keeper.event("fit stopped", step=step, message=str(stopped))
        raise
    if policy.choice == "skip":
        history.skipped.append(step)
    keeper.event("solve failed", step=step, message=str(error), done=done, replay=replay)


def _anywhere(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is up in any process: all of them have to take the same turn."""
    if fabric.world_size == 1:
        return flag
    return _reduced(fabric, float(flag), "sum") > 0.0


def _reduced(fabric: Fabric, value: float, how: str) -> float:
    reduced = fabric.all_reduce(torch.tensor(value, device=fabric.device), reduce_op=how)
    assert isinstance(reduced, Tensor)
    return float(reduced)


def _fabric_of(model: nn.Module) -> Fabric:
    """A Fabric for the device on which the model already is."""
    group = torch.distributed
    alone = not (group.is_available() and group.is_initialized() and group.get_world_size() > 1)
    if not (alone or isinstance(model, nn.parallel.DistributedDataParallel)):
        warnings.warn(
            "Several processes call `fit` without a run: batches are dealt out, but gradients are not averaged, and "
            "each process trains a model of its own. Pass run=Run(...), or a model in DistributedDataParallel.",
            stacklevel=3,
        )
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type == "cpu":
        return Fabric(accelerator="cpu", devices=1)
    return Fabric(accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1)


def _dealt_out(fabric: Fabric, batches: Batches) -> Batches:
    if fabric.world_size > 1 and isinstance(batches, DataLoader):
        return fabric.setup_dataloaders(batches)  # pyright: ignore[reportReturnType]
    return batches


def _check_options(steps: int, lbfgs_steps: int, batches: Batches, every: int | None, patience: int | None) -> None:
    if steps < 0 or lbfgs_steps < 0 or steps + lbfgs_steps < 1:
        raise ValueError(
            f"`steps` and `lbfgs_steps` are counts with a sum of at least 1; {steps} and {lbfgs_steps} came."
        )
    if lbfgs_steps and batches is not None:
        raise ValueError(
            "`lbfgs_steps` needs the same loss at every evaluation. Leave out `batches`, or set `lbfgs_steps=0`."
        )
    for label, number in (("evaluate_every", every), ("patience", patience)):
        if number is not None and number < 1:
            raise ValueError(f"`{label}` is at least 1; {number} came.")
