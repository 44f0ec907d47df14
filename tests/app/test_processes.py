"""The command in processes of its own: Ctrl-C, the import of torch, a missing extra, two ranks."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.app.conftest import ROOT, start, subprocess_environment

PATIENCE = 150
"""Seconds before a test with processes of its own is given up: seconds on a free machine, much more on a busy one."""


def wait_for(path: Path, process: subprocess.Popen[str], text: str = "") -> None:
    while not path.is_file() or text not in path.read_text(encoding="utf-8"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console")
@pytest.mark.timeout(PATIENCE)
def test_ctrl_c_keeps_the_checkpoint_writes_the_report_and_resumes(pathline: Callable[..., Any], workplace: Path):
    words = ("run", "wave", "--steps", "40", "--no-plot")
    process = start(*words, "--pause", "0.05", "--out", "cut", cwd=workplace)
    folder = workplace / "cut"
    wait_for(folder / "events.jsonl", process, '"fit started"')
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert out == ""
    assert "The fit first was interrupted after " in err
    assert "Report of what there is: cut/report.html" in err
    assert "Go on with: pathline run wave --resume cut" in err
    assert "Traceback" not in err
    results = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert results["status"] == "interrupted"
    assert 0 < results["fits"]["first"]["steps"] < 40
    assert "incomplete: it was interrupted" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "checkpoints" / "first" / "last" / "model.safetensors").is_file()
    # resumed in this process, which has one thread as the other one had
    assert pathline("run", "wave", "--resume", "cut").code == 0
    assert pathline(*words, "--pause", "0.0", "--out", "whole").code == 0
    same = ("metrics.csv", "checkpoints/second/last/model.safetensors", "checkpoints/first/best/model.safetensors")
    for name in same:
        assert (folder / name).read_bytes() == (workplace / "whole" / name).read_bytes(), name


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_a_termination_signal_does_the_same(pathline: Callable[..., Any], workplace: Path):
    folder = workplace / "cut"

    def terminate() -> None:
        log = folder / "events.jsonl"
        while not log.is_file() or '"fit started"' not in log.read_text(encoding="utf-8"):
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    outcome = pathline("run", "wave", "--steps", "4000", "--pause", "0.05", "--no-plot", "--out", "cut")
    assert outcome.code == 143
    assert "The fit first was interrupted after " in outcome.err
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["status"] == "interrupted"


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["list"], ["list", "wave"], ["run", "--help"], ["run", "wave", "--help"],
     ["run", "wave", "--print-config"], ["report", "--help"], ["doctor", "--help"], ["reproduce", "--help"],
     ["completion", "bash"], ["_complete", "run", "wave", "--st"]],
    ids=" ".join,
)  # fmt: skip
def test_these_answer_without_torch(words: list[str], tmp_path: Path):
    code = (
        "import sys\nfrom pathline.cli import main\n"
        f"try: code = main({words!r})\nexcept SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'matplotlib', 'lightning_fabric', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not code and not heavy, (code, heavy)"
    )
    process = start(cwd=tmp_path, module=("-c", code))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.strip()


HIDE = (
    "import sys\n"
    "class Hidden:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name in ('tyro', 'rich', 'lightning_fabric'): raise ModuleNotFoundError(name)\n"
    "sys.meta_path.insert(0, Hidden())\n"
    "import importlib.util as util\n"
    "found = util.find_spec\n"
    "hidden = ('tyro', 'rich', 'lightning_fabric')\n"
    "util.find_spec = lambda name, package=None: None if name in hidden else found(name, package)\n"
    "from pathline.cli import main\n"
)


@pytest.mark.parametrize("words", [[], ["list"], ["run", "wave"], ["report"], ["reproduce"]], ids=" ".join)
def test_without_the_extra_the_pip_line_is_printed(words: list[str], tmp_path: Path):
    process = start(cwd=tmp_path, module=("-c", HIDE + f"sys.exit(main({words!r}))"))
    out, err = process.communicate()
    assert process.returncode == 2
    assert out == ""
    assert "The command needs the extra `app`; tyro, rich, lightning-fabric are not installed here." in err
    assert 'pip install "pathline[app]"' in err


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["doctor"], ["completion", "zsh"]], ids=" ".join)
def test_without_the_extra_these_still_answer(words: list[str], tmp_path: Path):
    process = start(cwd=tmp_path, module=("-c", HIDE + f"sys.exit(main({words!r}))"))
    out, err = process.communicate()
    assert process.returncode == 0, err
    if words[0] in ("--help", "doctor"):
        assert 'pip install "pathline[app]"' in out


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def ranks(module: tuple[str, ...], *words: str, cwd: Path) -> list[tuple[int, str, str]]:
    """Two processes with the variables that torchrun sets."""
    port = free_port()
    processes = []
    for rank in range(2):
        environment = {
            **subprocess_environment(), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0",
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, *module, *words],
                cwd=cwd,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outcomes = [process.communicate() for process in processes]
    return [(process.returncode, *outcome) for process, outcome in zip(processes, outcomes, strict=True)]


TRAIN = """
import sys
from pathlib import Path
import torch
from pathline.status import SolveError, Status
from pathline.train import Run, minibatches
from pathline.train.run import make_fabric

torch.set_num_threads(1)
folder = Path(sys.argv[1])
run = Run("two", folder=folder, seed=3, quiet=True, fabric=make_fabric("cpu"), on_solve_failure="skip")
x = torch.linspace(-1.0, 1.0, 16)[:, None]
y = torch.sin(3.0 * x)
model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
calls = 0

def loss(model, batch):
    global calls
    calls += 1
    if calls == 5 and run.fabric.global_rank == run.fabric.world_size - 1:
        raise SolveError("only here", None, Status.MAX_STEPS)
    return ((model(batch[0]) - batch[1]) ** 2).mean()

history = run.fit("net", model, loss, steps=12, optimizer="sgd", lr=0.1, batches=minibatches(x, y, size=8, seed=1))
weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
if run.fabric.world_size > 1:
    both = run.fabric.all_gather(weights)
    assert torch.equal(both[0], both[1]), "the ranks have gone apart"
    import pickle
    pickle.dumps(model)
run.metric("skipped", len(history.skipped))
run.finish()
if run.fabric.is_global_zero:
    torch.save(weights, sys.argv[2])
print("rank", run.fabric.global_rank, history.skipped)
"""


@pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs torch.distributed with gloo"
)
def test_two_processes_train_as_one_and_act_alike_on_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    outcomes = ranks((str(script),), str(tmp_path / "two"), str(tmp_path / "two.pt"), cwd=tmp_path)
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert sorted(out.strip() for _, out, _ in outcomes) == ["rank 0 [4]", "rank 1 [4]"]
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "one"), str(tmp_path / "one.pt")])
    runpy.run_path(str(script))
    # the mean over two halves of a batch is the mean over the batch
    assert torch.allclose(torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt"), rtol=1e-5, atol=1e-6)
    events = [json.loads(line)["event"] for line in (tmp_path / "two" / "events.jsonl").read_text().splitlines()]
    assert events.count("run started") == 1  # rank zero alone writes


@pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs torch.distributed with gloo"
)
def test_the_command_runs_in_two_processes(tmp_path: Path):
    outcomes = ranks(
        ("-m", "pathline.cli"), "run", "wave", "--preset", "tiny", "--device", "cpu", "--no-plot", cwd=tmp_path
    )
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert "Report: runs/wave-" in outcomes[0][1]
    assert outcomes[1][1] == ""
    assert len(list((tmp_path / "runs").iterdir())) == 2  # the folder, and the pointer to it


def test_the_module_is_the_command():
    process = start("--version", cwd=ROOT)
    out, _ = process.communicate()
    assert (process.returncode, out.startswith("pathline ")) == (0, True)
    assert os.linesep not in out.strip()
