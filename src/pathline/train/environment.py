"""Facts about the machine that a reader needs to repeat a run: no user name, no host name, no path. Free of torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

__all__ = ["EXTRAS", "environment", "missing", "pip_line", "version_of"]

EXTRAS: dict[str, dict[str, str]] = {
    "app": {
        "tyro": "tyro",
        "rich": "rich",
        "pyyaml": "yaml",
        "lightning-fabric": "lightning_fabric",
        "safetensors": "safetensors",
        "matplotlib": "matplotlib",
        "jinja2": "jinja2",
    },
    "data": {
        "scikit-learn": "sklearn",
        "mlxtend": "mlxtend",
    },
}
"""Distribution names and the modules by which they are imported."""

_REPORTED = ("pathline", "torch", "numpy", "lightning-fabric", "safetensors", "matplotlib", "tyro")


def version_of(distribution: str) -> str | None:
    """The installed version, or None."""
    if distribution == "pathline":
        import pathline

        return pathline.__version__
    from importlib import metadata  # a tenth of the time that the help takes, and no help needs it

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def missing(extra: str = "app") -> list[str]:
    """The distributions of an extra that are not installed, found without importing any."""
    return [name for name, module in EXTRAS[extra].items() if importlib.util.find_spec(module) is None]


def pip_line(extra: str = "app") -> str:
    """What to paste to install an extra."""
    return f'pip install "pathline[{extra}]"'


def environment(device: str = "cpu", seed: int | None = None) -> dict[str, Any]:
    """What stands in ``env.json``."""
    import torch

    facts: dict[str, Any] = {
        "versions": {name: version for name in _REPORTED if (version := version_of(name)) is not None},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "device": device,
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if device.startswith("cuda"):
        facts["accelerator"] = torch.cuda.get_device_name(torch.device(device))
        facts["cuda"] = torch.version.cuda
    if seed is not None:
        facts["seed"] = seed
    return facts


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
