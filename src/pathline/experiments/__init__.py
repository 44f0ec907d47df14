"""Published systems, one folder each: ``config.py`` (free of torch), ``__init__.py`` (the code), ``README.md``."""

from __future__ import annotations

from pathline.experiments.registry import Experiment, UnknownExperiment, experiments, find, search
from pathline.experiments.spec import About, Expected

__all__ = ["About", "Expected", "Experiment", "UnknownExperiment", "experiments", "find", "search"]
