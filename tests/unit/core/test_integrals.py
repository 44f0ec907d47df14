"""Running costs beside the state, costs of steps, and end times that jitter."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import pathline
from pathline import Event, Save, solve

DOUBLE = torch.float64


class Field(nn.Module):
    """A small nonlinear field that depends on time."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 3, dtype=DOUBLE, generator=generator))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight) - 0.3 * y * torch.cos(t)


def start(batch: int = 4) -> Tensor:
    return torch.linspace(-1, 1, 3 * batch, dtype=DOUBLE).reshape(batch, 3)


TIMES = torch.linspace(0, 1, 4, dtype=DOUBLE)


def costs() -> dict:
    return {
        "energy": pathline.KineticEnergy(),
        "drift": lambda t, y, dy: torch.cos(t.reshape(-1)) * (y * dy).sum(-1),
        "jacobian": pathline.JacobianNorm(start().sign() + 0.5),
    }


# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "kvaerno5", "rodas5p", "bdf", "radau5", "auto", "rk4"])
def test_closed_form_in_the_steps_of_the_state_alone(method: str, clock: str) -> None:
    """y' = -r y: the energy is r y0^2 (1 - exp(-2 r t)) / 2, and nothing is evaluated for it."""
    rate = torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE).unsqueeze(1)
    args = pathline.PerSample(rate) if clock == "per-sample" else rate
    options = {"dt": 0.02} if method == "rk4" else {"rtol": 1e-8, "atol": 1e-10}
    y0 = torch.tensor([[1.0], [-2.0], [3.0]], dtype=DOUBLE)

    def run(**more) -> pathline.Solution:
        return solve(lambda t, y, r: -r * y, y0, TIMES, method=method, clock=clock, args=args, **options, **more)

    alone, solution = run(), run(integrals={"energy": pathline.KineticEnergy()})
    exact = (rate * y0**2 / 2 * (1 - torch.exp(-2 * rate * TIMES))).T
    torch.testing.assert_close(solution.integrals["energy"], exact, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(solution.integrals1["energy"], solution.integrals["energy"][-1], rtol=0, atol=0)
    torch.testing.assert_close(solution.ys, alone.ys, rtol=1e-10, atol=1e-12)
    counts = [(s.stats.accepted, s.stats.rejected, s.stats.evaluations) for s in (alone, solution)]
    assert counts[0] == counts[1]


def test_explicit_steps_are_the_same_to_the_last_bit() -> None:
    alone, beside = (solve(Field(), start(), TIMES, rtol=1e-7, **more) for more in ({}, {"integrals": costs()}))
    assert torch.equal(alone.ys, beside.ys)
    assert alone.stats.evaluations == beside.stats.evaluations


def test_tolerances_and_norm_of_the_state_alone() -> None:
    """Tolerances of each component, and a norm, still mean the user's state."""
    tight = torch.tensor([1e-9, 1e-6, 1e-3], dtype=DOUBLE)
    norm = pathline.PID(norm=lambda scaled: scaled.abs().max())
    for clock in ("shared", "per-sample"):
        chosen = {"controller": norm} if clock == "shared" else {}
        alone, beside = (
            solve(Field(), start(), TIMES, rtol=tight, atol=tight, clock=clock, **chosen, **more)
            for more in ({}, {"integrals": {"one": lambda t, y, dy: torch.ones_like(y[:, 0])}})
        )
        assert alone.stats.steps == beside.stats.steps
        torch.testing.assert_close(beside.integrals1["one"], torch.ones(4, dtype=DOUBLE))


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_the_state_is_shown_as_ever(gradient: str) -> None:
    """Structures, Save and dense output know nothing of the costs; costs stand at the rows of `ts`."""

    def field(t: Tensor, y: dict) -> dict:
        return {"a": y["b"][..., :1], "b": -y["a"].expand_as(y["b"])}

    y0 = {"a": torch.zeros(2, 1, dtype=DOUBLE), "b": torch.ones(2, 3, dtype=DOUBLE, requires_grad=True)}
    energy = {"energy": lambda t, y, dy: dy["a"].square().sum(-1), "single": lambda t, y, dy: dy["b"].sum()}
    kept = solve(field, y0, TIMES, save=Save(dense=True), integrals=energy, gradient=gradient)
    assert kept.ys["a"].shape == (4, 2, 1)
    assert kept.ys["b"].shape == (4, 2, 3)
    assert kept.integrals["energy"].shape == (4, 2)
    assert kept.integrals["single"].shape == (4,)
    assert set(kept(0.5)) == {"a", "b"}
    torch.testing.assert_close(kept.integrals["single"], 6 * (torch.cos(TIMES) - 1), rtol=1e-5, atol=1e-7)
    size = solve(field, y0, TIMES, save=Save(fn=lambda t, y: y["b"].sum()), integrals=energy, gradient=gradient)
    torch.testing.assert_close(size.ys, 6 * torch.cos(TIMES), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(size.integrals["energy"], kept.integrals["energy"])
    steps = solve(field, y0, (0.0, 1.0), save=Save(steps=True), integrals=energy, gradient=gradient)
    assert len(steps.ts) == steps.stats.accepted + 1 == len(steps.integrals["energy"])
    again = pickle.loads(pickle.dumps(solve(lambda t, y: -y, start(), TIMES, save=Save(dense=True), integrals=costs())))
    assert again(0.5).shape == (4, 3)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_costs_run_on_through_events(clock: str) -> None:
    """A ball that bounces without loss: the integral of |dy|^2 over both flights; the reset sees the state alone."""
    drop, g = 1.0, 2.0
    bounce = Event(
        lambda t, y: y[:, 0] if clock == "per-sample" else y[0, 0],
        direction=-1,
        terminal=False,
        reset=lambda t, y: torch.stack([y[:, 0].abs(), y[:, 1].abs()], 1),
    )
    shown = []
    solution = solve(
        lambda t, y: torch.stack([y[:, 1], torch.full_like(y[:, 1], -g)], 1),
        torch.tensor([[drop, 0.0]], dtype=DOUBLE),
        (0.0, 1.5),
        events={"bounce": bounce},
        integrals={"energy": pathline.KineticEnergy()},
        hooks=pathline.Hooks(on_accept=lambda t0, t1, y, step: shown.append(y.shape)),
        clock=clock,
    )
    # Velocity: -g t before the bounce at t = 1, 2 g - g t after it.
    exact = g**2 * (1 / 3 + (1**3 - 0.5**3) / 3) + g**2 * 1.5
    torch.testing.assert_close(solution.integrals1["energy"], torch.tensor([exact], dtype=DOUBLE), rtol=1e-6, atol=0)
    record = solution.events["bounce"]
    assert (
        record.before.shape == record.after.shape == ((1, 2) if clock == "shared" else (1, 1, 2)) or clock == "shared"
    )
    assert record.y.shape[-1] == 2
    assert set(shown) == {(1, 2)}


def test_complex_states_have_real_costs() -> None:
    y0 = torch.tensor([1 + 1j, 2j], dtype=torch.complex128)
    solution = solve(lambda t, y: 1j * y, y0, TIMES, integrals={"energy": pathline.KineticEnergy()}, rtol=1e-9)
    assert solution.integrals["energy"].dtype == DOUBLE
    torch.testing.assert_close(solution.integrals["energy"], 6 * TIMES)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("shape", [(0, 2), (3,), (2, 3, 4)])
def test_batches_of_every_shape(shape: tuple, clock: str) -> None:
    """Nobody, single numbers, and images; a state of one dimension is a vector on the shared clock."""
    both = {"energy": pathline.KineticEnergy(), "jacobian": pathline.JacobianNorm(kind="rademacher")}
    solution = solve(lambda t, y: 2 * torch.ones_like(y) + 3 * (y - y.detach()), torch.ones(shape, dtype=DOUBLE), (0.0, 1.0), integrals=both, clock=clock)  # fmt: skip
    batch, size = (shape[0], math.prod(shape[1:])) if clock == "per-sample" or len(shape) > 1 else (1, 3)
    energy, jacobian = solution.integrals1.values()
    assert energy.numel() == jacobian.numel() == batch
    torch.testing.assert_close(energy.reshape(-1), torch.full((batch,), 4.0 * size, dtype=DOUBLE))
    torch.testing.assert_close(jacobian.reshape(-1), torch.full((batch,), 9.0 * size, dtype=DOUBLE))


def test_batch_first_and_rows_that_end_early() -> None:
    t = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.2, 0.3]], dtype=DOUBLE)
    one = {"one": lambda t, y, dy: torch.ones_like(y[:, 0])}
    solution = solve(lambda t, y: -y, start(2), t, clock="per-sample", batch_first=True, integrals=one)
    torch.testing.assert_close(solution.integrals["one"], t)


# --- gradients ---------------------------------------------------------------------------------------------------


def loss_of(solution: pathline.Solution) -> Tensor:
    sums = [(i + 1) * x[1:].mean() for i, x in enumerate(solution.integrals.values())]
    return solution.ys.square().mean() + sum(sums[1:], sums[0])


def by_hand(field: Field, y0: Tensor, noise: Tensor) -> Tensor:
    """The same costs as entries of a state written out by the user, with fixed steps."""

    def whole(t: Tensor, state: tuple) -> tuple:
        y = state[0]
        dy, pull = torch.func.vjp(lambda x: field(t, x), y)
        (row,) = pull(noise)
        return dy, dy.square().sum(-1), torch.cos(t) * (y * dy).sum(-1), row.square().sum(-1)

    zero = torch.zeros(len(y0), dtype=DOUBLE)
    ys, *rest = solve(whole, (y0, zero, zero, zero), TIMES, method="rk4", dt=0.05).ys
    return ys.square().mean() + sum((i + 1) * x[1:].mean() for i, x in enumerate(rest))


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
def test_gradients_are_those_of_a_state_written_out(gradient: str, clock: str) -> None:
    field, y0 = Field(), start().requires_grad_()
    wanted = torch.autograd.grad(by_hand(field, y0, start().sign() + 0.5), [y0, field.weight])
    solution = solve(field, y0, TIMES, method="rk4", dt=0.05, integrals=costs(), clock=clock, gradient=gradient)
    found = torch.autograd.grad(loss_of(solution), [y0, field.weight])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12 if gradient != "adjoint" else 1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "gradient"), [("rodas5p", "checkpointed"), ("kvaerno5", "adjoint"), ("bdf", "backprop")]
)
def test_gradients_of_stiff_methods(method: str, gradient: str) -> None:
    field, y0 = Field(), start().requires_grad_()
    wanted = torch.autograd.grad(by_hand(field, y0, start().sign() + 0.5), [y0, field.weight])
    solution = solve(field, y0, TIMES, method=method, rtol=1e-8, atol=1e-9, integrals=costs(), gradient=gradient)
    found = torch.autograd.grad(loss_of(solution), [y0, field.weight])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


MODES = {
    "backprop": "backprop",
    "checkpointed": "checkpointed",
    "few states": pathline.Checkpointed(schedule="logarithmic", states=3),
    "adjoint": "adjoint",
    "dense adjoint": pathline.Adjoint(state="dense"),
}


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        *(("dopri5", mode) for mode in MODES),
        *(("rodas5p", mode) for mode in ("backprop", "checkpointed", "adjoint")),
        *(("kvaerno5", mode) for mode in ("backprop", "checkpointed")),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, when it loads its rules
def test_a_cost_that_differentiates_the_field_in_every_mode(method: str, mode: str) -> None:
    """Hutchinson's vector-Jacobian products inside autograd, torch.func.grad, forward mode and Newton's iterations."""
    field, y0 = Field(), start(2)
    cost = {"jacobian": pathline.JacobianNorm(torch.cos(start(2)))}

    def norm(y: Tensor) -> Tensor:
        options = {"rtol": 1e-7, "atol": 1e-8, "method": method, "gradient": MODES[mode]}
        return solve(field, y, (0.0, 0.4), integrals=cost, **options).integrals1["jacobian"].sum()

    def reference(y: Tensor) -> Tensor:
        rk4 = solve(field, y, (0.0, 0.4), integrals=cost, method="rk4", dt=0.02)
        return rk4.integrals1["jacobian"].sum()

    y = y0.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(reference(y), y)
    (found,) = torch.autograd.grad(norm(y), y)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.func.grad(norm)(y0), wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(norm(y0), reference(y0), rtol=1e-5, atol=0)
    if mode == "backprop":  # forward mode is the same for all
        way = torch.sin(3 * y0)
        _, tangent = torch.func.jvp(norm, (y0,), (way,))
        torch.testing.assert_close(tangent, (wanted * way).sum(), rtol=1e-4, atol=1e-5)


def test_costs_in_reversible_steps() -> None:
    """Costs are undone with the state."""
    field, y0 = Field(), start(2).requires_grad_()
    grads = []
    for gradient in ("backprop", "reversible"):
        solution = solve(
            field, y0, TIMES, method="reversible_heun", rtol=1e-5, atol=1e-6, gradient=gradient,
            integrals={"energy": pathline.KineticEnergy()},
        )  # fmt: skip
        grads.append(torch.autograd.grad(solution.integrals["energy"].square().sum(), y0)[0])
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-9)


def test_second_derivatives() -> None:
    field, y0 = Field(), start(2).requires_grad_()
    energy = {"energy": pathline.KineticEnergy(), "jacobian": pathline.JacobianNorm(start(2))}

    def gradient_norm(gradient: str) -> Tensor:
        solution = solve(field, y0, (0.0, 1.0), method="rk4", dt=0.25, integrals=energy, gradient=gradient)
        total = solution.integrals1["energy"].sum() + solution.integrals1["jacobian"].sum()
        (g,) = torch.autograd.grad(total, y0, create_graph=True)
        return torch.autograd.grad(g.square().sum(), field.weight)[0]

    torch.testing.assert_close(gradient_norm("checkpointed"), gradient_norm("backprop"))


# --- the Jacobian's norm -----------------------------------------------------------------------------------------


def exact_norm(field: Field, y0: Tensor) -> Tensor:
    """The integral of |J|_F^2 for each sample, from whole Jacobians."""

    def whole(t: Tensor, state: tuple) -> tuple:
        y = state[0]
        rows = torch.func.vmap(torch.func.jacrev(lambda x: field(t, x)))(y)
        return field(t, y), rows.square().sum((1, 2))

    return solve(whole, (y0, torch.zeros(len(y0), dtype=DOUBLE)), TIMES, method="rk4", dt=0.05).ys[1]


@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference", "func"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
def test_unit_vectors_give_the_frobenius_norm(gradient: str, mode: str) -> None:
    """With the unit vectors as noise the estimate is the norm itself, up to the number of probes."""
    field, y0 = Field(), start()
    units = torch.eye(3, dtype=DOUBLE).unsqueeze(1).expand(3, 4, 3)
    cost = {"norm": pathline.JacobianNorm(units, probes=3)}

    def norm(y: Tensor) -> Tensor:
        return solve(field, y, TIMES, method="rk4", dt=0.05, integrals=cost, gradient=gradient).integrals["norm"]

    exact = exact_norm(field, y0)
    if mode == "func":
        found = torch.func.grad(lambda y: norm(y)[-1].sum())(y0)
        (wanted,) = torch.autograd.grad(exact_norm(field, y0.requires_grad_())[-1].sum(), y0)
        torch.testing.assert_close(3 * found, wanted)
        return
    context = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}[mode]
    with context():
        found = norm(y0)
    assert found.requires_grad == (mode == "grad")
    torch.testing.assert_close(3 * found.clone(), exact)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_drawn_noise_is_right_on_average_and_stays_over_a_solve(kind: str) -> None:
    """One draw a solve: the same for `checkpointed`, which makes every step twice; its mean is the norm."""
    A = torch.tensor([[0.3, -1.0], [0.7, 0.2]], dtype=DOUBLE)
    y0 = torch.ones(2000, 2, dtype=DOUBLE)
    found = {}
    for clock in ("shared", "per-sample"):
        cost = {"norm": pathline.JacobianNorm(kind=kind, generator=torch.Generator().manual_seed(3))}
        solution = solve(lambda t, y: y @ A, y0, (0.0, 1.0), integrals=cost, clock=clock)
        found[clock] = solution.integrals1["norm"]
    torch.testing.assert_close(found["shared"], found["per-sample"], rtol=1e-5, atol=1e-7)
    exact = A.square().sum()
    error = found["shared"].std() / math.sqrt(len(y0))
    assert abs(found["shared"].mean() - exact) < 5 * error
    field, y = Field(), start().requires_grad_()
    grads = []
    for gradient in ("backprop", "checkpointed"):
        cost = {"norm": pathline.JacobianNorm(kind=kind, generator=torch.Generator().manual_seed(3))}
        solution = solve(field, y, (0.0, 1.0), integrals=cost, gradient=gradient)
        grads += torch.autograd.grad(solution.integrals1["norm"].sum(), field.weight)
    torch.testing.assert_close(*grads)


def test_a_field_without_parameters_records_nothing() -> None:
    solution = solve(torch.tanh, start(), TIMES, integrals={"norm": pathline.JacobianNorm()})
    assert not solution.y1.requires_grad
    assert not solution.integrals["norm"].requires_grad


# --- control effort ----------------------------------------------------------------------------------------------


def test_control_effort_sees_args_and_trains_the_control() -> None:
    gain = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)

    def control(t: Tensor, y: Tensor, k: Tensor) -> Tensor:
        return -k * y

    cost = {"effort": pathline.ControlEffort(control)}
    for gradient in ("backprop", "checkpointed", "adjoint"):
        solution = solve(
            lambda t, y, k: y + control(t, y, k), start(), (0.0, 1.0), args=gain, integrals=cost, gradient=gradient,
            rtol=1e-9, atol=1e-10,
        )  # fmt: skip
        (found,) = torch.autograd.grad(solution.integrals1["effort"].sum(), gain)
        # u = -k y0 exp((1 - k) t): the effort is k^2 |y0|^2 (exp(2 (1 - k)) - 1) / (2 (1 - k)).
        k = gain.detach().clone().requires_grad_()
        total = (k**2 * start().square().sum()) * (torch.exp(2 * (1 - k)) - 1) / (2 * (1 - k))
        torch.testing.assert_close(solution.integrals1["effort"].sum().detach(), total.detach(), rtol=1e-7, atol=0)
        torch.testing.assert_close(found, torch.autograd.grad(total, k)[0], rtol=1e-6, atol=0)


# --- costs of steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsit5", "dopri5", "dopri8", "bosh3"])
def test_error_estimate_sums_what_the_controller_saw(method: str) -> None:
    seen = []

    def look(t0: float, t1: float, y: Tensor, step) -> None:
        errors = step.error if isinstance(step.error, tuple) else (step.error,)
        sizes = [(e[..., :12].square().mean().sqrt()).item() for e in errors]
        size = sizes[0] if len(sizes) == 1 else sizes[0] ** 2 / math.hypot(sizes[0], 0.1 * sizes[1])
        seen.append(size * abs(t1 - t0))

    solution = solve(
        Field(), start(), TIMES, method=method, integrals={"error": pathline.ErrorEstimate()},
        hooks=pathline.Hooks(on_accept=look),
    )  # fmt: skip
    assert len(seen) == solution.stats.accepted
    assert sum(seen) > 0
    torch.testing.assert_close(solution.integrals1["error"].item(), sum(seen), rtol=1e-9, atol=0)
    assert bool((solution.integrals["error"].diff() >= 0).all())


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("cost", [pathline.ErrorEstimate(), pathline.StiffnessEstimate()])
def test_costs_of_steps_are_differentiable(cost, clock: str) -> None:
    """Against central differences over the same fixed steps, in both modes that differentiate steps."""
    field = Field()
    options = {"controller": pathline.FixedStep(0.25), "clock": clock, "method": "tsit5"}

    def total(gradient: str = "backprop") -> Tensor:
        solution = solve(field, start(), (0.0, 1.0), integrals={"cost": cost}, gradient=gradient, **options)
        return solution.integrals1["cost"].sum()

    (a,), (b,) = (torch.autograd.grad(total(g), field.weight) for g in ("backprop", "checkpointed"))
    torch.testing.assert_close(a, b)
    way = torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            field.weight += sign * 1e-5 * way
            ends.append(total().item())
            field.weight -= sign * 1e-5 * way
    torch.testing.assert_close((a * way).sum().item(), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-12)


def test_costs_of_steps_go_with_rows_and_other_costs() -> None:
    """With one clock a sample each has its own sum; rows and dense output stand between the steps."""
    both = {"energy": pathline.KineticEnergy(), "error": pathline.ErrorEstimate()}
    fast = torch.tensor([[1.0], [20.0]], dtype=DOUBLE)
    solution = solve(
        lambda t, y, w: torch.cos(w * t).expand_as(y), torch.zeros(2, 1, dtype=DOUBLE), TIMES,
        args=pathline.PerSample(fast), clock="per-sample", integrals=both, save=Save(dense=True),
        controller=pathline.FixedStep(0.05),
    )  # fmt: skip
    assert solution.integrals["error"].shape == (4, 2)
    slow, quick = solution.integrals1["error"].tolist()
    assert 0 < slow < quick
    assert solution(0.5).shape == (2, 1)
    torch.testing.assert_close(solution.ys[-1, 1], torch.sin(fast[1]) / fast[1], rtol=1e-4, atol=1e-5)


def test_stiffness_estimate_finds_the_eigenvalue() -> None:
    solution = solve(
        lambda t, y: -50 * y, torch.ones(2, 1, dtype=DOUBLE), TIMES, integrals={"s": pathline.StiffnessEstimate()}
    )
    assert solution.integrals1["s"].item() / solution.stats.accepted == pytest.approx(50, rel=1e-6)


def test_costs_of_steps_are_refused_where_steps_are_not_differentiated() -> None:
    cost = {"error": pathline.ErrorEstimate()}
    with pytest.raises(ValueError, match="Adjoint is another"):
        solve(Field(), start(), TIMES, gradient="adjoint", integrals=cost)
    with pytest.raises(ValueError, match='"kvaerno5" is none'):
        solve(Field(), start(), TIMES, method="kvaerno5", integrals=cost)
    with pytest.raises(ValueError, match='"rk4" has none'):
        solve(Field(), start(), TIMES, method="rk4", integrals=cost)
    with pytest.raises(ValueError, match='"bosh3" stand at different'):
        solve(Field(), start(), TIMES, method="bosh3", integrals={"s": pathline.StiffnessEstimate()})
    with torch.no_grad():  # nothing is differentiated
        assert solve(Field(), start(), TIMES, gradient="adjoint", integrals=cost).integrals1["error"] > 0


# --- refusals ----------------------------------------------------------------------------------------------------


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(TypeError, match="`integrals` maps names"):
        solve(Field(), start(), TIMES, integrals=lambda t, y, dy: dy)
    with pytest.raises(TypeError, match="holds 'a': 3"):
        solve(Field(), start(), TIMES, integrals={"a": 3})
    with pytest.raises(TypeError, match="returned float; it returns a tensor"):
        solve(Field(), start(), TIMES, integrals={"a": lambda t, y, dy: 1.0})
    with pytest.raises(ValueError, match=r"returned \(\) for 4 samples"):
        solve(Field(), start(), TIMES, clock="per-sample", integrals={"a": lambda t, y, dy: dy.sum()})
    with pytest.raises(ValueError, match="never asks for it"):
        solve(
            pathline.Separable(kick=lambda t, q: -q, drift=lambda t, p: p), start()[:, :2], TIMES,
            method="leapfrog", dt=0.1, integrals={"e": pathline.KineticEnergy()},
        )  # fmt: skip
    with pytest.raises(ValueError, match="returned shape"):
        solve(Field(), start(), TIMES, integrals={"a": lambda t, y, dy: dy[: 1 + int(t > 0.1)].sum(-1)})
    with pytest.raises(ValueError, match="`noise` has the structure"):
        solve(Field(), start(), TIMES, integrals={"a": pathline.JacobianNorm(torch.ones(2, 2))})
    with pytest.raises(ValueError, match="`f` returned shape"):
        solve(lambda t, y: y[:2], start(), TIMES, integrals={"a": pathline.KineticEnergy()})
    for wrong in ({"kind": "uniform"}, {"probes": 0}):
        with pytest.raises(ValueError, match="`kind`|`probes`"):
            pathline.JacobianNorm(**wrong)


def test_the_sensitivity_of_a_solve_with_costs_is_refused() -> None:
    solution = solve(Field(), start(), TIMES, integrals={"energy": pathline.KineticEnergy()})
    with pytest.raises(ValueError, match="without `integrals`"):
        pathline.sensitivity(solution, lambda ys: ys[-1].sum())


def test_a_failed_solve_shows_its_costs() -> None:
    solution = solve(
        lambda t, y: y**2, torch.ones(2, 1, dtype=DOUBLE), torch.linspace(0, 2, 5), on_failure="return",
        integrals={"energy": pathline.KineticEnergy()},
    )  # fmt: skip
    assert not solution.status
    assert solution.ys.shape == (5, 2, 1)
    assert solution.integrals["energy"].shape == (5, 2)
    with pytest.raises(pathline.SolveError) as caught:
        solve(lambda t, y: y**2, torch.ones(2, 1, dtype=DOUBLE), (0, 2), integrals={"e": pathline.KineticEnergy()})
    assert caught.value.solution.ys.shape == (2, 2, 1)


# --- end times that jitter ---------------------------------------------------------------------------------------


def test_jitter_moves_the_last_time_uniformly() -> None:
    jitter = pathline.EndTimeJitter(0.25, generator=torch.Generator().manual_seed(0))
    ends = torch.stack([jitter(torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)) for _ in range(2000)])
    assert bool((ends[:, :2] == torch.tensor([0.0, 0.5])).all())
    moves = (ends[:, 2] - 1) / 0.25
    assert moves.abs().max() <= 1
    assert abs(moves.mean()) < 5 * math.sqrt(1 / 3 / 2000)
    assert moves.var() == pytest.approx(1 / 3, rel=0.1)
    again = pathline.EndTimeJitter(0.25, generator=torch.Generator().manual_seed(0))
    assert again((0.0, 1.0))[1] == ends[0, 2].item()
    assert isinstance(again([0.0, 1.0]), list)


def test_jitter_in_a_model_and_backwards() -> None:
    model = nn.ModuleDict({"jitter": pathline.EndTimeJitter(0.5)})
    t = torch.tensor([1.0, 0.0], requires_grad=True)
    moved = model["jitter"](t)
    assert moved[0] == 1
    assert -0.5 <= moved[1] <= 0.5
    assert moved[1] != 0
    assert moved.requires_grad
    assert model.eval()["jitter"](t) is t


@pytest.mark.parametrize(
    ("b", "t", "match"),
    [
        (1.0, (0.0, 1.0), "smaller than the span"),
        (0.6, (0.0, 0.5, 1.0), "the last interval"),
        (0.1, (0.0,), "one entry"),
    ],
)
def test_jitter_refuses_to_turn_time_round(b: float, t: tuple, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pathline.EndTimeJitter(b)(t)
    with pytest.raises(ValueError, match="finite number >= 0"):
        pathline.EndTimeJitter(-b)
