"""`completion`: shell scripts that complete commands, presets, runs, flags and configuration fields.

The scripts ask this program: `completion words WORD...` prints what the last word can be, one candidate per line, with
its help after a tab. It loads no torch; nothing printed leaves the shell to complete file names.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.config import RunConfig, default_home, fields_of
from llm.config.presets import preset_paths, shipped_directory
from llm.errors import UserError
from llm.files import expand_user
from llm.run import Run
from workbench.commands.manage_runs import VERBS
from workbench.commands.options import Parser, add_command

BASH = """\
_llm_workbench() {
    local line="${COMP_LINE:0:$COMP_POINT}"
    local -a words
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    local current="${words[-1]}" IFS=$'\\n'
    COMPREPLY=($(llm-workbench completion words "${words[@]:1}" 2>/dev/null | cut -f1))
    # Readline replaces only what follows the last of these characters.
    local before="${current%"${current##*[@=:]}"}"
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -o default -F _llm_workbench llm-workbench
"""
ZSH = """\
#compdef llm-workbench
_llm_workbench() {
    local -a lines
    lines=("${(@f)$(llm-workbench completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -z "${lines[1]}" ]]; then
        _files
        return
    fi
    lines=("${(@)lines//:/\\\\:}")
    lines=("${(@)lines/$'\\t'/:}")
    _describe -V 'llm-workbench' lines
}
if [[ "$funcstack[1]" == "_llm_workbench" ]]; then
    _llm_workbench "$@"
else
    compdef _llm_workbench llm-workbench
fi
"""
FISH = """\
function __llm_workbench
    set -l words (commandline -opc) (commandline -ct)
    set -l found (llm-workbench completion words $words[2..-1] 2>/dev/null)
    if set -q found[1]
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c llm-workbench -f -k -a '(__llm_workbench)'
"""
SUBCOMMANDS = {"runs": tuple(VERBS), "data": ("download", "clean")}
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
INSTALL = {
    "bash": 'eval "$(llm-workbench completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(llm-workbench completion zsh)" in ~/.zshrc, after compinit',
    "fish": "llm-workbench completion fish > ~/.config/fish/completions/llm-workbench.fish",
}

Candidates = Iterator[tuple[str, str]]


def register(subparsers: Any) -> None:
    parser = add_command(subparsers, "completion", "print a script that completes commands in your shell", complete)
    parser.add_argument("shell", choices=(*SCRIPTS, "words"), help="bash, zsh or fish")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.usage = f"{parser.prog} bash|zsh|fish"
    parser.epilog = "To install: " + "; ".join(INSTALL.values()) + "."
    parser.set_defaults(commands=subparsers.choices)


def complete(options: argparse.Namespace) -> int:
    """Print a script, or the candidates for a word."""
    if options.shell in SCRIPTS:
        print(SCRIPTS[options.shell], end="")
        return 0
    *before, current = options.words or [""]
    for word, help in candidates(before, current, options.commands):
        if word.startswith(current):
            print(f"{word}\t{' '.join(help.split())}")
    return 0


def candidates(before: Sequence[str], current: str, commands: Mapping[str, Parser]) -> Candidates:
    """What the word after `before` can be; `current` is its beginning."""
    home = default_home()
    words: list[str] = []  # without --home DIR
    for word in before:
        if words[-1:] == ["--home"]:
            home = expand_user(word)
            words.pop()
        else:
            words.append(word)
    if words[-1:] == ["--home"]:
        return
    if not words:
        yield from ((name, parser.description or "") for name, parser in commands.items())
        yield from (("--home", "folder of runs and presets"), ("--version", "show the version"), ("--help", "help"))
    elif (parser := commands.get(words[0])) is not None:
        if len(words) == 1:
            yield from ((verb, "") for verb in SUBCOMMANDS.get(words[0], ()))
        yield from of_command(parser, words[1:], current, home)


def of_command(parser: Parser, given: Sequence[str], current: str, home: Path) -> Candidates:
    """Candidates for an argument of a command after those that are `given`."""
    previous = given[-1] if given else ""
    if previous.startswith("--") and (values := values_of(parser, previous)) is not None:
        yield from values
    elif current.startswith("-"):
        yield from flags_of(parser)
    else:
        yield from positionals(parser, given, current, home)


def values_of(parser: Parser, flag: str) -> Candidates | None:
    """The values of a flag; None if it takes none."""
    for action in parser._actions:
        if flag in action.option_strings:
            return None if action.nargs == 0 else iter([(str(choice), "") for choice in action.choices or ()])
    path = flag.removeprefix("--").replace("-", "_")
    for field in fields_of(RunConfig) if parser.takes_fields else ():
        if field.path == path:
            choices = ("true", "false") if field.type is bool else field.choices
            return iter([(choice, field.help) for choice in choices])
    return None


def flags_of(parser: Parser) -> Candidates:
    for action in parser._actions:
        yield from ((flag, action.help or "") for flag in action.option_strings if flag.startswith("--"))
    if parser.takes_fields:
        yield from ((f"--{field.path.replace('_', '-')}", field.help) for field in fields_of(RunConfig))


def positionals(parser: Parser, given: Sequence[str], current: str, home: Path) -> Candidates:
    """Choices, presets or runs, as the argument at this place names them."""
    actions = [action for action in parser._actions if not action.option_strings]
    place = sum(1 for word in given if not word.startswith("-"))
    if not actions or (place >= len(actions) and actions[-1].nargs not in ("*", "+")):
        return
    action = actions[min(place, len(actions) - 1)]
    yield from ((str(choice), "") for choice in action.choices or ())
    named = str(action.metavar or "")
    if "PRESET" in named:
        yield from presets(home)
    if "RUN" in named:
        yield from runs(home, current, checkpoints="@" in named)


def presets(home: Path) -> Candidates:
    paths = [*preset_paths(home / "presets"), *preset_paths(shipped_directory())]
    yield from ((name, "preset") for name in dict.fromkeys(path.stem for path in paths))


def runs(home: Path, current: str, *, checkpoints: bool) -> Candidates:
    """The runs, newest first; after RUN@, its checkpoints."""
    name, at, _ = current.partition("@")
    if at and checkpoints:
        yield from ((f"{name}@{which}", "checkpoint") for which in ("last", "best", *steps(Run(home / "runs" / name))))
        return
    folder = home / "runs"
    found = [path for path in folder.iterdir() if (path / "run.toml").is_file()] if folder.is_dir() else []
    yield from ((path.name, "run") for path in sorted(found, key=lambda path: -path.stat().st_mtime))


def steps(run: Run) -> Iterable[str]:
    try:
        return [str(info.step) for info in run.checkpoints()]
    except (UserError, OSError):
        return []
