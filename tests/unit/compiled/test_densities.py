"""Compiled steps of a state with its log-density: the products with the Jacobian are part of the graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pathline import CNF, fields
from pathline.compiled import kernels


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as they are, without Inductor."""

    def interpret(module, mode, options, *, backward=False):
        return lambda tensors: module(*tensors)

    monkeypatch.setattr(kernels, "_inductor", interpret)


class Plain(nn.Module):
    """A field without closed forms."""

    def __init__(self) -> None:
        super().__init__()
        self.net = fields.MLP(2, 6)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(t, y)


CASES = {
    "closed form": (lambda: fields.ConcatSquash(2, (6, 6)), {}),
    "products": (
        lambda: fields.ConcatSquash(2, (6, 6)),
        {"trace": "hutchinson", "regularizers": {"kinetic": 0.1, "jacobian": 0.1}},
    ),
    "automatic, exact": (Plain, {}),
    "automatic, drawn": (Plain, {"trace": "hutchinson"}),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("case", CASES)
def test_compiled_densities_are_plain_ones(case: str):
    make, options = CASES[case]
    field, x, found = make(), torch.randn(8, 2), []
    for compiled in (False, True):
        model = CNF(field, 2, compile=compiled, **{"method": "rk4", "dt": 0.5, **options})
        torch.manual_seed(3)
        field.zero_grad()
        loss = model.loss(x)
        loss.backward()
        found.append((loss.detach(), *[p.grad for p in field.parameters()]))
    assert model._stats.compiled
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
