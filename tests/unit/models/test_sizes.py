"""Sizes are refused under the name that the caller gave them, not in the words of a network inside."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pathline import fields
from pathline.models import (
    GRU,
    GRUD,
    ODERNN,
    AttentionEncoder,
    Classifier,
    GRUdt,
    Latent,
    LatentODE,
    Recurrent,
    RecurrentEncoder,
    RNNEncoder,
    annealing,
    likelihoods,
)
from pathline.models.recurrent import Decay, Flow, GRUCell
from pathline.models.sizes import check_sizes, check_widths

WRONG = {
    "channels": [
        lambda n: GRU(n, 4),
        lambda n: GRUD(n, 4),
        lambda n: ODERNN(n, 4),
        lambda n: LatentODE(n),
        lambda n: RNNEncoder(n, 2),
        lambda n: AttentionEncoder(n, 2),
        lambda n: Decay(n, 4),
        lambda n: likelihoods.Gaussian(0.1, learn=True, channels=n),
    ],
    "hidden": [
        lambda n: GRUdt(2, n),
        lambda n: GRUD(2, n),
        lambda n: ODERNN(2, n),
        lambda n: Recurrent(2, n),
        lambda n: RNNEncoder(2, 2, n),
        lambda n: AttentionEncoder(2, 2, n),
        lambda n: GRUCell(2, n),
    ],
    "latent": [
        lambda n: LatentODE(2, n),
        lambda n: RNNEncoder(2, n),
        lambda n: AttentionEncoder(2, n),
        lambda n: RecurrentEncoder(GRU(2, 4), n),
    ],
    "classes": [lambda n: Classifier(GRU(2, 4), n)],
    "encoder_hidden": [lambda n: LatentODE(2, encoder_hidden=n)],
    "field_hidden": [lambda n: LatentODE(2, field_hidden=n), lambda n: LatentODE(2, field_hidden=(8, n))],
    "decoder_hidden": [lambda n: LatentODE(2, decoder_hidden=n), lambda n: LatentODE(2, decoder_hidden=[n])],
    "heads": [lambda n: AttentionEncoder(2, 3, heads=n)],
    "layers": [lambda n: AttentionEncoder(2, 3, layers=n)],
    "steps": [lambda n: Flow(fields.MLP(4), steps=n), lambda n: ODERNN(2, 4, steps=n), annealing.Linear],
    "every": [lambda n: annealing.Exponential(every=n)],
    "samples": [lambda n: LatentODE(2, samples=n), lambda n: Latent(RNNEncoder(2, 3), fields.MLP(3), len, samples=n)],
}
CASES = [(name, build) for name, builds in WRONG.items() for build in builds]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None, "4", math.nan])
@pytest.mark.parametrize(("name", "build"), CASES)
def test_a_size_is_refused_by_its_own_name(name, build, wrong):
    with pytest.raises(ValueError, match=rf"^`{name}` is a whole number, 1 or more, but {wrong!r} came\. Choose one"):
        build(wrong)


@pytest.mark.parametrize("name", ["static", "inputs"])
@pytest.mark.parametrize("wrong", [-1, 0.5])
@pytest.mark.parametrize("build", [GRU, GRUdt, GRUD, ODERNN, LatentODE, RNNEncoder, AttentionEncoder])
def test_there_may_be_none_of_what_is_known(build, name, wrong):
    build(2, 4, **{name: 0})
    with pytest.raises(ValueError, match=rf"^`{name}` is a whole number, 0 or more, but {wrong} came\. Leave it out"):
        build(2, 4, **{name: wrong})


def test_whole_numbers_of_numpy_will_do():
    check_sizes(hidden=np.int64(3))
    check_widths(hidden=[np.int64(3), 2])
    check_widths(hidden=())
