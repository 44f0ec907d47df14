"""Run folders, the pointer to the latest, strict JSON, and the line of progress."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pathline.train.folders import latest, new_folder, point_to, resolve, write_json
from pathline.train.progress import Progress, clock


def make(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    return folder


def test_the_pointer_moves_on(tmp_path: Path):
    for name in ("a", "b"):
        folder = make(tmp_path, name)
        point_to(folder)
        assert latest(tmp_path) == folder.resolve()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "latest"]


def test_where_links_are_not_allowed_a_text_file_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = make(tmp_path, "a")
    point_to(folder)
    assert (tmp_path / "latest").read_text().strip() == "a"
    assert latest(tmp_path) == folder.resolve()


def test_a_folder_called_latest_is_left_alone(tmp_path: Path):
    mine = tmp_path / "latest"
    mine.mkdir()
    (mine / "file").write_text("mine")
    point_to(make(tmp_path, "a"))
    assert (mine / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "latest"]


def test_a_run_is_found_by_path_name_and_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path / "runs", "wave-1")
    point_to(folder)
    for text in ("wave-1", "runs/wave-1", str(folder), "latest", "runs/latest"):
        assert resolve(text).resolve() == folder.resolve()
    with pytest.raises(FileNotFoundError, match=r'No run is called "wave-2".*The runs here are: wave-1\.'):
        resolve("wave-2")


def test_new_folders_never_meet(tmp_path: Path):
    assert len({new_folder(tmp_path, "x") for _ in range(5)}) == 5


def test_json_is_strict(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"nan": math.nan, "inf": [math.inf], 3: np.float64(0.5), "t": torch.tensor(2), "p": Path("x")})
    assert json.loads(path.read_text()) == {"nan": "nan", "inf": ["inf"], "3": 0.5, "t": 2, "p": "x"}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_the_clock():
    assert [clock(seconds) for seconds in (0, 59.4, 61, 3723)] == ["0:00", "0:59", "1:01", "1:02:03"]


def test_the_line_says_loss_rate_evaluations_and_time_left():
    progress = Progress("net", 100, start=20)
    row = {"loss": 0.12345, "evaluations": 26.0, "backward_evaluations": 39.0}
    assert progress.line(60, row, 2.0) == "net  60/100  loss 0.1235  20 steps/s  26+39 evaluations/step  0:02 left"
    assert (
        progress.line(60, {"loss": 1.0, "evaluations": 6.0}, 80.0)
        == "net  60/100  loss 1  0.5 steps/s  6 evaluations/step  1:20 left"
    )
    assert progress.line(100, {"loss": 1.0}, 8.0) == "net  100/100  loss 1  10 steps/s"


def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch):
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress("net", 10) as progress:
        progress.update(5, {"loss": 0.5}, force=True)
    assert "net  5/10  loss 0.5" in terminal.getvalue()


def test_a_notebook_gets_one_line_that_changes(monkeypatch: pytest.MonkeyPatch):
    import sys
    import types

    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/plain"])

    class ZMQInteractiveShell:
        pass

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]  # a stand-in for a notebook
    display = types.ModuleType("IPython.display")
    display.display = lambda data, raw, display_id: Handle()  # type: ignore[attr-defined]  # the same
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with Progress("net", 10) as progress:
        progress.update(5, {"loss": 0.5}, force=True)
        progress.update(6, {"loss": 0.5})  # too soon to be shown
    assert len(shown) == 1
    assert shown[0].startswith("net  5/10  loss 0.5")
