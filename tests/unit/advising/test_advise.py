"""`pathline.advise` on fields whose properties are known. Budgets bound the work; nothing here times anything."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pathline
from pathline.advising.advice import Facts, Trial
from pathline.advising.choosing import choose
from pathline.advising.looking import Rate, kinked_layers, looks_smooth, steepness

DOUBLE = torch.float64


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def net(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 2))


# --- the table ---------------------------------------------------------------------------------------------------


def test_a_table_with_reasons_and_a_line_to_paste() -> None:
    field, y0, t = net(nn.Tanh()), torch.randn(3, 2, generator=torch.Generator().manual_seed(1)), (0.0, 0.5)
    before = torch.get_rng_state()
    advice = pathline.advise(field, y0, t, methods=["tsit5", "bosh3"], progress=quiet)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in field.parameters())
    rows = {(row.method, row.gradient): row for row in advice}
    pairs = {
        (m, g)
        for m in ("tsit5", "bosh3")
        for g in ("backprop", "checkpointed", "adjoint", 'pathline.Adjoint(state="dense")')
    }
    assert set(rows) == pairs
    assert len(advice) == 8
    for row in advice:
        assert row.ok, row.note
        assert row.error is not None
        assert 0 <= row.error < 1e-4
        assert row.gradient_error is not None
        assert 0 <= row.gradient_error < 1e-3
        assert row.bytes is not None
        assert row.evaluations is not None
        assert min(row.bytes, row.evaluations) > 0
    exact, again = rows["tsit5", "backprop"], rows["tsit5", "checkpointed"]
    assert exact.evaluations == again.evaluations == pathline.solve(field, y0, t).stats.evaluations
    assert again.backward_evaluations > exact.backward_evaluations == 0
    assert again.bytes < exact.bytes
    assert advice.recommended in list(advice)
    assert advice.facts.stiff is False
    assert advice.facts.smooth is True
    assert advice.facts.back_again < 1e-4
    best = advice.recommended
    assert best is not None
    text = str(advice)
    assert "dopri8 in double precision" in text
    assert f"> {best.method}" in text
    assert advice.why in text
    assert advice.line.startswith(f'pathline.solve(f, y0, t, method="{best.method}", gradient=')
    f = field  # the line is one to paste
    assert eval(advice.line, {"pathline": pathline, "f": f, "y0": y0, "t": t}).ys.shape == (2, 3, 2)


def test_errors_are_those_against_a_known_solution() -> None:
    """y' = -k y: the rows and the gradient by k are known; the table must find the same errors."""
    k = torch.tensor([1.0, 3.0], dtype=DOUBLE, requires_grad=True)
    t = torch.linspace(0, 2, 3, dtype=DOUBLE)
    y0 = torch.ones(1, 2, dtype=DOUBLE)
    advice = pathline.advise(
        lambda t, y, k: -k * y,
        y0,
        t,
        k,
        methods=["bosh3"],
        gradients=["backprop"],
        rtol=1e-3,
        atol=1e-5,
        progress=quiet,
    )
    (row,) = advice
    start = y0.clone().requires_grad_()
    ys = pathline.solve(lambda t, y, k: -k * y, start, t, args=k, method="bosh3", rtol=1e-3, atol=1e-5).ys
    exact = start * torch.exp(-k * t[:, None, None])
    found, wanted = (
        torch.cat([g.flatten() for g in torch.autograd.grad(x.square().mean(), [start, k])]) for x in (ys, exact)
    )
    error = (ys - exact).abs().max().item()
    assert row.error == pytest.approx(error, rel=1e-3)
    assert row.gradient_error == pytest.approx(((found - wanted).norm() / wanted.norm()).item(), rel=1e-3)
    assert "rtol=0.001" in advice.line
    assert "args=args" in advice.line
    assert k.grad is None


def test_one_candidate_that_fails_costs_its_row_alone() -> None:
    """A field that only knows real time steps of an explicit method; symplectic methods do not fit; the rest stands."""
    advice = pathline.advise(
        net(nn.Tanh()), torch.ones(1, 2), (0.0, 0.1), methods=["leapfrog", "tsit5", "bdf"],
        gradients=["backprop", "reversible"], progress=quiet,
    )  # fmt: skip
    rows = {(row.method, row.gradient): row for row in advice}
    assert not rows["leapfrog", "backprop"].ok
    assert "in parts" in rows["leapfrog", "backprop"].note
    assert rows["tsit5", "backprop"].ok
    assert ("tsit5", "reversible") not in rows
    assert advice.recommended is not None


def test_a_field_that_breaks_in_some_modes_is_told_apart() -> None:
    class Remembering(nn.Module):
        """Time has to go forward, as in a field that keeps a history: no pass that goes back can serve it."""

        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(-1.0))
            self.last = 0.0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            if t < self.last - 0.3 and t > 0:
                raise RuntimeError("time went back. Start anew.")
            self.last = float(t)
            return self.rate * y

    advice = pathline.advise(
        Remembering(),
        torch.ones(2, 1),
        (0.0, 1.0),
        methods=["tsit5"],
        gradients=["backprop", "checkpointed"],
        progress=quiet,
    )
    good, bad = advice
    assert good.ok
    assert bad.note == "RuntimeError: time went back"
    assert good.gradient_error is None  # the reference is made in little memory, by a pass that goes back
    assert advice.recommended is good


def test_a_spent_budget_is_said_in_the_rows() -> None:
    said: list[str] = []
    advice = pathline.advise(net(nn.Tanh()), torch.ones(1, 2), (0.0, 1.0), budget=1e-3, progress=said.append)
    assert {row.note for row in advice} == {"not tried: the budget was spent"}
    assert advice.recommended is None
    assert "larger budget" in advice.why
    assert advice.line == ""
    assert "None" not in str(advice)


def test_structures_complex_states_and_large_systems() -> None:
    y0 = {"q": torch.ones(2, dtype=torch.complex128), "p": torch.zeros(2, dtype=torch.complex128)}
    advice = pathline.advise(
        lambda t, y: {"q": y["p"], "p": -y["q"]},
        y0,
        (0.0, 1.0),
        methods=["tsit5"],
        gradients=["adjoint"],
        progress=quiet,
    )
    assert advice[0].gradient_error < 1e-4
    large = pathline.advise(
        lambda t, y: -y, torch.ones(2, 300), (0.0, 1.0), methods=["kvaerno5"], gradients=["backprop"], progress=quiet
    )
    assert large[0].note == "not tried: Jacobians of 300 unknowns"


@pytest.mark.parametrize("kind", ["per-sample args", "differentiates inside", "split", "no_grad", "single number"])
def test_facts_and_a_table_for_fields_of_every_kind(kind: str) -> None:
    y0: Tensor = torch.full((2, 2), 0.5, dtype=DOUBLE)
    field, args, rate = (lambda t, y: -3 * y), None, 3.0
    if kind == "per-sample args":
        field, args = (lambda t, y, k: -k * y), pathline.PerSample(torch.tensor([[1.0], [3.0]], dtype=DOUBLE))
    if kind == "differentiates inside":

        def field(t: Tensor, y: Tensor) -> Tensor:
            return -torch.autograd.grad(1.5 * y.square().sum(), y.requires_grad_(), create_graph=True)[0]

    if kind == "split":
        field, rate = pathline.Separable(kick=lambda t, q: -2 * q, drift=lambda t, p: 2 * p), 2.0
    if kind == "single number":
        y0 = torch.tensor(0.5, dtype=DOUBLE)
    with torch.no_grad() if kind == "no_grad" else torch.enable_grad():
        advice = pathline.advise(field, y0, (0.0, 1.0), args, methods=["tsit5"], gradients=["backprop"], progress=quiet)
    assert advice.facts.fastest == pytest.approx(rate, rel=1e-4)
    assert advice.facts.smooth is True
    assert advice.recommended is advice[0]
    assert advice[0].gradient_error < 1e-4


def test_wrong_arguments_are_said_at_once() -> None:
    with pytest.raises(ValueError, match="`budget`"):
        pathline.advise(torch.tanh, torch.ones(1), (0.0, 1.0), budget=0)
    with pytest.raises(ValueError, match="'tsit6'; there are"):
        pathline.advise(torch.tanh, torch.ones(1), (0.0, 1.0), methods=["tsit6"])
    with pytest.raises(ValueError, match="'back'; there are"):
        pathline.advise(torch.tanh, torch.ones(1), (0.0, 1.0), gradients=["back"])
    with pytest.raises(ValueError, match="`t` is a 1-d tensor"):
        pathline.advise(torch.tanh, torch.ones(1), (1.0, 1.0))
    with pytest.raises(ValueError, match="`f` returned shape"):
        pathline.advise(lambda t, y: y[:1], torch.ones(2), (0.0, 1.0))


# --- facts -------------------------------------------------------------------------------------------------------


def test_a_stiff_field_is_seen_and_gets_a_stiff_method() -> None:
    """Relaxation to a slow curve, a thousand times faster than the curve moves."""
    advice = pathline.advise(
        lambda t, y: -1000 * (y - torch.cos(t)), torch.zeros(1, 1, dtype=DOUBLE), (0.0, 0.4),
        methods=["tsit5", "rodas5p"], gradients=["backprop"], rtol=1e-3, atol=1e-5, progress=quiet,
    )  # fmt: skip
    assert advice.facts.stiff is True
    assert advice.facts.fastest == pytest.approx(1000, rel=1e-3)
    assert advice.facts.back_again > 0.01
    explicit, implicit = advice
    assert implicit.steps is not None
    assert explicit.steps is None or explicit.steps > 5 * implicit.steps
    assert "Reference: rodas5p" in advice.about
    assert "The field is stiff" in advice.why


def test_steepness_of_known_matrices() -> None:
    """A shear has spectral norm (1 + sqrt 5)/2 * 1 and eigenvalues of size 1; a rotation has a pair of them."""
    shear = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=DOUBLE)
    spin = torch.tensor([[0.0, 3.0], [-3.0, 0.0]], dtype=DOUBLE)
    z = torch.tensor([0.3, -0.2], dtype=DOUBLE)
    rate = Rate(lambda t, y: y @ shear, z)
    assert steepness(rate, 0.0, z, rounds=30)[0] == pytest.approx((1 + math.sqrt(5)) / 2, rel=1e-6)
    assert steepness(Rate(lambda t, y: y @ spin, z), 0.0, z) == pytest.approx((3.0, 3.0), rel=1e-4)
    still = steepness(Rate(lambda t, y: torch.ones_like(y), z), 0.0, z)
    assert still == (0.0, 0.0)


@pytest.mark.parametrize(
    ("activation", "smooth"),
    [
        (F.relu, False),
        (F.leaky_relu, False),
        (torch.abs, False),
        (torch.tanh, True),
        (F.silu, True),
        (F.softplus, True),
        (torch.sin, True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_kinks_are_felt_where_no_layer_shows_them(activation, smooth: bool, dtype: torch.dtype) -> None:
    layers = net(nn.Tanh()).to(dtype)
    generator = torch.Generator().manual_seed(2)
    states = [torch.randn(6, generator=generator).to(dtype) for _ in range(3)]
    rate = Rate(lambda t, y: layers[2](activation(layers[0](y))), torch.zeros(3, 2, dtype=dtype))
    assert looks_smooth(rate, [0.0, 0.5, 1.0], states) is smooth


def test_layers_with_kinks_are_named_wherever_they_hide() -> None:
    inner = net(nn.ReLU())
    assert kinked_layers(lambda t, y: inner(y), None) == ("ReLU",)
    assert kinked_layers(net(nn.ELU(alpha=0.5)), None) == ("ELU",)
    assert kinked_layers(net(nn.ELU()), None) == ()
    assert kinked_layers(torch.tanh, {"net": nn.Sequential(nn.Hardtanh(), nn.MaxPool1d(2))}) == (
        "Hardtanh",
        "MaxPool1d",
    )
    facts = Facts(smooth=False, kinks=("ReLU",))
    assert facts.lines() == ["The field has kinks (ReLU)."]


# --- the choice --------------------------------------------------------------------------------------------------


def trial(method: str, seconds: float | None, gradient_error: float = 1e-6, memory: int = 100) -> Trial:
    return Trial(method, "backprop", 1e-6, gradient_error, seconds, 1, 1, 0, memory)


def test_the_choice_is_the_fastest_that_is_right() -> None:
    trials = [trial("slow", 2.0), trial("wrong", 0.1, gradient_error=1.0), trial("quick", 1.0), trial("none", None)]
    best, why = choose(trials, Facts(), 1e-4, None)
    assert best is trials[2]
    assert "1 more missed" in why
    best, why = choose([trial("a", 1.0, memory=10_000), trial("b", 3.0, memory=100)], Facts(), 1e-4, None)
    assert best is not None
    assert best.method == "a"
    assert "Where memory is short: b with backprop takes 100 B and 3 times the time." in why
    best, why = choose([trial("a", 1.0, memory=10_000), trial("b", 3.0, memory=100)], Facts(), 1e-4, 1000)
    assert best is not None
    assert best.method == "b"
    best, why = choose([trial("a", 1.0, memory=10_000)], Facts(), 1e-4, 1000)
    assert "Nothing keeps within 1 kB" in why
    best, _ = choose([trial("a", 1.0, memory=300), trial("b", 1.05, memory=100)], Facts(), 1e-4, None)
    assert best is not None
    assert best.method == "b"  # as good as the same time, in less memory
