"""Latent models under the names of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from pathline.fields import MLP as Field
from pathline.models.latent.encoders import AttentionEncoder, RecurrentEncoder, RNNEncoder
from pathline.models.latent.latent import Latent
from pathline.models.latent.likelihoods import likelihood_or_usual
from pathline.models.neural_ode import NeuralODE
from pathline.models.sizes import check_sizes, check_widths
from pathline.nets import MLP
from pathline.nets.activations import Activation
from pathline.solvers import find_solver


def LatentODE(
    channels: int,
    latent: int = 4,
    *,
    encoder: str | nn.Module | Callable[..., Any] = "rnn",
    encoder_hidden: int = 25,
    field_hidden: int | Sequence[int] = (20,),
    decoder_hidden: int | Sequence[int] = (20,),
    activation: Activation = "tanh",
    output_scale: float = 0.1,
    likelihood: Any = None,
    method: Any = "dopri5",
    rtol: float | None = 1e-4,
    atol: float | None = 1e-4,
    dt: float | None = None,
    gradient: Any = "backprop",
    clock: Literal["shared", "per-sample"] = "shared",
    static: int = 0,
    inputs: int = 0,
    **options: Any,
) -> Latent:
    r"""The latent ODE: an encoder that runs backwards, an autonomous field, a decoder of each state. *Maturing.*

    Args:
        channels: Channels of the series.
        latent: Size of the latent state.
        encoder: ``"rnn"`` (Chen et al. 2018), ``"ode-rnn"`` (Rubanova et al. 2019), ``"attention"``, or a module.
        encoder_hidden: Size of the encoder's hidden state.
        field_hidden: Widths of the field's hidden layers.
        decoder_hidden: Widths of the decoder's hidden layers, ReLU between them.
        activation: Of the field. With "tanh" the rate is bounded, and a state cannot run away over long times; with the
            paper's "elu" it can.
        output_scale: Factor on the last layer of the untrained field. Where it is small, states begin almost at rest.
            Choose a unit of time in which a series lasts about 1 to 10 all the same, as
            ``series.with_time_unit(365.25)`` does for years in days: over thousands the untrained state runs far, the
            solve is long, and little is learned.
        likelihood: As in `Latent`, ``Gaussian(0.1, learn=True)`` by default.
        method: Of the solve that decodes.
        rtol: Its relative tolerance; of no effect where steps are fixed.
        atol: Its absolute tolerance; of no effect where steps are fixed.
        dt: Its step, for a method with fixed steps.
        gradient: As in ``pathline.solve``.
        clock: As in `NeuralODE`; with ``"per-sample"`` what is said of a series does not depend on its batch.
        static: Number of static covariates that the encoder reads; else they have no effect.
        inputs: Number of known inputs that the encoder reads; else they have no effect.
        **options: Others of `Latent`, such as ``t0``, ``annealing`` or ``classifier``.

    Raises:
        ValueError: A size is no whole number or too small, no such encoder, or ``static`` or ``inputs`` for an encoder
            that is built already.

    Example:
        >>> from pathline.models import LatentODE
        >>> model = LatentODE(channels=2, latent=4, encoder="rnn")
        >>> sum(p.numel() for p in model.dynamics.parameters())
        184

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series.
    """
    check_sizes(channels=channels, latent=latent, encoder_hidden=encoder_hidden)
    check_sizes(0, static=static, inputs=inputs)
    check_widths(field_hidden=field_hidden, decoder_hidden=decoder_hidden)
    likelihood = likelihood_or_usual(likelihood)
    field = Field(latent, field_hidden, activation=activation, output_scale=output_scale)
    if not find_solver(method).adaptive:
        rtol = atol = None
    dynamics = NeuralODE(field, method=method, rtol=rtol, atol=atol, dt=dt, gradient=gradient, clock=clock)
    decoder = MLP(latent, likelihood.outputs(channels), decoder_hidden, activation="relu")
    built = _encoder(encoder, channels, latent, encoder_hidden, {"static": static, "inputs": inputs})
    return Latent(built, dynamics, decoder, likelihood, **options)


def _encoder(encoder: Any, channels: int, latent: int, hidden: int, more: dict[str, Any]) -> Any:
    if encoder == "rnn":
        return RNNEncoder(channels, latent, hidden, **more)
    if encoder == "attention":
        return AttentionEncoder(channels, latent, hidden, heads=math.gcd(hidden, 4), **more)
    if encoder == "ode-rnn":
        from pathline.models.recurrent import ODERNN

        return RecurrentEncoder(ODERNN(channels, hidden, **more), latent)
    if isinstance(encoder, str):
        raise ValueError(f'`encoder` is "rnn", "ode-rnn", "attention" or a module; {encoder!r} came.')
    if any(more.values()):
        raise ValueError(
            "`static` and `inputs` are for encoders by name. Build yours with them: RNNEncoder(static=...)."
        )
    own = getattr(encoder, "latent", latent)
    if isinstance(own, int) and own != latent:
        raise ValueError(f"`latent` is the size of the encoder's draws, {own}, but {latent} came. Use latent={own}.")
    return encoder
