"""Colours that everybody can tell apart, and where to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, in an order whose first four also differ in grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def on_axes(axes: Axes | None) -> Axes:
    """The axes given, or the current ones of pyplot."""
    if axes is not None:
        return axes
    import matplotlib.pyplot as plt

    return plt.gca()
