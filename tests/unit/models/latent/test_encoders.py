"""Encoders read irregular series backwards, and nothing that was not observed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathline.data import Series
from pathline.models import ODERNN, AttentionEncoder, RecurrentEncoder, RNNEncoder

NAN = float("nan")
LENGTHS = torch.tensor([4, 1, 6, 2])


def built(name):
    return {
        "rnn": lambda: RNNEncoder(2, 3, 8),
        "gru without gaps": lambda: RNNEncoder(2, 3, 8, dt=False),
        "ode-rnn": lambda: RecurrentEncoder(ODERNN(2, 8), 3),
        "attention": lambda: AttentionEncoder(2, 3, 8, heads=2, span=4.0),
    }[name]().double()


NAMES = ("rnn", "gru without gaps", "ode-rnn", "attention")


@pytest.fixture
def series():
    times = torch.cat([torch.rand(n, dtype=torch.float64).cumsum(0) for n in LENGTHS])
    values = torch.randn(len(times), 2, dtype=torch.float64)
    values[2, 0] = values[6, 1] = NAN
    return Series(times, values, LENGTHS)


def features(encoder, series):
    q = encoder(series, 0.0)
    return torch.cat([q.mean, q.stddev], -1)


@pytest.mark.parametrize("name", NAMES)
def test_a_series_is_read_alike_alone_and_among_others(name, series):
    encoder = built(name)
    together = features(encoder, series)
    alone = torch.cat([features(encoder, series[i : i + 1]) for i in range(4)])
    assert together.shape == (4, 6)
    assert torch.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_gives_no_gradient_and_no_nan(name, series):
    encoder = built(name)
    values = series.values.clone().requires_grad_()
    seen = Series(series.times, values, series.lengths)
    features(encoder, seen).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters() if p.grad is not None)
    missing = series.values.isnan()
    assert bool((values.grad[missing] == 0).all())
    assert bool((values.grad[~missing] != 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_an_observation_might_as_well_not_be_there(name, series):
    rows = torch.rand(len(series.times)) < 0.4
    values = series.values.clone()
    values[rows] = NAN
    marked = Series(series.times, values, series.lengths)
    lengths = torch.bincount(series.rows[~rows], minlength=4)
    dropped = Series(series.times[~rows], series.values[~rows], lengths)
    encoder = built(name)
    assert torch.equal(features(encoder, marked), features(encoder, dropped))


@pytest.mark.parametrize("name", NAMES)
def test_a_series_without_observations_is_allowed(name):
    empty = Series(torch.tensor([0.5]), torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([0, 1]))
    found = features(built(name), empty)
    assert bool(found.isfinite().all())
    assert not torch.equal(found[0], found[1])


def moved(series, rows):
    values = torch.where(rows[:, None], series.values + 1.0, series.values)
    return Series(series.times, values, series.lengths)


def test_the_first_observation_is_seen_last(series):
    # Without recurrent weights the hidden state at the end is a function of the last step alone.
    encoder = RNNEncoder(2, 3, 8, cell="rnn", dt=False).double()
    nn.init.zeros_(encoder.network.weight_hh_l0)
    first = torch.isin(torch.arange(len(series.times)), series.offsets[:-1])
    reference = features(encoder, series)
    assert torch.equal(features(encoder, moved(series, ~first)), reference)
    assert bool((features(encoder, moved(series, first)) != reference).any(-1).all())


def test_forwards_the_last_observation_is_seen_last(series):
    encoder = RNNEncoder(2, 3, 8, cell="rnn", dt=False, reverse=False).double()
    nn.init.zeros_(encoder.network.weight_hh_l0)
    last = torch.isin(torch.arange(len(series.times)), series.offsets[1:] - 1)
    assert torch.equal(features(encoder, moved(series, ~last)), features(encoder, series))


def test_a_reversed_run_is_a_forward_run_over_the_reversed_series():
    times = torch.tensor([0.0, 0.5, 0.6, 2.0], dtype=torch.float64)
    values = torch.randn(4, 2, dtype=torch.float64)
    back = RNNEncoder(2, 3, 8).double()
    ahead = RNNEncoder(2, 3, 8, reverse=False).double()
    ahead.load_state_dict(back.state_dict())
    one = Series(times, values, torch.tensor([4]))
    turned = Series(2.0 - times.flip(0), values.flip(0), torch.tensor([4]))
    assert torch.allclose(features(back, one), features(ahead, turned), atol=1e-12)


def test_an_ode_rnn_runs_on_to_the_time_of_the_latent_state(series):
    encoder = built("ode-rnn")
    later = Series(series.times + 1.0, series.values, series.lengths)
    field_free = encoder.recurrent.between.field
    moved = encoder(later, 1.0).mean
    assert torch.allclose(moved, encoder(series, 0.0).mean, atol=1e-12)  # an autonomous field knows differences alone
    assert not torch.allclose(encoder(later, 0.0).mean, moved, atol=1e-6)
    for parameter in field_free.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(encoder(later, 0.0).mean, encoder(later, 1.0).mean)


def test_attention_knows_times_and_no_order(series):
    encoder = built("attention")
    one = series[2:3]
    swapped = Series(one.times, one.values.flip(0), one.lengths)
    assert not torch.allclose(features(encoder, swapped), features(encoder, one), atol=1e-6)
    mirrored = Series(2.0 * one.times, one.values, one.lengths)
    assert not torch.allclose(features(encoder, mirrored), features(encoder, one), atol=1e-6)


def test_covariates_and_inputs_are_read_where_the_encoder_is_built_for_them(series):
    static, inputs = torch.randn(4, 2).double(), torch.randn(len(series.times), 1).double()
    known = Series(series.times, series.values, series.lengths, static=static, inputs=inputs)
    others = Series(series.times, series.values, series.lengths, static=static + 1, inputs=inputs)
    driven = Series(series.times, series.values, series.lengths, static=static, inputs=inputs + 1)
    for encoder in (RNNEncoder(2, 3, 8, static=2, inputs=1), AttentionEncoder(2, 3, 8, heads=2, static=2, inputs=1)):
        found = features(encoder.double(), known)
        assert not torch.equal(features(encoder, others), found)
        assert not torch.equal(features(encoder, driven), found)
        with pytest.raises(ValueError, match="built for inputs=1, but the series have none"):
            encoder(series, 0.0)


KNOWING = {
    "rnn": lambda **more: RNNEncoder(2, 3, 8, **more),
    "ode-rnn": lambda **more: RecurrentEncoder(ODERNN(2, 8, **more), 3),
    "attention": lambda **more: AttentionEncoder(2, 3, 8, **more),
}


@pytest.mark.parametrize("name", KNOWING)
def test_known_inputs_are_read_where_nothing_was_observed_too(name, series):
    row, encoder = 5, KNOWING[name](inputs=1).double()
    values, inputs = series.values.clone(), torch.zeros(len(series.times), 1, dtype=torch.float64)
    values[row] = NAN
    idle = Series(series.times, values, series.lengths, inputs=inputs)
    dosed = Series(series.times, values, series.lengths, inputs=inputs.index_fill(0, torch.tensor([row]), 1.0))
    changed = (features(encoder, dosed) != features(encoder, idle)).any(-1)
    assert changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", KNOWING)
def test_a_missing_covariate_is_zero(name, series):
    encoder = KNOWING[name](static=1).double()
    missing, zero = (
        Series(series.times, series.values, series.lengths, static=torch.tensor([[1.0], [x], [2.0], [3.0]]))
        for x in (NAN, 0.0)
    )
    assert torch.equal(features(encoder, missing), features(encoder, zero))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: RNNEncoder(2, 3, cell="lstm"), ValueError, '`cell` is "gru" or "rnn"'),
        (lambda: AttentionEncoder(2, 3, 9, heads=2), ValueError, "`heads` divides `hidden`, but heads=2 and hidden=9"),
        (lambda: AttentionEncoder(2, 3, span=0.0), ValueError, "`span` is the length of typical series.*but 0.0 came"),
        (lambda: RecurrentEncoder(nn.Linear(2, 3), 3), TypeError, "`recurrent` is a Recurrent.* type Linear came"),
    ],
)
def test_wrong_parts_are_refused_in_words(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_attention_pays_for_short_series_by_their_own_length():
    lengths = torch.tensor([3, 100, 5, 0, 70, 4])
    times = torch.cat([torch.rand(int(n), dtype=torch.float64).cumsum(0) for n in lengths])
    series = Series(times, torch.randn(len(times), 2, dtype=torch.float64), lengths)
    encoder, shapes = built("attention"), []
    encoder.blocks[0].register_forward_hook(lambda module, given, result: shapes.append(tuple(result.shape[:2])))
    together = features(encoder, series)
    assert shapes == [(4, 6), (2, 101)]
    alone = torch.cat([features(encoder, series[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-12)
