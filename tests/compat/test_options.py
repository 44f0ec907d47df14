"""Options and callbacks of `odeint`, beside the installed original."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchdiffeq as original

from pathline.compat import torchdiffeq as ours

BOTH = pytest.mark.parametrize("lib", [ours, original], ids=["ours", "original"])
T = torch.tensor([0.0, 0.5, 1.3], dtype=torch.float64)
Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)


class Watched(torch.nn.Module):
    """A field that notes where it is called, and its steps."""

    def __init__(self, f=lambda t, y: torch.cos(t) * y):
        super().__init__()
        self.f, self.times, self.steps, self.accepted, self.rejected = f, [], [], [], []

    def forward(self, t, y):
        self.times.append(t.item())
        return self.f(t, y)

    def callback_step(self, t0, y0, dt):
        self.steps.append((t0, y0, dt))


class Judged(Watched):
    """One that notes the verdicts too."""

    def callback_accept_step(self, t0, y0, dt):
        self.accepted.append((t0, y0, dt))

    def callback_reject_step(self, t0, y0, dt):
        self.rejected.append((t0, y0, dt))


# --- adaptive ----------------------------------------------------------------------------------------------------


@BOTH
def test_first_min_and_max_step(lib):
    field = Judged()
    lib.odeint(field, Y0, T, options={"first_step": 0.01, "max_step": torch.tensor(0.05)})
    lengths = [dt.item() for _, _, dt in field.accepted]
    assert lengths[0] == pytest.approx(0.01)
    assert max(lengths) <= 0.05 * (1 + 1e-6)
    field = Watched(lambda t, y: torch.sin(50.0 * t) * y)
    lib.odeint(field, Y0, T, options={"min_step": 0.1})
    assert min(dt.item() for _, _, dt in field.steps[:-1]) >= 0.1 * (1 - 1e-9)
    assert len(field.steps) <= 14


@BOTH
def test_safety_and_the_limits_of_growth(lib):
    field = Judged(lambda t, y: -y)
    lib.odeint(
        field, Y0, T, rtol=1e-3, atol=1e-3, options={"first_step": 1e-3, "ifactor": 2.0, "dfactor": 0.5, "safety": 0.8}
    )
    lengths = [dt.item() for _, _, dt in field.accepted]
    assert max(b / a for a, b in zip(lengths, lengths[1:], strict=False)) <= 2.0 * (1 + 1e-9)


@BOTH
def test_factors_of_one(lib):
    field = Judged(lambda t, y: -y)
    ys = lib.odeint(field, Y0, T, rtol=1e-3, atol=1e-3, options={"first_step": 0.05, "ifactor": 1.0, "dfactor": 1.0})
    assert max(dt.item() for _, _, dt in field.accepted) <= 0.05 * (1 + 1e-6)
    torch.testing.assert_close(ys[-1], Y0 * torch.exp(-T[-1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
@BOTH
def test_step_t_and_jump_t_are_hit(lib, sign):
    stops, jump = (torch.tensor(x, dtype=torch.float64) * sign for x in ([0.3, 0.9], [0.6]))

    def f(t, y):
        return torch.where(t * sign < 0.6, 1.0, -2.0) * torch.ones_like(y)

    field = Judged(f)
    ys = lib.odeint(field, Y0, T * sign, options={"step_t": stops, "jump_t": jump})
    starts = {round(t0.item() * sign, 6) for t0, _, _ in field.accepted}
    assert {0.3, 0.6, 0.9} <= starts
    torch.testing.assert_close(ys[-1], Y0 + sign * (0.6 - 1.4), rtol=0.0, atol=1e-9)
    assert not field.rejected or lib is original


@BOTH
def test_stops_that_repeat_are_refused(lib):
    with pytest.raises(ValueError, match="repeated"):
        lib.odeint(lambda t, y: -y, Y0, T, options={"step_t": torch.tensor([0.3]), "jump_t": torch.tensor([0.3])})


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_times(lib, dtype):
    ys = lib.odeint(
        lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), rtol=1e-4, atol=1e-5, options={"dtype": dtype}
    )
    assert ys.dtype == torch.float32
    torch.testing.assert_close(ys[-1], torch.full((2,), 0.36788), rtol=1e-3, atol=1e-3)


@BOTH
def test_max_num_steps_counts_between_two_times(lib):
    t = torch.linspace(0.0, 20.0, 41, dtype=torch.float64)
    field = Watched()
    lib.odeint(field, Y0, t, options={"max_num_steps": 20})  # some 60 steps in all
    assert len(field.steps) > 20
    with pytest.raises(AssertionError):
        lib.odeint(field, Y0, t[[0, -1]], options={"max_num_steps": 20})


# --- grids -------------------------------------------------------------------------------------------------------

METHODS = pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])


@METHODS
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("interp", [None, "linear", "cubic"])
def test_step_size_and_interpolation(method, interp, dtype, sign):
    t = torch.tensor([0.0, 0.31, 0.35, 1.0], dtype=dtype) * sign
    options = {"step_size": 0.1} | ({} if interp is None else {"interp": interp})
    f = lambda t, y: torch.cos(3.0 * t) * y  # noqa: E731
    found, theirs = (lib.odeint(f, Y0.to(dtype), t, method=method, options=options) for lib in (ours, original))
    bound = 2e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, theirs, rtol=bound, atol=bound)


@METHODS
def test_the_last_step_of_a_size_is_shorter(method):
    field = Watched()
    ours.odeint(field, Y0, T, method=method, options={"step_size": 0.3})
    lengths = [round(dt.item(), 9) for _, _, dt in field.steps]
    assert lengths == [0.3, 0.3, 0.3, 0.3, 0.1]


@BOTH
@pytest.mark.parametrize("sign", [1, -1])
def test_a_grid_constructor(lib, sign):
    asked = []

    def grid(func, y0, t):
        asked.append((y0.shape, t.clone()))
        func(t[0], y0)
        return torch.cat([t[:1], torch.tensor([0.2, 0.45], dtype=t.dtype) * sign, t[-1:]])

    field = Watched()
    ys = lib.odeint(field, Y0, T * sign, method="rk4", options={"grid_constructor": grid})
    assert ys.shape == (3, 2)
    assert asked[0][0] == (2,)
    assert torch.equal(asked[0][1], T * sign)
    assert [round(t0.item() * sign, 9) for t0, _, _ in field.steps] == [0.0, 0.2, 0.45]
    truth = Y0 * torch.exp(torch.sin(T[-1] * sign))
    torch.testing.assert_close(ys[-1], truth, rtol=1e-2, atol=1e-2)


def test_a_grid_constructor_sees_a_flat_state():
    seen = {}
    for lib in (ours, original):

        def grid(func, y0, t, lib=lib):
            seen[lib] = y0.shape, func(t[0], y0).shape
            return t

        lib.odeint(
            lambda t, y: (-y[0], -y[1]),
            (torch.ones(2), torch.ones(3)),
            T,
            method="euler",
            options={"grid_constructor": grid},
        )
    assert seen[ours] == seen[original] == ((5,), (5,))


@METHODS
@pytest.mark.parametrize("options", [{}, {"step_size": 0.1}])
def test_perturbed_fields_are_never_called_at_a_grid_point(method, options):
    calls = {}
    for lib in (ours, original):
        field = Watched()
        ys = lib.odeint(field, Y0, T, method=method, options={"perturb": True, **options})
        calls[lib] = field.times, ys
    grid = {0.0, 0.5, 1.3} if not options else set((torch.arange(14, dtype=torch.float64) * 0.1).tolist())
    assert not grid & set(calls[ours][0])
    assert min(calls[ours][0]) > 0.0
    assert max(calls[ours][0]) < 1.3
    torch.testing.assert_close(calls[ours][1], calls[original][1], rtol=1e-12, atol=1e-12)
    if method in ("euler", "midpoint", "rk4") and not options:
        assert calls[ours][0] == pytest.approx(calls[original][0], abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"step_size": 0.1, "interp": "cubic"}])
def test_gradients_to_the_times_of_perturbed_steps(options):
    def slope(lib):
        t = T.clone().requires_grad_()
        ys = lib.odeint(lambda s, y: torch.cos(s) * y, Y0, t, method="midpoint", options={"perturb": True, **options})
        return torch.autograd.grad(ys.sum(), t)[0]

    torch.testing.assert_close(slope(ours), slope(original), rtol=1e-6, atol=1e-9)


@BOTH
def test_adams_options(lib):
    t = torch.linspace(0.0, 1.0, 51, dtype=torch.float64)
    options = {"max_order": 6, "max_iters": 8}
    ys = lib.odeint(lambda t, y: -y, Y0, t, method="implicit_adams", options=options)
    torch.testing.assert_close(ys[-1], Y0 * torch.exp(-t[-1]), rtol=1e-7, atol=1e-8)
    with pytest.warns(UserWarning, match="rk4"):
        low = lib.odeint(lambda t, y: -y, Y0, t, method="explicit_adams", options={"max_order": 3})
    torch.testing.assert_close(low, lib.odeint(lambda t, y: -y, Y0, t, method="rk4"), rtol=1e-12, atol=1e-13)
    with pytest.warns(UserWarning, match="did not converge"):
        lib.odeint(lambda t, y: -30.0 * y, Y0, t, method="implicit_adams", options={"max_iters": 1})


def test_iterations_of_implicit_methods():
    t = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    ys = ours.odeint(lambda t, y: -y, Y0, t, method="gl4", options={"max_iters": 20})
    torch.testing.assert_close(ys[-1], Y0 * torch.exp(-t[-1]), rtol=1e-6, atol=1e-7)


# --- warnings ----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dopri5", {"step_size": 0.1}),
        ("dopri8", {"nonsense": 1}),
        ("rk4", {"max_num_steps": 10}),
        ("euler", {"first_step": 0.1}),
        ("scipy_solver", {"step_size": 0.1}),
    ],
)
def test_unknown_options_warn(lib, method, options):
    with pytest.warns(UserWarning, match="Unexpected arguments"):
        lib.odeint(lambda t, y: -y, Y0, T, method=method, options=options)


@BOTH
@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams", "scipy_solver"])
def test_what_is_known_does_not_warn(lib, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lib.odeint(lambda t, y: -y, Y0, T, method=method, rtol=1e-5, options={"norm": lambda x: x.abs().max()})


# --- callbacks ---------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("parts", [False, True])
def test_callbacks_of_adaptive_methods(lib, sign, parts):
    field = Judged(lambda t, y: tuple(-x for x in y) if parts else torch.sin(20.0 * t) * y)
    y0 = (Y0, torch.ones(1, dtype=torch.float64)) if parts else Y0
    lib.odeint(field, y0, T * sign, rtol=1e-5, atol=1e-5, options={"first_step": 1.0})
    assert len(field.steps) == len(field.accepted) + len(field.rejected)
    assert len(field.rejected) > 0
    for t0, state, dt in [*field.steps, *field.accepted, *field.rejected]:
        assert isinstance(state, tuple) == parts
        assert t0.dtype == dt.dtype == torch.float64
        assert t0.shape == dt.shape == ()
        assert dt > 0
        assert 0.0 <= t0 * sign <= 1.3
    first = field.steps[0]
    assert first[0] == 0.0
    torch.testing.assert_close(first[1], y0)


@BOTH
def test_fixed_steps_call_one_of_them_and_warn_of_the_others(lib):
    field = Judged()
    with pytest.warns(UserWarning, match="does not support callbacks"):
        lib.odeint(field, Y0, T, method="rk4")
    assert [round(t0.item(), 6) for t0, _, _ in field.steps] == [0.0, 0.5]
    assert not field.accepted


@BOTH
def test_scipy_calls_none(lib):
    with pytest.warns(UserWarning, match="does not support callbacks"):
        lib.odeint(Watched(), Y0, T, method="scipy_solver", rtol=1e-5)


@BOTH
def test_callbacks_of_the_adjoint(lib):
    calls = {"step": [], "accept": [], "reject": []}

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, t, y):
            return -self.weight * y

        def callback_step_adjoint(self, t0, y0, dt):
            calls["step"].append((t0, y0, dt))

        def callback_accept_step_adjoint(self, t0, y0, dt):
            calls["accept"].append((t0, y0, dt))

        def callback_reject_step_adjoint(self, t0, y0, dt):
            calls["reject"].append((t0, y0, dt))

    ys = lib.odeint_adjoint(Field(), Y0, T, rtol=1e-6)
    assert not calls["step"]
    (3.0 * ys[-1]).sum().backward()
    assert len(calls["step"]) == len(calls["accept"]) + len(calls["reject"])
    t0, state, dt = calls["step"][0]
    assert t0 == 1.3
    assert dt > 0
    time, y, a, weight = state
    assert time.shape == ()
    torch.testing.assert_close(y, ys[-1].detach())
    torch.testing.assert_close(a, torch.full_like(a, 3.0))
    assert weight.shape == (2,)
