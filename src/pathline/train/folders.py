"""Names and places of run folders, and the pointer to the latest. Free of torch."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["BrokenFile", "latest", "new_folder", "point_to", "read_json", "resolve", "write_json"]

POINTER = "latest"


class BrokenFile(ValueError):
    """A file of a run folder cannot be read: cut off, or changed by hand."""

    def __init__(self, path: Path, reason: object, advice: str) -> None:
        first = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        super().__init__(f"{path} cannot be read; it is broken ({first.rstrip('.')}). {advice}")


def new_folder(root: Path, name: str) -> Path:
    """Make ``root/NAME-YYYYmmdd-HHMMSS``, with ``-2``, ``-3``, ... where the second is taken."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for count in range(1, 1000):
        folder = root / (stem if count == 1 else f"{stem}-{count}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{root} already has a thousand folders that are called {stem}.")


def point_to(folder: Path) -> None:
    """Let ``latest`` beside the folder point to it: a link, or a text file where links are not allowed (Windows)."""
    pointer = folder.parent / POINTER
    fresh = pointer.with_name(f".{POINTER}-{os.getpid()}")
    try:
        fresh.symlink_to(folder.name, target_is_directory=True)
    except (OSError, NotImplementedError):
        fresh.write_text(folder.name + "\n", encoding="utf-8")
    try:
        fresh.replace(pointer)
    except OSError:  # a folder of the user's own has that name
        fresh.unlink()


def latest(root: Path) -> Path | None:
    """The folder that ``latest`` points to, or None."""
    pointer = root / POINTER
    if pointer.is_file():
        pointer = root / pointer.read_text(encoding="utf-8").strip()
    return pointer.resolve() if pointer.is_dir() else None


def resolve(text: str | Path) -> Path:
    """A run folder as the user names it: a path, the name of a folder in ``runs``, or ``latest``.

    Raises:
        FileNotFoundError: Where there is no such run.
    """
    root = Path("runs")
    if str(text) in (POINTER, f"runs/{POINTER}", f"runs/{POINTER}/"):
        found = latest(root)
        if found is not None:
            return found
    for candidate in (Path(text), root / text):
        if (candidate / "config.yaml").is_file():
            return candidate.resolve() if candidate.is_symlink() else candidate
    known = sorted(path.parent.name for path in root.glob("*/config.yaml") if not path.parent.is_symlink())
    here = f" The runs here are: {', '.join(known[-8:])}." if known else " There are no runs in ./runs."
    raise FileNotFoundError(f'No run is called "{text}": a run is a folder with a config.yaml.{here}')


def write_json(path: Path, value: Any) -> None:
    """Strict JSON: numbers that are not finite become the texts "nan", "inf" and "-inf"."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(_strict(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(path)


def read_json(path: Path) -> Any:
    """What :func:`write_json` wrote; the numbers in texts stay texts, which ``float`` reads.

    Raises:
        BrokenFile: Where the file is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenFile(path, error, "Delete it and go on with the run with `--resume`, or run anew.") from error


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item"):  # numbers of numpy and torch
        return _strict(value.item())
    return str(value)
