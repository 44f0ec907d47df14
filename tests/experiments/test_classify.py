"""The splits, the models and the measurements of the classification experiment."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from pathline import NeuralODE, data
from pathline.experiments.classify import _batches, truths
from pathline.experiments.classify.config import EXPECTED, PRESETS, Config
from pathline.experiments.classify.distortions import distorted
from pathline.experiments.classify.figures import discriminants
from pathline.experiments.classify.models import NAMES, build, correct, parameters
from pathline.experiments.classify.splits import splits, stratified

TINY = Config(channels=8, groups=2)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def flow():
    return build("ode_net", TINY, 64)


@pytest.fixture
def images():
    return torch.randn(8, 1, 8, 8), torch.arange(8)


# --- splits ------------------------------------------------------------------------------------------------------


def test_folds_share_every_class_evenly_and_depend_on_the_seed():
    labels = torch.randint(0, 10, (1797,))
    fold = stratified(labels, 5, seed=3)
    for k in range(10):
        counts = fold[labels == k].bincount(minlength=5)
        assert int(counts.max() - counts.min()) <= 1
    assert int(fold.bincount().max() - fold.bincount().min()) <= 1
    assert torch.equal(fold, stratified(labels, 5, seed=3))
    assert not torch.equal(fold, stratified(labels, 5, seed=4))


def test_every_digit_is_tested_once_and_never_trained_on_in_its_fold():
    pytest.importorskip("sklearn", exc_type=ImportError)
    found = list(splits(replace(Config(), folds=3), seed=0))
    assert sum(len(split.test[1]) for split in found) == 1797
    for split in found:
        assert len(split.train[1]) + len(split.test[1]) == 1797
        assert float(split.train[0].mean()) == pytest.approx(0.0, abs=1e-5)
        assert float(split.train[0].std()) == pytest.approx(1.0, abs=1e-5)
    raw = torch.cat([split.test[1].bincount(minlength=10)[None] for split in found]).sum(0)
    assert torch.equal(raw, data.digits()[1].bincount())


def test_pixels_are_scaled_by_the_training_images_alone(monkeypatch):
    def fake(root=None, split="train"):
        return (torch.zeros(4, 1, 2, 2) + torch.arange(4.0).reshape(4, 1, 1, 1) * (10 if split == "test" else 1)), (
            torch.arange(4)
        )

    monkeypatch.setattr(data, "fashion_mnist", fake)
    (split,) = splits(replace(Config(), data="fashion-mnist"), seed=0)
    assert float(split.train[0].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(split.test[0].mean()) > 5


def test_fewer_images_are_a_random_part(monkeypatch):
    monkeypatch.setattr(
        data, "fashion_mnist", lambda root=None, split="train": (torch.randn(50, 1, 2, 2), torch.arange(50))
    )
    first, second = (
        next(iter(splits(replace(Config(), data="fashion-mnist", images=10), seed))).train[1] for seed in (0, 1)
    )
    assert len(first) == len(set(first.tolist())) == 10
    assert sorted(first.tolist()) != sorted(second.tolist())


# --- distortions -------------------------------------------------------------------------------------------------


def placed(images, seed=0, rotation=0.0, zoom=0.0, shift=0.0):
    return distorted(images, torch.Generator().manual_seed(seed), rotation=rotation, zoom=zoom, shift=shift)


def test_no_distortion_leaves_images_alone(images):
    torch.testing.assert_close(placed(images[0]), images[0])


def test_a_shift_moves_the_middle_of_the_ink_by_at_most_that_much():
    spot = torch.zeros(400, 1, 8, 8)
    spot[:, 0, 3, 4] = 1.0
    moved = placed(spot, shift=0.5)
    assert moved.sum((1, 2, 3)).allclose(torch.ones(400), atol=1e-5)  # bilinear weights share out the ink
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    for place, was in ((rows, 3.0), (columns, 4.0)):
        by = (moved[:, 0] * place).sum((1, 2)) - was
        assert 0.45 < float(by.abs().max()) <= 0.5 + 1e-5
        assert abs(float(by.mean())) < 0.05


def test_turning_and_scaling_keep_the_middle_and_what_comes_in_is_paper():
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, 9)], indexing="ij")
    round_ = (torch.exp(-8 * (x**2 + y**2)) - 3.0).expand(50, 1, 9, 9)
    turned = placed(round_, rotation=0.5)
    torch.testing.assert_close(turned[..., 4, 4], round_[..., 4, 4])
    assert float((turned - round_).abs().max()) < 0.1
    wide = placed(torch.cat([torch.ones(50, 1, 8, 8), torch.zeros(1, 1, 8, 8) - 2.0]), zoom=0.4)[:50]
    assert float(wide.min()) == pytest.approx(-2.0, abs=1e-5)  # some shrink, and their border is paper
    assert float(wide[:, :, 3:5, 3:5].min()) == pytest.approx(1.0)


def test_batches_are_distorted_anew_each_epoch_and_again_by_the_same_step(images):
    batch = _batches(Config(), *images, 8, seed=1)
    (a, labels), (b, others) = batch(0), batch(1)
    assert torch.equal(batch(0)[0], a)
    assert not torch.equal(a[labels.argsort()], b[others.argsort()])
    plain = _batches(replace(Config(), rotation=0.0, zoom=0.0, shift=0.0), *images, 8, seed=1)
    assert torch.equal(plain(0)[0], images[0][plain(0)[1]])
    assert torch.equal(plain(0)[1], labels)


# --- models ------------------------------------------------------------------------------------------------------


def test_the_six_models_and_their_sizes():
    sizes = {name: parameters(build(name, Config(), 64)) for name in NAMES}
    # a stem of 320, a head of 64 + 1290, blocks of 18 624, and a field with time and a third norm
    assert sizes["no_block"] == 1674
    assert sizes["residual_1"] == 1674 + 18_624
    assert sizes["residual_6"] == 1674 + 6 * 18_624
    assert sizes["rk_net"] == sizes["ode_net"] == 1674 + 18_624 + 2 * 9 * 32 + 64
    assert abs(sizes["mlp"] - sizes["ode_net"]) <= 75 / 2


def test_backpropagation_and_adjoint_are_the_only_difference_between_the_two_flows():
    torch.manual_seed(1)
    rk_net = build("rk_net", TINY, 64)
    torch.manual_seed(1)
    ode_net, images = build("ode_net", TINY, 64), torch.randn(2, 1, 8, 8)
    assert torch.equal(rk_net(images), ode_net(images))


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_the_stem_halves_the_image(halvings):
    model = build("no_block", replace(TINY, halvings=halvings), 28 * 28)
    assert model.stem(torch.zeros(1, 1, 28, 28)).shape[-1] == -(-28 // 2**halvings)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="`rows` are some of mlp, no_block.*but 'resnet' came"):
        build("resnet", Config(), 64)


def test_right_answers_are_counted_part_by_part():
    class Brightest(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    images, labels = torch.eye(10).reshape(10, 1, 2, 5), torch.arange(10)
    labels[3] = 0
    assert correct(Brightest(), images, labels, size=4).tolist() == [k != 3 for k in range(10)]


# --- measurements ------------------------------------------------------------------------------------------------


def test_gradients_agree_to_the_tolerance_and_no_better(flow, images):
    precise = truths.gradient_difference(flow, *images)
    assert precise < 1e-5
    assert truths.gradient_difference(flow, *images, tol=1e-2) > 10 * precise


def test_measuring_leaves_the_model_as_it_was(flow, images):
    before, settings = copy.deepcopy(flow.state_dict()), dict(vars(flow.block))
    truths.memory(flow, *images, depths=(2,))
    truths.companions(flow, images[0], "per-sample")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), flow.state_dict().values(), strict=True))
    assert {name: settings[name] for name in ("rtol", "dt", "method", "clock")} == {
        name: getattr(flow.block, name) for name in ("rtol", "dt", "method", "clock")
    }
    assert all(p.grad is None for p in flow.parameters())


def test_memory_grows_with_depth_unless_the_adjoint_forgets(flow, images):
    found = truths.memory(flow, *images, depths=(2, 12))
    ratio = {name: pairs[1][0] / pairs[0][0] for name, pairs in found.items()}
    assert ratio["backprop"] > 5
    assert 1.5 < ratio["checkpointed"] < ratio["backprop"]
    assert ratio["adjoint"] == pytest.approx(1.0, abs=0.05)
    assert found["checkpointed"][1][0] < 0.3 * found["backprop"][1][0]


def test_bytes_kept_are_those_of_the_stages(flow, images):
    """Two more steps of four stages keep at least the states that enter the norms and convolutions."""
    kept = [truths.bytes_kept(flow, *images, "backprop", steps)[0] for steps in (2, 4)]
    state = 8 * 8 * 4 * 4 * 4
    assert kept[1] - kept[0] >= 2 * 4 * 4 * state


def test_spread():
    assert truths.spread([2.0, 3.0, 2.5]) == pytest.approx(0.5)


def test_depth_ends_at_the_answer(flow, images):
    accuracy, features = truths.by_depth(flow, *images, torch.linspace(0, 1, 5))
    assert accuracy[-1] == pytest.approx(100 * float(correct(flow, *images).float().mean()))
    assert features.shape == (5, 8, 8)
    torch.testing.assert_close(features[0], flow.stem(images[0]).mean((-2, -1)).detach())


def test_discriminants_find_the_direction_that_separates():
    labels = torch.arange(300) % 3
    noise = torch.randn(300, 4, dtype=torch.float64) * torch.tensor([9.0, 1.0, 1.0, 9.0], dtype=torch.float64)
    centres = torch.tensor([[0.0, 5, 0, 0], [0, -5, 0, 0], [0, 0, 5, 0]], dtype=torch.float64)
    plane = discriminants(noise + centres[labels], labels)
    share = plane[1:3].norm() / plane.norm()
    assert share > 0.95


def test_presets_ask_for_what_their_names_say():
    small = Config(**PRESETS["fashion-small"])
    assert (small.data, small.images) == ("fashion-mnist", 5000)
    assert Config(**PRESETS["fashion"]).images == 0
    assert (small.rotation, small.zoom, small.shift) == (0.0, 0.0, 0.0)
    assert (Config().folds, Config().epochs, Config().lr, Config().channels, Config().groups) == (5, 30, 4e-3, 32, 1)
    assert isinstance(build("ode_net", Config(), 64).block, NeuralODE)
    assert {bound.bound for bound in EXPECTED if bound.metric == "parameter_ratio"} == {0.40}
