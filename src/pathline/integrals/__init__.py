"""Running costs integrated beside the state: ``q' = fn(t, y, dy)``, ``q(t0) = 0``.

The solve then has the state ``(y, {name: q})``. Its term evaluates the field once and the costs from what came back;
error control sees ``y`` alone. Everything of the user's own (fields, events, ``Save``, norms, hooks, the solution) is
shown ``y`` alone, by adapters which are objects, so that the search for tensors finds what they hold.
"""

from __future__ import annotations

from pathline.integrals.accruing import Accruing, accrue

__all__ = ["Accruing", "accrue"]
