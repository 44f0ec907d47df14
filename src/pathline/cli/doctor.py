"""``pathline doctor``: what is here, what is missing, and whether a solve works. Needs no extra."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
import time
from collections.abc import Callable

from pathline.train.environment import EXTRAS, environment, missing, pip_line, version_of

HELP = """usage: pathline doctor

Versions, threads, devices, compilers and extras, and a solve of one second whose answer is known.
Ends with 1 where the core does not work."""

Line = tuple[str, str, bool]
"""What, how it is, and whether that is well."""


def main(words: list[str]) -> int:
    """Print the findings; the exit code."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0
    if words:
        print(f"`pathline doctor` takes no arguments; {words[0]!r} came.", file=sys.stderr)
        return 2
    findings = [finding for label, check in CHECKS.items() for finding in _guarded(label, check)]
    width = max(len(what) for what, _, _ in findings)
    for what, how, well in findings:
        print(f"{' ' if well else '!'} {what:<{width}}  {how}")
    broken = any(not well for what, _, well in findings if what in ("torch", "core", "self-check"))
    print("\nThe core does not work here." if broken else "\nThe core works.")
    return 1 if broken else 0


def _guarded(label: str, check: Callable[[], list[Line]]) -> list[Line]:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a doctor reports what is broken, and goes on
        return [(label, f"{type(error).__name__}: {error}", False)]


def _core() -> list[Line]:
    facts = environment()
    lines = [("pathline", version_of("pathline") or "unknown", True)]
    lines.append(("python", f"{facts['python']} ({platform.python_implementation()})", sys.version_info >= (3, 11)))
    lines += [(name, version_of(name) or "not installed", version_of(name) is not None) for name in ("torch", "numpy")]
    lines.append(("platform", f"{facts['platform']}, {facts['machine']}", True))
    lines.append(("processor", f"{facts['processor']}, {facts['cores']} cores", True))
    lines.append(("torch threads", str(facts["threads"]), True))
    return lines


def _devices() -> list[Line]:
    import torch

    lines: list[Line] = []
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        lines.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB", True))
    if torch.backends.mps.is_available():
        lines.append(("mps", "available (no double precision)", True))
    return lines or [("accelerator", "none; runs are on the CPU", True)]


def _toolchain() -> list[Line]:
    compiler = next((found for name in ("c++", "g++", "clang++", "cl") if (found := shutil.which(name))), None)
    text = f"{compiler.rpartition('/')[2]} found" if compiler else "no C++ compiler; torch.compile on the CPU needs one"
    return [("compiler", text, compiler is not None)]


def _extras() -> list[Line]:
    lines: list[Line] = []
    for extra in EXTRAS:
        absent = missing(extra)
        text = f"lacks {', '.join(absent)}: {pip_line(extra)}" if absent else "complete"
        lines.append((f"extra {extra}", text, not absent or extra != "app"))  # the command itself needs only that one
    return lines


def _solve() -> list[Line]:
    """Once round the harmonic oscillator, and the gradient of where it ends."""
    import torch

    pathline = importlib.import_module("pathline")
    began = time.perf_counter()
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    turn = torch.tensor([0.0, 2.0 * torch.pi], dtype=torch.float64)
    solution = pathline.solve(
        lambda t, y: rate * torch.stack([-y[1], y[0]]), y0, turn, method="dopri5", rtol=1e-8, atol=1e-10
    )
    (slope,) = torch.autograd.grad(solution.y1[1], rate)
    error = max(float((solution.y1 - y0).abs().max().detach()), abs(float(slope) - 2.0 * torch.pi))
    seconds = time.perf_counter() - began
    text = f"an orbit and its gradient to {error:.0e} in {seconds:.2f} s, {solution.stats.evaluations} evaluations"
    return [("self-check", text, error < 1e-6)]


CHECKS: dict[str, Callable[[], list[Line]]] = {
    "core": _core,
    "devices": _devices,
    "compiler": _toolchain,
    "extras": _extras,
    "self-check": _solve,
}
