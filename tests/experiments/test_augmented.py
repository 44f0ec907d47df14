"""What the experiment on augmented flows measures, and that it would notice a difference."""

from __future__ import annotations

import math

import pytest
import torch

from pathline.experiments.augmented import digits, identities, spheres
from pathline.experiments.augmented.config import Config
from pathline.experiments.augmented.flows import Flow, matched, parameters


@pytest.mark.parametrize("seed", [0, 1])
def test_the_identities_hold_for_any_weights(seed):
    assert identities.measure(seed) == {"augment_0_to_node": 0.0, "augmented_start": 0.0}


def test_plain_flows_are_given_as_many_parameters():
    for config, sizes in ((Config(), (2, 3)), (Config(hidden=(8,)), (64, 74))):
        plain = matched(*sizes, config.hidden)
        narrower = tuple(width - 1 for width in plain)
        assert parameters(sizes[0], narrower) < parameters(sizes[1], config.hidden) <= parameters(sizes[0], plain)
    flows = [spheres.build(Config(), name, 0) for name in spheres.NAMES]
    assert [sum(p.numel() for p in flow.parameters()) for flow in flows] == [1289, 1283]
    assert parameters(3, (32, 32)) == 1283


def test_nothing_but_the_flow_learns_or_looks():
    """At rest the readings are the fixed functionals of the input: the added component is zero."""
    config, x = Config(), torch.randn(20, 2)
    for name, expected in (("node", x @ spheres.bisector()), ("anode", torch.zeros(20, 1))):
        flow = spheres.build(config, name, 0)
        assert all(key.startswith("ode.field") for key, _ in flow.named_parameters())
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.zero_()
        torch.testing.assert_close(flow(x), expected)


def test_the_readout_points_into_the_wedge():
    (c,), (s,) = spheres.bisector().tolist()
    assert math.atan2(s, c) == pytest.approx(math.pi / 10)
    away = spheres.build(Config(), "node", 0, -1.0)
    torch.testing.assert_close(away.readout, -spheres.bisector())


def test_accuracy_and_the_way_back_of_a_known_flow():
    """A field of zero reads x along the wedge: right where the sign of that is the label."""
    config = Config(hidden=(4,))
    flow = Flow(2, 0, spheres.bisector(), (4,), "relu")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.5, 0.5], [0.3, 0.1]])
    labels = torch.tensor([1.0, -1.0, -1.0, 1.0])
    found = spheres.measured(config, flow, {"train": (x, labels)})
    assert found["train_accuracy"] == 0.75
    assert found["there_and_back"] == 0.0
    assert spheres.evaluations(config, flow.ode, x) >= 6


def test_growth_counts_from_where_it_is_asked_to():
    epochs = [float(i) for i in range(21)]
    fitted = spheres.Fitted(spheres.build(Config(), "node", 0), epochs, [10.0, 15.0, 20.0, *[25.0] * 17, 30.0])
    assert fitted.growth() == 3.0
    assert fitted.growth(0.1) == 1.5


def test_every_fold_has_its_share_of_each_class():
    labels = torch.arange(10).repeat(37)[torch.randperm(370, generator=torch.Generator().manual_seed(0))]
    parts = digits.folds(labels, 5, seed=0)
    counts = torch.stack([labels[parts == part].bincount(minlength=10) for part in range(5)])
    assert counts.sum() == 370
    assert int(counts.max() - counts.min()) <= 1
    assert not torch.equal(parts, digits.folds(labels, 5, seed=1))


def test_digits_are_scored_by_the_last_ten_components():
    flow = digits.build(Config(digits_hidden=(4,), digits_augment=10), "anode")
    assert flow.readout.shape == (74, 10)
    assert torch.equal(flow.readout[-10:], torch.eye(10))
    assert not flow.readout[:64].any()
