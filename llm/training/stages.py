"""Prepare what a fine-tuning stage needs before the first step, in addition to the data."""

from __future__ import annotations

from collections.abc import Generator

from llm.config import evaluation_batch_size
from llm.errors import ConfigError, Problem, UserError
from llm.events import Event, Warned
from llm.files import published_directory
from llm.model.transformer import Transformer
from llm.run.checkpoints import MODEL
from llm.run.shapes import check_weights
from llm.training.context import TrainingContext
from llm.training.dpo import FOLDER, References, check_pairs
from llm.training.grpo import Rollouts
from llm.training.tensor_file import read_tensors, write_tensors
from llm.weights import build_model, fill_model


def prepare_stage(context: TrainingContext) -> Generator[Event, None, None]:
    """Set `references` of dpo or `rollouts` of grpo; nothing for other stages. Rank 0 writes the files of the first
    step, for which the others wait."""
    if context.config.tune.stage == "dpo":
        yield from prepare_references(context)
    elif context.config.tune.stage == "grpo":
        prepare_rollouts(context)


def prepare_references(context: TrainingContext) -> Generator[Event, None, None]:
    """Set the reference log-probabilities of dpo, which are computed before the first step and read on resume."""
    references = References(context.run, context.dataset, context.batch_plan.seq_len)
    for message in check_pairs(references, context.batch_plan.seq_len):
        yield Warned(step=context.state.step, message=message)
    if context.ranks.is_first and not references.is_saved and context.state.step == 0:
        yield from references.compute(context.state.model, context.plan, evaluation_batch_size(context.config.train))
    context.ranks.broadcast(True)  # the others wait until they are saved
    references.load()
    context.references = references


def prepare_rollouts(context: TrainingContext) -> None:
    """Set the rollouts of grpo. ConfigError unless every rank gets whole groups of answers."""
    config, ranks, replies = context.config, context.ranks, context.batch_plan.global_batch_size
    if replies % (config.tune.group * ranks.world_size):
        message = f"{config.tune.group} answers to each question do not divide the {replies} answers of a step"
        advice = f" evenly among {ranks.world_size} processes" if ranks.world_size > 1 else ""
        raise ConfigError([Problem("tune.group", f"{message}{advice}; change it, or train.batch_size")])
    context.rollouts = Rollouts(
        config,
        context.state.model,
        reference_model(context),
        context.dataset.tokenizer,
        context.plan,
        ranks,
        replies=replies,
        seq_len=context.batch_plan.seq_len,
    )


def reference_model(context: TrainingContext) -> Transformer:
    """The model before this stage, from the run's folder; saved there at the first step. UserError if it is missing."""
    folder = context.run.path / FOLDER
    path = folder / MODEL
    if context.ranks.is_first and context.state.step == 0 and not path.exists():
        with published_directory(folder) as staging:
            write_tensors(staging / MODEL, context.state.model.state_dict())
    context.ranks.broadcast(True)  # the others wait until it is saved
    if not path.exists():
        raise UserError(f"{folder} is missing, and only the first step can save it; start the stage again.")
    vocab_size = context.dataset.tokenizer.vocab_size
    check_weights(path, context.config, vocab_size)
    model = build_model(context.config, vocab_size)
    fill_model(model, read_tensors(path), path)
    return model.requires_grad_(False).eval().to(context.plan.device)
