"""The command answers before torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.tree import experiment_names


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_package_imports_without_torch():
    run_python("import pathline, sys; assert 'torch' not in sys.modules; assert pathline.__version__")


def test_a_name_brings_torch_when_it_is_first_used():
    run_python("import pathline, sys; pathline.solve; assert 'torch' in sys.modules")


def test_every_public_name_is_there():
    run_python("import pathline\nfor name in pathline.__all__: getattr(pathline, name)")
    run_python("import pathline\nassert set(pathline.__all__) <= set(dir(pathline))")


def test_an_unknown_name_is_an_attribute_error():
    run_python(
        "import pathline\n"
        "try: pathline.sovle\n"
        "except AttributeError as error: assert 'sovle' in str(error)\n"
        "else: raise SystemExit('no error')"
    )


HELPS = [["--help"], ["list"], ["run", "--help"], *(["run", name, "--help"] for name in experiment_names())]


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_the_command_answers_without_torch(arguments: list[str]):
    code = (
        "import sys\n"
        f"sys.argv = ['pathline', *{arguments!r}]\n"
        "from pathline.cli import main\n"
        "try: code = main()\n"
        "except SystemExit as error: code = error.code\n"
        "assert not code, code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    assert run_python(code).strip()


@pytest.mark.parametrize("name", experiment_names())
def test_a_config_is_read_without_torch(name: str):
    run_python(
        "import sys\n"
        "from pathline.experiments import find\n"
        f"experiment = find({name!r})\n"
        "experiment.config('tiny'), experiment.about, experiment.expected\n"
        "assert 'torch' not in sys.modules"
    )
