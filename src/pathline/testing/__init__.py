"""The conformance suite: what every method and every field must do. *Maturing.*

A contributor of a new method runs ``check_solver("name")``; a user with a new field runs ``check_field(field, y)``.
"""

from __future__ import annotations

from pathline.testing.fields import check_field
from pathline.testing.gradients import check_gradient, finite_difference, relative_error
from pathline.testing.memory import TensorMemory, peak_memory
from pathline.testing.orders import dense_order, equal_steps, measured_order, step_order
from pathline.testing.problems import (
    LINEAR,
    NON_AUTONOMOUS,
    NONLINEAR,
    ORDER_PROBLEMS,
    SEPARABLE_PROBLEMS,
    Problem,
    order_problems,
)
from pathline.testing.solvers import SOLVER_CHECKS, check_dense_order, check_order, check_solver

__all__ = [
    "LINEAR",
    "NONLINEAR",
    "NON_AUTONOMOUS",
    "ORDER_PROBLEMS",
    "SEPARABLE_PROBLEMS",
    "SOLVER_CHECKS",
    "Problem",
    "TensorMemory",
    "check_dense_order",
    "check_field",
    "check_gradient",
    "check_order",
    "check_solver",
    "dense_order",
    "equal_steps",
    "finite_difference",
    "measured_order",
    "order_problems",
    "peak_memory",
    "relative_error",
    "step_order",
]
