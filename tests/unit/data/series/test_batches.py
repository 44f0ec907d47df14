from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from pathline.data import Series
from pathline.data.series import batches
from pathline.train import fit, minibatches


def numbered(count=10, length=3):
    values = torch.arange(float(count)).repeat_interleave(length)[:, None]
    return Series(
        torch.arange(float(length)).repeat(count), values, torch.full((count,), length), labels=torch.arange(count)
    )


def test_each_epoch_is_a_permutation_of_its_own():
    batch = numbered().batches(4, seed=3)
    epochs = [torch.cat([batch(3 * e + k).labels for k in range(3)]).tolist() for e in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert torch.equal(batch(5).values, batch(5).values)
    assert [len(numbered().batches(4, drop_last=True)(k)) for k in range(4)] == [4, 4, 4, 4]
    with pytest.raises(ValueError, match="number of series, 10; 11 came"):
        numbered().batches(11)


def test_batches_are_dealt_out_by_rank(monkeypatch):
    whole = numbered().batches(5)(1).labels
    shares = []
    for rank in range(2):
        monkeypatch.setattr(batches, "place", lambda rank=rank: (rank, 2))
        shares.append(numbered().batches(5)(1).labels)
    assert torch.equal(torch.cat(shares).sort().values, whole.sort().values)
    assert [len(share) for share in shares] == [3, 2]


def test_a_data_loader_collates_series_and_what_contains_them():
    series = numbered()
    loader = DataLoader(series, batch_size=4, collate_fn=Series.collate)
    assert torch.cat([batch.labels for batch in loader]).tolist() == list(range(10))
    pairs = [(series[i].before(1.0), {"target": series[i].after(1.0), "number": i}) for i in range(10)]
    observed, rest = next(iter(DataLoader(pairs, batch_size=4, collate_fn=Series.collate)))
    assert torch.equal(observed.values, series[:4].before(1.0).values)
    assert torch.equal(rest["target"].values, series[:4].after(1.0).values)
    assert rest["number"].tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match="takes a list"):
        Series.collate(3)


def test_two_series_are_dealt_out_alike():
    series = numbered()
    batch = minibatches(series.before(1.0), series.after(1.0), series.labels, size=4)
    observed, rest, labels = batch(1)
    assert torch.equal(observed.labels, labels)
    assert torch.equal(rest.labels, labels)
    assert torch.equal(rest.values[::2, 0], labels.float())


def test_workers_send_series():
    # Spawned: in a process where another test has loaded JAX, a fork warns.
    loader = DataLoader(
        numbered(), batch_size=5, collate_fn=Series.collate, num_workers=1, multiprocessing_context="spawn"
    )
    assert [batch.lengths.tolist() for batch in loader] == [[3] * 5] * 2


def test_a_fit_takes_batches_of_series():
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    series = numbered().with_values(torch.randn(30, 1))

    def loss(model, batch):
        return (model(batch.values) - 2.0 * batch.values).square().mean()

    history = fit(model, loss, steps=200, lr=0.1, batches=series.batches(4), quiet=True)
    assert history.final_loss < 1e-3
