"""What Tab offers, and what the doctor finds."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from pathline.cli import COMMANDS, main
from pathline.cli.completion import SCRIPTS, candidates


@pytest.fixture(autouse=True)
def samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATHLINE_EXPERIMENTS", "tests.app.sample_experiments")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([], [*COMMANDS, "--help", "--version"]),
        (["re"], ["report", "reproduce"]),
        (["run", "wa"], ["wave"]),
        (["run", "wave", "--preset", ""], ["default", "tiny"]),
        (["run", "wave", "--net"], ["--net.width", "--net.activation"]),
        (["run", "wave", "--no-pl"], ["--no-plot"]),
        (["run", "nothing", "--"], []),
        (["run", "wave", ""], []),
        (["completion", "z"], ["zsh"]),
        (["doctor", ""], []),
    ],
)
def test_candidates(words: list[str], offered: list[str]):
    assert candidates(words) == offered


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_scripts_are_accepted_by_their_shells(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shutil.which(shell) is None:
        assert "pathline _complete" in script
        return
    subprocess.run([shell, "-n", "-c" if shell == "fish" else "/dev/stdin"], input=script, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_flag(tmp_path):
    fake = tmp_path / "pathline"
    fake.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" | tail -n +2 | tr "\\n" "," > words\nprintf "%s\\n" --net.width --net.activation\n'
    )
    fake.chmod(0o755)
    program = "\n".join(
        [
            f'PATH="{tmp_path}:$PATH"',
            SCRIPTS["bash"],
            "COMP_WORDS=(pathline run wave --net.w)",
            "COMP_CWORD=3",
            "_pathline",
            'echo "${COMPREPLY[@]}"',
        ]
    )
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "--net.width"
    assert (tmp_path / "words").read_text() == "run,wave,--net.w,"


def test_the_doctor_finds_a_working_core(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in (
        "pathline",
        "torch threads",
        "compiler",
        "extra app",
        "self-check",
        "an orbit and its gradient",
        "The core works.",
    ):
        assert word in out


def test_the_doctor_reports_a_solve_that_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    import pathline

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no solver here")

    monkeypatch.setattr(pathline, "solve", broken, raising=False)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "! self-check" in out
    assert "RuntimeError: no solver here" in out
    assert "The core does not work here." in out
