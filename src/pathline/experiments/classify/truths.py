"""What the solver did: gradients, memory, companions in the batch, and the way back."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pathline import Adjoint
from pathline.experiments.classify.models import Classifier
from pathline.gradients import Gradient
from pathline.models import NeuralODE
from pathline.testing import TensorMemory


def altered(model: Classifier, **settings: object) -> tuple[Classifier, NeuralODE]:
    """A copy whose block is solved in another way, and that block."""
    model = copy.deepcopy(model).cpu()
    block = model.block
    assert isinstance(block, NeuralODE)
    for name, value in settings.items():
        setattr(block, name, value)
    return model, block


def gradient_difference(model: Classifier, images: Tensor, labels: Tensor, tol: float = 1e-7) -> float:
    """The adjoint's gradient against that of backpropagation, relative, in float64."""
    found = []
    for gradient in ("backprop", "adjoint"):
        precise = altered(model, method="dopri5", rtol=tol, atol=tol, gradient=gradient)[0].double()
        F.cross_entropy(precise(images.double()), labels).backward()
        found.append(torch.cat([p.grad.flatten() for p in precise.parameters() if p.grad is not None]))
    return float((found[0] - found[1]).norm() / found[0].norm())


def companions(model: Classifier, images: Tensor, clock: str) -> float:
    """The largest difference between an image's logits in a batch and alone, in float64."""
    precise = altered(model, clock=clock)[0].double()
    images = images.double()
    with torch.no_grad():
        alone = torch.cat([precise(images[i : i + 1]) for i in range(len(images))])
        return float((precise(images) - alone).abs().max())


def there_and_back(model: Classifier, images: Tensor) -> float:
    """How far the inverse flow misses the images behind the stem, relative, at the tolerance of training."""
    same, block = altered(model)
    with torch.no_grad():
        start = same.stem(images)
        return float((block.inverse(block(start)) - start).norm() / start.norm())


def bytes_kept(
    model: Classifier, images: Tensor, labels: Tensor, gradient: str | Gradient, steps: int
) -> tuple[int, int]:
    """Bytes that are kept for the backward pass, and the most at any moment of both passes."""
    settings = {"method": "rk4", "dt": 1.0 / steps, "rtol": None, "atol": None, "gradient": gradient}
    fixed = altered(model, **settings)[0]
    with TensorMemory() as memory:
        loss = F.cross_entropy(fixed(images), labels)
        kept = memory.live
        loss.backward()
        gradients = sum(p.grad.untyped_storage().nbytes() for p in fixed.parameters() if p.grad is not None)
    return kept, memory.peak - gradients


def memory(
    model: Classifier, images: Tensor, labels: Tensor, depths: Sequence[int]
) -> dict[str, list[tuple[int, int]]]:
    """``bytes_kept`` for each gradient and number of steps."""
    # Few steps of a fixed length don't lead back to the start; for the bytes that is the same.
    gradients = {"backprop": "backprop", "checkpointed": "checkpointed", "adjoint": Adjoint(verify=False)}
    return {
        name: [bytes_kept(model, images, labels, gradient, steps) for steps in depths]
        for name, gradient in gradients.items()
    }


def spread(values: Sequence[float]) -> float:
    """The largest over the smallest, minus one."""
    return max(values) / min(values) - 1.0


def by_depth(model: Classifier, images: Tensor, labels: Tensor, times: Tensor) -> tuple[list[float], Tensor]:
    """The accuracy of the head at each time of the flow, and the pooled images ``(times, n, channels)``."""
    same, block = altered(model)
    with torch.no_grad():
        states = block(same.stem(images), times)
        accuracy = [100 * float((same.head(state).argmax(1) == labels).float().mean()) for state in states]
    return accuracy, states.mean((-2, -1))
