"""`eval`: validation loss, exact answers or CORE metric of a checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from llm.config import RunConfig, WeightFormat, evaluation_batch_size, resolve_seq_len
from llm.errors import UserError, WrongUse
from llm.run import CheckpointInfo, Run, find_checkpoint
from llm.run.checkpoints import read_state
from workbench.commands.harness import evaluate_harness
from workbench.commands.options import add_checkpoint, add_command, add_device
from workbench.commands.output import print_json, print_table, say
from workbench.text import one_line

if TYPE_CHECKING:
    from llm.data.tokens.dataset import Dataset
    from llm.model.packed import PackedTransformer
    from llm.model.transformer import Transformer


def register(subparsers: Any) -> None:
    parser = add_command(
        subparsers, "eval", "measure the validation loss, exact answers or the CORE metric", evaluate, json=True
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--batches", type=int, default=None, metavar="N", help="validation batches (default: as in training; 0 = all)"
    )
    help = "measure on the validation part of this corpus, given as data.corpus, instead of that of the run"
    parser.add_argument("--corpus", default="", metavar="CORPUS", help=help)
    help = "measure the CORE metric on the eval bundle in PATH (default: the downloaded one)"
    parser.add_argument("--core", nargs="?", const="", default=None, metavar="PATH", help=help)
    help = "run these tasks of the lm-evaluation-harness: names, or folders of task files, separated by commas"
    parser.add_argument("--harness", default="", metavar="TASKS", help=help)
    help = "with --core and --harness: at most N questions per task (0 = all)"
    parser.add_argument("--examples", type=int, default=0, metavar="N", help=help)
    help = "the share of exact answers to held-out questions of the built-in dialogues, by kind of question"
    parser.add_argument("--answers", action="store_true", help=help)
    help = "with --answers: questions per set (default 500)"
    parser.add_argument("--questions", type=int, default=500, metavar="N", help=help)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="with --answers: seed of the questions")
    help = "int8, int4: evaluate the weights as decode.weights uses them"
    parser.add_argument("--weights", choices=get_args(WeightFormat), default="auto", help=help)
    add_device(parser)


def evaluate(options: argparse.Namespace) -> int:
    if (options.batches or 0) < 0 or options.examples < 0:
        raise WrongUse("--batches and --examples must be 0 (all) or more.")
    if (options.core is not None) + options.answers + bool(options.harness) > 1:
        raise WrongUse("--core, --answers and --harness are different measurements; run eval once for each.")
    if options.corpus and (options.core is not None or options.answers or options.harness):
        raise WrongUse("--corpus is for the validation loss; --core, --answers and --harness have their own texts.")
    if options.core is not None:
        return evaluate_core(options)
    if options.answers:
        return evaluate_answers(options)
    if options.harness:
        return evaluate_harness(options)
    return evaluate_loss(options)


def evaluate_loss(options: argparse.Namespace) -> int:
    """Print loss, perplexity and bits per byte; --json uses the names of the events."""
    run, info = find_checkpoint(options.home, options.run, say)
    config = run.config()

    from llm.device import make_plan
    from llm.training.evaluate import evaluate as measure
    from llm.weights import load_model
    from workbench.commands.progress import with_progress

    if options.corpus:
        config = with_corpus(config, options.corpus, run)
    dataset = dataset_of(run, info, config, options.home, is_own=not options.corpus)
    plan = make_plan(replace(config.train, device=options.device))
    model, tokenizer = load_model(run, info, plan.device)
    result = with_progress(
        measure(
            weights_to_evaluate(model, options.weights),
            dataset.validation,
            tokenizer,
            plan,
            seq_len=resolve_seq_len(config.train, config.model),
            batch_size=evaluation_batch_size(config.train),
            batches=config.evaluate.batches if options.batches is None else options.batches,
            packing=config.tune.packing,
        )
    )
    if options.json:
        print_json({"name": run.name, "step": info.step} | result.metrics | {"tokens": result.tokens})
    else:
        print(f"{run.name} at step {info.step}, {result.tokens:,} validation tokens of {one_line(config.data.corpus)}")
        print(f"validation loss  {result.loss:.4f} nats per token")
        print(f"perplexity       {result.perplexity:.2f}")
        print(f"bits per byte    {result.bits_per_byte:.4f}")
    return 0


def with_corpus(config: RunConfig, corpus: str, run: Run) -> RunConfig:
    """`config` with another text, for the tokenizer of the run."""
    from llm.tokenizer import load_tokenizer

    folder = run.path / "tokenizer"
    kind: Any = load_tokenizer(folder).kind
    return replace(
        config,
        data=replace(config.data, corpus=corpus, validation="", format="auto", order="random"),
        tokenizer=replace(config.tokenizer, kind=kind, path=str(folder.absolute())),
    )


def dataset_of(run: Run, info: CheckpointInfo, config: RunConfig, home: Path, *, is_own: bool) -> Dataset:
    """The data of a run (`is_own`) or of another corpus, prepared if it is not there. UserError where its tokenizer
    would be another one than that of the run; a warning where only the text has changed."""
    from llm.data.tokens.prepare import prepare
    from llm.tokenizer import load_tokenizer
    from workbench.commands.progress import with_progress

    trained_on = str(read_state(info).get("data_fingerprint", "")) if is_own else ""
    dataset = with_progress(prepare(config, home, trained_on))
    if dataset.tokenizer.fingerprint() != load_tokenizer(run.path / "tokenizer").fingerprint():
        raise UserError(
            f"the corpus of {run.name} ({config.data.corpus}) has changed since training, and with it the tokenizer; "
            "restore the old text."
        )
    if trained_on not in ("", dataset.fingerprint):  # "": an imported model
        say(f"warning: the corpus of {run.name} has changed since training; the result is for the current text.")
    return dataset


def weights_to_evaluate(model: Transformer, weights: WeightFormat) -> Transformer | PackedTransformer:
    """`model`, or its copy with matrices in `weights`. WrongUse where the device has no such matrices."""
    from llm.engine.weights import inference_model

    return model if weights == "auto" else inference_model(model, weights=weights)


def evaluate_core(options: argparse.Namespace) -> int:
    """Print the CORE metric and the accuracy of each task."""
    run, info = find_checkpoint(options.home, options.run, say)
    config = run.config()

    from llm.core.bundle import bundle_folder, load_bundle
    from llm.core.score import evaluate_core as measure
    from llm.device import make_plan
    from llm.weights import load_model
    from workbench.commands.progress import with_progress

    tasks = load_bundle(bundle_folder(options.core, options.home))
    plan = make_plan(replace(config.train, device=options.device))
    model, tokenizer = load_model(run, info, plan.device)
    tokens = evaluation_batch_size(config.train) * resolve_seq_len(config.train, config.model)
    examples = max(0, options.examples)
    result = with_progress(measure(model, tokenizer, tasks, plan, batch_tokens=tokens, max_examples=examples))
    assert result is not None  # nothing stops it
    if options.json:
        metrics = {"core_metric": result.core_metric, "tasks": result.accuracy, "centred": result.centred}
        print_json({"name": run.name, "step": info.step} | metrics | {"questions": result.examples})
        return 0
    print(f"{run.name} at step {info.step}, {result.examples:,} questions")
    rows = [(task.label, f"{result.accuracy[task.label]:.4f}", f"{result.centred[task.label]:+.4f}") for task in tasks]
    print_table(("task", "accuracy", "centered"), [*rows, ("CORE", "", f"{result.core_metric:+.4f}")])
    return 0


def evaluate_answers(options: argparse.Namespace) -> int:
    """Print the share of exact answers, by kind of question, in wordings that training has and in new ones."""
    if options.questions < 1:
        raise WrongUse("--questions must be 1 or more.")
    run, info = find_checkpoint(options.home, options.run, say)

    from llm.answers import measure_answers
    from llm.data.text.dialogues import KNOWN_WORDINGS, NEW_WORDINGS, questions
    from llm.tokenizer.chat_template import chat_template
    from workbench.commands.model_options import engine_for
    from workbench.commands.progress import with_progress

    engine = engine_for(run, info, options.device)
    template = chat_template(engine.tokenizer, run.config().data.corpus)
    if template is None:
        raise UserError(f"{run.name} has no chat template; fine-tune it first: llm-workbench sft {run.name}")
    known, new = (
        with_progress(measure_answers(engine, template, questions(split, options.questions, options.seed)))
        for split in (KNOWN_WORDINGS, NEW_WORDINGS)
    )
    if options.json:
        record = {"name": run.name, "step": info.step, "questions": options.questions, "seed": options.seed}
        print_json(record | {"known_wordings": known.to_record(), "new_wordings": new.to_record()})
        return 0
    print(f"{run.name} at step {info.step}, {options.questions:,} held-out questions of each set, seed {options.seed}")
    rows = [
        (kind, f"{known.accuracy_of(kind):.1%}", f"{new.accuracy_of(kind):.1%}") for kind in known.asked | new.asked
    ]
    print_table(
        ("kind", "known wordings", "new wordings"), [*rows, ("all", f"{known.accuracy:.1%}", f"{new.accuracy:.1%}")]
    )
    return 0
