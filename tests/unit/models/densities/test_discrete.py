"""The flows in layers: densities, inverses, and the constraint that makes a planar layer invertible."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pathline.models import LayeredFlow, PlanarFlow, RealNVP, load, save
from pathline.models.densities.discrete import PlanarLayer, constrained

FLOWS = {
    "planar": lambda: PlanarFlow(2, depth=6),
    "planar-5": lambda: PlanarFlow(5, depth=4),
    "realnvp": lambda: RealNVP(2, layers=3, hidden=(8,), activation="tanh", scale=1.0),
    "realnvp-5": lambda: RealNVP(5, layers=5, hidden=(8,), activation="tanh", scale=1.0),
}


@pytest.fixture(params=FLOWS)
def flow(request):
    torch.manual_seed(0)
    flow = FLOWS[request.param]().double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


def to_base(flow, x):
    for transform in reversed(flow.transforms()):
        x = transform.inv(x)
    return x


def test_a_sample_goes_to_the_base_and_back(flow):
    x = flow().sample((16,))
    z = to_base(flow, x)
    back = z
    for transform in flow.transforms():
        back = transform(back)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)


def test_the_log_density_has_the_determinant_of_autograd(flow):
    x = flow().sample((9,))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: to_base(flow, v)))(x)
    expected = Normal(0.0, 1.0).log_prob(to_base(flow, x)).sum(-1) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(flow().log_prob(x), expected)


@pytest.mark.parametrize("name", ["planar", "realnvp"])
def test_the_density_integrates_to_one(name):
    torch.manual_seed(1)
    flow = FLOWS[name]().double()
    line = torch.linspace(-12, 12, 401, dtype=torch.float64)
    with torch.no_grad():
        total = flow().log_prob(torch.cartesian_prod(line, line)).exp().sum() * (line[1] - line[0]) ** 2
    assert float(total) == pytest.approx(1.0, abs=1e-4)


def test_samples_carry_gradients_that_finite_differences_confirm(flow):
    parameter = next(flow.parameters())

    def total():
        torch.manual_seed(5)
        return flow().rsample((7,)).square().sum()

    (gradient,) = torch.autograd.grad(total(), parameter)
    direction, step = torch.randn_like(parameter), 1e-6
    with torch.no_grad():
        parameter.add_(step * direction)
        above = total()
        parameter.sub_(2 * step * direction)
        below = total()
    assert float((gradient * direction).sum()) == pytest.approx(float((above - below) / (2 * step)), rel=1e-5)


def test_the_loss_is_the_mean_over_a_batch_in_any_form(flow):
    x = flow().sample((12,))
    expected = -flow().log_prob(x).mean()
    for batch in (x, (x,), {"x": x}):
        torch.testing.assert_close(flow.loss(batch), expected)
    with pytest.raises(ValueError, match=rf"`x` is \(batch, {flow.size}\), but its shape is \(3, 7\)"):
        flow.loss(torch.zeros(3, 7))


def test_training_finds_a_shifted_gaussian(flow):
    torch.manual_seed(2)
    x = 0.5 * torch.randn(512, flow.size, dtype=torch.float64) + 1.0
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    first = float(flow.loss(x).detach())
    for _ in range(60):
        optimizer.zero_grad()
        flow.loss(x).backward()
        optimizer.step()
    entropy = -float(Normal(1.0, 0.5).log_prob(x).sum(1).mean())
    assert float(flow.loss(x).detach()) - entropy < 0.5 * (first - entropy)


def test_any_u_becomes_invertible():
    torch.manual_seed(3)
    u, w = 5 * torch.randn(1000, 3, dtype=torch.float64), torch.randn(1000, 3, dtype=torch.float64)
    assert bool(((u * w).sum(1) < -1).any())
    changed = constrained(u, w)
    assert bool(((changed * w).sum(1) > -1).all())
    # Only the component along w is changed.
    across = u - (u * w).sum(1, keepdim=True) * w / w.square().sum(1, keepdim=True)
    kept = changed - (changed * w).sum(1, keepdim=True) * w / w.square().sum(1, keepdim=True)
    torch.testing.assert_close(kept, across)


def test_without_the_constraint_a_layer_folds_the_plane():
    """Three points with one image: what the constraint is there to prevent."""
    w, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    line = torch.stack([torch.linspace(-3, 3, 601, dtype=torch.float64), torch.zeros(601, dtype=torch.float64)], 1)
    folded = PlanarLayer(-2.0 * w, w, b)(line)[:, 0]
    assert bool((folded.diff() < 0).any())
    assert bool((PlanarLayer(constrained(-2.0 * w, w), w, b)(line)[:, 0].diff() > 0).all())


def test_a_realnvp_starts_as_the_identity():
    x = torch.randn(6, 4)
    torch.testing.assert_close(RealNVP(4)().log_prob(x), Normal(0.0, 1.0).log_prob(x).sum(1))


def test_every_component_moves_within_four_layers():
    torch.manual_seed(4)
    flow = RealNVP(6, layers=4, hidden=(8,))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    jacobian = torch.func.jacrev(lambda x: to_base(flow, x))(torch.randn(6))
    assert bool((jacobian.abs() > 0).all())


def test_flows_are_saved_and_loaded(flow, tmp_path):
    x = flow().sample((5,))
    again = load(save(flow, tmp_path))
    torch.testing.assert_close(again().log_prob(x), flow().log_prob(x))


def test_what_cannot_be_built_says_so():
    with pytest.raises(ValueError, match="`size` is the number of components of a sample, at least 1; 0 came"):
        PlanarFlow(0)
    with pytest.raises(ValueError, match="`depth` is the number of layers, at least 1; 0 came"):
        PlanarFlow(2, depth=0)
    with pytest.raises(ValueError, match="A coupling needs two components or more"):
        RealNVP(1)
    for scale in (-1.0, 0.0, float("inf"), True):
        with pytest.raises(ValueError, match=f"`scale` is .* a positive number, but {scale} came"):
            RealNVP(2, scale=scale)


def test_a_flow_of_ones_own_is_a_list_of_transforms():
    class Scaled(LayeredFlow):
        def __init__(self):
            super().__init__(2)
            self.log_scale = torch.nn.Parameter(torch.zeros(()))

        def transforms(self):
            return [torch.distributions.ExpTransform()]

    x = torch.tensor([[1.0, 2.0]])
    expected = torch.distributions.LogNormal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(Scaled()().log_prob(x), expected)


NAN = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [0.0, float("inf")]])
REFUSED = {
    "NaN rows": (lambda flow: flow().log_prob(NAN), ValueError, "of its 3 rows rows 1, 2 hold NaN"),
    "NaN in training": (lambda flow: flow.loss(NAN), ValueError, "rows 1, 2 hold NaN"),
    "another event": (lambda flow: flow().log_prob(torch.zeros(4, 3)), ValueError, r"\(2,\).*\(4, 3\)"),
    "an event too flat": (lambda flow: flow.loss(torch.zeros(2)), ValueError, r"\(batch, 2\)"),
    "no tensor": (lambda flow: flow().log_prob([1.0, 2.0]), TypeError, "list"),
    "whole numbers": (lambda flow: flow().log_prob(torch.zeros(3, 2).long()), TypeError, "float"),
    "another dtype": (lambda flow: flow().log_prob(torch.zeros(3, 2).double()), TypeError, r"model.to\(torch.float64"),
    "a context": (lambda flow: flow.loss((torch.zeros(3, 2), torch.zeros(3, 1))), TypeError, "takes none"),
    "an unknown key": (lambda flow: flow.loss({"x": NAN, "contxt": NAN}), ValueError, 'Did you mean "context"'),
    "no rows": (lambda flow: flow.loss(torch.zeros(0, 2)), ValueError, "at least one"),
    "minus one": (lambda flow: flow().sample(-1), ValueError, "-1"),
    "no base": (lambda flow: type(flow)(2, base=3), TypeError, "`base`.*int"),
    "a base of numbers": (lambda flow: type(flow)(2, base=Normal(torch.zeros(2), 1.0)), ValueError, "Independent"),
    "a base made wrong": (lambda flow: type(flow)(2, base=lambda: Normal(0.0, 1.0))().sample(), ValueError, "`base`"),
}


@pytest.mark.parametrize("kind", [RealNVP, PlanarFlow])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_words_as_by_a_cnf(case, kind):
    call, error, said = REFUSED[case]
    with pytest.raises(error, match=said):
        call(kind(2))


@pytest.mark.parametrize("kind", [RealNVP, PlanarFlow])
def test_numbers_of_draws_and_no_draws(kind):
    density = kind(2)()
    assert density.sample(3).shape == density.rsample(3).shape == (3, 2)
    assert density.expand((4,)).sample((5,)).shape == (5, 4, 2)
    assert density.expand((4,)).log_prob(torch.zeros(2)).shape == (4,)
    assert density.sample(0).shape == (0, 2)
    assert density.log_prob(torch.zeros(0, 2)).shape == (0,)
    assert density.log_prob(torch.zeros(2)).shape == ()


@pytest.mark.parametrize("kind", [RealNVP, PlanarFlow])
def test_a_base_in_another_dtype(kind):
    base = MultivariateNormal(torch.ones(2).double(), torch.eye(2).double())
    flow, same = kind(2, base=base), kind(2, base=MultivariateNormal(torch.ones(2), torch.eye(2)))
    same.load_state_dict(flow.state_dict())
    x = flow().sample(5)
    assert x.dtype == flow().log_prob(x).dtype == torch.float32
    torch.testing.assert_close(flow().log_prob(x), same().log_prob(x))


def test_a_row_too_far_out_is_named_and_rows_may_be_mapped(flow):
    x = torch.randn(4, flow.size, dtype=next(flow.parameters()).dtype)
    torch.testing.assert_close(torch.func.vmap(flow().log_prob)(x), flow().log_prob(x))
    flow.float()
    far = x.float()
    far[2] = 1e20
    with pytest.raises(ValueError, match="torch.float32 where row 2 of 4 ends"):
        flow().log_prob(far)
