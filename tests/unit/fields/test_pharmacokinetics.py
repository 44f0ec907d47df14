"""Doses and infusions against closed forms, on both clocks, with gradients to amounts and times."""

from __future__ import annotations

import pytest
import torch

from pathline import Event, NeuralODE, PerSample, Sum, fields, solve
from pathline.fields import Doses, Infusions, OneCompartment

DOUBLE = torch.float64
TIGHT = {"method": "dopri5", "rtol": 1e-10, "atol": 1e-12}


def bateman(t, dose, ka, k):
    return torch.where(t >= 0, dose * ka / (ka - k) * (torch.exp(-k * t) - torch.exp(-ka * t)), 0.0)


def dripped(t, amount, duration, k):
    """Blood after an infusion that began ``t`` ago."""
    began, ended = torch.exp(-k * t.clamp(min=0)), torch.exp(-k * (t - duration).clamp(min=0))
    return amount / (k * duration) * (ended - began)


def of(*rows):
    return torch.tensor(rows, dtype=DOUBLE)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_doses_at_once_superpose_as_batemans_function(clock):
    ka, clearance, volume = 1.1, torch.tensor([2.0, 5.0], dtype=DOUBLE), 20.0
    doses = Doses(of([0.0, 6.0, 12.0], [0.0, 8.0, 8.0]), of([100.0, 50.0, 25.0], [80.0, 40.0, 0.0]))
    injected = Doses(of([0.0], [11.0]), of([7.0], [9.0]))
    args = {"clearance": clearance, "doses": doses, "injections": injected}
    t = torch.tensor([0.0, 3.0, 7.0, 12.0, 20.0], dtype=DOUBLE)
    field, y0 = OneCompartment(ka, volume=volume, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE)
    solution = solve(field, y0, t, args=PerSample(args) if clock == "per-sample" else args, clock=clock, **TIGHT)
    k = clearance / volume
    exact = sum(bateman(t[:, None] - doses.times[:, i], doses.amounts[:, i], ka, k) for i in range(3))
    since = t[:, None] - injected.times[:, 0]
    exact = exact + torch.where(since >= 0, injected.amounts[:, 0] * torch.exp(-k * since), 0.0)
    torch.testing.assert_close(solution.ys[..., 1], exact, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(solution.ys[0, :, 0], doses.amounts[:, 0])  # a row at the time of a dose is behind it
    torch.testing.assert_close(field.concentration(solution.ys, args), exact / volume, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_short_infusion_in_a_long_solve_is_not_stepped_over(dtype):
    drip = Infusions(*(torch.tensor([x], dtype=dtype) for x in (100.0, 30.0, 0.125)))
    body, t = OneCompartment(clearance=3.0, volume=30.0, dtype=dtype), torch.tensor(120.0, dtype=DOUBLE)
    exact = dripped(t - 100.0, 30.0, 0.125, 0.1).to(dtype)
    for end in (
        solve(body, torch.zeros(2, dtype=dtype), (0.0, 120.0), args={"infusions": drip}).y1,
        NeuralODE(body, t=(0.0, 120.0))(torch.zeros(2, dtype=dtype), args={"infusions": drip}),
        solve(body, torch.zeros(2, dtype=dtype), (0.0, 120.0), args={"infusions": drip}, method="rk4", dt=0.5).y1,
    ):
        torch.testing.assert_close(end[1], exact, rtol=1e-4, atol=1e-5)


def end_of(kind, leaves, clock, gradient="backprop", field=None):
    given = (Infusions if kind == "infusions" else Doses)(*leaves)
    args, y0 = {kind: given}, torch.ones(2, 2, dtype=DOUBLE)
    field = field or OneCompartment(clearance=3.0, volume=10.0, dtype=DOUBLE)
    own = PerSample(args) if clock == "per-sample" else args
    return solve(field, y0, (0.0, 9.0), args=own, clock=clock, gradient=gradient, **TIGHT).y1[:, 1]


GIVEN = {
    "doses": [of([1.0, 4.0, 4.0], [1.0, 5.0, 7.0]), of([30.0, 60.0, 9.0], [20.0, 10.0, 0.0])],
    "infusions": [of([1.0, 5.0], [1.0, 3.0]), of([30.0, 60.0], [20.0, 10.0]), of([2.0, 1.0], [3.0, 2.5])],
}


def closed_form(kind, times, amounts, durations=None):
    k, since = 0.3, 9.0 - times
    each = bateman(since, amounts, 1.0, k) if kind == "doses" else dripped(since, amounts, durations, k)
    start = torch.exp(torch.tensor(-k * 9.0, dtype=DOUBLE)) + bateman(torch.tensor(9.0, dtype=DOUBLE), 1.0, 1.0, k)
    return start + each.sum(-1)


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize(
    ("clock", "gradient"), [("shared", "backprop"), ("per-sample", "backprop"), ("shared", "adjoint")]
)
def test_amounts_and_times_have_gradients_where_moments_coincide_too(kind, clock, gradient):
    leaves = [x.clone().requires_grad_() for x in GIVEN[kind]]
    end, exact = end_of(kind, leaves, clock, gradient), closed_form(kind, *leaves)
    torch.testing.assert_close(end, exact, rtol=1e-8, atol=1e-8)
    weight = of(1.0, 2.0)
    for got, expected in zip(
        torch.autograd.grad((end * weight).sum(), leaves),
        torch.autograd.grad((exact * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", GIVEN)
def test_times_have_second_derivatives(kind):
    times, *rest = GIVEN[kind]

    def hessian(end):
        return torch.autograd.functional.hessian(lambda times: end(times).square().sum(), times)

    found = hessian(lambda times: end_of(kind, [times, *rest], "shared"))
    torch.testing.assert_close(found, hessian(lambda times: closed_form(kind, times, *rest)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", GIVEN)
def test_a_correction_counts_in_the_gradients_of_times(kind):
    times, *rest = (x[:, :1] for x in GIVEN[kind])
    field = fields.Corrected(OneCompartment(dtype=DOUBLE), lambda t, y: 0.1 * torch.sin(y))

    def end(times):
        return end_of(kind, [times, *rest], "shared", field=field)

    torch.autograd.gradcheck(end, (times.clone().requires_grad_(),), eps=1e-5, atol=1e-6)


def test_part_of_a_sum_brings_its_doses_along():
    given = {"doses": Doses(of(1.0), of(10.0))}
    field = OneCompartment(dtype=DOUBLE)
    y0 = torch.zeros(2, dtype=DOUBLE)
    parts = Sum(field, lambda t, y: torch.zeros_like(y))
    expected = solve(field, y0, (0.0, 5.0), args=given, **TIGHT).y1
    torch.testing.assert_close(solve(parts, y0, (0.0, 5.0), args=given, **TIGHT).y1, expected)


def test_times_that_differ_by_rounding_are_one_moment():
    doses = Doses(of([0.3], [0.1 + 0.2]), torch.tensor([[10.0], [10.0]]))
    gut = solve(OneCompartment(), torch.zeros(2, 2), (0.0, 0.3001), args={"doses": doses}).y1[:, 0]
    torch.testing.assert_close(gut, torch.tensor([10.0, 10.0]), rtol=1e-3, atol=0)
    first = Doses(of(0.1), of(10.0))  # float32 puts the start of the solve behind it
    assert solve(OneCompartment(), torch.zeros(2), torch.tensor([0.1, 0.5]), args={"doses": first}).ys[0, 0] == 10.0


def test_a_solve_is_continued_by_what_comes_later():
    args = {
        "doses": Doses(of(0.0, 6.0), of(100.0, 50.0)),
        "infusions": Infusions(of(1.0, 2.0, 7.0), of(30.0, 20.0, 10.0), of(2.0, 4.0, 1.0)),
    }
    field, y0 = OneCompartment(dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    halfway = solve(field, y0, (0.0, 4.0), args=args, **TIGHT).y1
    later = {name: given.later_than(4.0) for name, given in args.items()}
    end = solve(field, halfway, (4.0, 12.0), args=later, **TIGHT).y1
    torch.testing.assert_close(end, solve(field, y0, (0.0, 12.0), args=args, **TIGHT).y1, rtol=1e-8, atol=1e-8)
    each = Doses(of([0.0, 6.0], [0.0, 6.0]), of([1.0, 2.0], [3.0, 4.0])).later_than(of(4.0, 7.0))
    assert each.amounts.tolist() == [[0.0, 2.0], [0.0, 0.0]]
    shared = Doses(of(0.0, 6.0), of(1.0, 2.0)).later_than(of(4.0, 7.0))
    assert shared.amounts.tolist() == [[0.0, 2.0], [0.0, 0.0]]
    assert solve(field, torch.zeros(2, 2, dtype=DOUBLE), (4.0, 7.0), args={"doses": shared}).y1[0].sum() > 1.5


@pytest.mark.parametrize("at", [6.0, 12.3])  # the second is another number in float32
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_dose_where_two_solves_meet_comes_once(at, clock):
    doses = Doses(torch.tensor([0.0, at]), torch.tensor([100.0, 50.0]))

    def run(y, span, given):
        args = {"doses": Doses(*(x.expand(2, 2) for x in given))}
        own = PerSample(args) if clock == "per-sample" else args
        return solve(OneCompartment(), y, span, args=own, clock=clock, rtol=1e-6, atol=1e-6).y1

    begin = torch.zeros(2, 2)
    halfway = run(begin, (0.0, at), doses)
    assert bool((halfway[:, 0] > 49.9).all())
    end = run(halfway, (at, 24.0), doses.later_than(at))
    torch.testing.assert_close(end, run(begin, (0.0, 24.0), doses), rtol=1e-4, atol=1e-4)


def test_two_compartments_are_a_linear_system_and_lose_only_what_is_cleared():
    ka, cl, v, q, vt = 0.9, 2.0, 10.0, 4.0, 25.0
    field = fields.TwoCompartments(ka, cl, v, q, vt, dtype=DOUBLE)
    matrix = torch.tensor([[-ka, 0, 0], [ka, -(cl + q) / v, q / vt], [0, q / v, -q / vt]], dtype=DOUBLE)
    y0 = torch.tensor([100.0, 5.0, 0.0], dtype=DOUBLE)
    exact = torch.linalg.matrix_exp(7.0 * matrix) @ y0
    torch.testing.assert_close(solve(field, y0, (0.0, 7.0), **TIGHT).y1, exact, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(field(torch.tensor(0.0), y0).sum(), -cl / v * y0[1])


def test_what_cannot_be_given_is_refused():
    def t(*numbers):
        return torch.tensor(numbers)

    def given(kind="doses", span=(0.0, 1.0), **options):
        return solve(OneCompartment(), torch.zeros(2), span, args={kind: options.pop("value")}, **options)

    with pytest.raises(ValueError, match=r"`amounts` of Doses has the shape of `times`, \(2,\), but \(1,\)"):
        given(value=Doses(t(0.0, 1.0), t(1.0)))
    with pytest.raises(ValueError, match=r"`amounts` of Doses are finite and not negative, but -2 came at \[1\]"):
        given(value=Doses(t(0.0, 1.0), t(1.0, -2.0)))
    with pytest.raises(ValueError, match=r"`times` of Doses are finite, but nan came at \[1\]"):
        given(value=Doses(t(0.0, torch.nan), t(1.0, 0.0)))
    for duration in (0.0, -1.0):
        with pytest.raises(ValueError, match="`durations` of Infusions are finite and positive, but"):
            given("infusions", value=Infusions(t(0.0), t(1.0), t(duration)))
    with pytest.raises(
        TypeError, match=r'`args\["infusions"\]` is Infusions\(times, amounts, durations\), but .* Doses'
    ):
        given("infusions", value=Doses(t(0.0), t(1.0)))
    with pytest.raises(TypeError, match="`times` of Doses is a tensor, .* but list came"):
        given(value=Doses([0.0], [1.0]))
    rows = Doses(torch.zeros(3, 1), torch.ones(3, 1))
    for kind, value in (("doses", rows), ("infusions", Infusions(*rows, torch.ones(3, 1)))):
        with pytest.raises(
            ValueError, match=r"has a row for each series, but 3 rows came for states of shape \(2, 2\)"
        ):
            solve(OneCompartment(), torch.zeros(2, 2), (0.0, 1.0), args={kind: value})
    early = Doses(t(0.0, 2.0), t(1.0, 1.0))
    with pytest.raises(ValueError, match=r"begins at 0, before the solve, at 1\. .* doses\.later_than\(t0\)"):
        given(span=(1.0, 3.0), value=early)
    assert given(span=(1.0, 3.0), value=early.later_than(1.0)).y1.sum() > 0.9
    with pytest.raises(ValueError, match="forwards in time"):
        given(span=(3.0, 0.0), value=early)
    with pytest.raises(ValueError, match="sees no events"):
        given(value=early, method="scipy")
    with pytest.raises(ValueError, match=r"`events` names 'doses', which the field brings along itself"):
        given(value=early, events={"doses": Event(at=[0.5])})
    with pytest.raises(ValueError, match=r"brings events along \(doses\), and under torch\.func\.vmap"):
        torch.func.vmap(lambda y: solve(OneCompartment(), y, (0.0, 1.0), args={"doses": early}).y1)(torch.zeros(3, 2))


@pytest.mark.parametrize("make", [fields.OneCompartment, fields.TwoCompartments])
def test_doses_that_are_hidden_from_the_solve_are_told(make):
    body, y = make(), torch.zeros(3, len(make().components))

    def around(t, y, args):
        return body(t, y, args)

    args = {"doses": Doses(torch.tensor([0.125, 0.625]), torch.tensor([1.0, 1.0]))}
    inside = solve(body, y, (0.0, 1.0), args=args).y1
    with pytest.warns(UserWarning, match="`args` hold Doses, but the field brings no events along"):
        assert solve(around, y, (0.0, 1.0), args=args).y1.abs().max() == 0.0
    drip = Infusions(*torch.full((3, 3, 1), 0.1))
    with pytest.warns(UserWarning, match="hold Infusions"):
        solve(around, y, (0.0, 1.0), args=PerSample({"infusions": drip}), clock="per-sample")
    around.own_events = body.own_events
    torch.testing.assert_close(solve(around, y, (0.0, 1.0), args=args).y1, inside)


def test_steps_that_are_made_again_after_the_solve_do_not_warn():
    amounts = torch.tensor([100.0, 50.0], requires_grad=True)
    given = {"doses": Doses(torch.tensor([0.0, 0.77]), amounts)}
    end = solve(OneCompartment(), torch.zeros(2), (0.0, 2.0), args=given, gradient="checkpointed").y1
    assert torch.autograd.grad(end.sum(), amounts)[0].min() > 0


def test_an_infusion_too_short_for_the_clock_of_the_field_is_refused():
    late, given = 480_000.0, torch.tensor([10.0])
    for minutes, dtype, fits in ((1.0, torch.float32, False), (6.0, torch.float32, True), (1.0, torch.float64, True)):
        start = torch.tensor([late + 1.01], dtype=torch.float64)
        infusions = Infusions(start, given.double(), torch.tensor([minutes / 60], dtype=torch.float64))
        body = OneCompartment(clearance=1e-9, dtype=dtype)
        hours = torch.tensor([late, late + 3.0], dtype=torch.float64)
        if fits:
            solution = solve(body, torch.zeros(1, 2, dtype=dtype), hours, args={"infusions": infusions})
            assert solution.y1[0, 1].item() == pytest.approx(10.0, rel=1e-3)
            continue
        with pytest.raises(ValueError, match="one that lasts 0.0166667 at 480001"):
            solve(body, torch.zeros(1, 2, dtype=dtype), hours, args={"infusions": infusions})
