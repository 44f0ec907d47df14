"""Experiments over several seeds, and the small JSON file that records their numbers."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pathline.experiments.launching import Options, launch
from pathline.experiments.registry import Experiment, find
from pathline.train.folders import read_json, write_json

__all__ = ["RESULTS", "reproduce", "spread", "summarise"]

RESULTS = Path("docs/results")
SEEDS = (0, 1, 2)

WORST_MAY_MISS = 0.25
"""A bound applies to the mean over the seeds; the worst seed may miss it by this share."""


def reproduce(
    experiment: Experiment,
    *,
    seeds: Sequence[int] = SEEDS,
    preset: str = "default",
    results: Path = RESULTS,
    device: str = "auto",
    jobs: int = 1,
    announce: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run an experiment once a seed, and write ``results/NAME.json`` (``NAME-PRESET.json`` for another preset).

    Args:
        experiment: As :func:`pathline.experiments.find` gives it.
        seeds: One run each.
        preset: The settings.
        results: Folder of the summary; the runs themselves go where runs go.
        device: As in ``pathline run``.
        jobs: So many runs at a time. From two on each has a process of its own with one thread of the processor, so
            that runs neither wait for each other nor depend on how many there are.
        announce: Is told what begins.

    Returns:
        The summary.

    Raises:
        ValueError: ``jobs`` is below one.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` is the number of runs at a time, at least 1, but {jobs} came.")
    options = [Options(preset=preset, seed=seed, device=device, quiet=jobs > 1) for seed in seeds]
    runs: list[Mapping[str, Any]] = []
    facts: Mapping[str, Any] = {}
    for folder, outcome in _carried_out(experiment, options, jobs, announce):
        runs.append(outcome)
        facts = read_json(folder / "env.json")
    summary = summarise(runs, facts)
    results.mkdir(parents=True, exist_ok=True)
    name = experiment.name if preset == "default" else f"{experiment.name}-{preset}"
    write_json(results / f"{name}.json", summary)
    return summary


def _carried_out(
    experiment: Experiment, options: Sequence[Options], jobs: int, announce: Callable[[str], None]
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    heads = [f"{experiment.name}, preset {one.preset}, seed {one.seed}" for one in options]
    if jobs == 1:
        for head, one in zip(heads, options, strict=True):
            announce(head)
            yield launch(experiment, options=one)
        return
    announce("\n".join(heads) + f"\n{jobs} at a time")
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=fresh, initializer=_one_thread) as pool:
        yield from pool.map(partial(_launched, experiment.name), options)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _launched(name: str, options: Options) -> tuple[Path, Mapping[str, Any]]:
    return launch(find(name), options=options)


def summarise(runs: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, spread and the values themselves of each metric, with its bounds.

    A bound is ``met`` where the mean keeps it, and ``worst_met`` where the worst seed misses it by a quarter at most.
    """
    first = runs[0]
    names = list(dict.fromkeys(metric["name"] for run in runs for metric in run["metrics"]))
    return {
        "experiment": first["experiment"],
        "title": first["title"],
        "preset": first["preset"],
        "seeds": [run["seed"] for run in runs],
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(fmean(float(run["seconds"]) for run in runs), 1),
        "versions": facts.get("versions", {}),
        "python": facts.get("python", ""),
        "processor": facts.get("processor", ""),
        "threads": facts.get("threads"),
        "device": facts.get("device", ""),
        "metrics": {name: _metric(name, runs) for name in names},
        "missing": sorted({bound["metric"] for run in runs for bound in run["missing"]}),
        "unfinished": [run["seed"] for run in runs if run["status"] != "finished"],
    }


def _metric(name: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    entries = [metric for run in runs for metric in run["metrics"] if metric["name"] == name]
    values = [float(entry["value"]) for entry in entries]
    mean = fmean(values)
    return {
        "mean": mean,
        "sd": spread(values),
        "values": values,
        "unit": entries[0]["unit"],
        "expected": [_judged(bound, mean, values) for bound in entries[0]["expected"]],
    }


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation over the seeds; None for one value, NaN where a value is not finite."""
    if len(values) < 2:
        return None
    return stdev(values) if all(map(math.isfinite, values)) else math.nan


def _judged(bound: Mapping[str, Any], mean: float, values: Sequence[float]) -> dict[str, Any]:
    limit = float(bound["bound"])
    slack = WORST_MAY_MISS * abs(limit)
    if bound["sense"] == "<=":
        met, worst_met = mean <= limit, all(value <= limit + slack for value in values)
    else:
        met, worst_met = mean >= limit, all(value >= limit - slack for value in values)
    kept = {key: bound[key] for key in ("bound", "sense", "source")}
    return {**kept, "met": met, "worst_met": worst_met}
