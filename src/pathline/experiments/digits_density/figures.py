"""The figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from pathline import CNF
from pathline.plotting.sources import array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from pathline.experiments.digits_density.pixels import Pixels

SHEET = "Digits that were held out, and samples of each density; none is selected."
STAGES = "Samples on their way: from draws of the Gaussian base (left) to the data (right)."

TITLES = {
    "ffjord": "FFJORD",
    "realnvp": "RealNVP",
    "full_gaussian": "full Gaussian",
    "diagonal_gaussian": "diagonal Gaussian",
}


def sheet(data: Tensor, samples: dict[str, Tensor], side: int = 6) -> Figure:
    """A block of digits for the data and for each model."""
    figure = Figure(figsize=(2.2 * (1 + len(samples)), 2.5), layout="constrained")
    blocks = {"held out": data, **{TITLES[name]: drawn for name, drawn in samples.items()}}
    for axes, (title, images) in zip(figure.subplots(1, len(blocks)), blocks.items(), strict=True):
        _show(axes, tiled(images[: side**2], side))
        axes.set_title(title, fontsize=9)
    return figure


def stages(flow: CNF, pixels: Pixels, seed: int, count: int = 14, times: int = 8) -> Figure:
    """The same samples at several times, a column each."""
    torch.manual_seed(seed)
    z, steps = flow.base_distribution().sample((count,)), torch.linspace(*flow.t, times).tolist()
    rows = [z]
    with torch.no_grad():
        for t in steps[1:]:
            stretch = CNF(flow.field, flow.event_shape, base=flow.base, t=(flow.t[0], t), rtol=1e-4, atol=1e-4)
            rows.append(stretch.solve_from_base(z).end)
    images = pixels.to_pixels(torch.stack(rows, 1)).flatten(0, 1)
    figure = Figure(figsize=(0.5 * times + 0.4, 0.5 * count), layout="constrained")
    axes = figure.subplots()
    _show(axes, tiled(images, times))
    return figure


def tiled(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Images of 64 numbers as one picture, in rows of ``columns`` with light lines between them."""
    images = torch.nn.functional.pad(images.reshape(-1, columns, 8, 8), (gap, gap, gap, gap), value=0.0)
    rows, columns, height, width = images.shape
    return images.permute(0, 2, 1, 3).reshape(rows * height, columns * width)


def _show(axes: Axes, picture: Tensor) -> None:
    axes.imshow(array(picture), cmap="Greys", vmin=0, vmax=1)
    axes.set_axis_off()
