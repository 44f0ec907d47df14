"""The utterances, the networks and the measurements of the experiment with the vowels."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from pathline.data import Series, japanese_vowels
from pathline.experiments.vowels import truths
from pathline.experiments.vowels.config import Config
from pathline.experiments.vowels.models import CHANNELS, CLASSES, NAMES, build, parameters
from pathline.experiments.vowels.utterances import Utterances, utterances

pytestmark = pytest.mark.skipif(find_spec("aeon") is None, reason="the utterances travel with aeon")
TINY = Config(hidden=6, width=8, train=40)


@pytest.fixture(scope="module")
def data():
    return utterances(TINY, 0.5, seed=3)


def test_half_of_the_frames_are_gone_and_the_others_keep_their_times(data):
    whole = japanese_vowels("test")
    kept = data.test
    assert torch.equal(kept.lengths, (0.5 * whole.lengths).round().long())
    frames = (kept.times / TINY.unit).round().long()
    original = data.train.scaling(whole.values)[whole.offsets[kept.rows] + frames]
    torch.testing.assert_close(kept.values, original)
    assert torch.equal(kept.labels, whole.labels)


def test_the_choice_depends_on_the_seed_alone(data):
    assert torch.equal(data.test.times, utterances(TINY, 0.5, seed=3).test.times)
    assert not torch.equal(data.test.times, utterances(TINY, 0.5, seed=4).test.times)


def test_only_training_frames_that_were_kept_set_the_scale(data):
    torch.testing.assert_close(data.train.values.mean(0), torch.zeros(CHANNELS), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.values.std(0, correction=0), torch.ones(CHANNELS), atol=1e-4, rtol=0)
    assert float(data.test.values.mean(0).abs().max()) > 1e-3


def test_even_gaps_keep_frames_and_mean_gap(data):
    evenly = data.evenly()
    assert torch.equal(evenly.train.values, data.train.values)
    inside = data.train.rows.diff() == 0
    gaps, flat = (part.times.diff()[inside] for part in (data.train, evenly.train))
    assert float(gaps.std()) > 0.05
    torch.testing.assert_close(flat, gaps.mean().expand_as(flat))


def test_the_networks_are_of_one_size():
    sizes = {name: parameters(build(name, Config())) for name in NAMES}
    for name in NAMES:
        assert sizes[name] == pytest.approx(sizes["ode_rnn"], rel=0.03)
        assert build(name, TINY).classes == CLASSES


def test_what_has_an_exact_answer_is_exact(data):
    assert truths.zero_field(data.test, 6) == 0.0
    assert truths.empty_rows(data.test, 6) == 0.0
    model = build("ode_rnn", TINY)
    assert truths.companions(model, data.test) < 1e-6


def test_a_field_that_moves_is_no_gru_and_does_not_come_home_by_euler(data):
    model = build("ode_rnn", replace(TINY, output_scale=3.0))
    coarse = truths.there_and_back(model, data.test)
    assert coarse > 1e-3
    model.encoder.between.steps = 64
    assert truths.there_and_back(model, data.test) < 0.1 * coarse
    assert model.encoder.between.steps == 64


def test_finer_steps_change_little_where_the_field_is_slow(data):
    slow, fast = (build("ode_rnn", replace(TINY, output_scale=scale)) for scale in (0.01, 5.0))
    assert truths.finer(slow, data.test)[1] < 0.1 * truths.finer(fast, data.test)[1]
    assert slow.encoder.between.steps == 1


def test_accuracy_is_in_percent():
    series = Series(
        torch.zeros(4), torch.zeros(4, 1), torch.ones(4, dtype=torch.long), labels=torch.tensor([0, 1, 1, 0])
    )
    assert truths.accuracy(torch.eye(2)[torch.tensor([0, 1, 0, 0])], series) == 75.0


def test_both_parts_are_series(data):
    assert isinstance(data, Utterances)
    assert len(data.train) == 40
    assert len(data.test) == 370


def test_what_is_held_out_of_training_is_a_quarter_and_no_test_utterance(data):
    part = data.validation(0)
    assert (len(part.train), len(part.test)) == (30, 10)
    both = Series.cat([part.train, part.test])
    torch.testing.assert_close(both.values.sort(0).values, data.train.values.sort(0).values, rtol=0, atol=0)
