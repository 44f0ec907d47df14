"""The loop with one clock a sample, with a stub solver and a stub controller: every call is counted."""

from __future__ import annotations

import pytest
import torch

import pathline
from pathline import Hooks, Save, Status
from pathline.solvers.base import Memory, Packed, either, floating, lasting, rows_of
from tests.loop.row_stubs import RowLineSolver, RowScript

D = torch.float64
YES, NO = True, False


def run(moves, t, *, solver=None, script=None, width=2, **options):
    sizes = []

    def f(t, y):
        sizes.append((tuple(t.shape), len(y)))
        return torch.zeros_like(y)

    solver, script = solver or RowLineSolver(), script or RowScript(moves)
    y0 = torch.zeros(len(script.moves), width, dtype=D)
    with torch.no_grad():
        solution = pathline.solve(
            f, y0, torch.tensor(t, dtype=D), method=solver, controller=script, clock="per-sample", **options
        )
    return solution, solver, script, sizes


MOVES = [
    [(0.25, YES), (0.5, NO), (0.25, YES)],  # ends at 0.5 after three tries
    [(1.0, YES)],  # ends at 1 at once
    [(0.5, NO), (0.25, YES), (0.5, YES), (0.25, YES)],  # backwards, to -1
    [],  # stays where it is
]
T = [[0.0, 0.0, 0.0, 2.0], [0.1, 0.5, -0.5, 2.0], [0.5, 1.0, -1.0, 2.0]]


def test_one_step_moves_all_active_samples_and_those_that_are_done_leave():
    solution, solver, _, sizes = run(MOVES, T)
    assert solver.log == [
        ("init", [0.0, 0.0, 0.0, 2.0]),
        ("step", [0.0, 0.0, 0.0], [0.25, 1.0, -0.5]),
        ("coefficients", [0, 1]),  # the times of samples 0 and 1; the third was rejected
        ("step", [0.25, 0.0], [0.75, -0.25]),
        ("step", [0.25, -0.25], [0.5, -0.75]),
        ("coefficients", None),  # of both
        ("step", [-0.75], [-1.0]),
    ]
    assert sizes == [((n, 1), n) for n in (4, 3, 3, 2, 2, 2, 2, 1, 1)]
    rows = solution.stats.rows
    assert rows.accepted.tolist() == [2, 1, 3, 0]
    assert rows.rejected.tolist() == [1, 0, 1, 0]
    assert rows.evaluations.tolist() == [1 + 2 * 3, 1 + 2, 1 + 2 * 4, 1]
    stats = solution.stats
    assert (stats.steps, stats.accepted, stats.rejected, stats.evaluations) == (4, 4, 0, 9)
    assert solution.ys[..., 0].tolist() == [[0.0, 0.0, 0.0, 0.0], [0.1, 0.5, -0.5, 0.0], [0.5, 1.0, -1.0, 0.0]]
    assert solution.t1.tolist() == [0.5, 1.0, -1.0, 2.0]
    assert list(solution.status) == [Status.SUCCESS] * 4


def test_methods_with_free_dense_output_are_read_once():
    solution, solver, _, _ = run(MOVES, T, solver=RowLineSolver(free_dense=True))
    assert [entry[0] for entry in solver.log] == ["init", *["step"] * 4, *["coefficients"] * 4]
    assert solution.ys[..., 0].tolist() == [[0.0, 0.0, 0.0, 0.0], [0.1, 0.5, -0.5, 0.0], [0.5, 1.0, -1.0, 0.0]]
    assert solution.valid.all()


def test_accepted_samples_take_the_new_carry_and_the_others_their_retry():
    _, solver, _, _ = run(MOVES, T)
    tries, steps = zip(*((c[0], c[1]) for c in solver.carries), strict=True)
    assert tries == ([0, 0, 0], [1, 1], [2, 2], [3])
    assert steps == ([0, 0, 0], [1, 0], [1, 1], [2])  # of sample 0, and of sample 2, which began with a rejection


def test_a_step_that_nobody_may_have_counts_as_rejected():
    moves = [[(0.5, NO), (1.0, YES)], [(0.5, NO), (1.0, YES)]]
    solution, solver, _, _ = run(moves, [[0.0, 0.0], [1.0, 1.0]])
    assert (solution.stats.steps, solution.stats.accepted, solution.stats.rejected) == (2, 1, 1)
    assert solution.stats.rows.rejected.tolist() == [1, 1]
    assert solver.count("coefficients") == 0  # both rows are ends of steps


def test_a_jump_hands_no_carry():
    script = RowScript([[(0.5, YES), (0.5, YES)], [(0.25, YES), (0.75, YES)]], jumps=(0.5,))
    _, solver, _, _ = run(None, [[0.0, 0.0], [1.0, 1.0]], script=script)
    assert solver.carries[0] is not None
    assert solver.carries[1] is None


def test_the_controller_is_told_the_setting_once():
    _, _, script, _ = run(MOVES, T, rtol=1e-2, atol=1e-3)
    ((setting, y0, args, carry),) = script.told
    assert setting.times.tolist() == T
    assert (setting.term.tolerance.rtol, setting.term.tolerance.atol) == (1e-2, 1e-3)
    assert setting.term.tolerance.per_sample
    assert y0.shape == (4, 2)
    assert args is None
    assert carry[0].tolist() == [0.0] * 4


def test_a_sample_that_fails_leaves_and_the_others_go_on():
    moves = [[(0.25, YES), (0.5, NO)], [(0.5, YES), (0.25, YES), (0.25, YES)]]
    t = [[0.0, 0.0], [0.25, 0.25], [1.0, 1.0]]
    solution, solver, _, _ = run(moves, t, on_failure="return")
    assert list(solution.status) == [Status.STEP_UNDERFLOW, Status.SUCCESS]
    assert solution.t1.tolist() == [0.25, 1.0]
    assert solution.valid.tolist() == [[True, True], [True, True], [False, True]]
    assert solution.ys[..., 0].tolist() == [[0.0, 0.0], [0.25, 0.25], [0.25, 1.0]]
    assert solver.steps()[-1] == ([0.75], [1.0])


def test_max_steps_are_tries_of_the_samples_that_are_left():
    solution, solver, _, _ = run(MOVES, T, max_steps=3, on_failure="return")
    assert list(solution.status) == [Status.SUCCESS, Status.SUCCESS, Status.MAX_STEPS, Status.SUCCESS]
    assert solver.count("step") == 3
    assert solution.t1.tolist() == [0.5, 1.0, -0.75, 2.0]
    assert run(MOVES, T, max_steps=4)[0].status


def test_every_step_and_curve_of_every_sample():
    solution, _, _, _ = run(MOVES, T, save=Save(steps=True, dense=True))
    assert solution.ts.T.tolist() == [
        [0.0, 0.25, 0.5, 0.5],
        [0.0, 1.0, 1.0, 1.0],
        [0.0, -0.25, -0.75, -1.0],
        [2.0, 2.0, 2.0, 2.0],
    ]
    assert solution.valid.sum(0).tolist() == [3, 2, 4, 1]
    assert torch.equal(solution.ys[:, :3, 0], solution.ts[:, :3])
    at = torch.tensor([0.3, 0.3, -0.3, 2.0], dtype=D)
    assert solution(at)[:3, 1].tolist() == pytest.approx([0.3, 0.3, -0.3])
    assert solution.derivative(at)[:3, 1].tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_hooks_hear_of_active_and_of_accepted_samples():
    log = []
    hooks = Hooks(
        on_step=lambda t0, t1, y: log.append(("step", t0.tolist(), t1.tolist())),
        on_accept=lambda t0, t1, y, step: log.append(("accept", t0.tolist(), step.index.tolist(), step.y1.shape[0])),
        on_reject=lambda t0, t1, y, step: log.append(("reject", t0.tolist())),
    )
    run([[(1.0, NO), (1.0, YES)], [(0.5, NO), (0.5, YES), (0.5, YES)]], [[0.0, 0.0], [1.0, 1.0]], hooks=hooks)
    assert log == [
        ("step", [0.0, 0.0], [1.0, 0.5]),
        ("reject", [0.0, 0.0]),
        ("step", [0.0, 0.0], [1.0, 0.5]),
        ("accept", [0.0, 0.0], [0, 1], 2),
        ("step", [0.5], [1.0]),
        ("accept", [0.5], [1], 1),
    ]


def test_repeats_are_all_served():
    t = [[0.0, 0.0], [0.0, 0.3], [0.3, 0.3], [0.3, 1.0], [1.0, 1.0]]
    solution, _, _, _ = run([[(1.0, YES)], [(0.5, YES), (0.5, YES)]], t)
    assert torch.equal(solution.ys[..., 0], torch.tensor(t, dtype=D))


def test_nothing_happens_on_points():
    solution, solver, _, sizes = run([[], []], [[0.5, 1.0], [0.5, 1.0]])
    assert solver.log == sizes == []
    assert solution.stats.rows.evaluations.tolist() == [0, 0]


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_recomputations_make_the_accepted_steps_of_their_samples_again(gradient):
    """Under gradients the same script gives the same steps; memories do not reach a recomputation."""
    solver, script = RowLineSolver(), RowScript(MOVES)
    y0 = torch.zeros(4, 2, dtype=D, requires_grad=True)
    solution = pathline.solve(
        lambda t, y: 0 * y, y0, torch.tensor(T, dtype=D), method=solver, controller=script, clock="per-sample",
        gradient=gradient,
    )  # fmt: skip
    forward = [
        ([0.0, 0.0, 0.0], [0.25, 1.0, -0.5]),
        ([0.25, 0.0], [0.75, -0.25]),
        ([0.25, -0.25], [0.5, -0.75]),
        ([-0.75], [-1.0]),
    ]
    assert solver.steps() == forward
    solution.y1.sum().backward()
    assert y0.grad.tolist() == [[1.0, 1.0]] * 4
    if gradient == "checkpointed":
        assert solver.steps()[4:] == [
            ([-0.75], [-1.0]),
            ([0.25, -0.25], [0.5, -0.75]),
            ([0.0], [-0.25]),
            ([0.0, 0.0], [0.25, 1.0]),
        ]
        assert all(carry is None or carry[2] is None for carry in solver.carries[4:])
        assert solution.stats.backward_steps == 4


# --- carries -----------------------------------------------------------------------------------------------------

A, B = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])
MASK = torch.tensor([True, False, True])


def test_row_by_row_one_carry_or_the_other():
    assert either(MASK, A, B).tolist() == [1.0, 20.0, 3.0]
    wide = either(MASK, torch.stack((A, A), 1), torch.stack((B, B), 1))
    assert wide.tolist() == [[1.0, 1.0], [20.0, 20.0], [3.0, 3.0]]
    mixed = either(MASK, {"x": A, "y": (A,)}, {"x": B, "y": (B,)})
    assert mixed["x"].tolist() == mixed["y"][0].tolist() == [1.0, 20.0, 3.0]
    assert either(MASK, A, A) is A
    kept = either(MASK, (A, Memory(A)), (B, Memory(B)))
    assert isinstance(kept[1], Memory)
    assert kept[1].tree.tolist() == [1.0, 20.0, 3.0]


def test_carries_that_are_not_alike_are_none():
    assert either(MASK, None, None) is None
    assert either(MASK, A, None) is None
    assert either(MASK, None, A) is None
    assert either(MASK, A, B[:, None].expand(3, 2)) is None
    assert either(MASK, (A,), (B, B)) is None
    assert either(MASK, {"x": A}, {"y": B}) is None


def test_the_carry_of_some_rows():
    index = torch.tensor([2, 0])
    assert rows_of(None, index) is None
    assert rows_of(A, index).tolist() == [3.0, 1.0]
    some = rows_of({"x": A, "k": 7, "m": Memory(B)}, index)
    assert some["x"].tolist() == [3.0, 1.0]
    assert some["k"] == 7
    assert some["m"].tree.tolist() == [30.0, 10.0]


def test_memories_are_left_out_of_what_lasts():
    carry = (A, Memory({"lu": B}), [Memory(A), B])
    assert lasting(A) is A
    assert lasting(None) is None
    kept = lasting(carry)
    assert kept[0] is A
    assert kept[1] is None
    assert kept[2] == [None, B]
    assert [x.tolist() for x in floating(carry)] == [A.tolist(), B.tolist()]


def test_a_carry_taken_apart_and_put_together():
    count = torch.tensor([1, 2, 3])
    packed = Packed({"y": A, "order": count, "slopes": (B, None)})
    taken = packed.take()
    assert [x.tolist() for x in taken] == [A.tolist(), B.tolist()]
    again = packed.with_([2 * x for x in taken])
    assert again["y"].tolist() == (2 * A).tolist()
    assert again["order"] is count
    assert again["slopes"][0].tolist() == (2 * B).tolist()
    assert again["slopes"][1] is None
    assert packed.with_(taken)["y"] is A  # any number of times
    assert Packed(None).take() == []
    assert Packed(None).with_([]) is None
