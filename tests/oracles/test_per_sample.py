"""A clock for each sample, against single runs: a row of a batch is the run of that row alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline
from pathline import PerSample, Save, Status

DOUBLE = torch.float64
EXPLICIT = ["bosh3", "tsit5", "dopri5", "dopri8"]
STIFF = ["kvaerno5", "radau5", "rodas5p", "bdf"]
TOL = 1e-6


def van_der_pol(t, y, mu):
    """Elementwise; the stiffness differs from row to row."""
    u, v = y.unbind(-1)
    return torch.stack((v, mu * (1.0 - u * u) * v - u), -1)


def spread_batch():
    mu = torch.tensor([0.3, 2.0, 8.0, 1.0, 30.0], dtype=DOUBLE)
    y0 = torch.tensor([[2.0, 0.0], [1.0, 1.0], [2.0, 0.1], [-0.5, 0.3], [1.5, 0.0]], dtype=DOUBLE)
    return y0, mu


class Counted:
    """A field that knows how many rows it has evaluated."""

    def __init__(self, field):
        self.field, self.rows, self.sizes = field, 0, []

    def __call__(self, t, y, args):
        self.rows += len(y)
        self.sizes.append(len(y))
        return self.field(t, y, args)


def solve(field, y0, t, mu=None, **options):
    options = {"rtol": TOL, "atol": TOL, **options}
    return pathline.solve(field, y0, t, args=mu, **options)


# --- values -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EXPLICIT)
def test_elementwise_rows_are_single_runs(method):
    """Equal accepted steps, values to a few ulps of what the steps amplify, evaluations of the single runs."""
    y0, mu = spread_batch()
    t = torch.linspace(0.0, 6.0, 9, dtype=DOUBLE)
    counted = Counted(van_der_pol)
    together = solve(counted, y0, t, PerSample(mu), clock="per-sample", method=method)
    assert together.ts.shape == (9, 5)
    assert together.ys.shape == (9, 5, 2)
    assert together.valid.all()
    evaluations = 0
    for i in range(5):
        alone = solve(van_der_pol, y0[i : i + 1], t, mu[i : i + 1], method=method)
        assert int(together.stats.rows.accepted[i]) == alone.stats.accepted
        assert int(together.stats.rows.rejected[i]) == alone.stats.rejected
        evaluations += alone.stats.evaluations
        torch.testing.assert_close(together.ys[:, i], alone.ys[:, 0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(together.y1[i], alone.y1[0], rtol=1e-10, atol=1e-10)
    assert together.stats.evaluations == len(counted.sizes)
    assert int(together.stats.rows.evaluations.sum()) == counted.rows
    assert evaluations * 0.95 <= counted.rows <= evaluations * 1.05


def test_short_runs_agree_to_a_few_ulps():
    """Before the steps amplify anything, two orders of the same operations differ by roundings alone."""
    y0, mu = spread_batch()
    together = solve(van_der_pol, y0, (0.0, 0.3), PerSample(mu), clock="per-sample")
    for i in range(5):
        alone = solve(van_der_pol, y0[i : i + 1], (0.0, 0.3), mu[i : i + 1])
        torch.testing.assert_close(together.y1[i], alone.y1[0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("method", EXPLICIT)
def test_finished_rows_cost_nothing(method):
    """Rows with their own ends leave one after the other: the field sees fewer and fewer rows."""
    y0, mu = spread_batch()
    ends = torch.tensor([0.5, 1.0, 2.0, 3.0, 6.0], dtype=DOUBLE)
    counted = Counted(van_der_pol)
    together = solve(
        counted, y0, torch.stack((torch.zeros_like(ends), ends)), PerSample(mu), clock="per-sample", method=method
    )
    assert counted.sizes[0] == 5
    assert counted.sizes[-1] == 1
    alone = [solve(van_der_pol, y0[i : i + 1], (0.0, ends[i]), mu[i : i + 1], method=method) for i in range(5)]
    total = sum(one.stats.evaluations for one in alone)
    assert total * 0.95 <= counted.rows <= total * 1.05
    torch.testing.assert_close(together.t1, ends)
    torch.testing.assert_close(together.y1, torch.cat([one.y1 for one in alone]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["dopri5", *STIFF])
def test_matrix_fields_agree_within_the_tolerance(method):
    """A product of another shape rounds differently: steps may differ by one, values by ten tolerances."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    for p in net.parameters():
        p.data *= 2.0
    y0 = torch.randn(6, 4, dtype=DOUBLE) * torch.logspace(-1, 1, 6, dtype=DOUBLE)[:, None]
    t = torch.linspace(0.0, 5.0, 6, dtype=DOUBLE)
    with torch.no_grad():
        together = solve(net, y0, t, clock="per-sample", method=method)
        for i in range(6):
            alone = solve(net, y0[i : i + 1], t, method=method)
            assert abs(int(together.stats.rows.accepted[i]) - alone.stats.accepted) <= 1
            torch.testing.assert_close(together.ys[:, i], alone.ys[:, 0], rtol=10 * TOL, atol=10 * TOL)


@pytest.mark.parametrize("method", STIFF)
def test_stiff_rows_are_single_runs(method):
    """Robertson with rates over two decades: rows, accepted steps and evaluations of the single runs."""
    from tests.problems import robertson

    scale = torch.logspace(-1.0, 1.0, 5, dtype=DOUBLE)
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=DOUBLE).expand(5, 3)
    t = torch.tensor([0.0, 0.4, 40.0, 4e3], dtype=DOUBLE)

    def field(t, y, k):
        return robertson(t, y, (0.04 * k, 3e7 / k, 1e4 * k))

    tolerances = {"rtol": 1e-5, "atol": 1e-10, "method": method}
    with torch.no_grad():
        together = pathline.solve(field, y0, t, args=PerSample(scale), clock="per-sample", **tolerances)
        evaluations = 0
        for i in range(5):
            one = {"args": PerSample(scale[i : i + 1]), **tolerances}
            own = pathline.solve(field, y0[i : i + 1], t, clock="per-sample", **one)
            assert int(together.stats.rows.accepted[i]) == own.stats.accepted
            torch.testing.assert_close(together.ys[:, i], own.ys[:, 0], rtol=1e-9, atol=1e-14)
            # The shared clock keeps the Jacobians of small systems longer: other roundings, another Newton path.
            alone = pathline.solve(field, y0[i : i + 1], t, **one)
            assert abs(own.stats.accepted - alone.stats.accepted) <= 1
            torch.testing.assert_close(own.ys[:, 0], alone.ys[:, 0], rtol=1e-3, atol=1e-9)
            evaluations += alone.stats.evaluations
    # A Jacobian is one evaluation in either, though a batch makes those of small systems from copies of its rows; rows
    # that have converged are left out of the others' iterations.
    assert 0.9 * evaluations <= int(together.stats.rows.evaluations.sum()) <= 1.05 * evaluations


# --- shapes, times, arguments ---------------------------------------------------------------------------------------------


def decay(t, y, rate):
    """Elementwise for any state shape; `t` broadcasts against a row."""
    return -rate * y + torch.sin(t)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 2)], ids=str)
@pytest.mark.parametrize("method", ["tsit5", "rk4", *STIFF[-2:]])
def test_any_state_shape(shape, method):
    torch.manual_seed(1)
    y0 = torch.rand(4, *shape, dtype=DOUBLE)
    rate = torch.tensor([0.5, 1.0, 5.0, 20.0], dtype=DOUBLE).reshape(4, *(1,) * len(shape))
    t = torch.linspace(0.2, 2.0, 5, dtype=DOUBLE)
    options = {"method": method, "clock": "per-sample", "args": PerSample(rate)}
    options |= {"rtol": TOL, "atol": TOL} if pathline.METHODS[method].adaptive else {"dt": 0.05}
    together = pathline.solve(decay, y0, t, **options)
    assert together.ys.shape == (5, 4, *shape)
    truth = linear_truth(y0, rate, 0.2, t)
    bound = 1e-4 if pathline.METHODS[method].adaptive else 1e-2
    torch.testing.assert_close(together.ys, truth, rtol=bound, atol=bound)


def linear_truth(y0, rate, start, t):
    """y' = -k y + sin t in closed form, at times (n,) or (n, batch)."""

    def forced(t):
        return (rate * torch.sin(t) - torch.cos(t)) / (1.0 + rate**2)

    t = t.reshape(*t.shape, *(1,) * (y0.dim() + 1 - t.dim()))
    start = torch.as_tensor(start, dtype=DOUBLE)
    start = start.reshape(*start.shape, *(1,) * (y0.dim() - start.dim())) if start.dim() else start
    return (y0 - forced(start)) * torch.exp(-rate * (t - start)) + forced(t)


def test_every_row_has_its_own_times_in_its_own_direction():
    """Starts, ends and output times differ; two rows run backwards."""
    y0 = torch.tensor([[1.0], [2.0], [0.5], [3.0]], dtype=DOUBLE)
    rate = torch.tensor([[1.0], [0.5], [2.0], [0.3]], dtype=DOUBLE)
    t = torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.5, 2.5, 1.1, 1.0], [4.0, 1.0, 1.2, -1.0]], dtype=DOUBLE)
    solution = solve(decay, y0, t, PerSample(rate), clock="per-sample", rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.ts, t)
    torch.testing.assert_close(solution.ys, linear_truth(y0, rate, t[0], t), rtol=1e-6, atol=1e-6)
    for i in range(4):
        alone = solve(decay, y0[i : i + 1], t[:, i], rate[i : i + 1], rtol=1e-9, atol=1e-9)
        assert int(solution.stats.rows.accepted[i]) == alone.stats.accepted
        torch.testing.assert_close(solution.ys[:, i], alone.ys[:, 0], rtol=1e-12, atol=1e-12)


def test_ragged_times():
    """A list of times: rows without a time repeat the last state and are not valid."""
    y0 = torch.tensor([[1.0], [2.0], [0.5]], dtype=DOUBLE)
    rate = torch.tensor([[1.0], [0.5], [2.0]], dtype=DOUBLE)
    times = [torch.tensor(x, dtype=DOUBLE) for x in ([0.0, 1.0, 2.0, 3.0], [0.5, 1.5], [1.0, 1.5, 1.6])]
    solution = solve(decay, y0, times, PerSample(rate), clock="per-sample")
    assert solution.ts.shape == (4, 3)
    assert solution.valid.sum(0).tolist() == [4, 2, 3]
    for i, t in enumerate(times):
        alone = solve(decay, y0[i : i + 1], t, rate[i : i + 1])
        torch.testing.assert_close(solution.ys[: len(t), i], alone.ys[:, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(solution.ys[len(t) :, i], alone.ys[-1:, 0].expand(4 - len(t), 1))
        torch.testing.assert_close(solution.y1[i], alone.y1[0], rtol=1e-12, atol=1e-12)
    assert solution.status.value == "success"


def test_batch_first_turns_everything():
    y0, mu = spread_batch()
    t = torch.linspace(0.0, 2.0, 4, dtype=DOUBLE).expand(5, 4)
    plain = solve(van_der_pol, y0, t.T, PerSample(mu), clock="per-sample")
    turned = solve(van_der_pol, y0, t, PerSample(mu), clock="per-sample", batch_first=True)
    assert turned.ts.shape == turned.valid.shape == (5, 4)
    assert torch.equal(turned.ys, plain.ys.transpose(0, 1))
    assert torch.equal(turned.y1, plain.y1)


def test_structured_states():
    """Rows of every leaf belong together; the field sees the structure, time has one number a row."""
    y0 = {"x": torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.1, 0.0]], dtype=DOUBLE), "s": torch.zeros(3, dtype=DOUBLE)}
    rate = torch.tensor([1.0, 10.0, 0.1], dtype=DOUBLE)
    shapes = set()

    def field(t, y, k):
        shapes.add((t.dim(), y["x"].dim(), y["s"].dim()))
        return {"x": -k[:, None] * y["x"], "s": y["x"].sum(-1) + t}

    solution = solve(field, y0, (0.0, 1.0), PerSample(rate), clock="per-sample", rtol=1e-9, atol=1e-9)
    assert shapes == {(1, 2, 1)}
    decayed = y0["x"] * torch.exp(-rate)[:, None]
    torch.testing.assert_close(solution.y1["x"], decayed, rtol=1e-7, atol=1e-8)
    gained = (y0["x"] - decayed).sum(-1) / rate + 0.5
    torch.testing.assert_close(solution.y1["s"], gained, rtol=1e-7, atol=1e-8)


def test_leaves_of_args_are_sliced_and_others_shared():
    """Nested, with a shared weight; a row that ends early leaves its arguments behind."""
    y0 = torch.ones(3, 2, dtype=DOUBLE)
    args = {"own": PerSample({"k": torch.tensor([[1.0], [2.0], [3.0]], dtype=DOUBLE)}), "all": torch.eye(2).double()}
    ends = torch.tensor([1.0, 0.2, 2.0], dtype=DOUBLE)

    def field(t, y, args):
        assert len(args["own"]["k"]) == len(y)
        return -args["own"]["k"] * (y @ args["all"])

    solution = solve(field, y0, torch.stack((0.0 * ends, ends)), args, clock="per-sample", rtol=1e-9, atol=1e-9)
    exact = torch.exp(-torch.tensor([1.0, 0.4, 6.0], dtype=DOUBLE))[:, None].expand(3, 2)
    torch.testing.assert_close(solution.y1, exact, rtol=1e-7, atol=1e-8)


def test_tolerances_of_each_row():
    """A row with a tight tolerance takes the steps that it takes alone with it."""
    y0, mu = spread_batch()
    rtol = torch.tensor([1e-3, 1e-5, 1e-7, 1e-9, 1e-4], dtype=DOUBLE)[:, None]
    together = solve(van_der_pol, y0, (0.0, 2.0), PerSample(mu), clock="per-sample", rtol=rtol, atol=rtol)
    for i in range(5):
        alone = solve(van_der_pol, y0[i : i + 1], (0.0, 2.0), mu[i : i + 1], rtol=float(rtol[i]), atol=float(rtol[i]))
        assert int(together.stats.rows.accepted[i]) == alone.stats.accepted


def test_dense_output_of_each_row():
    y0, mu = spread_batch()
    t = torch.linspace(0.0, 2.0, 4, dtype=DOUBLE)
    solution = solve(van_der_pol, y0, t, PerSample(mu), clock="per-sample", save=Save(dense=True))
    torch.testing.assert_close(solution(t[:, None].expand(4, 5)), solution.ys, rtol=1e-12, atol=1e-12)
    inside = torch.rand(7, 5, dtype=DOUBLE) * 2.0
    for i in range(5):
        alone = solve(van_der_pol, y0[i : i + 1], t, mu[i : i + 1], save=Save(dense=True))
        torch.testing.assert_close(solution(inside)[:, i], alone(inside[:, i])[:, 0], rtol=1e-10, atol=1e-10)


def test_a_field_that_mixes_rows_is_found():
    y0 = torch.ones(3, 2, dtype=DOUBLE)

    def mixing(t, y):
        return y - y.mean(0)

    with pytest.raises((ValueError, RuntimeError), match="mixes samples"):
        pathline.solve(mixing, y0, (0.0, 1.0), clock="per-sample", check_rows=True)
    pathline.solve(lambda t, y: -y, y0, (0.0, 1.0), clock="per-sample", check_rows=True)


# --- gradients ------------------------------------------------------------------------------------------------------------


def gradients(i, method, gradient, y0, mu, weight, **options):
    """Of a loss over all rows and times, to the start, the rows' own argument and a shared weight."""
    rows = slice(None) if i is None else slice(i, i + 1)
    y0, mu, weight = (x.detach().clone().requires_grad_() for x in (y0, mu, weight))
    own = PerSample(mu) if i is None else mu[rows]
    clock = "per-sample" if i is None else "shared"
    t = torch.linspace(0.0, 1.5, 4, dtype=DOUBLE)

    def field(t, y, args):
        mu, w = args
        return van_der_pol(t, y, mu) + 0.1 * torch.tanh(w * y) * torch.cos(t)

    tol = 1e-8 if gradient == "adjoint" else 1e-5
    ys = pathline.solve(
        field, y0[rows], t, args=(own, weight), method=method, gradient=gradient, clock=clock, rtol=tol, atol=tol
    ).ys
    scale = torch.arange(1.0, 5.0, dtype=DOUBLE)[:, None, None]
    return torch.autograd.grad((scale * ys.sin()).sum(), (y0, mu, weight))


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "kvaerno5", "bdf"])
def test_gradients_are_those_of_single_runs(method, gradient):
    y0, mu = spread_batch()
    y0, mu = y0[:4], mu[:4]
    weight = torch.tensor([0.7, -1.3], dtype=DOUBLE)
    found = gradients(None, method, gradient, y0, mu, weight)
    alone = [gradients(i, method, gradient, y0, mu, weight) for i in range(4)]
    bound = 1e-9 if method in ("tsit5", "dopri8") and gradient != "adjoint" else 1e-4 if method in STIFF else 1e-6
    for name, a, parts in zip(("y0", "mu", "weight"), found, zip(*alone, strict=True), strict=True):
        truth = sum(parts)
        torch.testing.assert_close(a, truth, rtol=bound, atol=bound, msg=lambda m, n=name: f"dL/d{n}: {m}")


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_gradients_to_the_times_of_each_row(gradient):
    """dL/dt_i = <g_i, f(t_i, y_i)> row by row, and the start's."""
    y0 = torch.tensor([[1.0], [2.0], [0.5]], dtype=DOUBLE)
    rate = torch.tensor([[1.0], [0.5], [2.0]], dtype=DOUBLE)
    times = torch.tensor([[0.0, 0.5, 1.0], [0.7, 0.9, 1.5], [1.0, 2.0, 1.7]], dtype=DOUBLE, requires_grad=True)
    ys = solve(decay, y0, times, PerSample(rate), clock="per-sample", gradient=gradient, rtol=1e-10, atol=1e-10).ys
    (found,) = torch.autograd.grad(ys.sin().sum(), times)
    (truth,) = torch.autograd.grad(linear_truth(y0, rate, times[0], times).sin().sum(), times)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_rows_that_were_not_reached_carry_no_gradient(gradient):
    """Ragged: the repeated rows add nothing, so the gradient is that of the reached ones alone."""
    y0 = torch.tensor([[1.0], [2.0]], dtype=DOUBLE, requires_grad=True)
    times = [torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE), torch.tensor([0.0, 0.5], dtype=DOUBLE)]
    solution = pathline.solve(lambda t, y: -y, y0, times, clock="per-sample", gradient=gradient, rtol=1e-10, atol=1e-12)
    (found,) = torch.autograd.grad(solution.ys.sum(), y0)
    e = torch.exp(-torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE))
    torch.testing.assert_close(found[:, 0], torch.stack((1.0 + e[0] + e[1], 1.0 + e[2])), rtol=1e-7, atol=1e-8)


# --- failures -------------------------------------------------------------------------------------------------------------

FINISHES, OVERFLOWS, MEETS_NAN, TIRES = range(4)


def mixed(t, y, kind):
    """A row finishes, blows up at t = 1, meets NaN after t = 0.5, or turns too fast for the steps it may take."""
    kind = kind.reshape(-1, 1)
    t = t.reshape(-1, 1).expand_as(y) if t.dim() else t.expand_as(y)
    blown = y * y
    lost = torch.where(t > 0.5, torch.full_like(y, torch.nan), -y)
    fast = 1e4 * torch.cos(1e4 * t)
    return torch.where(
        kind == FINISHES, -y, torch.where(kind == OVERFLOWS, blown, torch.where(kind == MEETS_NAN, lost, fast))
    )


#: More steps than it takes to get so near the pole that there is no shorter one: each multiplies the state by little.
STEPS_TO_POLE = {"kvaerno5": 700, "radau5": 1400, "rodas5p": 600, "bdf": 1400}


@pytest.mark.parametrize(
    ("method", "gradient"),
    [("tsit5", "backprop"), ("tsit5", "checkpointed"), ("tsit5", "adjoint"), *((m, "backprop") for m in STIFF)],
)
def test_a_failed_row_keeps_its_reason_and_leaves_the_others_alone(method, gradient):
    kind = torch.tensor([FINISHES, OVERFLOWS, FINISHES, MEETS_NAN, TIRES])
    y0 = torch.tensor([[1.0], [1.0], [3.0], [2.0], [0.0]], dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 0.25, 0.6, 0.9, 2.0], dtype=DOUBLE)
    solution = pathline.solve(
        mixed,
        y0,
        t,
        args=PerSample(kind),
        clock="per-sample",
        method=method,
        gradient=gradient,
        rtol=1e-7,
        atol=1e-9,
        max_steps=STEPS_TO_POLE.get(method, 500),
        on_failure="return",
    )
    status = list(solution.status)
    assert status[0] is status[2] is Status.SUCCESS
    assert status[1] in (Status.NON_FINITE, Status.STEP_UNDERFLOW, Status.NEWTON)
    assert status[3] in (Status.NON_FINITE, Status.STEP_UNDERFLOW, Status.NEWTON)
    assert status[4] is Status.MAX_STEPS
    assert solution.status.failed == [1, 3, 4]
    # partial solutions: what was reached is right, the rest repeats it and is not valid
    assert solution.valid[:, [0, 2]].all()
    assert solution.valid[:, 1].tolist() == [True, True, True, True, False]
    assert solution.valid[:, 3].tolist() == [True, True, False, False, False]
    assert solution.t1[1].item() == pytest.approx(1.0, abs=1e-2)
    assert solution.t1[3].item() == pytest.approx(0.5, abs=1e-2)
    assert bool(torch.isfinite(solution.ys).all())
    torch.testing.assert_close(
        solution.ys[:, [0, 2]], (y0[[0, 2]] * torch.exp(-t)[:, None, None]), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(solution.ys[:4, 1, 0], 1.0 / (1.0 - t[:4]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(solution.ys[4, 1], solution.ys[3, 1])
    # the finished rows differentiate as if the others were not there
    (found,) = torch.autograd.grad(solution.ys[:, [0, 2]].sum(), y0)
    wanted = torch.exp(-t).sum()
    torch.testing.assert_close(found[[0, 2], 0], wanted.expand(2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[[1, 3, 4]], torch.zeros(3, 1, dtype=DOUBLE))


def test_the_message_names_each_failed_row():
    kind = torch.tensor([FINISHES, OVERFLOWS, MEETS_NAN])
    y0 = torch.ones(3, 1, dtype=DOUBLE)
    with pytest.raises(pathline.SolveError) as caught:
        pathline.solve(mixed, y0, (0.0, 2.0), args=PerSample(kind), clock="per-sample", rtol=1e-6, atol=1e-9)
    message = str(caught.value)
    assert "1" in message
    assert "2" in message
    solution = caught.value.solution
    assert [bool(s) for s in solution.status] == [True, False, False]
    assert solution.y1[0].item() == pytest.approx(torch.e ** (-2.0), rel=1e-4)


def test_a_failed_row_stops_costing_evaluations():
    kind = torch.tensor([FINISHES, OVERFLOWS])
    counted = Counted(mixed)
    pathline.solve(
        counted,
        torch.ones(2, 1, dtype=DOUBLE),
        (0.0, 50.0),
        args=PerSample(kind),
        clock="per-sample",
        on_failure="return",
        rtol=1e-7,
        atol=1e-9,
    )
    assert counted.sizes[-1] == 1


def test_per_sample_works_where_nothing_is_asked():
    """One row, a single output time, an empty interval for some rows."""
    y0 = torch.tensor([[1.0], [2.0]], dtype=DOUBLE)
    t = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=DOUBLE)
    solution = pathline.solve(lambda t, y: -y, y0, t, clock="per-sample", rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.y1[0], y0[0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(solution.y1[1], y0[1] / torch.e, rtol=1e-7, atol=1e-8)
    assert int(solution.stats.rows.accepted[0]) == 0
