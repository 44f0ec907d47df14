"""What the experiment on evolving weights measures, and that it would notice a difference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathline.experiments.evolving_weights import blocks, digits, identities, synthetic
from pathline.experiments.evolving_weights.config import EXPECTED, Config
from pathline.fields import ReactionDiffusionAdvection


def test_the_identities_hold():
    found = identities.measure(3)
    bounds = [bound for bound in EXPECTED if "tiny" in bound.presets]
    assert [bound.metric for bound in bounds if not bound.met_by(found[bound.metric])] == []
    assert found["backprop_states_a_step"] > 5.0


def test_moving_kernels_are_not_the_plain_flow():
    """The identity at rest is no tautology."""
    torch.manual_seed(0)
    module, z = identities.network(), torch.randn(4, 2, 5, 5, dtype=torch.float64)
    plain = blocks.constant(module, 4)(z)
    for kind in (blocks.LockStep, blocks.Ahead):
        end = identities.moving(kind(module, 4))(z)
        assert identities.relative(end, plain.detach()) > 1e-2


def test_a_mode_of_one_cell_only_grows():
    evolution = ReactionDiffusionAdvection({"weight": 1}, dtype=torch.float64)
    with torch.no_grad():
        evolution.reaction.fill_(0.5)
        evolution.diffusion.fill_(3.0)
    w = torch.full((1, 1, 4), 2.0, dtype=torch.float64)
    torch.testing.assert_close(identities.modes(evolution, w, 1), w * torch.tensor(0.5, dtype=torch.float64).exp())


def test_the_true_flow_keeps_the_size():
    config = Config(line=8)
    truth = synthetic.true_field(config, 0)
    z = torch.randn(16, 2, 8, dtype=torch.float64)
    end = synthetic.flow(truth, z)
    torch.testing.assert_close(end.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1), rtol=1e-6, atol=1e-6)
    assert identities.relative(end, z) > 0.3
    assert not any(parameter.requires_grad for parameter in truth.parameters())


def test_the_truth_is_within_reach_of_both_ways_and_not_of_constant_weights():
    """With the true kernel and coefficients both ways give the true map, up to their steps."""
    config = Config(line=8)
    truth = synthetic.true_field(config, 0)
    z = torch.randn(4, 2, 8, dtype=torch.float64)
    expected = synthetic.flow(truth, z)
    for name, bound in (("lock_step", 1e-3), ("ahead", 1e-3)):
        block = synthetic.build(config, name).double()
        block.field.load_state_dict(truth.state_dict())
        assert identities.relative(block(z), expected) < bound
    node = synthetic.build(config, "node").double()
    node.field.load_state_dict(truth.module.state_dict())
    assert identities.relative(node(z), expected) > 0.05


@pytest.mark.parametrize("config", [Config(), Config(channels=3, kernel=7)])
def test_the_baselines_have_the_parameters(config):
    sizes = {name: blocks.size(synthetic.build(config, name)) for name in synthetic.NAMES}
    assert sizes["lock_step"] == sizes["ahead"] == sizes["node"] + 3
    assert sizes["lock_step"] <= sizes["resnet"] < sizes["lock_step"] + 3 * config.channels**2
    on_digits = {name: blocks.size(digits.build(Config(), name)) for name in synthetic.NAMES}
    assert on_digits["lock_step"] == on_digits["ahead"] == on_digits["node"] + 8
    assert abs(on_digits["resnet"] / on_digits["lock_step"] - 1) < 0.02


def test_independent_weights_are_residual_blocks_of_a_step():
    modules = [nn.Linear(2, 2) for _ in range(3)]
    z = torch.randn(5, 2)
    expected = z
    for module in modules:
        expected = expected + module(expected) / 3
    torch.testing.assert_close(blocks.independent(modules)(z), expected)
