"""Steady states against closed forms, unrolled iterations and finite differences."""

from __future__ import annotations

import pytest
import scipy.optimize
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import pathline
from pathline import Implicit, PerSample, PseudoTime, roots, solve_steady_state

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

D = torch.float64
N = 5
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def inputs():
    torch.manual_seed(1)
    return torch.randn(N, N, dtype=D) * 0.25, torch.randn(N, dtype=D)


W, B = inputs()
ZERO = torch.zeros(N, dtype=D)


def contraction(t, y, args):
    return torch.tanh(y @ args[0] + args[1]) - y


def unrolled(w, b, y=ZERO):
    for _ in range(200):
        y = torch.tanh(y @ w + b)
    return y


def rest(w, b, method="newton", y0=ZERO, **options):
    return solve_steady_state(contraction, y0, args=(w, b), method=method, **TIGHT, **options)


@pytest.mark.parametrize("linear", ["lu", "gmres"])
@pytest.mark.parametrize("method", pathline.ROOTS)
def test_the_implicit_gradient_is_that_of_200_unrolled_iterations(method, linear):
    w, b, y0 = (x.clone().requires_grad_() for x in (W, B, ZERO))
    found = rest(w, b, method, y0, gradient=Implicit(root=linear))
    torch.testing.assert_close(found.y, unrolled(w, b), rtol=1e-9, atol=1e-10)
    assert found.residual <= 1e-8
    assert found.status
    assert found.evaluations >= found.iterations > 0
    truth = torch.autograd.grad(unrolled(w, b).square().sum(), (w, b))
    mine = torch.autograd.grad(found.y.square().sum(), (w, b, y0))
    for one, other in zip(mine, (*truth, ZERO), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    assert not mine[2].any()


def test_the_gradient_against_finite_differences():
    """To every tensor that the field reads: a module's, a closure's, and `args`."""
    net, shift, scale = nn.Linear(N, N, dtype=D), B.clone().requires_grad_(), torch.tensor(0.6, dtype=D)
    with torch.no_grad():
        net.weight.copy_(W)
    scale.requires_grad_()

    def loss():
        field = lambda t, y, c: torch.sin(c * net(y) + shift) - y + 0.1 * t  # noqa: E731
        return solve_steady_state(field, ZERO, args=scale, t=2.0, **TIGHT).y.sin().sum()

    loss().backward()
    for x in (net.weight, net.bias, shift, scale):
        flat, slope, step = x.data.view(-1), x.grad.view(-1), 1e-5
        for i in range(0, len(flat), 7):
            before = flat[i].item()
            ends = []
            for sign in (1, -1):
                flat[i] = before + sign * step
                with torch.no_grad():
                    ends.append(loss().item())
            flat[i] = before
            assert abs((ends[0] - ends[1]) / (2 * step) - slope[i].item()) <= 1e-6 * max(1.0, abs(slope[i].item()))


@pytest.mark.parametrize("linear", ["lu", "gmres"])
def test_second_derivatives_and_transforms(linear):
    find = lambda w: rest(w, B, gradient=Implicit(root=linear)).y  # noqa: E731
    loss, truth = (lambda w, f=f: f(w).square().sum() for f in (find, lambda w: unrolled(w, B)))
    w = W.clone().requires_grad_()

    def twice(f):
        (slope,) = torch.autograd.grad(f(w), w, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), w)[0]

    along = lambda f: lambda s: f(W + s * B)  # noqa: E731
    ways = {
        "grad of grad": twice,
        "func.grad": lambda f: torch.func.grad(f)(W),
        "jvp": lambda f: torch.func.jvp(f, (W,), (W,))[1],
        "hessian": lambda f: torch.func.hessian(along(f))(torch.tensor([0.1], dtype=D)),
        "vmap": lambda f: torch.func.vmap(f)(torch.stack([W, 0.5 * W, -W])),
        "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(f))(torch.stack([W, 0.5 * W])),
    }
    for name, way in ways.items():
        torch.testing.assert_close(
            way(loss), way(truth), rtol=1e-7, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )
    jacobian = torch.func.jacrev(lambda b: rest(W, b, gradient=Implicit(root=linear)).y)(B)
    torch.testing.assert_close(jacobian, torch.func.jacrev(lambda b: unrolled(W, b))(B), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", pathline.ROOTS)
def test_rows_are_systems_of_their_own(method):
    shifts = torch.stack([B, -2 * B, 3 + B]).requires_grad_()
    found = solve_steady_state(
        lambda t, y, args: torch.tanh(y @ W + args) - y * torch.ones_like(t),
        torch.zeros(3, N, dtype=D),
        args=PerSample(shifts),
        rows=True,
        method=method,
        **TIGHT,
    )
    assert found.residual.shape == (3,)
    assert list(found.status) == [pathline.Status.SUCCESS] * 3
    truth = torch.stack([unrolled(W, b) for b in shifts])
    torch.testing.assert_close(found.y, truth, rtol=1e-9, atol=1e-10)
    mine, theirs = (torch.autograd.grad(y.sin().sum(), shifts)[0] for y in (found.y, truth))
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


def test_rows_that_mix_are_one_system():
    """A diffusing line, whose rows know their neighbours: the closed form is a linear solve."""
    n = 8
    laplace = torch.diag(torch.full((n,), -2.0)) + torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1)
    laplace, heat = laplace.double(), torch.rand(n, 2, dtype=D)
    for rows in (None, False):
        found = solve_steady_state(lambda t, y: laplace @ y + heat, torch.zeros(n, 2, dtype=D), rows=rows)
        torch.testing.assert_close(found.y, torch.linalg.solve(laplace, -heat), rtol=1e-10, atol=1e-10)
        assert found.iterations <= 2


def test_a_large_state_makes_no_jacobian():
    n = 3000
    heat = torch.rand(n, dtype=D).requires_grad_()

    def field(t, y):
        return 0.2 * (torch.roll(y, 1) - 2 * y + torch.roll(y, -1)) - y**3 - y + heat

    found = solve_steady_state(field, torch.zeros(n, dtype=D), **TIGHT)
    assert found.residual <= 1e-9
    (slope,) = torch.autograd.grad(found.y.sum(), heat)
    with torch.no_grad():  # y_heat^T 1 solves the transposed equation, and J is symmetric
        left = torch.func.jvp(lambda y: field(0.0, y), (found.y.detach(),), (slope,))[1] + 1
    assert left.abs().max() <= 1e-9


def test_pseudo_time_follows_the_flow_to_the_stable_state():
    """y' = y - y^3 rests at -1, 0 and 1, and 0 is unstable: Newton's method from 0.2 goes there all the same."""
    field = lambda t, y: y - y**3  # noqa: E731
    start = torch.tensor([0.2, -0.2], dtype=D)
    assert solve_steady_state(field, start, **TIGHT).y.abs().max() <= 1e-9
    flow = solve_steady_state(field, start, method=PseudoTime(span=2.0), **TIGHT)
    torch.testing.assert_close(flow.y, torch.tensor([1.0, -1.0], dtype=D), rtol=1e-9, atol=1e-9)
    rows = solve_steady_state(field, start, rows=True, method="pseudo-time", **TIGHT)
    torch.testing.assert_close(rows.y, flow.y, rtol=1e-9, atol=1e-9)


def test_a_stiff_reaction_from_far_away():
    """Robertson's kinetics with a feed: rates over nine orders of magnitude, and a balance to check."""

    def field(t, y):
        a, b, c = y.unbind()
        slow, fast, square = 0.04 * a, 1e4 * b * c, 3e7 * b**2
        return torch.stack([1 - slow + fast - 0.1 * a, slow - fast - square - 0.1 * b, square - 0.1 * c])

    found = solve_steady_state(field, torch.tensor([5.0, 0.0, 0.0], dtype=D), method="pseudo-time", **TIGHT)
    torch.testing.assert_close(found.y.sum(), torch.tensor(10.0, dtype=D), rtol=1e-8, atol=0)  # feed 1, loss 0.1 of all
    assert (found.y > 0).all()
    assert found.residual <= 1e-8


def test_structures_and_complex_numbers():
    pull = torch.tensor(0.5, dtype=D, requires_grad=True)

    def field(t, y):
        return {"x": 1 - y["x"] * pull, "v": y["x"].sum() - y["v"]}

    found = solve_steady_state(field, {"x": torch.zeros(2, dtype=D), "v": torch.zeros(1, dtype=D)})
    torch.testing.assert_close(found.y["v"], torch.tensor([4.0], dtype=D))
    torch.testing.assert_close(torch.autograd.grad(found.y["v"].sum(), pull)[0], torch.tensor(-8.0, dtype=D))
    root = torch.tensor(1.0 + 2.0j, dtype=torch.complex128, requires_grad=True)
    found = solve_steady_state(lambda t, y: root - y**2, torch.ones(1, dtype=torch.complex128), **TIGHT)
    torch.testing.assert_close(found.y, root.sqrt().reshape(1), rtol=1e-10, atol=1e-10)
    mine, truth = (torch.autograd.grad((y * (1 - 3j)).real.sum(), root)[0] for y in (found.y, root.sqrt()))
    torch.testing.assert_close(mine, truth, rtol=1e-9, atol=1e-9)


def test_memory_does_not_grow_with_iterations():
    def saved(rtol):
        kept = []
        w = (1.6 * W).requires_grad_()
        with saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            found = solve_steady_state(contraction, ZERO, args=(w, B), method="anderson", rtol=rtol, atol=rtol)
        return sum(kept), found.iterations

    (little, few), (much, many) = saved(1e-1), saved(1e-12)
    assert many >= 2 * few
    assert much == little


@pytest.mark.parametrize("method", pathline.ROOTS)
def test_failures_are_typed_and_carry_the_result(method):
    restless = lambda t, y: 1 + y**2  # noqa: E731
    method = PseudoTime(steps=50) if method == "pseudo-time" else method
    y0 = torch.full((2,), 0.5, dtype=D)
    with pytest.raises(pathline.NewtonError, match="No steady state was found.*pseudo-time") as caught:
        solve_steady_state(restless, y0, method=method)
    assert caught.value.solution.residual > 0.5
    found = solve_steady_state(restless, y0, method=method, on_failure="return")
    assert not found.status
    assert found.message
    with pytest.raises(pathline.NonFiniteError):
        solve_steady_state(lambda t, y: y * float("nan"), y0, method=method)
    if not isinstance(method, PseudoTime):
        return
    mixed = solve_steady_state(
        lambda t, y, c: c - y**2, torch.ones(2, dtype=D), args=PerSample(torch.tensor([2.0, -1.0], dtype=D)), rows=True,
        method=method, on_failure="return",
    )  # fmt: skip
    assert [bool(status) for status in mixed.status] == [True, False]
    torch.testing.assert_close(mixed.y[0], torch.tensor(2.0, dtype=D).sqrt())


def test_a_singular_jacobian_has_no_derivative():
    """A conserved sum leaves a line of steady states."""
    k = torch.tensor(2.0, dtype=D, requires_grad=True)
    field = lambda t, y: torch.stack([y[1] - k * y[0], k * y[0] - y[1]])  # noqa: E731
    at_rest = torch.tensor([1.0, 2.0], dtype=D)
    with torch.no_grad():
        torch.testing.assert_close(solve_steady_state(field, at_rest, method="anderson").y, at_rest)
    with pytest.raises(RuntimeError, match="singular"):
        solve_steady_state(field, at_rest, method="anderson")


def test_arguments_are_checked():
    field = lambda t, y: -y  # noqa: E731
    wrong = {
        "method": (ValueError, "newtown", 'Did you mean "newton"'),
        "gradient": (TypeError, "adjoint", "pathline.Implicit"),
        "rtol": (ValueError, -1.0, "`rtol` is a finite number"),
        "on_failure": (ValueError, "ignore", "`on_failure`"),
    }
    for name, (kind, value, text) in wrong.items():
        with pytest.raises(kind, match=text):
            solve_steady_state(field, ZERO, **{name: value})
    with pytest.raises(TypeError, match="`method` is a name from ROOTS"):
        solve_steady_state(field, ZERO, method=PseudoTime)
    with pytest.raises(ValueError, match="`y0` is finite"):
        solve_steady_state(field, ZERO / 0)
    with pytest.raises(ValueError, match='`root` is "auto"'):
        Implicit(root="cg")
    with pytest.raises(ValueError, match=r"`rows=True` under torch\.func\.vmap is not available"):
        torch.func.vmap(lambda y: solve_steady_state(field, y, rows=True).y)(torch.ones(2, 3))


@pytest.mark.parametrize("finder", ["newton", "broyden", "anderson"])
def test_root_finders_on_the_broyden_tridiagonal_equations(finder):
    """Against scipy's hybrid Powell method, in rows of three different problems at once."""
    n, bends = 7, torch.tensor([[2.0], [1.0], [0.5]], dtype=D)

    def g(z):
        left, right = (torch.nn.functional.pad(x, p) for x, p in ((z[:, :-1], (1, 0)), (z[:, 1:], (0, 1))))
        return -((3 - bends * z) * z - left - 2 * right + 1)

    def linear(z):
        full = torch.autograd.functional.jacobian(g, z)
        matrices = torch.stack([full[i, :, i] for i in range(len(z))])
        return g(z), lambda r: torch.linalg.solve(matrices, r)

    z, scale = torch.full((3, n), -1.0, dtype=D), lambda z: torch.full_like(z, 1e-10)
    options = {"mixing": 0.2} if finder != "newton" else {}
    given = (g, linear) if finder == "newton" else (g,)
    found = getattr(roots, finder)(*given, z, scale, most=200, **options)
    assert found.done.all()
    for i, bend in enumerate(bends):
        alone = lambda x, i=i: g(torch.from_numpy(x).expand(3, n))[i].numpy()  # noqa: E731
        truth = torch.from_numpy(scipy.optimize.root(alone, z[i].numpy(), tol=1e-12).x)
        torch.testing.assert_close(found.z[i], truth, rtol=1e-8, atol=1e-8, msg=f"bend {bend}")
