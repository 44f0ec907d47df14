"""Finding experiments without importing torch: only their ``config.py`` is read until one is run."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from pathline.experiments.spec import About, Expected
from pathline.train.configs import did_you_mean, replaced
from pathline.train.stopping import importing

__all__ = ["Experiment", "UnknownExperiment", "experiments", "find", "search"]

PACKAGES_VARIABLE = "PATHLINE_EXPERIMENTS"
"""Environment variable that names further packages of experiments, separated by commas."""


class UnknownExperiment(ValueError):
    """No experiment has that name."""


class Experiment:
    """One experiment: its configuration, presets, bounds and label; its code is imported when it is called.

    Args:
        name: Its folder's name.
        package: The module path of that folder, such as ``"pathline.experiments.regression"``.
    """

    def __init__(self, name: str, package: str) -> None:
        self.name, self.package = name, package

    @cached_property
    def _module(self) -> ModuleType:
        return _load_config(self.package)

    @property
    def config_type(self) -> type[Any]:
        """The frozen dataclass whose fields are the flags."""
        return self._module.Config

    @property
    def presets(self) -> dict[str, Mapping[str, Any]]:
        """Named sets of changes to the default configuration; ``"default"`` changes nothing."""
        return {"default": {}, **self._module.PRESETS}

    @property
    def expected(self) -> tuple[Expected, ...]:
        """The bounds."""
        return tuple(self._module.EXPECTED)

    @property
    def about(self) -> About:
        """The label."""
        return self._module.ABOUT

    def config(self, preset: str = "default", overrides: Mapping[str, Any] | None = None) -> Any:
        """The configuration of a preset, with changes.

        Raises:
            ValueError: For an unknown preset.
            ConfigError: For a change that does not fit.
        """
        if preset not in self.presets:
            raise ValueError(
                f'The experiment {self.name} has no preset "{preset}".{did_you_mean(preset, self.presets)} '
                f"The presets are: {', '.join(self.presets)}."
            )
        return replaced(replaced(self.config_type(), self.presets[preset], f"presets.{preset}"), overrides or {})

    def changed(self, config: Any, preset: str) -> dict[str, Any]:
        """The fields in which a configuration differs from its preset."""
        return _difference(config, self.config(preset))

    def __call__(self, config: Any, run: Any) -> None:
        """Carry it out; this imports torch."""
        with importing():
            module = importlib.import_module(self.package)
        module.run(config, run)

    def matches(self, words: tuple[str, ...]) -> bool:
        """Whether each word occurs in the name, the label or the paper."""
        about = self.about
        text = " ".join(
            [
                self.name,
                self.name.replace("_", " "),
                about.title,
                about.summary,
                about.authors,
                about.paper,
                str(about.year or ""),
            ]
        )
        text = f"{text} {' '.join(about.tasks)}".lower()
        return all(word.lower() in text for word in words)

    def __repr__(self) -> str:
        return f"Experiment({self.name!r})"


def experiments(packages: tuple[str, ...] | None = None) -> dict[str, Experiment]:
    """All experiments by name: those of pathline, and of the packages named in ``PATHLINE_EXPERIMENTS``."""
    if packages is None:
        further = os.environ.get(PACKAGES_VARIABLE, "")
        packages = ("pathline.experiments", *(name.strip() for name in further.split(",") if name.strip()))
    found: dict[str, Experiment] = {}
    for package in packages:
        for folder in _folders(package):
            found.setdefault(folder.name, Experiment(folder.name, f"{package}.{folder.name}"))
    return dict(sorted(found.items()))


def find(name: str, packages: tuple[str, ...] | None = None) -> Experiment:
    """The experiment of that name; ``-`` and ``_`` are the same.

    Raises:
        UnknownExperiment: With the closest name.
    """
    known = experiments(packages)
    plain = name.replace("-", "_").lower()
    if plain in known:
        return known[plain]
    raise UnknownExperiment(
        f'No experiment is called "{name}".{did_you_mean(plain, known)} '
        f"The experiments are: {', '.join(known) or 'none'}."
    )


def search(words: tuple[str, ...], packages: tuple[str, ...] | None = None) -> list[Experiment]:
    """The experiments in whose name, label, paper, author or task all of the words occur."""
    return [experiment for experiment in experiments(packages).values() if experiment.matches(words)]


def _folders(package: str) -> list[Path]:
    try:
        parent = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UnknownExperiment(
            f'{PACKAGES_VARIABLE} names the package "{package}", which cannot be imported: {error}.'
        ) from error
    return [config.parent for root in parent.__path__ for config in Path(root).glob("*/config.py")]


def _load_config(package: str) -> ModuleType:
    """``package.config`` without its parent ``package``, whose import brings torch."""
    name = f"{package}.config"
    if name in sys.modules:
        return sys.modules[name]
    parent = importlib.import_module(package.rpartition(".")[0])
    folder = package.rpartition(".")[2]
    spec = PathFinder.find_spec(name, [str(Path(root) / folder) for root in parent.__path__])
    if spec is None or spec.loader is None:
        raise UnknownExperiment(f"The experiment {folder} has no config.py.")
    module = importlib.util.module_from_spec(spec)
    # registered under its full name: when the package itself is imported, it finds this very module
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _difference(config: Any, base: Any) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, before = getattr(config, field.name), getattr(base, field.name)
        if dataclasses.is_dataclass(value) and type(value) is type(before):
            inner = _difference(value, before)
            if inner:
                changes[field.name] = inner
        elif value != before:
            changes[field.name] = value
    return changes
