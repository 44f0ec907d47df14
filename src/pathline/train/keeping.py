"""What a fit leaves on disk, and how it is taken up again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pathline.train.checkpoints import (
    random_state,
    read_folder,
    read_tree,
    restore_random_state,
    write_folder,
)
from pathline.train.history import History
from pathline.train.stopping import OutOfTime, ReplayDone

if TYPE_CHECKING:
    from pathline.train.run import Run

__all__ = ["Best", "Keeper"]

SAVE_EVERY_SECONDS = 30.0


class Best:
    """The best watched value so far, with its parameters in memory."""

    def __init__(self, model: nn.Module, patience: int | None = None) -> None:
        self.step: int | None = None
        self.value = math.inf
        self.model: dict[str, Any] | None = None
        self._source, self._patience = model, patience
        self._without_gain = 0

    def check(self, step: int, value: float) -> bool:
        """Compare; whether the patience is used up."""
        if value < self.value:
            self.step, self.value, self._without_gain = step, value, 0
            self.model = {
                key: item.detach().clone() if isinstance(item, Tensor) else copy.deepcopy(item)
                for key, item in self._source.state_dict().items()
            }
        else:
            self._without_gain += 1
        return self._patience is not None and self._without_gain >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Everything but the parameters, which have a folder of their own."""
        return {"step": self.step, "value": self.value, "without_gain": self._without_gain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.step, self.value, self._without_gain = state["step"], state["value"], state["without_gain"]


class Keeper:
    """Checkpoints, log and clock of one fit; without a run it keeps nothing on disk."""

    def __init__(
        self, run: Run | None, name: str, model: nn.Module, best: Best, parts: Mapping[str, Any], max_time: float | None
    ) -> None:
        self.name = name
        self._run, self._model, self._best = run, model, best
        self._parts = {key: part for key, part in parts.items() if hasattr(part, "state_dict")}
        self._began = self._saved = time.monotonic()
        limits = [run.deadline if run is not None else None, None if max_time is None else self._began + max_time]
        self._deadline = min((limit for limit in limits if limit is not None), default=math.inf)
        self._seconds_before = 0.0
        self._before_forward: dict[str, Any] = {}
        self.finished = False

    @property
    def out_of_time(self) -> bool:
        """Whether ``max_time`` has passed."""
        return time.monotonic() >= self._deadline

    def restore(self) -> tuple[History, int]:
        """The state that the folder holds, put back into every part; the record so far and the step to go on with."""
        history, step = History(), 0
        kept = self._read()
        if kept is not None:
            state = kept["state"]
            self._model.load_state_dict(kept["model"])
            for key, part in self._parts.items():
                part.load_state_dict(state["parts"][key])
            if state["parts"]["best"]["step"] is not None:
                self._best.model = read_tree(self._folder("best"), "model")
            history, step, self.finished = History.from_state(state["history"]), state["step"], state["finished"]
            self._seconds_before = history.seconds
            restore_random_state(state["random"])
            self.event("fit taken up", step=step, finished=self.finished)
        elif self._run is not None:
            self._refuse_late_start()
            self.event("fit started", parameters=sum(parameter.numel() for parameter in self._model.parameters()))
        if not self.finished:
            history.stopped = "running"
        if self._run is not None:
            self._run.histories[self.name] = history
        return history, step

    def save(self, history: History, step: int, finished: bool = False) -> None:
        """Write ``last``, and ``best`` where there is one."""
        self._note_time(history)
        self._saved = time.monotonic()
        if self._run is None or not self._run.writes:
            return
        state = {
            "step": step,
            "finished": finished,
            "history": history.state_dict(),
            "parts": {key: part.state_dict() for key, part in self._parts.items()},
            "random": random_state(),
        }
        # best first: a `last` that speaks of a best must find it
        if self._best.model is not None:
            facts = {"step": self._best.step, "watched": self._best.value}
            write_folder(self._folder("best"), {"model": self._best.model, "state": facts})
        write_folder(self._folder("last"), {"model": dict(self._model.state_dict()), "state": state})
        self._run.write_history()

    def save_sometimes(self, history: History, step: int) -> None:
        """Save where the last time is half a minute ago."""
        if time.monotonic() - self._saved >= SAVE_EVERY_SECONDS:
            self.save(history, step)

    def leave(self, history: History, step: int, restore_best: bool) -> History:
        """Write the end of the fit, and leave the parameters that were asked for in the model."""
        if not self.finished:
            self.finished = history.stopped != "max-time"
            if history.stopped == "running":
                history.stopped = "finished"
            self.save(history, step, self.finished)
            self.event("fit ended", step=step, stopped=history.stopped, loss=history.final_loss)
        if restore_best and self._best.model is not None:
            self._model.load_state_dict(self._best.model)
        return history

    def event(self, what: str, **facts: Any) -> None:
        """A line in ``events.jsonl``."""
        if self._run is not None:
            self._run.event(what, fit=self.name, **facts)

    # --- batches on which a solve failed -------------------------------------------------------------------------

    def keep_failed(self, step: int, batch: Any) -> str:
        """Keep the batch, the parameters and the random state of a failed step; the command that replays it."""
        if self._run is None or not self._run.writes:
            return ""
        folder = self._run.folder / "failed" / self.name / f"step-{step:06d}"
        try:
            write_folder(
                folder, {"batch": batch, "model": dict(self._model.state_dict()), "random": self._before_forward}
            )
        except TypeError as error:  # a batch of the user's own class
            self.event("batch not kept", step=step, message=str(error))
            return ""
        return f"pathline run {self._run.name} --replay {self._run.shown(folder)}"

    def remember_random_state(self) -> None:
        """Called before each forward pass, so that a failed one can be replayed with the same random numbers."""
        self._before_forward = {"torch": torch.get_rng_state()}

    def replay(self, compute: Callable[[Any], Any]) -> None:
        """In a run made for it: compute the loss of a kept batch again, and end there.

        Raises:
            SolveError: Again, if the cause is still there.
            ReplayDone: If not.
        """
        if self._run is None or self._run.replay is None or self._run.replay.parent.name != self.name:
            return
        trees = read_folder(self._run.replay, ("batch", "model", "random"))
        if trees is None:
            raise ValueError(f"No failed batch is kept in {self._run.replay}.")
        self._model.load_state_dict(trees["model"])
        torch.set_rng_state(trees["random"]["torch"])
        value = compute(trees["batch"])
        raise ReplayDone(
            f"The batch of {self.name} {self._run.replay.name} can be solved now: "
            f"its loss is {float(value.detach()):.6g}."
        )

    # --- the rest ------------------------------------------------------------------------------------------------

    def _folder(self, which: str) -> Any:
        assert self._run is not None
        return self._run.folder / "checkpoints" / self.name / which

    def _read(self) -> dict[str, Any] | None:
        if self._run is None or not self._run.resumed:
            return None
        return read_folder(self._folder("last"), ("model", "state"))

    def _refuse_late_start(self) -> None:
        if self.out_of_time:
            raise OutOfTime(f"The time of the run was used up before the fit {self.name} began.")

    def _note_time(self, history: History) -> None:
        history.seconds = self._seconds_before + time.monotonic() - self._began
        history.best_step, history.best_value = self._best.step, self._best.value
