"""Configurations to plain values and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from pathline.train.configs import ConfigError, did_you_mean, from_plain, replaced, to_plain


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Inner:
    width: int = 3
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    steps: int = 10
    lr: float = 1e-2
    name: str = "a"
    flag: bool = False
    method: Literal["tsit5", "rk4"] = "tsit5"
    limit: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    words: list[str] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    colour: Colour = Colour.RED
    path: Path = Path("data")
    either: int | str = 1
    anything: Any = None
    noted: Annotated[float, "a note"] = 1.0
    inner: Inner = field(default_factory=Inner)


CHANGED = Outer(
    steps=3, lr=2e-7, name="b", flag=True, method="rk4", limit=1.5, sizes=(), pair=(4, 0.25), words=["x"],
    table={"k": 1.0},
    colour=Colour.BLUE, path=Path("a/b"), either="text", anything=[1], noted=2.0, inner=Inner(9, 0.125),
)  # fmt: skip


@pytest.mark.parametrize("config", [Outer(), CHANGED], ids=["default", "changed"])
def test_yaml_gives_back_the_same_configuration(config: Outer):
    text = yaml.safe_dump(to_plain(config), sort_keys=False)
    assert replaced(Outer(), yaml.safe_load(text)) == config


def test_a_mapping_inside_changes_only_what_it_names():
    assert replaced(CHANGED, {"inner": {"width": 1}}).inner == Inner(1, 0.125)


def test_hyphens_and_underscores_are_the_same():
    @dataclass(frozen=True)
    class Config:
        long_name: int = 1

    globals()["Config"] = Config
    assert replaced(Config(), {"long-name": 2}).long_name == 2


def test_numbers_without_a_point_are_read_as_yaml_gives_them():
    assert yaml.safe_load("1e-3") == "1e-3"
    assert replaced(Outer(), {"lr": "1e-3"}).lr == 1e-3
    assert isinstance(replaced(Outer(), {"lr": 1}).lr, float)


def test_an_integer_stays_one_where_either_is_asked():
    assert from_plain(int | float, 3) == 3
    assert isinstance(from_plain(float | int, 3), int)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stpes": 1}, "No field of `config` is called 'stpes'. Did you mean \"steps\"? The fields are: steps, lr"),
        ({"inner": {"widht": 1}}, "No field of `config.inner` is called 'widht'. Did you mean \"width\"?"),
        ({"steps": 1.5}, "`config.steps` takes a whole number; 1.5 came."),
        ({"steps": True}, "`config.steps` takes a whole number; True came."),
        ({"lr": "fast"}, "`config.lr` takes a number; 'fast' came."),
        ({"flag": 1}, "`config.flag` takes true or false; 1 came."),
        ({"name": 1}, "`config.name` takes a text; 1 came."),
        ({"method": "tsit4"}, "`config.method` is one of 'tsit5', 'rk4'; 'tsit4' came. Did you mean \"tsit5\"?"),
        ({"colour": "BLEU"}, "`config.colour` is one of 'RED', 'BLUE'; 'BLEU' came. Did you mean \"BLUE\"?"),
        ({"limit": "x"}, "`config.limit` takes float or nothing (null); 'x' came."),
        ({"sizes": 3}, "`config.sizes` takes a list; 3 came."),
        ({"sizes": [1, "a"]}, "`config.sizes[1]` takes a whole number; 'a' came."),
        ({"pair": [1]}, "`config.pair` takes a list of 2; [1] came."),
        ({"table": [1]}, "`config.table` takes a mapping; [1] came."),
        ({"inner": 3}, "`config.inner` takes"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(overrides: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        replaced(Outer(), overrides)
    assert message in str(caught.value)


def test_a_hint_is_given_only_for_a_close_word():
    assert did_you_mean("dorpi5", ["dopri5", "tsit5"]) == ' Did you mean "dopri5"?'
    assert did_you_mean("zzz", ["dopri5"]) == ""
