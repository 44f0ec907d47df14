"""The options of `solve`: each wrong one is refused at the front door, with what came and what to do."""

from __future__ import annotations

import math

import pytest
import torch

import pathline

Y0 = torch.ones(3, 2)
TIMES = torch.linspace(0.0, 1.0, 5)


def decay(t, y):
    return -y


def solve(**options):
    return pathline.solve(decay, Y0, TIMES, **options)


# --- method and gradient -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typo", "meant"), [("dorpi5", "dopri5"), ("tsit", "tsit5"), ("RK4", "rk4"), ("ruler", "euler")]
)
def test_an_unknown_method_and_the_one_that_was_meant(typo, meant):
    with pytest.raises(ValueError, match=rf'No solver is called "{typo}"\. Did you mean "{meant}"\? The others: '):
        solve(method=typo)


def test_an_unknown_method_far_from_all():
    with pytest.raises(ValueError, match=r'No solver is called "zzz"\. There are: euler, ') as caught:
        solve(method="zzz")
    assert all(name in str(caught.value) for name in pathline.METHODS)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "method", [5, None, pathline.METHODS, type(pathline.METHODS["rk4"])], ids=lambda m: str(m)[:20]
)
def test_what_is_no_method(method):
    with pytest.raises(TypeError, match=r"`method` is a name or a Solver with init\(\) and step\(\); it is "):
        solve(method=method)


def test_a_solver_object_is_a_method():
    y1 = solve(method=pathline.METHODS["dopri5"]).y1
    assert torch.equal(y1, solve(method="dopri5").y1)


def test_an_unknown_gradient_and_the_one_that_was_meant():
    with pytest.raises(ValueError, match=r'No gradient is called "adjiont"\. Did you mean "adjoint"\? The others: '):
        solve(gradient="adjiont")


@pytest.mark.parametrize("gradient", [None, 3, pathline.Adjoint], ids=str)
def test_what_is_no_gradient(gradient):
    with pytest.raises(
        TypeError, match=r"`gradient` is a name or a Gradient object such as pathline\.Adjoint\(\); it is"
    ):
        solve(gradient=gradient)


# --- tolerances --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize(
    ("value", "came"),
    [(-1e-3, "-0.001"), (math.nan, "nan"), (math.inf, "inf"), (torch.tensor([1e-3, -0.5]), "-0.5")],
    ids=str,
)
def test_tolerances_are_not_negative(name, value, came):
    with pytest.raises(ValueError, match=rf"`{name}` is a finite number >= 0; it is {came}\."):
        solve(**{name: value})


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_nan_in_a_tensor_of_tolerances(name):
    with pytest.raises(ValueError, match=rf"`{name}` is a finite number >= 0; it is nan"):
        solve(**{name: torch.tensor([1e-3, math.nan])})


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 3, 2), (3, 2, 1)], ids=str)
def test_tolerances_broadcast_to_the_state_and_not_beyond(name, shape):
    with pytest.raises(ValueError, match=rf"`{name}` of shape .* does not broadcast to the state's \(3, 2\)"):
        solve(**{name: torch.full(shape, 1e-3)})


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", ["tight", [1e-3, 1e-3], {"a": 1e-3}], ids=str)
def test_what_is_no_tolerance(name, value):
    with pytest.raises(
        ValueError, match=rf"`{name}` is a number, a tensor that broadcasts to the state, or a structure"
    ):
        solve(**{name: value})


def ends(y0, field=decay, t=(0.0, 3.0), **options):
    found = []
    hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: found.append(t1))
    pathline.solve(field, y0, t, hooks=hooks, **options)
    return found


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tensor_of_equal_tolerances_is_the_number(name):
    y0 = torch.rand(3, 2, dtype=torch.float64) + 0.5
    number = ends(y0, **{name: 1e-5})
    for shape in ((), (1,), (2,), (3, 1), (3, 2)):
        assert ends(y0, **{name: torch.full(shape, 1e-5, dtype=torch.float64)}) == number


def test_a_loose_component_lets_the_steps_grow():
    y0 = torch.ones(2, dtype=torch.float64)
    field = lambda t, y: torch.stack((-y[0], torch.cos(20 * t) * torch.ones_like(y[1])))  # noqa: E731
    tight = ends(y0, field, atol=torch.tensor([1e-6, 1e-6]), rtol=0.0)
    loose = ends(y0, field, atol=torch.tensor([1e-6, 1e3]), rtol=0.0)
    assert len(loose) < len(tight) / 2


def test_tolerances_in_the_structure_of_the_state():
    y0 = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(2, 3, dtype=torch.float64)}
    field = lambda t, y: {"a": -y["a"], "b": torch.cos(20 * t) * y["b"]}  # noqa: E731
    number = ends(y0, field, atol=1e-6)
    assert ends(y0, field, atol={"a": 1e-6, "b": 1e-6}) == number
    assert (
        ends(
            y0,
            field,
            atol={"a": torch.full((2,), 1e-6, dtype=y0["a"].dtype), "b": torch.full((3,), 1e-6, dtype=y0["a"].dtype)},
        )
        == number
    )
    assert len(ends(y0, field, atol={"a": 1e-6, "b": 1e2})) < len(number) / 2
    with pytest.raises(ValueError, match=r"`atol` of shape \(5,\) does not broadcast to the state's \(2,\)"):
        ends(y0, field, atol={"a": torch.ones(5), "b": 1e-6})


def test_a_step_counts_by_the_root_mean_square_of_error_over_tolerance():
    """Documented rule, from the outside: the first accepted ratio is at most one, and the tried one above it."""
    y0 = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    rtol, atol = 1e-4, 1e-5
    ratios = {"accept": [], "reject": []}

    def note(kind):
        def hook(t0, t1, y, step):
            scale = atol + rtol * torch.maximum(y.abs(), step.y1.abs())
            ratios[kind].append((step.error / scale).square().mean().sqrt().item())

        return hook

    pathline.solve(
        lambda t, y: torch.cos(30 * t) * y,
        y0,
        (0.0, 2.0),
        method="dopri5",
        rtol=rtol,
        atol=atol,
        hooks=pathline.Hooks(on_accept=note("accept"), on_reject=note("reject")),
    )
    assert ratios["accept"]
    assert ratios["reject"]
    assert max(ratios["accept"]) <= 1.0 + 1e-12
    assert min(ratios["reject"]) > 1.0


# --- fixed and adaptive steps ------------------------------------------------------------------------------------

FIXED = [name for name, solver in pathline.METHODS.items() if not solver.adaptive]
ADAPTIVE = [
    name for name, solver in pathline.METHODS.items() if solver.adaptive and not getattr(solver, "whole", False)
]
TERMS = {
    "rate": decay,
    "parts": pathline.Sum(decay, decay),
    "split": pathline.Separable(lambda t, q: -q, lambda t, p: p),
}


def solve_with(method, **options):
    """Solve a term of the kind that the method needs."""
    return pathline.solve(TERMS[pathline.METHODS[method].needs], Y0, TIMES, method=method, **options)


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tolerance_is_refused_by_a_fixed_step_method(method, name):
    with pytest.raises(ValueError, match=rf'`{name}` was given, and the steps are fixed: "{method}" has no use for it\. '
                       r'Set `dt`, or choose an adaptive method such as "tsit5"'):  # fmt: skip
        solve_with(method, **{name: 1e-3})


@pytest.mark.parametrize("controller", [pathline.FixedStep(0.1), pathline.Grid()])
def test_a_tolerance_is_refused_where_an_adaptive_method_takes_fixed_steps(controller):
    with pytest.raises(ValueError, match=r"`atol` was given, and the steps are fixed"):
        solve(atol=1e-3, controller=controller)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_dt_is_refused_by_an_adaptive_method(method):
    with pytest.raises(ValueError, match=rf'`dt` is the step of a fixed-step method, and "{method}" chooses its steps\. '
                       r"Use controller=PID\(first_step=0\.1\), or controller=FixedStep\(0\.1\)"):  # fmt: skip
        solve_with(method, dt=0.1)


@pytest.mark.parametrize("option", [{"dt": 0.1}, {"controller": pathline.PID()}], ids=str)
def test_a_method_that_chooses_its_steps_itself_refuses_both(option):
    with pytest.raises(ValueError, match=r'"scipy" chooses its steps itself: leave out `dt` and `controller`'):
        solve(method="scipy", **option)


def test_dt_beside_a_controller():
    with pytest.raises(ValueError, match=r"`dt` and `controller` were both given; .* Keep one"):
        solve(method="rk4", dt=0.1, controller=pathline.FixedStep(0.1))


@pytest.mark.parametrize("dt", [0, 0.0, -0.1, math.nan, math.inf, "small", None.__class__, [0.1]], ids=str)
def test_dt_is_a_positive_number(dt):
    with pytest.raises(ValueError, match=r"`dt` is a positive number; it is .*The sign of time follows from `t`"):
        solve(method="rk4", dt=dt)


@pytest.mark.parametrize("t", [(0, 1), (0.0, 1.0), [0.0, 1.0]], ids=str)
def test_fixed_steps_need_a_step(t):
    with pytest.raises(ValueError, match=r'"rk4" takes fixed steps: set `dt`, or pass the grid as a tensor `t`'):
        pathline.solve(decay, Y0, t, method="rk4")


def test_a_tensor_of_two_times_is_a_grid():
    assert pathline.solve(decay, Y0, torch.tensor([0.0, 1.0]), method="rk4").stats.steps == 1


def test_pid_needs_an_error_estimate():
    with pytest.raises(ValueError, match=r'"rk4" has no error estimate for a PID controller\. Use FixedStep\(dt\), or'):
        solve(method="rk4", controller=pathline.PID())


@pytest.mark.parametrize("controller", ["pid", 0.1, pathline.PID], ids=str)
def test_what_is_no_controller(controller):
    with pytest.raises(
        TypeError, match=r"`controller` is an object such as PID\(\), FixedStep\(dt\) or Grid\(\); it is"
    ):
        solve(controller=controller)


# --- controllers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["first_step", "min_step", "max_step"])
@pytest.mark.parametrize("value", [0, -0.5, math.nan])
def test_steps_are_positive(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` is positive; it is {value}\. The sign of time follows from `t`"):
        pathline.PID(**{name: value})


def test_the_least_step_is_at_most_the_largest():
    with pytest.raises(ValueError, match=r"`min_step` is at most `max_step`; they are 2 and 1"):
        pathline.PID(min_step=2, max_step=1)


@pytest.mark.parametrize("wrong", [{"safety": 0}, {"safety": 1.1}, {"shrink": 1}, {"shrink": 0}, {"grow": 1}], ids=str)
def test_factors_of_the_controller(wrong):
    with pytest.raises(ValueError, match=r"`safety` lies in \(0, 1\], `shrink` in \(0, 1\), `grow` above 1; they are"):
        pathline.PID(**wrong)


def test_times_of_jumps_carry_no_gradient():
    with pytest.raises(ValueError, match=r"`jumps` requires grad, .* detach it"):
        pathline.PID(jumps=torch.tensor([0.5], requires_grad=True))


@pytest.mark.parametrize(
    ("grid", "came"),
    [
        ([], "0 times"),
        ([0.0], "1 times from 0 to 0"),
        ([0.0, 0.5], r"2 times from 0 to 0\.5"),
        ([0.1, 1.0], r"2 times from 0\.1 to 1"),
        ([1.0, 0.5, 0.0], "3 times from 1 to 0"),
        ([0.0, 0.5, 0.5, 1.0], "4 times"),
        ([0.0, 0.6, 0.4, 1.0], "4 times"),
    ],
)
def test_a_grid_runs_from_the_first_time_to_the_last(grid, came):
    with pytest.raises(ValueError, match=rf"`Grid\(times\)` runs strictly from the first .* 0 to 1; it has {came}"):
        solve(method="rk4", controller=pathline.Grid(grid))


# --- the rest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_steps", [0, -1, 2.5, True, "many"])
def test_max_steps_is_a_positive_integer(max_steps):
    with pytest.raises(ValueError, match=rf"`max_steps` is a positive integer; it is {max_steps!r}"):
        solve(max_steps=max_steps)


def test_what_compiles_is_a_choice_or_options():
    with pytest.raises(TypeError, match=r"`compile` is True, False, or a mapping of options for Inductor"):
        solve(compile="yes")


@pytest.mark.parametrize(
    "events",
    [[lambda t, y: y[0]], lambda t, y: y[0], {"a": 3}, "ground"],
    ids=["a list", "a function", "a mapping", "a name"],
)
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_what_is_no_event(events, clock):
    with pytest.raises(TypeError, match=r"`events` is an Event, or a sequence or mapping of them; it holds .* Pass "):
        solve(events=events, clock=clock)


def test_words_that_an_option_does_not_know():
    with pytest.raises(ValueError, match=r"`clock` is \"shared\" or \"per-sample\"; it is 'own'"):
        solve(clock="own")
    with pytest.raises(ValueError, match=r"`on_failure` is \"raise\" or \"return\"; it is 'ignore'"):
        solve(on_failure="ignore")


def test_options_go_by_name():
    with pytest.raises(TypeError, match="positional argument"):
        pathline.solve(decay, Y0, TIMES, "tsit5")


def test_times_with_gradient_and_rows_at_other_times():
    t = torch.linspace(0.0, 1.0, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"`t` requires grad, and Save\(steps=True\) keeps rows at other times"):
        pathline.solve(decay, Y0, t, save=pathline.Save(steps=True))


def test_progress_runs_from_zero_to_one():
    for t in ((0.0, 2.0), (2.0, 0.0)):
        heard = []
        solution = pathline.solve(decay, Y0, t, progress=heard.append)
        assert len(heard) == solution.stats.accepted
        assert heard == sorted(heard)
        assert 0.0 < heard[0] < 1.0
        assert heard[-1] == 1.0


def test_nothing_is_evaluated_before_the_arguments_are_checked():
    def field(t, y):
        raise AssertionError("evaluated")

    for wrong in ({"method": "nope"}, {"rtol": -1.0}, {"dt": 0.1}, {"max_steps": 0}, {"on_failure": "no"}):
        with pytest.raises(ValueError):
            pathline.solve(field, Y0, TIMES, **wrong)


def test_tolerances_of_a_dict_go_by_its_keys():
    field = lambda t, y: {"a": 10 * torch.cos(10 * t) * torch.ones(1), "b": -y["b"]}  # noqa: E731
    y0 = {"b": torch.ones(1), "a": torch.zeros(1)}
    counts = [
        pathline.solve(field, y0, (0.0, 3.0), rtol=rtol, atol=1e-4).stats.accepted
        for rtol in ({"a": 1e-7, "b": 0.1}, {"b": 0.1, "a": 1e-7})
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("rtol", [[1e-3, 1e-3], (1e-3, 1e-3), {"a": 1e-3}], ids=["list", "tuple", "half"])
def test_tolerances_of_another_structure_are_refused(rtol):
    y0 = {"a": torch.ones(1), "b": torch.ones(1)}
    with pytest.raises(ValueError, match="`rtol` is a number, a tensor that broadcasts"):
        pathline.solve(lambda t, y: {"a": -y["a"], "b": -y["b"]}, y0, (0.0, 1.0), rtol=rtol)


def test_tolerances_that_no_step_can_meet():
    with pytest.raises(ValueError, match="`rtol` and `atol` are both 0"):
        pathline.solve(lambda t, y: -y, torch.ones(1), (0.0, 1.0), rtol=0.0, atol=0.0)


def test_a_relative_tolerance_alone_with_a_zero_in_the_state():
    rotation = lambda t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    y1 = pathline.solve(rotation, torch.tensor([1.0, 0.0]), (0.0, 1.0), rtol=1e-4, atol=0.0).y1
    torch.testing.assert_close(y1, torch.tensor([0.5403, -0.8415]), rtol=1e-3, atol=1e-3)


def test_times_so_large_that_a_step_is_one_rounding():
    solution = pathline.solve(lambda t, y: -y, torch.ones(2, dtype=torch.float64), (1e15, 1e15 + 10))
    torch.testing.assert_close(solution.y1, torch.full((2,), 4.54e-5, dtype=torch.float64), rtol=1e-2, atol=1e-6)
