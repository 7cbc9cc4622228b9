"""The argument parser of all commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from llm.errors import WrongUse

HOME_HELP = "folder of runs and presets (default: $LLM_WORKBENCH_HOME, else ~/llm-workbench)"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are `WrongUse`.

    `flags` are its long flags. With `takes_fields`, every other long flag is a configuration field.
    """

    def __init__(self, **settings: Any) -> None:
        self.flags: list[str] = []
        self.takes_fields = False
        super().__init__(**settings, allow_abbrev=False)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        self.flags += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message}; see {self.prog} --help.")


def add_command(
    subparsers: Any,
    name: str,
    help: str,
    run: Callable[[argparse.Namespace], int],
    *,
    json: bool = False,
    takes_fields: bool = False,
) -> Parser:
    """Add the parser of one command, which calls `run`. `json` adds `--json`."""
    epilog = "Set any configuration field by its name: --train.lr 3e-4, --model.n-layer 6." if takes_fields else None
    parser: Parser = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog)
    parser.takes_fields = takes_fields
    parser.set_defaults(run_command=run)
    # SUPPRESS: the default must not replace a --home that stands before the command.
    parser.add_argument("--home", default=argparse.SUPPRESS, metavar="DIR", help=HOME_HELP)
    if json:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def add_run(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="name of a run")


def add_device(parser: Parser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")


def add_checkpoint(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN[@STEP|@last|@best]", help="a run, at its last checkpoint or another one")
