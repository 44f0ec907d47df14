"""The model as a whole: batches, times, draws, heads, weights, and the way to disk."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from pathline import fields
from pathline.data import Series
from pathline.models import GOKU, Latent, LatentODE, NeuralODE, RNNEncoder, annealing, likelihoods, load, save

NAN = float("nan")
LENGTHS = torch.tensor([4, 2, 5])


@pytest.fixture
def series():
    times = torch.cat([torch.rand(n, dtype=torch.float64).cumsum(0) for n in LENGTHS])
    values = torch.randn(len(times), 2)
    values[1, 0] = values[7, 1] = NAN
    return Series(times, values, LENGTHS)


class Certain:
    """A posterior without width around given states."""

    def __init__(self, z0):
        self.z0 = z0

    def __call__(self, series, t0):
        return Independent(Normal(self.z0, torch.full_like(self.z0, 1e-12)), 1)


def number(x):
    return float(x.detach())


def small(**options):
    return LatentODE(2, 3, encoder_hidden=8, field_hidden=8, decoder_hidden=8, **options)


@pytest.mark.parametrize("encoder", ["rnn", "ode-rnn", "attention"])
def test_a_loss_reaches_every_parameter(encoder, series):
    model = small(encoder=encoder)
    model.loss(series).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert all(bool((p.grad != 0).any()) for name, p in model.named_parameters() if "bias_hh" not in name)


def test_the_loss_is_minus_the_bound(series):
    model = small(samples=3)
    torch.manual_seed(1)
    loss = model.loss(series)
    torch.manual_seed(1)
    assert torch.allclose(loss, -model.elbo(series), rtol=1e-5)


def test_the_bound_is_the_mean_over_series_of_sums_over_observations(series):
    model = small().eval()
    whole = Series.cat([series, series])
    z0 = torch.randn(1, 3, 3)
    each = model.log_likelihood(z0, series)
    assert each.shape == (1, 3)
    states = model.states(z0, series)[0]
    mean = model.decoder(states)
    by_hand = torch.zeros(3)
    for row in range(len(series.times)):
        for channel in range(2):
            value = series.values[row, channel]
            if not value.isnan():
                spread = model.likelihood.log_scale.exp()[0]
                by_hand[series.rows[row]] += Normal(mean[row, channel], spread).log_prob(value)
    assert torch.allclose(each[0], by_hand, rtol=1e-4)
    both = model.log_likelihood(torch.cat([z0, z0], 1), whole)
    assert torch.allclose(both.mean(), each.mean(), rtol=1e-4)
    q = model.posterior(series)
    spread, centre = q.stddev, q.mean
    closed = 0.5 * (spread**2 + centre**2 - 1 - 2 * spread.log()).sum(-1)
    assert torch.allclose(model.divergence(q, z0), closed, atol=1e-5)


def test_missing_values_have_no_say(series):
    model = small().double()
    values = series.values.double().requires_grad_()
    seen = Series(series.times, values, series.lengths)
    torch.manual_seed(0)
    model.loss(seen).backward()
    missing = series.values.isnan()
    assert bool((values.grad[missing] == 0).all())
    assert bool((values.grad[~missing] != 0).all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_row_without_an_observation_might_as_well_not_be_there(series):
    model = small(method="rk4")  # steps follow the union of the times, so that one time more would show
    values = series.values.clone()
    rows = torch.tensor([0, 5, 9])
    values[rows] = NAN
    kept = torch.ones(len(values), dtype=torch.bool)
    kept[rows] = False
    marked = Series(series.times, values, series.lengths)
    dropped = Series(series.times[kept], series.values[kept], torch.bincount(series.rows[kept], minlength=3))
    torch.manual_seed(0)
    one = model.loss(marked)
    torch.manual_seed(0)
    assert torch.equal(one, model.loss(dropped))


def test_what_is_observed_and_what_is_explained_may_differ(series):
    model = small()
    early, late = series.before(1.0), series.after(1.0)
    assert torch.isfinite(model.loss((early, late)))
    with pytest.raises(ValueError, match="over the same 3 series as what is observed, but it holds 2"):
        model.loss((series, series[:2]))


def test_pairs_agree_in_their_ids_and_channels(series):
    options = {"ids": list("abc"), "channels": ["x", "y"]}
    one, turned, other = (
        Series(series.times, series.values, series.lengths, **(options | more))
        for more in ({}, {"channels": ["y", "x"]}, {"ids": list("acb")})
    )
    model = small()
    assert torch.isfinite(model.loss((one, series)))
    for target, said in ((turned, "the same channels in the same order"), (other, "series 1 is 'b' there and 'c'")):
        for bound in (model.loss, model.elbo, model.iwae):
            with pytest.raises(ValueError, match=said):
                bound((one, target))
    with pytest.raises(ValueError, match="series 1 is 'b' there"):
        model.predict(one, other)


@pytest.mark.parametrize(
    ("prior", "posterior", "said"),
    [
        (None, Normal(torch.zeros(3, 4), 1.0), r"`encoder` .* batch shape \(3,\) .* \(3, 4\) and \(\) came"),
        (None, Independent(Normal(torch.zeros(7, 4), 1.0), 1), r"batch shape \(3,\) .* \(7,\) and \(4,\) came"),
        (None, Independent(Normal(torch.zeros(4), 1.0), 1), r"but \(\) and \(4,\) came"),
        (Normal(0.0, 1.0), None, r"`prior` .* batch shape \(\) and event shape \(4,\), but \(\) and \(\) came"),
        (Normal(torch.zeros(4), 1.0), None, r"but \(4,\) and \(\) came.*Independent\(Normal\(mean, std\), 1\)"),
        (Independent(Normal(torch.zeros(5), 1.0), 1), None, r"but \(\) and \(5,\) came"),
        (lambda: torch.zeros(4), None, "`prior` gives a torch.distributions.Distribution, but Tensor came"),
    ],
)
def test_a_bound_is_one_only_for_distributions_of_whole_draws(prior, posterior, said, series):
    encoder = RNNEncoder(2, 4) if posterior is None else lambda series, t0: posterior
    model = Latent(encoder, fields.MLP(4), nn.Linear(4, 2), prior=prior)
    for bound in (model.loss, model.elbo, model.iwae):
        with pytest.raises((ValueError, TypeError), match=said):
            bound(series)


def test_a_prior_may_differ_from_series_to_series(series):
    means = torch.randn(3, 4)
    own = Independent(Normal(means, 1.0), 1)
    model = Latent(RNNEncoder(2, 4), fields.MLP(4), nn.Linear(4, 2), prior=own)
    q = model.posterior(series)
    closed = 0.5 * (q.stddev**2 + (q.mean - means) ** 2 - 1 - 2 * q.stddev.log()).sum(-1)
    assert torch.allclose(model.divergence(q, q.mean[None]), closed, atol=1e-5)


def test_times_may_be_numbers(series):
    model = small()
    assert torch.equal(*(model.predict(series, t, samples=0).mean for t in ([1, 2.5], torch.tensor([1.0, 2.5]))))
    for t, said in ((torch.tensor(2.0), "shape"), (torch.ones(3, 2), "shape"), ([1.0, NAN], r"t\[1\] is nan")):
        with pytest.raises(ValueError, match=said):
            model.predict(series, t)


def test_what_does_not_fit_is_named(series):
    model = small()
    for encoder in ("rnn", "ode-rnn", "attention"):
        with pytest.raises(ValueError, match=r"built for channels=2, but the series have 1"):
            small(encoder=encoder).loss(Series(series.times, series.values[:, :1], series.lengths))
    with pytest.raises(ValueError, match="at least one series, but none came"):
        model.loss(series[:0])
    with pytest.raises(TypeError, match="A batch is a Series, but Tensor came"):
        model.loss(series.values)
    with pytest.raises(ValueError, match="`k` is a whole number, 1 or more, but 0 came"):
        model.iwae(series, k=0)
    with pytest.raises(ValueError, match="`samples` is a whole number, 0 or more, but -1 came"):
        model.predict(series, [1.0], samples=-1)
    with pytest.raises(ValueError, match="between 0 and 1.*but 50 came"):
        model.predict(series, [1.0], samples=2).quantile(50)
    narrow = Latent(RNNEncoder(2, 4), fields.MLP(4), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="`decoder` gives 2 numbers a state for 2 channels under Gaussian, but 1 came"):
        narrow.loss(series)
    with pytest.raises(ValueError, match="built with 3 and the series have 2 channels"):
        small(likelihood=likelihoods.Gaussian(0.1, learn=True, channels=3)).loss(series)


@pytest.mark.parametrize("encoder", ["rnn", "ode-rnn", "attention"])
def test_covariates_and_known_inputs_reach_the_encoder(encoder, series):
    inputs = torch.randn(len(series.times), 1)
    one, other = (
        Series(series.times, series.values, series.lengths, static=static, inputs=inputs)
        for static in (torch.zeros(3, 2), torch.ones(3, 2))
    )
    model = small(encoder=encoder, static=2, inputs=1)
    assert not torch.allclose(model.posterior(one).mean, model.posterior(other).mean)
    with pytest.raises(ValueError, match="come|none"):
        model.loss(series)
    with pytest.raises(ValueError, match="for encoders by name"):
        small(encoder=RNNEncoder(2, 3), static=2)


def test_common_times_are_ragged_ones(series):
    model = small(rtol=1e-6, atol=1e-6)
    t = torch.tensor([0.0, 0.4, 1.3])
    dense = Series(t.repeat(3).double(), torch.zeros(9, 2), torch.tensor([3, 3, 3]))
    z0 = torch.randn(4, 3, 3)
    common, ragged = model.states(z0, t), model.states(z0, dense)
    assert common.shape == (4, 3, 3, 3)
    assert ragged.shape == (4, 9, 3)
    assert torch.allclose(common.transpose(1, 2).reshape(4, 9, 3), ragged, atol=1e-5)
    backwards = model.states(z0, t.flip(0))
    assert torch.allclose(backwards, common.flip(1), atol=1e-5)


def test_a_prediction_has_draws_mean_and_quantiles(series):
    model = small()
    found = model.predict(series, torch.linspace(0, 3, 7), samples=50)
    assert found.samples.shape == (50, 7, 3, 2)
    assert found.mean.shape == (7, 3, 2) == found.std.shape
    low, middle, high = found.quantile((0.1, 0.5, 0.9))
    assert bool((low <= middle).all())
    assert bool((middle <= high).all())
    assert torch.equal(found.quantile(0.5), middle)
    assert bool((found.std > 0).all())
    assert found.z0.shape == (50, 3, 3)
    assert found.states.shape == (50, 7, 3, 3)
    assert model.predict(series, series, samples=4).samples.shape == (4, 11, 2)


def test_the_noise_of_observations_widens_a_prediction(series):
    model = small(likelihood=likelihoods.Gaussian(2.0))
    t = torch.linspace(0, 1, 50)
    plain, noisy = (model.predict(series, t, samples=200, noise=noise).std.mean() for noise in (False, True))
    assert number(noisy) == pytest.approx((number(plain) ** 2 + 4.0) ** 0.5, rel=0.03)


def test_without_draws_the_posterior_mean_is_followed(series):
    model = small()
    found = model.predict(series, torch.tensor([0.0]), samples=0)
    assert torch.equal(found.z0[0], model.posterior(series).mean)
    assert torch.allclose(found.mean[0], model.decoder(found.z0[0]))
    assert torch.equal(found.std, torch.zeros_like(found.std))
    assert torch.equal(model(series, torch.tensor([0.0]), 0), found.mean)


def test_part_of_a_draw_may_be_parameters_of_the_field(series):
    class Start(nn.Module):
        def forward(self, draws):
            return draws[:, :2], {"rate": draws[:, 2:].exp()}

    class Decay(nn.Module):
        def forward(self, t, z, args):
            return -args["rate"] * z

    z0 = torch.randn(3, 3, dtype=torch.float64)
    for clock in ("shared", "per-sample"):
        dynamics = NeuralODE(Decay(), method="dopri5", rtol=1e-8, atol=1e-8, clock=clock)
        model = Latent(Certain(z0), dynamics, nn.Identity(), start=Start())
        found = model.predict(series, series, samples=4).states
        expected = z0[series.rows, :2] * torch.exp(-z0[series.rows, 2:].exp() * series.times[:, None])
        assert found.shape == (4, 11, 2)
        assert torch.allclose(found[3], expected, atol=1e-6)


def test_parameters_that_are_lost_are_named(series):
    model = small()
    with torch.no_grad():
        model.encoder.readout.linear.weight[0, 0] = NAN
    for ask in (model.loss, lambda series: model.predict(series, [1.0])):
        with pytest.raises(ValueError, match=r"gradients of the step before were not; or the times, up to .* t0 = 0"):
            ask(series)


def test_the_noise_is_where_one_reads_it(series, tmp_path):
    density = likelihoods.Gaussian([0.1, 0.2], learn=True)
    assert torch.allclose(density.scale, torch.tensor([0.1, 0.2]))
    assert "scale=0.1, 0.2, learn=True" in repr(density)
    with torch.no_grad():
        density.log_scale += 1.0
    assert torch.allclose(density.scale, torch.tensor([0.1, 0.2]).mul(torch.e))
    again = load(save(small(likelihood=density), tmp_path)).likelihood
    assert torch.equal(again.scale, density.scale)


def test_states_before_t0_are_refused(series):
    later = small(t0=0.5)
    with pytest.raises(ValueError, match=r"`t0` = 0.5, but the earliest time is .*shifted"):
        later.states(torch.zeros(3, 3), torch.tensor([0.4, 1.0]))
    assert later.states(torch.zeros(3, 3), torch.tensor([0.5, 1.0])).shape == (2, 3, 3)


def test_annealing_counts_steps_of_training(series):
    model = small(annealing=annealing.Linear(4))
    assert model.kl_weight == 0.0
    for _ in range(2):
        model.loss(series)
    assert model.kl_weight == 0.5
    model.eval().loss(series)
    with torch.no_grad():
        model.train().loss(series)
    assert model.kl_weight == 0.5
    resumed = small(annealing=annealing.Linear(4))
    resumed.load_state_dict(model.state_dict())
    assert resumed.kl_weight == 0.5


def test_the_weight_is_that_of_the_divergence(series):
    plain, free = small(), small(annealing=annealing.Constant(0.0))
    free.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    whole = plain.loss(series)
    torch.manual_seed(0)
    without = free.loss(series)
    q = plain.posterior(series)
    assert number(whole - without) == pytest.approx(number(plain.divergence(q, q.mean[None]).mean()), rel=1e-4)


def test_schedules():
    weight = annealing.Exponential(0.9, wait=2, every=10, end=0.5)
    assert [weight(0), weight(20)] == [0.0, 0.0]
    assert weight(30) == pytest.approx(0.05)
    assert weight(10_000) == pytest.approx(0.5)
    assert [annealing.Linear(10, 0.2, 0.8)(step) for step in (0, 5, 99)] == pytest.approx([0.2, 0.5, 0.8])
    for wrong in (
        lambda: annealing.Exponential(1.0),
        lambda: annealing.Linear(0),
        lambda: annealing.Exponential(every=0),
    ):
        with pytest.raises(ValueError, match="`(rate|steps|every)`"):
            wrong()


def test_a_prior_may_be_learned(series):
    class Prior(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(3))

        def forward(self):
            return Independent(Normal(self.mean, torch.ones(3)), 1)

    model = small(prior=Prior())
    model.loss(series).backward()
    assert bool((model.prior.mean.grad != 0).all())
    standard = small()
    standard.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("prior")})
    torch.manual_seed(0)
    one = model.elbo(series)
    torch.manual_seed(0)
    assert torch.allclose(one, standard.elbo(series))


def test_labels_of_series_and_of_rows_are_learned_from_what_is_known(series):
    labels, row_labels = torch.tensor([1, -1, 0]), torch.randint(4, (11,))
    marked = Series(series.times, series.values, series.lengths, labels=labels, row_labels=row_labels)
    model = small(classifier=nn.Linear(3, 2), row_classifier=nn.Linear(3, 4), class_weight=1e4)
    optimizer = torch.optim.Adam((*model.classifier.parameters(), *model.row_classifier.parameters()), lr=0.1)
    torch.manual_seed(0)
    first = model.loss(marked)
    for _ in range(5):
        torch.manual_seed(0)
        optimizer.zero_grad()
        model.loss(marked).backward()
        optimizer.step()
    torch.manual_seed(0)
    assert model.loss(marked) < first
    assert model.classify(series).shape == (3, 2)
    assert torch.allclose(model.classify(series, samples=5).exp().sum(-1), torch.ones(3), atol=1e-5)
    assert model.classify_rows(series, series).shape == (11, 4)
    assert model.classify_rows(series, torch.tensor([0.0, 1.0]), samples=3).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="the series have none"):
        model.loss(series)


@pytest.mark.parametrize(("wrong", "said"), [(4, "has 4"), (NAN, "has nan"), (1.5, "has 1.5")])
def test_labels_are_numbers_of_classes(wrong, said, series):
    marked = Series(series.times, series.values, series.lengths, labels=torch.tensor([0, wrong, -1]), ids=list("abc"))
    model = small(classifier=nn.Linear(3, 4))
    with pytest.raises(ValueError, match=rf"from 0 to 3.*series 1 \(id 'b'\) {said}"):
        model.loss(marked)
    marked = Series(series.times, series.values, series.lengths, labels=torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"one label for each, \(3, 4\)"):
        model.loss(marked)


def test_unknown_labels_give_no_gradient(series):
    marked = Series(series.times, series.values, series.lengths, labels=torch.tensor([-1, -1, -1]))
    model = small(classifier=nn.Linear(3, 2))
    model.loss(marked).backward()
    assert bool((model.classifier.weight.grad == 0).all())
    several = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 1.0]])
    marked = Series(series.times, series.values, series.lengths, labels=several)
    model = small(classifier=nn.Linear(3, 2))
    model.loss(marked).backward()
    assert bool(model.classifier.weight.grad.isfinite().all())
    assert bool((model.classifier.weight.grad != 0).all())


def test_classes_are_asked_of_a_classifier(series):
    with pytest.raises(ValueError, match="Build it with `classifier`"):
        small().classify(series)
    with pytest.raises(ValueError, match="Build it with `row_classifier`"):
        small().classify_rows(series, series)


@pytest.mark.parametrize("encoder", ["rnn", "ode-rnn", "attention"])
def test_it_is_saved_and_loaded(encoder, series, tmp_path):
    model = small(encoder=encoder, annealing=annealing.Exponential(), samples=2, likelihood=likelihoods.Gaussian(0.3))
    model.loss(series)
    again = load(save(model, tmp_path))
    t = torch.linspace(0, 2, 5)
    assert torch.equal(again.predict(series, t, samples=0).mean, model.predict(series, t, samples=0).mean)
    assert again.annealing == model.annealing
    assert int(again.step) == 1


def test_series_without_observations_are_drawn_from_what_the_encoder_says(series):
    empty = Series(series.times, series.values * NAN, series.lengths)
    model = small()
    torch.manual_seed(0)
    loss = model.loss((empty, empty))
    q = model.posterior(empty)
    assert number(loss) == pytest.approx(number(model.divergence(q, q.mean[None]).mean()), rel=1e-5)


@pytest.mark.parametrize("encoder", ["rnn", "ode-rnn", "attention"])
def test_as_it_comes_it_learns_from_a_table_over_long_times(encoder):
    times = [(10 * torch.rand(n)).sort().values for n in torch.randint(8, 20, (30,)).tolist()]
    series = Series.from_arrays(times, [torch.stack([t.sin(), (t + 1).cos()], -1) for t in times])
    model = LatentODE(2, 4, encoder=encoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(model.loss(series))
        losses[-1].backward()
        optimizer.step()
    assert number(losses[0]) < 1e4
    assert number(losses[-1]) < 0.6 * number(losses[0])


def test_dynamics_may_be_anything_that_moves_a_state(series):
    class Straight(nn.Module):
        def __init__(self):
            super().__init__()
            self.speed = nn.Parameter(torch.ones(3))

        def solve(self, z0, times, args=None):
            return SimpleNamespace(ys=z0 + self.speed * (times - times[0])[:, None, None].to(z0))

    z0 = torch.randn(3, 3)
    model = Latent(Certain(z0), Straight(), nn.Linear(3, 2), likelihoods.Gaussian(0.5))
    expected = z0[series.rows] + series.times[:, None].float()
    assert torch.allclose(model.predict(series, series, samples=0).states[0], expected, atol=1e-6)
    model.loss(series).backward()
    assert bool((model.dynamics.speed.grad != 0).all())
    counting = Latent(Certain(z0), Straight(), nn.Linear(3, 2), likelihoods.Poisson((0.0, 5.0)))
    with pytest.raises(TypeError, match="`dynamics` is a NeuralODE or a field"):
        counting.loss(series)


def test_the_usual_likelihood_is_one(series):
    """Normal noise whose size is learned, whichever of the constructors is asked."""
    known = GOKU(2, fields.Pendulum(), nn.Linear(2, 2), unknown=["length"], size=2)
    for model in (small(), Latent(RNNEncoder(2, 4), fields.MLP(4), nn.Linear(4, 2)), known):
        assert model.likelihood.log_scale.requires_grad
        assert model.likelihood.scale.tolist() == pytest.approx([0.1])
        model.loss(series).backward()
        assert bool((model.likelihood.log_scale.grad != 0).all())


def test_on_clocks_of_their_own_series_do_not_depend_on_their_batch(series):
    model = small(clock="per-sample").double()
    alone = series[1:2]
    z0 = torch.randn(1, len(series.lengths), 3, dtype=torch.float64)
    together = model.states(z0, series)[0, series.rows == 1]
    assert torch.allclose(together, model.states(z0[:, 1:2], alone)[0], atol=1e-13)


def test_a_forward_pass_is_one_trajectory_or_a_mean_of_some(series):
    model, times = small(), torch.linspace(0, 1, 4)
    assert torch.equal(model(series, times, 0), model.predict(series, times, 0).mean)
    assert not torch.equal(model(series, times), model(series, times))


def test_times_receive_no_gradient(series):
    model = small()
    for t in (torch.linspace(0, 1, 4, requires_grad=True), torch.ones(1, dtype=torch.float64, requires_grad=True)):
        with pytest.raises(ValueError, match=r"Times of a latent model receive no gradient.*t.detach\(\)"):
            model.predict(series, t)
    prediction = model.predict(series, t.detach(), 1)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    model.dynamics.solve(prediction.z0[0], times).ys.sum().backward()  # as the message says
    assert bool((times.grad != 0).all())


def test_noise_has_one_size_for_each_channel(series):
    model = small(likelihood=likelihoods.Gaussian([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="built with 3 and the series have 2 channels"):
        model.predict(series, [1.0], noise=True)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Latent(None, fields.MLP(2), nn.Linear(2, 1)), TypeError, "`encoder` is a module or a function"),
        (lambda: Latent(RNNEncoder(1, 2), 3, nn.Linear(2, 1)), TypeError, "`dynamics` is a module or a function"),
        (lambda: small(likelihood="gaussian"), TypeError, "`likelihood` is an object with `log_prob`.* but 'gaussian'"),
        (lambda: small(likelihood=likelihoods.Bernoulli), TypeError, "`likelihood` is an object.* but Bernoulli came"),
        (lambda: Latent(len, fields.MLP(2), len, 3), TypeError, "`likelihood` is an object.* but 3 came"),
        (lambda: small(encoder=RNNEncoder(2, 5)), ValueError, "the encoder's draws, 5, but 3 came. Use latent=5"),
        (lambda: small(annealing=0.5), TypeError, "`annealing` is a function of the step, but 0.5 came"),
        (lambda: annealing.Constant(NAN), ValueError, "`weight` is a weight, 0 or more, but nan came"),
        (lambda: annealing.Linear(5, start=-1.0), ValueError, "`start` is a weight, 0 or more, but -1.0 came"),
        (lambda: annealing.Exponential(end=math.inf), ValueError, "`end` is a weight, 0 or more, but inf came"),
        (lambda: likelihoods.Gaussian(math.inf), ValueError, "`scale` is a positive number"),
        (lambda: likelihoods.Gaussian([0.1, 0.2], channels=3), ValueError, "`scale` holds 2 numbers for channels=3"),
        (lambda: small(prior="normal"), TypeError, "`prior` is a distribution, .* but 'normal' came"),
        (lambda: small(t0=NAN), ValueError, "`t0` is a time, but nan came"),
        (
            lambda: likelihoods.Both(likelihoods.Poisson(), likelihoods.Gaussian()),
            TypeError,
            r"Both\(values, events\) takes .* but Poisson and Gaussian came",
        ),
        (lambda: likelihoods.Both("a", "b"), TypeError, "`likelihood` is an object with `log_prob`"),
        (lambda: small(encoder="lstm"), ValueError, '`encoder` is "rnn", "ode-rnn", "attention" or a module'),
    ],
)
def test_wrong_parts_are_refused_in_words(build, error, message):
    with pytest.raises(error, match=message):
        build()
