from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pathline.nets import ACTIVATIONS, MLP
from pathline.nets.activations import gain


@pytest.mark.parametrize("hidden", [(), 8, (8,), (16, 8, 4)])
def test_it_maps_the_last_dimension(hidden):
    assert MLP(3, 2, hidden)(torch.randn(5, 4, 3)).shape == (5, 4, 2)


def test_it_is_the_formula():
    net = MLP(2, 1, hidden=(3,), activation="silu")
    first, last = net.layers
    x = torch.randn(7, 2)
    expected = F.silu(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, nn.ELU(0.5), nn.PReLU, torch.sin, F.hardswish])
def test_any_activation_is_used_after_every_hidden_layer_but_not_at_the_end(activation):
    net = MLP(2, 2, (4, 4), activation=activation)
    function = (
        activation()
        if isinstance(activation, type)
        else ACTIVATIONS.get(activation, activation)
        if isinstance(activation, str)
        else activation
    )
    x = torch.randn(6, 2)
    expected = x
    for i, layer in enumerate(net.layers):
        expected = layer(expected)
        if i < 2:
            expected = function(expected)
    torch.testing.assert_close(net(x), expected)


def test_a_module_is_shared_and_a_class_is_built_once_a_layer():
    shared, separate = MLP(1, 1, (4, 4), activation=nn.PReLU()), MLP(1, 1, (4, 4), activation=nn.PReLU)
    assert sum(p.numel() for p in separate.parameters()) == sum(p.numel() for p in shared.parameters()) + 1


def test_gains_are_the_known_ones():
    assert gain(F.relu) == pytest.approx(math.sqrt(2), rel=0.02)
    assert gain(torch.sin) == pytest.approx(1 / math.sqrt((1 - math.exp(-2)) / 2), rel=1e-5)
    assert gain(lambda x: x) == pytest.approx(1.0, rel=1e-5)
    assert gain(lambda x: 0 * x) == 1.0


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "sin"])
def test_matched_weights_keep_the_variance_through_many_layers(activation):
    net = MLP(256, 256, (256,) * 8, activation=activation)
    x = torch.randn(512, 256)
    with torch.no_grad():
        assert 0.3 < float(net(x).var()) < 3.0
        # The default of nn.Linear loses the signal, which is why there is a choice.
        assert float(MLP(256, 256, (256,) * 8, activation=activation, init="torch")(x).var()) < 0.1


def test_the_initialisation_of_torch_is_bit_for_bit_that_of_linear():
    torch.manual_seed(3)
    net = MLP(1, 1, 25, init="torch")
    # The layers were drawn at their construction and again by reset_parameters, in this order.
    torch.manual_seed(3)
    twice = [nn.Linear(1, 25), nn.Linear(25, 1)]
    for layer in twice:
        layer.reset_parameters()
    assert all(
        torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) for a, b in zip(net.layers, twice, strict=True)
    )


def test_output_scale_shrinks_the_start():
    assert float(MLP(2, 2, output_scale=0.0)(torch.randn(9, 2)).detach().abs().max()) == 0.0


def test_dtype_and_bias():
    net = MLP(2, 2, 4, bias=False, dtype=torch.float64)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net(torch.zeros(1, 2, dtype=torch.float64)).detach().abs().max() == 0


@pytest.mark.parametrize("activation", ["identity", "tanh", torch.tanh, nn.PReLU, nn.ELU()])
def test_it_travels(activation):
    net, x = MLP(2, 2, 4, activation=activation), torch.randn(3, 2)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), net(x))


def test_it_says_what_it_is():
    assert "2 -> 8 -> 1, activation=tanh" in repr(MLP(2, 1, 8))
    assert "activation=ELU" in repr(MLP(2, 1, 8, activation=nn.ELU))


def test_errors():
    with pytest.raises(ValueError, match=r'No activation is called "tahn". Did you mean "tanh"\?'):
        MLP(1, 1, activation="tahn")
    with pytest.raises(TypeError, match=r"`activation` is a name, an `nn.Module` .* but 3 came"):
        MLP(1, 1, activation=3)
    with pytest.raises(ValueError, match=r"positive integers, but inputs=0"):
        MLP(0, 1)
    with pytest.raises(ValueError, match=r"positive integers, but inputs=1, hidden=\(64, 2.5\)"):
        MLP(1, 1, (64, 2.5))
    with pytest.raises(ValueError, match=r'`init` is "matched" or "torch", but \'xavier\' came'):
        MLP(1, 1, init="xavier")
