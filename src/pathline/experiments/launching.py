"""From an experiment and its options to a finished run folder."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathline.experiments.registry import Experiment
from pathline.train.folders import BrokenFile, new_folder, point_to
from pathline.train.stopping import importing

if TYPE_CHECKING:
    from pathline.train.history import History

__all__ = ["RUNS", "Options", "Refused", "launch"]

RUNS = Path("runs")


class Refused(ValueError):
    """An experiment refused its settings at its door, not in the middle of a fit; ``__cause__`` is its own error."""


@dataclass(frozen=True)
class Options:
    """How a run is carried out, beside what the experiment's own configuration says.

    Attributes are those of :class:`pathline.train.Run`, with ``out`` for a folder of one's own choice.
    """

    preset: str = "default"
    seed: int = 0
    device: str = "auto"
    out: Path | None = None
    max_time: float | None = None
    on_solve_failure: str = "stop"
    precision: str = "32-true"
    devices: int = 1
    quiet: bool = False
    resumed: bool = False
    replay: Path | None = None


def launch(
    experiment: Experiment, config: Any = None, options: Options | None = None
) -> tuple[Path, Mapping[str, Any]]:
    """Run an experiment.

    Args:
        experiment: As :func:`pathline.experiments.find` gives it.
        config: Its configuration; the preset's if left out.
        options: Seed, device, folder and so on.

    Returns:
        The run folder, and the results as they stand in ``metrics.json``.

    Raises:
        DeviceError: Where the device is not there.
        Refused: Where the experiment does not take its settings, or the package with its data is not installed.
        BrokenFile: Where a file of a resumed run cannot be read.
        FileExistsError: Where ``out`` already holds a run.
        KeyboardInterrupt: After Ctrl-C, when checkpoint and report are written.
    """
    with importing():
        from pathline.train.run import Run, make_fabric

    options = options or Options()
    if config is None:
        config = experiment.config(options.preset)
    fabric = make_fabric(options.device, options.devices, options.precision)  # may refuse, before there is a folder
    folder = _folder(experiment, options, first=fabric.is_global_zero)
    run = Run(
        experiment.name, config, folder=folder, preset=options.preset, seed=options.seed, device=options.device,
        expected=experiment.expected, about=experiment.about, changed=experiment.changed(config, options.preset),
        max_time=options.max_time, on_solve_failure=options.on_solve_failure, resumed=options.resumed,
        replay=options.replay, fabric=fabric, quiet=options.quiet,
    )  # fmt: skip
    if run.writes and run.folder.parent.resolve() == RUNS.resolve():
        point_to(run.folder)
    try:
        return run.folder, run.carry_out(experiment)
    except BrokenFile:
        raise
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        if run.replay is not None or not _at_the_door(error, list(run.histories.values())):
            raise
        missing = isinstance(error, ModuleNotFoundError)
        raise Refused(str(error) if missing else f"{type(error).__name__}: {error}") from error


def _at_the_door(error: Exception, histories: Sequence[History]) -> bool:
    """Whether an error is about settings: before any step, or between two fits in words of pathline itself."""
    if not any(history.steps for history in histories):
        return True
    if any(history.stopped == "running" and history.steps for history in histories):
        return False
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return Path(__file__).resolve().parents[1] in Path(innermost.filename).resolve().parents


def _folder(experiment: Experiment, options: Options, first: bool) -> Path:
    if options.out is None:
        return new_folder(RUNS, experiment.name) if first else RUNS  # the others are told by the first
    if first and options.out.exists() and not options.out.is_dir():
        raise FileExistsError(f"`--out` names a folder; {options.out} is a file. Choose another `--out`.")
    if first and not options.resumed and options.replay is None and (options.out / "config.yaml").exists():
        raise FileExistsError(
            f"{options.out} already holds a run. Choose another `--out`, or go on with it: "
            f"pathline run {experiment.name} --resume {options.out}"
        )
    return options.out
