"""`odeint_adjoint` beside the installed original: parameters, tolerances, options, norms that programs exchange."""

from __future__ import annotations

import pytest
import torch
import torchdiffeq as original

import pathline
from pathline.compat import torchdiffeq as ours

BOTH = pytest.mark.parametrize("lib", [ours, original], ids=["ours", "original"])
T = torch.tensor([0.0, 0.5, 1.2], dtype=torch.float64)


class Field(torch.nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.net = torch.nn.Linear(2, 2, dtype=dtype)
        self.unused = torch.nn.Parameter(torch.ones(3, dtype=dtype))
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return torch.tanh(self.net(y)) * torch.cos(t)


def start():
    return torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)


def gradients(odeint, field, *, t=T, **options):
    y0, times = start().requires_grad_(), t.clone().requires_grad_()
    ys = odeint(field, y0, times, **{"rtol": 1e-9, "atol": 1e-11, **options})
    field.zero_grad()
    ys.pow(2).sum().backward()
    return [y0.grad, times.grad, *(p.grad for p in field.parameters())]


# --- values ------------------------------------------------------------------------------------------------------

SEMINORM = {"adjoint_options": {"norm": "seminorm"}}
FUNCTION = {"adjoint_options": {"norm": lambda parts: max(p.abs().max() for p in parts)}}


@pytest.mark.parametrize("t", [T, T.flip(0)], ids=["forward", "backward"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        SEMINORM,
        FUNCTION,
        {"adjoint_method": "dopri8"},
        {"method": "bosh3", "adjoint_method": "dopri5", "rtol": 1e-8},
    ],
)
def test_gradients_agree(options, t):
    field = Field()
    found, theirs = (gradients(lib.odeint_adjoint, field, t=t, **options) for lib in (ours, original))
    truth = gradients(ours.odeint, field, t=t, method="dopri8")
    for a, b, c in zip(found, theirs, truth, strict=True):
        c = torch.zeros_like(a) if c is None else c
        torch.testing.assert_close(a, c, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(b, c, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["rk4", "euler", "midpoint"])
@pytest.mark.parametrize("options", [None, {"step_size": 0.07}])
def test_fixed_steps_make_the_original_s_steps_backwards(method, options):
    field = Field()
    found, theirs = (gradients(lib.odeint_adjoint, field, method=method, options=options) for lib in (ours, original))
    for a, b in zip(found, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@BOTH
def test_one_time(lib):
    y0 = start().requires_grad_()
    ys = lib.odeint_adjoint(Field(), y0, T[:1])
    assert ys.shape == (1, 2, 2)
    ys.sum().backward()
    assert torch.equal(y0.grad, torch.ones_like(y0))


IMPLICIT = ["implicit_euler", "trapezoid", "gl4", "radauIIA5", "sdirk2", "trbdf2"]


@pytest.mark.parametrize("method", ["scipy_solver", "implicit_adams", "explicit_adams", *IMPLICIT])
@pytest.mark.parametrize("norm", [{}, {"norm": "seminorm"}], ids=["all", "seminorm"])
def test_every_kind_of_method_has_an_adjoint(method, norm):
    grid = {} if method == "scipy_solver" else {"step_size": 0.01 if method == "implicit_euler" else 0.05}
    more = {"options": grid, "adjoint_options": grid | norm, "rtol": 1e-7, "atol": 1e-9}
    field = Field()
    found = gradients(ours.odeint_adjoint, field, method=method, **more)
    truth = gradients(ours.odeint, field)
    bound = 3e-2 if method == "implicit_euler" else 5e-3
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=bound, atol=bound)


def test_unused_parameters_receive_zeros():
    field = Field()
    gradients(ours.odeint_adjoint, field)
    assert torch.equal(field.unused.grad, torch.zeros(3, dtype=torch.float64))


def test_a_tuple_state():
    def run(lib):
        field = Field()
        torch.manual_seed(3)
        torch.nn.init.normal_(field.net.weight)

        class Pair(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.field = field

            def forward(self, t, state):
                a, b = state
                return self.field(t, a), -b * a.sum()

        pair = (start().requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True))
        a, b = lib.odeint_adjoint(Pair(), pair, T, rtol=1e-9, atol=1e-11)
        assert a.shape == (3, 2, 2)
        assert b.shape == (3,)
        return torch.autograd.grad(a.sum() + b.pow(2).sum(), [*pair, field.net.weight])

    torch.manual_seed(0)
    found = run(ours)
    torch.manual_seed(0)
    for a, b in zip(found, run(original), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_complex_state():
    """With a real parameter, whose gradient the original returns complex, and fails."""

    rate = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128, requires_grad=True)
    options = {"rtol": 1e-9, "atol": 1e-11}

    def gradients(ode, inputs, **more):
        ys = ode(lambda t, y: (rate + 1j) * y, y0, T, **options, **more)
        return torch.autograd.grad(ys.abs().pow(2).sum(), inputs)

    truth = gradients(ours.odeint, [y0, rate])
    found = gradients(ours.odeint_adjoint, [y0, rate], adjoint_params=(rate,))
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    (theirs,) = gradients(original.odeint_adjoint, [y0], adjoint_params=())
    torch.testing.assert_close(theirs, truth[0], rtol=1e-5, atol=1e-6)


def test_second_derivatives_through_the_adjoint():
    """What the original leaves undone."""
    field = Field()

    def second(odeint):
        y0 = start().requires_grad_()
        ys = odeint(field, y0, T, rtol=1e-9, atol=1e-11)
        (slope,) = torch.autograd.grad(ys[-1].pow(2).sum(), y0, create_graph=True)
        return torch.autograd.grad(slope.pow(3).sum(), [y0, field.net.weight])

    for a, b in zip(second(ours.odeint_adjoint), second(ours.odeint), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


# --- parameters --------------------------------------------------------------------------------------------------


@BOTH
def test_a_function_needs_its_parameters_named(lib):
    with pytest.raises(ValueError, match="adjoint_params"):
        lib.odeint_adjoint(lambda t, y: -y, start(), T)
    assert lib.odeint_adjoint(lambda t, y: -y, start(), T, adjoint_params=()).shape == (3, 2, 2)


@BOTH
def test_only_the_named_parameters_receive_gradients(lib):
    field = Field()
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ys = lib.odeint_adjoint(lambda t, y: rate * field(t, y), start(), T, adjoint_params=iter([field.net.weight]))
    ys.sum().backward()
    assert field.net.weight.grad is not None
    assert field.net.bias.grad is None
    assert rate.grad is None


def test_parameters_made_by_other_operations():
    """A hypernetwork's output, hidden where no search finds it."""
    hyper = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (made,) = (hyper.exp(),)

    class Hidden:
        __slots__ = ("read",)

        def __init__(self):
            self.read = {"deep": [made]}.__getitem__

        def __call__(self, t, y):
            return -self.read("deep")[0] * y

    for lib in (ours, original):
        hyper.grad = None
        lib.odeint_adjoint(Hidden(), start(), T, adjoint_params=(made,)).sum().backward(retain_graph=True)
        truth = torch.autograd.grad((start() * torch.exp(-hyper.exp() * T.reshape(-1, 1, 1))).sum(), hyper)[0]
        torch.testing.assert_close(hyper.grad, truth, rtol=1e-5, atol=1e-6)


def test_a_lost_gradient_is_told_of():
    """The original is silent here, and trains on."""

    class Conditioned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
            self.context = None

        def forward(self, t, y):
            return -self.weight * y + self.context

    encoder, field = torch.nn.Linear(2, 2, dtype=torch.float64), Conditioned()
    field.context = encoder(start())
    with pytest.warns(UserWarning, match="adjoint_params"):
        ys = ours.odeint_adjoint(field, start(), T)
    ys.sum().backward()
    assert encoder.weight.grad is None
    field.context = encoder(start())
    ours.odeint_adjoint(field, start(), T, adjoint_params=(field.weight, field.context)).sum().backward()
    assert encoder.weight.grad is not None


@BOTH
def test_parameters_without_gradient_are_left_out_of_a_norm(lib):
    field = Field()
    field.net.bias.requires_grad_(False)
    norm = {"norm": lambda parts: max(p.abs().max() for p in parts)}
    with pytest.warns(UserWarning, match="without requiring gradient"):
        ys = lib.odeint_adjoint(field, start().requires_grad_(), T, adjoint_options=norm)
    ys.sum().backward()
    assert field.net.bias.grad is None
    assert field.net.weight.grad is not None


def test_replicas_of_data_parallel():
    from torch.nn.parallel.replicate import replicate  # noqa: F401  (its mark is what matters)

    field = Field()
    replica = field._replicate_for_data_parallel()
    replica.net = field.net._replicate_for_data_parallel()
    for name, parameter in field.net.named_parameters():
        setattr(replica.net, name, parameter * 1.0)  # what a broadcast leaves: attributes with a history
    replica.unused = field.unused * 1.0
    found = {}
    for lib in (ours, original):
        field.zero_grad()
        ys = lib.odeint_adjoint(replica, start(), T, rtol=1e-9, atol=1e-11)
        ys.sum().backward(retain_graph=True)
        found[lib] = field.net.weight.grad
    torch.testing.assert_close(found[ours], found[original], rtol=1e-6, atol=1e-7)


# --- options -----------------------------------------------------------------------------------------------------


@BOTH
def test_options_are_inherited_unless_the_method_differs(lib):
    field = Field()
    with pytest.raises(ValueError, match="adjoint_options"):
        lib.odeint_adjoint(field, start(), T, method="rk4", adjoint_method="dopri5", options={"step_size": 0.1})
    ys = lib.odeint_adjoint(
        field, start(), T, method="rk4", adjoint_method="dopri5", options={"step_size": 0.1}, adjoint_options={}
    )
    ys.sum().backward()
    options = {"norm": lambda x: x.abs().max(), "first_step": 0.1}
    ys = lib.odeint_adjoint(field, start().requires_grad_(), T, options=options)
    assert ys.grad_fn.adjoint_options["first_step"] == 0.1
    assert ys.grad_fn.adjoint_options["norm"] is not options["norm"]
    ys.sum().backward()


@BOTH
def test_the_program_s_options_are_left_alone(lib):
    options, adjoint_options = {"first_step": 0.1}, {"norm": "seminorm"}
    lib.odeint_adjoint(Field(), start(), T, options=options, adjoint_options=adjoint_options).sum().backward()
    assert options == {"first_step": 0.1}
    assert adjoint_options == {"norm": "seminorm"}


def test_tolerances_of_its_own():
    field = Field()
    counts = []
    for tolerance in (1e-3, 1e-9):
        ys = ours.odeint_adjoint(field, start(), T, adjoint_rtol=tolerance, adjoint_atol=tolerance)
        before = field.calls
        ys.sum().backward()
        counts.append(field.calls - before)
    assert counts[0] < counts[1] / 2


def test_a_backward_solve_that_fails():
    field = Field()
    for lib in (ours, original):
        ys = lib.odeint_adjoint(field, start(), T, adjoint_options={"max_num_steps": 1})
        with pytest.raises(AssertionError) as caught:
            ys.sum().backward()
        assert lib is original or isinstance(caught.value, pathline.MaxStepsError)


# --- norms -------------------------------------------------------------------------------------------------------


def rms(x):
    return x.abs().pow(2).mean().sqrt()


def node(ys):
    """Where programs look for the options: at the tensor's node, for tuples behind two."""
    return ys.grad_fn if isinstance(ys, torch.Tensor) else ys[0].grad_fn.next_functions[0][0].next_functions[0][0]


STATES = [(), (1,), (2, 2), ((),), ((1,), (2, 2))]


@BOTH
@pytest.mark.parametrize("shape", STATES, ids=str)
@pytest.mark.parametrize("options", [None, {}, {"norm": "seminorm"}], ids=["none", "empty", "seminorm"])
def test_the_norm_can_be_read_and_replaced(lib, shape, options):
    parts = bool(shape) and isinstance(shape[0], tuple)
    y0 = tuple(torch.full(s, 1.0) for s in shape) if parts else torch.full(shape, 1.0)
    size = sum(x.numel() for x in y0) if parts else None
    params = (torch.rand(7, requires_grad=True), torch.rand((), requires_grad=True))
    ys = lib.odeint_adjoint(
        lambda t, y: y, y0, torch.tensor([0.0, 1.0]), adjoint_params=params, adjoint_options=options
    )
    actual = node(ys).adjoint_options["norm"]
    seen = []

    def spy(state):
        assert isinstance(state, tuple)
        t, y, adj_y, a, b = state
        assert t.shape == ()
        assert y.shape == adj_y.shape == ((size,) if parts else shape)
        assert a.shape == (7,)
        assert b.shape == ()
        y_norm, a_norm = rms(y), rms(adj_y)
        if parts:
            pieces = [x.numel() for x in y0]
            y_norm, a_norm = (max(rms(p) for p in z.split(pieces)) for z in (y, adj_y))
        expected = torch.stack([t.abs(), y_norm, a_norm]).max()
        if options is None or "norm" not in options:
            expected = torch.stack([expected, rms(a), rms(b)]).max()
        found = actual(state)
        assert isinstance(found, torch.Tensor)
        assert found.shape == ()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        seen.append(found)
        return found

    node(ys).adjoint_options["norm"] = spy
    (sum(y.sum() for y in ys) if parts else ys.sum()).backward()
    assert seen


@BOTH
def test_a_norm_of_the_program_s_own_sees_the_parts_of_a_tuple(lib):
    rate, seen = torch.ones((), requires_grad=True), []

    def norm(state):
        seen.append([x.shape for x in state])
        return max(rms(x) for x in state)

    pair = (torch.ones(()), torch.ones(2, 2))
    ys = lib.odeint_adjoint(
        lambda t, y: (rate * y[0], y[1]),
        pair,
        torch.tensor([0.0, 1.0]),
        adjoint_params=(rate,),
        adjoint_options={"norm": norm},
    )
    sum(y.sum() for y in ys).backward()
    assert seen
    assert set(map(str, seen)) == {str([torch.Size(s) for s in ((), (), (2, 2), (), (2, 2), ())])}


def test_the_seminorm_costs_less():
    torch.manual_seed(1)
    field = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2)).double()
    counts = {}

    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.pulls = field, 0
            field[0].weight.register_hook(self.count)

        def count(self, grad):
            self.pulls += 1

        def forward(self, t, y):
            return self.net(y) * torch.sin(9.0 * t)

    for name, options in (("all", None), ("seminorm", {"norm": "seminorm"})):
        module = Counted()
        ys = ours.odeint_adjoint(module, start(), T, rtol=1e-6, atol=1e-8, adjoint_options=options)
        ys.pow(2).sum().backward()
        counts[name] = module.pulls
    assert counts["seminorm"] < counts["all"]
