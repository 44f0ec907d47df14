"""The loop: what it computes, watches, refuses, and does about failures."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pathline.status import SolveError, Status
from pathline.train import FitStopped, Interrupted, OutOfTime, Run, fit, minibatches
from pathline.train.loop import _fabric_of

X = torch.linspace(-1.0, 1.0, 12)[:, None]
Y = torch.sin(3.0 * X)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))


def full(model: nn.Module, _: Any) -> torch.Tensor:
    return ((model(X) - Y) ** 2).mean()


def on_batch(model: nn.Module, batch: Any) -> torch.Tensor:
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def run_in(folder: Path, **options: Any) -> Run:
    return Run("test", folder=folder, device="cpu", quiet=True, **options)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


# --- what it computes ------------------------------------------------------------------------------------------------


def by_hand(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, factor: Any, clip: float | None
) -> list[float]:
    losses, initial = [], optimizer.param_groups[0]["lr"]
    for step in range(steps):
        loss = full(model, None)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.param_groups[0]["lr"] = initial * factor(step)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        (None, lambda step: 1.0),
        ("cosine", lambda step: 0.5 * (1.0 + math.cos(math.pi * step / 20))),
        ("linear", lambda step: 1.0 - step / 20),
        (lambda step: 0.5**step, lambda step: 0.5**step),
    ],
    ids=["constant", "cosine", "linear", "function"],
)
def test_it_is_the_loop_one_would_write(schedule: Any, factor: Any, clip: float | None):
    ours, theirs = network(), network()
    history = fit(ours, full, steps=20, lr=0.05, schedule=schedule, clip=clip, quiet=True)
    assert history.loss == by_hand(theirs, torch.optim.Adam(theirs.parameters(), lr=0.05), 20, factor, clip)
    assert torch.equal(parameters(ours), parameters(theirs))
    assert history.columns["lr"] == pytest.approx([0.05 * factor(step) for step in range(20)])
    assert history.columns["step"] == list(range(1, 21))
    assert history.stopped == "finished"


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_optimizers_by_name(name: str):
    classes = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}
    ours, theirs = network(), network()
    fit(ours, full, steps=5, optimizer=name, quiet=True)
    by_hand(theirs, getattr(torch.optim, classes[name])(theirs.parameters(), lr=1e-2), 5, lambda step: 1.0, None)
    assert torch.equal(parameters(ours), parameters(theirs))


def test_an_optimizer_as_a_function():
    ours, theirs = network(), network()
    fit(ours, full, steps=5, optimizer=lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), lr=0.1, quiet=True)
    by_hand(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9), 5, lambda step: 1.0, None)
    assert torch.equal(parameters(ours), parameters(theirs))


def test_lbfgs_polishes():
    model = nn.Linear(1, 1, bias=False).double()
    x = X.double()

    def loss(model: nn.Module, _: Any) -> torch.Tensor:
        return ((model(x) - 3.0 * x) ** 2).mean()

    history = fit(model, loss, steps=3, lbfgs_steps=20, lr=1e-3, quiet=True)
    assert abs(float(model.weight.detach()) - 3.0) < 1e-12
    assert history.best_value < 1e-20
    assert history.steps < 23  # it notices that nothing is left to gain


def test_lbfgs_alone_reaches_the_bottom_of_a_valley():
    class Valley(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def rosenbrock(model: Any, _: Any) -> torch.Tensor:
        x, y = model.at
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2

    model = Valley()
    fit(model, rosenbrock, steps=0, lbfgs_steps=60, quiet=True)
    assert torch.allclose(model.at.detach(), torch.ones(2, dtype=torch.float64), atol=1e-6)


def test_metrics_of_the_loss_are_recorded():
    history = fit(
        network(), lambda model, _: (full(model, None), {"largest": model(X).max(), "number": 1}), steps=4, quiet=True
    )
    assert len(history.columns["largest"]) == 4
    assert all(map(math.isfinite, history.columns["largest"]))
    assert history.columns["number"] == [1.0] * 4


def test_evaluations_are_read_off_the_outermost_counting_modules():
    class Counting(nn.Linear):
        evaluations = 0
        backward_evaluations: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.evaluations = 7
            self.backward_evaluations = 5
            return super().forward(x)

    model = nn.Sequential(Counting(1, 2), nn.Tanh(), Counting(2, 1))
    history = fit(model, full, steps=3, quiet=True)
    assert history.columns["evaluations"] == [14.0] * 3
    assert history.columns["backward_evaluations"] == [10.0] * 3
    assert history.summary()["evaluations"] == 42


def test_a_data_loader_is_gone_through_again_and_again():
    loader = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True)
    seen: list[int] = []

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(len(batch[0]))
        return on_batch(model, batch)

    fit(network(), loss, steps=7, batches=loader, quiet=True)
    assert seen == [5, 5, 2, 5, 5, 2, 5]


# --- what it watches -------------------------------------------------------------------------------------------------


def test_the_best_parameters_are_those_that_were_watched():
    model = network()
    seen: list[tuple[float, torch.Tensor]] = []

    def evaluate(model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        value = float(((model(X) - 0.9 * Y) ** 2).mean()) + (0.0 if len(seen) == 3 else 1.0)
        seen.append((value, parameters(model).clone()))
        return value

    history = fit(model, full, steps=20, evaluate=evaluate, evaluate_every=4, restore_best=True, quiet=True)
    assert len(seen) == 6  # steps 0, 4, ..., 16, and the end
    best = min(range(6), key=lambda index: seen[index][0])
    assert (best, history.best_step) == (3, 12)
    assert history.best_value == seen[3][0]
    assert torch.equal(parameters(model), seen[3][1])
    assert [step for step, value in enumerate(history.columns["watched"]) if not math.isnan(value)] == [0, 4, 8, 12, 16]


def test_the_last_parameters_stay_unless_the_best_are_asked_for():
    values = iter([3.0, 1.0, 2.0, 5.0])
    model, other = network(), network()
    history = fit(model, full, steps=3, evaluate=lambda _: next(values), evaluate_every=1, quiet=True)
    fit(other, full, steps=3, quiet=True)
    assert history.best_step == 1
    assert torch.equal(parameters(model), parameters(other))


def test_without_an_evaluation_the_full_loss_is_watched_at_its_own_parameters():
    model = network()
    history = fit(model, full, steps=10, evaluate_every=1, restore_best=True, quiet=True)
    assert history.best_value == float(full(model, None).detach())


def test_patience_stops():
    values = iter([5.0, 4.0, 4.5, 4.1, 4.0, 1.0])
    model = network()
    history = fit(model, full, steps=100, evaluate=lambda _: next(values), evaluate_every=2, patience=3, quiet=True)
    assert history.stopped == "patience"
    assert history.best_step == 2
    assert history.steps == 8


def test_an_evaluation_that_cannot_be_solved_is_never_the_best():
    values = iter([3.0, None, 2.0])

    def evaluate(_: nn.Module) -> float:
        value = next(values)
        if value is None:
            raise SolveError("no", None, Status.MAX_STEPS)
        return value

    history = fit(network(), full, steps=2, evaluate=evaluate, evaluate_every=1, quiet=True)
    assert history.columns["watched"] == [3.0, math.inf]
    assert history.best_step == 2


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` and `lbfgs_steps` are counts with a sum of at least 1; 0 and 0 came."),
        ({"steps": -1}, "`steps` and `lbfgs_steps` are counts"),
        ({"steps": 1, "optimizer": "adma"}, 'No optimizer is called "adma". Did you mean "adam"?'),
        ({"steps": 1, "schedule": "cosin"}, 'No schedule is called "cosin". Did you mean "cosine"?'),
        (
            {"steps": 1, "on_solve_failure": "skp"},
            "`on_solve_failure` is one of 'stop', 'skip', 'shrink-lr'; 'skp' came.",
        ),
        ({"steps": 1, "lbfgs_steps": 1, "batches": [1]}, "`lbfgs_steps` needs the same loss at every evaluation"),
        ({"steps": 1, "evaluate_every": 0}, "`evaluate_every` is at least 1; 0 came."),
        ({"steps": 1, "patience": 0}, "`patience` is at least 1; 0 came."),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError) as caught:
        fit(network(), full, quiet=True, **options)
    assert message in str(caught.value)


def test_an_optimizer_that_is_built_already_is_refused():
    model = network()
    with pytest.raises(TypeError, match=r"but Adam came, already built. Pass the class and the rate"):
        fit(model, full, steps=1, optimizer=torch.optim.Adam(model.parameters()), quiet=True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"but int came. The names are: adam"):
        fit(model, full, steps=1, optimizer=3, quiet=True)  # pyright: ignore[reportArgumentType]


def test_a_loss_that_grew_is_told():
    with pytest.warns(UserWarning, match=r"The fit far ended with a loss of .* Try a smaller `lr`"):
        fit(network(), full, steps=5, lr=1e6, name="far", quiet=True)


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r"`loss` returns a scalar tensor; shape \(12, 1\) came. Take the mean"):
        fit(network(), lambda model, _: model(X), steps=1, quiet=True)
    with pytest.raises(ValueError, match="`loss` returns a scalar tensor; a float came"):
        fit(network(), lambda model, _: 1.0, steps=1, quiet=True)  # pyright: ignore[reportArgumentType]


# --- solves that fail ------------------------------------------------------------------------------------------------


class Fragile:
    """Fails at some calls, counted from 0."""

    def __init__(self, *at: int, error: Exception | None = None) -> None:
        self.at, self.calls = at, 0
        self.error = error or SolveError("The step size fell to 1e-12 at t = 0.25.", None, Status.STEP_UNDERFLOW)

    def __call__(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.calls += 1
        if self.calls - 1 in self.at:
            raise self.error
        return full(model, batch)


def test_stop_is_the_default_and_says_what_to_do(tmp_path: Path):
    run = run_in(tmp_path)
    with pytest.raises(FitStopped) as caught:
        run.fit("net", network(), Fragile(3), steps=10)
    message = str(caught.value)
    assert message.startswith("The fit net stopped at step 3. The step size fell to 1e-12 at t = 0.25.\n")
    assert 'Try a smaller `lr` (now 0.01), or go on past such batches with on_solve_failure="skip"' in message
    assert "replay it with: pathline run test --replay " in message
    assert isinstance(caught.value.__cause__, SolveError)
    assert (tmp_path / "checkpoints" / "net" / "last" / "model.safetensors").is_file()


def test_other_errors_are_not_touched():
    with pytest.raises(ZeroDivisionError):
        fit(network(), Fragile(0, error=ZeroDivisionError("mine")), steps=2, on_solve_failure="skip", quiet=True)


def test_skip_leaves_the_parameters_alone_and_goes_on():
    model, other = network(), network()
    history = fit(model, Fragile(4), steps=10, on_solve_failure="skip", quiet=True)
    fit(other, full, steps=9, quiet=True)
    assert history.skipped == [4]
    assert history.columns["step"] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert torch.equal(parameters(model), parameters(other))


@pytest.mark.parametrize(("steps", "allowed"), [(10, 1), (100, 1), (300, 3)])
def test_skip_stops_after_one_batch_in_a_hundred(steps: int, allowed: int):
    loss = Fragile(*range(2, 2 + allowed + 1))
    with pytest.raises(FitStopped, match=f"More than {allowed} batches failed"):
        fit(network(), loss, steps=steps, on_solve_failure="skip", quiet=True)
    assert loss.calls == 2 + allowed + 1


def test_shrink_lr_goes_back_one_update_and_halves():
    model = network()
    fit(model, Fragile(5), steps=6, on_solve_failure="shrink-lr", quiet=True)
    # five updates, of which the last is taken back; the sixth step is the failure
    other = network()
    fit(other, full, steps=4, quiet=True)
    assert torch.equal(parameters(model), parameters(other))
    history = fit(network(), Fragile(5, 7), steps=10, on_solve_failure="shrink-lr", lr=0.08, quiet=True)
    assert history.columns["lr"] == [0.08] * 5 + [0.04] + [0.02] * 2


def test_shrink_lr_gives_up_in_the_end():
    with pytest.raises(FitStopped, match="The learning rate was halved 10 times and the solve still fails"):
        fit(network(), Fragile(*range(1, 100)), steps=50, on_solve_failure="shrink-lr", quiet=True)


def test_a_loss_that_is_not_finite_is_a_failure():
    def loss(model: nn.Module, _: Any) -> torch.Tensor:
        return full(model, None) * math.nan

    with pytest.raises(FitStopped, match=r"The loss became nan\. A loss is finite; look at the data"):
        fit(network(), loss, steps=3, quiet=True)


def test_a_backward_solve_that_fails_is_handled_alike():
    class Explodes(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            Explodes.calls += 1
            if Explodes.calls == 3:
                raise SolveError("backwards", None, Status.NON_FINITE)
            return grad

    history = fit(
        network(), lambda model, _: Explodes.apply(full(model, None)), steps=5, on_solve_failure="skip", quiet=True
    )
    assert history.skipped == [2]
    assert history.steps == 4


def test_a_line_search_that_leaves_the_solvable_region_ends_lbfgs_with_what_there_is():
    model = nn.Linear(1, 1, bias=False).double()

    def loss(model: Any, _: Any) -> torch.Tensor:
        if model.weight.detach().abs() > 2.0:
            raise SolveError("too far", None, Status.NON_FINITE)
        return (model.weight - 5.0).square().sum()

    with torch.no_grad():
        model.weight.fill_(0.5)
    history = fit(model, loss, steps=0, lbfgs_steps=10, quiet=True)
    assert history.stopped == "finished"
    assert abs(float(model.weight.detach())) <= 2.0


def test_a_failed_batch_is_kept_and_can_be_replayed(tmp_path: Path):
    batches = minibatches(X, Y, size=5, seed=2)
    weights: list[torch.Tensor] = []

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        noise = torch.rand(1)
        weights.append(parameters(model).clone())
        seen.append((batch[0].clone(), noise))
        if len(seen) == 4 and fails:
            raise SolveError("no", None, Status.MAX_STEPS)
        return on_batch(model, batch)

    seen: list[Any] = []
    fails = True
    run_in(tmp_path).fit("net", network(), loss, steps=8, batches=batches, on_solve_failure="skip")
    failed, failed_weights = seen[3], weights[3]
    seen.clear()
    weights.clear()
    fails = False
    replay = run_in(tmp_path, replay=tmp_path / "failed" / "net" / "step-000003")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        Exception, match=r"The batch of net step-000003 can be solved now: its loss is 0\.\d+"
    ) as caught:
        replay.fit("net", network(seed=9), loss, steps=8, batches=batches)
    assert type(caught.value).__name__ == "ReplayDone"
    assert torch.equal(seen[0][0], failed[0])
    assert torch.equal(seen[0][1], failed[1])
    assert torch.equal(weights[0], failed_weights)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


# --- the clock and the interrupt -------------------------------------------------------------------------------------


def test_max_time_stops_before_the_next_step_and_refuses_to_begin_another_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr("pathline.train.keeping.time.monotonic", lambda: now[0])

    def loss(model: nn.Module, _: Any) -> torch.Tensor:
        now[0] += 1.0
        return full(model, None)

    run = run_in(tmp_path, max_time=3.5)
    history = run.fit("first", network(), loss, steps=100)
    assert (history.stopped, history.steps) == ("max-time", 4)
    with pytest.raises(OutOfTime, match="used up before the fit second began"):
        run.fit("second", network(), loss, steps=100)
    assert fit(network(), loss, steps=100, max_time=2.0, quiet=True).steps == 2


def test_an_interrupt_waits_for_the_step_and_keeps_the_checkpoint(tmp_path: Path):
    def loss(model: nn.Module, _: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        return full(model, None)

    calls: list[int] = []
    with pytest.raises(Interrupted, match="The fit net was interrupted after 6 of 20 steps") as caught:
        run_in(tmp_path).fit("net", network(), loss, steps=20)
    assert caught.value.signal == signal.SIGINT
    state = json.loads((tmp_path / "checkpoints" / "net" / "last" / "state.json").read_text())["tree"]
    assert (state["step"], state["finished"]) == (6, False)
    assert events(tmp_path)[-1]["event"] == "fit started"


def test_progress_is_silent_when_piped(capsys: pytest.CaptureFixture[str]):
    fit(network(), full, steps=5)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_processes_without_a_run_are_told_that_they_train_apart(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.warns(UserWarning, match="gradients are not averaged"):
        _fabric_of(torch.nn.Linear(1, 1))
