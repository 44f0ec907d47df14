from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pathline.data import Series
from pathline.experiments.clinic import identities, mixed, models, visits
from pathline.experiments.clinic.config import Config
from pathline.experiments.clinic.results import Results
from pathline.models.recurrent import Flow

NAN = float("nan")


def toy(seed=0, people=40, channels=2):
    """People at one to eight visits, some values missing, some of whom fall ill."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (people,), generator=draw)
    total = int(lengths.sum())
    rows = torch.repeat_interleave(lengths)
    times = torch.rand(total, generator=draw, dtype=torch.float64) + torch.arange(total)
    times = times - times[(torch.cumsum(lengths, 0) - lengths)[rows]]
    values = torch.randn(total, channels, generator=draw)
    values[torch.rand(total, channels, generator=draw) < 0.3] = NAN
    return Series(
        times,
        values,
        lengths,
        static=torch.randn(people, 3, generator=draw),
        labels=torch.stack(
            [10 * torch.rand(people, generator=draw), torch.randint(0, 3, (people,), generator=draw)], 1
        ),
        row_labels=torch.randint(-1, 2, (total,), generator=draw),
    )


@pytest.fixture(scope="module")
def series():
    return toy()


def test_pairs_are_all_earlier_and_later_visits_of_one_person(series):
    which = visits.pairs(series)
    expected = [(a, b) for b in range(len(series.times)) for a in range(b) if series.rows[a] == series.rows[b]]
    assert list(zip(which.now.tolist(), which.then.tolist(), strict=True)) == expected
    torch.testing.assert_close(which.lead, series.times[which.then] - series.times[which.now])
    assert bool((which.lead > 0).all())
    total = torch.zeros(len(series.times), dtype=torch.float64).index_add_(0, which.then, which.weight.double())
    assert torch.allclose(total, (series.places > 0).double())
    assert which.next.sum() == (series.lengths - 1).sum()


def test_the_last_value_of_each_channel(series):
    which = visits.pairs(series)
    forecast = visits.last_value(series, which)
    for k in range(0, len(which.now), 7):
        now = int(which.now[k])
        own = series.values[int(series.offsets[series.rows[now]]) : now + 1]
        for channel in range(2):
            there = own[:, channel][~own[:, channel].isnan()]
            assert forecast[k, channel] == (there[-1] if len(there) else 0.0)


def test_what_becomes_of_a_patient_within_two_years():
    series = Series(
        torch.tensor([0.0, 3.0, 0.0, 3.0, 0.0]),
        torch.ones(5, 1),
        torch.tensor([2, 2, 1]),
        static=torch.tensor([[60.0, 1, 0], [40, 1, 0], [50, 0, 1]]),
        labels=torch.tensor([[4.0, 2.0], [4.0, 0.0], [1.0, 1.0]]),
    )
    labelled = visits.with_outcome(series, 2.0)
    assert labelled.row_labels.tolist() == [0, 1, 0, -1, 1]
    assert labelled.static[:, 0].tolist() == [1, -1, 0]


def test_every_patient_is_tested_once_and_never_trained_on_at_once():
    series = toy(people=41)
    numbered = Series(series.times, series.values, series.lengths, ids=range(41))
    tested = []
    for parts in visits.folds(numbered, 4, 0.2, seed=3, device=torch.device("cpu")):
        ids = [set(part.ids.tolist()) for part in parts]
        assert sum(map(len, ids)) == len(set.union(*ids)) == 41
        assert abs(len(ids[1]) - 0.2 * (41 - len(ids[2]))) <= 0.5
        assert torch.equal(parts.test.scaling.mean, parts.train.scaling.mean)
        np.testing.assert_allclose(np.nanmean(parts.train.values, 0), 0, atol=1e-6)
        tested += ids[2]
    assert sorted(tested) == list(range(41))


def test_the_mixed_model_finds_the_lines_it_was_made_from():
    draw = torch.Generator().manual_seed(0)
    people, visits_each = 3000, 6
    spread = torch.tensor([[1.0, 0.3], [0.3, 0.25]], dtype=torch.float64)
    b = torch.randn(people, 2, generator=draw, dtype=torch.float64) @ torch.linalg.cholesky(spread).mT
    times = torch.rand(people, visits_each, generator=draw, dtype=torch.float64).sort(1).values * 4
    noise = 0.5 * torch.randn(people, visits_each, generator=draw, dtype=torch.float64)
    y = 2.0 + b[:, :1] + (b[:, 1:] - 0.7) * times + noise
    y[torch.rand(people, visits_each, generator=draw) < 0.3] = NAN
    model = mixed.fit(Series.from_arrays(times, y[..., None], empty="keep"), iterations=200)
    assert (model.beta[0] - torch.tensor([2.0, -0.7], dtype=torch.float64)).abs().max() < 0.06
    assert (model.spread[0] - spread).abs().max() < 0.06
    assert abs(float(model.noise[0]) - 0.25) < 0.01


def test_the_mixed_model_is_a_conditioned_gaussian(series):
    assert identities.mixed_to_gaussian(series, visits.pairs(series)) < 1e-10


@pytest.fixture(scope="module")
def ode(series):
    torch.manual_seed(0)
    course = models.make("ode", Config(hidden=6), series).eval()
    with torch.no_grad():
        for parameter in course.readout.parameters():
            parameter.normal_()
    return course


def test_a_forecast_knows_nothing_of_later_visits(series, ode):
    which = visits.pairs(series)
    with torch.no_grad():
        assert identities.later_visits_seen(ode, series, which) == 0.0
        # and of the visit itself it does know
        other = series.with_values(series.values + 1.0)
        assert (ode(series, which)[0] - ode(other, which)[0]).abs().mean() > 0.1


def test_without_a_field_it_is_the_gru(series):
    with torch.no_grad():
        assert identities.still_to_held(Config(hidden=6), series) < 1e-6


def test_the_first_forecast_of_every_network_is_the_last_value(series):
    which = visits.pairs(series)
    for name in ("gru", "ode", "held"):
        forecast, odds = models.make(name, Config(hidden=4), series)(series, which)
        assert torch.equal(forecast, visits.last_value(series, which))
        assert odds.shape == series.times.shape


def test_the_field_keeps_states_where_the_unit_puts_them():
    torch.manual_seed(0)
    flow = Flow(models.Return(8), method="midpoint", dt=1.0)
    h = torch.rand(20, 8) * 2 - 1
    lead = torch.full((20,), 50.0, dtype=torch.float64)
    from pathline.models.recurrent import Gaps

    with torch.no_grad():
        carried = flow(h, *flow.prepare(Gaps(lead * 0, lead, lead[:, None]), h.dtype))
    assert carried.abs().max() <= 1.0


def test_the_area_under_the_curve():
    draw = torch.Generator().manual_seed(0)
    risk = torch.randn(200, generator=draw).round(decimals=1)
    label = torch.randint(-1, 2, (200,), generator=draw)
    known = label >= 0
    expected = roc_auc_score(label[known], risk[known])
    assert models.area_under_curve(risk, label) == pytest.approx(expected, abs=1e-12)


def test_the_logistic_regression_is_that_of_scikit_learn(series):
    from sklearn.linear_model import LogisticRegression

    odds = models.logistic(series, ridge=0.01)(series)
    known = series.row_labels >= 0
    x, y = models.scores(series)[known], series.row_labels[known]
    theirs = LogisticRegression(C=1 / (2 * 0.01 * len(y)), tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(odds[known], theirs.decision_function(x), rtol=0, atol=1e-6)


def test_errors_count_each_visit_once(series):
    which = visits.pairs(series)
    results = Results()
    results.visits(series, which)
    results.forecast("last", visits.last_value(series, which), series, which)
    results.risk("last", torch.randn(len(series.times)))
    assert results.mse("last") == pytest.approx(
        float(visits.error(visits.last_value(series, which), series, which)), rel=1e-5
    )
    own = which.next & series.mask[which.then, 0]
    expected = (visits.last_value(series, which)[own, 0] - series.values[which.then[own], 0]).square()
    both = which.next & series.mask[which.then, 1]
    other = (visits.last_value(series, which)[both, 1] - series.values[which.then[both], 1]).square()
    weight = torch.cat([which.weight[own], which.weight[both]])
    assert results.next_mse("last") == pytest.approx(
        float((weight * torch.cat([expected, other])).sum() / weight.sum()), rel=1e-5
    )
