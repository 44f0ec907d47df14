"""What the experiment on films of pendulums measures, and that it would notice a difference."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pathline import fields
from pathline.experiments.goku import measures, models
from pathline.experiments.goku.config import PRESETS, Config
from pathline.experiments.goku.films import films, horizon, windows

TINY = dataclasses.replace(Config(), **PRESETS["tiny"])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shown():
    return films(TINY, 0)


def test_sets_share_nothing_and_depend_on_the_seed(shown):
    lengths = torch.cat([part.lengths for part in shown])
    assert lengths.unique().numel() == TINY.films + TINY.validation + TINY.test
    assert not torch.equal(films(TINY, 1).train.lengths, shown.train.lengths)


def test_the_identity_holds_and_would_notice_another_gravity(shown, monkeypatch):
    assert measures.true_start_error(TINY, shown.test) < 1e-6
    monkeypatch.setattr(measures, "GRAVITY", 9.8)
    assert measures.true_start_error(TINY, shown.test) > 1e-4


def test_windows_are_pieces_of_films_and_grow(shown):
    batch = windows(TINY, shown.train.frames, 0)
    observed, target, window = batch(0)
    assert window.shape == (TINY.batch, TINY.window, 256)
    torch.testing.assert_close(observed.padded().values, window[:, ::2])
    torch.testing.assert_close(target.padded().values, window[:, : TINY.first : 2])
    torch.testing.assert_close(observed.padded().times[0], shown.train.times[: TINY.window : 2])
    flat = shown.train.frames.flatten(2)
    pieces = flat.unfold(1, TINY.window, 1).movedim(-1, 2).flatten(0, 1)
    assert all((pieces == film).all((1, 2)).any() for film in window)
    assert batch(3)[0].values.equal(batch(3)[0].values)
    assert not batch(3)[0].values.equal(observed.values)
    full = dataclasses.replace(Config(), updates=100, growth=0.5)
    assert [horizon(full, step) for step in (0, 25, 50, 99)] == [15, 32, 50, 50]


def test_errors_of_models_that_are_right(shown):
    """A model that draws what is true has no error, and one that draws nothing has that of black."""

    class Right(models.LSTM):
        def forward(self, frames, steps):
            return shown.test.frames.flatten(2)[:, 1:]

    right = measures.look(TINY, Right(TINY), shown.test, CPU)
    assert right.error(slice(0, TINY.window)) == right.error(slice(TINY.window, None)) == 0.0
    assert torch.isnan(right.errors[0])

    class Black(models.LSTM):
        def forward(self, frames, steps):
            return torch.zeros_like(shown.test.frames.flatten(2)[:, 1:])

    expected = shown.test.frames[:, TINY.window :].square().mean().item()
    black = measures.look(TINY, Black(TINY), shown.test, CPU)
    assert black.error(slice(TINY.window, None)) == pytest.approx(expected)


def test_no_model_sees_a_frame_that_it_has_to_predict(shown):
    changed = shown.test._replace(frames=shown.test.frames.clone())
    changed.frames[:, TINY.window :] = 0.5
    for make in (models.goku, models.latent_ode, models.LSTM):
        torch.manual_seed(0)
        model = make(TINY)
        first, second = (measures.look(TINY, model, films, CPU).frames for films in (shown.test, changed))
        assert first.nan_to_num().equal(second.nan_to_num())


def test_the_lstm_goes_on_from_its_own_pictures():
    torch.manual_seed(0)
    model, frames = models.LSTM(TINY), torch.rand(2, 5, 256)
    together = model(frames, 4)
    assert together.shape == (2, 8, 256)
    extended = torch.cat([frames, together[:, 4:5]], 1)
    torch.testing.assert_close(model(extended, 3), together)
    window = torch.rand(2, 6, 256)
    expected = (model(window[:, :3], 3) - window[:, 1:]).square().sum(-1).mean()
    torch.testing.assert_close(model.loss(window), expected)


def test_the_loss_is_that_of_a_frame(shown):
    torch.manual_seed(0)
    model, batch = models.goku(TINY, kl=0.0), windows(TINY, shown.train.frames, 0)(0)
    torch.manual_seed(1)
    value = models.frame_loss(model, batch)
    torch.manual_seed(1)
    draws = model.posterior(batch[0]).rsample(torch.Size([1]))
    decoded = model.decoder(model.states(draws, batch[1]))[0]
    torch.testing.assert_close(value, (decoded - batch[1].values).square().sum(-1).mean(), rtol=1e-4, atol=1e-4)
    torch.manual_seed(1)
    heavy = models.frame_loss(models.goku(TINY, kl=1.0), batch)
    assert heavy > value


def test_the_wrong_equation_differs_only_in_the_force():
    y = torch.tensor([[0.5, 1.0]])
    right, wrong = fields.Pendulum(2.0, 10.0)(torch.zeros(()), y), models.CubicPendulum(2.0, 10.0)(torch.zeros(()), y)
    torch.testing.assert_close(wrong[:, 0], right[:, 0])
    torch.testing.assert_close(wrong[0, 1], torch.tensor(-5.0 * 0.125))


def test_measures_of_lengths():
    true = torch.tensor([1.0, 1.5, 2.0, 1.2], dtype=torch.float64)
    assert measures.slope(0.5 * true + 3.0, true) == pytest.approx(0.5)
    assert measures.correlation(-true, true) == pytest.approx(-1.0)
    assert measures.rank_correlation(true**5, true) == pytest.approx(1.0)
