"""A density in the plane that is known, learned by flows in continuous time and by flows in layers."""

from __future__ import annotations

import torch
from torch import Tensor

from pathline.data import TARGETS, Target
from pathline.experiments.densities import ablations, figures, identities, measures
from pathline.experiments.densities.config import Config
from pathline.experiments.densities.models import NAMES, Fit, train
from pathline.train import Run

FLOWS = ("planar", "ffjord", "flow-matching", "ot-flow-matching")
LAYERED = ("planar-nf", "realnvp")


def run(config: Config, run: Run) -> None:
    """Train the flows and their baselines, measure them against the known density, and take away what matters."""
    target = TARGETS[config.target]()
    whole = config.model == "all"
    if whole:
        identities.measure(config, run)
    run.metric("entropy", target.entropy, "nats")
    run.metric("gaussian_nll", target.gaussian_cross_entropy, "nats")
    fits = {name: train(name, config, run, target) for name in (FLOWS if whole else (config.model,))}
    layers = {name: train(name, config, run, target) for name in (LAYERED if whole else ())}

    nll = {name: _likelihood(config, run, target, fit) for name, fit in (fits | layers).items()}
    drawn = _distances(config, run, target, fits)
    for fit in fits.values():
        _sound(config, run, target, fit)
    _tables(config, run, target, fits, layers, nll)
    if whole:
        _compared(config, run, target, fits, layers, nll)
        ablations.measure(config, run, target, fits, nll)
        _say(run, target, fits, nll)

    run.figure("densities", figures.densities(fits, drawn, target, config.grid), figures.DENSITIES)
    run.figure("flows", figures.flows(fits, target, max(25, config.grid - config.grid % 24 + 1)), figures.FLOWS)
    run.figure("race", figures.race([*fits.values(), *layers.values()], target), figures.RACE)


def _likelihood(config: Config, run: Run, target: Target, fit: Fit) -> float:
    found = measures.nll(fit.model, target, config.test, config.exact_tol)
    # The bounds on a likelihood are those of the default target: on others it has another name.
    place = "" if config.target == "8gaussians" else f"{config.target}_"
    run.metric(f"{place}{fit.key}_nll", found, "nats")
    run.metric(f"{fit.key}_seconds", fit.seconds, "s")
    return found


def _sound(config: Config, run: Run, target: Target, fit: Fit) -> None:
    """What holds for any flow, whatever it learned."""
    run.metric(f"{fit.key}_mass", measures.mass(fit.model, target, config.grid))
    x = target.sample(config.transported, torch.Generator().manual_seed(3))
    run.metric(f"{fit.key}_there_and_back", measures.there_and_back(fit.model, x, config.exact_tol))


def _distances(config: Config, run: Run, target: Target, fits: dict[str, Fit]) -> dict[str, Tensor]:
    """Samples of each flow, and how far they are from data."""
    n, seed = config.transported, run.seed
    data, more = (target.sample(n, torch.Generator().manual_seed(seed + shift)) for shift in (4_000, 5_000))
    floor = measures.wasserstein(data, more)
    run.metric("w2_floor", floor)
    drawn = {"target": data}
    for name, fit in fits.items():
        drawn[name] = measures.samples(fit.model, n, seed)
        distance = measures.wasserstein(drawn[name], data)
        run.metric(f"{fit.key}_w2_to_floor", distance / floor)
        if "matching" in name:
            short = name.replace("flow-matching", "").replace("-", "_") or "independent_"
            steps = measures.samples(fit.model, n, seed, method="euler", dt=0.1)
            run.metric(f"{short}euler_to_dopri5", measures.wasserstein(steps, data) / distance)
    return drawn


def _compared(
    config: Config, run: Run, target: Target, fits: dict[str, Fit], layers: dict[str, Fit], nll: dict[str, float]
) -> None:
    """Each against what it has to beat."""
    run.metric("planar_to_planar_nf", nll["planar"] - nll["planar-nf"], "nats")
    run.metric("planar_nf_time", layers["planar-nf"].seconds / fits["planar"].seconds)
    run.metric("ffjord_to_realnvp", nll["ffjord"] - nll["realnvp"], "nats")
    run.metric("flow_matching_time", fits["flow-matching"].seconds / fits["ffjord"].seconds)
    bent = {name: measures.bending(fits[name].model, 2000, run.seed) for name in ("flow-matching", "ot-flow-matching")}
    run.metric("independent_bending", bent["flow-matching"])
    run.metric("ot_to_independent_bending", bent["ot-flow-matching"] / bent["flow-matching"])
    run.metric(
        "hutchinson_deviation", measures.hutchinson_deviation(fits["ffjord"].model, target, 32), "standard errors"
    )


def _tables(
    config: Config, run: Run, target: Target, fits: dict[str, Fit], layers: dict[str, Fit], nll: dict[str, float]
) -> None:
    rows = [
        [NAMES[name], fit.parameters, fit.seconds, nll[name], nll[name] - target.entropy]
        for name, fit in (fits | layers).items()
    ]
    rows.append(["one Gaussian", 5, 0.0, target.gaussian_cross_entropy, target.gaussian_cross_entropy - target.entropy])
    columns = ["", "parameters", "seconds of training", "nats", "above the entropy"]
    run.table(f"Negative log-likelihood on {config.target}, entropy {target.entropy:.3f}", columns, rows)
    x = target.sample(512, torch.Generator().manual_seed(6))
    truth = []
    for name, fit in fits.items():
        trained = "no solve" if "matching" in name else f"{config.tol:g}"
        back = measures.there_and_back(fit.model, x, config.tol, torch.float32)
        tight = run.metrics[f"{fit.key}_there_and_back"]
        truth.append([NAMES[name], *fit.evaluations, trained, back, config.exact_tol, tight])
    columns = ["", "evaluations", "backward", "tolerance (float32)", "there and back", "measured at (float64)"]
    run.table("What the solver did in the last update, and after", [*columns, "there and back "], truth)


def _say(run: Run, target: Target, fits: dict[str, Fit], nll: dict[str, float]) -> None:
    above = {name: value - target.entropy for name, value in nll.items()}
    run.answer(
        f"No model can do better than the entropy, {target.entropy:.3f} nats. FFJORD ends {above['ffjord']:.3f} above "
        f"it after {fits['ffjord'].seconds:.0f} s, flow matching {above['flow-matching']:.3f} after "
        f"{fits['flow-matching'].seconds:.0f} s, the planar flow {above['planar']:.3f}; thirty-two planar layers "
        f"{above['planar-nf']:.3f} and a RealNVP of FFJORD's size {above['realnvp']:.3f}."
    )
