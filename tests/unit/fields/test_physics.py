"""Known equations: against closed forms and conserved quantities; their quantities, fixed, learned, one a series."""

from __future__ import annotations

import math

import pytest
import torch

import pathline
from pathline import NeuralODE, PerSample, fields, nets, solve
from pathline.fields import Pendulum, Quantity
from pathline.models import load, save

DOUBLE = torch.float64
T0 = torch.tensor(0.0)
TIGHT = {"method": "dopri5", "rtol": 1e-10, "atol": 1e-12}

KINDS = {
    "pendulum": (lambda **o: fields.Pendulum(friction=0.3, **o), 2),
    "double": (fields.DoublePendulum, 4),
    "oscillator": (fields.DampedOscillator, 2),
    "sir": (fields.SIR, 3),
    "one": (fields.OneCompartment, 2),
    "two": (fields.TwoCompartments, 3),
    "circulation": (lambda **o: fields.Circulation(-2.0, 0.1, **o), 4),
}


def some_states(size, batch=5):
    return torch.rand(batch, size, dtype=DOUBLE, generator=torch.Generator().manual_seed(size)) + 0.5


@pytest.mark.parametrize("name", KINDS)
def test_numbers_of_each_series_take_the_place_of_the_common_one(name):
    make, size = KINDS[name]
    field, y = make(dtype=DOUBLE), some_states(size)
    for quantity in field.quantities:
        given = getattr(field, quantity) * torch.linspace(0.5, 0.9, len(y), dtype=DOUBLE) + 0.01
        rate = field(T0, y, {quantity: given})
        for i in range(len(y)):
            single = make(dtype=DOUBLE)
            single.get_buffer(f"fixed_{quantity}").copy_(given[i])
            torch.testing.assert_close(rate[i], single(T0, y[i]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_every_quantity_moves_the_rate_and_learns(name):
    make, size = KINDS[name]
    names = list(make().quantities)
    field = make(dtype=DOUBLE, learn=[n for n in names if n != "inflow"])
    field(T0, some_states(size)).square().sum().backward()
    for parameter_name, parameter in field.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs() > 0, parameter_name
    assert {n.removeprefix("free_") for n, _ in field.named_parameters()} == set(names) - {"inflow"}


def test_a_frictionless_pendulum_keeps_its_energy_and_friction_takes_it_as_it_should():
    y0 = torch.tensor([[2.0, -1.0], [0.1, 0.0]], dtype=DOUBLE)
    args = {"length": torch.tensor([1.0, 2.0], dtype=DOUBLE)}
    field = Pendulum(gravity=10.0, dtype=DOUBLE)
    ys = solve(field, y0, torch.linspace(0, 9, 10), args=args, **TIGHT).ys
    energy = field.energy(ys, args)
    torch.testing.assert_close(energy, energy[:1].expand_as(energy), rtol=1e-8, atol=1e-8)
    rubbed = Pendulum(friction=0.3, dtype=DOUBLE)
    y = y0.clone().requires_grad_()
    (slope,) = torch.autograd.grad(rubbed.energy(y).sum(), y)
    lost = (slope * rubbed(T0, y0)).sum(-1)
    torch.testing.assert_close(lost, -0.3 * y0[:, 1] ** 2)


def test_the_period_of_a_pendulum_is_the_elliptic_integral():
    """T = 4 sqrt(l / g) K(sin(a / 2)), with K by the arithmetic-geometric mean."""
    for length, angle in ((1.0, 0.1), (1.7, 2.0)):
        a, b = 1.0, math.cos(angle / 2)
        for _ in range(8):
            a, b = (a + b) / 2, math.sqrt(a * b)
        period = 2 * math.pi / a * math.sqrt(length / 10.0)
        field = Pendulum(length, gravity=10.0, dtype=DOUBLE)
        y0 = torch.tensor([angle, 0.0], dtype=DOUBLE)
        torch.testing.assert_close(solve(field, y0, (0.0, period), **TIGHT).y1, y0, rtol=1e-7, atol=1e-7)


def test_a_double_pendulum_keeps_its_energy_and_obeys_lagrange():
    field = fields.DoublePendulum(1.0, 0.7, 2.0, 0.6, dtype=DOUBLE)
    y0 = torch.tensor([2.0, -1.0, 0.5, 1.5], dtype=DOUBLE)
    ys = solve(field, y0, torch.linspace(0, 4, 9), **TIGHT).ys
    energy = field.energy(ys)
    torch.testing.assert_close(energy, energy[:1].expand(9), rtol=1e-8, atol=1e-8)

    def places(q):
        upper = torch.stack([torch.sin(q[0]), -torch.cos(q[0])])
        return torch.cat([upper, upper + 0.7 * torch.stack([torch.sin(q[1]), -torch.cos(q[1])])])

    def energies(q, v):
        """Kinetic and potential, of the bobs in the plane."""
        masses = torch.tensor([2.0, 2.0, 0.6, 0.6], dtype=DOUBLE)
        place, speed = places(q), torch.func.jacrev(places)(q) @ v
        return (masses * speed**2).sum() / 2, 9.81 * (masses * place)[1::2].sum()

    def lagrangian(q, v):
        kinetic, potential = energies(q, v)
        return kinetic - potential

    q, v = y0[:2], y0[2:]
    mass = torch.func.jacrev(torch.func.grad(lagrangian, 1), 1)(q, v)
    force = torch.func.grad(lagrangian, 0)(q, v)
    mixed = torch.func.jacrev(torch.func.grad(lagrangian, 1), 0)(q, v)
    expected = torch.linalg.solve(mass, force - mixed @ v)
    torch.testing.assert_close(field(T0, y0)[2:], expected)
    torch.testing.assert_close(field.energy(y0), sum(energies(q, v)))


def test_oscillators_follow_their_closed_form():
    w, damping, t = 2.0, 0.25, torch.linspace(0, 5, 11, dtype=DOUBLE)
    fast = w * math.sqrt(1 - damping**2)
    ys = solve(fields.DampedOscillator(w, damping, dtype=DOUBLE), torch.tensor([1.0, 0.0], dtype=DOUBLE), t, **TIGHT).ys
    decay = torch.exp(-damping * w * t)
    exact = decay * (torch.cos(fast * t) + damping * w / fast * torch.sin(fast * t))
    torch.testing.assert_close(ys[:, 0], exact, rtol=1e-8, atol=1e-8)


def test_an_epidemic_keeps_its_people_and_its_invariant():
    field = fields.SIR(0.5, 0.2, dtype=DOUBLE)
    ys = solve(field, torch.tensor([990.0, 10.0, 0.0], dtype=DOUBLE), torch.linspace(0, 60, 7), **TIGHT).ys
    torch.testing.assert_close(ys.sum(-1), torch.full((7,), 1000.0, dtype=DOUBLE))
    invariant = ys[:, 2] * 0.5 / 0.2 / 1000 + ys[:, 0].log()
    torch.testing.assert_close(invariant, invariant[:1].expand(7), rtol=1e-8, atol=1e-8)


def test_blood_is_lost_by_bleeding_alone_and_the_reflex_answers():
    y0 = torch.tensor([75.0, 3.0, 0.15, 90.0], dtype=DOUBLE).expand(2, 4)
    args = {"inflow": torch.tensor([0.0, -2.0], dtype=DOUBLE)}
    field = fields.Circulation(dtype=DOUBLE)
    ys = solve(field, y0, torch.linspace(0, 60, 4), args=args, **TIGHT).ys
    blood = field.blood(ys, args)
    torch.testing.assert_close(blood[:, 0], blood[:1, 0].expand(4), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(blood[-1, 1] - blood[0, 1], torch.tensor(-120.0, dtype=DOUBLE))
    assert ys[-1, 1, 2] > ys[-1, 0, 2]
    assert ys[-1, 1, 0] < ys[-1, 0, 0]


def test_a_circulation_at_rest_is_that_of_a_person():
    field, zero = fields.Circulation(dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
    strokes = torch.tensor([70.0, 90.0], dtype=DOUBLE)
    begin = torch.stack([90.0 + 0 * strokes, 4.0 + 0 * strokes, 0.2 + 0 * strokes, strokes], -1)
    rest = solve(field, begin, (0.0, 600.0), **TIGHT).y1
    torch.testing.assert_close(field(zero, rest), torch.zeros(2, 4, dtype=DOUBLE), rtol=0, atol=1e-9)
    beats, pressure = field.frequency(rest), rest[:, 0]
    assert 76 < pressure.min() < pressure.max() < 80
    assert 60 < 60 * beats.min() < 60 * beats.max() < 75
    assert 4.8 < 0.06 * (beats * strokes).min() < 0.06 * (beats * strokes).max() < 5.8
    slopes = torch.linalg.eigvals(torch.func.jacrev(lambda y: field(zero, y))(rest[0]))
    assert sorted(slopes.real.tolist())[-1] < 1e-9  # two conserved volumes, and swings that fade
    assert 2 * math.pi / slopes.imag.max().item() == pytest.approx(19.0, abs=0.5)
    higher = solve(fields.Circulation(set_point=90.0, dtype=DOUBLE), begin, (0.0, 600.0), **TIGHT).y1[:, 0]
    assert 94 < higher.min() < higher.max() < 98


@pytest.mark.parametrize(
    ("quantity", "value", "sign"), [("inflow", -2.0, 1), ("dilation", 0.3, 1), ("inflow", 2.0, -1)]
)
def test_the_reflex_answers_a_fall_of_pressure_by_a_faster_heart(quantity, value, sign):
    field, well = fields.Circulation(dtype=DOUBLE), torch.tensor([90.0, 4.0, 0.2, 70.0], dtype=DOUBLE)
    well = solve(field, well, (0.0, 600.0), **TIGHT).y1
    ill = solve(field, well, (0.0, 60.0), args={quantity: torch.tensor(value, dtype=DOUBLE)}, **TIGHT).y1
    assert sign * (ill[0] - well[0]) < -0.1
    assert sign * (field.frequency(ill) - field.frequency(well)) > 0.005


@pytest.mark.parametrize(
    ("quantity", "values"),
    [
        (Quantity(), (-3.0, 2.0)),
        (Quantity(0.5), (0.6, 30.0)),
        (Quantity(1.0, 2.0), (1.01, 1.5)),
        (Quantity(-0.9, 0.7), (0.0, 0.6)),
    ],
)
def test_bounds_hold_for_every_free_number_and_values_come_back(quantity, values):
    values = torch.tensor(values, dtype=DOUBLE)
    torch.testing.assert_close(quantity.bounded(quantity.free(values)), values)
    for dtype in (torch.float32, DOUBLE):
        reached = quantity.bounded(torch.tensor([-1e3, -200.0, 0.0, 1e3], dtype=dtype))
        assert bool(((reached > quantity.low) & (reached < quantity.high)).all())


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_from_a_bound_training_finds_back(dtype):
    for quantity in (Quantity(0.5), Quantity(1.0, 2.0), Quantity(-0.9, 0.7)):
        for far in (-60.0, 60.0):
            raw = torch.tensor(far, dtype=dtype, requires_grad=True)
            (slope,) = torch.autograd.grad(quantity.bounded(raw), raw)
            assert slope > 0
            optimizer = torch.optim.Adam([raw], 1.0)
            for _ in range(5):
                optimizer.zero_grad()
                (math.copysign(1e9, far) * quantity.bounded(raw)).backward()
                optimizer.step()
            assert abs(raw.item()) < abs(far) - 4.0


def test_learning_finds_a_length_and_never_leaves_the_bounds():
    truth, field = Pendulum(1.6, 10.0), Pendulum(1.0, 10.0, learn=["length"])
    y0, t = torch.tensor([1.0, 0.0]), torch.linspace(0, 2, 21)
    data, optimizer = solve(truth, y0, t).ys, torch.optim.Adam(field.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (solve(field, y0, t, method="rk4").ys - data).square().mean().backward()
        optimizer.step()
    assert field.length.item() == pytest.approx(1.6, abs=0.01)
    with torch.no_grad():
        field.free_length.fill_(-1e4)
    assert field.length.item() > 0.0


def test_a_quantity_is_given_another_value_within_its_bounds():
    y = some_states(2)
    for learn in ([], ["length"]):
        field = Pendulum(1.0, learn=learn, dtype=DOUBLE)
        before = list(field.parameters())
        field.length = 4.0
        torch.testing.assert_close(field(T0, y), Pendulum(4.0, dtype=DOUBLE)(T0, y))
        assert field.length.item() == pytest.approx(4.0)
        assert [id(p) for p in field.parameters()] == [id(p) for p in before]  # an optimizer holds them
        assert field.length.dtype == DOUBLE
        with pytest.raises(ValueError, match="`length` lies inside"):
            field.length = -1.0
        assert field.length.item() == pytest.approx(4.0)


def test_a_correction_has_an_output_for_each_component_that_it_corrects():
    y = some_states(2)
    pendulum, one, two = Pendulum(dtype=DOUBLE), nets.MLP(2, 1, 4).double(), nets.MLP(2, 2, 4).double()
    for unknown, into in ((one, None), (two, [1]), (one, [0, 1])):
        with pytest.raises(ValueError, match="`unknown` returns an output for each component"):
            fields.Corrected(pendulum, unknown, into)(T0, y)
    with pytest.raises(ValueError, match=r"`into` names components of the rate, 0 to 1, but \[2\] came"):
        fields.Corrected(pendulum, one, [2])(T0, y)
    alone = fields.Corrected(pendulum, one, [-1])(T0, y)
    torch.testing.assert_close(alone[:, 1], pendulum(T0, y)[:, 1] + one(y)[:, 0])


def test_what_is_known_is_corrected_where_it_should_be():
    truth, y = Pendulum(friction=0.4, dtype=DOUBLE), some_states(2)
    frictionless = Pendulum(dtype=DOUBLE)

    class Friction(torch.nn.Module):
        def forward(self, t, y):
            return -0.4 * y[..., 1:]

    torch.testing.assert_close(fields.Corrected(frictionless, Friction(), into=[1])(T0, y), truth(T0, y))
    whole = fields.Corrected(frictionless, fields.MLP(2, 4, dtype=DOUBLE))
    torch.testing.assert_close(whole(T0, y), frictionless(T0, y) + whole.unknown(T0, y))
    args = {"length": torch.linspace(1, 2, 5, dtype=DOUBLE)}
    still = fields.Corrected(frictionless, fields.MLP(2, 4, output_scale=0.0, dtype=DOUBLE))
    torch.testing.assert_close(still(T0, y, args), frictionless(T0, y, args))
    with pytest.raises(ValueError, match="once"):
        fields.Corrected(frictionless, Friction(), into=[1, 1])


def test_gradients_reach_numbers_of_single_series_through_every_gradient_and_both_clocks():
    y0, t = torch.tensor([[1.0, 0.0], [0.5, 0.3]], dtype=DOUBLE), torch.linspace(0, 2, 11)
    found = []
    for gradient, clock in (("backprop", "shared"), ("adjoint", "shared"), ("backprop", "per-sample")):
        length = torch.tensor([1.0, 1.5], dtype=DOUBLE, requires_grad=True)
        args = {"length": PerSample(length) if clock == "per-sample" else length}
        ys = solve(Pendulum(dtype=DOUBLE), y0, t, args=args, gradient=gradient, clock=clock, **TIGHT).ys
        found.append(torch.autograd.grad(ys[..., 0].square().sum(), length)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found[0], found[2], rtol=1e-6, atol=1e-8)


def test_refusals():
    with pytest.raises(ValueError, match="`length` lies inside"):
        Pendulum(length=-1.0)
    with pytest.raises(ValueError, match="`length` lies inside"):
        Pendulum(length=0.0)
    with pytest.raises(ValueError, match="`friction` lies within"):
        Pendulum(friction=-0.1)
    with pytest.raises(ValueError, match="starts away from its bounds"):
        Pendulum(friction=0.0, learn=["friction"])
    with pytest.raises(ValueError, match=r"`learn` names 'mass'; .* length, gravity, friction"):
        Pendulum(learn=["mass"])
    with pytest.raises(ValueError, match="`args` names 'lengths_'.* Did you mean \"length\""):
        Pendulum()(T0, torch.zeros(2), {"lengths_": 1.0})
    with pytest.raises(ValueError, match="`name` names 'mass'; the quantities of Pendulum are"):
        Pendulum().put("mass", 1.0)
    with pytest.raises(TypeError, match="mapping"):
        Pendulum()(T0, torch.zeros(2), torch.ones(1))
    with pytest.raises(ValueError, match="`low` is below"):
        Quantity(2.0, 1.0)
    with pytest.raises(ValueError, match="narrower"):
        Pendulum.length.within(-1.0, 2.0)


def test_numbers_of_series_outside_the_bounds_are_refused_with_the_series():
    field, y = Pendulum(), torch.ones(3, 2)
    for wrong in (-1.0, 0.0):
        with pytest.raises(ValueError, match=r'`args\["length"\]` lies inside \(0, inf\) m, but series 1 has'):
            solve(field, y, (0.0, 1.0), args={"length": torch.tensor([1.0, wrong, 2.0])})
    with pytest.raises(ValueError, match="but it is -1"):
        field(T0, y, {"length": -1.0})
    assert field(T0, y, {"friction": torch.tensor([0.0, 1.0, 2.0])}).shape == (3, 2)
    lengths = torch.ones(3)
    field(T0, y, {"length": lengths})
    lengths[2] = -1.0  # seen before, but not with this content
    with pytest.raises(ValueError, match="series 2"):
        field(T0, y, {"length": lengths})


def test_each_tensor_is_looked_into_once(monkeypatch):
    looks = []
    monkeypatch.setattr(Quantity, "beyond", lambda self, value, closed: looks.append(1) or torch.tensor(False))
    solve(Pendulum(), torch.ones(3, 2), (0.0, 5.0), args={"length": torch.ones(3)}, gradient="adjoint")
    assert len(looks) == 4  # three of the field at its construction


def test_what_torch_func_transforms_is_not_looked_into():
    def swung(length, y):
        return solve(Pendulum(), y, (0.0, 0.5), args={"length": length}, method="rk4", dt=0.1).y1

    lengths, y = torch.tensor([1.0, 2.0]), torch.ones(2, 2)
    torch.testing.assert_close(torch.func.vmap(swung)(lengths, y), swung(lengths, y))


def test_states_and_numbers_of_another_shape_are_refused():
    field = Pendulum()
    with pytest.raises(ValueError, match=r"The state of Pendulum is \(angle, speed\), .* but \(5, 3\) came"):
        field(T0, torch.ones(5, 3))
    with pytest.raises(TypeError, match=r'`args\["length"\]` is a tensor or one number, but list came'):
        field(T0, torch.ones(2, 2), {"length": [1.0, 2.0]})
    with pytest.raises(ValueError, match="PerSample"):
        solve(field, torch.ones(2, 2), (0.0, 1.0), args={"length": torch.ones(3)}, clock="per-sample")
    for shape in ((4,), (5, 1)):
        with pytest.raises(ValueError, match=r"one for each of the 5 series, shape \(5,\), but shape"):
            field(T0, torch.ones(5, 2), {"length": torch.ones(shape)})


def test_they_are_stored_with_what_was_learned(tmp_path):
    field = Pendulum(1.3, learn=["length"])
    with torch.no_grad():
        field.free_length.add_(0.5)
    friction = fields.with_time(nets.MLP(3, 1, 4))
    model = NeuralODE(fields.Corrected(field, friction, into=[1]), method="rk4", dt=0.1)
    again = load(save(model, tmp_path / "model"))
    assert torch.equal(again(torch.ones(3, 2)), model(torch.ones(3, 2)))
    assert again.field.known.learn == ("length",)
    assert "length=" in repr(again)
    assert pathline.fields.physics.Pendulum is Pendulum


@pytest.mark.parametrize("make", [fields.LotkaVolterra, lambda r: fields.PredatorPrey(nets.MLP(2, 2, 4), r)])
def test_predators_and_prey_have_rates_of_their_own_too(make):
    rates, y = torch.tensor([[0.5, 0.1, 0.8, 0.2], [1.0, 0.2, 0.3, 0.1]]), torch.rand(2, 2) + 1
    torch.manual_seed(0)
    common = make(rates[0])
    given = common(T0, y, dict(zip(("growth", "loss", "death", "gain"), rates.T, strict=True)))
    for i in range(2):
        torch.manual_seed(0)
        torch.testing.assert_close(given[i], make(rates[i])(T0, y[i]))
    with pytest.raises(ValueError, match="`args` names 'birth'"):
        common(T0, y, {"birth": rates[:, 0]})
