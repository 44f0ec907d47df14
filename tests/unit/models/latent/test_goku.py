"""Known equations inside a latent model: what is inferred stays in bounds, belongs to its series, and is found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathline import fields, nets, solve
from pathline.data import Series
from pathline.fields import Quantity
from pathline.models import GOKU, GOKUEncoder, Latent, RNNEncoder, annealing, likelihoods, load, quantities, save

T = torch.linspace(0.0, 2.0, 21, dtype=torch.float64)


def swings(n, seed=0):
    """Angles of pendulums seen directly, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.5 + 1.5 * torch.rand(n, generator=generator)
    start = torch.stack([1.5 * torch.rand(n, generator=generator), torch.zeros(n)], -1)
    ys = solve(fields.Pendulum(gravity=10.0), start, T, args={"length": lengths}, method="rk4").ys
    return Series.from_arrays(T, ys[..., :1].transpose(0, 1).float()), lengths


def model(**options):
    torch.manual_seed(0)
    field = options.pop("field", fields.Pendulum(length=1.2, gravity=10.0))
    options = {"unknown": ["length"], "size": 2, "latent": (4, 4), "hidden": 16} | options
    return GOKU(1, field, nn.Linear(2, 1, bias=False), likelihoods.Gaussian(0.1), **options)


def ragged():
    generator = torch.Generator().manual_seed(1)
    parts = [torch.rand(k, generator=generator, dtype=torch.float64).sort().values for k in (5, 2, 7)]
    values = torch.randn(14, 2, generator=generator)
    values[3, 1] = torch.nan
    values[6] = torch.nan
    return Series(torch.cat(parts), values, torch.tensor([5, 2, 7]))


def test_lengths_are_found_that_nobody_told():
    series, _ = swings(48)
    others, new = swings(32, seed=1)
    found = model(annealing=annealing.Constant(1e-3), method="rk4")
    with torch.no_grad():
        assert torch.corrcoef(torch.stack([quantities(found, others)["length"], new]))[0, 1].abs() < 0.8
        found.decoder.weight.copy_(torch.tensor([[1.0, 0.0]]))
    optimizer = torch.optim.Adam(found.parameters(), 1.5e-2)
    for _ in range(100):
        optimizer.zero_grad()
        found.loss(series).backward()
        optimizer.step()
    inferred = quantities(found, others)["length"].detach()
    assert torch.corrcoef(torch.stack([inferred, new]))[0, 1] > 0.9
    assert (inferred - new).abs().mean() < 0.15


def test_every_series_has_numbers_of_its_own():
    series, _ = swings(5)
    found = model(method="rk4")
    both = quantities(found, series)["length"]
    alone = torch.cat([quantities(found, series[i : i + 1])["length"] for i in range(5)])
    torch.testing.assert_close(both, alone)
    assert both.unique().numel() == 5
    prediction = found.predict(series, T, samples=0)
    state, args = found.start(found.posterior(series).mean)
    expected = solve(found.dynamics.field, state, T, args=args, method="rk4").ys
    torch.testing.assert_close(prediction.states[0], expected)


def test_a_forecast_does_not_depend_on_what_else_is_asked_for():
    series, _ = swings(5)
    found, far = model(scale=3.0), torch.tensor([9.0], dtype=torch.float64)
    among = torch.linspace(0.0, 9.0, 181, dtype=torch.float64)
    for model_, off in ((found, 0.01), (model(scale=3.0, dt=0.05), 0.01)):
        alone = model_.predict(series, far, samples=0).mean[-1]
        torch.testing.assert_close(alone, model_.predict(series, among, samples=0).mean[-1], rtol=0, atol=off)
    steps = model(scale=3.0, method="rk4")
    assert (steps.predict(series, far, samples=0).mean[-1] - alone).abs().max() > 0.1
    assert (found.dynamics.method, found.dynamics.rtol, found.dynamics.atol) == ("dopri5", 1e-4, 1e-4)
    assert (steps.dynamics.method, steps.dynamics.rtol, steps.dynamics.dt) == ("rk4", None, None)
    assert model(dt=0.1).dynamics.method == "rk4"


def test_gradients_reach_the_encoder_through_the_numbers_alone():
    found, (series, _) = model(), swings(5)
    quantities(found, series)["length"].sum().backward()
    assert found.encoder.network.weight_ih_l0.grad.abs().max() > 0
    assert not found.encoder.state.linear.weight.grad.any()


@pytest.mark.parametrize("bounds", [None, (1.0, 2.0), Quantity(0.3, 0.4)])
def test_bounds_hold_for_any_draw(bounds):
    start = model(unknown={"length": bounds}).start
    _, args = start(1e4 * torch.randn(200, 8))
    low, high = (0.0, torch.inf) if bounds is None else bounds if isinstance(bounds, tuple) else (0.3, 0.4)
    assert bool(((args["length"] >= low) & (args["length"] <= high)).all())
    _, args = start(1e2 * torch.randn(200, 8))
    assert args["length"].unique().numel() > 10


def test_an_untrained_model_tells_the_fields_own_number():
    series, _ = swings(50)
    for length in (0.5, 3.0):
        found = quantities(model(field=fields.Pendulum(length)), series)["length"]
        assert found.mean().item() == pytest.approx(length, rel=0.2)


def test_several_quantities_and_a_correction():
    friction = fields.with_time(nets.MLP(3, 1, 4, output_scale=0.01))
    field = fields.Corrected(fields.Pendulum(1.0, 10.0, 0.1), friction, into=[1])
    found = model(field=field, unknown=["length", "friction"])
    series, _ = swings(5)
    found.loss(series).backward()
    assert all(parameter.grad is not None for parameter in found.parameters())
    assert list(quantities(found, series, samples=3)) == ["length", "friction"]
    assert quantities(found, series, samples=3)["friction"].shape == (3, 5)


def test_fields_of_ones_own_say_their_bounds():
    def decay(t, y, args):
        return -args["rate"].unsqueeze(-1) * y

    found = GOKU(1, decay, nn.Linear(2, 1), unknown={"rate": (0.0, 5.0)}, size=2, latent=(2, 2))
    series, _ = swings(5)
    assert found.predict(series, T, samples=4).mean.shape == (21, 5, 1)
    with pytest.raises(TypeError, match="`unknown` needs bounds"):
        GOKU(1, decay, nn.Linear(2, 1), unknown=["rate"], size=2)


def test_the_encoder_reads_ragged_series_one_by_one_and_nothing_that_is_missing():
    series = ragged()
    torch.manual_seed(0)
    encoder = GOKUEncoder(2, (3, 2), hidden=8)
    whole = encoder(series)
    assert whole.batch_shape == (3,)
    assert whole.event_shape == (5,)
    for i in range(3):
        alone = encoder(series[i : i + 1])
        torch.testing.assert_close(whole.mean[i : i + 1], alone.mean)
        torch.testing.assert_close(whole.stddev[i : i + 1], alone.stddev)
    kept = series.keep(~series.values.isnan().all(-1))
    torch.testing.assert_close(encoder(kept).mean, whole.mean)


def test_the_first_state_is_read_backwards_and_constants_both_ways():
    """The state's draw must not be a function of what the forward way alone has seen."""
    torch.manual_seed(0)
    encoder = GOKUEncoder(2, (3, 2), hidden=8)
    before = encoder(ragged()).mean
    with torch.no_grad():
        encoder.network.weight_hh_l0.add_(1.0)
    after = encoder(ragged()).mean
    torch.testing.assert_close(after[:, :3], before[:, :3])
    # The second series has one row with anything in it, and so no step from hidden state to hidden state.
    assert (after[[0, 2], 3:] - before[[0, 2], 3:]).abs().min() > 0


def test_the_encoder_knows_when_the_first_observation_was():
    series, _ = swings(5)
    late = Series.from_arrays(T + 1.0, series.values.reshape(5, 21, 1))
    torch.manual_seed(0)
    encoder = GOKUEncoder(1, (3, 2), hidden=8)
    apart = (encoder(late, 0.0).mean - encoder(series, 0.0).mean).abs()
    assert apart.amax(0).min() > 1e-4  # of the state and of the constants
    torch.testing.assert_close(encoder(late, 1.0).mean, encoder(series, 0.0).mean)


def test_a_reader_looks_at_rows():
    look = nets.MLP(2, 3, 4)
    encoder = GOKUEncoder(2, (3, 2), hidden=8, reader=look, read=3)
    assert encoder(ragged()).mean.shape == (3, 5)
    with pytest.raises(TypeError, match="come together"):
        GOKUEncoder(2, (3, 2), reader=look)


def test_first_states_are_those_that_make_sense(tmp_path):
    field, series = fields.SIR(0.5, 0.2), swings(5)[0]
    found = model(field=field, unknown=["transmission"], size=3, first=nn.Softmax(-1), scale=1000.0)
    state, _ = found.start(10 * torch.randn(20, 8))
    assert state.min() > 0
    torch.testing.assert_close(state.sum(-1), torch.full((20,), 1000.0))
    found.decoder = nn.Linear(3, 1)
    again = load(save(found, tmp_path / "model"))
    assert again.predict(series, T, samples=0).mean.equal(found.predict(series, T, samples=0).mean)


def test_refusals():
    with pytest.raises(ValueError, match="`unknown` names 'lengths_'; .* length, gravity, friction.*\"length\""):
        model(unknown=["lengths_"])
    with pytest.raises(ValueError, match="narrower"):
        model(unknown={"length": (-1.0, 1.0)})
    with pytest.raises(ValueError, match="at least one quantity"):
        model(unknown={})
    for wrong in ((0.5, 1.0, 2.0), 0.5, "ab"):
        with pytest.raises(ValueError, match=r"two bounds, \(low, high\)"):
            model(unknown={"length": wrong})
    with pytest.raises(ValueError, match="built for channels=1, but the series have 2"):
        model().loss(ragged())
    with pytest.raises(ValueError, match="`hidden` is a whole number"):
        model(hidden=0)
    with pytest.raises(ValueError, match="`size` is a whole number"):
        model(size=0)
    with pytest.raises(ValueError, match="`samples` is a whole number, 0 or more"):
        quantities(model(), swings(2)[0], samples=-1)
    plain = Latent(RNNEncoder(1, 2), fields.MLP(2), nn.Linear(2, 1))
    with pytest.raises(TypeError, match="infers no quantities"):
        quantities(plain, swings(2)[0])


def test_they_are_stored(tmp_path):
    found, (series, _) = model(unknown={"length": (0.2, 5.0)}), swings(3)
    again = load(save(found, tmp_path / "model"))
    torch.testing.assert_close(quantities(again, series), quantities(found, series), rtol=0, atol=0)
    assert again.predict(series, T, samples=0).mean.equal(found.predict(series, T, samples=0).mean)
    assert "length in (0.2, 5)" in repr(again)
