"""The command ``pathline``. Its help answers without importing torch, or anything of the extra ``app``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence

from pathline.train.configs import did_you_mean
from pathline.train.environment import missing, pip_line
from pathline.train.stopping import importing

__all__ = ["main"]

Command = Callable[[list[str]], int]

COMMANDS = {
    "list": "the experiments, all or those that match some words",
    "run": "carry out an experiment and write its report",
    "report": "write the reports of finished runs again, and compare them",
    "reproduce": "run the experiments for three seeds and record the numbers",
    "doctor": "what is installed here, and whether it works",
    "completion": "print the completion script for bash, zsh or fish",
}

WITHOUT_EXTRA = ("doctor", "completion")
"""Commands that answer without the extra ``app``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        The exit code: 0, 1 where something failed, 2 for a wrong command line, 130 after Ctrl-C.
    """
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt as error:
        print(str(error) or "Interrupted.", file=sys.stderr)
        return 128 + int(getattr(error, "signal", signal.SIGINT))
    finally:
        if arguments is None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done: nothing is left to interrupt


def _main(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words and words[0] in ("-V", "--version"):
        from pathline import __version__

        print(f"pathline {__version__}")
        return 0
    absent = missing("app")
    if absent and (not words or words[0] not in WITHOUT_EXTRA):
        print(
            f"The command needs the extra `app`; {_listed(absent)} not installed here. "
            f"Install it with:\n\n    {pip_line('app')}\n",
            file=sys.stderr,
        )
        return 2
    if not words:
        print(_help())
        return 0
    return _dispatch(words)


def _dispatch(words: list[str]) -> int:
    if words[0] == "_complete":
        from pathline.cli.completion import candidates

        print("\n".join(candidates(words[1:])))
        return 0
    if words[0] not in COMMANDS:
        kind = "flag" if words[0].startswith("-") else "command"
        print(
            f'pathline has no {kind} "{words[0]}".{did_you_mean(words[0], [*COMMANDS, "--help", "--version"])} '
            f"The commands are: {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    return _command(words[0])(words[1:])


def _command(name: str) -> Command:
    import importlib

    # a module called `list` would hide the builtin in this one
    module = {"list": "listing"}.get(name, name)
    with importing():
        return importlib.import_module(f"pathline.cli.{module}").main


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _help() -> str:
    lines = ["usage: pathline COMMAND ...", "", "Neural differential equations in PyTorch.", "", "commands:"]
    lines += [f"  {name:<11} {text}" for name, text in COMMANDS.items()]
    lines += ["", "  -h, --help     this text", "  -V, --version  the version", ""]
    lines += ["pathline COMMAND --help says more about a command, pathline run NAME --help about an experiment."]
    if missing("app"):
        lines += ["", f"Most commands need the extra `app`, which is not installed here: {pip_line('app')}"]
    return "\n".join(lines)
