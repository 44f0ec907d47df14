"""The loop with a stub solver and a stub controller: every call is counted."""

from __future__ import annotations

import pytest
import torch

import pathline
from pathline import Hooks, Save, Status
from tests.loop.stubs import LineSolver, Script


def run(moves, t, *, solver=None, y0=None, **options):
    calls = []

    def f(t, y):
        calls.append(t.item())
        return torch.zeros_like(y)

    solver = solver or LineSolver()
    y0 = torch.zeros(2, dtype=torch.float64) if y0 is None else y0
    controller = moves if not isinstance(moves, list) else Script(moves)
    t = t if isinstance(t, torch.Tensor) else torch.tensor(t, dtype=torch.float64)
    with torch.no_grad():
        solution = pathline.solve(f, y0, t, method=solver, controller=controller, **options)
    return solution, solver, controller, calls


def test_one_init_and_one_step_a_move():
    moves = [(0.25, True), (0.5, False), (0.25, True), (0.5, True)]
    solution, solver, _, calls = run(moves, [0.0, 1.0])
    assert solver.log == [
        ("init", 0.0),
        ("step", 0.0, 0.25),
        ("step", 0.25, 0.75),
        ("step", 0.25, 0.5),
        ("step", 0.5, 1.0),
    ]
    stats = solution.stats
    assert (stats.steps, stats.accepted, stats.rejected) == (4, 3, 1)
    assert stats.evaluations == len(calls) == 1 + 2 * 4
    assert solution.ys.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_a_rejected_step_keeps_the_carry_and_an_accepted_one_hands_on_its_own():
    _, solver, _, _ = run([(0.5, False), (0.5, False), (0.25, True), (0.75, False), (0.75, True)], [0.0, 1.0])
    first, second, third, fourth, fifth = solver.carries
    assert first == second == third == "first carry"
    assert fourth is fifth
    assert fourth.tolist() == [4.0, 4.0]  # of the third step, whose log had four entries


def test_the_controller_is_told_the_setting_once():
    args = {"rate": 3.0}

    def f(t, y, args):
        return y

    script = Script([(1.0, True)])
    y0 = torch.zeros(2)
    pathline.solve(f, y0, (0.0, 1.0), method=LineSolver(), controller=script, rtol=1e-2, atol=1e-3, args=args)
    (told,) = script.clocks
    assert told.args is args
    assert told.carry == "first carry"
    tolerance = told.setting.term.tolerance
    assert (tolerance.rtol, tolerance.atol, tolerance.per_sample) == (1e-2, 1e-3, False)
    assert list(told.setting.times) == [0.0, 1.0]
    assert len(told.clock.judged) == 1
    assert torch.equal(told.clock.judged[0][0], y0)


def test_rows_are_asked_of_the_step_that_reaches_them():
    """Three rows inside the first accepted step, none in the second, one on the end of the third, one inside it."""
    t = [0.0, 0.1, 0.2, 0.3, 0.75, 1.0]
    solution, solver, _, _ = run([(0.9, False), (0.4, True), (0.1, True), (0.5, True)], t)
    asked = [entry[1] for entry in solver.log if entry[0] == "rows"]
    assert asked == [[0.1, 0.2, 0.3], [0.75]]
    torch.testing.assert_close(solution.ys[:, 0], torch.tensor(t, dtype=torch.float64))


def test_a_row_on_the_end_of_a_step_is_the_state_itself():
    _, solver, _, _ = run([(0.5, True), (0.5, True)], [0.0, 0.5, 0.5, 1.0, 1.0])
    assert solver.count("rows") == 0


def test_repeats_inside_a_step_are_all_served():
    solution, _, _, _ = run([(1.0, True)], [0.0, 0.0, 0.3, 0.3, 1.0, 1.0])
    assert solution.ys[:, 0].tolist() == [0.0, 0.0, 0.3, 0.3, 1.0, 1.0]


def test_backwards():
    solution, solver, _, _ = run([(0.5, True), (0.25, False), (0.5, True)], [1.0, 0.75, 0.0])
    assert solver.steps() == [(1.0, 0.5), (0.5, 0.25), (0.5, 0.0)]
    assert solution.ys[:, 0].tolist() == [0.0, -0.25, -1.0]


def test_no_dense_output_where_nobody_asks():
    _, solver, _, _ = run([(0.5, True), (0.5, True)], [0.0, 1.0])
    assert solver.count("rows") == solver.count("coefficients") == 0


def test_a_curve_of_every_accepted_step_and_no_other():
    solution, solver, _, _ = run([(0.25, True), (0.5, False), (0.75, True)], [0.0, 1.0], save=Save(dense=True))
    assert solver.count("coefficients") == 2
    assert solution.curve.knots.tolist() == [0.0, 0.25, 1.0]
    at = torch.tensor([0.0, 0.1, 0.25, 0.6, 1.0], dtype=torch.float64)
    torch.testing.assert_close(solution(at)[:, 1], at)
    torch.testing.assert_close(solution.derivative(at), torch.ones(5, 2, dtype=torch.float64))


def test_saving_steps_saves_each_accepted_end():
    solution, solver, _, _ = run([(0.25, True), (0.5, False), (0.75, True)], [0.0, 0.5, 1.0], save=Save(steps=True))
    assert solution.ts.tolist() == [0.0, 0.25, 1.0]
    assert solution.ys[:, 0].tolist() == [0.0, 0.25, 1.0]
    assert solution.valid.tolist() == [True] * 3
    assert solver.count("rows") == 0


def test_a_saved_function_is_called_once_a_row():
    called = []

    def fn(t, y):
        called.append((t.item(), t.dtype, y.tolist()))
        return y.sum()

    t = [0.0, 0.25, 0.5, 1.0]
    solution, _, _, _ = run([(0.5, True), (0.25, False), (0.5, True)], t, save=Save(fn=fn))
    assert [c[0] for c in called] == t
    assert {c[1] for c in called} == {torch.float64}
    assert [c[2] for c in called] == [[x, x] for x in t]
    assert solution.ys.tolist() == [0.0, 0.5, 1.0, 2.0]


def test_hooks_are_called_in_order_with_what_they_need():
    log = []
    hooks = Hooks(
        on_step=lambda t0, t1, y: log.append(("step", t0, t1, y[0].item())),
        on_accept=lambda t0, t1, y, step: log.append(("accept", t0, t1, y[0].item(), step.y1[0].item())),
        on_reject=lambda t0, t1, y, step: log.append(("reject", t0, t1, y[0].item(), step.y1[0].item())),
    )
    run([(0.5, True), (0.5, False), (0.25, True), (0.25, True)], [0.0, 1.0], hooks=hooks)
    assert log == [
        ("step", 0.0, 0.5, 0.0),
        ("accept", 0.0, 0.5, 0.0, 0.5),
        ("step", 0.5, 1.0, 0.5),
        ("reject", 0.5, 1.0, 0.5, 1.0),
        ("step", 0.5, 0.75, 0.5),
        ("accept", 0.5, 0.75, 0.5, 0.75),
        ("step", 0.75, 1.0, 0.75),
        ("accept", 0.75, 1.0, 0.75, 1.0),
    ]


def test_max_steps_counts_rejected_steps_too():
    moves = [(0.25, True), (0.5, False), (0.25, True), (0.5, True)]
    solution, solver, _, _ = run(moves, [0.0, 0.25, 0.5, 1.0], max_steps=3, on_failure="return")
    assert solution.status is Status.MAX_STEPS
    assert solver.count("step") == 3
    assert solution.valid.tolist() == [True, True, True, False]
    assert solution.ys[:, 0].tolist() == [0.0, 0.25, 0.5, 0.5]
    assert solution.t1.item() == 0.5
    assert run(moves, [0.0, 1.0], max_steps=4)[0].status is Status.SUCCESS


@pytest.mark.parametrize("status", [Status.STEP_UNDERFLOW, Status.NON_FINITE])
def test_a_clock_that_gives_up_ends_the_loop(status):
    script = Script([(0.25, True), (0.5, False), (0.25, False)], fails=status)
    solution, solver, _, _ = run(script, [0.0, 0.25, 1.0], on_failure="return")
    assert solution.status is status
    assert solver.count("step") == 3
    assert (solution.stats.accepted, solution.stats.rejected) == (1, 2)
    assert solution.valid.tolist() == [True, True, False]
    assert solution.ys[:, 0].tolist() == [0.0, 0.25, 0.25]


def test_nothing_happens_on_a_point():
    solution, solver, _, calls = run([], [0.5, 0.5])
    assert solver.count("step") == len(calls) == 0
    assert solution.ys.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_recomputing_gradients_drive_the_same_loop(gradient):
    """Under gradients the same script gives the same steps (one evaluation more shows what the field reads)."""
    solver, script = LineSolver(), Script([(0.25, True), (0.5, False), (0.75, True)])
    y0 = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    solution = pathline.solve(lambda t, y: 0 * y, y0, t, method=solver, controller=script, gradient=gradient)
    assert solver.steps() == [(0.0, 0.25), (0.25, 0.75), (0.25, 1.0)]
    assert solution.ys.tolist() == [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]
    assert solution.stats.evaluations == 1 + 1 + 2 * 3
    if gradient == "checkpointed":
        solution.ys[-1].sum().backward()
        assert y0.grad.tolist() == [1.0, 1.0]
        assert solver.steps()[3:] == [(0.25, 1.0), (0.0, 0.25)]
        assert solution.stats.backward_steps == 2
        assert solution.stats.backward_evaluations == 4


# --- counts of the real thing ------------------------------------------------------------------------------------

COSTS = {"euler": 1, "midpoint": 2, "heun": 2, "ralston": 2, "heun3": 3, "rk4": 4, "rk4_38": 4}


@pytest.mark.parametrize("method", COSTS)
@pytest.mark.parametrize("steps", [1, 7])
def test_evaluations_of_fixed_steps(method, steps):
    solution = pathline.solve(lambda t, y: -y, torch.ones(2), torch.linspace(0.0, 1.0, steps + 1), method=method)
    assert solution.stats.steps == solution.stats.accepted == steps
    assert solution.stats.evaluations == COSTS[method] * steps


@pytest.mark.parametrize("method", ["bosh3", "tsit5", "dopri5"])
def test_evaluations_of_adaptive_steps_that_hand_on_their_last_slope(method):
    stages = pathline.METHODS[method].stages
    solution = pathline.solve(lambda t, y: -y, torch.ones(2), (0.0, 2.0), method=method)
    first_step_rule = 1
    assert solution.stats.evaluations == 1 + first_step_rule + (stages - 1) * solution.stats.steps
    given = pathline.solve(
        lambda t, y: -y, torch.ones(2), (0.0, 2.0), method=method, controller=pathline.PID(first_step=0.1)
    )
    assert given.stats.evaluations == 1 + (stages - 1) * given.stats.steps


@pytest.mark.parametrize("method", ["fehlberg2", "dopri8"])
def test_evaluations_of_methods_whose_last_stage_is_not_the_next_slope(method):
    """The first stage of a step is evaluated once, also where the step is tried again."""
    stages = pathline.METHODS[method].stages
    field = lambda t, y: torch.cos(3 * t * t) * y  # noqa: E731
    stats = pathline.solve(
        field, torch.ones(2), (0.0, 4.0), method=method, controller=pathline.PID(first_step=1.0)
    ).stats
    assert stats.rejected >= 2
    assert stats.evaluations == stages * stats.accepted + (stages - 1) * stats.rejected


def test_evaluations_of_dense_output_of_the_eighth_order_method():
    """Three stages more a step, and the slope at its end, which serves the next step too."""
    field = lambda t, y: torch.cos(t) * y  # noqa: E731
    controller, save = pathline.PID(first_step=0.1), pathline.Save(dense=True)
    stats = pathline.solve(field, torch.ones(2), (0.0, 2.0), method="dopri8", controller=controller, save=save).stats
    assert stats.rejected == 0
    assert stats.evaluations == 1 + (11 + 1 + 3) * stats.accepted


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4"])
def test_stats_count_the_calls_of_the_field_forward_and_backward(method, gradient):
    calls = []

    def field(t, y):
        calls.append(t)
        return -y

    y0 = torch.ones(2, requires_grad=True)
    solution = pathline.solve(field, y0, torch.linspace(0.0, 1.0, 4), method=method, gradient=gradient)
    forward = len(calls)
    assert solution.stats.evaluations == forward
    assert solution.stats.backward_evaluations == 0
    solution.ys.sum().backward()
    assert solution.stats.evaluations == forward
    assert solution.stats.backward_evaluations == len(calls) - forward
    assert (len(calls) == forward) == (gradient == "backprop")
