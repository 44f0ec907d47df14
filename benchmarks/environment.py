"""What a measurement depends on: versions, and the class of the machine (never its name)."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch


def environment(*packages: str) -> dict[str, object]:
    """Versions of torch, Python and the given packages; cores and instruction set."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "versions": {
            name: found for name in ("pathline", "torch", *packages) if (found := installed(name)) is not None
        },
    }


def installed(package: str) -> str | None:
    """The version of a package, or None where it isn't installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
