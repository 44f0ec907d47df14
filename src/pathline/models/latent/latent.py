"""Latent dynamics: a series seen as an initial state that was drawn once, and everything after it solved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from torch.nn import functional as F

from pathline.models.batches import check_series, pair, query
from pathline.models.labels import label_loss
from pathline.models.latent.decoding import Places, states_at
from pathline.models.latent.given import joined, repeated
from pathline.models.latent.likelihoods import likelihood_or_usual
from pathline.models.latent.prediction import Prediction
from pathline.models.latent.rows import filled
from pathline.models.means import mean_over_processes, tied, together
from pathline.models.neural_ode import NeuralODE
from pathline.models.sizes import check_sizes


class Latent(nn.Module):
    r"""A variational autoencoder whose decoder solves a differential equation. *Maturing.*

    $$z_0 \sim p(z_0), \qquad \dot z = f(t, z), \qquad x_i \sim p(x_i \mid d(z(t_i))),$$
    $$\log p(x) \ge \mathbb{E}_{q(z_0 \mid x)} \sum_i \log p(x_i \mid d(z(t_i)))
      - w\, \mathrm{KL}(q(z_0 \mid x) \,\|\, p(z_0))$$

    with the sum over all that was observed, the mean over series, and $w = 1$ unless ``annealing`` says otherwise.
    Missing values are in no sum. A batch is a ``Series``, or a pair ``(observed, target)`` of the same series where
    the encoder sees the first and the likelihood is that of the second.

    Args:
        encoder: ``encoder(series, t0)`` returns the distribution $q$ of the draws at ``t0``, a
            ``torch.distributions.Distribution`` with batch shape ``(n,)``, event shape ``(latent,)`` and ``rsample``.
        dynamics: A ``NeuralODE``; a field ``(t, z) -> dz``, which is solved by "dopri5" to 1e-4; or anything else that
            moves a state, with ``dynamics.solve(z0, times, args=args)`` that returns an object whose ``ys`` is
            ``(T, n, Z)`` at times that all series share.
        decoder: A module from states ``(..., Z)`` to what the likelihood asks for, ``(..., D)`` for one of values.
        likelihood: `Gaussian`, `Bernoulli`, `Poisson`, `Both`, or an object with their methods. By default
            ``Gaussian(0.1, learn=True)``, values with normal noise of one size, which is learned.
        start: How a dynamics begins with a draw: a module from ``(rows, latent)`` to the state ``(rows, Z)``, or to a
            pair ``(state, args)``. ``args``, a tensor or a structure of tensors ``(rows, ...)``, reaches the field as
            its third argument, so that parameters of a known field may be part of what is inferred. By default the
            draw is the state.
        given: What is known of each series beside its values and reaches the field: a function of the ``Series`` that
            the encoder sees, which returns a tensor or a structure of tensors ``(n, ...)``, such as the doses that each
            patient took. Where ``start`` returns ``args`` too, both are mappings from names.
        prior: A distribution of the draws with event shape ``(latent,)``, or a module that returns one when called; by
            default standard normal.
        t0: Time of the draws, common to all series, not after any observation. ``series.shifted()`` lets every series
            begin at 0.
        samples: Draws for each series in the loss.
        annealing: A function of the number of training steps made, such as ``annealing.Exponential()``: the weight $w$.
        classifier: A module from draws ``(..., latent)`` to logits for ``series.labels``; its loss is added.
        row_classifier: A module from states ``(..., Z)`` to logits for ``series.row_labels``; its loss is added.
        class_weight: Weight of these losses.

    Raises:
        TypeError: A part of another kind.
        ValueError: ``samples`` is no count; when called, an encoder or a prior of another shape.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pathline import fields
        >>> from pathline.data import Series
        >>> from pathline.models import Latent, RNNEncoder
        >>> series = Series(torch.tensor([0.0, 0.7, 0.2, 0.4, 0.9]), torch.randn(5, 2), torch.tensor([2, 3]))
        >>> model = Latent(RNNEncoder(channels=2, latent=4), fields.MLP(4), nn.Linear(4, 2))
        >>> model.loss(series).backward()
        >>> model.predict(series, torch.linspace(0, 2, 9), samples=7).quantile(0.9).shape
        torch.Size([9, 2, 2])

    References:
        R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud (2018), Neural ordinary differential equations.
        Y. Rubanova, R. T. Q. Chen, D. Duvenaud (2019), Latent ordinary differential equations for irregularly-sampled
        time series. Y. Burda, R. Grosse, R. Salakhutdinov (2016), Importance weighted autoencoders.
    """

    def __init__(
        self,
        encoder: nn.Module | Callable[..., Distribution],
        dynamics: NeuralODE | nn.Module | Callable[..., Any],
        decoder: nn.Module | Callable[[Tensor], Tensor],
        likelihood: Any = None,
        *,
        start: nn.Module | Callable[[Tensor], Any] | None = None,
        given: Callable[[Any], Any] | None = None,
        prior: Any = None,
        t0: float = 0.0,
        samples: int = 1,
        annealing: Callable[[int], float] | None = None,
        classifier: nn.Module | None = None,
        row_classifier: nn.Module | None = None,
        class_weight: float = 1.0,
    ) -> None:
        super().__init__()
        parts = (("encoder", encoder), ("dynamics", dynamics), ("decoder", decoder))
        for name, part in (*parts, *((("given", given),) if given is not None else ())):
            if not callable(part):
                raise TypeError(f"`{name}` is a module or a function, but {type(part).__name__} came.")
        if not (annealing is None or callable(annealing)):
            raise TypeError(
                f"`annealing` is a function of the step, but {annealing!r} came. For one weight throughout: "
                "annealing.Constant(0.5)."
            )
        if not (prior is None or callable(prior) or isinstance(prior, Distribution)):
            raise TypeError(
                f"`prior` is a distribution, or a module that returns one, but {prior!r} came. "
                "Leave it out for a standard normal one."
            )
        if not math.isfinite(t0):
            raise ValueError(f"`t0` is a time, but {t0!r} came. Leave it out for 0.")
        check_sizes(samples=samples)
        likelihood = likelihood_or_usual(likelihood)
        self.encoder, self.decoder, self.start, self.prior, self.given = encoder, decoder, start, prior, given
        if not callable(getattr(dynamics, "solve", None)):
            dynamics = NeuralODE(dynamics, method="dopri5", rtol=1e-4, atol=1e-4)
        self.dynamics: Any = dynamics
        self.likelihood: Any = likelihood
        self.t0, self.samples, self.annealing = float(t0), samples, annealing
        self.classifier, self.row_classifier, self.class_weight = classifier, row_classifier, class_weight
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, observed: Any, t: Any, samples: int = 1) -> Tensor:
        """Expected values along a trajectory that is drawn anew at each call, ``(T, n, D)`` or ``(N, D)``.

        Args:
            observed: As in ``predict``.
            t: As in ``predict``.
            samples: Draws for each series, of which this is the mean; 0 for the trajectory of the posterior mean, the
                same at each call.
        """
        return self.predict(observed, t, samples).mean

    def loss(self, batch: Any) -> Tensor:
        """Minus the evidence bound in nats a series, and the weighted losses of classifiers.

        In training it counts steps for ``annealing``, and its means are over the series of all processes, of which some
        may have none.

        Args:
            batch: A ``Series``, or ``(observed, target)``.
        """
        observed, target = pair(batch)
        if together(training=self.training) and not len(observed.lengths):
            return self._no_share()
        weight = self.kl_weight
        if self.training and torch.is_grad_enabled():
            self.step += 1
        posterior, args = self.posterior(observed), self._known(observed)
        z0 = posterior.rsample(torch.Size([self.samples]))
        value = weight * self._mean(self.divergence(posterior, z0)) - self._mean(self.log_likelihood(z0, target, args))
        if self.classifier is not None:
            value = value + self.class_weight * label_loss(self.classifier(z0), observed, training=self.training)
        if self.row_classifier is not None:
            logits = self.row_classifier(self.states(z0, target, args))
            value = value + self.class_weight * label_loss(logits, target, training=self.training, of_rows=True)
        return tied(value, self)

    def elbo(self, batch: Any, kl_weight: float = 1.0, samples: int | None = None) -> Tensor:
        """The evidence bound in nats a series, a scalar.

        Args:
            batch: A ``Series``, or ``(observed, target)``.
            kl_weight: Weight of the divergence; 1 makes it a bound.
            samples: Draws for each series; by default those of the model.
        """
        observed, target = pair(batch)
        draws = self.samples if samples is None else samples
        check_sizes(samples=draws)
        posterior = self.posterior(observed)
        z0 = posterior.rsample(torch.Size([draws]))
        likelihood = self.log_likelihood(z0, target, self._known(observed)).mean()
        return likelihood - kl_weight * self.divergence(posterior, z0).mean()

    def iwae(self, batch: Any, k: int = 50) -> Tensor:
        r"""The importance-weighted bound $\log \frac1k \sum_j p(x, z_j) / q(z_j)$ in nats a series, a scalar.

        Its expectation is that of ``elbo`` for one draw, and rises with ``k`` towards the log-likelihood.

        Args:
            batch: A ``Series``, or ``(observed, target)``.
            k: Draws for each series.
        """
        check_sizes(k=k)
        observed, target = pair(batch)
        posterior = self.posterior(observed)
        z0 = posterior.rsample(torch.Size([k]))
        ratio = self.prior_distribution(z0).log_prob(z0) - posterior.log_prob(z0)
        likelihood = self.log_likelihood(z0, target, self._known(observed))
        return (torch.logsumexp(likelihood + ratio, 0) - math.log(k)).mean()

    def predict(self, observed: Any, t: Any, samples: int = 100, *, noise: bool = False) -> Prediction:
        """Trajectories given what was observed.

        Args:
            observed: A ``Series``, what the encoder sees.
            t: Times ``(T,)`` for all series, or a ``Series`` of the same series, whose times count. They receive no
                gradient.
            samples: Draws for each series; 0 for the posterior mean alone.
            noise: Whether the noise of observations is drawn too. An intensity of events has none.
        """
        posterior, t = self.posterior(observed), query(t, observed)
        z0 = _draws(posterior, samples)
        states = self.states(z0, t, self._known(observed))
        decoded = self.decoder(states)
        shown = self.likelihood.sample(decoded) if noise else self.likelihood.mean(decoded)
        return Prediction(shown, states, z0, t)

    def classify(self, observed: Any, samples: int = 0) -> Tensor:
        """Logits of each series' class, ``(n, classes)``; with draws, the logarithm of the mean probability.

        Args:
            observed: A ``Series``.
            samples: Draws for each series; 0 for the posterior mean.
        """
        classifier = _some(self.classifier, "classifier")
        return self._averaged(classifier, self.posterior(observed), lambda z0: z0, samples)

    def classify_rows(self, observed: Any, t: Any, samples: int = 0) -> Tensor:
        """Logits at each time, ``(T, n, classes)`` for times ``(T,)``, ``(N, classes)`` for those of a ``Series``.

        Args:
            observed: A ``Series``, what the encoder sees.
            t: As in ``predict``.
            samples: Draws for each series; 0 for the posterior mean.
        """
        classifier, t = _some(self.row_classifier, "row_classifier"), query(t, observed)
        args = self._known(observed)
        return self._averaged(classifier, self.posterior(observed), lambda z0: self.states(z0, t, args), samples)

    def posterior(self, observed: Any) -> Distribution:
        """The distribution $q$ of the draws, batch shape ``(n,)``."""
        if not len(check_series(observed).lengths):
            raise ValueError("A batch holds at least one series, but none came. Leave out empty batches.")
        found = self.encoder(observed, self.t0)
        _check_distribution(found, "encoder", [(len(observed.lengths),)])
        return found

    def prior_distribution(self, like: Tensor) -> Distribution:
        """The prior of draws such as ``like``, ``(..., n, latent)``."""
        if self.prior is None:
            zero = like.new_zeros(like.shape[-1])
            return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1, validate_args=False)
        found: Any = self.prior if isinstance(self.prior, Distribution) else self.prior()
        _check_distribution(found, "prior", [(), tuple(like.shape[-2:-1])], like.shape[-1])
        return found

    def divergence(self, posterior: Distribution, z0: Tensor) -> Tensor:
        """Of the posterior from the prior, ``(n,)``: in closed form where there is one, else at the draws ``z0``."""
        prior = self.prior_distribution(z0).expand(posterior.batch_shape)
        try:
            return kl_divergence(posterior, prior)
        except NotImplementedError:
            return (posterior.log_prob(z0) - prior.log_prob(z0)).mean(0)

    def states(self, z0: Tensor, t: Any, args: Any = None) -> Tensor:
        """Latent states of draws at times.

        Args:
            z0: Draws ``(*S, n, latent)``.
            t: Times ``(T,)`` or a ``Series``, none before ``t0``.
            args: What ``given`` returned for these series, ``(n, ...)``.

        Returns:
            ``(*S, T, n, Z)`` or ``(*S, N, Z)``.
        """
        if isinstance(t, Tensor):
            n = z0.shape[-2]
            rows = torch.arange(n, device=z0.device).repeat(len(t))
            places = Places(t.to(device=z0.device, dtype=torch.float64).repeat_interleave(n), rows)
            return self._solved(z0, places, args)[0].unflatten(-2, (len(t), n))
        return self._solved(z0, Places(t.times, t.rows), args)[0]

    def log_likelihood(self, z0: Tensor, target: Any, args: Any = None) -> Tensor:
        """Of all that was observed in each series, given draws ``(S, n, latent)``: ``(S, n)``.

        Args:
            z0: The draws.
            target: A ``Series``.
            args: As in ``states``.
        """
        found = target.observed()
        places = Places(found.times, found.rows)
        expected = z0.new_zeros(z0.shape[:-1])
        if hasattr(self.likelihood, "intensity"):
            spans = self.likelihood.spans(target, self.t0)
            states, expected = self._with_events(z0, places, args, spans)
        else:
            states, _ = self._solved(z0, places, args)
        decoded = self.decoder(states)
        _check_decoded(decoded, self.likelihood, found.values.shape[-1])
        each = self.likelihood.log_prob(decoded, filled(found, z0.dtype))
        each = torch.where(found.mask, each, torch.zeros_like(each)).sum(-1)
        return torch.zeros_like(expected).index_add(-1, found.rows, each) - expected

    @property
    def kl_weight(self) -> float:
        """The weight of the divergence at this step of the training."""
        return 1.0 if self.annealing is None else float(self.annealing(int(self.step)))

    def _no_share(self) -> Tensor:
        """The loss of a process without series: zero, with a part in each mean."""
        self.step += 1
        nothing = torch.zeros((), device=next(self.parameters()).device)
        for _ in range(2 + (self.classifier is not None) + (self.row_classifier is not None)):
            mean_over_processes(nothing, nothing, training=True)
        return tied(nothing, self)

    def _mean(self, each: Tensor) -> Tensor:
        """Over series and draws, of all processes that train together."""
        return mean_over_processes(each.sum(), torch.tensor(each.numel(), device=each.device), training=self.training)

    def _with_events(self, z0: Tensor, places: Places, args: Any, spans: Tensor) -> tuple[Tensor, Tensor]:
        """States at places, and the number of events to expect between the two columns of ``spans``, ``(S, n)``."""
        n, count = len(spans), len(places.times)
        every = torch.arange(n, device=z0.device)
        more = Places(torch.cat([places.times, *spans.unbind(1)]), torch.cat([places.rows, every, every]))
        states, integral = self._solved(z0, more, args, Intensity(self.decoder, self.likelihood))
        assert integral is not None
        start, end = integral[:, count:].sum(-1).split(n, 1)
        return states[:, :count], end - start

    def _solved(self, z0: Tensor, places: Places, args: Any, rate: Any = None) -> tuple[Tensor, Tensor | None]:
        """States (and integrals) of all draws in one batch, ``(*S, N, ...)``."""
        lead, n = z0.shape[:-2], z0.shape[-2]
        flat = z0.reshape(-1, z0.shape[-1])
        _check_draws(flat, places.times, self.t0)
        copies = len(flat) // n if n else 0
        y0, inferred = self._begun(flat)
        args = joined(inferred, repeated(args, n, copies))
        _check_times(places.times, self.t0)
        shift = n * torch.arange(copies, device=z0.device).repeat_interleave(len(places.rows))
        spread = Places(places.times.repeat(copies), places.rows.repeat(copies) + shift)
        found = states_at(self.dynamics, y0, args, self.t0, spread, rate)
        states, integral = (None if x is None else x.reshape(*lead, len(places.rows), *x.shape[1:]) for x in found)
        assert states is not None
        return states, integral

    def _known(self, observed: Any) -> Any:
        return None if self.given is None else self.given(observed)

    def _begun(self, draws: Tensor) -> tuple[Tensor, Any]:
        begun = draws if self.start is None else self.start(draws)
        return begun if isinstance(begun, tuple) else (begun, None)

    def _averaged(self, classifier: nn.Module, posterior: Distribution, shown: Any, samples: int) -> Tensor:
        logits = classifier(shown(_draws(posterior, samples)))
        return torch.logsumexp(F.log_softmax(logits, -1), 0) - math.log(samples) if samples else logits[0]

    def extra_repr(self) -> str:
        return f"t0={self.t0:g}, samples={self.samples}"


class Intensity(nn.Module):
    """The rate of events as a function of states."""

    def __init__(self, decoder: Any, likelihood: Any) -> None:
        super().__init__()
        self.decoder, self.likelihood = decoder, likelihood

    def forward(self, z: Tensor) -> Tensor:
        """Events to expect in a unit of time, ``(batch, D)``."""
        return self.likelihood.intensity(self.decoder(z))


def _check_distribution(found: Any, name: str, batches: list[tuple[int, ...]], latent: int | None = None) -> None:
    """Sums over the components of a draw belong to the event; summed elsewhere, a bound would be none."""
    if not isinstance(found, Distribution):
        raise TypeError(
            f"`{name}` gives a torch.distributions.Distribution, but {type(found).__name__} came. "
            "Try Independent(Normal(mean, std), 1)."
        )
    batch, event = tuple(found.batch_shape), tuple(found.event_shape)
    if batch not in batches or len(event) != 1 or event[0] != (latent or event[0]):
        raise ValueError(
            f"`{name}` gives a distribution with batch shape {batches[0]} and event shape ({latent or 'latent'},), but "
            f"{batch} and {event} came. With independent components that is Independent(Normal(mean, std), 1)."
        )


def _draws(posterior: Distribution, samples: int) -> Tensor:
    """``(S, n, latent)``; for 0 samples the posterior mean alone."""
    check_sizes(0, samples=samples)
    return posterior.rsample(torch.Size([samples])) if samples else posterior.mean.unsqueeze(0)


def _some(classifier: nn.Module | None, name: str) -> nn.Module:
    if classifier is None:
        raise ValueError(f"This model has no classes. Build it with `{name}`, such as nn.Linear(latent, classes).")
    return classifier


def _check_draws(draws: Tensor, times: Tensor, t0: float) -> None:
    if not bool(draws.isfinite().all()):
        far = f"{float(times.abs().max()):g}" if len(times) else "none"
        raise ValueError(
            "The encoder draws finite states, but some are not. Either the parameters are not finite any more, because "
            f"gradients of the step before were not; or the times, up to {far} with t0 = {t0:g}, are too large for it. "
            "Try series.shifted().with_time_unit(...), a smaller learning rate, or clipped gradients."
        )


def _check_decoded(decoded: Tensor, likelihood: Any, channels: int) -> None:
    wanted = likelihood.outputs(channels) if hasattr(likelihood, "outputs") else decoded.shape[-1]
    if decoded.shape[-1] != wanted:
        raise ValueError(
            f"The `decoder` gives {wanted} numbers a state for {channels} channels under {type(likelihood).__name__}, "
            f"but {decoded.shape[-1]} came. Its last layer has {wanted} outputs."
        )


def _check_times(times: Tensor, t0: float) -> None:
    if times.requires_grad:
        raise ValueError(
            "Times of a latent model receive no gradient: they are sorted, and many are solved together. Ask for "
            "t.detach(); for the derivative by time solve the draws, model.dynamics.solve(prediction.z0[0], t)."
        )
    if len(times) and float(times.min()) < t0:
        raise ValueError(
            f"States are solved forwards from `t0` = {t0:g}, but the earliest time is {float(times.min()):g}. "
            "Choose an earlier t0, or let every series begin at 0 with series.shifted()."
        )
