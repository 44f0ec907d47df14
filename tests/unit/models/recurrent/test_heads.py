"""States at any time, forecasts one row ahead and many, and classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pathline.data import Series
from pathline.models import GRU, ODERNN, Classifier, Forecaster, LatentODE, load, save
from tests.unit.models.recurrent.examples import MODELS, made, ragged

NAMES = ["gru", "gru_dt", "gru_d", "ode_rnn", "of time"]


def close(a, b, **tolerances):
    torch.testing.assert_close(a, b, **({"rtol": 1e-12, "atol": 1e-12} | tolerances))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_at_its_rows_it_has_the_states_around_them(name, reverse):
    model, series = made(name), ragged()
    states = model(series, reverse=reverse)
    close(states.at(series), states.after)
    close(states.at(series, including=False), states.before)
    close(states.since(series, including=False), states.gap)
    assert not states.since(series)[series.mask.any(-1)].any()


@pytest.mark.parametrize("reverse", [False, True])
def test_at_any_time_it_knows_the_rows_up_to_it_alone(reverse):
    model, series = made("gru"), ragged()
    states, t = model(series, reverse=reverse), torch.tensor([2.5, -1.0, 0.7, 9.0], dtype=torch.float64)
    found = states.at(t)
    assert found.shape == (4, 5, 4)
    for k, time in enumerate(t.tolist()):
        known = series.after(time) if reverse else series.before(time)
        close(found[k], model(known, reverse=reverse).final)
    shuffled = Series(series.times + 0.01, series.values, series.lengths)
    assert torch.equal(states.at(shuffled)[series.offsets[2]], states.at(shuffled.times[series.offsets[2], None])[0, 2])


def test_times_for_other_series_are_refused():
    with pytest.raises(ValueError, match="over the same 5 series as what is observed, but it holds 2"):
        made("gru")(ragged()).at(ragged()[[0, 1]])


# --- forecasts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_a_new_model_has_a_slope(name):
    torch.manual_seed(0)
    model, series = Forecaster(MODELS[name](2, 4)).double(), ragged(complete=True)
    series.values[[4, 6, 11], [0, 1, 0]] = torch.nan  # inside of their series
    model.loss(series).backward()
    assert [name for name, p in model.named_parameters() if not bool((p.grad != 0).any())] == []


@pytest.mark.parametrize("name", NAMES)
def test_one_row_ahead_sees_nothing_of_the_row(name):
    model, series = Forecaster(made(name)).double(), ragged()
    forecast, row = model(series), 8
    values = series.values.clone()
    values[row] = 77.0
    changed = model(Series(series.times, values, series.lengths))
    close(changed[: row + 1], forecast[: row + 1])
    close(model.predict(series, series), forecast)


def test_the_loss_is_the_mean_over_what_was_observed_behind_the_first_rows():
    model, series = Forecaster(made("ode_rnn")).double(), ragged()
    errors = (model(series) - series.values).square().detach()
    counted = [
        float(errors[row, channel])
        for i in range(5)
        for row in range(int(series.offsets[i]) + 1, int(series.offsets[i + 1]))
        for channel in range(2)
        if bool(series.mask[row, channel])
    ]
    assert float(model.loss(series).detach()) == pytest.approx(sum(counted) / len(counted), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_value_change_no_forecast_and_no_loss(name):
    model, series = Forecaster(made(name)).double(), ragged()
    series.values[series.offsets[2]] = torch.nan  # a first row too
    rest, t = series.observed(), torch.tensor([9.0], dtype=torch.float64)
    close(model.loss(series), model.loss(rest))
    close(model.predict(series, t), model.predict(rest, t))
    close(model(series)[series.mask.any(-1)], model(rest))


def test_pairs_hold_the_same_series_and_channels():
    model, series = Forecaster(made("gru")).double(), ragged()
    options = {"ids": list("abcde"), "channels": ["x", "y"]}
    one, turned, other = (
        Series(series.times, series.values, series.lengths, **(options | more))
        for more in ({}, {"channels": ["y", "x"]}, {"ids": list("abdce")})
    )
    close(model.loss((one, series)), model.loss((series, series)))
    with pytest.raises(ValueError, match=r"observed has \('x', 'y'\) and target \('y', 'x'\)"):
        model.loss((one, turned))
    with pytest.raises(ValueError, match=r"series 2 is 'c' there and 'd' in `target`. Order it by target.by_id"):
        model.loss((one, other))
    with pytest.raises(ValueError, match="'c' there and 'd' in `t`"):
        model.predict(one, other)
    with pytest.raises(ValueError, match=r"observed has \('x', 'y'\) and t \('y', 'x'\)"):
        model.predict(one, turned)


def test_what_is_observed_and_what_is_asked_for_have_one_clock_and_one_scale():
    model, series = Forecaster(made("gru")).double(), ragged(complete=True)[[0, 2, 4]]
    past, future = series.before(1.5), series.after(1.5)
    shifted = series.shifted()
    assert bool(model.loss((shifted.before(1.0), shifted.after(1.0))).isfinite())
    answers = model.predict(shifted, Series(shifted.times + 1, shifted.values, shifted.lengths, origin=shifted.origin))
    assert answers.shape == (13, 2)
    for call in (model.predict, lambda observed, target: model.loss((observed, target))):
        with pytest.raises(
            ValueError, match=r"the origin of series 0 is .* there and 0 in `t.*as in series.shifted\(\)"
        ):
            call(past.shifted(), future)
        with pytest.raises(ValueError, match=r"`time_unit` is 1 there and 7 in `t.*with_time_unit\(1\)"):
            call(past, future.with_time_unit(7.0))
    scaled = series.standardized()
    assert bool(model.loss((scaled.before(1.5), future.standardized(scaled.scaling))).isfinite())
    for target in (future, future.standardized()):
        with pytest.raises(ValueError, match=r"standardised alike.*target.standardized\(observed.scaling\)"):
            model.loss((scaled.before(1.5), target))


def test_times_may_be_numbers_and_are_finite():
    model, series = Forecaster(made("gru_dt")).double(), ragged()
    assert torch.equal(model.predict(series, [4.0, 5]), model.predict(series, torch.tensor([4.0, 5.0])))
    with pytest.raises(ValueError, match=r"t\[1\] is nan"):
        model.predict(series, torch.tensor([4.0, torch.nan]))
    for t in (torch.tensor(4.0), torch.zeros(5, 3)):
        with pytest.raises(ValueError, match="that all series share, but shape"):
            model.predict(series, t)
    with pytest.raises(TypeError, match="or a Series, but str came"):
        model.predict(series, "tomorrow")


def test_what_is_no_series_and_no_network_is_named():
    with pytest.raises(TypeError, match="A batch is a Series, but Tensor came"):
        Forecaster(made("gru")).loss(torch.zeros(3, 2))
    with pytest.raises(TypeError, match="A batch is a Series, but Tensor came"):
        made("gru")(torch.zeros(3, 2))
    with pytest.raises(TypeError, match="`recurrent` is a Recurrent.* but Latent came"):
        Forecaster(LatentODE(2, 4))
    with pytest.raises(TypeError, match="`encoder` is a Recurrent.* but Latent came"):
        Classifier(LatentODE(2, 4), 3)


def test_a_pair_is_forecast_from_the_first_of_both():
    model, series = Forecaster(made("gru_dt")).double(), ragged(complete=True)
    seen, target = series.before(1.0), series.after(1.0)
    assert len(target.times) > 3
    expected = (model.predict(seen, target) - target.values).square().mean()
    close(model.loss((seen, target)), expected)


def test_the_likelihood_is_gaussian():
    series, scale = ragged(complete=True), 0.3
    fixed = Forecaster(made("gru"), scale=scale).double()
    later = torch.ones(len(series.times), dtype=torch.bool)
    later[series.offsets[:-1][series.lengths > 0]] = False
    exact = -torch.distributions.Normal(fixed(series), scale).log_prob(series.values)[later].mean()
    close(fixed.loss(series), exact)
    learned = Forecaster(fixed.recurrent, fixed.readout, scale="learn").double()
    nn.init.constant_(learned.log_scale, math.log(scale))
    close(learned.loss(series), exact)
    learned.loss(series).backward()
    assert bool((learned.log_scale.grad != 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_fed_back_forecasts_are_those_with_the_forecasts_appended(name):
    model, series = Forecaster(made(name)).double(), ragged()
    t, seen = torch.tensor([4.0, 5.0, 7.0], dtype=torch.float64), series
    with torch.no_grad():
        forecast = model.predict(series, t, feedback=True)
        for k, time in enumerate(t):
            now = model.predict(seen, time[None])[0]
            close(now, forecast[k], atol=1e-9, rtol=1e-9)
            parts = [seen[i : i + 1] for i in range(5)]
            seen = Series.cat(
                [
                    Series(torch.cat([s.times, time[None]]), torch.cat([s.values, now[i, None]]), s.lengths + 1)
                    for i, s in enumerate(parts)
                ]
            )


def test_fed_back_forecasts_at_times_of_each_series_own():
    model, series = Forecaster(made("ode_rnn"), feedback=True).double(), ragged()
    t = Series(series.times + 2.0, series.values, series.lengths)
    found = model.predict(series, t)
    for i in (0, 2, 3, 4):
        rows = slice(int(series.offsets[i]), int(series.offsets[i + 1]))
        close(found[rows], model.predict(series[i : i + 1], t.times[rows])[:, 0])


def test_known_inputs_of_the_future_are_asked_for():
    series = ragged()
    dressed = Series(series.times, series.values, series.lengths, inputs=torch.ones(len(series.times), 1))
    model = Forecaster(GRU(2, 4, inputs=1), feedback=True).double()
    with pytest.raises(ValueError, match="needs its known inputs at the times of the forecast"):
        model.predict(dressed, torch.tensor([5.0]))
    later = Series(dressed.times + 3.0, dressed.values, dressed.lengths, inputs=dressed.inputs)
    assert model.predict(dressed, later).shape == (14, 2)


def test_a_readout_of_another_size_is_refused():
    series = ragged()
    with pytest.raises(ValueError, match="one number for each of 2 channels, but 1 came"):
        Forecaster(made("gru"), nn.Linear(4, 1)).double().loss(series)
    with pytest.raises(ValueError, match="one number for each of 3 classes, but 2 came"):
        Classifier(made("gru"), 3, readout=nn.Linear(4, 2)).double().predict(series)


def test_the_noise_is_where_one_reads_it(tmp_path):
    learned, fixed = Forecaster(made("gru"), scale="learn"), Forecaster(made("gru"), scale=0.3, feedback=True)
    assert Forecaster(made("gru")).scale is None
    with torch.no_grad():
        learned.log_scale += torch.tensor([0.0, 1.0])
    for model, scale in ((learned, [1.0, math.e]), (fixed, [0.3])):
        assert model.scale.reshape(-1).tolist() == pytest.approx(scale)
        again = load(save(model, tmp_path / str(len(scale))))
        assert torch.equal(again.scale, model.scale)
        assert repr(again) == repr(model)
    assert "scale=1, 2.718, learn=True" in repr(learned)
    assert "scale=0.3, learn=False, feedback=True" in repr(fixed)


def test_a_scale_is_a_scale():
    with pytest.raises(ValueError, match=r"`scale` is None, \"learn\" or a positive standard deviation, but -1 came"):
        Forecaster(made("gru"), scale=-1)


def test_it_learns_the_period_of_a_wave():
    torch.manual_seed(0)
    t = torch.rand(40, 30).sort(1).values * 6
    series = Series.from_arrays(t, torch.sin(2 * t + torch.rand(40, 1) * 6)[..., None])
    model = Forecaster(ODERNN(1, 12))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = model.loss(series)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.15 * losses[0]


# --- classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_classes_of_series_and_of_rows(reverse):
    series = ragged()
    for per_time, labels in ((False, series.labels), (True, series.row_labels)):
        model = Classifier(made("gru_d"), 3, per_time=per_time, reverse=reverse).double()
        states = model.encoder(series, reverse=reverse)
        logits = model.readout(states.after if per_time else states.final)
        close(model(series), logits)
        close(model.loss(series), nn.functional.cross_entropy(logits, labels))
        close(model.predict(series).sum(-1), torch.ones(len(labels), dtype=torch.float64))


def test_rows_labelled_minus_one_do_not_count():
    series = ragged()
    labels = series.row_labels.clone()
    labels[::2] = -1
    partly = Series(series.times, series.values, series.lengths, row_labels=labels)
    model = Classifier(made("gru"), 3, per_time=True).double()
    expected = nn.functional.cross_entropy(model(series)[1::2], series.row_labels[1::2])
    close(model.loss(partly), expected)


@pytest.mark.parametrize(("wrong", "said"), [(3, "has 3"), (-2, "has -2"), (math.nan, "has nan"), (0.9, "has 0.8999")])
def test_labels_are_numbers_of_classes(wrong, said):
    series = ragged()
    labels = torch.tensor([0, 1, wrong, -1, 2])
    named = Series(series.times, series.values, series.lengths, labels=labels, ids=list("abcde"))
    with pytest.raises(ValueError, match=rf"from 0 to 2.*series 2 \(id 'c'\) {said}"):
        Classifier(made("gru"), 3).double().loss(named)
    rows = torch.zeros(14)
    rows[5] = wrong
    named = Series(series.times, series.values, series.lengths, row_labels=rows)
    with pytest.raises(ValueError, match="`row_labels` are whole numbers.*series 2, row 5, has"):
        Classifier(made("gru"), 3, per_time=True).double().loss(named)
    whole = Series(series.times, series.values, series.lengths, labels=series.labels.double())
    model = Classifier(made("gru"), 3).double()
    assert torch.equal(model.loss(whole), model.loss(series))


def test_labels_are_asked_for():
    series = ragged()
    bare = Series(series.times, series.values, series.lengths)
    with pytest.raises(ValueError, match=r"The series have no labels, \(n,\)"):
        Classifier(made("gru"), 3).double().loss(bare)
    with pytest.raises(ValueError, match=r"The series have no row labels, \(N,\)"):
        Classifier(made("gru"), 3, per_time=True).double().loss(bare)


@pytest.mark.parametrize(
    "head", [lambda: Forecaster(made("gru_dt"), scale="learn"), lambda: Classifier(made("gru"), 3)]
)
def test_saved_and_loaded_they_are_the_same(head, tmp_path):
    model, series = head().double(), ragged()
    assert torch.equal(load(save(model, tmp_path))(series), model(series))
