"""What the command answers to wrong flags, broken run folders and Ctrl-C: one line, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def refused(outcome: Any, *words: str) -> None:
    assert outcome.code == 2, outcome
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert all(word in outcome.err for word in words), outcome.err


@pytest.fixture
def done(pathline: Command, workplace: Path) -> Path:
    assert pathline("run", "wave", "--preset", "tiny", "--no-plot", "--out", "done").code == 0
    return workplace / "done"


def test_a_resumed_run_keeps_its_settings(pathline: Command, done: Path):
    before = (done / "metrics.json").read_text(encoding="utf-8")
    refused(pathline("run", "wave", "--resume", "done", "--seed", "7"), "--seed", " 0,", "7")
    refused(pathline("run", "wave", "--resume", "done", "--lr", "5"), "--lr", "0.01", "5.0")
    refused(pathline("run", "wave", "--resume", "done", "--net.width", "9"), "--net.width", "4", "9")
    assert (done / "metrics.json").read_text(encoding="utf-8") == before
    assert pathline("run", "wave", "--resume", "done", "--lr", "0.01", "--max-time", "1h", "--device", "cpu").code == 0


@pytest.mark.parametrize("text", ["", "[1", "experiment: wave\n", "experiment: wave\nconfig: 5\n", "\x00"])
def test_a_broken_config_is_not_resumed(pathline: Command, done: Path, text: str):
    (done / "config.yaml").write_text(text, encoding="utf-8")
    refused(pathline("run", "wave", "--resume", "done"), "config.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "-5", "--out", "a"], "steps"),
        (["--seed", "-1"], "--seed"),
        (["--devices", "0"], "--devices"),
        (["--out", ""], "--out"),
        (["--out", "file"], "file is a file"),
        (["--out", "file/inner"], "file"),
        (["--config", "binary"], "binary"),
    ],
)
def test_wrong_values_are_refused_in_one_line(pathline: Command, workplace: Path, words: list[str], said: str):
    (workplace / "file").touch()
    (workplace / "binary").write_bytes(b"\xff\xfe\x00")
    refused(pathline("run", "wave", "--no-plot", *words), said)
    if "a" in words:
        assert (workplace / "a" / "report.html").is_file()
        events = (workplace / "a" / "events.jsonl").read_text(encoding="utf-8")
        assert '"traceback"' in events
        assert str(Path(__file__).parent) not in events


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("classify", ["--images", "-5"], "`images` is at least 0, but -5"),
        ("classify", ["--images", "15"], "at least 20, but 15"),
        ("classify", ["--folds", "1"], "`folds` is at least 2, but 1"),
        ("images-flow", ["--draws", "0"], "`draws` is at least 1, but 0"),
        ("digits-density", ["--noises", "1"], "`noises` is at least 2"),
        ("augmented", ["--hidden", "8", "0"], "`hidden` is at least 1, but (8, 0)"),
        ("evolving-weights", ["--folds", "0"], "`folds` is at least 2"),
    ],
)
def test_settings_that_are_too_small_are_refused_before_anything_runs(
    pathline: Command, workplace: Path, name: str, words: list[str], said: str
):
    refused(pathline("run", name, "--preset", "tiny", *words), said)


def test_a_package_that_is_not_installed_is_named_in_one_line(
    pathline: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refused(pathline("run", "classify", "--preset", "tiny"), "scikit-learn", 'pip install "pathline[data]"')


def test_the_traceback_is_shown_where_it_is_asked_for(pathline: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATHLINE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="steps"):
        pathline("run", "wave", "--steps", "-5")


@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "model.safetensors", "model.json"])
def test_a_broken_checkpoint_is_named(pathline: Command, done: Path, name: str):
    path = done / "checkpoints" / "first" / "last" / name
    path.write_bytes(path.read_bytes()[:20])
    refused(pathline("run", "wave", "--resume", "done"), name, "Delete the folder")
    path.unlink()
    refused(pathline("run", "wave", "--resume", "done"), name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.json", "{"),
        ("metrics.json", "{}"),
        ("config.yaml", "[1"),
        ("env.json", "x"),
        ("metrics.csv", "a,b\n1,2"),
    ],
)
def test_a_report_of_a_broken_folder_names_the_file(pathline: Command, done: Path, name: str, text: str):
    (done / name).write_text(text, encoding="utf-8")
    refused(pathline("report", "done"), name)


def test_a_torn_line_of_events_is_skipped(pathline: Command, done: Path):
    with (done / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"time": "20')
    assert pathline("report", "done").code == 0


def test_ctrl_c_outside_of_a_fit_is_one_line(pathline: Command, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathline.cli._dispatch", interrupt)
    outcome = pathline("list")
    assert (outcome.code, outcome.err) == (130, "Interrupted.\n")
    monkeypatch.undo()


def test_an_early_interrupt_names_no_other_run(pathline: Command, monkeypatch: pytest.MonkeyPatch):
    assert pathline("run", "wave", "--preset", "tiny", "--no-plot").code == 0

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathline.cli.run.launch", interrupt)
    outcome = pathline("run", "wave")
    assert (outcome.code, outcome.err) == (130, "The run was interrupted.\n")


def test_refusals_between_two_fits_are_of_pathline_alone():
    from pathline.experiments.launching import _at_the_door
    from pathline.train.history import History
    from pathline.train.stopping import parse_duration

    before, ended, running = History(), History(stopped="finished"), History()
    for history in (ended, running):
        history.append({"loss": 1.0, "lr": 1.0})
    with pytest.raises(ValueError, match="duration") as ours:
        parse_duration("x")
    with pytest.raises(ValueError, match="invalid literal") as foreign:
        int("x")
    assert _at_the_door(foreign.value, [before])
    assert _at_the_door(ours.value, [ended])
    assert not _at_the_door(foreign.value, [ended])
    assert not _at_the_door(ours.value, [ended, running])


def test_ctrl_c_while_packages_are_imported_waits_for_them():
    import signal

    from pathline.train.stopping import Interrupted, importing

    seen: list[str] = []

    def load() -> None:
        with importing():
            signal.raise_signal(signal.SIGINT)
            seen.append("imported")

    with pytest.raises(Interrupted):
        load()
    assert seen == ["imported"]
