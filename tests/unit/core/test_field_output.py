"""What a field may return, and what is said of the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pathline

Y0 = torch.ones(3, 2)
TIMES = torch.linspace(0.0, 1.0, 5)
MODES = ["backprop", "checkpointed", "adjoint"]
METHODS = ["tsit5", "rk4"]


def late(good, bad, start=0.6):
    """A field whose output goes wrong on the way."""
    return lambda t, y: good(y) if t < start else bad(y)


def minus(y):
    return -y


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [0.0, 0.6], ids=["at the start", "midway"])
@pytest.mark.parametrize(
    ("bad", "came"),
    [
        (lambda y: -y[:1], r"\(1, 2\)"),  # would broadcast
        (lambda y: -y[:, :1], r"\(3, 1\)"),
        (lambda y: -y.sum(), r"\(\)"),
        (lambda y: -torch.cat((y, y), 1), r"\(3, 4\)"),
        (lambda y: -y.unsqueeze(0), r"\(1, 3, 2\)"),
    ],
    ids=["row", "column", "number", "wide", "extra dimension"],
)
def test_another_shape(bad, came, start, method, gradient):
    at = "0" if start == 0.0 else r"0\.\d+|1"
    with pytest.raises(
        ValueError,
        match=rf"`f` returned shape {came} for a state of shape \(3, 2\), at t = ({at})\. "
        r"A field returns dy in the shape of y\.",
    ):
        pathline.solve(late(minus, bad, start), Y0, TIMES, method=method, gradient=gradient)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [0.0, 0.6], ids=["at the start", "midway"])
def test_another_dtype(start, method, gradient):
    with pytest.raises(
        TypeError,
        match=r"`f` returned torch\.float64 for a state of torch\.float32, at t = .*"
        r"Move the field with \.to\(torch\.float32\), or pass y0\.to\(torch\.float64\)",
    ):
        pathline.solve(late(minus, lambda y: -y.double(), start), Y0, TIMES, method=method, gradient=gradient)


def test_a_complex_rate_of_a_real_state():
    with pytest.raises(TypeError, match=r"`f` returned torch\.complex64 for a state of torch\.float32"):
        pathline.solve(lambda t, y: 1j * y, Y0, TIMES)


@pytest.mark.parametrize("start", [0.0, 0.6], ids=["at the start", "midway"])
def test_another_device(start):
    bad = lambda y: torch.empty_like(y, device="meta")  # noqa: E731
    with pytest.raises(
        ValueError, match=r"`f` returned dy on meta for a state on cpu, at t = .*Move the field with \.to"
    ):
        pathline.solve(late(minus, bad, start), Y0, TIMES)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize(
    ("value", "kind"), [(None, "NoneType"), (0.0, "float"), ((Y0,), "tuple"), ([Y0], "list"), ({"y": Y0}, "dict")]
)
def test_no_tensor(value, kind, gradient):
    with pytest.raises(TypeError, match=rf"`f` returned {kind} for a tensor state, at t = 0\. A field returns dy as a"):
        pathline.solve(lambda t, y: value, Y0, TIMES, gradient=gradient)


def test_a_tensor_subclass_passes():
    class Marked(torch.Tensor):
        pass

    solution = pathline.solve(lambda t, y: (-y).as_subclass(Marked), Y0, TIMES)
    assert torch.isfinite(solution.ys).all()


# --- structures --------------------------------------------------------------------------------------------------

PAIR = {"a": torch.ones(2), "b": torch.ones(3)}


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize(
    ("dy", "came"),
    [
        (lambda y: -y["a"], r"Tensor\(2,\)"),
        (lambda y: (-y["a"], -y["b"]), r"\(Tensor\(2,\), Tensor\(3,\)\)"),
        (lambda y: {"a": -y["a"]}, r"\{'a': Tensor\(2,\)\}"),
        (lambda y: {"a": -y["a"], "c": -y["b"]}, r"\{'a': Tensor\(2,\), 'c': Tensor\(3,\)\}"),
        (lambda y: {**y, "c": y["a"]}, r"\{'a': .*'c': Tensor\(2,\)\}"),
        (lambda y: None, "NoneType"),
    ],
    ids=["tensor", "tuple", "key missing", "key renamed", "key too many", "None"],
)
def test_another_structure(dy, came, gradient):
    with pytest.raises(TypeError, match=rf"`f` returned {came} for a state of structure \{{'a': Tensor\(2,\), 'b'"):
        pathline.solve(lambda t, y: dy(y), PAIR, TIMES, gradient=gradient)


@pytest.mark.parametrize("start", [0.0, 0.6], ids=["at the start", "midway"])
def test_a_leaf_of_another_shape(start):
    """The leaves have as many numbers in all, so the flat vector would fit."""
    field = lambda t, y: y if t < start else {"a": torch.ones(3), "b": torch.ones(2)}  # noqa: E731
    with pytest.raises(ValueError, match=r"`f` returned \{'a': Tensor\(3,\), 'b': Tensor\(2,\)\} for a state of"):
        pathline.solve(field, PAIR, TIMES)


@pytest.mark.parametrize("state", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("start", [0.0, 0.6], ids=["at the start", "midway"])
def test_a_leaf_of_another_dtype(state, start):
    """Concatenation would promote the one or the other without a word."""
    other = torch.float64 if state == torch.float32 else torch.float32
    y0 = {k: v.to(state) for k, v in PAIR.items()}
    field = lambda t, y: {"a": -y["a"], "b": -y["b"].to(state if t < start else other)}  # noqa: E731
    with pytest.raises(TypeError, match=rf"`f` returned .*{other}.* for a state of .*{state}"):
        pathline.solve(field, y0, TIMES)


def test_a_leaf_on_another_device():
    field = lambda t, y: {"a": -y["a"], "b": torch.ones(3, device="meta")}  # noqa: E731
    with pytest.raises(ValueError, match=r"`f` returned .* on meta for a state on cpu"):
        pathline.solve(field, PAIR, TIMES)


def test_a_leaf_that_is_no_tensor():
    with pytest.raises(ValueError, match=r"`f` returned \{'a': Tensor\(2,\), 'b': float\} for a state of structure"):
        pathline.solve(lambda t, y: {"a": -y["a"], "b": 0.0}, PAIR, TIMES)


# --- the signature of a field ------------------------------------------------------------------------------------


class Fields:
    """One rate, written in every way a field may be written."""

    @staticmethod
    def of_t_y(t, y):
        return -y

    @staticmethod
    def of_t_y_args(t, y, args):
        return -y

    @staticmethod
    def of_t_y_default(t, y, args=None):
        return -y

    @staticmethod
    def of_y(y):
        return -y

    @staticmethod
    def of_y_default(y, scale=1.0):
        return -y * scale

    @staticmethod
    def of_t_y_extra(t, y, scale=1.0):
        return -y * scale

    @staticmethod
    def of_anything(*values):
        return -values[1]

    @staticmethod
    def of_keywords(t, y, *, scale=1.0):
        return -y * scale


class ModuleY(nn.Module):
    def forward(self, x):
        return -x


class ModuleTY(nn.Module):
    def forward(self, t, x):
        return -x


class ModuleTYArgs(nn.Module):
    def forward(self, t, x, args=None):
        return -x


@pytest.mark.parametrize(
    "f",
    [getattr(Fields, name) for name in vars(Fields) if name.startswith("of_")]
    + [torch.neg, Fields().of_t_y, nn.Sequential(ModuleY()), ModuleY(), ModuleTY(), ModuleTYArgs()],
    ids=lambda f: getattr(f, "__name__", type(f).__name__),
)
def test_ways_to_write_a_field(f):
    y1 = pathline.solve(f, Y0, (0.0, 1.0), rtol=1e-6, atol=1e-7).y1
    torch.testing.assert_close(y1, Y0 * torch.exp(torch.tensor(-1.0)), rtol=1e-4, atol=1e-4)


def test_what_is_no_field():
    message = r"`f` is a function f\(t, y\), f\(t, y, args\), a module or a Term; it is "
    with pytest.raises(TypeError, match=message + "Tensor"):
        pathline.solve(Y0, Y0, TIMES)
    with pytest.raises(TypeError, match=message + "NoneType"):
        pathline.solve(None, Y0, TIMES)


@pytest.mark.parametrize(
    ("f", "signature"),
    [
        (lambda: 0, r"\(\)"),
        (lambda t, y, args, more: -y, r"\(t, y, args, more\)"),
        (lambda t, y, *, scale: -y, r"\(t, y, \*, scale\)"),
    ],
)
def test_signatures_that_no_field_has(f, signature):
    with pytest.raises(
        TypeError, match=rf"`f` takes \(t, y\), .* its signature is {signature}\. Bind further arguments"
    ):
        pathline.solve(f, Y0, TIMES)


@pytest.mark.parametrize("f", [Fields.of_t_y, Fields.of_y, nn.Linear(2, 2)], ids=["t, y", "y", "module"])
def test_args_that_the_field_does_not_take(f):
    with pytest.raises(TypeError, match=r"`args` was given, and `f` does not take it.*Add `args` to it"):
        pathline.solve(f, Y0, TIMES, args=torch.ones(2))
