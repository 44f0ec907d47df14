from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)

import pathline
from pathline import fields, nets
from pathline.models import NeuralODE, ResNet, load, save
from pathline.models.storage import NotStorable


class Remembers(nn.Module):
    def __init__(self, width, *, gain=2.0):
        super().__init__()
        self.width, self.gain = width, gain
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, t, y):
        return self.gain * self.net(y)


class Forgets(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, 2)

    def forward(self, t, y):
        return self.last(self.first(y).tanh())


def decay(t, y):
    return -y


def shared():
    field = fields.MLP(2, 4)
    return nn.Sequential(NeuralODE(field), NeuralODE(field, t=(1.0, 2.0)))


MODELS = {
    "neural ODE": lambda: NeuralODE(
        fields.MLP(3, (8, 4), time=True, activation="silu"), augment=1, rtol=1e-3, t=(0.0, 2.0)
    ),
    "float64": lambda: NeuralODE(fields.MLP(2, 8, dtype=torch.float64)),
    "a class of activations": lambda: nets.MLP(2, 2, (4, 4), activation=nn.PReLU),
    "a module as activation": lambda: nets.MLP(2, 2, activation=nn.ELU(0.3)),
    "a function as activation": lambda: nets.MLP(2, 2, activation=torch.sin),
    "objects of ours": lambda: NeuralODE(
        fields.MLP(2), controller=pathline.PID(p=0.2, i=0.5), gradient=pathline.Adjoint()
    ),
    "torch.nn inside": lambda: NeuralODE(nn.Sequential(nn.Linear(2, 3), nn.GELU("tanh"), nn.Linear(3, 2, bias=False))),
    "ours inside torch.nn": lambda: nn.Sequential(nn.Linear(4, 2), NeuralODE(fields.MLP(2)), nn.LayerNorm(2)),
    "images": lambda: NeuralODE(fields.with_time(nn.Conv2d(4, 3, 3, padding=1), dim=1), method="euler", dt=0.5),
    "hybrid": lambda: NeuralODE(fields.LogCoordinates(fields.PredatorPrey(nets.MLP(2, 2, 8)), [1.0, 2.0], 3.0)),
    "shared blocks": lambda: ResNet(nets.MLP(1, 1, 8), depth=3, step=0.3),
    "separate blocks": lambda: ResNet([nets.MLP(1, 1, 8) for _ in range(3)]),
    "the same field twice": shared,
    "complex": lambda: nets.MLP(2, 2, init="torch", dtype=torch.complex64),
}


def assert_same(a, b):
    state, other = a.state_dict(), b.state_dict()
    assert list(state) == list(other)
    for name, value in state.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name
    assert repr(a) == repr(b)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_our_parts_comes_back(name, tmp_path):
    model = MODELS[name]()
    assert_same(model, load(save(model, tmp_path / "model")))


def test_it_computes_the_same(tmp_path):
    model, y0 = MODELS["neural ODE"](), torch.randn(5, 2)
    model(y0).sum().backward()
    assert torch.equal(load(save(model, tmp_path))(y0), model(y0))


def test_what_was_shared_is_shared_again(tmp_path):
    first, second = load(save(shared(), tmp_path))
    assert first.field is second.field


def test_frozen_parameters_and_mode_come_back(tmp_path):
    model = NeuralODE(fields.MLP(2)).eval()
    model.field.net.layers[0].weight.requires_grad_(False)
    other = load(save(model, tmp_path))
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]
    assert not other.training


def test_nothing_is_written_on_the_model(tmp_path):
    model = NeuralODE(Remembers(4))
    before = [set(module.__dict__) for module in model.modules()]
    save(model, tmp_path)
    assert [set(module.__dict__) for module in model.modules()] == before


def test_a_class_of_ones_own_is_passed_to_load(tmp_path):
    model = NeuralODE(Remembers(4, gain=3.0))
    save(model, tmp_path)
    other = load(tmp_path, Remembers)
    assert other.field.gain == 3.0
    assert_same(model, other)
    with pytest.raises(ValueError, match=r"uses `Remembers`.*Pass it: load\(directory, Remembers\)"):
        load(tmp_path)


def test_an_instance_fills_in_for_a_class_that_forgets(tmp_path):
    model = NeuralODE(Forgets(4))
    save(model, tmp_path)
    assert_same(model, load(tmp_path, Forgets(4)))
    with pytest.raises(ValueError, match=r"does not keep its constructor argument `width`.*pass an instance"):
        load(tmp_path, Forgets)
    with pytest.raises(ValueError, match=r"The weights in .* do not fit"):
        load(tmp_path, Forgets(5))


def test_a_function_of_ones_own_is_passed_to_load(tmp_path):
    save(NeuralODE(decay), tmp_path)
    assert load(tmp_path, decay).field is decay
    with pytest.raises(NotStorable, match=r"`model.field` is '<lambda>', which has no name.*Define it with `def`"):
        save(NeuralODE(lambda t, y: -y), tmp_path)


BASES = {
    "normal": lambda: Independent(Normal(torch.randn(2), torch.rand(2) + 1), 1),
    "full normal": lambda: MultivariateNormal(torch.randn(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    "low rank": lambda: LowRankMultivariateNormal(torch.randn(2), torch.randn(2, 1), torch.ones(2)),
    "uniform": lambda: Independent(Uniform(-torch.ones(2), torch.ones(2), validate_args=False), 1),
    "heavy tails": lambda: Independent(StudentT(torch.tensor([3.0, 4.0]), torch.randn(2)), 1),
    "double precision": lambda: Independent(Laplace(torch.randn(2).double(), torch.ones(2).double()), 1),
    "mixture": lambda: MixtureSameFamily(
        Categorical(torch.rand(3)), MultivariateNormal(torch.randn(3, 2), torch.eye(2))
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_the_base_of_a_flow_comes_back(name, tmp_path):
    base = BASES[name]()
    model = pathline.CNF(fields.ConcatSquash(2, 8), 2, base=base)
    other = load(save(model, tmp_path))
    x = torch.rand(5, 2) - 0.5
    # A mixture normalises its weights once more.
    torch.testing.assert_close(other.base.log_prob(x), base.log_prob(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(other().log_prob(x), model().log_prob(x), rtol=1e-6, atol=1e-6)
    assert other.state_dict().keys() == model.state_dict().keys()
    torch.manual_seed(1)
    drawn = base.sample((3,))
    torch.manual_seed(1)
    assert torch.equal(other.base.sample((3,)), drawn)


def test_a_large_base_lies_among_the_weights(tmp_path):
    base = Independent(Normal(torch.randn(3, 32, 32), torch.ones(3, 32, 32)), 3)
    save(pathline.CNF(fields.ConvField(3), (3, 32, 32), base=base), tmp_path)
    assert (tmp_path / "config.json").stat().st_size < 5000
    assert torch.equal(load(tmp_path).base.mean, base.mean)


def test_a_base_that_has_no_description_says_so(tmp_path):
    base = TransformedDistribution(Independent(Normal(torch.zeros(2), 1.0), 1), [])
    with pytest.raises(
        NotStorable, match=r"`model.base` is a TransformedDistribution.*only Categorical.*pass its class"
    ):
        save(pathline.CNF(fields.ConcatSquash(2, 8), 2, base=base), tmp_path)


def test_what_cannot_be_described_says_so(tmp_path):
    model = NeuralODE(fields.MLP(2))
    model.rtol = object()
    with pytest.raises(NotStorable, match="`model.rtol` is a object, which has no description"):
        save(model, tmp_path)
    with pytest.raises(TypeError, match="`model` is an nn.Module, but Tensor came"):
        save(torch.zeros(1), tmp_path)


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"a folder with config.json and model.safetensors, but .* has no config.json"
    ):
        load(tmp_path)
    save(NeuralODE(fields.MLP(2)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"version": 99}))
    with pytest.raises(ValueError, match="saved in format 99, and this pathline reads up to 1"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not the description of a pathline model"):
        load(tmp_path)


def test_only_parts_of_pathline_and_torch_are_looked_up(tmp_path):
    save(NeuralODE(fields.MLP(2, activation=torch.sin)), tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert '"torch:sin"' in text
    (tmp_path / "config.json").write_text(text.replace("torch:sin", "os:system"))
    with pytest.raises(ValueError, match="'os:system'; only parts of pathline and torch are looked up"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(text.replace("torch:sin", "torch:sine"))
    with pytest.raises(ValueError, match="'torch:sine', which this version .* does not have"):
        load(tmp_path)


def test_the_description_is_readable(tmp_path):
    save(MODELS["neural ODE"](), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["format"] == "pathline-model"
    assert config["version"] == 1
    assert config["model"]["module"] == "pathline.models:NeuralODE"
    assert config["model"]["arguments"]["field"]["module"] == "pathline.fields:MLP"


def test_a_model_of_the_first_release_still_loads():
    """Written by 0.1.0; every later version must read it and compute the same."""
    model = load(Path(__file__).parent / "golden" / "0.1.0")
    y1 = model(torch.tensor([[0.5, -1.0]], dtype=torch.float64))
    expected = torch.tensor([[-1.821626671638665, -3.7921262765521297]], dtype=torch.float64)
    torch.testing.assert_close(y1, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{"),
        ("config.json", '{"format": "pathline-model"}'),
        ("config.json", '{"format": "pathline-model", "version": 1, "training": true, "frozen": [], "model": {}}'),
        ("model.safetensors", ""),
        ("model.safetensors", "rubbish that is no header"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text):
    save(NeuralODE(fields.MLP(2)), tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        load(tmp_path)


def test_saving_over_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        save(NeuralODE(fields.MLP(2)), tmp_path / "file")
