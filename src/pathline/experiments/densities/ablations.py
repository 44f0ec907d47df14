"""Each flow without what it is about."""

from __future__ import annotations

from pathline.data import Target
from pathline.experiments.densities import measures
from pathline.experiments.densities.config import Config
from pathline.experiments.densities.models import Fit, train
from pathline.train import Run


def measure(config: Config, run: Run, target: Target, fits: dict[str, Fit], nll: dict[str, float]) -> None:
    """Parameters that stand still, noise that does not, and a transport plan in disorder."""
    constant = train("constant", config, run, target)
    still = measures.nll(constant.model, target, config.test, config.exact_tol)
    run.metric("constant_nll", still, "nats")
    run.metric("constant_to_planar", still - nll["planar"], "nats")

    once, anew = measures.redrawn_evaluations(fits["ffjord"].model, target, config.tol)
    run.metric("redrawn_evaluations", anew / once)

    shuffled = train("shuffled", config, run, target)
    bent = measures.bending(shuffled.model, 2000, run.seed)
    run.metric("shuffled_to_independent_bending", bent / run.metrics["independent_bending"])
    run.table(
        "Without what matters",
        ["", "with", "without"],
        [
            ["planar flow: parameters that move in time (nats)", nll["planar"], still],
            [f"FFJORD: one noise for a whole solve (evaluations at {config.tol:g})", once, anew],
            [
                "flow matching: the optimal plan (bending of the paths)",
                run.metrics["independent_bending"] * run.metrics["ot_to_independent_bending"],
                bent,
            ],
        ],
    )
