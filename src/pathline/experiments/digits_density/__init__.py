"""The density of 64 pixels: FFJORD against a RealNVP of its size, and against the Gaussians that it starts from."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Uniform

import pathline
from pathline import fields
from pathline.experiments.digits_density import figures
from pathline.experiments.digits_density.config import Config
from pathline.experiments.digits_density.pixels import LEVELS, SIZE, Gaussian, Pixels
from pathline.experiments.spec import check_at_least
from pathline.models import RealNVP, bits_per_dim, dequantize
from pathline.operators import Hutchinson
from pathline.train import Run


def run(config: Config, run: Run) -> None:
    """Fit both flows over the same base, and measure them on digits that neither saw."""
    check_at_least(
        config, hidden=1, couplings=1, coupling_hidden=1, steps=1, realnvp_steps=1, batch=1, dequantisations=1, noises=2
    )
    pixels = Pixels.load(config.alpha)
    base = Gaussian(pixels.many())
    _identities(run, pixels, base)

    torch.manual_seed(run.seed)
    field = _at_rest(fields.ConcatSquash(SIZE, config.hidden))
    ffjord = pathline.CNF(
        field, SIZE, base=base, trace="hutchinson", rtol=config.tol, atol=config.tol,
        regularizers={"kinetic": config.kinetic, "jacobian": config.jacobian},
    )  # fmt: skip
    evaluations = _fit(config, run, pixels, "ffjord", ffjord, config.steps, config.lr)
    torch.manual_seed(run.seed)
    realnvp = RealNVP(SIZE, config.couplings, config.coupling_hidden, base=copy.deepcopy(base))
    _fit(config, run, pixels, "realnvp", realnvp, config.realnvp_steps, config.realnvp_lr)

    exact = _exact(ffjord, config.exact_tol)
    models: dict[str, Any] = {
        "ffjord": exact(),
        "realnvp": copy.deepcopy(realnvp).double()(),
        "full_gaussian": copy.deepcopy(base).double()(),
        "diagonal_gaussian": pixels.diagonal(),
    }
    test = pixels.test.double()
    nll = {name: pixels.nll(model, test, config.dequantisations) for name, model in models.items()}
    for name, value in nll.items():
        run.metric(f"{name}_nll", value, "nats")
        run.metric(f"{name}_bits", bits(value), "bits per pixel")
    for name in ("full_gaussian", "diagonal_gaussian", "realnvp"):
        run.metric(f"ffjord_below_{name}", nll[name] - nll["ffjord"], "nats")
    _stochastic(config, run, pixels, exact, test)
    _solver_truth(config, run, pixels, ffjord, exact, evaluations)
    sizes = {"ffjord": _size(field), "realnvp": _size(realnvp), "full_gaussian": SIZE * (SIZE + 3) // 2}
    _table(run, nll, sizes | {"diagonal_gaussian": 2 * SIZE})

    drawn = {name: pixels.to_pixels(_draw(model, run.seed)) for name, model in models.items()}
    run.figure("samples", figures.sheet(pixels.test / (LEVELS - 1), drawn), figures.SHEET)
    run.figure("flow", figures.stages(exact, pixels, run.seed), figures.STAGES)


def bits(nll: float) -> float:
    """Nats a digit, of a density on the unit interval, as bits a pixel of 17 levels."""
    return float(bits_per_dim(torch.tensor(-nll, dtype=torch.float64), SIZE, LEVELS))


def _at_rest(field: fields.ConcatSquash) -> fields.ConcatSquash:
    """The field with a last layer of zeros, so that the flow starts as its base, as the RealNVP does."""
    with torch.no_grad():
        for parameter in field.layers[-1].parameters():
            parameter.zero_()
        field.shift.weight[-field.size :] = 0.0
    return field


def _fit(
    config: Config, run: Run, pixels: Pixels, name: str, model: nn.Module, steps: int, lr: float
) -> tuple[int, int]:
    """Fresh noise spreads the pixels in every batch; the validation digits say which weights are kept."""

    def batch(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * run.seed + step)
        rows = torch.randint(len(pixels.train), (config.batch,), generator=generator)
        return pixels.to_flow(pixels.train[rows], generator)

    def watched(model: Any) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            z = pixels.to_flow(pixels.valid, torch.Generator().manual_seed(5)).to(run.device)
            return -float(model().log_prob(z).mean())

    columns = run.fit(
        name, model.to(run.device), lambda model, batch: model.loss(batch), steps=steps, lr=lr, schedule="cosine",
        optimizer=lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=config.weight_decay),
        batches=batch, clip=10.0, evaluate=watched, evaluate_every=max(1, steps // 25), restore_best=True,
    ).columns  # fmt: skip
    model.cpu().eval()
    forward, backward = (columns.get(key, [0.0])[-1] for key in ("evaluations", "backward_evaluations"))
    return int(forward), int(backward)


def _exact(model: pathline.CNF, tol: float) -> pathline.CNF:
    """A copy in double precision, with the exact trace, at a tight tolerance."""
    model = copy.deepcopy(model).double()
    model.trace, model.rtol, model.atol = "exact", tol, tol
    return model


def _identities(run: Run, pixels: Pixels, base: Gaussian) -> None:
    """Units, Jacobians, and a flow that does nothing."""
    uniform = Independent(Uniform(torch.zeros(SIZE), torch.ones(SIZE)), 1)
    x = dequantize(pixels.test.double(), LEVELS, torch.Generator().manual_seed(6))
    run.metric("uniform_bits", abs(bits(-float(uniform.log_prob(x).mean())) - math.log2(LEVELS)), "bits per pixel")
    run.metric("pixel_round_trip", float((pixels.to_pixels(pixels.standardize(pixels.logit(x))) - x).abs().max()))
    still = pathline.CNF(lambda t, y: torch.zeros_like(y), SIZE, base=copy.deepcopy(base).double()())
    there = pixels.density(still()).log_prob(x) - pixels.density(copy.deepcopy(base).double()()).log_prob(x)
    run.metric("base_without_field", float(there.abs().max()), "nats")


def _stochastic(config: Config, run: Run, pixels: Pixels, exact: pathline.CNF, test: Tensor) -> None:
    """The likelihood by single noises, and whether their mean is that of the exact trace."""
    z = pixels.to_flow(test[:16], torch.Generator().manual_seed(7))
    with torch.no_grad():
        truth = exact().log_prob(z)
        single = copy.deepcopy(exact)
        single.trace = Hutchinson()
        torch.manual_seed(run.seed)
        found = single().log_prob(z.repeat(config.noises, 1)).reshape(config.noises, len(z))
        stochastic = pixels.nll(single(), test, 1)
    error = found.var(0).div(config.noises).sum().sqrt() / len(z)
    # A flow that is still at rest has no spread at all.
    deviation = (found.mean(0) - truth).mean().abs() / error.clamp_min(1e-9)
    run.metric("stochastic_deviation", float(deviation), "standard errors")
    run.metric("stochastic_spread", float(found.std(0).mean()), "nats")
    run.metric("stochastic_nll", stochastic, "nats")
    run.metric("stochastic_bits", bits(stochastic), "bits per pixel")


def _solver_truth(
    config: Config, run: Run, pixels: Pixels, model: pathline.CNF, exact: pathline.CNF, evaluations: tuple[int, int]
) -> None:
    """Evaluations, tolerances, types, and the way to the base and back."""
    z = pixels.to_flow(pixels.test, torch.Generator().manual_seed(8))
    rows = []
    for flow, dtype, when in ((model, torch.float32, "training"), (exact, torch.float64, "measuring")):
        with torch.no_grad():
            start = z.to(dtype)
            to_base = flow.solve_to_base(start).end
            spent = flow.evaluations
            distance = float((flow.solve_from_base(to_base).end - start).norm(dim=1).max())
        forward, backward = evaluations if when == "training" else (spent, 0)
        rows.append([when, forward, backward, flow.rtol, str(start.dtype).removeprefix("torch."), distance])
    run.metric("there_and_back", rows[-1][-1])
    columns = ["", "evaluations", "in the backward pass", "tolerance", "number type", "there and back, at most"]
    run.table("What the solver did", columns, rows)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _draw(model: Any, seed: int, count: int = 36) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return model.sample((count,))


def _table(run: Run, nll: dict[str, float], sizes: dict[str, int]) -> None:
    names = {
        "ffjord": "FFJORD, exact trace",
        "realnvp": "RealNVP",
        "full_gaussian": "full Gaussian",
        "diagonal_gaussian": "diagonal Gaussian",
    }
    rows = [[names[name], sizes[name], value, bits(value)] for name, value in nll.items()]
    stochastic = run.metrics["stochastic_nll"]
    rows.insert(1, ["FFJORD, one noise a digit", sizes["ffjord"], stochastic, bits(stochastic)])
    run.table("360 digits that were held out", ["", "parameters", "nats", "bits per pixel"], rows)
    gain = nll["full_gaussian"] - nll["ffjord"]
    other = nll["full_gaussian"] - nll["realnvp"]
    run.answer(
        f"A full Gaussian needs {bits(nll['full_gaussian']):.3f} bits a pixel. FFJORD, which starts from it, needs "
        f"{bits(nll['ffjord']):.3f}: it gains {gain:.1f} nats a digit. A RealNVP of its size over the same base gains "
        f"{other:.1f}."
    )
