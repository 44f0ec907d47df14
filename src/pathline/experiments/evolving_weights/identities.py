"""What holds exactly for weights that evolve."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import pathline
from pathline.experiments.evolving_weights.blocks import Ahead, LockStep, constant
from pathline.fields import ReactionDiffusionAdvection


def measure(seed: int) -> dict[str, float]:
    """Every identity's deviation, under the name of its metric."""
    torch.manual_seed(seed)
    found = {"rest_to_node": rest(), "fourier": fourier(), **gradients(), "checkpointed_to_backprop": checkpointed()}
    return found | {f"{name}_states_a_step": kept(name) for name in ("checkpointed", "backprop")}


def network(channels: int = 2, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Two circular convolutions."""
    convolutions = (nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular", dtype=dtype) for _ in range(2))
    return nn.Sequential(next(convolutions), nn.Tanh(), next(convolutions))


def moving(block: LockStep | Ahead) -> LockStep | Ahead:
    """The block with coefficients that are not zero."""
    with torch.no_grad():
        for parameter in block.field.evolution.parameters():
            parameter.normal_(std=0.3)
    return block


def rest() -> float:
    """With kernels at rest both configurations are the plain flow, bit for bit."""
    module, z = network(dtype=torch.float32), torch.randn(8, 2, 6, 6)
    with torch.no_grad():
        expected = constant(module, 4)(z)
        return max(float((block(module, 4)(z) - expected).abs().max()) for block in (LockStep, Ahead))


def fourier() -> float:
    """Kernels of three sizes at the end of the solve, against the exponentials of the discrete symbols, relative."""
    errors = []
    for shape in ((3, 2, 3, 3), (2, 2, 5, 5), (4, 1, 7)):
        w, axes = torch.randn(shape, dtype=torch.float64), len(shape) - 2
        evolution = ReactionDiffusionAdvection({"weight": axes}, dtype=torch.float64)
        with torch.no_grad():
            for parameter in evolution.parameters():
                parameter.normal_()
            solution = pathline.solve(evolution, {"weight": w}, (0.0, 1.0), rtol=1e-8, atol=1e-8)
        errors.append(relative(solution.y1["weight"], modes(evolution, w, axes)))
    return max(errors)


def modes(evolution: ReactionDiffusionAdvection, w: Tensor, axes: int) -> Tensor:
    r"""The kernel at time 1, mode by mode.

    $$\hat w(1) = \exp\Big(\rho - d \sum_i (2 - 2 \cos \kappa_i) + i \sum_i v_i \sin \kappa_i\Big)\,\hat w(0)$$
    """
    d, v, rho = (parameter.detach()[0] for parameter in (evolution.diffusion, evolution.velocity, evolution.reaction))
    exponent = torch.zeros(w.shape[-axes:], dtype=torch.complex128) + rho
    for i, count in enumerate(w.shape[-axes:]):
        shape = [1] * axes
        shape[i] = count
        wave = (2 * torch.pi * torch.arange(count, dtype=torch.float64) / count).reshape(shape)
        exponent = exponent - d * (2 - 2 * wave.cos()) + 1j * v[i] * wave.sin()
    dims = tuple(range(-axes, 0))
    return torch.fft.ifftn(exponent.exp() * torch.fft.fftn(w, dim=dims), dim=dims).real


def gradients() -> dict[str, float]:
    """Gradients of d, v, rho and the kernels at the start against central differences, both configurations."""
    z, worst, least = torch.randn(4, 2, 5, 5, dtype=torch.float64), 0.0, float("inf")
    for kind in (LockStep, Ahead):
        block = moving(kind(network(), 4))
        names = [name for name, _ in block.field.named_parameters() if "bias" not in name]
        parameters = [block.field.get_parameter(name) for name in names]
        found = torch.autograd.grad(loss(block, z), parameters)
        for parameter, gradient in zip(parameters, found, strict=True):
            expected = differences(lambda block=block: loss(block, z), parameter)
            chosen = gradient.flatten()[: len(expected)]
            worst, least = max(worst, relative(chosen, expected)), min(least, float(gradient.norm()))
    return {"gradient_to_differences": worst, "smallest_gradient": least}


def loss(block: nn.Module, z: Tensor) -> Tensor:
    """A loss of the state at the end."""
    return (block(z) - 0.5).square().sum()


def differences(value: Callable[[], Tensor], parameter: Tensor, step: float = 1e-5, most: int = 4) -> Tensor:
    """The derivative by the first entries of a parameter, by central differences."""
    entries, found = parameter.data.view(-1), []
    with torch.no_grad():
        for i in range(min(most, len(entries))):
            before = entries[i].clone()
            entries[i] = before + step
            above = value()
            entries[i] = before - step
            found.append((above - value()) / (2 * step))
            entries[i] = before
    return torch.stack(found)


def checkpointed() -> float:
    """The gradients of all parameters with recomputed steps, against those through the recorded ones, relative."""
    z, worst = torch.randn(4, 2, 5, 5, dtype=torch.float64), 0.0
    for kind in (LockStep, Ahead):
        block = moving(kind(network(), 6))
        parameters = list(block.parameters())
        results = []
        for gradient in ("backprop", "checkpointed"):
            block.ode.gradient = gradient
            results.append(torch.autograd.grad(loss(block, z), parameters))
        worst = max(worst, *(relative(b, a) for a, b in zip(*results, strict=True)))
    return worst


def kept(gradient: str) -> float:
    """What each further step adds to the memory between forward and backward, in states ``(z, weights)``."""
    block, z = LockStep(network(4, torch.float32), 8, gradient=gradient), torch.randn(16, 4, 8, 8)
    state = 4 * (z.numel() + sum(w.numel() for w in block.field.weights().values()))
    found = []
    for steps in (8, 16):
        block.ode.dt = 1 / steps
        found.append(_saved_bytes(lambda: block(z)))
    return (found[1] - found[0]) / (8 * state)


def _saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd holds after ``forward``, each storage once."""
    held: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        end = forward()
    assert end.requires_grad
    return sum(storage.nbytes() for storage in held.values())


def relative(a: Tensor, b: Tensor) -> float:
    """The distance of ``a`` from ``b``, in units of ``b``."""
    return float((a.detach() - b).norm() / b.norm())
