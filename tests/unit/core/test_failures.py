"""A solve that fails: which, where, what to try; and what there is of the solution, never NaN."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re

import pytest
import torch

import pathline
from pathline import MaxStepsError, NonFiniteError, SolveError, Status, StepSizeUnderflow

MODES = ["backprop", "checkpointed", "adjoint"]
TIMES = torch.linspace(0.0, 2.0, 9, dtype=torch.float64)
FIXED = {
    "euler": {"method": "euler", "dt": 0.01},
    "rk4": {"method": "rk4", "dt": 0.1},
    "rk4 on the grid of times": {"method": "rk4"},
    "tsit5 with equal steps": {"controller": pathline.FixedStep(0.1)},
}
ADAPTIVE = {name: {"method": name} for name in ("tsit5", "dopri5", "dopri8", "bosh3", "fehlberg2")}
WAYS = FIXED | ADAPTIVE


def start():
    return torch.ones(3, 2, dtype=torch.float64, requires_grad=True)


def explode(t, y):
    """y' = y^2 from one: 1 / (1 - t)."""
    return y * y


def turn_to_nan(t, y):
    return -y if t < 0.6 else y * math.nan


def turn_to_infinity(t, y):
    return -y if t < 0.6 else y / torch.zeros_like(y)


def root(t, y):
    """(1 - t/2)^2 until t = 2; a root of something negative behind it."""
    return -torch.sqrt(y)


def check_partial(solution, y0, truth, last, rtol):
    """Valid rows are right, the others repeat the last one without gradient, and gradients are finite."""
    assert solution.valid.tolist() == sorted(solution.valid.tolist(), reverse=True)
    n = int(solution.valid.sum())
    assert 1 <= n < len(solution.ts)
    assert torch.isfinite(solution.ys).all()
    assert solution.ts.tolist() == TIMES.tolist()
    assert 0.0 <= solution.t1.item() <= last
    assert (solution.ts[:n] <= solution.t1 + 1e-12).all()
    assert solution.ts[n] > solution.t1 - 1e-12
    torch.testing.assert_close(solution.ys[:n], truth(TIMES[:n])[:, None, None].expand(n, 3, 2), rtol=rtol, atol=rtol)
    assert (solution.ys[n:] == solution.ys[n - 1]).all()
    (dead,) = torch.autograd.grad(solution.ys[n:].sum(), y0, retain_graph=True, allow_unused=True)
    assert dead is None or not dead.any()
    (alive,) = torch.autograd.grad(solution.ys.square().sum(), y0, retain_graph=True)
    assert torch.isfinite(alive).all()
    assert alive.abs().max() > 0


def accuracy(way):
    return {"euler": 0.3, "rk4 on the grid of times": 0.1}.get(way, 2e-2)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("field", [turn_to_nan, turn_to_infinity], ids=lambda f: f.__name__)
def test_a_field_that_turns_non_finite_midway(field, way, gradient):
    y0 = start()
    with pytest.raises(NonFiniteError, match=r"after t = 0\.[56]\d* \(\d+ steps, \d+ accepted\)\.") as caught:
        pathline.solve(field, y0, TIMES, gradient=gradient, **WAYS[way])
    solution = caught.value.solution
    assert caught.value.status is solution.status is Status.NON_FINITE
    assert not solution.status
    assert solution.message == str(caught.value)
    check_partial(solution, y0, lambda t: torch.exp(-t), 0.6 + 1e-9, accuracy(way))
    assert int(solution.valid.sum()) == 3  # 0, 0.25, 0.5


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_a_solution_that_explodes(way, gradient):
    y0 = start()
    with pytest.raises(SolveError) as caught:
        pathline.solve(explode, y0, TIMES, gradient=gradient, **WAYS[way])
    solution = caught.value.solution
    assert type(caught.value) is (StepSizeUnderflow if way in ADAPTIVE else NonFiniteError)
    assert torch.isfinite(solution.ys).all()
    assert not solution.valid[-1]
    assert solution.valid[:4].all()
    assert (solution.ys[~solution.valid] == solution.ys[solution.valid][-1]).all()
    if way in ADAPTIVE:
        torch.testing.assert_close(solution.ys[3, 0, 0].item(), 4.0, rtol=1e-3, atol=0.0)
        assert solution.t1.item() == pytest.approx(1.0, abs=1e-3)
        (g,) = torch.autograd.grad(solution.ys[3].sum(), y0)
        torch.testing.assert_close(g, torch.full_like(g, 16.0), rtol=1e-2, atol=0.0)  # d/dy0 of 1 / (1/y0 - 3/4)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_a_root_of_something_negative(way, gradient):
    y0 = start()
    t = torch.linspace(0.0, 4.0, 9, dtype=torch.float64)
    solution = pathline.solve(root, y0, t, gradient=gradient, on_failure="return", **WAYS[way])
    assert solution.status is Status.NON_FINITE
    assert torch.isfinite(solution.ys).all()
    assert 2 <= int(solution.valid.sum()) <= 5
    assert solution.t1.item() <= 2.1


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_nan_at_once_is_found_at_once(way, gradient):
    y0 = start()
    with pytest.raises(NonFiniteError, match=r"`f` returned NaN values for a finite state.*after t = 0 ") as caught:
        pathline.solve(lambda t, y: y * math.nan, y0, TIMES, gradient=gradient, **WAYS[way])
    solution = caught.value.solution
    assert solution.valid.tolist() == [True] + [False] * 8
    assert (solution.ys == 1.0).all()
    assert (solution.y1 == 1.0).all()
    assert solution.t1.item() == 0.0
    assert solution.stats.accepted == 0
    assert solution.stats.evaluations < 300


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_max_steps(way, gradient):
    y0 = start()
    with pytest.raises(MaxStepsError) as caught:
        pathline.solve(lambda t, y: -3 * y, y0, TIMES, gradient=gradient, max_steps=2, **WAYS[way])
    solution, message = caught.value.solution, str(caught.value)
    pattern = r"`max_steps` = 2 was reached at t = (\S+) of 2 \(2 steps, [0-2] accepted\)\. Raise max_steps, or "
    assert re.match(pattern + ("loosen the tolerance" if way in ADAPTIVE else "take longer steps"), message)
    assert message.endswith(f"The solution up to t = {solution.t1.item():g} is in `error.solution`.")
    assert solution.stats.steps == 2
    assert solution.status is Status.MAX_STEPS
    check_partial(solution, y0, lambda t: torch.exp(-3 * t), 2.0, accuracy(way))


@pytest.mark.parametrize("way", ["tsit5", "rk4"])
def test_max_steps_counts_what_is_needed_exactly(way):
    steps = pathline.solve(lambda t, y: -y, start(), TIMES, **WAYS[way]).stats.steps
    assert pathline.solve(lambda t, y: -y, start(), TIMES, max_steps=steps, **WAYS[way]).status is Status.SUCCESS
    with pytest.raises(MaxStepsError):
        pathline.solve(lambda t, y: -y, start(), TIMES, max_steps=steps - 1, **WAYS[way])


def test_the_default_limit_of_adaptive_steps_and_none_of_fixed_ones():
    controller = pathline.PID(first_step=1e-5, max_step=1e-5)
    with pytest.raises(MaxStepsError, match=r"`max_steps` = 16384 was reached"):
        pathline.solve(lambda t, y: -y, torch.ones(1), (0.0, 1.0), method="bosh3", controller=controller)
    solution = pathline.solve(lambda t, y: -y, torch.ones(1), (0.0, 1.0), method="euler", dt=1 / 17000)
    assert solution.stats.steps == 17000


# --- what the message says ---------------------------------------------------------------------------------------


def test_the_worst_sample_and_component_are_named():
    y0 = torch.ones(4, 3, dtype=torch.float64)

    def field(t, y):
        dy = -y.clone()
        dy[2, 1] = math.nan if t > 0.5 else 0.0
        return dy

    for way in ("tsit5", "rk4"):
        with pytest.raises(NonFiniteError, match=r"\(sample 2, component 1\)"):
            pathline.solve(field, y0, TIMES, **WAYS[way])


def test_the_worst_component_of_one_sample():
    with pytest.raises(NonFiniteError, match=r"\(component 1\)"):
        pathline.solve(lambda t, y: y * torch.tensor([1.0, math.nan]), torch.ones(2), (0.0, 1.0))


def test_the_worst_component_of_an_image():
    def field(t, y):
        dy = -y.clone()
        dy[1, 0, 2, 3] = math.inf
        return dy

    with pytest.raises(NonFiniteError, match=r"`f` returned infinite values .*\(sample 1, component \(0, 2, 3\)\)"):
        pathline.solve(field, torch.ones(2, 1, 4, 4), (0.0, 1.0))


def test_a_stiff_field_is_said_to_look_stiff():
    field = lambda t, y: -1e6 * (y - torch.cos(t))  # noqa: E731
    with pytest.raises(MaxStepsError, match=r"and the field looks stiff \(\|J\| about 1e\+06\)") as caught:
        pathline.solve(field, torch.zeros(1, dtype=torch.float64), (0.0, 10.0), max_steps=200)
    assert "(now rtol=1e-06, atol=1e-09)" in str(caught.value)


def test_a_mild_field_is_not():
    with pytest.raises(MaxStepsError) as caught:
        pathline.solve(lambda t, y: -y, torch.ones(1), (0.0, 1.0), max_steps=1)
    assert "stiff" not in str(caught.value)


def test_double_precision_is_advised_to_those_who_lack_it():
    for dtype, advised in ((torch.float32, True), (torch.float64, False)):
        with pytest.raises(StepSizeUnderflow, match=r"tolerance too tight for float") as caught:
            pathline.solve(explode, torch.ones(1, dtype=dtype), (0.0, 2.0))
        assert ("use float64" in str(caught.value)) == advised


@pytest.mark.parametrize("way", FIXED)
def test_fixed_steps_are_told_to_be_shorter(way):
    with pytest.raises(NonFiniteError, match=r"Fixed steps may be too long for this field: set a smaller `dt`, or an"):
        pathline.solve(explode, start(), TIMES, **FIXED[way])


def test_the_least_step_is_a_failure():
    field = lambda t, y: torch.cos(200 * t) * 100 * torch.ones_like(y)  # noqa: E731
    with pytest.raises(StepSizeUnderflow, match=r"The step size fell .* at t = "):
        pathline.solve(field, torch.zeros(1), (0.0, 1.0), controller=pathline.PID(min_step=0.2), rtol=1e-6, atol=1e-8)


# --- on_failure="return" -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_return_gives_the_same_solution(way, gradient):
    options = {"gradient": gradient, **WAYS[way]}
    with pytest.raises(NonFiniteError) as caught:
        pathline.solve(turn_to_nan, start(), TIMES, **options)
    raised, returned = (
        caught.value.solution,
        pathline.solve(turn_to_nan, start(), TIMES, on_failure="return", **options),
    )
    assert returned.message == str(caught.value)
    assert torch.equal(returned.ys, raised.ys)
    assert torch.equal(returned.valid, raised.valid)
    assert returned.status is raised.status


@pytest.mark.parametrize("gradient", MODES)
def test_a_loss_over_valid_rows_trains_on(gradient):
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    field = lambda t, y: -scale * y if t < 1.1 else y * math.nan  # noqa: E731
    options = {"rtol": 1e-9, "atol": 1e-11} if gradient == "adjoint" else {}
    solution = pathline.solve(field, start(), TIMES, gradient=gradient, on_failure="return", **options)
    assert int(solution.valid.sum()) == 5
    loss = solution.masked_mean(solution.ys.square())
    loss.backward()
    t = TIMES[:5]
    truth = (-2 * t * torch.exp(-2 * t)).mean()
    assert scale.grad.item() == pytest.approx(truth.item(), rel=1e-5)
    assert loss.item() == pytest.approx(torch.exp(-2 * t).mean().item(), rel=1e-5)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_times_of_rows_not_reached_carry_no_gradient(method, gradient):
    t = TIMES.clone().requires_grad_()
    solution = pathline.solve(turn_to_nan, start(), t, method=method, gradient=gradient, on_failure="return")
    (g,) = torch.autograd.grad(solution.ys.sum(), t)
    assert torch.isfinite(g).all()
    assert not g[3:].any()
    assert g[1].abs() > 0


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_saved_steps_and_curve_of_a_failure(method):
    save = pathline.Save(steps=True, dense=True)
    solution = pathline.solve(turn_to_nan, start(), TIMES, method=method, save=save, on_failure="return")
    assert solution.valid.all()
    assert torch.isfinite(solution.ys).all()
    assert len(solution.ys) == len(solution.ts) == solution.stats.accepted + 1
    assert solution.ts[-1] == solution.t1
    inside = torch.linspace(0.0, solution.t1.item(), 7, dtype=torch.float64)
    assert torch.isfinite(solution(inside)).all()
    with pytest.raises(ValueError, match="known from t = 0 to"):
        solution(1.9)


def test_saved_values_of_a_failure():
    save = pathline.Save(fn=lambda t, y: {"sum": y.sum(), "t": t})
    for gradient in MODES:
        solution = pathline.solve(turn_to_nan, start(), TIMES, save=save, gradient=gradient, on_failure="return")
        assert solution.ys["t"].tolist() == [0.0, 0.25, 0.5] + [0.5] * 6
        assert torch.isfinite(solution.ys["sum"]).all()


# --- never a silent NaN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "bosh3", "tsit5", "dopri8"])
def test_a_row_inside_the_last_good_step_is_finite_or_not_valid(method, gradient):
    """Dense output may ask for the slope at the end of a step, which is NaN already where the state is not."""
    field = lambda t, y: -y if t < 0.59 else y * math.nan  # noqa: E731
    t = torch.tensor([0.0, 0.55, 1.0], dtype=torch.float64)
    options = {"method": method, "gradient": gradient, "on_failure": "return"}
    if not pathline.METHODS[method].adaptive:
        options["dt"] = 0.2
    solution = pathline.solve(field, start(), t, **options)
    assert not solution.status
    assert torch.isfinite(solution.ys).all()


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_a_slope_that_is_infinite_at_the_end_only(method):
    field = lambda t, y: torch.rsqrt(1.0 - t) * torch.ones_like(y) if t < 1.0 else y * math.nan  # noqa: E731
    t = torch.tensor([0.0, 0.8, 1.0], dtype=torch.float64)
    solution = pathline.solve(field, start(), t, method=method, dt=0.5, on_failure="return")
    assert torch.isfinite(solution.ys).all()
    assert solution.valid.all() == bool(solution.status)


@pytest.mark.parametrize("steps", [255, 256, 257, 511, 512, 600])
def test_nan_near_the_places_where_fixed_steps_look(steps):
    """Fixed steps look at the state now and then; what is wrong between two looks must be found all the same."""
    bad = (steps - 1.5) / 1000
    field = lambda t, y: y * (math.nan if t > bad else -1.0)  # noqa: E731
    solution = pathline.solve(field, torch.ones(2), (0.0, 1.0), method="euler", dt=1e-3, on_failure="return")
    assert solution.status is Status.NON_FINITE
    assert solution.stats.accepted == steps - 1
    assert torch.isfinite(solution.y1).all()


def test_a_state_that_recovers_from_infinity_is_a_failure_too():
    """min(y, 1) makes a finite state of an infinite one."""

    def field(t, y):
        return torch.where((t > 0.35) & (t < 0.45), torch.full_like(y, math.inf), -y)

    solution = pathline.solve(field, torch.ones(2), (0.0, 1.0), method="euler", dt=0.1, on_failure="return")
    assert solution.status is Status.NON_FINITE


def test_large_finite_states_are_no_failure():
    """Their sum overflows; they do not."""
    y0 = torch.full((4,), 3e38)
    solution = pathline.solve(lambda t, y: torch.zeros_like(y), y0, (0.0, 1.0), method="euler", dt=0.5)
    assert torch.equal(solution.y1, y0)


# --- the adjoint's own failures ----------------------------------------------------------------------------------


def test_an_adjoint_that_fails_says_so_and_what_to_use():
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    solution = pathline.solve(lambda t, y: -60 * y, y0, (0.0, 1.0), gradient="adjoint", max_steps=60, rtol=1e-3)
    with pytest.raises(
        SolveError, match=r"The adjoint, integrated backwards from t = 1 to 0.*gradient=\"checkpointed\""
    ):
        pathline.solve(
            lambda t, y: -60 * y,
            y0,
            (0.0, 1.0),
            gradient=pathline.Adjoint(rtol=1e-13, atol=1e-13),
            max_steps=60,
            rtol=1e-3,
        ).y1.sum().backward()
    assert solution.status is Status.SUCCESS


# --- travel ------------------------------------------------------------------------------------------------------


def caught_error(save=None):
    with pytest.raises(NonFiniteError) as caught:
        pathline.solve(turn_to_nan, torch.ones(2), TIMES.float(), save=save)
    return caught.value


@pytest.mark.parametrize("save", [None, pathline.Save(dense=True)], ids=["rows", "dense"])
def test_an_error_travels_with_its_solution(save):
    error = caught_error(save)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is NonFiniteError
    assert str(twin) == str(error)
    assert twin.status is Status.NON_FINITE
    assert torch.equal(twin.solution.ys, error.solution.ys)
    assert torch.equal(twin.solution.valid, error.solution.valid)


@pytest.mark.parametrize("save", [None, pathline.Save(dense=True), pathline.Save(steps=True)], ids=str)
@pytest.mark.parametrize("structured", [False, True], ids=["tensor", "dict"])
@pytest.mark.parametrize("copier", ["pickle", "deepcopy", "torch.save"])
def test_a_solution_travels(copier, structured, save):
    """Its field is a lambda, which does not."""
    y0 = {"a": torch.ones(2)} if structured else torch.ones(2)
    field = (lambda t, y: {"a": -y["a"]}) if structured else (lambda t, y: -y)
    solution = pathline.solve(field, y0, torch.linspace(0.0, 1.0, 4), save=save)
    twin = travelled(solution, copier)
    pick = (lambda x: x["a"]) if structured else (lambda x: x)
    assert torch.equal(pick(twin.ys), pick(solution.ys))
    assert torch.equal(twin.ts, solution.ts)
    assert twin.status is Status.SUCCESS
    assert twin.stats == solution.stats
    assert repr(twin) == repr(solution)
    if save is not None and save.dense:
        assert torch.equal(pick(twin(0.37)), pick(solution(0.37)))
    else:
        with pytest.raises(ValueError, match=r"needs the dense output"):
            twin(0.37)
    if copier != "deepcopy":
        with pytest.raises(ValueError, match=r"`solution` has lost its field \(it was pickled\)\. Solve again"):
            pathline.sensitivity(twin, lambda ys: pick(ys).sum())


@pytest.mark.parametrize("copier", ["pickle", "torch.save"])
@pytest.mark.parametrize("gradient", MODES)
def test_a_solution_with_gradient_travels(gradient, copier):
    solution = pathline.solve(torch.nn.Linear(2, 2), torch.ones(2), (0.0, 1.0), gradient=gradient)
    assert solution.ys.requires_grad
    assert torch.equal(travelled(solution, copier).ys, solution.ys)


def travelled(thing, copier):
    if copier == "pickle":
        return pickle.loads(pickle.dumps(thing))
    if copier == "deepcopy":
        return copy.deepcopy(thing)
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)
