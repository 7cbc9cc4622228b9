"""`compare` and `timelapse`: the same prompt and seed for several checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llm.events import Progress
from llm.run import Run, find_checkpoint
from workbench.chat.conversation import params_to_mapping
from workbench.commands.model_options import (
    PROMPT_HELP,
    add_sampling_options,
    engine_for,
    params_of_options,
    prompt_from,
    refuse_several,
    warn_of_changes,
)
from workbench.commands.options import Parser, add_command, add_run
from workbench.commands.output import for_stdout, number_text, print_json, say
from workbench.text import one_line

if TYPE_CHECKING:
    from llm.engine.compare import Comparison, Side
    from llm.engine.timelapse import Frame


def register(subparsers: Any) -> None:
    help = "generate text with two checkpoints from the same prompt and seed, and measure how they differ"
    comparing = add_command(subparsers, "compare", help, compare, json=True)
    comparing.usage = (
        f"{comparing.prog} RUN[@STEP] RUN[@STEP] [--prompt TEXT] [--home DIR] [--json] [--SAMPLING-PARAMETER VALUE ...]"
    )
    comparing.add_argument("first", metavar="RUN[@STEP]", help="one checkpoint")
    comparing.add_argument("second", metavar="RUN[@STEP]", help="the checkpoint to compare it with")
    add_prompt(comparing)
    help = "generate text with every checkpoint of a run from the same prompts and seed"
    lapsing = add_command(subparsers, "timelapse", help, timelapse, json=True)
    lapsing.usage = f"{lapsing.prog} RUN [--prompt TEXT ...] [--home DIR] [--json] [--SAMPLING-PARAMETER VALUE ...]"
    add_run(lapsing)
    add_prompt(lapsing, several=True)


def add_prompt(parser: Parser, *, several: bool = False) -> None:
    if several:
        help = f"{PROMPT_HELP}; repeat for several (default: the pinned prompts)"
        parser.add_argument("--prompt", action="append", metavar="TEXT", help=help)
    else:
        parser.add_argument("--prompt", default="", metavar="TEXT", help=PROMPT_HELP)
    add_sampling_options(parser)


def compare(options: argparse.Namespace) -> int:
    """Print both texts, their first difference, and the mean KL divergence of the two models."""
    found = [find_checkpoint(options.home, reference, say) for reference in (options.first, options.second)]
    params = params_of_options(found[0][0].config(), options)
    refuse_several(params, "compare")
    prompt = prompt_from(options.prompt)
    first, second = (engine_for(run, info, options.device, params.weights) for run, info in found)
    warn_of_changes(first.tokenizer, prompt)
    warn_of_changes(second.tokenizer, prompt)
    from llm.engine.compare import compare as compare_engines

    result = compare_engines((first, second), prompt, params)
    names = [f"{run.name}@{info.step}" for run, info in found]
    if options.json:
        print_json(comparison_record(result, names) | {"decode": params_to_mapping(params)})
        return 0
    for name, side in zip(names, result.sides, strict=True):
        print(f"--- {name} ({side_facts(side)})\n{for_stdout(side.text)}")
    print("--- " + first_difference(result))
    return 0


def side_facts(side: Side) -> str:
    mean = side.mean_divergence
    return f"{len(side.tokens)} tokens" + ("" if mean is None else f", mean KL to the other {number_text(mean)} nats")


def first_difference(result: Comparison) -> str:
    """The first difference of the two texts, as a sentence."""
    if result.first_token is not None:
        texts = [(*side.texts, "")[min(result.first_token, len(side.texts))] for side in result.sides]
        return f"first difference at token {result.first_token + 1}: {one_line(texts[0])!r} and {one_line(texts[1])!r}"
    if result.first_character is not None:
        return f"first difference at character {result.first_character + 1} (the tokenizers differ: no KL)"
    return "the texts are equal"


def comparison_record(result: Comparison, names: list[str]) -> dict[str, Any]:
    sides = [
        {"checkpoint": name, "mean_divergence": side.mean_divergence} | asdict(side)
        for name, side in zip(names, result.sides, strict=True)
    ]
    return asdict(result) | {"sides": sides}


def timelapse(options: argparse.Namespace) -> int:
    """Print the text of each checkpoint, oldest first."""
    run = Run.open(options.home, options.run)
    config = run.config()
    params = params_of_options(config, options)
    refuse_several(params, "timelapse")
    from llm.engine.timelapse import pinned_prompts
    from llm.engine.timelapse import timelapse as frames_of
    from llm.tokenizer import load_tokenizer

    given = [prompt_from(text) for text in options.prompt or ()]
    prompts = given or pinned_prompts(run) or [config.sample.prompt]
    warn_of_changes(load_tokenizer(run.path / "tokenizer"), *prompts)
    frames = frames_of(run, prompts, params, device=options.device)
    if options.json:
        records = collect_frames(frames, len(prompts) * len(run.checkpoints()))
        print_json({"run": run.name, "decode": params_to_mapping(params), "frames": records})
        return 0
    for frame in frames:
        loss = frame.metrics.get("validation_loss")
        facts = f" (validation loss {number_text(loss)})" if loss is not None else ""
        text = f"({frame.problem})" if frame.problem else frame.prompt + frame.text
        print(f"--- {run.name}@{frame.step}{facts}\n{for_stdout(text)}", flush=True)
    return 0


def collect_frames(frames: Iterator[Frame], total: int) -> list[dict[str, Any]]:
    """All `total` frames as records, with progress on stderr."""
    from workbench.commands.progress import progress_reporter

    found = []
    with progress_reporter() as reporter:
        for frame in frames:
            found.append(asdict(frame))
            reporter.report(Progress(stage="Generating", done=len(found), total=total, unit="texts"))
    return found
