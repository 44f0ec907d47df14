"""``pathline completion SHELL``: completion of commands, experiments, presets and flags."""

from __future__ import annotations

import sys
from pathlib import Path

from pathline.cli import COMMANDS
from pathline.train.configs import did_you_mean

HELP = """usage: pathline completion bash|zsh|fish

Print the completion script of a shell. To have it in each new shell:

    bash   echo 'eval "$(pathline completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(pathline completion zsh)"' >> ~/.zshrc
    fish   pathline completion fish > ~/.config/fish/completions/pathline.fish"""

SCRIPTS = {
    "bash": """_pathline() {
    local IFS=$'\\n'
    local found="$(pathline _complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)"
    COMPREPLY=($(compgen -W "$found" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _pathline pathline""",
    "zsh": """_pathline() {
    local -a found
    found=("${(@f)$(pathline _complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -a found || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _pathline pathline""",
    "fish": """function __pathline_complete
    set -l words (commandline -opc) (commandline -ct)
    pathline _complete $words[2..-1] 2>/dev/null
end
complete -c pathline -f -a '(__pathline_complete)'""",
}


def main(words: list[str]) -> int:
    """Print the script; the exit code."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0
    if len(words) != 1 or words[0] not in SCRIPTS:
        came = words[0] if words else "nothing"
        print(
            f"`pathline completion` takes bash, zsh or fish; {came} came.{did_you_mean(came, SCRIPTS)}", file=sys.stderr
        )
        return 2
    print(SCRIPTS[words[0]])
    return 0


def candidates(words: list[str]) -> list[str]:
    """What may stand in the place of the last word."""
    from pathline.experiments import UnknownExperiment, experiments, find

    *before, current = words or [""]
    if not before:
        return [name for name in [*COMMANDS, "--help", "--version"] if name.startswith(current)]
    if before[0] == "completion":
        return [name for name in SCRIPTS if name.startswith(current)]
    if before[0] == "report":
        return [name for name in ["latest", *_runs()] if name.startswith(current)]
    if before[0] not in ("run", "reproduce"):
        return []
    if before[0] == "reproduce" or len(before) == 1:
        return [name for name in experiments() if name.startswith(current)]
    try:
        experiment = find(before[1])
    except UnknownExperiment:
        return []
    if before[-1] == "--preset":
        return [name for name in experiment.presets if name.startswith(current)]
    if before[-1] == "--resume":
        return [name for name in ["latest", *_runs()] if name.startswith(current)]
    from pathline.cli.run import known_flags

    return [flag for flag in known_flags(experiment) if flag.startswith(current)] if current.startswith("-") else []


def _runs() -> list[str]:
    return sorted(path.parent.name for path in Path("runs").glob("*/config.yaml") if not path.parent.is_symlink())
