from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pathline import fields
from pathline.models import NeuralODE
from pathline.train import trajectory_loss
from pathline.train.trajectory import STRATEGIES, Full, MultipleShooting

T = torch.linspace(0, 6, 13, dtype=torch.float64)
Y = torch.stack([T.cos(), T.sin()], 1)


class Turning(nn.Module):
    """dy/dt = w (-y2, y1): a circle when w is 1."""

    def __init__(self, w=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, t, y):
        return self.w * torch.stack([-y[..., 1], y[..., 0]], -1)


class Closed(nn.Module):
    """A model that is no neural ODE: anything with forward(y0, t) will do."""

    def __init__(self, w=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.calls = []

    def forward(self, y0, t):
        self.calls.append(len(t))
        angle = self.w * (t - t[0])
        turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).reshape(-1, 2, 2)
        return torch.einsum("tij,...j->t...i", turned, y0)


def ode(w=1.0):
    return NeuralODE(Turning(w), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strategy", ["full", "horizon", "multiple-shooting"])
def test_the_truth_has_no_loss(strategy):
    loss = trajectory_loss(Closed(), T, Y, strategy)
    assert float(loss().detach()) < 1e-20
    assert float(loss.error().detach()) < 1e-20


def test_full_is_the_mean_square_error():
    loss = trajectory_loss(ode(0.5), T, Y, "full")
    expected = (torch.stack([(0.5 * T).cos(), (0.5 * T).sin()], 1) - Y).square().mean()
    torch.testing.assert_close(loss(), expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(loss.error(), loss())


def test_a_free_start_is_a_parameter_and_a_kept_one_is_the_first_observation():
    free, kept = (Full(Closed(), T, Y, free_start=free) for free in (True, False))
    assert "first" in dict(free.named_parameters())
    assert {name for name, _ in kept.named_parameters()} == {"model.w"}
    assert torch.equal(free.start, kept.start)
    free().backward()
    assert free.first.grad is not None


def test_the_window_grows_only_when_it_is_fitted():
    model = Closed(3.0)
    loss = trajectory_loss(model, T, Y, "horizon", first=4, grow=3, bound=1e-6, patience=1000)
    for _ in range(3):
        loss()
    assert int(loss.window) == 4
    with torch.no_grad():
        model.w.fill_(1.0)
    windows = []
    for _ in range(5):
        loss()
        windows.append(int(loss.window))
    assert windows == [7, 10, 13, 13, 13]
    assert model.calls == [4, 4, 4, 4, 7, 10, 13, 13]


def test_the_bound_is_a_fraction_of_the_variance():
    bounds = [trajectory_loss(Closed(), T, scale * Y, "horizon", bound=0.1).bound for scale in (1.0, 10.0)]
    assert bounds[0] == pytest.approx(0.1 * float(Y.var(0, unbiased=False).mean()))
    assert bounds[1] == pytest.approx(100 * bounds[0])


def test_a_window_that_cannot_be_fitted_grows_by_patience():
    loss = trajectory_loss(Closed(3.0), T, Y, "horizon", first=4, bound=1e-9, patience=2)
    windows = []
    for _ in range(6):
        loss()
        windows.append(int(loss.window))
    assert windows == [4, 5, 5, 6, 6, 7]


def test_looking_at_the_loss_moves_nothing():
    for strategy, options in (("horizon", {"patience": 1}), ("multiple-shooting", {"growth": 2.0})):
        loss = trajectory_loss(Closed(3.0), T, Y, strategy, **options)
        before = copy.deepcopy(loss.state_dict())
        with torch.no_grad():
            loss()
        loss.eval()
        loss()
        assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())


def test_multiple_shooting_measures_misfit_and_jumps():
    loss = MultipleShooting(Closed(0.7), T, Y, segment=5, penalty=2.0)
    with torch.no_grad():
        loss.starts += 0.1 * torch.randn(3, 2, dtype=torch.float64)
    pieces = [Closed(0.7)(start, T[edge : edge + 6]) for start, edge in zip(loss.starts, (0, 5, 10), strict=True)]
    fitted = torch.cat([pieces[0][:5], pieces[1][:5], pieces[2]])
    jumps = torch.stack([pieces[0][-1] - loss.starts[1], pieces[1][-1] - loss.starts[2]])
    torch.testing.assert_close(loss(), (fitted - Y).square().mean() + 2.0 * jumps.square().mean())


def test_multiple_shooting_covers_every_observation_once():
    for segment in range(1, 15):
        loss = MultipleShooting(Closed(), T, Y, segment=segment)
        assert sum(len(piece) - 1 for piece in loss.segments()) == len(T) - 1
        assert float(loss().detach()) < 1e-20


def test_the_penalty_grows_to_its_last_value():
    loss = MultipleShooting(Closed(), T, Y, penalty=1.0, growth=10.0, last_penalty=50.0)
    penalties = []
    for _ in range(3):
        penalties.append(float(loss.penalty))
        loss()
    assert penalties == [1.0, 10.0, 50.0]


def test_derivative_match_sees_slopes_first_and_solves_later():
    model = ode(0.5)
    loss = trajectory_loss(model, T, Y, "derivative-match", steps=2, smoothing=0.0, points=3)
    first = loss()
    assert model.evaluations == 0
    # On the circle the slope of the field with w = 0.5 is off by one half of a unit vector.
    assert float(first.detach()) == pytest.approx(0.125, rel=0.1)
    loss()
    assert float(loss().detach()) == pytest.approx(float(loss.error().detach()))
    assert model.evaluations > 0


def test_derivative_match_alone_finds_the_rate():
    loss = trajectory_loss(ode(0.2), T, Y, "derivative-match", smoothing=0.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss.model.field.w.detach()) == pytest.approx(1.0, abs=0.05)


def test_derivative_match_takes_fields_with_time_and_of_the_state_alone():
    for field in (fields.MLP(2, 8, time=True, dtype=torch.float64), nn.Linear(2, 2, dtype=torch.float64)):
        loss = trajectory_loss(NeuralODE(field), T, Y, "derivative-match")
        loss().backward()
    many = Y.unsqueeze(1).expand(-1, 4, -1)
    field = fields.MLP(2, 8, time=True, dtype=torch.float64)
    trajectory_loss(NeuralODE(field), T, many, "derivative-match")().backward()


@pytest.mark.parametrize("strategy", ["horizon", "multiple-shooting"])
def test_far_from_the_truth_these_converge(strategy):
    torch.manual_seed(0)
    loss = trajectory_loss(Closed(2.2), T, Y, strategy, **({"first": 3} if strategy == "horizon" else {}))
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss.model.w.detach()) == pytest.approx(1.0, abs=0.02)


def test_where_plain_shooting_stays_in_a_wrong_minimum():
    loss = trajectory_loss(Closed(2.2), T, Y, "full")
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert abs(float(loss.model.w.detach()) - 1.0) > 0.5


def test_batches_of_trajectories():
    many = torch.stack([Y, -Y, 0.5 * Y], 1)
    for strategy in STRATEGIES:
        loss = trajectory_loss(ode(), T, many, strategy)
        assert loss().dim() == 0
        assert loss.predict(T).shape == many.shape


def test_a_resumed_strategy_goes_on_where_it_was():
    loss = trajectory_loss(Closed(), T, Y, "horizon", first=4)
    loss()
    fresh = trajectory_loss(Closed(), T, Y, "horizon", first=4)
    fresh.load_state_dict(loss.state_dict())
    assert int(fresh.window) == int(loss.window) == 5
    assert int(copy.deepcopy(loss).window) == 5


def test_errors():
    with pytest.raises(
        ValueError, match=r'No strategy is called "multipleshooting". Did you mean "multiple-shooting"\?'
    ):
        trajectory_loss(ode(), T, Y, "multipleshooting")
    with pytest.raises(
        ValueError, match=r"two or more increasing times .* `t` of shape \(13,\) and `y` of shape \(12, 2\)"
    ):
        trajectory_loss(ode(), T, Y[1:])
    with pytest.raises(ValueError, match="sort by time first"):
        trajectory_loss(ode(), T.flip(0), Y)
    with pytest.raises(ValueError, match="`y` has values that are not finite"):
        trajectory_loss(ode(), T, Y / 0)
    with pytest.raises(ValueError, match="A horizon needs first >= 2 .* but first=1"):
        trajectory_loss(ode(), T, Y, first=1)
    with pytest.raises(ValueError, match="Multiple shooting needs segment >= 1 .* but segment=0"):
        trajectory_loss(ode(), T, Y, "multiple-shooting", segment=0)
    with pytest.raises(TypeError, match="Matching slopes needs the rate: .* but Closed has none"):
        trajectory_loss(Closed(), T, Y, "derivative-match")
