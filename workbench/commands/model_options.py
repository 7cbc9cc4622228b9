"""Options of the commands that generate text: sampling parameters, prompts, the engine."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from llm.config import DecodeConfig, RunConfig, WeightFormat, fields_of, with_overrides
from llm.errors import WrongUse
from llm.run import CheckpointInfo, Run
from workbench.commands.options import Parser, add_device
from workbench.commands.output import say

if TYPE_CHECKING:
    from llm.engine import Engine
    from llm.tokenizer import Tokenizer

METAVARS = {bool: "on|off", int: "N", float: "X", str: "TEXT", tuple: "LIST"}
PROMPT_HELP = "the prompt; FILE:path reads a file, - reads stdin"


def add_sampling_options(parser: Parser) -> None:
    """The device, and a flag for each sampling parameter; the defaults are those of the run."""
    add_device(parser)
    parser.add_argument("--greedy", action="store_true", help="always take the most likely token (temperature 0)")
    params = parser.add_argument_group("sampling parameters (default: as in the run)")
    for field in fields_of(DecodeConfig):
        flag = "--" + field.name.replace("_", "-")
        parser.flags.append(flag)
        optional: dict[str, Any] = {"nargs": "?", "const": "true"} if field.type is bool else {}
        help = field.help.replace("%", "%%")
        params.add_argument(flag, dest=f"param_{field.name}", metavar=METAVARS[field.type], help=help, **optional)


def params_of_options(config: RunConfig, options: argparse.Namespace) -> DecodeConfig:
    """The sampling parameters of `config`, overridden by those of the command line."""
    names = (field.name for field in fields_of(DecodeConfig))
    given = ((name, getattr(options, f"param_{name}")) for name in names)
    overrides = [(f"decode.{name}", text) for name, text in given if text is not None]
    if options.greedy:
        overrides.append(("decode.temperature", "0"))
    return with_overrides(config, overrides).decode


def prompt_from(text: str, file: str = "") -> str:
    """The prompt: `text` itself, stdin for "-", or the content of `file` or of the file in "FILE:path"."""
    from llm.engine import resolve_prompt

    if "-" in (text, file):
        return read_stdin("the prompt")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WrongUse(f"the prompt is not UTF-8 text ({error.reason}); convert it first.") from error
    return resolve_prompt(f"FILE:{file}" if file else text)


def read_stdin(what: str) -> str:
    """The text on stdin, which is called `what` in an error."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise WrongUse(f"{what} from stdin is not UTF-8 text ({error.reason}); convert it first.") from error


def warn_of_changes(tokenizer: Tokenizer, *prompts: str) -> None:
    """Warn on stderr where the tokenizer changes a prompt."""
    for changes in dict.fromkeys(map(tokenizer.prompt_changes, prompts)):
        if changes:
            say(f"warning: {changes}")


def refuse_several(params: DecodeConfig, command: str) -> None:
    """WrongUse where `num_samples` is above 1 in a command that writes one text per prompt."""
    if params.num_samples > 1:
        raise WrongUse(f"{command} writes one text per prompt and checkpoint; leave --num-samples at 1.")


def engine_for(run: Run, info: CheckpointInfo, device: str, weights: WeightFormat = "auto") -> Engine:
    """An engine on a checkpoint; `weights` as `decode.weights`."""
    from llm.device import choose_device
    from llm.engine import Engine, is_fastest_on_one_thread, use_one_thread
    from llm.weights import load_model

    model, tokenizer = load_model(run, info, choose_device(device))
    if is_fastest_on_one_thread(model):
        use_one_thread()
    return Engine(model, tokenizer, weights=weights)
