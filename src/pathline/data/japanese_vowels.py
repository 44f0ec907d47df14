"""Nine speakers who say two vowels: short series of unequal length."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pathline.data.series import Series

_SHA256 = {
    "train": "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    "test": "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
}


def japanese_vowels(split: Literal["train", "test"] = "train", dtype: torch.dtype | None = None) -> Series:
    """Utterances of /ae/ by nine speakers: 7 to 29 frames of twelve cepstral coefficients. *Maturing.*

    Who speaks is the label. The file travels with aeon (``pip install --no-deps aeon``), which is not imported, and is
    never downloaded.

    Args:
        split: ``"train"``, 270 utterances, thirty a speaker, or ``"test"``, 370.
        dtype: Of the values; by default torch's default type.

    Returns:
        Times are the numbers of the frames, from 0. Labels ``(n,)``, int64, 0 to 8.

    Raises:
        ModuleNotFoundError: aeon is not installed.
        ValueError: No such split, or the installed file is another one.

    Example:
        >>> series = japanese_vowels()
        >>> len(series), series.values[0, :2], series.labels.bincount()[:2]
        (270, tensor([ 1.8609, -0.2074]), tensor([30, 30]))

    References:
        M. Kudo, J. Toyama, M. Shimbo (1999), Multidimensional curve classification using passing-through regions.
        A. Bagnall et al. (2018), The UEA multivariate time series classification archive.
    """
    if split not in _SHA256:
        raise ValueError(f'`split` is "train" or "test", but {split!r} came.')
    found = find_spec("aeon")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "The Japanese vowels travel with aeon, which is not installed. pip install --no-deps aeon", name="aeon"
        )
    path = Path(found.origin).parent / "datasets" / "data" / "JapaneseVowels" / f"JapaneseVowels_{split.upper()}.ts"
    raw = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(raw).hexdigest() != _SHA256[split]:
        raise ValueError(
            f"The file {path.name} in the installed aeon is not the one that this loader knows. "
            "Try pip install --no-deps aeon==1.6.0."
        )
    values, labels = parsed(raw.decode())
    return Series.from_arrays([np.arange(len(table)) for table in values], values, labels=labels - 1, dtype=dtype)


def parsed(text: str) -> tuple[list[np.ndarray], torch.Tensor]:
    """The ``.ts`` format: after ``@data`` a line a series, its channels and its class between colons.

    Returns:
        Tables ``(T_i, D)`` and the classes ``(n,)``.

    Raises:
        ValueError: There is no ``@data``, or channels of one series differ in length.
    """
    head, mark, body = text.partition("@data")
    if not mark:
        raise ValueError(f"A .ts file has a line @data, but this one begins {head[:40]!r} and has none.")
    parts = [line.split(":") for line in body.split("\n") if line.strip()]
    values = [np.stack([np.array(channel.split(","), dtype=np.float64) for channel in row[:-1]], 1) for row in parts]
    return values, torch.tensor([int(row[-1]) for row in parts])
