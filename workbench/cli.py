"""`llm-workbench`: opens the workbench, or runs one command.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 wrong use, 130 and 143 interrupted
(after saving). Importing this module and printing help loads neither torch nor textual.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from llm.config import default_home
from llm.config.overrides import split_overrides
from llm.environment import configure_process
from llm.errors import UserError, WrongUse, reason_of
from llm.files import expand_user, is_utf8
from llm.memory import check_memory_for_torch, to_memory_shortage
from llm.names import did_you_mean
from llm.reader import TooManyOpenFiles
from llm.streams import repair_streams
from workbench.commands import (
    bench,
    compare,
    completion,
    data,
    doctor,
    evaluate,
    interop,
    open_app,
    plan,
    presets,
    runs,
    sample,
    serve,
    sft,
    stop,
    submit,
    tokenizer,
    train,
)
from workbench.commands.options import HOME_HELP, Parser
from workbench.commands.output import say
from workbench.commands.version import print_version

MODULES = (
    *(train, sft, stop, submit, plan, sample, open_app, serve, compare, evaluate, runs, presets, data, tokenizer),
    *(interop, bench, doctor, completion),
)
TORCH_COMMANDS = frozenset({
    "train", "resume", "fork", "sft", "dpo", "grpo", "sample", "serve", "compare", "timelapse", "eval", "bench",
    "doctor", "export", "import",
})  # fmt: skip
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_ERRORS = FULL | {errno.EROFS, errno.EIO}
DESCRIPTION = "Train a language model from scratch in your terminal, watch it learn, and talk to it."
EPILOG = (
    "Without a command, the workbench opens. Name a checkpoint RUN, RUN@last, RUN@best or RUN@STEP. Set any "
    "configuration field by its name: --train.lr 3e-4, --model.n-layer 6, --model.bias."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    repair_streams()
    configure_process()
    try:
        status = run_command(given)
        sys.stdout.flush()
    except UserError as error:
        say(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        say("interrupted.")
        return 130
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost caller: no traceback is shown
        return report_failure(error, given)
    return status


def report_failure(error: Exception, given: Sequence[str]) -> int:
    """Print what went wrong (disk, memory, or a bug); returns 1."""
    if (shortage := to_memory_shortage(error)) is not None:
        say(str(shortage))
    elif isinstance(error, OSError):  # a few have no number, such as those of pyarrow and shutil
        if error.errno in DISK_ERRORS:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # drop buffered output, which would be written again at exit
        if error.errno in FULL:
            say(f"no space left on the disk for {error.filename or 'the output'}; free some space, then try again.")
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            say(str(TooManyOpenFiles(Path(error.filename or "a file"))))
        else:
            say(f"{error.filename or 'a file'} cannot be used ({reason_of(error)}); fix that, then try again.")
    else:
        report_bug(error, given)
    return 1


def report_bug(error: Exception, given: Sequence[str]) -> None:
    """Write the traceback to a log and print where it is."""
    log = save_traceback(home_of(given))
    say(f"unexpected error ({type(error).__name__}: {error}); this is a bug: please report it with {log}.")


def run_command(given: list[str]) -> int:
    """Parse and dispatch. SystemExit from argparse's --help passes through."""
    set_encodings()
    parser, commands = build_parser()
    if without_home(given)[:1] == ["help"]:  # a common way to ask for help
        given = [*without_home(given)[1:2], "--help"]
    if without_home(given)[:1] == ["--version"]:
        return print_version(without_home(given)[1:], home_of(given))
    command = next((word for word in without_home(given) if not word.startswith("-")), None)
    for word in given[: given.index(command)] if command else ():
        if word.startswith("--") and word.partition("=")[0] not in parser.flags:
            raise WrongUse(unknown_flag(word, None, parser.flags))
    if command is not None and command not in commands:
        advice = did_you_mean(command, commands) or "see llm-workbench --help."
        raise WrongUse(f'there is no command "{command}"; {advice}')
    overrides: list[tuple[str, str]] = []
    if command is not None and commands[command].takes_fields:
        at = given.index(command) + 1
        own, overrides = split_overrides(given[at:], commands[command].flags)
        given = given[:at] + own
    options, unknown = parser.parse_known_args(given)
    if unknown:
        raise WrongUse(unknown_flag(unknown[0], command, commands[command].flags if command else parser.flags))
    options.overrides = overrides
    options.home = expand_user(options.home) if options.home else default_home()
    check_home(options.home)
    if command is None:
        return open_app.open_workbench(options.home, None)
    if command in TORCH_COMMANDS:
        check_memory_for_torch()
    status: int = options.run_command(options)
    return status


def check_home(home: Path) -> None:
    """WrongUse where nothing can be kept in `home`."""
    advice = "set a folder with --home or $LLM_WORKBENCH_HOME."
    if home.exists() and not home.is_dir():
        raise WrongUse(f"the home {home} is a file; {advice}")
    if not is_utf8(str(home.absolute())):  # torch, safetensors and TOML take no other paths
        raise WrongUse(f"the home {home.absolute()} is a name that is not UTF-8 text; {advice}")


def set_encodings() -> None:
    """Files and pipes are UTF-8 in any locale, but for bytes of paths, which stay as they are; a terminal replaces what
    it cannot show."""
    if isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and those of the commands by name."""
    parser = Parser(prog="llm-workbench", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--home", default=None, metavar="DIR", help=HOME_HELP)
    help = "show the version and exit; with --json, everything a bug report needs"
    parser.add_argument("--version", action="store_true", help=help)
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)
    for module in MODULES:
        module.register(subparsers)
    return parser, dict(subparsers.choices)


def unknown_flag(word: str, command: str | None, flags: Sequence[str]) -> str:
    """The error message for an unknown argument."""
    program = f"llm-workbench {command}" if command else "llm-workbench"
    advice = did_you_mean(word.partition("=")[0], flags) or f"see {program} --help."
    return f'{program} does not take "{word}"; {advice}'


def without_home(given: Sequence[str]) -> list[str]:
    """The arguments without `--home DIR`, since DIR could be mistaken for a command."""
    if "--home" in given:
        at = given.index("--home")
        return [*given[:at], *given[at + 2 :]]
    return list(given)


def home_of(given: Sequence[str]) -> Path:
    """The home of a command line, without parsing the rest of it."""
    for at, argument in enumerate(given):
        if argument == "--home" and at + 1 < len(given):
            return expand_user(given[at + 1])
        if argument.startswith("--home="):
            return expand_user(argument.removeprefix("--home="))
    try:
        return default_home()
    except WrongUse:
        return Path(tempfile.gettempdir())


def save_traceback(home: Path) -> Path:
    """Write the current traceback to a new file in `home`, or in the temporary directory; returns its path."""
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (home / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return folder / name
    traceback.print_exc()
    return Path("the lines above")


if __name__ == "__main__":
    sys.exit(main())
