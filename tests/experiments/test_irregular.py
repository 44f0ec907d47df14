"""The irregular experiment: its identities, what models are shown, how they are scored, and its baselines."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from matplotlib.figure import Figure

from pathline.data import Series
from pathline.experiments.irregular import figures, identities, models, tasks, truths
from pathline.experiments.irregular.config import EXPECTED, PRESETS, Config
from pathline.experiments.irregular.recursion import Recursion
from pathline.models import GRU, Forecaster, Latent
from pathline.models.recurrent import Decay, Flow

TINY = Config(**PRESETS["tiny"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    return tasks.split(40, 0, torch.device("cpu"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_identities_hold_for_any_weights(seed):
    bounds = [bound for bound in EXPECTED if "tiny" in bound.presets]
    found = identities.measure(seed)
    assert {bound.metric for bound in bounds} == set(found)
    assert [bound.metric for bound in bounds if not bound.met_by(found[bound.metric])] == []


def test_a_field_that_is_not_zero_is_no_gru():
    """The identity is no tautology."""
    series, gru = identities.with_gaps(seeded()), GRU(2, identities.SIZE).double()
    with torch.no_grad():
        moved = identities.with_cell(gru, 0.1 * torch.eye(identities.SIZE, dtype=torch.float64))(series)
        assert float((moved.after - gru(series).after).abs().max()) > 1e-3


def test_the_series_are_dealt_out_whole_and_once(data):
    assert [len(part) for part in (data.train, data.validation, data.test)] == [29, 3, 8]
    labels = torch.cat([part.labels for part in (data.train, data.validation, data.test)])
    assert len(labels.unique(dim=0)) == 40


@pytest.mark.parametrize(("name", "window", "rows"), [("interpolation", 100, 50), ("extrapolation", None, None)])
def test_half_of_the_window_is_shown(data, name, window, rows):
    task = tasks.Task(name, 0.5)
    early = int((data.test[0].times < tasks.SPAN / 2).sum())
    shown = task.shown(data.test, seeded())
    assert shown.lengths.tolist() == [rows or round(early / 2)] * len(data.test)
    asked = data.test.keep(task.asked(data.test))
    assert asked.lengths.tolist() == [window or 100 - early] * len(data.test)
    if name == "extrapolation":
        assert float(shown.times.max()) < tasks.SPAN / 2 <= float(asked.times.min())
    # Each series has a choice of its own.
    assert len({tuple(shown[i].times.tolist()) for i in range(len(shown))}) == len(shown)


def test_batches_are_a_function_of_the_step_and_show_new_points_each_time(data):
    task = tasks.Task("interpolation", 0.3)
    first, again = task.batches(data.train, 10, 0), task.batches(data.train, 10, 0)
    for step in (0, 4):
        assert torch.equal(first(step)[0].times, again(step)[0].times)
        assert torch.equal(first(step)[1].values, again(step)[1].values)
    whole = task.batches(data.train, 29, 0)
    (one, all_of_one), (two, all_of_two) = whole(0), whole(1)
    order = [all_of_two.labels[:, 0].tolist().index(label) for label in all_of_one.labels[:, 0].tolist()]
    assert not torch.equal(one.times, two[torch.tensor(order)].times)


class Oracle(torch.nn.Module):
    """Knows the shown points exactly, and is off by one everywhere else."""

    def predict(self, shown, asked):
        known = {(int(row), float(t)): x for row, t, x in zip(shown.rows, shown.times, shown.values, strict=True)}
        rows = zip(asked.rows, asked.times, asked.values, strict=True)
        return torch.stack([known.get((int(row), float(t)), x + 1.0) for row, t, x in rows])


def test_points_that_were_shown_are_scored_apart(data):
    errors = tasks.errors(tasks.Task("interpolation", 0.25), Oracle(), data.test, 0)
    assert errors == pytest.approx({"all": 0.75, "unseen": 1.0}, rel=1e-5)
    errors = tasks.errors(tasks.Task("extrapolation", 0.25), Oracle(), data.test, 0)
    assert errors == pytest.approx({"all": 1.0, "unseen": 1.0}, rel=1e-5)


class Recorder(Oracle):
    def predict(self, shown, asked):
        self.times = asked.times
        return super().predict(shown, asked)


def test_a_recurrence_goes_through_the_times_that_it_was_trained_on(data):
    recorder = Recorder()
    tasks.errors(tasks.Task("extrapolation", 0.5), recorder, data.test, 0)
    assert torch.equal(recorder.times, data.test.times)


@pytest.mark.parametrize("name", models.LABELS)
def test_no_model_sees_what_it_is_asked_for(data, name):
    """Other values at the times that are not shown leave every prediction as it is."""
    torch.manual_seed(0)
    model = models.build(name, TINY, feedback=True)
    shown = tasks.Task("extrapolation", 0.5).shown(data.test, seeded())
    torch.manual_seed(1)
    found = tasks.predicted(model, shown, data.test)
    torch.manual_seed(1)
    other = tasks.predicted(model, shown, data.test.with_values(torch.full_like(data.test.values, 7.0)))
    assert torch.equal(found, other)
    assert found.shape == data.test.values.shape


@pytest.mark.parametrize("name", ["rnn_dt", "gru_d", "ode_rnn"])
def test_an_autoregressive_model_knows_only_the_past(data, name):
    torch.manual_seed(0)
    model = models.build(name, TINY, feedback=False)
    shown = tasks.Task("interpolation", 0.5).shown(data.test, seeded())
    later = shown.with_values(torch.where(shown.times[:, None] >= 2.0, shown.values + 3.0, shown.values))
    t = data.test[0].times
    change = (tasks.predicted(model, shown, t) - tasks.predicted(model, later, t)).abs().amax((1, 2))
    assert float(change[t <= 2.0].max()) == 0.0
    assert float(change[t > 2.0].max()) > 0.0


def test_the_models_differ_in_what_lies_between_observations():
    between = {name: models.build(name, TINY, feedback=False).recurrent for name in ("rnn_dt", "gru_d", "ode_rnn")}
    assert between["rnn_dt"].dt
    assert isinstance(between["gru_d"].between, Decay)
    assert isinstance(between["ode_rnn"].between, Flow)
    assert not models.build("still", TINY, feedback=False).recurrent.dt


def test_the_recursion_steps_from_time_to_time():
    torch.manual_seed(0)
    steps, t = Recursion(3), torch.tensor([0.0, 0.4, 1.5], dtype=torch.float64)
    y0 = torch.randn(2, 3)
    cell = torch.nn.GRUCell(1, 3)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in steps.network.state_dict().items()})
    first = cell(torch.full((2, 1), 0.4), y0)
    expected = torch.stack([y0, first, cell(torch.full((2, 1), 1.1), first)])
    torch.testing.assert_close(steps.solve(y0, t).ys, expected)


def test_the_rnn_vae_is_no_flow():
    """A stop on the way changes where it arrives; it does not for the latent ODE."""
    torch.manual_seed(0)
    z0 = torch.randn(2, TINY.latent)
    direct, with_stop = torch.tensor([0.0, 2.0]), torch.tensor([0.0, 1.0, 2.0])
    vae, ode = models.rnn_vae(TINY), models.latent_ode(dataclasses.replace(TINY, tol=1e-6))
    with torch.no_grad():
        apart = {
            name: float((model.states(z0, direct)[-1] - model.states(z0, with_stop)[-1]).abs().max())
            for name, model in (("vae", vae), ("ode", ode))
        }
    assert apart["ode"] < 1e-5
    assert apart["vae"] > 1e-3


def test_a_model_that_is_exact_already_leaves_no_solver_error(data):
    """The truths are those of the model: a still field has nothing to solve."""
    torch.manual_seed(0)
    model = models.build("ode_rnn", TINY, feedback=False)
    shown = tasks.Task("interpolation", 0.5).shown(data.test, seeded())
    asked = data.test.before(float(shown.times.max()))
    assert truths.of_recurrent(model, shown, asked).error > 0.0
    with torch.no_grad():
        for parameter in model.recurrent.between.parameters():
            parameter.zero_()
    truth = truths.of_recurrent(model, shown, asked)
    assert truth.error == 0.0
    # One Euler step for each of the at most 50 observations.
    assert truth.forward == int(shown.lengths.max())


def test_the_solver_error_falls_with_the_tolerance(data):
    torch.manual_seed(0)
    loose, tight = (models.latent_ode(dataclasses.replace(TINY, tol=tol)) for tol in (1e-1, 1e-6))
    with torch.no_grad():
        for parameter in loose.dynamics.parameters():
            parameter.mul_(4.0)
    tight.load_state_dict(loose.state_dict())
    shown, t = tasks.Task("extrapolation", 0.5).shown(data.test, seeded()), data.test[0].times
    assert truths.of_latent(tight, shown, t).error < 1e-2 * truths.of_latent(loose, shown, t).error
    assert truths.there_and_back(tight, shown) < truths.there_and_back(loose, shown)


def test_errors_are_drawn_by_the_share_of_points():
    fractions = (0.1, 0.5)
    found = {
        (name, kind, fraction): 0.01 / fraction
        for name in models.LABELS
        for kind in ("interpolation", "extrapolation")
        for fraction in fractions
    }
    figure = figures.errors(found, fractions)
    assert isinstance(figure, Figure)
    for axes in figure.axes:
        assert len(axes.lines) == 5
        assert axes.lines[0].get_xdata().tolist() == [10.0, 50.0]
        assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.02])


def test_kinds():
    assert isinstance(models.build("rnn_vae", TINY, feedback=False), Latent)
    assert isinstance(models.build("ode_rnn", TINY, feedback=True), Forecaster)
    assert isinstance(tasks.split(20, 0, torch.device("cpu")).test, Series)
