"""Models on disk: a folder with ``config.json`` (what to build) and ``model.safetensors`` (its numbers).

The description rests on one convention, kept by every module of ours and by those of ``torch.nn``: a constructor
argument stays readable under its own name. Nothing is recorded on anybody's module, and nothing is ever unpickled.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

FORMAT = "pathline-model"
VERSION = 1

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_PLACES = ("torch.nn", "torch", "torch.nn.functional")
_LARGEST_TENSOR = 1024
_NOT_STORED = ("dtype", "device")  # the weights know their types; the loader chooses the device
#: Distributions that are stored, and the arguments of which each is made.
_DISTRIBUTIONS = {
    "Categorical": ("logits",),
    "Cauchy": ("loc", "scale"),
    "Independent": ("base_distribution", "reinterpreted_batch_ndims"),
    "Laplace": ("loc", "scale"),
    "LowRankMultivariateNormal": ("loc", "cov_factor", "cov_diag"),
    "MixtureSameFamily": ("mixture_distribution", "component_distribution"),
    "MultivariateNormal": ("loc", "scale_tril"),
    "Normal": ("loc", "scale"),
    "StudentT": ("df", "loc", "scale"),
    "Uniform": ("low", "high"),
}


class NotStorable(TypeError):
    """A part of a model that cannot be described in ``config.json``."""


def save(model: nn.Module, directory: str | Path) -> Path:
    """Write a model to a folder. *Maturing.*

    Args:
        model: Any model built from parts of pathline and ``torch.nn``, with fields and functions of your own inside.
            The common distributions of torch, such as the base of a flow, are stored by their parameters, as numbers.
        directory: The folder; made if missing, its two files overwritten.

    Returns:
        The folder.

    Raises:
        NotStorable: A part has no description, such as a lambda.
        ValueError: ``directory`` is a file.

    Example:
        >>> import tempfile
        >>> from pathline.models import NeuralODE, load, save
        >>> from pathline import fields
        >>> folder = save(NeuralODE(fields.MLP(2)), tempfile.mkdtemp())
        >>> model = load(folder)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` is an nn.Module, but {type(model).__name__} came. For a plain tensor use torch.save.")
    encoder = _Encoder()
    config = {
        "format": FORMAT,
        "version": VERSION,
        "torch": torch.__version__.split("+")[0],
        "training": model.training,
        "frozen": sorted(name for name, p in model.named_parameters() if not p.requires_grad),
        "model": encoder.value(model, "model"),
    }
    state = _tensors(model) | encoder.tensors
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"`directory` is a folder; {directory} is a file. Choose another name, or delete the file.")
    directory.mkdir(parents=True, exist_ok=True)
    _safetensors().save_file(state, directory / _WEIGHTS)
    (directory / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return directory


def load(directory: str | Path, *own: Any, device: torch.device | str = "cpu") -> nn.Module:
    """Read a model that ``save`` wrote. *Maturing.*

    Args:
        directory: The folder.
        *own: Your own classes and functions that the model uses, found by name; or an instance, whose weights are
            then filled in, where a class does not keep its constructor arguments as attributes.
        device: Where the parameters go.

    Returns:
        The model, with the dtypes, frozen parameters and train or eval mode it was saved with.

    Raises:
        FileNotFoundError: No model lies there.
        ValueError: Another format, a newer version, weights that do not fit, a class of yours that was not passed, or a
            file that is cut off or damaged.
    """
    directory = Path(directory)
    config = _read_config(directory)
    state = _read_weights(directory)
    try:
        decoder = _Decoder(own, state, device)
        model = decoder.value(config["model"])
    except KeyError as error:
        raise _broken(directory / _CONFIG, f"a part of the model lacks {error}") from error
    if not isinstance(model, nn.Module):
        raise _broken(directory / _CONFIG, f"`model` describes a {type(model).__name__}")
    _fill(model, {name: x for name, x in state.items() if name not in decoder.read}, directory)
    for name in config["frozen"]:
        try:
            model.get_parameter(name).requires_grad_(False)
        except AttributeError as error:
            raise _broken(directory / _CONFIG, f"`frozen` names {name!r}, which is no parameter") from error
    return model.train(config["training"]).to(device)


# --- writing -----------------------------------------------------------------------------------------------------


class _Encoder:
    """Turns a model into plain JSON values; a module met twice becomes a reference."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.tensors: dict[str, Tensor] = {}

    def value(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, (list, tuple)):
            items = [self.value(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, Mapping):
            return {"dict": {str(key): self.value(item, f"{where}.{key}") for key, item in value.items()}}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, Tensor):
            return self.tensor(value, where)
        if isinstance(value, nn.Module):
            return self.module(value, where)
        if isinstance(value, Distribution):
            return self.distribution(value, where)
        if inspect.isclass(value) or inspect.isroutine(value):
            return self.named(value, where)
        return self.object(value, where)

    def tensor(self, value: Tensor, where: str) -> dict[str, Any]:
        if value.numel() > _LARGEST_TENSOR or value.is_complex():
            raise NotStorable(
                f"`{where}` is a {value.dtype} tensor of shape {tuple(value.shape)}, which does not belong into a "
                "description. Keep it as a parameter or a buffer."
            )
        return {"tensor": value.detach().cpu().tolist(), "dtype": str(value.dtype).removeprefix("torch.")}

    def distribution(self, value: Distribution, where: str) -> dict[str, Any]:
        """Its class and arguments; tensors lie among the weights."""
        name = type(value).__name__
        if name not in _DISTRIBUTIONS or getattr(torch.distributions, name) is not type(value):
            raise NotStorable(
                f"`{where}` is a {name}, and of distributions only {', '.join(_DISTRIBUTIONS)} are stored. Write a "
                "module whose forward makes it, and pass its class to load."
            )
        arguments: dict[str, Any] = {"validate_args": value._validate_args}
        for argument in _DISTRIBUTIONS[name]:
            part = getattr(value, "base_dist" if argument == "base_distribution" else argument)
            if isinstance(part, Tensor):
                key = f"distribution:{where}.{argument}"
                self.tensors[key] = part.detach().cpu().clone().contiguous()
                arguments[argument] = {"stored": key}
            else:
                arguments[argument] = self.value(part, f"{where}.{argument}")
        return {"distribution": name, "arguments": arguments}

    def module(self, module: nn.Module, where: str) -> dict[str, Any]:
        if id(module) in self.seen:
            return {"again": self.seen[id(module)]}
        number = self.seen[id(module)] = len(self.seen)
        home = _home(type(module))
        if home is None:
            return {"own": _own_name(type(module), where), "number": number} | self.own_arguments(module, where)
        if type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            children = {name: self.value(child, f"{where}.{name}") for name, child in module._modules.items()}
            return {"module": home, "number": number, "children": children}
        return {"module": home, "number": number, "arguments": self.arguments(module, where)}

    def arguments(self, thing: Any, where: str) -> dict[str, Any]:
        """The constructor's arguments, read from the attributes of the same names."""
        stored_as = getattr(type(thing), "stored_as", {})
        found = {}
        for name, parameter in inspect.signature(type(thing)).parameters.items():
            if name in _NOT_STORED or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            try:
                value = getattr(thing, stored_as.get(name, name))
            except AttributeError:
                raise NotStorable(
                    f"`{where}` ({type(thing).__name__}) does not keep its constructor argument `{name}`. "
                    f"Add `self.{name} = {name}` to its __init__."
                ) from None
            if name == "bias" and (value is None or isinstance(value, Tensor)):
                value = value is not None  # how torch.nn keeps this flag
            found[name] = self.value(value, f"{where}.{name}")
        return found

    def own_arguments(self, module: nn.Module, where: str) -> dict[str, Any]:
        """Those of somebody's own class, or why they are unknown: then an instance is needed at loading."""
        before = dict(self.seen)
        try:
            return {"arguments": self.arguments(module, where)}
        except NotStorable as reason:
            self.seen = before
            return {"arguments": None, "reason": str(reason)}

    def named(self, value: Any, where: str) -> dict[str, Any]:
        home = _home(value)
        return {"own": _own_name(value, where)} if home is None else {"name": home}

    def object(self, value: Any, where: str) -> dict[str, Any]:
        home = _home(type(value))
        if home is None or not home.startswith("pathline."):
            raise NotStorable(
                f"`{where}` is a {type(value).__name__}, which has no description in {_CONFIG}. Use numbers, names, "
                "tensors, modules, or objects of pathline."
            )
        return {"object": home, "arguments": self.arguments(value, where)}


def _home(thing: Any) -> str | None:
    """``module:name`` under which a class or function of torch or pathline is found again; None for anybody else's."""
    name, module = getattr(thing, "__name__", ""), getattr(thing, "__module__", None) or ""
    if module.startswith("pathline."):
        # The room rather than the file, so that files may move.
        places = (".".join(module.split(".")[:2]), module)
    else:
        places = _PLACES
    for place in places:
        if getattr(importlib.import_module(place), name, None) is thing:
            return f"{place}:{name}"
    return None


def _own_name(thing: Any, where: str) -> str:
    name = getattr(thing, "__name__", "")
    if not name.isidentifier():
        raise NotStorable(f"`{where}` is {name or thing!r}, which has no name to find it by. Define it with `def`.")
    return name


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise NotStorable(f"`{name}` in the state_dict is a {type(value).__name__}; only tensors are stored.")
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


# --- reading -----------------------------------------------------------------------------------------------------


class _Decoder:
    """Builds the model again from the description."""

    def __init__(
        self, own: tuple[Any, ...], state: Mapping[str, Tensor] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.state, self.device = state or {}, device
        self.read: set[str] = set()
        self.own: dict[str, list[Any]] = {}
        for thing in own:
            name = getattr(thing, "__name__", None) or type(thing).__name__
            self.own.setdefault(name, []).append(thing)
        self.built: dict[int, Any] = {}

    def value(self, spec: Any) -> Any:
        if not isinstance(spec, dict):
            return [self.value(item) for item in spec] if isinstance(spec, list) else spec
        kinds: dict[str, Callable[[dict[str, Any]], Any]] = {
            "float": lambda s: float(s["float"]),
            "tuple": lambda s: tuple(self.value(item) for item in s["tuple"]),
            "dict": lambda s: {key: self.value(item) for key, item in s["dict"].items()},
            "tensor": lambda s: torch.tensor(s["tensor"], dtype=_dtype(s["dtype"])),
            "dtype": lambda s: _dtype(s["dtype"]),
            "stored": self.stored,
            "distribution": self.distribution,
            "again": lambda s: self.built[s["again"]],
            "name": lambda s: _find(s["name"]),
            "object": lambda s: _find(s["object"])(**self.arguments(s)),
            "module": self.module,
            "own": self.mine,
        }
        for kind, build in kinds.items():
            if kind in spec:
                return build(spec)
        raise ValueError(f"{_CONFIG} holds {list(spec)}, which this version of pathline does not know.")

    def stored(self, spec: dict[str, Any]) -> Tensor:
        self.read.add(spec["stored"])
        # A distribution does not move with its model later.
        return self.state[spec["stored"]].to(self.device)

    def distribution(self, spec: dict[str, Any]) -> Distribution:
        if spec["distribution"] not in _DISTRIBUTIONS:
            raise ValueError(f"{_CONFIG} holds a {spec['distribution']}, which this version of pathline does not know.")
        return getattr(torch.distributions, spec["distribution"])(**self.arguments(spec))

    def arguments(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {name: self.value(value) for name, value in spec["arguments"].items()}

    def module(self, spec: dict[str, Any]) -> nn.Module:
        kind = _find(spec["module"])
        if "children" in spec:
            children = OrderedDict((name, self.value(child)) for name, child in spec["children"].items())
            module = kind(children.values()) if kind is nn.ModuleList else kind(children)
        else:
            module = _built(kind, self.arguments(spec))
        self.built[spec["number"]] = module
        return module

    def mine(self, spec: dict[str, Any]) -> Any:
        name = spec["own"]
        if name not in self.own:
            raise ValueError(
                f"This model uses `{name}`, which is no part of pathline or torch.nn. Pass it: load(directory, {name})."
            )
        things = self.own[name]
        thing: Any = things.pop(0) if len(things) > 1 else things[0]
        if inspect.isclass(thing) and "number" in spec:
            if spec["arguments"] is None:
                raise ValueError(f"{spec['reason']} Or pass an instance: load(directory, {name}(...)).")
            thing = _built(thing, self.arguments(spec))
        if "number" in spec:
            self.built[spec["number"]] = thing
        return thing


def _built(kind: type, arguments: dict[str, Any]) -> Any:
    positional = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is parameter.POSITIONAL_ONLY and name in arguments
    ]
    return kind(*(arguments.pop(name) for name in positional), **arguments)


def _find(home: str) -> Any:
    place, _, name = home.partition(":")
    if place not in _PLACES and not place.startswith("pathline."):
        raise ValueError(f"{_CONFIG} names {home!r}; only parts of pathline and torch are looked up there.")
    try:
        return getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError):
        raise ValueError(f"{_CONFIG} names {home!r}, which this version of pathline or torch does not have.") from None


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{_CONFIG} names the dtype {name!r}, which this version of torch does not have.")
    return dtype


def _read_config(directory: Path) -> dict[str, Any]:
    for name in (_CONFIG, _WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"A saved model is a folder with {_CONFIG} and {_WEIGHTS}, but {directory} has no {name}."
            )
    try:
        config = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(directory / _CONFIG, error) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{directory / _CONFIG} is not the description of a pathline model.")
    kinds = {"version": int, "training": bool, "frozen": list, "model": dict}
    for key, kind in kinds.items():
        if not isinstance(config.get(key), kind):
            raise _broken(directory / _CONFIG, f"`{key}` is missing or no {kind.__name__}")
    if config["version"] > VERSION:
        raise ValueError(
            f"This model was saved in format {config['version']}, and this pathline reads up to {VERSION}. "
            "Try pip install --upgrade pathline."
        )
    return config


def _read_weights(directory: Path) -> dict[str, Tensor]:
    load_file = _safetensors().load_file
    broken = importlib.import_module("safetensors").SafetensorError
    try:
        return load_file(directory / _WEIGHTS)
    except (broken, ValueError, KeyError) as error:
        raise _broken(directory / _WEIGHTS, error) from error


def _broken(path: Path, reason: object) -> ValueError:
    return ValueError(f"{path} is no file that `save` wrote, or it is damaged ({reason}). Save the model again.")


def _fill(model: nn.Module, state: dict[str, Tensor], directory: Path) -> None:
    slots = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, value in state.items():
        if name in slots:
            slots[name].data = slots[name].data.to(value.dtype)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"The weights in {directory / _WEIGHTS} do not fit what {_CONFIG} describes. {error}"
        ) from None


def _safetensors() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError:
        raise ImportError('Saving models needs safetensors: pip install "pathline[app]".') from None
