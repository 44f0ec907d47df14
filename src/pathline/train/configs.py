"""Dataclass configurations to plain values and back, for YAML files. Free of torch."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

__all__ = ["ConfigError", "did_you_mean", "from_plain", "replaced", "to_plain"]

C = TypeVar("C")


class ConfigError(ValueError):
    """A configuration holds a key or a value that does not belong there."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``' Did you mean "tsit5"?'`` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{close[0]}"?' if close else ""


def to_plain(value: Any) -> Any:
    """A configuration as nested dicts, lists and scalars, ready for YAML and JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return value.as_posix()
    return value


def replaced(config: C, overrides: Mapping[str, Any], where: str = "config") -> C:
    """A copy of ``config`` with some fields changed; nested fields by nested mappings.

    Args:
        config: A dataclass instance.
        overrides: Field names to values, plain (as read from YAML) or already of the field's type.
        where: How the messages call the place that the values come from.

    Raises:
        ConfigError: For a field that does not exist, or a value that does not fit the field's annotation.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Config:
        ...     steps: int = 10
        ...     lr: float = 1e-2
        >>> replaced(Config(), {"lr": "1e-3"})
        Config(steps=10, lr=0.001)
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"`{where}` has no fields to set, since it is {config!r}.")
    hints = typing.get_type_hints(type(config))
    names = [field.name for field in dataclasses.fields(config)]
    changes: dict[str, Any] = {}
    for key, value in overrides.items():
        name = str(key).replace("-", "_")
        if name not in names:
            raise ConfigError(
                f"No field of `{where}` is called {key!r}.{did_you_mean(name, names)} "
                f"The fields are: {', '.join(names)}."
            )
        current = getattr(config, name)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(current) and not isinstance(current, type):
            changes[name] = replaced(current, value, f"{where}.{name}")
        else:
            changes[name] = from_plain(hints[name], value, f"{where}.{name}")
    return dataclasses.replace(config, **changes)


def from_plain(hint: Any, value: Any, where: str = "value") -> Any:
    """``value``, as YAML gives it, turned into what the annotation ``hint`` asks for.

    Raises:
        ConfigError: Where the value does not fit.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        return from_plain(arguments[0], value, where)
    if origin in (Union, types.UnionType):
        return _first_fitting(arguments, value, where)
    if origin is Literal:
        return _member({str(choice): choice for choice in arguments}, value, where)
    if origin in (tuple, list) or hint in (tuple, list):
        return _sequence(origin or hint, arguments, value, where)
    if origin is dict or hint is dict:
        return _mapping(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # pyright: ignore[reportArgumentType] - a dataclass type here, not an instance
            return value
        if not isinstance(value, Mapping):
            raise _refuse(where, "a mapping of its fields", value)
        return replaced(hint(), value, where)  # pyright: ignore[reportCallIssue]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value if isinstance(value, hint) else _member(dict(hint.__members__), value, where)
    return _scalar(hint, value, where)


def _refuse(where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"`{where}` takes {expected}; {value!r} came.")


def _first_fitting(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    # the type that the value already has goes first, so that 3 stays an int where `int | float` is asked
    ordered = sorted((hint for hint in hints if hint is not type(None)), key=lambda hint: type(value) is not hint)
    for hint in ordered:
        try:
            return from_plain(hint, value, where)
        except ConfigError:
            continue
    names = " or ".join(
        "nothing (null)" if hint is type(None) else getattr(hint, "__name__", str(hint)) for hint in hints
    )
    raise _refuse(where, names, value)


def _member(choices: dict[str, Any], value: Any, where: str) -> Any:
    if str(value) in choices:
        return choices[str(value)]
    known = ", ".join(repr(name) for name in choices)
    raise ConfigError(f"`{where}` is one of {known}; {value!r} came.{did_you_mean(str(value), choices)}")


def _sequence(kind: type, hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _refuse(where, "a list", value)
    if kind is tuple and hints and hints[-1] is not Ellipsis:
        if len(hints) != len(value):
            raise _refuse(where, f"a list of {len(hints)}", value)
        return tuple(
            from_plain(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True))
        )
    inner = hints[0] if hints else Any
    return kind(from_plain(inner, item, f"{where}[{i}]") for i, item in enumerate(value))


def _mapping(hints: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(where, "a mapping", value)
    key_hint, item_hint = hints or (Any, Any)
    return {
        from_plain(key_hint, key, where): from_plain(item_hint, item, f"{where}.{key}") for key, item in value.items()
    }


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as a string, since the point is missing
        except ValueError:
            raise _refuse(where, "a number", value) from None
    if hint is str and isinstance(value, str):
        return value
    if isinstance(hint, type) and issubclass(hint, Path) and isinstance(value, (str, Path)):
        return Path(value)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise _refuse(where, names.get(hint, str(hint)), value)
