"""Neural differential equations in PyTorch: solve them, differentiate them, compose them into models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public names by the module that holds them; each is imported at its first use, so that the command answers before
#: torch is loaded.
_HOMES = {
    "pathline._structure": ("time_like",),
    "pathline.advising": ("advise",),
    "pathline.controllers": ("PID", "FixedStep", "Grid"),
    "pathline.events": ("Event", "EventRecord"),
    "pathline.gradients": ("GRADIENTS", "Adjoint", "Backprop", "Checkpointed", "Implicit", "Reconstructed"),
    "pathline.hooks": ("Hooks",),
    "pathline.data": ("Series",),
    "pathline.models": ("CNF", "FlowMatching", "Latent", "NeuralODE", "ResNet", "load", "save"),
    "pathline.regularizers": ("ControlEffort", "EndTimeJitter", "JacobianNorm", "KineticEnergy"),
    "pathline.saving": ("Save",),
    "pathline.sensitivities": ("sensitivity",),
    "pathline.solution": ("Solution",),
    "pathline.solvers": ("METHODS", "Reversible", "Scipy"),
    "pathline.solving": ("solve",),
    "pathline.stats": ("Stats",),
    "pathline.steady": (
        "ROOTS",
        "AndersonRoot",
        "BroydenRoot",
        "NewtonRoot",
        "PseudoTime",
        "SteadyState",
        "solve_steady_state",
    ),
    "pathline.status": (
        "BatchError",
        "MaxStepsError",
        "NewtonError",
        "NonFiniteError",
        "SolveError",
        "Status",
        "Statuses",
        "StepSizeUnderflow",
        "ZenoError",
    ),
    "pathline.stepwise": ("ErrorEstimate", "StiffnessEstimate"),
    "pathline.tableaus": ("Tableau",),
    "pathline.terms": ("ODE", "PerSample", "Separable", "Sum", "Term"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = (
    "advising",
    "compat",
    "controls",
    "data",
    "experiments",
    "fields",
    "models",
    "nets",
    "operators",
    "plotting",
    "testing",
    "train",
)

if TYPE_CHECKING:
    from pathline._structure import time_like
    from pathline.advising import advise
    from pathline.controllers import PID, FixedStep, Grid
    from pathline.data import Series
    from pathline.events import Event, EventRecord
    from pathline.gradients import GRADIENTS, Adjoint, Backprop, Checkpointed, Implicit, Reconstructed
    from pathline.hooks import Hooks
    from pathline.models import CNF, FlowMatching, Latent, NeuralODE, ResNet, load, save
    from pathline.regularizers import ControlEffort, EndTimeJitter, JacobianNorm, KineticEnergy
    from pathline.saving import Save
    from pathline.sensitivities import sensitivity
    from pathline.solution import Solution
    from pathline.solvers import METHODS, Reversible, Scipy
    from pathline.solving import solve
    from pathline.stats import Stats
    from pathline.status import (
        BatchError,
        MaxStepsError,
        NewtonError,
        NonFiniteError,
        SolveError,
        Status,
        Statuses,
        StepSizeUnderflow,
        ZenoError,
    )
    from pathline.steady import (
        ROOTS,
        AndersonRoot,
        BroydenRoot,
        NewtonRoot,
        PseudoTime,
        SteadyState,
        solve_steady_state,
    )
    from pathline.stepwise import ErrorEstimate, StiffnessEstimate
    from pathline.tableaus import Tableau
    from pathline.terms import ODE, PerSample, Separable, Sum, Term

__all__ = [
    "CNF",
    "GRADIENTS",
    "METHODS",
    "ODE",
    "PID",
    "ROOTS",
    "Adjoint",
    "AndersonRoot",
    "Backprop",
    "BatchError",
    "BroydenRoot",
    "Checkpointed",
    "ControlEffort",
    "EndTimeJitter",
    "ErrorEstimate",
    "Event",
    "EventRecord",
    "FixedStep",
    "FlowMatching",
    "Grid",
    "Hooks",
    "Implicit",
    "JacobianNorm",
    "KineticEnergy",
    "Latent",
    "MaxStepsError",
    "NeuralODE",
    "NewtonError",
    "NewtonRoot",
    "NonFiniteError",
    "PerSample",
    "PseudoTime",
    "Reconstructed",
    "ResNet",
    "Reversible",
    "Save",
    "Scipy",
    "Separable",
    "Series",
    "Solution",
    "SolveError",
    "Stats",
    "Status",
    "Statuses",
    "SteadyState",
    "StepSizeUnderflow",
    "StiffnessEstimate",
    "Sum",
    "Tableau",
    "Term",
    "ZenoError",
    "advise",
    "load",
    "save",
    "sensitivity",
    "solve",
    "solve_steady_state",
    "time_like",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = import_module(f"pathline.{name}")
    else:
        raise AttributeError(f"module 'pathline' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
