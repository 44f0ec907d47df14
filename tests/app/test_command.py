"""``pathline run``, ``list``, ``report`` and ``reproduce``, as a user types them."""

from __future__ import annotations

import csv
import getpass
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.app.conftest import subprocess_environment

Command = Callable[..., Any]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_leaves_a_whole_folder_and_ends_with_table_and_report(pathline: Command, workplace: Path):
    outcome = pathline("run", "wave", "--preset", "tiny", "--seed", "3")
    assert outcome.code == 0
    (folder,) = [path for path in (workplace / "runs").iterdir() if not path.is_symlink()]
    assert re.fullmatch(r"wave-\d{8}-\d{6}", folder.name)
    assert (workplace / "runs" / "latest").resolve() == folder
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml", "env.json", "events.jsonl", "metrics.csv", "metrics.json", "report.html",
        "figures/fit.png", "figures/fit.svg",
        *(f"checkpoints/{fit}/{which}/{name}.{kind}" for fit in ("first", "second") for which in ("last", "best")
          for name in ("model", "state") for kind in ("json", "safetensors")),
    }  # fmt: skip
    lines = outcome.out.splitlines()
    assert "A wave, fitted twice (preset tiny, seed 3)" in lines[0]
    assert any(
        "samples" in line and "at least 1000" in line and "MISS" in line and "a bound that is missed" in line
        for line in lines
    )
    assert any("train_error" in line and "at least 0" in line and "pass" in line for line in lines)
    assert lines[-1] == f"Report: runs/{folder.name}/report.html"
    assert outcome.err == ""


def test_two_runs_in_one_second_have_two_folders(pathline: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pathline.train.folders.time.strftime", lambda form: "20300102-030405")
    for _ in range(2):
        assert pathline("run", "wave", "--preset", "tiny", "--no-plot").code == 0
    assert sorted(path.name for path in (workplace / "runs").iterdir()) == [
        "latest",
        "wave-20300102-030405",
        "wave-20300102-030405-2",
    ]
    assert (workplace / "runs" / "latest").resolve().name == "wave-20300102-030405-2"


def test_what_a_run_writes_names_no_user_and_no_place(pathline: Command, workplace: Path):
    assert pathline("run", "wave", "--preset", "tiny", "--fail-at", "2", "--on-solve-failure", "skip").code == 0
    folder = (workplace / "runs" / "latest").resolve()
    secrets = {str(workplace), str(Path.home()), socket.gethostname(), f"/{getpass.getuser()}/"}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in (".png", ".safetensors"):
            text = path.read_text(encoding="utf-8")
            assert not [secret for secret in secrets if len(secret) > 4 and secret in text], path.name
    environment = read(folder / "env.json")
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["seed"] == 0
    assert {"python", "platform", "threads", "processor", "device"} <= environment.keys()


def test_metrics_are_compared_in_their_presets_alone(pathline: Command, workplace: Path):
    pathline("run", "wave", "--preset", "tiny", "--no-plot")
    tiny = read(workplace / "runs" / "latest" / "metrics.json")
    bounds = {
        metric["name"]: [(item["sense"], item["met"]) for item in metric["expected"]] for metric in tiny["metrics"]
    }
    assert bounds["samples"] == [(">=", False)]
    assert bounds["draw"] == []
    pathline("run", "wave", "--steps", "40", "--no-plot")
    default = read(workplace / "runs" / "latest" / "metrics.json")
    assert [metric["expected"] for metric in default["metrics"] if metric["name"] == "samples"] == [[]]
    assert default["changed"] == {"steps": 40, "plot": False}


def test_strict_turns_a_miss_into_an_exit_code(pathline: Command):
    assert pathline("run", "wave", "--preset", "tiny", "--no-plot", "--strict").code == 1
    assert pathline("run", "wave", "--no-plot", "--strict", "--steps", "150").code == 0


def test_the_same_seed_gives_the_same_numbers(pathline: Command, workplace: Path):
    texts = []
    for seed in (1, 1, 2):
        pathline("run", "wave", "--preset", "tiny", "--no-plot", "--seed", seed)
        texts.append((workplace / "runs" / "latest" / "metrics.csv").read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_metrics_csv_has_a_row_a_step(pathline: Command, workplace: Path):
    pathline("run", "wave", "--preset", "tiny", "--no-plot")
    with (workplace / "runs" / "latest" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["fit"], row["step"]) for row in rows] == [
        (fit, str(step)) for fit in ("first", "second") for step in range(1, 7)
    ]
    assert list(rows[0]) == ["fit", "step", "loss", "lr", "largest", "watched"]
    assert all(float(row["loss"]) > 0 for row in rows)


def test_flags_change_the_file_which_changes_the_preset(pathline: Command, workplace: Path):
    (workplace / "my.yaml").write_text("preset: tiny\nseed: 7\nconfig:\n  lr: 2e-3\n  points: 20\n")
    printed = yaml.safe_load(pathline("run", "wave", "--config", "my.yaml", "--points", "30", "--print-config").out)
    assert printed["preset"] == "tiny"
    assert printed["seed"] == 7
    config = printed["config"]
    assert (config["steps"], config["lr"], config["points"], config["net"]["width"]) == (6, 2e-3, 30, 4)
    assert not (workplace / "runs").exists()


def test_print_config_goes_round(pathline: Command, workplace: Path):
    words = [
        "--preset",
        "tiny",
        "--seed",
        "5",
        "--fail-at",
        "1",
        "2",
        "--limit",
        "0.5",
        "--net.activation",
        "relu",
        "--no-plot",
    ]
    first = pathline("run", "wave", *words, "--print-config")
    (workplace / "c.yaml").write_text(first.out)
    assert pathline("run", "wave", "--config", "c.yaml", "--print-config").out == first.out
    assert "fail_at:\n  - 1\n  - 2\n" in first.out


def test_the_config_of_a_run_repeats_it(pathline: Command, workplace: Path):
    pathline("run", "wave", "--preset", "tiny", "--seed", "4", "--no-plot", "--net.width", "9")
    first = (workplace / "runs" / "latest").resolve()
    pathline("run", "wave", "--config", first / "config.yaml")
    second = (workplace / "runs" / "latest").resolve()
    assert first != second
    for name in ("metrics.csv", "config.yaml"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["rnu"], ['pathline has no command "rnu". Did you mean "run"? The commands are: list, run']),
        (["--hlep"], ['pathline has no flag "--hlep". Did you mean "--help"?']),
        (["run"], ["`pathline run` takes the name of an experiment first.", "A wave, fitted twice"]),
        (["run", "waev"], ['No experiment is called "waev". Did you mean "wave"? The experiments are: ']),
        (["run", "wave", "--stpes", "3"], ["The experiment wave has no flag `--stpes`. Did you mean \"--steps\"?"]),
        (["run", "wave", "--net.widht=3"], ["has no flag `--net.widht`. Did you mean \"--net.width\"?"]),
        (["run", "wave", "--preset", "tyni"], ['has no preset "tyni". Did you mean "tiny"? The presets are']),
        (["run", "wave", "--steps", "many"], ["Error parsing --steps", "many"]),
        (["run", "wave", "--on-solve-failure", "skp"], ["--on-solve-failure", "skip"]),
        (["run", "wave", "--max-time", "soon"], ["A duration is written as 90s, 5m, 1h30m or a number of"]),
        (["run", "wave", "--config", "none.yaml"], ["`--config` names a YAML file; none.yaml is none."]),
        (["run", "wave", "--resume", "nothing"], ['No run is called "nothing": a run is a folder with']),
        (["run", "wave", "--replay", "nothing"], ["`--replay` names a folder such as"]),
        (["run", "wave", "--device", "gpu"], ['`device` is "auto", "cpu", "cuda", "cuda:0" or "mps"; \'gpu\' came.']),
        (["report", "nothing"], ['No run is called "nothing"']),
        (["report", "--all"], ["`pathline report` has no flag `--all`; it takes run folders alone."]),
        (["doctor", "me"], ["`pathline doctor` takes no arguments; 'me' came."]),
        (["completion", "bsh"], ["takes bash, zsh or fish; bsh came. Did you mean \"bash\"?"]),
        (["reproduce", "waev"], ['No experiment is called "waev". Did you mean "wave"?']),
        (["reproduce", "wave", "--jobs", "0"], ["--jobs is the number of runs at a time, at least 1, but 0 came."]),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_answered_with_what_was_meant(
    pathline: Command, workplace: Path, words: list[str], messages: list[str]
):
    outcome = pathline(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    for message in messages:
        assert message in outcome.err
    assert not (workplace / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_refused(pathline: Command, workplace: Path):
    outcome = pathline("run", "wave", "--device", "cuda")
    assert outcome.code == 2
    assert "`device` is 'cuda', but torch finds no such device here. Use device=\"cpu\"." in outcome.err
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede: 3", 'my.yaml has the key "sede". Did you mean "seed"? The keys are: experiment, preset, seed'),
        ("config: {stpes: 3}", "No field of `config` is called 'stpes'. Did you mean \"steps\"?"),
        ("config: {steps: 1.5}", "`config.steps` takes a whole number; 1.5 came."),
        ("seed: x", "`my.yaml.seed` takes a whole number; 'x' came."),
        ("experiment: other", "my.yaml is of the experiment other, not wave. Use: pathline run other --config my.yaml"),
        ("- 1", "my.yaml holds list; a mapping like that of --print-config is expected."),
        ("a: [", "my.yaml is no YAML that can be read"),
    ],
)
def test_a_wrong_file_is_answered_with_its_place(pathline: Command, workplace: Path, text: str, message: str):
    (workplace / "my.yaml").write_text(text)
    outcome = pathline("run", "wave", "--config", "my.yaml")
    assert outcome.code == 2
    assert message in outcome.err


def test_a_preset_that_contradicts_the_file_is_refused(pathline: Command, workplace: Path):
    (workplace / "my.yaml").write_text("preset: tiny")
    outcome = pathline("run", "wave", "--config", "my.yaml", "--preset", "default")
    assert (outcome.code, "my.yaml is of the preset tiny. Leave out `--preset default`." in outcome.err) == (2, True)


def test_a_folder_with_a_run_is_not_overwritten(pathline: Command, workplace: Path):
    assert pathline("run", "wave", "--preset", "tiny", "--no-plot", "--out", "mine").code == 0
    assert (workplace / "mine" / "report.html").is_file()
    assert not (workplace / "runs").exists()
    outcome = pathline("run", "wave", "--preset", "tiny", "--out", "mine")
    assert outcome.code == 2
    assert (
        "mine already holds a run. Choose another `--out`, or go on with it: pathline run wave --resume mine"
        in outcome.err
    )


def test_max_time_ends_with_a_report_and_resumes(pathline: Command, workplace: Path):
    outcome = pathline("run", "wave", "--max-time", "0.6s", "--pause", "0.05", "--steps", "20", "--no-plot")
    assert outcome.code == 0
    assert "The time of the run was used up before the fit second began." in outcome.out
    assert "Go on with: pathline run wave --resume runs/wave-" in outcome.out
    folder = (workplace / "runs" / "latest").resolve()
    early = read(folder / "metrics.json")
    assert early["status"] == "out of time"
    assert 0 < early["fits"]["first"]["steps"] < 20
    assert {item["metric"] for item in early["missing"]} == {"train_error"}
    assert "its time was used up" in (folder / "report.html").read_text(encoding="utf-8")
    assert pathline("run", "wave", "--resume", "latest").code == 0
    late = read(folder / "metrics.json")
    assert (late["status"], late["fits"]["first"]["steps"], late["fits"]["second"]["steps"]) == ("finished", 20, 20)
    assert pathline("run", "wave", "--pause", "0.05", "--steps", "20", "--no-plot", "--out", "whole").code == 0
    assert (workplace / "whole" / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()


def test_a_failing_solve_stops_with_a_report_and_a_replay(pathline: Command, workplace: Path):
    outcome = pathline("run", "wave", "--fail-at", "4", "--no-plot")
    assert outcome.code == 1
    assert "The fit second stopped at step 4. The step size fell to 1e-12 at t = 0.25." in outcome.err
    assert "Report of what there is: runs/wave-" in outcome.err
    report = (workplace / "runs" / "latest" / "report.html").read_text(encoding="utf-8")
    assert "The step size fell to 1e-12 at t = 0.25." in report
    command = re.search(r"pathline (run wave --replay \S+)", outcome.err)
    assert command is not None
    replay = pathline(*command[1].split())
    assert replay.code == 0
    assert "The batch of second step-000004 can be solved now: its loss is " in replay.out


def test_a_replay_that_fails_again_says_so(pathline: Command, workplace: Path):
    pathline("run", "wave", "--fail-at", "0", "--no-plot")
    outcome = pathline("run", "wave", "--replay", "runs/latest/failed/second/step-000000")
    assert outcome.code == 1
    assert "The batch fails again: The step size fell to 1e-12 at t = 0.25." in outcome.err


def test_a_run_that_fails_otherwise_still_has_its_report(pathline: Command, workplace: Path):
    outcome = pathline("run", "wave", "--batch", "0")
    assert outcome.code == 2
    assert "batch_size" in outcome.err
    folder = (workplace / "runs" / "latest").resolve()
    assert read(folder / "metrics.json")["status"] == "failed"
    assert "incomplete: it failed" in (folder / "report.html").read_text(encoding="utf-8")


def test_list_searches_names_authors_and_tasks(pathline: Command):
    everything = pathline("list")
    assert everything.code == 0
    assert "wave: A wave, fitted twice" in everything.out
    for words in (["roe"], ["Doe", "testing"], ["2020", "sine"]):
        found = pathline("list", *words)
        assert "wave: A wave, fitted twice" in found.out
    nothing = pathline("list", "testnig")
    assert (nothing.code, 'Did you mean "testing"?' in nothing.err) == (1, True)


def test_report_is_written_again_from_the_folder(pathline: Command, workplace: Path):
    pathline("run", "wave", "--preset", "tiny")
    path = workplace / "runs" / "latest" / "report.html"
    before = path.read_text(encoding="utf-8")
    path.unlink()
    outcome = pathline("report", "latest")
    assert outcome.code == 0
    assert path.read_text(encoding="utf-8") == before
    assert "train_error" in outcome.out


def test_reports_of_several_runs_stand_side_by_side(pathline: Command, workplace: Path):
    for seed in (0, 1):
        pathline("run", "wave", "--preset", "tiny", "--no-plot", "--seed", seed)
    names = sorted(path.name for path in (workplace / "runs").iterdir() if path.name != "latest")
    outcome = pathline("report", *names)
    assert outcome.code == 0
    for part in ("tiny, seed 0", "tiny, seed 1", "mean ± sd", "64 ± 0"):
        assert part in outcome.out


def test_reproduce_records_mean_spread_and_versions(pathline: Command, workplace: Path):
    outcome = pathline("reproduce", "wave", "--preset", "tiny", "--seeds", "0", "1")
    assert outcome.code == 1  # one bound of the preset is missed
    assert "MISS" in outcome.out
    summary = read(workplace / "docs" / "results" / "wave-tiny.json")
    metric = summary["metrics"]["samples"]
    assert (metric["mean"], metric["sd"], metric["values"]) == (64.0, 0.0, [64.0, 64.0])
    assert metric["expected"] == [
        {"bound": 1000.0, "sense": ">=", "source": "a bound that is missed", "met": False, "worst_met": False}
    ]
    assert summary["seeds"] == [0, 1]
    assert summary["versions"]["torch"] == torch.__version__
    errors = summary["metrics"]["train_error"]["values"]
    assert errors[0] != errors[1]
    assert summary["metrics"]["train_error"]["mean"] == pytest.approx(sum(errors) / 2)


def test_seeds_side_by_side_give_the_numbers_of_seeds_in_turn(
    pathline: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", subprocess_environment()["PYTHONPATH"])
    words = ["reproduce", "wave", "--preset", "tiny", "--seeds", "0", "1"]
    pathline(*words, "--results", "in-turn")
    outcome = pathline(*words, "--results", "together", "--jobs", "2")
    assert "2 at a time" in outcome.out
    found, expected = (read(workplace / name / "wave-tiny.json") for name in ("together", "in-turn"))
    assert found["metrics"]["train_error"]["values"] == expected["metrics"]["train_error"]["values"]
    assert found["seeds"] == [0, 1]
