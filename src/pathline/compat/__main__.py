"""`python -m pathline.compat [--check] script.py args...`: run a program of torchdiffeq's on this library."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from pathline.compat import LIBRARIES, install
from pathline.compat._record import RECORD


def main(argv: list[str] | None = None) -> int:
    """Run the program with our stand-ins in the place of the libraries; report on standard error at its end."""
    given = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(given)
    if not options.program:
        _parser().error("name a script, or a module with -m")
    if not options.module and not Path(options.program[0]).is_file():
        _parser().error(f"there is no file {options.program[0]}")
    if options.check:
        from pathline.compat._check import CHECK

        CHECK.start()
    for library in LIBRARIES:
        install(library)
    RECORD.open = True
    try:
        _run(options.program, module=options.module)
    finally:
        RECORD.open = False
        print("\n".join(report(check=options.check)), file=sys.stderr, flush=True)  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pathline.compat",
        description="Run a program that imports torchdiffeq on pathline's solvers, unchanged.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="repeat every hundredth solve with the installed torchdiffeq, and report the largest differences",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="run a module in place of a script")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="script.py (or module), and its arguments")
    return parser


def _run(program: list[str], *, module: bool) -> None:
    target, sys.argv = program[0], program
    if module:
        sys.path.insert(0, "")
        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    sys.path[0:1] = [str(Path(target).resolve().parent)]
    runpy.run_path(target, run_name="__main__")


def report(*, check: bool) -> list[str]:
    """What was solved, at what cost, and how it compares."""
    solves = RECORD.solves
    forward = sum(stats.evaluations for stats in solves)
    backward = sum(stats.backward_evaluations for stats in solves)
    line = (
        f"pathline.compat: {len(solves)} solves, {forward} evaluations and {backward} in adjoint solves, "
        f"{RECORD.seconds:.3f} s in the solver"
    )
    if not check:
        return [line]
    from pathline.compat._check import CHECK

    return [line, *CHECK.report()]


if __name__ == "__main__":
    sys.exit(main())
