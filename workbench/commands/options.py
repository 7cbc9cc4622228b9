"""What the parsers of all commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from llm.errors import WrongUse


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints in the form of all others.

    `flags` are its long flags. Where `takes_fields`, every other long flag is a field of the configuration.
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
    """A parser for one command, carried out by `run`; with `--home`, and `--json` where results are data."""
    epilog = "Any field of the configuration can be set: --train.lr 3e-4, --model.n-layer 6." if takes_fields else None
    parser: Parser = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog)
    parser.takes_fields = takes_fields
    parser.set_defaults(run_command=run)
    # SUPPRESS: a --home before the command must not be overwritten by the absence of one after it.
    parser.add_argument("--home", default=argparse.SUPPRESS, metavar="DIR", help="where runs and presets live")
    if json:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser
