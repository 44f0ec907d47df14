"""``pathline report RUN...``: reports again from the run folders, and a comparison of several."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pathline.train.folders import BrokenFile, read_json, resolve

HELP = """usage: pathline report [RUN ...]

Write the report of each run again from what its folder holds, and print the metrics; of several runs, side by side.
RUN is a run folder, the name of one in ./runs, or latest (which is taken where none is given)."""


def main(words: list[str]) -> int:
    """Write the reports; the exit code."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0
    unknown = [word for word in words if word.startswith("-")]
    if unknown:
        print(f"`pathline report` has no flag `{unknown[0]}`; it takes run folders alone.", file=sys.stderr)
        return 2
    from pathline.cli.comparison import print_comparison
    from pathline.cli.results import print_results, shown
    from pathline.train.report import write_report

    try:
        folders = [resolve(word) for word in words or ["latest"]]
        unfinished = [folder for folder in folders if not (folder / "metrics.json").is_file()]
        if unfinished:
            raise FileNotFoundError(
                f"{shown(unfinished[0])} has no metrics.json: the run has not ended yet, or was killed. "
                f"Go on with it: pathline run {_name_in(unfinished[0])} --resume {shown(unfinished[0])}"
            )
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        for folder in folders:
            write_report(folder)
        if len(folders) == 1:
            print_results(folders[0], read_json(folders[0] / "metrics.json"))
        else:
            print_comparison(folders)
    except BrokenFile as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename} cannot be read or written ({error.strerror}). Check permissions.", file=sys.stderr)
        return 2
    return 0


def _name_in(folder: Path) -> str:
    """The experiment of a run, as its config.yaml has it."""
    found = re.search(r"^experiment: *(\w+)", (folder / "config.yaml").read_text("utf-8", "replace"), re.MULTILINE)
    return found[1] if found else "NAME"
