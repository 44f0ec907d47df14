"""The run folder: what was asked, what came out, and the report."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import yaml
from lightning_fabric import Fabric
from torch import nn

from pathline.train.configs import did_you_mean, to_plain
from pathline.train.environment import environment
from pathline.train.folders import BrokenFile, read_json, write_json
from pathline.train.history import History
from pathline.train.stopping import FitStopped, OutOfTime

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pathline.train.loop import Loss

__all__ = ["DeviceError", "Expectation", "Run", "make_fabric"]


class Expectation(Protocol):
    """What a run has to know of a bound."""

    @property
    def metric(self) -> str: ...
    @property
    def bound(self) -> float: ...
    @property
    def sense(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def presets(self) -> tuple[str, ...]: ...
    def met_by(self, value: float) -> bool: ...


class DeviceError(ValueError):
    """There is no such device here."""


class Run:
    """One run of one experiment, and its folder.

    An experiment receives it as the second argument of ``run(config, run)``. The folder holds ``config.yaml``,
    ``env.json``, ``events.jsonl``, ``metrics.csv`` (a row a step), ``metrics.json``, ``checkpoints``, ``figures`` and
    ``report.html``. Among several processes only the first one writes.

    Tier: *maturing*.

    Args:
        name: Of the experiment.
        config: Its configuration, a dataclass.
        folder: Where everything goes; made if missing.
        preset: Decides which bounds are compared.
        seed: Of the global random generators, which are set here.
        device: ``"auto"`` (an NVIDIA GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        expected: The bounds.
        about: The experiment's label; ``title``, ``summary``, ``paper``, ``authors`` and ``year`` are read.
        changed: What differs from the preset, for the report.
        max_time: Seconds for all fits together.
        on_solve_failure: ``"stop"``, ``"skip"`` or ``"shrink-lr"``, for fits that do not choose.
        resumed: Take up the checkpoints in the folder.
        replay: The folder of a failed batch; the fit that it belongs to computes it again and ends the run.
        fabric: A Fabric of :func:`make_fabric`, instead of a new one for ``device``.
        quiet: No progress line.

    Example:
        >>> import tempfile
        >>> run = Run("demo", folder=Path(tempfile.mkdtemp()), quiet=True)
        >>> run.metric("error", 0.01)
        >>> run.metrics
        {'error': 0.01}
    """

    def __init__(
        self,
        name: str,
        config: Any = None,
        *,
        folder: Path,
        preset: str = "default",
        seed: int = 0,
        device: str = "auto",
        expected: Sequence[Expectation] = (),
        about: Any = None,
        changed: dict[str, Any] | None = None,
        max_time: float | None = None,
        on_solve_failure: str = "stop",
        resumed: bool = False,
        replay: Path | None = None,
        fabric: Fabric | None = None,
        quiet: bool = False,
    ) -> None:
        self.name, self.config, self.preset, self.seed = name, config, preset, seed
        self.on_solve_failure, self.resumed, self.replay, self.quiet = (
            on_solve_failure,
            resumed or replay is not None,
            replay,
            quiet,
        )
        self.fabric = fabric if fabric is not None else make_fabric(device)
        self.device: torch.device = self.fabric.device
        self.folder = Path(self.fabric.broadcast(str(folder))) if self.fabric.world_size > 1 else Path(folder)
        self.histories: dict[str, History] = {}
        self.metrics: dict[str, float] = {}
        self._expected = tuple(expectation for expectation in expected if preset in expectation.presets)
        self._about, self._changed = about, changed or {}
        self._units: dict[str, str] = {}
        self._answer = ""
        self._tables: list[dict[str, Any]] = []
        self._figures: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._fitted: set[str] = set()
        self._began, self._started = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.deadline = math.inf if max_time is None else self._began + max_time
        self._seconds_before = self._earlier_seconds()
        self.fabric.seed_everything(seed, workers=True, verbose=False)
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_request(device)
        self.event("run taken up" if resumed else "run started", seed=seed, preset=preset)

    @property
    def writes(self) -> bool:
        """Whether this process writes to the folder; a replay writes nothing."""
        return self.fabric.is_global_zero and self.replay is None

    # --- what an experiment calls --------------------------------------------------------------------------------

    def fit(self, name: str, model: nn.Module, loss: Loss, **options: Any) -> History:
        """:func:`pathline.train.fit` as a part of this run; each fit has a name of its own.

        Raises:
            ValueError: For a name that was used before, or that is no plain word.
        """
        from pathline.train.loop import fit

        _check_name(name)
        if name in self._fitted:
            raise ValueError(
                f'The run already has a fit called "{name}". Give each fit a name of its own, such as "{name}-2".'
            )
        self._fitted.add(name)
        return fit(model, loss, run=self, name=name, **options)

    def metric(self, name: str, value: float, unit: str = "") -> None:
        """A number for the table and the report, compared with the bounds of that name."""
        self.metrics[name] = float(value)
        self._units[name] = unit
        self.event("metric", name=name, value=float(value))

    def answer(self, text: str) -> None:
        """The sentence (Markdown) that opens the report; without it the experiment's summary does."""
        self._answer = text

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table for the report; floats are shown with four digits.

        Raises:
            ValueError: For a row that is longer or shorter than the head.
        """
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(
                    f"The table {title!r} has {len(columns)} columns; a row with {len(row)} came: {list(row)!r}."
                )
        self._tables.append({"title": title, "columns": list(columns), "rows": [list(row) for row in rows]})

    def figure(self, name: str, figure: Figure, caption: str = "") -> None:
        """Save a matplotlib figure as ``figures/NAME.svg`` and ``.png``, close it, and show it in the report."""
        _check_name(name)
        if self.writes:
            folder = self.folder / "figures"
            folder.mkdir(exist_ok=True)
            # no date and fixed ids: the same run gives the same file
            import matplotlib as mpl

            with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
                figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=200)
            self._figures.append({"name": name, "caption": caption})
        _close(figure)

    def note(self, markdown_text: str) -> None:
        """A paragraph (Markdown) for the report: what a reader should know beside the numbers."""
        self._notes.append(markdown_text)

    # --- the folder ----------------------------------------------------------------------------------------------

    def event(self, what: str, **facts: Any) -> None:
        """Add a line to ``events.jsonl``."""
        if not self.writes:
            return
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": what, **facts}
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(_jsonable(line), ensure_ascii=False) + "\n")

    def shown(self, path: Path) -> str:
        """A path as a user would type it from here, never an absolute one if it can be helped."""
        relative = os.path.relpath(path)
        return Path(relative if not relative.startswith(os.pardir) else path).as_posix()

    def write_history(self) -> None:
        """Write ``metrics.csv``: one row a step, for all fits of the run."""
        if not self.writes:
            return
        columns = list(dict.fromkeys(column for history in self.histories.values() for column in history.columns))
        columns = ["fit", "step", *(column for column in columns if column != "step")]
        fresh = self.folder / "metrics.csv.new"
        with fresh.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for name, history in self.histories.items():
                for index in range(history.steps):
                    writer.writerow([name, *(_cell(history, column, index) for column in columns[1:])])
        fresh.replace(self.folder / "metrics.csv")

    def results(self, status: str = "finished", message: str = "") -> dict[str, Any]:
        """Everything that the report shows, as plain values."""
        about = {key: getattr(self._about, key, "") for key in ("title", "summary", "authors", "year", "paper")}
        return {
            "experiment": self.name,
            **about,
            "preset": self.preset,
            "changed": to_plain(self._changed),
            "seed": self.seed,
            "status": status,
            "message": message,
            "started": self._started,
            "seconds": round(self._seconds_before + time.monotonic() - self._began, 3),
            "answer": self._answer,
            "metrics": self._compared(),
            "missing": [_bound(item) for item in self._expected if item.metric not in self.metrics],
            "fits": {name: history.summary() for name, history in self.histories.items()},
            "tables": self._tables,
            "figures": self._figures,
            "notes": self._notes,
        }

    def finish(self, status: str = "finished", message: str = "") -> dict[str, Any]:
        """Write ``metrics.json``, ``metrics.csv`` and ``report.html``, and return the results."""
        results = self.results(status, message)
        self.event("run ended", status=status, message=message)
        if self.writes:
            self.write_history()
            write_json(self.folder / "metrics.json", results)
            from pathline.train.report import write_report

            write_report(self.folder)
        return results

    def carry_out(self, function: Callable[[Any, Run], None]) -> dict[str, Any]:
        """Call ``function(config, run)`` and finish, whatever happens: an early end still gets its report.

        Raises:
            BaseException: What ended the function, after the report is written; only :class:`OutOfTime` ends quietly.
        """
        try:
            function(self.config, self)
        except OutOfTime as error:
            return self.finish("out of time", str(error))
        except KeyboardInterrupt as error:
            self.finish("interrupted", str(error) or "The run was interrupted between two fits.")
            raise
        except FitStopped as error:
            self.finish("stopped", str(error))
            raise
        except Exception as error:
            self.event("traceback", error=f"{type(error).__name__}: {error}", frames=_frames(error))
            self.finish("failed", f"{type(error).__name__}: {error}")
            raise
        late = [name for name, history in self.histories.items() if history.stopped == "max-time"]
        if late:
            return self.finish(
                "out of time", f"The time was used up in the fit {late[0]}; what follows is of an unfinished fit."
            )
        return self.finish()

    # --- the rest ------------------------------------------------------------------------------------------------

    def _compared(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "value": value,
                "unit": self._units[name],
                "expected": [
                    {**_bound(item), "met": item.met_by(value)} for item in self._expected if item.metric == name
                ],
            }
            for name, value in self.metrics.items()
        ]

    def _write_request(self, device: str) -> None:
        if not self.resumed:
            request = {"experiment": self.name, "preset": self.preset, "seed": self.seed, "device": device}
            request |= {"on_solve_failure": self.on_solve_failure, "config": to_plain(self.config) or {}}
            text = yaml.safe_dump(request, sort_keys=False, allow_unicode=True)
            (self.folder / "config.yaml").write_text(text, encoding="utf-8")
        write_json(self.folder / "env.json", environment(str(self.device), self.seed))

    def _earlier_seconds(self) -> float:
        path = self.folder / "metrics.json"
        if not self.resumed or not path.is_file():
            return 0.0
        results = read_json(path)
        try:
            return float(results["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenFile(path, f"no number of seconds: {error!r}", "Delete it and resume again.") from error


def make_fabric(device: str = "auto", devices: int = 1, precision: str = "32-true") -> Fabric:
    """The Fabric of a run, launched: one device, or a process each under ``--devices``, torchrun or ``fabric run``.

    Raises:
        DeviceError: For a device that torch does not know, or that is not there.
    """
    kind, _, index = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    known = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in known or (index and not index.isdigit()):
        raise DeviceError(
            f'`device` is "auto", "cpu", "cuda", "cuda:0" or "mps"; {device!r} came.'
            f"{did_you_mean(kind, ('auto', *known))}"
        )
    if not known[kind]:
        raise DeviceError(f'`device` is {device!r}, but torch finds no such device here. Use device="cpu".')
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise DeviceError(
            f"`device` is {device!r}, but there are {torch.cuda.device_count()} GPUs here, counted from 0."
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if os.environ.get("LT_CLI_USED") == "1":
        fabric = Fabric(precision=precision)  # pyright: ignore[reportArgumentType] - checked by Fabric
    elif world > 1 or devices > 1:
        nodes = world // int(os.environ.get("LOCAL_WORLD_SIZE", str(world))) if world > 1 else 1
        fabric = Fabric(
            accelerator=kind,
            strategy="ddp_find_unused_parameters_true",
            devices=max(devices, world // max(nodes, 1)),
            num_nodes=max(nodes, 1),
            precision=precision,  # pyright: ignore[reportArgumentType]
        )
    else:
        chosen: Any = [int(index)] if kind == "cuda" and index else 1
        fabric = Fabric(accelerator=kind, devices=chosen, precision=precision)  # pyright: ignore[reportArgumentType]
    fabric.launch()
    return fabric


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"A name of letters, digits, `-`, `_` and `.` becomes part of a file's name; {name!r} came.")


def _bound(item: Expectation) -> dict[str, Any]:
    return {"metric": item.metric, "bound": item.bound, "sense": item.sense, "source": item.source}


def _cell(history: History, column: str, index: int) -> str:
    values = history.columns.get(column)
    if values is None or math.isnan(values[index]):
        return ""
    return str(int(values[index])) if column in ("step", "evaluations", "backward_evaluations") else repr(values[index])


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _frames(error: BaseException) -> list[str]:
    """Where it was raised, by the names of files alone: a run folder names no place of its machine."""
    return [
        f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]


def _close(figure: Figure) -> None:
    import matplotlib.pyplot as plt

    plt.close(figure)
