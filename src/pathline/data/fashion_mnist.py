"""Fashion-MNIST: pictures of clothing in the format of MNIST."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

PLACE = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package puts the files."""

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def fashion_mnist(
    root: str | os.PathLike[str] | None = None,
    split: Literal["train", "test"] = "train",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST: 70 000 grey pictures of clothing, 28 by 28 pixels, in ten classes. *Maturing.*

    Read from the files of the Debian package ``dataset-fashion-mnist`` (``apt-get install dataset-fashion-mnist``), or
    from a folder with the same four files; their SHA-256 is checked, and nothing is downloaded.

    Args:
        root: Folder with the ``.gz`` files; by default where the Debian package puts them.
        split: ``"train"``, 60 000 pictures, or ``"test"``, 10 000.
        dtype: Type of the images.

    Returns:
        Images ``(n, 1, 28, 28)``, from 0 (background) to 255, and labels 0 to 9, ``(n,)``, int64. The names of the
        classes are T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    Raises:
        FileNotFoundError: The files are not there.
        ValueError: A file is not the published one, or no such split exists.

    References:
        H. Xiao, K. Rasul, R. Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
        algorithms (MIT licence, copyright 2017 Zalando SE).
    """
    if split not in _FILES:
        raise ValueError(f'`split` is "train" or "test", but {split!r} came.')
    folder = PLACE if root is None else Path(root)
    images, labels = (_read(folder / name) for name in _FILES[split])
    return images.unsqueeze(1).to(dtype), labels.to(torch.int64)


def _read(path: Path) -> Tensor:
    """The bytes of an idx file, in their shape."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Fashion-MNIST is not installed: there is no file {path.name} in {path.parent}. "
            "Use `apt-get install dataset-fashion-mnist`, or name a folder with the four .gz files: `root`, or on the "
            "command line --data-root."
        )
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != _SHA256[path.name]:
        raise ValueError(
            f"{path} is not the published file: its SHA-256 differs from {_SHA256[path.name][:12]}... "
            "It may be cut off; copy it again, or leave out `root` to use the Debian package's."
        )
    return parsed(gzip.decompress(packed))


def parsed(raw: bytes) -> Tensor:
    """The idx format: two zeros, the type (8 is bytes), the number of dimensions, their sizes, the values.

    Raises:
        ValueError: Another type, or a length that does not fit the sizes.
    """
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"An idx file of bytes begins with 00 00 08, but {raw[:3].hex(' ')} came.")
    dims = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    values = torch.frombuffer(bytearray(raw[4 + 4 * dims :]), dtype=torch.uint8)
    if values.numel() != torch.Size(shape).numel():
        raise ValueError(f"The idx file announces the sizes {shape}, but {values.numel()} values came.")
    return values.reshape(shape)
