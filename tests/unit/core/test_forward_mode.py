"""Forward mode through a solve: tangents pass the field, also where nothing requires grad."""

from __future__ import annotations

import pytest
import torch

import pathline

RATE = torch.tensor([0.5, 2.0], dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, when it loads its rules
@pytest.mark.parametrize("clock", ["shared", "per-sample"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4", "radau5", "rodas5p"])
def test_a_tangent_of_the_start_and_of_args(method, clock):
    def end(y0, rate):
        steps = {"rtol": 1e-8, "atol": 1e-10} if pathline.METHODS[method].adaptive else {"dt": 0.01}
        field = lambda t, y, rate: -rate * y  # noqa: E731
        return pathline.solve(field, y0, (0.0, 1.0), args=rate, method=method, clock=clock, **steps).y1

    y0 = torch.ones(3, 2, dtype=torch.float64)
    tangents = torch.full_like(y0, 0.3), torch.tensor([1.0, -1.0], dtype=torch.float64)
    value, tangent = torch.func.jvp(end, (y0, RATE), tangents)
    truth = torch.exp(-RATE).expand(3, 2)
    torch.testing.assert_close(value, truth, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(tangent, (0.3 - tangents[1]) * truth, rtol=1e-6, atol=1e-7)
