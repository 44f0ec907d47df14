"""`python -m benchmarks [--only training|modes|startup] [--quick]`: one run on one thread, against the bars."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from benchmarks.compat import compat
from benchmarks.environment import environment, installed
from benchmarks.rows import Row
from benchmarks.startup import startup
from benchmarks.training import PEER, modes, training

SECTIONS = {"training": training, "modes": modes, "compat": compat, "startup": startup}
NEEDS = {"training": PEER, "modes": PEER, "compat": PEER}
RESULT = Path(__file__).parents[1] / "docs" / "results" / "benchmarks.json"


def main() -> int:
    """Measure, print, write; the exit status is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a section; may be repeated")
    parser.add_argument("--quick", action="store_true", help="few pairs, nothing written: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load before the run: {os.getloadavg()[0]:.2f}; ratios are theirs / ours, values in pairs are ours/theirs")
    sections = {name: measure(name, quick=options.quick) for name in options.only or SECTIONS}
    if not options.quick:
        write(sections)
    return 1 if any(row.verdict == "MISS" for rows in sections.values() for row in rows) else 0


def measure(name: str, *, quick: bool) -> list[Row]:
    """The rows of a section, printed as they come; empty where its peer is missing."""
    peer = NEEDS.get(name)
    if peer is not None and installed(peer) is None:
        print(f"{name}: skipped, {peer} isn't installed")
        return []
    rows = []
    for row in SECTIONS[name](quick=quick):
        print(row, flush=True)
        rows.append(row)
    return rows


def write(sections: dict[str, list[Row]]) -> None:
    """Update the committed results; sections that were not measured keep theirs."""
    known = json.loads(RESULT.read_text())["sections"] if RESULT.exists() else {}
    for name, rows in sections.items():
        if rows:
            known[name] = {"environment": environment(PEER, "scipy"), "rows": [row.entry() for row in rows]}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"sections": known}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
