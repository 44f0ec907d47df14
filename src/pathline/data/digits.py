"""Handwritten digits of eight by eight pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def digits(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """1797 handwritten digits of 43 people, 8 by 8 pixels, from scikit-learn. *Maturing.*

    Each pixel counts the dark ones of a 4 by 4 block of the scanned bitmap, so it is a whole number from 0 to 16. The
    set travels with scikit-learn (``pip install "pathline[data]"``) and is never downloaded.

    Args:
        dtype: Type of the images.

    Returns:
        Images ``(1797, 1, 8, 8)``, from 0 (paper) to 16 (ink), and labels 0 to 9, ``(1797,)``, int64.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.

    Example:
        >>> images, labels = digits()
        >>> images.shape, labels[:5]
        (torch.Size([1797, 1, 8, 8]), tensor([0, 1, 2, 3, 4]))

    References:
        E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository
        (CC BY 4.0): its test set, as scikit-learn (BSD-3-Clause) carries it.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ModuleNotFoundError(
            'The digits travel with scikit-learn, which is not installed. pip install "pathline[data]"',
            name="sklearn",
        ) from error
    bunch: Any = load_digits()
    images = torch.as_tensor(bunch["images"], dtype=dtype).unsqueeze(1)
    return images, torch.as_tensor(bunch["target"], dtype=torch.int64)
