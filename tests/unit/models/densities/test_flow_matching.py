"""Flow matching: the closed form that it has to learn, what the loss sees, and what samples and densities are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pathline
from pathline import FlowMatching, fields
from pathline.models import ConditionalOT, OptimalTransport, Rectified, Sinkhorn, load, save
from pathline.models.densities.flow_matching import Guided

MEAN, SPREAD = torch.tensor([1.0, -0.5]), torch.tensor([0.5, 2.0])


def gaussian_velocity(t: Tensor, x: Tensor) -> Tensor:
    r"""The marginal velocity of straight paths from $N(0, I)$ to $N(m, \mathrm{diag}(s^2))$.

    $E[x_1 - x_0 | x_t = x] = m + (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2) (x - t m)$
    """
    slope = (t * SPREAD**2 - (1 - t)) / (t**2 * SPREAD**2 + (1 - t) ** 2)
    return MEAN + slope * (x - t * MEAN)


class Gaussian(nn.Module):
    """The closed form as a field."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return gaussian_velocity(t, y)


class Told(nn.Module):
    """A field whose rate is its context, and which keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        self.seen.append((t, y, args))
        return self.weight * args.expand_as(y)


def test_gaussian_to_gaussian_learns_the_closed_form() -> None:
    model = FlowMatching(fields.MLP(2, (64, 64), activation="silu", time=True), 2)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    for _ in range(800):
        loss = model.loss(MEAN + SPREAD * torch.randn(4096, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        t, x, _ = model.draw(MEAN + SPREAD * torch.randn(8192, 2))
        exact = gaussian_velocity(t, x)
        error = (model.field(t, x) - exact).norm() / exact.norm()
    assert float(error) <= 0.05


def test_loss_of_the_closed_form_is_the_conditional_variance_and_less_than_that_of_others() -> None:
    model = FlowMatching(Gaussian(), 2)
    # Var[x1 - x0 | x_t] = s^2 / (t^2 s^2 + (1 - t)^2), averaged over t and both components
    t = torch.linspace(0, 1, 20001, dtype=torch.float64).unsqueeze(1)
    variance = SPREAD.double() ** 2 / (t**2 * SPREAD.double() ** 2 + (1 - t) ** 2)
    expected = float(torch.trapezoid(variance, t, dim=0).mean())
    x = MEAN + SPREAD * torch.randn(100_000, 2)
    with torch.no_grad():
        assert float(model.loss(x)) == pytest.approx(expected, rel=0.02)

        class Worse(Gaussian):
            def forward(self, t: Tensor, y: Tensor) -> Tensor:
                return super().forward(t, y) + 0.3

        assert float(FlowMatching(Worse(), 2).loss(x)) == pytest.approx(expected + 0.09, rel=0.02)


@pytest.mark.parametrize(
    "options", [{}, {"method": "heun", "dt": 0.02}, {"method": "rk4", "dt": 0.1}, {"method": "tsit5", "rtol": 1e-3}]
)
def test_samples_of_the_closed_form_are_the_data(options) -> None:
    model = FlowMatching(Gaussian(), 2)
    x = model.sample(20_000, **options)
    assert x.shape == (20_000, 2)
    assert not x.requires_grad
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.05)
    torch.testing.assert_close(x.std(0), SPREAD, rtol=0.03, atol=0)


def test_density_is_that_of_the_data() -> None:
    model = FlowMatching(Gaussian(), 2, rtol=1e-6, atol=1e-6)
    x = torch.tensor([[1.0, -0.5], [0.0, 1.0], [2.0, -3.0]])
    exact = torch.distributions.Independent(torch.distributions.Normal(MEAN, SPREAD), 1).log_prob(x)
    torch.testing.assert_close(model().log_prob(x), exact, rtol=1e-4, atol=1e-4)
    there = model.flow.solve_from_base(model.flow.solve_to_base(x).end).end
    torch.testing.assert_close(there, x, rtol=0, atol=1e-5)


def test_each_event_has_its_own_time_within_the_span_of_the_path() -> None:
    told = Told()
    model = FlowMatching(told, (2, 3), path="schroedinger-bridge")
    model.loss((torch.randn(64, 2, 3), torch.ones(64, 1, 1)))
    t, _, _ = told.seen[0]
    assert t.shape == (64, 1, 1)
    assert len(t.unique()) > 60
    assert float(t.min()) >= 1e-3
    assert float(t.max()) <= 1 - 1e-3


def test_loss_regresses_on_the_velocity_of_the_path() -> None:
    """With the base given, nothing but the time is drawn, and the velocity of a straight path has no time in it."""
    x0, x1 = torch.randn(16, 2), torch.randn(16, 2)
    still = FlowMatching(Told(), 2)
    batch = {"x": x1, "x0": x0, "context": torch.zeros(16, 1)}
    torch.testing.assert_close(still.loss(batch), (x1 - x0).square().mean())
    told = FlowMatching(Told(), 2)
    torch.testing.assert_close(told.loss(batch | {"context": x1 - x0}), torch.zeros(()))
    narrow = FlowMatching(Told(), 2, path=ConditionalOT(0.25))
    torch.testing.assert_close(narrow.loss(batch | {"context": x1 - 0.75 * x0}), torch.zeros(()))


def test_coupling_shortens_the_paths_and_shuffling_takes_that_away() -> None:
    x1 = torch.randn(256, 2)
    independent = FlowMatching(fields.MLP(2, 8, time=True), 2)
    optimal = FlowMatching(fields.MLP(2, 8, time=True), 2, coupling="ot")
    lengths = [float(model.draw(x1)[2].square().mean()) for model in (independent, optimal)]
    assert lengths[1] < 0.1 * lengths[0]
    x0 = torch.randn(256, 2)
    paired, _ = OptimalTransport()(x0, x1)
    shuffled = independent.draw(x1, paired[torch.randperm(256)])[2]
    assert float(shuffled.square().mean()) > 0.7 * lengths[0]


@pytest.mark.parametrize("coupling", [OptimalTransport(), Sinkhorn()], ids=str)
def test_pairs_stay_within_a_context(coupling) -> None:
    """Otherwise the events with context 1, far to the right, would get the right half of the base for themselves."""
    context = (torch.arange(400) % 2).float().unsqueeze(1)
    x1 = torch.randn(400, 1) + 10 * context
    model = FlowMatching(fields.MLP(1, 8, time=True), 1, coupling=coupling)
    x0 = torch.randn(400, 1)
    t, x, _ = model.draw(x1, x0, context)
    starts = (x - t * x1) / (1 - t)
    for value in (0.0, 1.0):
        rows = (context == value).flatten()
        assert abs(float(starts[rows].mean() - x0[rows].mean())) < 0.1
    t, x, _ = model.draw(x1, x0)
    starts = (x - t * x1) / (1 - t)
    assert float(starts[context == 1.0].mean()) > 0.5


def test_contexts_that_all_differ_leave_the_pairs_alone() -> None:
    model = FlowMatching(fields.MLP(1, 8, time=True), 1, coupling="ot")
    x0, x1 = torch.randn(20, 1), torch.randn(20, 1)
    _, _, u = model.draw(x1, x0, torch.arange(20.0).unsqueeze(1))
    assert torch.equal(u, x1 - x0)


def test_context_is_dropped_while_training_alone() -> None:
    told = Told()
    model = FlowMatching(told, 2, drop_context=0.25, null=-1.0)
    context = torch.rand(4000, 1)
    model.loss((torch.randn(4000, 2), context))
    seen = told.seen[-1][2]
    dropped = (seen == -1.0).flatten()
    assert float(dropped.double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(seen[~dropped], context[~dropped])
    model.eval().loss((torch.randn(4000, 2), context))
    assert torch.equal(told.seen[-1][2], context)


def test_whole_numbers_have_a_null_of_their_own() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 2)

        def forward(self, t: Tensor, y: Tensor, args: Tensor) -> Tensor:
            return self.table(args)

    model = FlowMatching(Embedded(), 2, drop_context=0.5, null=3)
    labels = torch.arange(3).repeat(20)
    model.loss((torch.randn(60, 2), labels)).backward()
    assert bool((model.field.table.weight.grad.abs().sum(1) > 0).all())
    assert model.sample(4, labels[:2], guidance=2.0, method="euler", dt=0.5).shape == (4, 2, 2)


def test_guidance_weighs_the_context_against_none() -> None:
    context = torch.tensor([[1.0], [2.0], [4.0]])
    model = FlowMatching(Told(), 2, null=0.5, drop_context=0.1)
    for weight in (0.0, 1.0, 2.5):
        torch.manual_seed(1)
        x = model.sample((), context, guidance=weight, method="euler", dt=0.25)
        torch.manual_seed(1)
        start = torch.randn(3, 2)
        torch.testing.assert_close(x, start + 0.5 + weight * (context - 0.5))
        assert model.evaluations == 4


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_guided_fields_take_one_time_a_sample(clock) -> None:
    context = torch.tensor([[1.0], [2.0], [4.0]])
    model = FlowMatching(Told(), 2, clock=clock, drop_context=0.1)
    torch.manual_seed(1)
    x = model.sample(2, context, guidance=2.0)
    torch.manual_seed(1)
    torch.testing.assert_close(x, torch.randn(2, 3, 2) + 2 * context)
    torch.testing.assert_close(
        Guided(model.field, 2.0)(torch.rand(3, 1), torch.zeros(3, 2), context), (2 * context).expand(3, 2)
    )


def test_samples_have_the_shapes_of_distributions() -> None:
    model = FlowMatching(fields.UNet(1, (8,), context=3, patch=2, embedding=4), (1, 4, 4), method="euler", dt=0.5)
    context = torch.eye(3)[:2]
    assert model.sample((), context).shape == (2, 1, 4, 4)
    assert model.sample((5, 3), context).shape == (5, 3, 2, 1, 4, 4)
    assert model.sample(0, context).shape == (0, 2, 1, 4, 4)
    assert model(context).sample((5,)).shape == (5, 2, 1, 4, 4)
    with torch.no_grad():
        assert model(context).log_prob(torch.zeros(2, 1, 4, 4)).shape == (2,)
    assert model.event_shape == (1, 4, 4)


def test_a_base_of_ones_own() -> None:
    base = torch.distributions.Independent(torch.distributions.Uniform(torch.full((2,), 5.0), torch.full((2,), 6.0)), 1)
    model = FlowMatching(fields.MLP(2, 8, time=True, output_scale=0.0), 2, base=base)
    x = model.sample(100)
    assert float(x.min()) >= 5.0
    assert float(x.max()) <= 6.0
    torch.testing.assert_close(model.draw(torch.zeros(500, 2))[2].mean(), torch.tensor(-5.5), rtol=0, atol=0.1)


def test_types_follow_the_data() -> None:
    model = FlowMatching(fields.MLP(2, 8, time=True).double(), 2, path="rectified")
    assert model.loss(torch.randn(4, 2, dtype=torch.float64)).dtype == torch.float64
    assert model.sample(3).dtype == torch.float64


def test_it_is_saved_and_loaded(tmp_path) -> None:
    field = fields.MLP(2, 8, time=True)
    model = FlowMatching(field, 2, path=Rectified(0.1), coupling="ot", method="heun", dt=0.1, drop_context=0.2)
    again = load(save(model, tmp_path / "model"))
    assert isinstance(again, FlowMatching)
    assert (again.path, again.coupling, again.dt, again.drop_context) == (Rectified(0.1), "ot", 0.1, 0.2)
    torch.manual_seed(3)
    expected = model.sample(4)
    torch.manual_seed(3)
    assert torch.equal(again.sample(4), expected)


def test_parameters_are_counted_once() -> None:
    field = fields.MLP(2, 8, time=True)
    model = FlowMatching(field, 2)
    assert model.field is field
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in field.parameters())
    assert model.loss([torch.zeros(3, 2)]).isfinite()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, 4), r"`x` is \(batch, 2\), but its shape is \(3, 4\)"),
        (torch.zeros(2), r"`x` is \(batch, 2\), but its shape is \(2,\)"),
        (torch.tensor([[0.0, 0.0], [math.nan, 0.0], [0.0, math.inf]]), r"of its 3 rows rows 1, 2 hold NaN or infinite"),
        (
            (torch.zeros(3, 2), torch.zeros(4, 1)),
            r"`context` has one row for each of the 3 samples, but shape \(4, 1\) came",
        ),
        ({"x": torch.zeros(3, 2), "x0": torch.zeros(4, 2)}, r"`x0`.*\(4, 2\)"),
        ({"x": torch.zeros(3, 2), "x0": torch.zeros(3, 3)}, r"`x0` is \(batch, 2\), but its shape is \(3, 3\)"),
        ({"x": torch.zeros(3, 2), "x0": torch.full((3, 2), math.nan)}, "`x0` is finite.*rows 0, 1, 2 hold NaN"),
        ({"x": torch.zeros(3, 2), "x0": torch.zeros(3, 2).double()}, "`x0`.*torch.float32.*torch.float64"),
        ((torch.zeros(3, 2), torch.tensor([[0.0], [math.inf], [0.0]])), "`context` is finite.*row 1 holds NaN"),
        ({"x": torch.zeros(3, 2), "contxt": torch.zeros(3, 1)}, """'contxt' came. Did you mean "context".*"""),
        (torch.zeros(0, 2), "at least one sample"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch, message) -> None:
    with pytest.raises(ValueError, match=message):
        FlowMatching(Told(), 2).loss(batch)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, 2).double(), r"`x` is in torch.float64.*model.to\(torch.float64\)"),
        (torch.zeros(3, 2).long(), "floating point numbers"),
        ([[0.0, 1.0]], "`x` is a tensor"),
        ({"x": torch.zeros(3, 2), "x0": 3}, "`x0` is a tensor"),
        ({"data": torch.zeros(3, 2)}, "mapping with 'data'"),
    ],
)
def test_batches_of_another_kind_are_refused(batch, message) -> None:
    with pytest.raises(TypeError, match=message):
        FlowMatching(Told(), 2).loss(batch)


def test_a_base_in_another_dtype_is_cast() -> None:
    base = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    model = FlowMatching(fields.MLP(2, 8, time=True), 2, base=base)
    x = model.sample(5)
    assert x.dtype == model.loss(x).dtype == model().log_prob(x).dtype == torch.float32


class Blows(nn.Module):
    """A rate that ends in finite time where the context is one."""

    def forward(self, t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        return args * 4 * (1 + y.square())


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_draw_that_fails_is_named(clock) -> None:
    model = FlowMatching(Blows(), 1, clock=clock, max_steps=400)
    context = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    with pytest.raises(pathline.SolveError, match="flow of 4 samples failed: rows 1, 3 fail, and nothing is made up"):
        model.sample((), context)
    assert model.sample((), context[::2]).shape == (2, 1)


def test_a_context_that_is_never_dropped_or_never_comes() -> None:
    context = torch.ones(3, 1)
    with pytest.warns(UserWarning, match=r"`guidance` = 2 asks .* `drop_context` = 0"):
        FlowMatching(Told(), 2).sample((), context, guidance=2.0, method="euler", dt=0.5)
    with pytest.raises(ValueError, match="`drop_context` is 0.1, but the batch has no context"):
        FlowMatching(Told(), 2, drop_context=0.1).loss(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`drop_context` is 0.1, but the field takes no context"):
        FlowMatching(Gaussian(), 2, drop_context=0.1)


def test_batch_normalisation_in_the_field_warns() -> None:
    with pytest.warns(UserWarning, match="holds BatchNorm1d.*GroupNorm"):
        FlowMatching(fields.with_time(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))), 2)


def test_half_precision_warns_of_a_tolerance_it_cannot_keep() -> None:
    model = FlowMatching(fields.MLP(2, 8, time=True).bfloat16(), 2)
    with pytest.warns(UserWarning, match="bfloat16 resolves 0.008, and the tolerance is 1e-05"):
        model.sample(3)
    assert model.sample(3, method="euler", dt=0.5).dtype == torch.bfloat16


def test_what_else_is_refused() -> None:
    plain = FlowMatching(fields.MLP(2, 8, time=True), 2)
    with pytest.raises(TypeError, match="A context came, but the field does not take one"):
        FlowMatching(Gaussian(), 2).loss((torch.zeros(3, 2), torch.zeros(3, 1)))
    with pytest.raises(ValueError, match="`guidance` weighs a context against none"):
        plain.sample(3, guidance=2.0)
    with pytest.raises(ValueError, match="`drop_context` is a share"):
        FlowMatching(Told(), 2, drop_context=1.0)
    with pytest.raises(ValueError, match="`guidance` is a finite number"):
        Guided(Told(), math.inf)
    with pytest.raises(ValueError, match="No path is called"):
        FlowMatching(Told(), 2, path="straight")
    with pytest.raises(ValueError, match=r"whole numbers \(torch.int64\).*`null=10`"):
        FlowMatching(Told(), 2, drop_context=0.5).loss((torch.zeros(3, 2), torch.arange(3).unsqueeze(1)))
    with pytest.raises(ValueError, match=r"The field returned shape \(3, 1\) for events of shape \(3, 2\)"):
        FlowMatching(nn.Linear(2, 1), 2).loss(torch.zeros(3, 2))
    with pytest.raises(pathline.SolveError):
        FlowMatching(Told(), 2, max_steps=1, rtol=1e-9, atol=1e-9).sample(2, torch.tensor([[1e6], [1.0]]))


@pytest.mark.parametrize("shape", [-1, (2, -3), 2.5])
def test_a_number_of_draws_that_is_none_is_refused(shape):
    with pytest.raises(ValueError, match="sample_shape"):
        FlowMatching(fields.MLP(2, 4, time=True), 2).sample(shape)
