"""`python -m benchmarks [--only SECTION] [--quick] [--threads one|all]`: against peers and bars, in one run."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.compat import compat
from benchmarks.compiling import compiling
from benchmarks.densities import densities
from benchmarks.ensembles import ensembles
from benchmarks.environment import environment, installed
from benchmarks.growth import growth
from benchmarks.lotka_volterra import lotka_volterra
from benchmarks.matching import matching
from benchmarks.memory import memory
from benchmarks.recurrent import recurrent
from benchmarks.rows import Point, Row
from benchmarks.series_memory import series_memory
from benchmarks.startup import startup
from benchmarks.summary import judged
from benchmarks.training import training

SECTIONS = {
    "training": training,
    "ensembles": ensembles,
    "lotka_volterra": lotka_volterra,
    "growth": growth,
    "compiling": compiling,
    "memory": memory,
    "compat": compat,
    "densities": densities,
    "matching": matching,
    "recurrent": recurrent,
    "series_memory": series_memory,
    "startup": startup,
}
PEERS = ("torchdiffeq", "torchode", "diffrax", "zuko", "torchcfm", "flow_matching")
#: Sections that have nothing to show without one peer.
NEEDS = {"compat": "torchdiffeq"}
RESULT = Path(__file__).parents[1] / "docs" / "results" / "benchmarks.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write, judge; the exit status is 1 where a bar is missed."""
    options = parsed(arguments)
    number = 1 if options.threads == "one" else os.cpu_count() or 1
    torch.set_num_threads(number)
    if installed("diffrax") is not None:
        from benchmarks import diffrax_peer  # noqa: F401  # reads the number of threads

    print(f"load before the run: {os.getloadavg()[0]:.2f}; threads: {number}; above 1 ours is faster")
    for peer in PEERS:
        print(f"{peer}: {installed(peer) or 'not installed, its rows are skipped'}")
    sections: dict[str, list[Row | Point]] = {}
    for name in options.only or SECTIONS:
        start = time.perf_counter()
        sections[name] = []
        for row in measure(name, quick=options.quick):
            sections[name].append(row)
            if not options.quick:  # row by row, so that a run that is cut short keeps what it measured
                write(name, sections[name], number)
        print(f"{name}: {time.perf_counter() - start:.0f} s\n", flush=True)
    rows = [row for found in sections.values() for row in found if isinstance(row, Row)]
    print(judged(rows))
    return 1 if any(row.verdict == "MISS" for row in rows) else 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a section; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, nothing written: does it run?")
    parser.add_argument("--threads", choices=("one", "all"), default="one", help="for every library alike")
    return parser.parse_args(arguments)


def measure(name: str, *, quick: bool) -> Iterator[Row | Point]:
    """What a section finds, printed as it comes; empty where its peer is missing."""
    peer = NEEDS.get(name)
    if peer is not None and installed(peer) is None:
        print(f"{name}: skipped, {peer} isn't installed")
        return
    for row in SECTIONS[name](quick=quick):
        print(row, flush=True)
        yield row


def write(name: str, found: Sequence[Row | Point], threads: int) -> None:
    """Update the committed results; sections that were not measured keep theirs, those that are no more go."""
    known = json.loads(RESULT.read_text())["sections"] if RESULT.exists() else {}
    known = {key: section for key, section in known.items() if key.split(",")[0] in SECTIONS}
    if found:
        known[name if threads == 1 else f"{name}, all threads"] = {
            "environment": environment(*PEERS, "jax", "scipy"),
            "rows": [row.entry() for row in found if isinstance(row, Row)],
            "points": [point.entry() for point in found if isinstance(point, Point)],
        }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"sections": known}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
