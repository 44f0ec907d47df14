"""What may stand for a state, and what the front door says of anything else."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch

import pathline

TIMES = torch.linspace(0.0, 1.0, 3)


def decay(t, y):
    return -y


class Pendulum(NamedTuple):
    angle: torch.Tensor
    speed: torch.Tensor


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool], ids=str)
def test_integers_are_refused_with_the_way_out(dtype):
    with pytest.raises(TypeError, match=rf"`y0` is floating or complex; it has dtype {dtype}\. Pass y0\.float\(\)"):
        pathline.solve(decay, torch.ones(2, dtype=dtype), TIMES)


@pytest.mark.parametrize(
    ("y0", "came"), [(1.0, "float 1.0"), ([1.0, 2.0], "float 1.0"), (None, "NoneType None"), ("y", "str 'y'")]
)
def test_what_is_no_tensor_is_named(y0, came):
    with pytest.raises(TypeError, match=rf"`y0` is a tensor, or a tuple or dict of tensors; found {came}"):
        pathline.solve(decay, y0, TIMES)


@pytest.mark.parametrize("y0", [(), {}, []], ids=str)
def test_a_state_without_tensors_is_refused(y0):
    with pytest.raises(TypeError, match=r"`y0` holds no tensor; it is .*Pass a tensor, or a tuple or dict of tensors"):
        pathline.solve(decay, y0, TIMES)


def test_leaves_of_different_dtypes_are_refused():
    y0 = (torch.ones(2), torch.ones(2, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"share dtype and device; found torch\.float32 on cpu and torch\.float64 on"):
        pathline.solve(decay, y0, TIMES)


def test_leaves_on_different_devices_are_refused_with_the_device_in_the_advice():
    y0 = {"a": torch.ones(2), "b": torch.ones(2, device="meta")}
    with pytest.raises(TypeError, match=r"found torch\.float32 on cpu and torch\.float32 on meta.*\.to\(.*cpu"):
        pathline.solve(decay, y0, TIMES)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_a_start_that_is_not_finite_is_refused_and_located(value, method):
    y0 = torch.ones(3, 2)
    y0[1, 0] = value
    with pytest.raises(ValueError, match=rf"`y0` is finite; element \[1, 0\] is {value}"):
        pathline.solve(decay, y0, TIMES, method=method)


def test_nan_in_one_leaf_of_a_structure_is_refused():
    with pytest.raises(ValueError, match=r"`y0` is finite; element .* is nan"):
        pathline.solve(lambda t, y: (-y[0], -y[1]), (torch.ones(2), torch.tensor([1.0, math.nan])), TIMES)


def test_nan_in_the_imaginary_part_is_refused():
    with pytest.raises(ValueError, match=r"`y0` is finite; element \[0\]"):
        pathline.solve(decay, torch.tensor([complex(1.0, math.nan)]), TIMES)


# --- structures --------------------------------------------------------------------------------------------------


def spin(a: Any, b: Any) -> tuple[Any, Any]:
    return b, -a


STRUCTURES = {
    "tuple": (lambda a, b: (a, b), lambda s: s),
    "list": (lambda a, b: [a, b], lambda s: s),
    "named tuple": (lambda a, b: Pendulum(a, b), lambda s: (s.angle, s.speed)),
    "dict": (lambda a, b: {"a": a, "b": b}, lambda s: (s["a"], s["b"])),
    "nested": (lambda a, b: {"x": (a, {"v": [b]})}, lambda s: (s["x"][0], s["x"][1]["v"][0])),
}


@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_structured_states_turn_like_the_tensor_they_hold(kind, gradient, method):
    build, open_ = STRUCTURES[kind]
    a = torch.tensor([[1.0], [0.5]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[0.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    seen = set()

    def field(t, y):
        seen.add(type(y))
        return build(*spin(*open_(y)))

    t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    options = {"rtol": 1e-9, "atol": 1e-11} if method == "dopri5" else {}
    solution = pathline.solve(field, build(a, b), t, method=method, gradient=gradient, **options)
    rows_a, rows_b = open_(solution.ys)
    end_a, end_b = open_(solution.y1)
    assert seen == {type(build(a, b))} == {type(solution.ys)}
    assert rows_a.shape == (101, 2, 1)
    cos, sin = torch.cos(t)[:, None, None], torch.sin(t)[:, None, None]
    torch.testing.assert_close(rows_a, cos * a + sin * b, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(rows_b, cos * b - sin * a, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close((end_a, end_b), (rows_a[-1], rows_b[-1]), rtol=0.0, atol=1e-12)
    g_a, g_b = torch.autograd.grad(rows_a[-1].sum() + 2.0 * rows_b[50].sum(), (a, b))
    torch.testing.assert_close(g_a, torch.full_like(a, math.cos(1.0) - 2 * math.sin(0.5)), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(g_b, torch.full_like(b, math.sin(1.0) + 2 * math.cos(0.5)), rtol=1e-6, atol=1e-7)


def test_leaves_of_different_shapes_and_scalars():
    y0 = {"scalar": torch.tensor(2.0), "image": torch.ones(2, 3, 4), "none": torch.ones(0, 5)}
    solution = pathline.solve(lambda t, y: {k: -v for k, v in y.items()}, y0, (0.0, 1.0), rtol=1e-6, atol=1e-8)
    assert {k: tuple(v.shape) for k, v in solution.ys.items()} == {
        "scalar": (2,),
        "image": (2, 2, 3, 4),
        "none": (2, 0, 5),
    }
    assert solution.y1["scalar"].item() == pytest.approx(2 * math.exp(-1), rel=1e-5)


def test_a_dict_is_a_dict_in_whatever_order_the_field_writes_it():
    y0 = {"prey": torch.tensor([1.0]), "predator": torch.tensor([2.0])}
    field = lambda t, y: {"predator": -2 * y["predator"], "prey": -y["prey"]}  # noqa: E731
    y1 = pathline.solve(field, y0, (0.0, 1.0), rtol=1e-6, atol=1e-8).y1
    assert y1["prey"].item() == pytest.approx(math.exp(-1), rel=1e-4)
    assert y1["predator"].item() == pytest.approx(2 * math.exp(-2), rel=1e-4)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 3, 4)], ids=str)
@pytest.mark.parametrize("method", ["tsit5", "euler"])
def test_any_shape(shape, method):
    y0 = torch.rand(shape) + 0.5
    ys = pathline.solve(decay, y0, torch.linspace(0.0, 0.5, 4), method=method).ys
    assert ys.shape == (4, *shape)
    assert torch.equal(ys[0], y0)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4"])
def test_an_empty_batch_works(gradient, method):
    net = torch.nn.Linear(2, 2)
    y0 = torch.ones(0, 2, requires_grad=True)
    solution = pathline.solve(net, y0, TIMES, method=method, gradient=gradient)
    assert solution.ys.shape == (3, 0, 2)
    assert solution.valid.all()
    solution.ys.sum().backward()
    assert y0.grad.shape == (0, 2)
    assert net.weight.grad is None or not net.weight.grad.any()


# --- dtypes ------------------------------------------------------------------------------------------------------

DTYPES = {
    torch.float32: (torch.float32, 1e-3),
    torch.float64: (torch.float64, 1e-5),
    torch.complex64: (torch.float32, 1e-3),
    torch.complex128: (torch.float64, 1e-5),
    torch.bfloat16: (torch.float32, 3e-2),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "adjoint"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3", "rk4"])
def test_the_field_sees_a_fresh_time_in_the_real_dtype(dtype, gradient, method):
    clock, tolerance = DTYPES[dtype]
    rate = torch.tensor([-1.0, 0.5]).to(dtype) * (1j if dtype.is_complex else 1)
    seen = []

    def field(t, y):
        seen.append(t)
        return rate * y

    y0 = torch.ones(3, 2, dtype=dtype, requires_grad=True)
    ys = pathline.solve(field, y0, torch.linspace(0.0, 1.0, 9), method=method, gradient=gradient).ys
    assert ys.dtype == dtype
    wide = rate.to(torch.complex128 if dtype.is_complex else torch.float64)
    torch.testing.assert_close(ys[-1].to(wide.dtype), torch.exp(wide).expand(3, 2), rtol=tolerance, atol=tolerance)
    assert {(t.dtype, t.shape, t.device.type) for t in seen} == {(clock, torch.Size(()), "cpu")}
    assert len({id(t) for t in seen}) == len(seen)
    ys[-1].abs().sum().backward()
    assert y0.grad.dtype == dtype
    assert torch.isfinite(torch.view_as_real(y0.grad) if dtype.is_complex else y0.grad).all()


def test_time_of_a_bfloat16_solve_runs_in_double():
    """256 steps of 1/256 above t = 1024: in bfloat16 (8 bits) or float16 time would stand still."""
    ends = []
    hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: ends.append((t0, t1)))
    t = torch.tensor([1024.0, 1025.0], dtype=torch.float64)
    y0 = torch.zeros(1, dtype=torch.bfloat16)
    solution = pathline.solve(lambda t, y: torch.ones_like(y), y0, t, method="euler", dt=1 / 256, hooks=hooks)
    assert len(ends) == 256
    assert ends[-1] == (1025.0 - 1 / 256, 1025.0)
    # 1/256 is a power of two and so exact until 1 = 256/256
    assert solution.y1.item() == 1.0


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"),
    [
        (torch.float32, 1e-4, 1e-6),
        (torch.float64, 1e-6, 1e-9),
        (torch.complex64, 1e-4, 1e-6),
        (torch.complex128, 1e-6, 1e-9),
        (torch.bfloat16, 1e-2, 1e-3),
    ],
    ids=str,
)
def test_default_tolerances_by_dtype(dtype, rtol, atol):
    def field(t, y):
        return torch.stack((y[1], -y[0]))

    y0 = torch.tensor([1.0, 0.0]).to(dtype)
    ends = [
        [end for _, end in _steps(field, y0, **tolerances)]
        for tolerances in ({}, {"rtol": rtol, "atol": atol}, {"rtol": rtol / 3, "atol": atol / 3})
    ]
    assert ends[0] == ends[1]
    assert ends[0] != ends[2]


def _steps(field, y0, **options):
    found = []
    hooks = pathline.Hooks(on_accept=lambda t0, t1, y, step: found.append((t0, t1)))
    pathline.solve(field, y0, (0.0, 6.0), hooks=hooks, **options)
    return found
