"""``pathline list [WORDS]``."""

from __future__ import annotations

import shutil
import sys
import textwrap

from pathline.experiments import Experiment, experiments, search
from pathline.train.configs import did_you_mean

HELP = """usage: pathline list [WORD ...]

The experiments whose name, title, paper, author or task contains all of the words; all of them without a word."""


def main(words: list[str]) -> int:
    """Print the experiments that match."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0
    found = search(tuple(words))
    if not found:
        print(f"No experiment matches {' '.join(words)!r}.{_hint(words)}", file=sys.stderr)
        return 1
    width = min(shutil.get_terminal_size((100, 20)).columns, 110)
    print("\n\n".join(_entry(experiment, width) for experiment in found))
    print(f"\nRun one with: pathline run {found[0].name} --preset tiny")
    return 0


def _entry(experiment: Experiment, width: int) -> str:
    about = experiment.about
    source = ", ".join(str(part) for part in (about.authors, about.year, about.paper) if part)
    presets = ", ".join(experiment.presets)
    body = [about.summary, source, f"tasks: {', '.join(about.tasks)}" if about.tasks else ""]
    body.append(f"presets: {presets}; about {about.minutes:g} minutes on two cores")
    lines = [f"{experiment.name}: {about.title}"]
    for paragraph in filter(None, body):
        lines += textwrap.wrap(paragraph, width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def _hint(words: list[str]) -> str:
    vocabulary = set(experiments())
    for experiment in experiments().values():
        vocabulary |= {
            word.lower().strip(",.")
            for word in f"{experiment.about.authors} {' '.join(experiment.about.tasks)}".split()
        }
    hints = [did_you_mean(word.lower(), vocabulary) for word in words]
    return next(filter(None, hints), " Without a word, `pathline list` shows all of them.")
