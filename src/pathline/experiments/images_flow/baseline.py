"""A Gaussian for each class in the space of its principal directions: what a linear map of noise can draw."""

from __future__ import annotations

import torch
from torch import Tensor

from pathline.experiments.images_flow.digits import Part


class Gaussians:
    r"""Principal component analysis of each class: $x = m_c + W_c \varepsilon$. *Experimental.*

    Mean and directions maximise the likelihood of a Gaussian of that rank in closed form; the noise outside of the
    directions, which the likelihood would add, is left out, since it only blurs the drawn images.

    References:
        M. E. Tipping, C. M. Bishop (1999), Probabilistic principal component analysis.
    """

    def __init__(self, part: Part, directions: int) -> None:
        self.shape = part.images.shape[1:]
        classes = [part.images[part.labels == label].flatten(1) for label in range(10)]
        self.means = [x.mean(0) for x in classes]
        self.maps = [_principal(x - x.mean(0), directions) for x in classes]

    def sample(self, labels: Tensor) -> Tensor:
        """An image for each label."""
        drawn = [
            self.means[label] + torch.randn(self.maps[label].shape[0], device=labels.device) @ self.maps[label]
            for label in labels.tolist()
        ]
        return torch.stack(drawn).reshape(-1, *self.shape)


def _principal(centred: Tensor, directions: int) -> Tensor:
    """Principal directions, each as long as the standard deviation along it; ``(directions, pixels)``."""
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    return lengths[:directions, None] / (len(centred) - 1) ** 0.5 * axes[:directions]
