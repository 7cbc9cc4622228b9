"""`eval`: how well a checkpoint predicts its held-out text."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from llm.config import resolve_seq_len
from llm.errors import UserError
from llm.files import read_json
from llm.run import find_checkpoint
from workbench.commands.options import add_command
from workbench.commands.output import print_json, say


def register(subparsers: Any) -> None:
    parser = add_command(subparsers, "eval", "measure a model on its held-out text", evaluate, json=True)
    parser.add_argument("run", metavar="RUN[@STEP|@last|@best]")
    parser.add_argument("--batches", type=int, default=None, help="how many batches (default: as in training; 0 = all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")


def evaluate(options: argparse.Namespace) -> int:
    """Print loss, perplexity and bits per byte under the names they have in the events."""
    run, info = find_checkpoint(options.home, options.run)
    config = run.config()

    from llm.checkpoint import STATE, load_model
    from llm.data.prepare import prepare
    from llm.device import make_plan
    from llm.evaluate import evaluate as measure
    from workbench.commands.narrator import drained

    dataset = drained(prepare(config, options.home))
    plan = make_plan(replace(config.train, device=options.device))
    model, tokenizer = load_model(run, info, plan.device)
    if dataset.tokenizer.fingerprint() != tokenizer.fingerprint():
        raise UserError(
            f"the text of {run.name} has changed since it was trained (corpus {config.data.corpus}), and its tokenizer "
            "with it; bring back the old text."
        )
    if read_json(info.path / STATE).get("data_fingerprint") != dataset.fingerprint:
        say(f"warning: the text of {run.name} has changed since it was trained; this measures it on the text of now.")
    result = measure(
        model,
        dataset.validation,
        tokenizer,
        plan,
        seq_len=resolve_seq_len(config.train, config.model),
        batch_size=config.train.batch_size,
        batches=config.evaluate.batches if options.batches is None else max(0, options.batches),
    )
    metrics = {
        "validation_loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "tokens": result.tokens,
    }
    if options.json:
        print_json({"name": run.name, "step": info.step} | metrics)
    else:
        print(f"{run.name} at step {info.step}, {result.tokens:,} tokens of held-out text")
        print(f"validation loss  {result.loss:.4f} nats per token")
        print(f"perplexity       {result.perplexity:.2f}")
        print(f"bits per byte    {result.bits_per_byte:.4f}")
    return 0
