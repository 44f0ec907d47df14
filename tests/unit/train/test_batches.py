"""Where batches come from, and that a source finds its place again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pathline.train import minibatches
from pathline.train.batches import Source

DATA = TensorDataset(torch.arange(10.0))


class Drawing:
    """Draws from the global generator at each batch."""

    def __iter__(self):
        for _ in range(3):
            yield torch.rand(2)


class Chunked:
    """Draws an order in the middle of an epoch, and lives on it for a while."""

    def __iter__(self):
        for _ in range(3):
            yield from torch.randperm(3).float().unsqueeze(1)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(DATA, batch_size=3, **options)


MAKERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: loader(shuffle=True),
    "own generator": lambda: loader(shuffle=True, generator=torch.Generator().manual_seed(5)),
    "in order": loader,
    "list": lambda: [torch.tensor(float(i)) for i in range(4)],
    "drawing": Drawing,
    "chunked": Chunked,
    "function": lambda: minibatches(torch.arange(10.0), size=3, seed=4),
    "drawing function": lambda: lambda step: torch.rand(2) + step,
}


def flat(batch: Any) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in batch]) if isinstance(batch, (list, tuple)) else batch


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 9])
def test_a_source_goes_on_where_it_was(name: str, stop: int):
    def go_on(source: Source, start: int, count: int) -> list[torch.Tensor]:
        drawn = []
        for step in range(start, start + count):
            drawn.append(flat(source(step)))
            torch.rand(3)  # what a model draws in between
        return drawn

    torch.manual_seed(1)
    whole = go_on(Source(MAKERS[name]()), 0, 14)
    torch.manual_seed(1)
    first = Source(MAKERS[name]())
    begun = go_on(first, 0, stop)
    state, outside = first.state_dict(), torch.get_rng_state()
    torch.manual_seed(1)
    second = Source(MAKERS[name]())
    second.load_state_dict(state)
    torch.set_rng_state(outside)
    assert all(torch.equal(a, b) for a, b in zip(whole, begun + go_on(second, stop, 14 - stop), strict=True))


def test_epochs_are_shuffled_anew():
    source = Source(loader(shuffle=True))
    epochs = [torch.cat([source(step)[0] for step in range(4)]) for _ in range(2)]
    assert all(torch.equal(epoch.sort().values, torch.arange(10.0)) for epoch in epochs)
    assert not torch.equal(*epochs)


def test_no_batches_is_none_each_time():
    assert Source(None)(0) is None


@pytest.mark.parametrize("batches", [[], iter([1, 2]), (i for i in range(2))], ids=["empty", "iterator", "generator"])
def test_batches_that_run_out_are_refused(batches: Any):
    source = Source(batches)
    with pytest.raises(ValueError, match="`batches` ran out at step"):
        [source(step) for step in range(3)]


def test_minibatches_deal_out_every_sample_once_an_epoch():
    x, y = torch.arange(10.0), torch.arange(10.0) * 2
    batch = minibatches(x, y, size=4, seed=3)
    for epoch in range(3):
        parts = [batch(3 * epoch + step) for step in range(3)]
        assert [len(part[0]) for part in parts] == [4, 4, 2]
        assert torch.equal(torch.cat([part[0] for part in parts]).sort().values, x)
        assert all(torch.equal(2 * left, right) for left, right in parts)
    assert not torch.equal(batch(0)[0], batch(3)[0])
    assert torch.equal(batch(7)[0], minibatches(x, y, size=4, seed=3)(7)[0])
    assert not torch.equal(batch(0)[0], minibatches(x, y, size=4, seed=4)(0)[0])


def test_minibatches_can_drop_the_rest():
    batch = minibatches(torch.arange(10.0), size=4, drop_last=True)
    assert [len(batch(step)[0]) for step in range(4)] == [4, 4, 4, 4]


@pytest.mark.parametrize("size", [0, -1])
def test_minibatches_refuse_a_size_without_a_batch(size: int):
    with pytest.raises(ValueError, match="`size` has to lie between 1 and the number of samples, 3"):
        minibatches(torch.zeros(3), size=size)


def test_minibatches_refuse_different_lengths():
    with pytest.raises(ValueError, match=r"equally many rows; they have \[2, 3\]"):
        minibatches(torch.zeros(3), torch.zeros(2), size=1)
