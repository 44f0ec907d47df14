"""The four networks, of as equal a size as whole units allow."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pathline import fields
from pathline.experiments.vowels.config import Config
from pathline.models import GRU, GRUD, ODERNN, Classifier, GRUdt, Recurrent

NAMES = {"gru": "GRU", "gru_dt": "GRU-dt", "gru_d": "GRU-D", "ode_rnn": "ODE-RNN"}
CHANNELS, CLASSES = 12, 9
_HELD: dict[str, Callable[[int, int], Recurrent]] = {"gru": GRU, "gru_dt": GRUdt, "gru_d": GRUD}


def build(name: str, config: Config) -> Classifier:
    """A classifier by its name in ``NAMES``."""
    if name == "ode_rnn":
        field = fields.MLP(config.hidden, (config.width,), output_scale=config.output_scale)
        return Classifier(ODERNN(CHANNELS, config.hidden, field), CLASSES)
    wanted = parameters(build("ode_rnn", config))
    hidden = min(range(1, 4 * config.hidden), key=lambda size: abs(parameters(_held(name, size)) - wanted))
    return _held(name, hidden)


def parameters(model: nn.Module) -> int:
    """Their number."""
    return sum(parameter.numel() for parameter in model.parameters())


def _held(name: str, hidden: int) -> Classifier:
    return Classifier(_HELD[name](CHANNELS, hidden), CLASSES)
