"""Solves under the transforms of torch.func, against loops of single solves and against fields written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import pathline

# torch's own, when it loads its rules for forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

D = torch.float64
MODES = ["backprop", "checkpointed", "adjoint"]
STEPS = {
    "rk4": {"dt": 0.25},
    "tsit5": {"rtol": 1e-6, "atol": 1e-8},
    "kvaerno3": {"rtol": 1e-3, "atol": 1e-4},
}
W = torch.tensor([[-0.5, 0.3], [-0.4, -0.2]], dtype=D)
Y0 = torch.tensor([[1.0, 0.5], [0.2, -0.3]], dtype=D)
NOISE = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=D)
ONES = torch.full_like(W, 0.3)


def close(found, truth, gradient="backprop", exact=1e-9, adjoint=1e-4):
    bound = adjoint if gradient == "adjoint" else exact
    torch.testing.assert_close(found, truth, rtol=bound, atol=bound)


# --- fields that differentiate inside: {how} x {gradient} x {where} ---------------------------------------------------


def energy(y, w):
    return (torch.cos(y @ w) + y**2 / 2).sum()


def turned(slope):
    return torch.stack([slope[..., 1], -slope[..., 0]], -1)


def by_autograd(t, y, args):
    (slope,) = torch.autograd.grad(energy(y, args[0]), y, create_graph=True)
    return turned(slope)


def by_autograd_asking(t, y, args):
    with torch.enable_grad():
        y = y.requires_grad_()
        (slope,) = torch.autograd.grad(energy(y, args[0]), y, create_graph=True)
    return turned(slope)


def by_func(t, y, args):
    return turned(grad(energy)(y, args[0]))


def energy_written_out(t, y, args):
    return turned(y - torch.sin(y @ args[0]) @ args[0].T)


def hutchinson(t, y, args):
    dy, pull = vjp(lambda y: torch.tanh(y @ args[0]), y)
    return dy * (args[1] * pull(args[1])[0]).sum(-1, keepdim=True)


def hutchinson_written_out(t, y, args):
    dy = torch.tanh(y @ args[0])
    return dy * (args[1] * ((args[1] * (1 - dy**2)) @ args[0].T)).sum(-1, keepdim=True)


FIELDS = {
    "autograd.grad": (by_autograd, energy_written_out),
    "autograd.grad of what asks": (by_autograd_asking, energy_written_out),
    "torch.func.grad": (by_func, energy_written_out),
    "hutchinson": (hutchinson, hutchinson_written_out),
}


def loss_of(field, method, gradient):
    steps = {"controller": pathline.FixedStep(0.3 if method == "kvaerno3" else 0.15)}

    def loss(w):
        run = pathline.solve(field, Y0, (0.0, 0.3), args=(w, NOISE), method=method, gradient=gradient, **steps)
        return run.y1.square().sum()

    return loss


@pytest.mark.parametrize("gradient", [*MODES, "reversible"])
@pytest.mark.parametrize("kind", FIELDS)
def test_a_field_that_differentiates_inside_under_every_transform(kind, gradient):
    field, written_out = FIELDS[kind]
    for method in ["reversible_heun"] if gradient == "reversible" else ["rk4", "kvaerno3"]:
        loss, plain = loss_of(field, method, gradient), loss_of(written_out, method, "backprop")
        w = W.clone().requires_grad_()
        value = plain(w)
        (slope,) = torch.autograd.grad(value, w)
        along = (slope * ONES).sum()
        close(torch.autograd.grad(loss(w), w)[0], slope, gradient, adjoint=3e-3)
        close(grad(loss)(W), slope, gradient, adjoint=3e-3)
        close(jvp(loss, (W,), (ONES,))[1], along)
        with forward_ad.dual_level():
            close(forward_ad.unpack_dual(loss(forward_ad.make_dual(W, ONES))).tangent, along)
        with torch.no_grad():  # no graph is wanted, and tangents all the same
            close(loss(W), value.detach())
            if gradient in ("checkpointed", "reversible"):
                continue  # in forward mode nothing distinguishes it from the others
            close(jvp(loss, (W,), (ONES,))[1], along)
            with forward_ad.dual_level():
                close(forward_ad.unpack_dual(loss(forward_ad.make_dual(W, ONES))).tangent, along)


# --- forward mode ------------------------------------------------------------------------------------------------


def field(t, y, w):
    return torch.tanh(y @ w) * torch.cos(t) * 2


def end(y0, w, t1=1.0, gradient="backprop", method="tsit5", **options):
    t = torch.stack([torch.zeros((), dtype=D), t1]) if isinstance(t1, torch.Tensor) else (0.0, t1)
    return pathline.solve(field, y0, t, args=w, method=method, gradient=gradient, **STEPS[method], **options).y1


@pytest.mark.parametrize("method", STEPS)
def test_tangents_of_start_arguments_and_times(method):
    """Every gradient hands over to the recording of the steps: the numbers are those of backprop to rounding."""
    t1 = torch.tensor(0.9, dtype=D)
    tangents = (torch.full_like(Y0, 0.2), ONES, torch.tensor(0.7, dtype=D))
    inputs = [x.clone().requires_grad_() for x in (Y0, W, t1)]
    slopes = torch.autograd.grad(end(*inputs, method=method).sin().sum(), inputs)
    truth = sum((g * v).sum() for g, v in zip(slopes, tangents, strict=True))
    for gradient in MODES:
        loss = lambda y, w, t, mode=gradient: end(y, w, t, mode, method).sin().sum()  # noqa: E731
        close(jvp(loss, (Y0, W, t1), tangents)[1], truth)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, v) for x, v in zip((Y0, W, t1), tangents, strict=True)]
        close(forward_ad.unpack_dual(end(*duals, "adjoint", method).sin().sum()).tangent, truth)


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("method", ["gl4", "radauIIA3", "rodas5p", "bdf", "leapfrog"])
def test_tangents_and_the_tape_agree_on_the_times(method, clock):
    """By hand as well: both modes share what a step keeps, and could be wrong alike."""
    steps = {"rtol": 1e-2, "atol": 1e-2} if pathline.METHODS[method].adaptive else {"dt": 0.15}
    split = pathline.Separable(kick=lambda t, q, w: -torch.sin(q * w[0, 0]), drift=lambda t, p, w: p * w[1, 1])
    rate = split if method == "leapfrog" else field

    def loss(y, w, t):
        return pathline.solve(rate, y, t, args=w, method=method, clock=clock, **steps).ys.sin().sum()

    t = torch.tensor([0.0, 0.17, 0.4], dtype=D)
    inputs = [x.clone().requires_grad_() for x in (Y0, W, t)]
    slopes = torch.autograd.grad(loss(*inputs), inputs)
    tangents = [torch.full_like(Y0, 0.2), ONES, torch.tensor([0.3, -0.1, 0.7], dtype=D)]
    truth = sum((g * v).sum() for g, v in zip(slopes, tangents, strict=True))
    close(jvp(loss, (Y0, W, t), tuple(tangents))[1], truth, exact=1e-11)
    if not pathline.METHODS[method].adaptive:
        ends = [loss(*(x + h * v for x, v in zip((Y0, W, t), tangents, strict=True))) for h in (1e-5, -1e-5)]
        close((ends[0] - ends[1]) / 2e-5, truth, exact=1e-7)


@pytest.mark.parametrize("gradient", MODES)
def test_jacobians_and_hessians(gradient):
    f = lambda w: end(Y0[0], w, gradient=gradient)  # noqa: E731
    loss = lambda w: f(w).square().sum()  # noqa: E731
    exact = lambda w: end(Y0[0], w).square().sum()  # noqa: E731
    w = W.clone().requires_grad_()
    truth = torch.stack([torch.autograd.grad(end(Y0[0], w)[i], w)[0] for i in range(2)])
    close(jacfwd(f)(W), truth)
    close(jacrev(f)(W), truth, gradient)
    second = torch.autograd.functional.hessian(exact, W)
    close(hessian(loss)(W), second)
    close(jacrev(jacrev(loss))(W), second, gradient)
    close(jacfwd(jacfwd(loss))(W), second)
    if gradient != "adjoint":  # whose backward solve has to read values, and jacrev hands them over one by one
        close(torch.autograd.grad(f(w), w, torch.eye(2, dtype=D), is_grads_batched=True)[0], truth)


@pytest.mark.parametrize("gradient", MODES)
def test_a_second_derivative_through_a_pull_back_that_outlived_its_transform(gradient):
    """The states that such a backward pass recomputes from are no wrappers of a level that is gone."""
    w = W.clone().requires_grad_()
    found = []
    for mode in ("backprop", gradient):
        y1, pull = vjp(lambda y, mode=mode: end(y, w, gradient=mode), Y0)
        (slope,) = pull(2 * y1)
        found.append(torch.autograd.grad(slope.square().sum(), w)[0])
    close(found[1], found[0], gradient)


@pytest.mark.parametrize("gradient", MODES)
def test_gradients_by_the_times(gradient):
    """The adjoint's are right once; differentiated in turn they would leave out the ends of its intervals."""
    loss = lambda w, t: end(Y0, w, t, gradient).square().sum()  # noqa: E731
    t1 = torch.tensor(0.9, dtype=D)
    inputs = [x.clone().requires_grad_() for x in (W, t1)]
    truth = torch.autograd.grad(end(Y0, *inputs).square().sum(), inputs)
    for mine, theirs in zip(grad(loss, (0, 1))(W, t1), truth, strict=True):
        close(mine, theirs, gradient)
    twice = grad(lambda t: grad(loss)(W, t).sum())
    if gradient == "adjoint":
        with pytest.raises(RuntimeError, match="Second derivatives of a solve whose `t` is differentiated"):
            twice(t1)
    else:
        step = 1e-4
        ends = [grad(lambda w, t=t: end(Y0, w, t).square().sum())(W).sum() for t in (t1 + step, t1 - step)]
        close(twice(t1), (ends[0] - ends[1]) / (2 * step), exact=1e-5)


@pytest.mark.parametrize("method", ["tsit5", "gl4", "rodas5p"])
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_a_gradient_of_a_gradient_by_other_tensors(method, clock):
    """The inner level does not know that the outer one watches; nor may what solvers keep outlive a level."""
    steps = {"rtol": 1e-3, "atol": 1e-4} if pathline.METHODS[method].adaptive else {"dt": 0.2}
    rate = lambda t, y, w: torch.tanh(torch.einsum("bi,bij->bj", y, w)) * torch.cos(t)  # noqa: E731
    ws = torch.stack([W, -2 * W])
    solver = copy.copy(pathline.METHODS[method])
    for name in ("_nodes", "_polynomial", "spectrum"):
        solver.__dict__.pop(name, None)  # so that constants are made inside the levels

    def loss(y, w):
        args = pathline.PerSample(w)
        t = (0.0, 0.4) if clock == "per-sample" else torch.tensor([0.0, 0.1, 0.4])
        return pathline.solve(rate, y, t, args=args, clock=clock, method=solver, **steps).ys.square().sum()

    y, w = Y0.clone().requires_grad_(), ws.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(y, w), y, create_graph=True)
    (truth,) = torch.autograd.grad(slope.sin().sum(), w)
    close(grad(lambda w: grad(loss)(Y0, w).sin().sum())(ws), truth)
    close(grad(loss, 1)(Y0, ws), torch.autograd.grad(loss(y, w), w)[0])


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_tangents_of_parameters_in_a_module(gradient):
    net = nn.Linear(2, 2, dtype=D)
    params = {name: p.detach() for name, p in net.named_parameters()}
    tangents = {name: torch.ones_like(p) for name, p in params.items()}

    def loss(params):
        inner = lambda t, y: functional_call(net, params, (y,))  # noqa: E731
        return pathline.solve(inner, Y0, (0.0, 1.0), method="rk4", dt=0.25, gradient=gradient).y1.square().sum()

    slopes = torch.autograd.grad(
        pathline.solve(net, Y0, (0.0, 1.0), method="rk4", dt=0.25).y1.square().sum(), list(net.parameters())
    )
    close(jvp(loss, (params,), (tangents,))[1], sum(g.sum() for g in slopes))


@pytest.mark.parametrize("clock", ["shared", "per-sample"])
def test_tangents_through_a_bounce(clock):
    def loss(y0, t1):
        fall = lambda t, y: torch.stack([y[..., 1], -9.8 + 0 * y[..., 1]], -1)  # noqa: E731
        floor = pathline.Event(
            crossing=lambda t, y: y[..., 0],
            reset=lambda t, y: torch.stack([-y[..., 0], -0.8 * y[..., 1]], -1),
            terminal=False,
        )
        t = torch.stack([torch.zeros((), dtype=D), t1])
        found = pathline.solve(fall, y0, t, events=floor, clock=clock, rtol=1e-8, atol=1e-8)
        return found.y1.square().sum() + found.events[0].t.square().sum()

    y0, t1 = torch.tensor([[1.0, 0.2], [1.1, 0.3]], dtype=D), torch.tensor(1.3, dtype=D)
    y0 = y0 if clock == "per-sample" else y0[0]
    inputs = [x.clone().requires_grad_() for x in (y0, t1)]
    slopes = torch.autograd.grad(loss(*inputs), inputs)
    tangent = jvp(loss, (y0, t1), (torch.full_like(y0, 0.3), torch.tensor(0.7, dtype=D)))[1]
    close(tangent, 0.3 * slopes[0].sum() + 0.7 * slopes[1], exact=1e-12)


# --- vmap --------------------------------------------------------------------------------------------------------

YS = torch.tensor([[1.0, 0.5], [0.2, -0.3], [-1.5, 2.0]], dtype=D)
WS = W * torch.tensor([1.0, 4.0, -2.0], dtype=D).reshape(3, 1, 1)  # of different stiffness: other steps for each
TS = torch.tensor([0.5, 1.2, 0.9], dtype=D)


def loop(f, *xs):
    return torch.stack([f(*row) for row in zip(*xs, strict=True)])


@pytest.mark.parametrize(
    ("method", "gradient"),
    [("rk4", "backprop"), *(("tsit5", mode) for mode in MODES), ("kvaerno3", "backprop"), ("kvaerno3", "checkpointed")],
)
def test_vmap_is_a_loop_of_single_solves(method, gradient):
    """Starts, parameters and times; kept Jacobians are shared by entries, within what Newton's method is asked for."""
    run = lambda y, w, t: end(y, w, t, gradient, method)  # noqa: E731
    inputs = [x.clone().requires_grad_() for x in (YS, WS, TS)]
    found, truth = vmap(run)(*inputs), loop(run, *inputs)
    close(found, truth, exact=1e-5 if method == "kvaerno3" else 1e-12)
    weights = torch.arange(6, dtype=D).reshape(3, 2)
    slopes = [torch.autograd.grad((weights * ys).sum(), inputs) for ys in (found, truth)]
    for mine, theirs in zip(*slopes, strict=True):
        close(mine, theirs, exact=1e-5 if method == "kvaerno3" else 1e-11)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", ["rk4", "tsit5"])
def test_transforms_inside_and_around_vmap(method, gradient):
    run = lambda y, w: end(y, w, gradient=gradient, method=method)  # noqa: E731
    exact = lambda y, w: end(y, w, method=method)  # noqa: E731
    loss, plain = (lambda y, w, f=f: f(y, w).square().sum() for f in (run, exact))
    shared = lambda f: lambda y: f(y, W)  # noqa: E731
    close(vmap(run, (0, None))(YS, W), loop(shared(exact), YS))
    close(vmap(run, (1, None), out_dims=1)(YS.T, W).T, loop(shared(exact), YS))
    for number in (0, 1):  # also of what entries share: each has its own
        slopes = vmap(grad(loss, number), (0, None))(YS, W)
        close(slopes, loop(shared(grad(plain, number)), YS), gradient)
        assert not slopes.requires_grad
    close(grad(lambda w: vmap(run, (0, None))(YS, w).sin().sum())(W), grad(lambda w: loop(lambda y: exact(y, w), YS).sin().sum())(W), gradient)  # fmt: skip
    along = lambda f: lambda y: jvp(f, (y, W), (torch.ones_like(y), ONES))[1]  # noqa: E731
    close(vmap(along(run))(YS), loop(along(exact), YS))
    around = lambda f: lambda w: f(lambda y: run(y, w), YS)  # noqa: E731
    close(
        jvp(around(lambda f, y: vmap(f)(y)), (W,), (ONES,))[1],
        jvp(around(loop), (W,), (ONES,))[1],
    )


def test_deeper_nestings():
    loss = lambda y, w: end(y, w).square().sum()  # noqa: E731
    one = lambda y: (jacrev(end)(y, W), hessian(loss)(y, W))  # noqa: E731
    rows, seconds = vmap(one)(YS)
    for i, y in enumerate(YS):
        row, second = one(y)
        close(rows[i], row)
        close(seconds[i], second)
    table = vmap(vmap(end, (0, None)), (None, 0))(YS, WS)
    close(table, torch.stack([loop(lambda y, w=w: end(y, w), YS) for w in WS]))
    slopes = vmap(vmap(grad(loss), (0, None)), (None, 0))(YS[:2], WS[:2])
    close(slopes, torch.stack([loop(lambda y, w=w: grad(loss)(y, w), YS[:2]) for w in WS[:2]]))


@pytest.mark.parametrize("gradient", MODES)
def test_training_on_a_gradient_inside_vmap(gradient):
    """The outer derivative is ordinary autograd's, of what torch.func took inside."""
    w = W.clone().requires_grad_()
    loss = lambda y, mode: end(y, w, gradient=mode, method="rk4").square().sum()  # noqa: E731
    found = vmap(grad(lambda y: loss(y, gradient)))(YS)
    truth = loop(grad(lambda y: loss(y, "backprop")), YS)
    (mine,), (theirs,) = (torch.autograd.grad(x.square().sum(), w) for x in (found, truth))
    # Fixed steps of this length: the adjoint is that of the solution, not of the steps.
    torch.testing.assert_close(mine, theirs, rtol=3e-2 if gradient == "adjoint" else 1e-10, atol=1e-10)


@pytest.mark.parametrize("gradient", MODES)
def test_an_ensemble_of_networks(gradient):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double() for _ in range(3)]
    params, _ = stack_module_state(nets)
    shape, t = nets[0], torch.linspace(0, 1, 3)

    def rows(params, y):
        inner = lambda t, y: functional_call(shape, params, (y,))  # noqa: E731
        return pathline.solve(inner, y, t, rtol=1e-6, atol=1e-8, gradient=gradient).ys

    found = vmap(rows)(params, YS)
    truth = torch.stack([pathline.solve(n, y, t, rtol=1e-6, atol=1e-8).ys for n, y in zip(nets, YS, strict=True)])
    close(found, truth)
    slopes = torch.autograd.grad(found.square().sum(), list(params.values()))
    own = vmap(grad(lambda p, y: rows(p, y).square().sum()))(params, YS)
    truths = torch.autograd.grad(truth.square().sum(), [p for net in nets for p in net.parameters()])
    for i, (slope, name) in enumerate(zip(slopes, params, strict=True)):
        theirs = torch.stack(truths[i :: len(params)])
        close(slope, theirs, gradient, 1e-8)
        close(own[name], theirs, gradient, 1e-8)


def test_what_a_solution_holds_under_vmap():
    def one(y, w):
        pair = {"x": y, "v": 2 * y}
        rate = lambda t, y: {"x": y["v"] @ w, "v": -y["x"] * pathline.time_like(t, y["x"])}  # noqa: E731
        solution = pathline.solve(rate, pair, torch.linspace(0, 1, 4, dtype=D), method="rk4", dt=0.25)
        assert solution.status
        assert solution.stats.evaluations > 0
        return solution.ys, solution.y1, solution.ts, solution.t1, solution.valid

    ys, y1, ts, t1, valid = vmap(one)(YS, WS)
    for i in range(3):
        alone = one(YS[i], WS[i])
        for name in ("x", "v"):
            close(ys[name][i], alone[0][name])
            close(y1[name][i], alone[1][name])
    assert torch.equal(ts, torch.linspace(0, 1, 4, dtype=D).expand(3, 4))
    assert torch.equal(t1, torch.ones(3, dtype=D))
    assert valid.all()
    assert valid.shape == (3, 4)


def test_every_kind_of_term_and_kept_functions():
    split = lambda w: pathline.Separable(kick=lambda t, q: -torch.sin(q) * w, drift=lambda t, p: p)  # noqa: E731
    stiff = lambda w: pathline.Sum(lambda t, y: -20 * w * y, lambda t, y: torch.cos(t) + 0 * y)  # noqa: E731
    energies = pathline.Save(fn=lambda t, y: y.square().sum())
    t = torch.linspace(0, 0.5, 3, dtype=D)
    runs = [
        lambda y, w: pathline.solve(split(w), y, t, method="leapfrog").ys,
        lambda y, w: pathline.solve(stiff(w), y, t, method="kencarp4", rtol=1e-5, atol=1e-7).ys,
        lambda y, w: pathline.solve(split(w), y, t, save=energies).ys,
        lambda y, w: pathline.solve(lambda t, y, c: -c["rate"] * y, y, t, args={"rate": pathline.PerSample(w)}).ys,
    ]
    for run in runs:
        close(vmap(run)(YS, TS), loop(run, YS, TS), exact=1e-6)


def test_a_method_with_one_clock_for_all_goes_entry_by_entry():
    method = pathline.Scipy("RK45")
    run = lambda y, w: pathline.solve(field, y, (0.0, 1.0), args=w, method=method, rtol=1e-6).y1  # noqa: E731
    with torch.no_grad():
        close(vmap(run)(YS, WS), loop(run, YS, WS))


def test_noise_under_vmap_follows_its_randomness():
    run = lambda y: pathline.solve(lambda t, y: -y + torch.randn_like(y), y, (0.0, 1.0), method="euler", dt=0.5).y1  # noqa: E731
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(run)(torch.ones(3, 2))
    different = vmap(run, randomness="different")(torch.ones(3, 2))
    assert not torch.equal(different[0], different[1])


class Hides:
    """A field whose tensor no search can see."""

    def __init__(self, w):
        self.source = iter([w] * 1000)

    def __call__(self, t, y):
        return -y * next(self.source)


SOLVE = pathline.solve
REFUSED = {
    "events": (ValueError, {"events": pathline.Event(crossing=lambda t, y: y[0] - 0.5)}),
    "dense": (ValueError, {"save": pathline.Save(dense=True)}),
    "steps": (ValueError, {"save": pathline.Save(steps=True)}),
    "on_failure": (ValueError, {"on_failure": "return"}),
    "clock": (ValueError, {"clock": "per-sample"}),
    "progress": (ValueError, {"progress": print}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_under_vmap_name_the_reason(name):
    kind, options = REFUSED[name]
    with pytest.raises(kind, match=rf"{name}.* under torch\.func\.vmap is not available: "):
        vmap(lambda y: SOLVE(lambda t, y: -y, y, (0.0, 1.0), **options).y1)(YS)


def test_batched_tolerances_and_hidden_tensors_are_refused():
    with pytest.raises(ValueError, match="`rtol` is batched"):
        vmap(lambda y, r: SOLVE(lambda t, y: -y, y, (0.0, 1.0), rtol=r).y1)(YS, TS)
    for batched in (lambda w: SOLVE(Hides(w), YS[0], (0.0, 1.0)).y1, lambda w: SOLVE(Hides(w), w * YS, (0.0, 1.0)).y1):
        with pytest.raises(RuntimeError, match="batched by torch.func.vmap that was not found"):
            vmap(batched)(TS)
    hidden = lambda w, y: SOLVE(Hides(w), y, (0.0, 1.0), method="rk4", dt=0.5).y1.sum()  # noqa: E731
    with pytest.raises(RuntimeError, match="differentiates by, and that was not found"):
        vmap(grad(hidden), (None, 0))(TS[0], YS)


def test_a_failure_under_vmap_raises():
    with pytest.raises(pathline.SolveError, match="Sample 2"):
        vmap(lambda y: SOLVE(lambda t, y: y**2, y, (0.0, 0.9)).y1)(torch.tensor([0.1, 0.5, 2.0], dtype=D))
