"""State on disk as JSON and safetensors: nothing in a checkpoint is ever unpickled."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pathline.train.folders import BrokenFile

__all__ = ["FORMAT", "random_state", "read_folder", "read_tree", "restore_random_state", "write_folder", "write_tree"]

FORMAT = 1
"""Version of the layout, stored in each checkpoint."""


def write_tree(folder: Path, name: str, tree: Any) -> None:
    """Write nested dicts, lists, numbers, texts and tensors as ``name.json`` and ``name.safetensors``.

    A flat dict of tensors (a ``state_dict``) keeps its names in the safetensors file.

    Raises:
        TypeError: For a leaf of another kind.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = _pack(tree, "", tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(save(tensors))
    text = json.dumps({"format": FORMAT, "tree": structure}, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def read_tree(folder: Path, name: str) -> Any:
    """What :func:`write_tree` wrote, with tensors on the CPU.

    Raises:
        ValueError: For a layout that a later version wrote.
        BrokenFile: For a file that is missing, cut off or damaged.
    """
    path, advice = folder / f"{name}.json", f"Delete the folder {folder.parent} to start this fit again."
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version, tree = int(document["format"]), document["tree"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenFile(path, error, advice) from error
    if version > FORMAT:
        raise ValueError(
            f"The checkpoint {folder.name}/{name}.json has format {version}; this version reads up to "
            f"{FORMAT}. Update pathline to read it."
        )
    path = folder / f"{name}.safetensors"
    try:
        return _unpack(tree, load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BrokenFile(path, error, advice) from error


def write_folder(folder: Path, trees: Mapping[str, Any]) -> None:
    """Write several trees into one folder, so that a reader sees all of the old ones or all of the new ones."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, tree in trees.items():
        write_tree(fresh, name, tree)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_folder(folder: Path, names: tuple[str, ...]) -> dict[str, Any] | None:
    """The trees of a folder that :func:`write_folder` wrote, or None where there is none."""
    if not folder.exists():
        folder = folder.with_name(folder.name + ".old")  # a write was cut off between its two renames
    if not folder.exists():
        return None
    return {name: read_tree(folder, name) for name in names}


def random_state() -> dict[str, Any]:
    """The state of every global generator: Python's, numpy's, torch's, and those of the accelerators in use."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - others draw from it
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set the global generators to what :func:`random_state` saw."""
    random.setstate(state["python"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def _pack(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value, path, tensors)
    if isinstance(value, np.ndarray):
        return {"$array": _pack_tensor(torch.from_numpy(np.ascontiguousarray(value)), path, tensors)["$tensor"]}
    if isinstance(value, np.generic):
        return _pack(value.item(), path, tensors)
    if isinstance(value, Mapping):
        pairs = [(key, _pack(item, f"{path}.{key}" if path else str(key), tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$pairs": [[_pack(key, path, tensors), item] for key, item in pairs]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{path}.{i}" if path else str(i), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"A checkpoint holds tensors, numbers, texts, lists and dicts; at `{path}` a {type(value).__name__} came."
    )


def _pack_tensor(value: torch.Tensor, path: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    key = path or "value"
    while key in tensors:
        key += "_"
    detached = value.detach().cpu()
    if detached.is_complex():
        tensors[key] = torch.view_as_real(detached.resolve_conj()).contiguous().clone()
        return {"$tensor": key, "complex": True}
    tensors[key] = detached.contiguous().clone()  # tied weights share memory, which the format refuses
    return {"$tensor": key}


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        # a view into the file is aligned otherwise than torch's own memory, and dot products then round otherwise
        tensor = tensors[value["$tensor"]].clone()
        return torch.view_as_complex(tensor) if value.get("complex") else tensor
    if "$array" in value:
        return tensors[value["$array"]].numpy()
    if "$pairs" in value:
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["$pairs"]}
    if "$tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["$tuple"])
    if "$float" in value:
        return float(value["$float"])
    return {key: _unpack(item, tensors) for key, item in value.items()}
