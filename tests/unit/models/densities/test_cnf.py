"""Continuous normalising flows: identities with exact answers, gradients, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, TransformedDistribution, Uniform

import pathline
from pathline import CNF, fields
from pathline.models import Logit, Standardize
from pathline.operators import Exact, Hutchinson, HutchPlusPlus

A = torch.tensor([[0.3, 1.0], [-0.7, 0.2]], dtype=torch.float64)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def linear(t: Tensor, y: Tensor) -> Tensor:
    return y @ A.T


def trained_like(seed: int = 0, size: int = 2, **options) -> CNF:
    """A flow that bends, as a trained one does."""
    torch.manual_seed(seed)
    return CNF(fields.ConcatSquash(size, (16, 16)).double(), size, **options)


def points(n: int = 7, size: int = 2) -> Tensor:
    return torch.randn(n, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


# --- identities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.5, 3.0), (1.0, -1.0)])
@pytest.mark.parametrize("trace", ["exact", "hutch++"])
def test_a_linear_field_moves_the_density_by_its_trace(span, trace):
    model = CNF(linear, 2, t=span, trace=HutchPlusPlus(2) if trace == "hutch++" else trace, **TIGHT)
    x, change = points(), float(A.trace()) * (span[1] - span[0])
    back = model.solve_to_base(x)
    there = model.solve_from_base(back.end)
    assert (back.log_det + change).abs().max() < 1e-7
    assert (there.log_det - change).abs().max() < 1e-7
    assert (there.end - x).abs().max() < 1e-7
    assert torch.allclose(back.end, x @ torch.linalg.matrix_exp(-A * (span[1] - span[0])).T, atol=1e-7)


def test_the_density_of_a_linear_flow_is_the_gaussian_that_it_makes():
    model, matrix = CNF(linear, 2, **TIGHT), torch.linalg.matrix_exp(A)
    wanted = MultivariateNormal(torch.zeros(2, dtype=torch.float64), matrix @ matrix.T)
    x = points()
    torch.testing.assert_close(model().log_prob(x), wanted.log_prob(x), atol=1e-7, rtol=0)
    many = CNF(lambda t, y: y @ A.float().T, 2)().sample((20_000,))
    torch.testing.assert_close(torch.cov(many.T).double(), wanted.covariance_matrix, atol=0.08, rtol=0.05)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_there_and_back(clock):
    model = trained_like(clock=clock, rtol=1e-8, atol=1e-8)
    x = points()
    back = model.solve_to_base(x)
    there = model.solve_from_base(back.end)
    assert (there.end - x).abs().max() < 1e-6
    assert (there.log_det + back.log_det).abs().max() < 1e-5


@pytest.mark.parametrize("make", [lambda: fields.ConcatSquash(2, (16, 16)), lambda: fields.Planar(2, 8)])
def test_the_density_integrates_to_one(make):
    torch.manual_seed(0)
    model = CNF(make(), 2)
    x = torch.linspace(-9, 9, 120)
    grid = torch.cartesian_prod(x, x)
    with torch.no_grad():
        total = model().log_prob(grid).exp().sum() * (x[1] - x[0]).square()
    assert abs(float(total) - 1) < 0.01


def test_the_log_density_counts_where_the_state_rests():
    # y = 0 stays where it is while the divergence swings; steps that see the state alone would be wrong by 0.9.
    model = CNF(lambda t, y: torch.sin(40 * t) * y, 2)
    wanted = -2 * (1 - math.cos(40)) / 40
    assert (model.solve_to_base(torch.zeros(3, 2, dtype=torch.float64)).log_det - wanted).abs().max() < 1e-3


def test_hutchinson_agrees_with_the_exact_trace_in_the_mean():
    model = trained_like(trace="hutchinson", rtol=1e-7, atol=1e-7)
    x = points(1)
    with torch.no_grad():
        exact = model(trace="exact").log_prob(x)
        found = model().log_prob(x.expand(256, 2))
    error = found.std() / 16
    assert (found.mean() - exact).abs() < 3 * error
    assert error < 0.5


def test_noise_drawn_anew_at_every_evaluation_costs_evaluations():
    x, counts = points(4), {}
    for redraw in ("solve", "evaluation"):
        model = trained_like(trace=Hutchinson(redraw=redraw), rtol=1e-3, atol=1e-3)
        with torch.no_grad():
            model().log_prob(x)
        counts[redraw] = model.evaluations
    assert counts["evaluation"] >= 3 * counts["solve"]


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_gradients_against_differences(gradient, trace):
    settings = {"trace": trace, "gradient": gradient, "regularizers": {"kinetic": 0.1, "jacobian": 0.2}}
    model, x = trained_like(rtol=1e-9, atol=1e-9, **settings), points(3)

    def loss() -> Tensor:
        torch.manual_seed(7)
        return model.loss(x)

    loss().backward()
    for parameter in (model.field.layers[1].weight, model.field.gate.bias):
        kept, step = parameter.detach().clone(), 1e-5
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                parameter.view(-1)[3] = kept.view(-1)[3] + sign * step
                values.append(float(loss()))
            parameter.copy_(kept)
        assert parameter.grad.view(-1)[3].item() == pytest.approx(
            (values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-7
        )


def test_gradients_pass_through_log_prob_and_rsample():
    model, x = trained_like(rtol=1e-8, atol=1e-8), points(2)
    assert torch.autograd.gradcheck(lambda x: model().log_prob(x), x.requires_grad_(), atol=1e-4)
    assert model().rsample((3,)).requires_grad
    assert not model().sample((3,)).requires_grad


def test_a_learned_end():
    model = CNF(linear, 2, learn_end=True, **TIGHT)
    x = points()
    loss = model.loss(x)
    loss.backward()
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            model.log_stretch.fill_(sign * 1e-4)
            values.append(float(model.loss(x)))
    assert model.log_stretch.grad.item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3)
    assert model.times().tolist() == pytest.approx([0.0, math.exp(-1e-4)])


# --- regularisers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_regularizers_are_integrals_along_the_flow(clock):
    weights = {"kinetic": 0.5, "jacobian": 0.25}
    own = {"speed": (pathline.KineticEnergy(), 2.0), "bend": (pathline.JacobianNorm(probes=3), 0.0)}
    close = {"rtol": 1e-7, "atol": 1e-7}
    model, x = trained_like(regularizers=weights | own, clock=clock, **close), points(3)
    plain = trained_like(clock=clock, **TIGHT)
    costs = {"k": pathline.KineticEnergy()}
    kinetic = pathline.solve(plain.field, x, (1.0, 0.0), integrals=costs, method="dopri5", **TIGHT).integrals1["k"]
    found = model._flow(x, None, (1.0, 0.0), regularized=True)
    torch.testing.assert_close(found.costs["kinetic"], -kinetic, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.costs["speed"], -kinetic, rtol=1e-5, atol=1e-6)
    assert all(bool((cost > 0).all()) for cost in found.costs.values())
    added = sum(w * found.costs[name].mean() for name, w in weights.items()) + 2 * found.costs["speed"].mean()
    torch.testing.assert_close(model.loss(x), plain.loss(x) + added, rtol=1e-5, atol=1e-6)


def test_costs_move_no_step():
    x = points(64)
    with torch.no_grad():
        plain, costly = trained_like(), trained_like(regularizers={"kinetic": 1e6, "jacobian": 1e6})
        plain.loss(x)
        costly.loss(x)
    assert plain.evaluations == costly.evaluations


def test_the_end_jitters_in_training_alone():
    model, x = CNF(linear, 2, regularizers={"steer": 0.5}), points()
    assert len({float(model.loss(x)) for _ in range(3)}) == 3
    model.eval()
    assert float(model.loss(x)) == pytest.approx(float(-model().log_prob(x).mean()))


# --- bases, contexts, transforms, images -------------------------------------------------------------------------


class Learned(nn.Module):
    """A base with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self) -> Independent:
        return Independent(Normal(self.mean, torch.ones_like(self.mean)), 1)


def test_any_base():
    x, still = points(), lambda t, y: torch.zeros_like(y)
    base = MultivariateNormal(torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64) * 3)
    torch.testing.assert_close(CNF(still, 2, base=base)().log_prob(x), base.log_prob(x))
    model = CNF(still, 2, base=Learned())
    model.loss(x).backward()
    torch.testing.assert_close(model.base.mean.grad, -x.mean(0))
    stacked = CNF(linear, 2, base=CNF(linear, 2, **TIGHT), **TIGHT)  # a flow is a base as well
    torch.testing.assert_close(stacked().log_prob(x), CNF(linear, 2, t=(0.0, 2.0), **TIGHT)().log_prob(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_base_in_another_dtype(dtype):
    other = torch.float64 if dtype == torch.float32 else torch.float32
    torch.manual_seed(0)
    base = MultivariateNormal(torch.ones(2, dtype=other), 2 * torch.eye(2, dtype=other))
    model = CNF(fields.ConcatSquash(2, 8).to(dtype), 2, base=base)
    same = MultivariateNormal(torch.ones(2, dtype=dtype), 2 * torch.eye(2, dtype=dtype))
    x = model().sample((5,))
    assert x.dtype == model().rsample((2,)).dtype == model().log_prob(x).dtype == model.loss(x).dtype == dtype
    # One of the two densities of the base is in single precision, whichever way round.
    torch.testing.assert_close(model().log_prob(x), CNF(model.field, 2, base=same)().log_prob(x), rtol=1e-5, atol=1e-5)
    assert model.base_distribution().expand((3,)).sample().shape == (3, 2)


AUTOCAST = {
    "one layer": lambda: fields.ConcatSquash(2, (16,)),
    "two layers": lambda: fields.ConcatSquash(2, (16, 16)),
    "three layers": lambda: fields.MLP(2, (16, 16, 16), time=True),
    "perceptron": lambda: fields.MLP(2, 16, time=True),
    "planar": lambda: fields.Planar(2, 8),
}


@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_narrows_the_rate_and_not_the_log_density(name):
    torch.manual_seed(0)
    model, x = CNF(AUTOCAST[name](), 2, method="rk4", dt=0.1), points().float()
    wanted = model().log_prob(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = model().log_prob(x)
        model.loss(x).backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.1)
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_context_for_each_sample():
    torch.manual_seed(0)
    model = CNF(fields.ConcatSquash(2, (8,), context=1).double(), 2, **TIGHT)
    context, x = torch.tensor([[-1.0], [2.0]], dtype=torch.float64), points(2)
    density = model(context)
    assert (density.batch_shape, density.event_shape) == ((2,), (2,))
    alone = torch.stack([model(c).log_prob(x) for c in context], 1)  # (sample, context)
    torch.testing.assert_close(density.log_prob(x), alone.diagonal(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(density.log_prob(x.unsqueeze(1)), alone, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(density.expand((3, 2)).log_prob(x), alone.diagonal().expand(3, 2), rtol=1e-6, atol=1e-7)
    assert density.sample((4,)).shape == (4, 2, 2)
    mapping = model.loss({"x": x, "context": context})
    torch.testing.assert_close(mapping, model.loss((x, context)))
    torch.testing.assert_close(mapping, -density.log_prob(x).mean(), rtol=1e-6, atol=1e-7)


def test_it_composes_with_transforms():
    model = CNF(lambda t, y: y @ A.to(y).T, 2, **TIGHT)
    maps = [Logit(0.05).inv, Standardize(torch.tensor([0.1, -0.3]), torch.tensor([2.0, 0.5])).inv]
    density = TransformedDistribution(model(), maps)
    x = torch.tensor([[0.4, -0.2], [0.8, -0.1]], dtype=torch.float64)  # (u - mean) / std inside the unit interval
    y = Logit(0.05)(maps[1].inv(x))
    u = maps[1].inv(x)
    slope = (0.9 / ((0.05 + 0.9 * u) * (0.95 - 0.9 * u))).log().sum(1) - math.log(2.0) - math.log(0.5)
    torch.testing.assert_close(density.log_prob(x), model().log_prob(y) + slope)
    assert TransformedDistribution(CNF(lambda t, y: -y, 2)(), maps).sample((3,)).shape == (3, 2)


def test_images_are_events():
    net = nn.Conv2d(1, 1, 3, padding=1).double()
    model = CNF(lambda t, y: torch.tanh(net(y)), (1, 2, 3), **TIGHT)
    x = torch.randn(4, 1, 2, 3, dtype=torch.float64)
    flat = CNF(lambda t, y: torch.tanh(net(y.reshape(-1, 1, 2, 3))).flatten(1), 6, **TIGHT)
    torch.testing.assert_close(model().log_prob(x), flat().log_prob(x.flatten(1)))
    rows = CNF(lambda t, y: torch.tanh(net(y)) * (1 + 0 * t), (1, 2, 3), clock="per-sample", **TIGHT)
    torch.testing.assert_close(rows().log_prob(x), flat().log_prob(x.flatten(1)), rtol=1e-6, atol=1e-7)
    assert CNF(net, (1, 2, 3))().sample((2, 3)).shape == (2, 3, 1, 2, 3)


def test_a_sample_does_not_depend_on_its_companions():
    model, x = trained_like(clock="per-sample"), points(5)
    together = model().log_prob(x)
    alone = torch.cat([model().log_prob(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    model = CNF(fields.ConcatSquash(2, 8), 2).to(dtype)
    density = model()
    x = density.sample((5,))
    assert x.dtype == density.log_prob(x).dtype == model.loss(x).dtype == dtype


def test_fixed_steps_and_other_methods():
    x = points()
    wanted = CNF(linear, 2, **TIGHT)().log_prob(x)
    for method, options in {"rk4": {"dt": 0.02}, "tsit5": TIGHT, "kvaerno5": {"rtol": 1e-8, "atol": 1e-8}}.items():
        torch.testing.assert_close(CNF(linear, 2, method=method, **options)().log_prob(x), wanted, atol=1e-6, rtol=0)


def test_the_exact_trace_of_a_model_that_trains_with_noise():
    model, x = trained_like(trace="hutchinson"), points()
    torch.testing.assert_close(model(trace="exact").log_prob(x), trained_like()().log_prob(x))
    assert not torch.equal(model().log_prob(x), model().log_prob(x))


# --- edges and refusals ------------------------------------------------------------------------------------------


def test_no_samples_at_all():
    model = CNF(fields.ConcatSquash(2, 8, context=1), 2)
    density = model(torch.zeros(3, 1))
    assert density.sample((0,)).shape == (0, 3, 2)
    assert density.sample(0).shape == (0, 3, 2)
    assert density.log_prob(torch.zeros(0, 3, 2)).shape == (0, 3)
    assert density.sample(2).shape == (2, 3, 2)
    assert density.sample().shape == (3, 2)


def squash(**options) -> CNF:
    return CNF(fields.ConcatSquash(2, 4), 2, **options)


NORMAL = Normal(torch.zeros(2), 1.0)
NAN = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [0.0, math.inf]])
REFUSED = {
    "NaN rows": (lambda: squash()().log_prob(NAN), ValueError, r"of its 3 rows rows 1, 2 hold NaN"),
    "NaN in training": (lambda: squash().loss(NAN), ValueError, r"rows 1, 2 hold NaN"),
    "another event": (lambda: squash()().log_prob(torch.zeros(4, 3)), ValueError, r"\(2,\).*\(4, 3\)"),
    "an event too flat": (lambda: squash().loss(torch.zeros(2)), ValueError, r"\(batch, 2\)"),
    "no tensor": (lambda: squash()().log_prob([1.0, 2.0]), TypeError, "list"),
    "whole numbers": (lambda: squash()().log_prob(torch.zeros(3, 2, dtype=torch.int64)), TypeError, "float"),
    "another dtype": (lambda: squash()().log_prob(torch.zeros(3, 2).double()), TypeError, r"model.to\(torch.float64\)"),
    "a context nobody takes": (lambda: squash().loss((torch.zeros(3, 2), torch.zeros(3, 1))), TypeError, "without"),
    "a context, function": (
        lambda: CNF(linear, 2)(torch.zeros(3, 1)).log_prob(torch.zeros(3, 2)),
        TypeError,
        "does not take",
    ),
    "a base of another size": (
        lambda: squash(base=MultivariateNormal(torch.zeros(3), torch.eye(3))),
        ValueError,
        r"event shape \(3,\)",
    ),
    "a base of independent numbers": (lambda: squash(base=NORMAL), ValueError, r"Independent\(base, 1\)"),
    "a base made wrong": (lambda: squash(base=lambda: NORMAL)().sample(), ValueError, "Independent"),
    "no base": (lambda: squash(base=3), TypeError, "int"),
    "minus one": (lambda: squash()().sample(-1), ValueError, "-1"),
    "no shape": (lambda: squash()().sample((1.5,)), ValueError, "1.5"),
    "no rows": (lambda: squash().loss(torch.zeros(0, 2)), ValueError, "at least one"),
    "an unknown key": (
        lambda: squash().loss({"x": torch.zeros(3, 2), "contxt": torch.zeros(3, 1)}),
        ValueError,
        """'contxt' came. Did you mean "context"?""",
    ),
    "no batch": (lambda: squash().loss({"y": 1}), TypeError, "mapping"),
    "no field": (lambda: CNF(3, 2), TypeError, "int"),
    "no size": (lambda: CNF(linear, 0), ValueError, "event_shape"),
    "no span": (lambda: squash(t=(1.0, 1.0)), ValueError, "different"),
    "no trace": (lambda: squash(trace="huchinson"), ValueError, "hutchinson"),
    "no regularizer": (lambda: squash(regularizers={"kinetics": 1.0}), ValueError, 'mean "kinetic"'),
    "a negative weight": (lambda: squash(regularizers={"kinetic": -1.0}), ValueError, "0 or more"),
    "no mapping": (lambda: squash(regularizers=["kinetic"]), TypeError, "mapping"),
    "a taken name": (lambda: squash(regularizers={"kinetic": (abs, 1.0)}), ValueError, "another name"),
    "True is no size": (lambda: CNF(linear, True), ValueError, "event_shape.*True"),
    "no trace in a call": (lambda: squash()(trace="exakt"), ValueError, """'exakt' came. Did you mean "exact".*"""),
    "too much jitter": (lambda: squash(regularizers={"steer": 1.0}), ValueError, "span"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_words(case):
    call, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said):
        call()


@pytest.mark.parametrize("rows", [torch.zeros(4, 1), torch.tensor([[0.0], [math.nan], [0.0]])])
def test_a_context_that_does_not_fit(rows):
    model = CNF(fields.ConcatSquash(2, 4, context=1), 2)
    with pytest.raises(ValueError, match="context"):
        model.loss((torch.zeros(3, 2), rows))
    with pytest.raises(ValueError, match="context"):
        model(rows).log_prob(torch.zeros(3, 2))
    with pytest.raises(TypeError, match="receives none"):
        model().log_prob(torch.zeros(3, 2))


def test_a_row_too_far_out_for_its_base_is_named():
    model, x = squash(), torch.tensor([[0.0, 1.0], [1e20, 0.0]])
    for ask in (model().log_prob, model.loss):
        with pytest.raises(ValueError, match=r"torch.float32 where row 1 of 2 ends, at up to 1e\+20"):
            ask(x)
    assert bool(model.double()().log_prob(x.double()).isfinite().all())


def test_outside_of_its_support_a_base_has_no_density():
    base = Independent(Uniform(torch.zeros(2), torch.ones(2), validate_args=False), 1)
    model = CNF(lambda t, y: torch.zeros_like(y), 2, base=base)
    assert model().log_prob(torch.tensor([[0.5, 0.5], [2.0, 0.5]])).tolist() == [0.0, -math.inf]


@pytest.mark.parametrize("options", [TIGHT, {"method": "rk4", "dt": 0.1}])
def test_log_densities_under_vmap(options):
    model, x = trained_like(**options), points(6).reshape(2, 3, 2)
    flat = model().log_prob(x.reshape(6, 2)).reshape(2, 3)
    torch.testing.assert_close(torch.func.vmap(model().log_prob)(x), flat, rtol=1e-6, atol=1e-7)
    score = torch.func.vmap(torch.func.grad(lambda row: model().log_prob(row)))(x[0])
    y = x[0].clone().requires_grad_()
    model().log_prob(y).sum().backward()
    torch.testing.assert_close(score, y.grad, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="`x` is finite, but NaN"):
        torch.func.vmap(model().log_prob)(x.clone().fill_(math.nan))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_tolerance_below_the_resolution_warns(dtype):
    model = squash().to(dtype)
    x = torch.zeros(3, 2, dtype=dtype)
    with pytest.warns(UserWarning, match=r"resolves 0.00\d, and the tolerance is 1e-05.*model.float"):
        model().log_prob(x)
    model.rtol = model.atol = None  # the defaults of the dtype: no warning
    assert model().log_prob(x).dtype == dtype


def test_jitter_beyond_a_learned_end_is_named():
    model = squash(learn_end=True, regularizers={"steer": 0.5})
    with torch.no_grad():
        model.log_stretch.fill_(-1.0)
    with pytest.raises(ValueError, match=r"`regularizers\['steer'\]`, 0.5, .* `learn_end` has shortened that to 0.368"):
        model.loss(torch.zeros(3, 2))
    model.eval().loss(torch.zeros(3, 2))


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_failing_flow_names_its_rows_and_invents_nothing(clock):
    # Backwards from 1, y' = y^2 blows up where y <= -1.
    model = CNF(lambda t, y: y.square(), 1, max_steps=300, clock=clock)
    x = torch.tensor([[0.5], [-3.0], [0.1], [-2.0]])
    with pytest.raises(pathline.SolveError, match="rows 1, 3 fail") as caught:
        model().log_prob(x)
    assert caught.value.solution is not None
    good = model().log_prob(x[[0, 2]])
    y = x[[0, 2], 0]
    wanted = Normal(0.0, 1.0).log_prob(y / (1 + y)) - 2 * (1 + y).log()
    torch.testing.assert_close(good, wanted, atol=1e-4, rtol=0)


def test_a_batch_that_fails_together_alone():
    model = CNF(lambda t, y: y.square(), 1, max_steps=2)
    with pytest.raises(pathline.MaxStepsError, match="of 1 samples failed: row 0 fails"):
        model().log_prob(torch.tensor([[3.0]]))


def test_names():
    assert "ConcatSquash" in repr(squash()())
    assert "trace='exact'" in repr(squash())
    assert isinstance(pathline.operators.find_trace("exact"), Exact)
