"""`sample`: generate text from a prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llm.config import DecodeConfig
from llm.errors import WrongUse
from llm.run import CheckpointInfo, Run, find_checkpoint
from workbench.chat.conversation import params_to_mapping
from workbench.commands.model_options import (
    PROMPT_HELP,
    add_sampling_options,
    engine_for,
    params_of_options,
    prompt_from,
    warn_of_changes,
)
from workbench.commands.options import add_checkpoint, add_command
from workbench.commands.output import for_stdout, print_json, say

if TYPE_CHECKING:
    from llm.engine import Done, Piece

BETWEEN_SAMPLES = "\n---\n"


def register(subparsers: Any) -> None:
    help = "generate text from a prompt"
    parser = add_command(subparsers, "sample", help, sample, json=True)
    parser.usage = (
        f"{parser.prog} RUN[@STEP|@last|@best] [--prompt TEXT | --prompt-file FILE | --jsonl FILE] "
        "[--home DIR] [--json] [--SAMPLING-PARAMETER VALUE ...]"
    )
    add_checkpoint(parser)
    prompts = parser.add_mutually_exclusive_group()
    jsonl_help = 'many prompts: one JSON object per line, like {"prompt": "Once", "seed": 2}; - reads stdin'
    prompts.add_argument("--prompt", default="", metavar="TEXT", help=PROMPT_HELP)
    prompts.add_argument("--prompt-file", default="", metavar="FILE", help="read the prompt from a file; - reads stdin")
    prompts.add_argument("--jsonl", default="", metavar="FILE", help=jsonl_help)
    parser.flags += ["--prompt", "--prompt-file", "--jsonl"]
    parser.add_argument(
        "--explain", action="store_true", help="show the distribution of every token after each sampling step"
    )
    add_sampling_options(parser)


def sample(options: argparse.Namespace) -> int:
    """Print the generated text."""
    run, info = find_checkpoint(options.home, options.run, say)
    params = params_of_options(run.config(), options)
    if options.jsonl and options.explain:
        raise WrongUse("--explain takes one prompt; leave out --jsonl.")
    prompt = "" if options.jsonl else prompt_from(options.prompt, options.prompt_file)
    engine = engine_for(run, info, options.device, params.weights)
    warn_of_changes(engine.tokenizer, prompt)
    if options.jsonl:
        from workbench.commands.sample_jsonl import sample_lines

        sample_lines(run, info, engine, options.jsonl, params)
        return 0
    if options.explain:
        from workbench.commands.explain import explain

        explain(run, info, engine, prompt, params, as_json=options.json)
        return 0
    reply = engine.stream(prompt, params)
    if options.json:
        print_json(reply_record(run, info, prompt, params, reply))
    elif params.num_samples == 1:
        print_streaming(reply)
    else:
        texts = collect_texts(reply)[0]
        sys.stdout.write(BETWEEN_SAMPLES.join(map(for_stdout, texts)) + "\n")
    return 0


def print_streaming(reply: Iterator[Piece | Done]) -> None:
    """Print one sample while it is generated."""
    from llm.engine import Piece

    for piece in reply:
        if isinstance(piece, Piece) and piece.text:
            sys.stdout.write(for_stdout(piece.text))
            sys.stdout.flush()
    if sys.stdout.isatty():
        sys.stdout.write("\n")


def collect_texts(reply: Iterator[Piece | Done]) -> tuple[list[str], Done]:
    """The texts of all samples, and the end of the reply. A beam search may return fewer than `num_samples`."""
    from llm.engine import Piece

    texts: dict[int, str] = {}
    end: Done | None = None
    for piece in reply:
        if isinstance(piece, Piece):
            texts[piece.sample] = texts.get(piece.sample, "") + piece.text
        else:
            end = piece
    assert end is not None, "a reply ends with Done"
    return [texts.get(sample, "") for sample in range(len(end.reasons))], end


def reply_record(
    run: Run, info: CheckpointInfo, prompt: str, params: DecodeConfig, reply: Iterator[Piece | Done]
) -> dict[str, Any]:
    """A reply as a record, with everything needed to reproduce it."""
    texts, end = collect_texts(reply)
    return {
        "run": run.name,
        "step": info.step,
        "prompt": prompt,
        "samples": [{"text": text, "reason": reason} for text, reason in zip(texts, end.reasons, strict=True)],
        "tokens": end.tokens,
        "prompt_tokens": end.prompt_tokens,
        "seconds": end.seconds,
        "time_to_first_token": end.time_to_first_token,
        "tokens_per_second": end.tokens_per_second,
        "decode": params_to_mapping(params),
    }
