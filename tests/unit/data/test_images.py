"""The sets of images: what they hold, and what is said where one is missing or damaged."""

from __future__ import annotations

import gzip
import hashlib
import sys

import pytest
import torch

from pathline import data
from pathline.data.fashion_mnist import PLACE, parsed

needs_fashion = pytest.mark.skipif(not PLACE.is_dir(), reason="apt-get install dataset-fashion-mnist")


def test_the_digits_are_the_published_ones():
    pytest.importorskip("sklearn")
    images, labels = data.digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert torch.equal(images, images.round())
    assert (float(images.min()), float(images.max())) == (0.0, 16.0)
    # the first one, a zero, as scikit-learn's documentation prints it
    assert images[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert data.digits(torch.float64)[0].dtype == torch.float64


def test_without_scikit_learn_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "pathline\[data\]"'):
        data.digits()


@needs_fashion
def test_fashion_mnist_is_the_published_set():
    images, labels = data.fashion_mnist(split="test")
    assert images.shape == (10_000, 1, 28, 28)
    assert labels.bincount().tolist() == [1000] * 10
    assert (float(images.min()), float(images.max())) == (0.0, 255.0)
    assert images.dtype == torch.float32


@needs_fashion
def test_the_training_labels_begin_as_published():
    _, labels = data.fashion_mnist(split="train", dtype=torch.uint8)
    assert len(labels) == 60_000
    assert labels[:5].tolist() == [9, 0, 0, 3, 0]


def test_a_folder_without_the_files_is_refused_with_the_way_to_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file t10k-images.*apt-get install dataset-fashion-mnist.*`root`"):
        data.fashion_mnist(tmp_path, "test")


def test_another_file_under_the_name_is_refused(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx([1, 2, 2], b"\1\2\3\4")))
    with pytest.raises(ValueError, match="is not the published file: its SHA-256 differs"):
        data.fashion_mnist(tmp_path, "test")


def test_a_folder_of_ones_own_is_read(tmp_path, monkeypatch):
    module = sys.modules["pathline.data.fashion_mnist"]
    files = {
        "t10k-images-idx3-ubyte.gz": gzip.compress(idx([2, 2, 3], bytes(range(12)))),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(idx([2], b"\7\3")),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        monkeypatch.setitem(module._SHA256, name, hashlib.sha256(content).hexdigest())
    images, labels = data.fashion_mnist(str(tmp_path), "test")
    assert images[1, 0].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert labels.tolist() == [7, 3]


def test_no_other_split():
    with pytest.raises(ValueError, match='`split` is "train" or "test", but \'validation\' came'):
        data.fashion_mnist(split="validation")


@pytest.mark.parametrize("raw", [b"", b"\0\0\x0d\1\0\0\0\1\0\0\0\0", b"\0\0\x08\2\0\0\0\1"])
def test_what_is_no_idx_file_of_bytes_is_refused(raw):
    with pytest.raises(ValueError, match="begins with 00 00 08"):
        parsed(raw)


def test_an_idx_file_that_is_cut_off_is_refused():
    with pytest.raises(ValueError, match=r"sizes \[2, 3\], but 5 values came"):
        parsed(idx([2, 3], b"\0" * 5))


def idx(shape: list[int], values: bytes) -> bytes:
    return b"\0\0\x08" + bytes([len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape) + values
