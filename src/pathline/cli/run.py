"""``pathline run NAME``: flags from the experiment's configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pathline.experiments import Experiment, UnknownExperiment, experiments, find
from pathline.experiments.launching import RUNS, Options, Refused, launch
from pathline.train.configs import ConfigError, did_you_mean, replaced, to_plain
from pathline.train.folders import BrokenFile, latest, resolve
from pathline.train.stopping import importing, parse_duration

HELP = """usage: pathline run NAME [--preset PRESET] [flags]

Carry out an experiment and write its report into runs/NAME-DATE-TIME. The experiments are:

{names}

pathline run NAME --help shows the flags of one."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """How the experiment is carried out."""

    preset: Annotated[str, tyro.conf.arg(metavar="NAME")] = "default"
    """A named set of settings; further flags change it."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Settings from a YAML file, such as --print-config prints; further flags change them."""
    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the settings as YAML and stop."""
    seed: int = 0
    """Of all random generators."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """auto, cpu, cuda, cuda:0 or mps."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of this run, instead of runs/NAME-DATE-TIME."""
    resume: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with an interrupted run: its folder, or latest."""
    max_time: Annotated[str | None, tyro.conf.arg(metavar="DURATION")] = None
    """Stop training after this time, as 90s, 5m or 1h30m, with a checkpoint and a report."""
    on_solve_failure: Literal["stop", "skip", "shrink-lr"] = "stop"
    """When a solve fails in training: stop, skip the batch (at most 1 in 100), or go back and halve the rate."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Mixed precision of Lightning Fabric; 32-true leaves all dtypes as they are."""
    devices: int = 1
    """Devices, one process each. torchrun and fabric run are understood as well."""
    replay: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Compute a failed batch again: a folder runs/.../failed/FIT/step-N."""
    strict: tyro.conf.FlagCreatePairsOff[bool] = False
    """Exit with 1 where an expectation is missed."""


TRACEBACK_VARIABLE = "PATHLINE_TRACEBACK"
"""Environment variable that, at 1, shows the traceback of an error that is told in one line otherwise."""


class UsageError(ValueError):
    """The command line asks for something that cannot be."""


def main(words: list[str]) -> int:
    """Parse, launch, and print the table; the exit code."""
    if not words or words[0].startswith("-"):
        return _without_name(words)
    try:
        experiment = find(words[0])
        flags, config = parse(experiment, words[1:])
        if flags.print_config:
            print(printed(experiment, flags, config), end="")
            return 0
        options = _options(flags)
    except (UnknownExperiment, ConfigError, UsageError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return carry_out(experiment, config, options, strict=flags.strict)


def carry_out(experiment: Experiment, config: Any, options: Options, *, strict: bool = False) -> int:
    """Launch, answer for what may go wrong, and print the table."""
    from pathline.cli.results import print_results, print_stopped

    with importing():
        from pathline.status import SolveError
        from pathline.train.run import DeviceError
    from pathline.train.stopping import FitStopped, Interrupted, ReplayDone

    before = latest(RUNS)
    try:
        folder, results = launch(experiment, config, options)
    except ReplayDone as done:
        print(done)
        return 0
    except KeyboardInterrupt as error:
        print_stopped(experiment.name, options, str(error) or "The run was interrupted.", before)
        return 128 + error.signal if isinstance(error, Interrupted) else 130
    except SolveError as error:
        if options.replay is None:
            raise
        print(f"The batch fails again: {error}", file=sys.stderr)
        return 1
    except FitStopped as error:
        print_stopped(experiment.name, options, str(error), before)
        return 1
    except (DeviceError, BrokenFile, Refused, OSError) as error:
        if os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        print(_sentence(error), file=sys.stderr)
        return 2
    if not _is_first():
        return 0
    print_results(folder, results)
    missed = any(not bound["met"] for metric in results["metrics"] for bound in metric["expected"])
    return 1 if strict and (missed or results["missing"]) else 0


def parse(experiment: Experiment, words: list[str]) -> tuple[RunFlags, Any]:
    """The flags of the run and the configuration of the experiment.

    Preset first, then file (or the run that is resumed), then flags: the later changes the earlier.
    """
    if _value_of(words, "out") == "":
        raise UsageError("`--out` names a folder; an empty text came. Leave it out for runs/NAME-DATE-TIME.")
    flags, config = _defaults(experiment, words)
    wanted_help = any(word in ("-h", "--help") for word in words)
    if not wanted_help:
        _refuse_unknown_flags(experiment, words)
    both = dataclasses.make_dataclass(
        "Both",
        [
            ("experiment", Annotated[experiment.config_type, tyro.conf.arg(name="")]),
            ("run", tyro.conf.OmitArgPrefixes[RunFlags]),
        ],
        frozen=True,
    )
    about = experiment.about
    parsed = tyro.cli(
        both,
        args=words,
        prog=f"pathline run {experiment.name}",
        description=f"{about.title}. {about.summary}\n\nPresets: {', '.join(experiment.presets)}.",
        default=both(config, flags),
    )
    run, changed = parsed.run, parsed.experiment  # pyright: ignore[reportAttributeAccessIssue] - made above
    if run.resume is not None:
        _refuse_changes(flags, run, config, changed)
    return run, changed


def _refuse_changes(before: RunFlags, run: RunFlags, config: Any, changed: Any) -> None:
    """A resumed run keeps its settings: its checkpoints come from them."""
    names = ("preset", "seed")
    pairs = [(f"--{name}", getattr(before, name), getattr(run, name)) for name in names]
    for flag, old, new in [*pairs, *_differences(config, changed)]:
        if old != new:
            raise UsageError(
                f"A resumed run keeps its settings: it has {flag} {old!r}, and {new!r} came. "
                f"Leave out `{flag}`, or start a new run without `--resume`."
            )


def _differences(before: Any, after: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(old) and type(old) is type(new):
            yield from _differences(old, new, f"{name}.")
        elif to_plain(old) != to_plain(new):
            yield f"--{name}", old, new


def _sentence(error: Exception) -> str:
    """An error in one line, and where to find more of it."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename} " if error.filename else ""
        return f"{place}cannot be read or written ({error.strerror}). Choose a folder of your own with `--out`."
    if isinstance(error, Refused):
        return f"{' '.join(str(error).split())} (the traceback: {TRACEBACK_VARIABLE}=1)"
    return str(error)


def printed(experiment: Experiment, flags: RunFlags, config: Any) -> str:
    """The YAML of ``--print-config``, which ``--config`` reads."""
    import yaml

    request = {"experiment": experiment.name, "preset": flags.preset, "seed": flags.seed, "device": flags.device}
    request |= {"on_solve_failure": flags.on_solve_failure, "config": to_plain(config)}
    return yaml.safe_dump(request, sort_keys=False, allow_unicode=True)


def _defaults(experiment: Experiment, words: list[str]) -> tuple[RunFlags, Any]:
    flags = RunFlags()
    chosen = {name: _value_of(words, name) for name in ("preset", "config", "resume", "replay")}
    if sum(chosen[name] is not None for name in ("config", "resume", "replay")) > 1:
        raise UsageError("`--config`, `--resume` and `--replay` each bring a configuration; give one of them.")
    path = _config_path(chosen)
    request = _read(path, experiment, whole=chosen["config"] is None) if path is not None else {}
    settings = request.pop("config", None) or {}
    if not isinstance(settings, Mapping):
        raise UsageError(f"{path}: `config` is a mapping of settings; {settings!r} came. See --print-config.")
    flags = replaced(flags, request, path.name if path is not None else "flags")
    if chosen["preset"] is not None:
        if path is not None and chosen["preset"] != flags.preset:
            raise UsageError(f"{path.name} is of the preset {flags.preset}. Leave out `--preset {chosen['preset']}`.")
        flags = dataclasses.replace(flags, preset=chosen["preset"])
    return flags, experiment.config(flags.preset, settings)


def _config_path(chosen: Mapping[str, str | None]) -> Path | None:
    if chosen["resume"] is not None:
        return resolve(chosen["resume"]) / "config.yaml"
    if chosen["replay"] is not None:
        return _run_of(Path(chosen["replay"])) / "config.yaml"
    if chosen["config"] is None:
        return None
    path = Path(chosen["config"])
    if not path.is_file():
        raise UsageError(f"`--config` names a YAML file; {path} is none.")
    return path


def _run_of(failed: Path) -> Path:
    folder = failed.absolute().parent.parent.parent
    if not (folder / "config.yaml").is_file() or not failed.is_dir():
        raise UsageError(
            f"`--replay` names a folder such as runs/NAME-DATE-TIME/failed/FIT/step-000041; {failed} is none."
        )
    return folder


def _read(path: Path, experiment: Experiment, *, whole: bool) -> dict[str, Any]:
    import yaml

    try:
        request = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is no YAML that can be read: {reason}. Write it as --print-config does.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    if not isinstance(request, Mapping):
        raise UsageError(f"{path} holds {type(request).__name__}; a mapping like that of --print-config is expected.")
    request = dict(request)
    for key in ("experiment", "config") if whole else ():
        if key not in request:
            raise UsageError(f"A run's config.yaml holds `{key}`; {path} has none. Start a new run instead.")
    name = request.pop("experiment", experiment.name)
    if name != experiment.name:
        raise UsageError(
            f"{path} is of the experiment {name}, not {experiment.name}. Use: pathline run {name} --config {path}"
        )
    known = ("preset", "seed", "device", "on_solve_failure", "config")
    for key in request:
        if key not in known:
            raise UsageError(
                f'{path} has the key "{key}".{did_you_mean(key, known)} The keys are: experiment, {", ".join(known)}.'
            )
    return request


def _value_of(words: list[str], name: str) -> str | None:
    flag, value = f"--{name}", None
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            value = words[position + 1]
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def _refuse_unknown_flags(experiment: Experiment, words: list[str]) -> None:
    known = known_flags(experiment)
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            raise UsageError(
                f"The experiment {experiment.name} has no flag `{flag}`.{did_you_mean(flag, known)} "
                f"All flags: pathline run {experiment.name} --help"
            )


def known_flags(experiment: Experiment) -> list[str]:
    """Every flag of ``pathline run NAME``."""
    own = [flag for flag in _flags_of(RunFlags()) if not flag.startswith("--no-")]  # these have no negative form
    return ["--help", *own, *_flags_of(experiment.config_type())]


def _flags_of(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _flags_of(value, f"{prefix}{name}.")
            continue
        yield f"--{prefix}{name}"
        if isinstance(value, bool):
            yield f"--{prefix}no-{name}"


def _options(flags: RunFlags) -> Options:
    out, resumed = flags.out, False
    if not 0 <= flags.seed < 2**32:
        raise UsageError(f"`--seed` is a whole number from 0 to {2**32 - 1}; {flags.seed} came. Choose another.")
    if flags.devices < 1:
        raise UsageError(f"`--devices` is 1 or more; {flags.devices} came. Leave it out for one device.")
    if flags.resume is not None:
        if out is not None:
            raise UsageError("`--resume` goes on in the run's own folder. Leave out `--out`.")
        out, resumed = resolve(flags.resume), True
    if flags.replay is not None:
        out = _run_of(flags.replay)
    return Options(
        preset=flags.preset, seed=flags.seed, device=flags.device, out=out, resumed=resumed, replay=flags.replay,
        max_time=None if flags.max_time is None else parse_duration(flags.max_time),
        on_solve_failure=flags.on_solve_failure, precision=flags.precision, devices=flags.devices,
    )  # fmt: skip


def _without_name(words: list[str]) -> int:
    names = "\n".join(f"  {name:<16} {experiment.about.title}" for name, experiment in experiments().items())
    text = HELP.format(names=names or "  (none)")
    if words and words[0] in ("-h", "--help"):
        print(text)
        return 0
    print(f"`pathline run` takes the name of an experiment first.\n\n{text}", file=sys.stderr)
    return 2


def _is_first() -> bool:
    with contextlib.suppress(ImportError):
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return dist.get_rank() == 0
    return True
