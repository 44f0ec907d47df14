"""Trees on disk, bit for bit and without pickle."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pathline.train.checkpoints import (
    random_state,
    read_folder,
    read_tree,
    restore_random_state,
    write_folder,
    write_tree,
)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right


@pytest.mark.parametrize(
    "tree",
    [
        {"a": torch.randn(3, 2), "b": [1, 2.5, None, True, "text"], "c": (torch.tensor(1), {"d": torch.zeros(0)})},
        {0: {"step": torch.tensor(3.0)}, 1: "x"},
        {"$odd": 1},
        {"nan": math.nan, "inf": [math.inf, -math.inf], "tiny": 5e-324, "third": 1 / 3},
        torch.randn(2, 2, dtype=torch.complex128),
        {
            "half": torch.randn(3).bfloat16(),
            "flags": torch.tensor([True, False]),
            "bytes": torch.arange(4, dtype=torch.uint8),
        },
        {"array": np.arange(6.0).reshape(2, 3)},
        {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}},
        {"strided": torch.arange(12.0).reshape(3, 4).t()},
        {},
        None,
    ],
    ids=range(11),
)
def test_a_tree_comes_back(tree: Any, tmp_path: Path):
    write_tree(tmp_path, "tree", tree)
    assert same(read_tree(tmp_path, "tree"), tree)


def test_a_state_dict_keeps_its_names(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    write_tree(tmp_path, "model", dict(model.state_dict()))
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_tied_weights_are_kept(tmp_path: Path):
    layer = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(layer, layer)
    write_tree(tmp_path, "model", dict(model.state_dict()))
    fresh = torch.nn.Sequential(*[torch.nn.Linear(2, 2)] * 2)
    fresh.load_state_dict(read_tree(tmp_path, "model"))
    assert torch.equal(fresh[0].weight, layer.weight)


def test_the_state_of_an_optimizer_comes_back(tmp_path: Path):
    for make in (torch.optim.Adam, torch.optim.SGD, torch.optim.LBFGS):
        weight = torch.nn.Parameter(torch.randn(4))
        optimizer = make([weight], lr=0.1)

        def closure(weight=weight, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (weight**4).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        write_tree(tmp_path, "state", optimizer.state_dict())
        assert same(read_tree(tmp_path, "state"), optimizer.state_dict())


def test_a_leaf_of_another_kind_is_refused_with_its_place(tmp_path: Path):
    with pytest.raises(TypeError, match=r"at `a\.0` a object came"):
        write_tree(tmp_path, "tree", {"a": [object()]})


def test_a_later_format_is_refused(tmp_path: Path):
    write_tree(tmp_path, "tree", {"a": 1})
    path = tmp_path / "tree.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ValueError, match=r"has format 99; this version reads up to 1\. Update pathline"):
        read_tree(tmp_path, "tree")


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path):
    folder = tmp_path / "last"
    write_folder(folder, {"a": 1, "b": 2})
    write_folder(folder, {"a": 3})
    assert read_folder(folder, ("a",)) == {"a": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]
    assert not (folder / "b.json").exists()


def test_a_write_that_was_cut_off_leaves_the_old_folder(tmp_path: Path):
    folder = tmp_path / "last"
    write_folder(folder, {"a": 1})
    folder.rename(tmp_path / "last.old")  # the state between the two renames
    assert read_folder(folder, ("a",)) == {"a": 1}


def test_no_folder_is_none(tmp_path: Path):
    assert read_folder(tmp_path / "last", ("a",)) is None


def test_every_global_generator_goes_back(tmp_path: Path):
    def draw() -> list[Any]:
        return [torch.rand(3), np.random.rand(3), random.random(), np.random.randn(), torch.randn(1)]  # noqa: NPY002

    write_tree(tmp_path, "random", random_state())
    drawn = draw()
    restore_random_state(read_tree(tmp_path, "random"))
    assert all(same(left, right) for left, right in zip(drawn, draw(), strict=True))
