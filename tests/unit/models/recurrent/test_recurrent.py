"""Recurrent networks on ragged series: what their equations say, and nothing that depends on the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline
from pathline import fields
from pathline.data import Series
from pathline.models import GRU, ODERNN, GRUdt, Recurrent, load, save
from pathline.models.recurrent import Decay, Flow, Hold
from tests.unit.models.recurrent.examples import MODELS, made, ragged, walked

FLOWS = [name for name in MODELS if name not in ("gru", "gru_dt", "gru_d")]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def check_walk(model, series, reverse):
    with torch.no_grad():
        states = model(series, reverse=reverse)
        before, after, final = walked(model, series, reverse)
    close(states.before, before)
    close(states.after, after)
    close(states.final, final)
    return states


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_is_what_each_series_is_alone_row_by_row(name, complete, reverse):
    check_walk(made(name), ragged(complete=complete), reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_known_inputs_make_a_row_without_a_value_one_that_is_read(name, reverse):
    model, series = made(name, inputs=1), ragged()
    inputs = torch.randn(len(series.times), 1, dtype=torch.float64)
    dosed = Series(series.times, series.values, series.lengths, inputs=inputs)
    states = check_walk(model, dosed, reverse)
    empty = ~dosed.mask.any(-1)
    assert int(empty.sum()) == 1
    assert not torch.equal(states.after[empty], states.before[empty])


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("reverse", [False, True])
def test_adaptive_flows_follow_each_series_over_its_own_gaps(clock, reverse):
    series, field = ragged(), fields.MLP(4, time=True).double()
    torch.manual_seed(0)
    fine = ODERNN(2, 4, field, method="rk4", steps=40).double()
    model = ODERNN(2, 4, field, method="tsit5", rtol=1e-9, atol=1e-11, clock=clock).double()
    model.cell.load_state_dict(fine.cell.state_dict())
    with torch.no_grad():
        a, b = (m(series, reverse=reverse).after for m in (model, fine))
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_without_gaps_in_the_data_it_is_the_gru_of_torch():
    model, theirs = GRU(3, 5), nn.GRU(6, 5)
    with torch.no_grad():
        for name, part in (("ih", model.cell.input), ("hh", model.cell.state)):
            getattr(theirs, f"weight_{name}_l0").copy_(part.weight)
            getattr(theirs, f"bias_{name}_l0").copy_(part.bias)
    x = torch.randn(7, 4, 3)
    outputs, last = theirs(torch.cat([x, torch.ones_like(x)], -1))
    states = model(Series.from_arrays(torch.arange(7.0), x.transpose(0, 1)))
    torch.testing.assert_close(states.after.unflatten(0, (4, 7)).transpose(0, 1), outputs)
    torch.testing.assert_close(states.final, last[0])


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "tsit5"])
def test_an_ode_rnn_whose_field_is_zero_is_a_gru(method):
    gru, series = made("gru"), ragged()
    ode_rnn = ODERNN(2, 4, fields.MLP(4, output_scale=0.0), method=method).double()
    ode_rnn.cell.load_state_dict(gru.cell.state_dict())
    for reverse in (False, True):
        for part in ("before", "after", "final"):
            a, b = (getattr(model(series, reverse=reverse), part) for model in (ode_rnn, gru))
            assert torch.equal(a, b)


def test_between_rows_the_state_changes_only_by_the_flow():
    field = fields.MLP(4).double()
    model = ODERNN(2, 4, field, method="tsit5", rtol=1e-10, atol=1e-12).double()
    series = ragged()
    states = model(series)
    row = int(series.offsets[2]) + 1  # the second row of the third series, and what comes behind it
    t = torch.linspace(float(series.times[row]), float(series.times[row + 1]), 5, dtype=torch.float64)
    exact = pathline.solve(field, states.after[row], t, rtol=1e-10, atol=1e-12).ys
    torch.testing.assert_close(states.at(t[:-1])[:, 2], exact[:-1], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(states.before[row + 1], exact[-1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["gru", "gru_dt", "ode_rnn", "midpoint"])
def test_rows_without_a_value_leave_a_state_bitwise_untouched(name):
    model, series = made(name), ragged()
    states, empty = model(series), ~series.mask.any(-1)
    assert int(empty.sum()) == 1
    assert torch.equal(states.after[empty], states.before[empty])
    assert not torch.equal(states.after[~empty], states.before[~empty])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", [*MODELS, "flow with gaps"])
def test_a_row_without_a_value_is_as_if_it_were_not_there(name, reverse):
    times = torch.tensor([0.1, 0.5, 0.9, 100.0, 0.3, 0.2, 0.4], dtype=torch.float64)
    values = torch.randn(7, 2, dtype=torch.float64)
    values[[1, 3, 4, 5]] = torch.nan
    series = Series(times, values, torch.tensor([4, 1, 2]))
    flowing = Recurrent(2, 4, between=Flow(fields.MLP(4)), dt=True).double()
    model = flowing if name == "flow with gaps" else made(name)
    seen = series.mask.any(-1)
    with torch.no_grad():
        whole, rest = (model(s, reverse=reverse, to=-1.0 if reverse else 101.0) for s in (series, series.observed()))
        for part in ("before", "after", "gap"):
            close(getattr(whole, part)[seen], getattr(rest, part))
        close(whole.final, rest.final)
        close(whole.at(times.unique()), rest.at(times.unique()))
        close(whole.before[~seen], rest.at(series)[~seen])


def test_what_others_observe_and_when_leaves_a_series_bitwise_untouched():
    model, series = made("ode_rnn"), ragged()
    mine = series.rows <= 2
    times = torch.where(mine, series.times, 2 * series.times + 0.1)
    values = torch.where(mine[:, None], series.values, 3 * series.values.flip(0).nan_to_num(0.5))
    with torch.no_grad():
        alone, beside = (model(s).after for s in (series, Series(times, values, series.lengths)))
    assert torch.equal(alone[mine], beside[mine])
    assert not torch.equal(alone[~mine], beside[~mine])


def test_backward_in_time_is_forward_on_the_mirrored_series_with_the_field_turned():
    model = made("ode_rnn")
    mirrored = ODERNN(2, 4, lambda t, h: -model.between.field(t, h)).double()
    mirrored.cell.load_state_dict(model.cell.state_dict())
    series = ragged()
    turned = [series[k : k + 1] for k in range(len(series))]
    turned = Series.cat([Series(-s.times.flip(0), s.values.flip(0), s.lengths) for s in turned])
    close(model(series, reverse=True).final, mirrored(turned).final)


def test_forward_steps_are_never_backward_in_time():
    """An implementation that is copied a lot steps through negative gaps, one behind, when it is run forward."""
    # The cell keeps the state that it is given, so that the flow alone moves it.
    seen = []

    def field(t, h):
        seen.append(t.clone())
        return torch.ones_like(h)

    model = ODERNN(1, 2, field).double()
    with torch.no_grad():
        model.cell.input.bias[2:4] = 1e3
    series = Series(torch.tensor([0.0, 1.0, 4.0]), torch.zeros(3, 1, dtype=torch.float64), torch.tensor([3]))
    assert model(series).final.tolist() == [[4.0, 4.0]]
    assert [float(t) for t in seen] == [0.0, 0.0, 1.0]
    assert model(series, reverse=True).final.tolist() == [[-4.0, -4.0]]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_last_state_goes_on_to_a_time(reverse):
    model, series = ODERNN(2, 3, lambda t, h: torch.ones_like(h)).double(), ragged()
    to = -1.0 if reverse else 9.0
    states = model(series, reverse=reverse, to=to)
    last = model(series, reverse=reverse)
    ends = last.last[:, None]
    expected = torch.where(series.lengths[:, None] > 0, last.final + to - ends.nan_to_num(posinf=0, neginf=0), 0.0)
    close(states.final, expected)
    own = model(series, reverse=reverse, to=torch.full((5,), to)).final
    assert torch.equal(own, states.final)


@pytest.mark.parametrize("name", ["gru", "gru_d", "ode_rnn"])
def test_the_start_may_be_given_and_is_differentiated(name):
    model, series = made(name), ragged()
    initial = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    states = model(series, initial=initial)
    assert torch.equal(states.final[1], initial[1])
    close(states.before[series.offsets[[0, 2, 3, 4]]], initial[[0, 2, 3, 4]])
    (found,) = torch.autograd.grad(states.final.sum(), initial)
    assert bool((found.abs().sum(1) > 0).all())


def test_covariates_and_known_inputs_reach_every_update():
    series = ragged()
    dressed = Series(
        series.times,
        series.values,
        series.lengths,
        static=torch.tensor([[1.0, torch.nan]] * 5),
        inputs=torch.randn(len(series.times), 3),
    )
    model = GRUdt(2, 4, static=2, inputs=3).double()
    states = model(dressed)
    assert bool(states.final.isfinite().all())
    wet = Series(dressed.times, dressed.values, dressed.lengths, static=dressed.static + 1, inputs=dressed.inputs)
    assert not torch.allclose(model(wet).final[0], states.final[0])
    with pytest.raises(ValueError, match="built for static=2, but the series have none. Pass them as"):
        model(series)


def test_a_batch_of_nothing_has_nothing():
    states = made("ode_rnn")(ragged()[[1]])
    assert states.after.shape == (0, 4)
    assert states.final.tolist() == [[0.0] * 4]
    assert states.at(torch.tensor([1.0])).tolist() == [[[0.0] * 4]]


def test_evaluations_are_counted_for_the_batch():
    series = ragged()
    for name, expected in (("ode_rnn", 5), ("substeps", 15), ("midpoint", 10), ("gru", 0)):
        model = made(name)
        model(series)
        assert model.evaluations == expected
    adjoint = ODERNN(2, 4, method="tsit5", gradient="adjoint").double()
    adjoint(series).final.sum().backward()
    assert adjoint.evaluations > 0
    assert adjoint.backward_evaluations > 0


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_gradients_of_the_flow_agree(gradient):
    torch.manual_seed(0)
    series, found = ragged(), []
    field = fields.MLP(4, (8,)).double()
    for how in ("backprop", gradient):
        torch.manual_seed(1)
        model = ODERNN(2, 4, field, method="tsit5", rtol=1e-9, atol=1e-11, gradient=how).double()
        found.append(torch.autograd.grad(model(series).final.square().sum(), list(field.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["gru_dt", "gru_d", "longest step"])
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    model, series = made(name), ragged()
    again = load(save(model, tmp_path))
    assert torch.equal(again(series).final, model(series).final)
    assert isinstance(again, Recurrent)


@pytest.mark.parametrize("method", ["euler", "midpoint", "tsit5"])
@pytest.mark.parametrize("field", [nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 1))])
def test_a_rate_of_another_shape_is_refused(field, method):
    model = ODERNN(2, 4, field, method=method).double()
    with pytest.raises(ValueError, match=r"`field` gives the rate of each component.* but \(\d, 1\) came"):
        model(ragged())


@pytest.mark.parametrize("name", ["gru", "gru_dt", "gru_d", "ode_rnn", "midpoint"])
def test_half_precision_is_left_to_what_gains_by_it(name):
    model, series = made(name).float(), ragged().to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model(series)
        states.final.sum().backward()
    assert states.final.dtype == torch.float32
    torch.testing.assert_close(states.final, model(series).final, rtol=0.1, atol=0.1)
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"A field goes into Flow\(field\)"):
        Recurrent(2, 4, between=fields.MLP(4))
    with pytest.raises(ValueError, match="built for channels=3, but the series have 2"):
        GRU(3, 4)(ragged())
    with pytest.raises(TypeError, match="`field` is a module or a function"):
        Flow(3)
    with pytest.raises(ValueError, match="`dt` is for fixed steps"):
        Flow(fields.MLP(4), method="tsit5", dt=0.1)
    with pytest.raises(ValueError, match='`rtol` and `atol` are for adaptive methods, and "euler" makes fixed steps'):
        ODERNN(2, 4, rtol=1e-3)
    with pytest.raises(ValueError, match='`clock` is "shared" or "per-sample", but \'own\' came'):
        ODERNN(2, 4, method="tsit5", clock="own")
    with pytest.raises(ValueError, match="`dt` is the longest step"):
        Flow(fields.MLP(4), dt=-0.1)
    assert isinstance(GRU(2, 4).between, Hold)
    assert Decay(2, 4).rate.weight.shape == (4, 2)
