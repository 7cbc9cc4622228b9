"""Start a fine-tuning stage: a new run from another run's checkpoint, with the special tokens of the chat template.

The new run starts at step 0. The new tokens get rows in the embedding and the head, and `model.embedding_conv` may add
a convolution to a model without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from llm.config import ModelConfig, RunConfig, diff, resolve_model, with_overrides
from llm.config.overrides import merge_overrides
from llm.errors import ConfigError, Problem, WrongUse
from llm.files import is_filled, published_directory, write_json
from llm.model.adapters import VOCABULARY_WEIGHTS
from llm.model.adapters import initial_values as initial_adapters
from llm.model.initialize import initial_values
from llm.run import Run
from llm.run.checkpoints import ADAPTER, BASE, MODEL, OPTIMIZER, STATE, verify, write_manifest
from llm.run.fork import Parent, create_child, keep_tokenizer, stem_of, why_unchangeable
from llm.tokenizer import Tokenizer, load_tokenizer
from llm.tokenizer.chat_template import with_template
from llm.training.checkpoint import FORMAT
from llm.training.tensor_file import read_tensors, write_tensors
from llm.weights import read_weights

ROW_SEED = 1
CONVOLUTION = "model.embedding_conv"
STAGE_DEFAULTS = (
    ("data.order", "epoch"),
    ("data.format", "auto"),
    ("data.validation", ""),
    ("train.epochs", "3"),
    ("train.lr_multiplier", "0.3"),
    ("schedule.warmup_ratio", "0.03"),
    ("evaluate.every", "50"),
    ("evaluate.core_every", "0"),
    ("evaluate.answers_every", "0"),
    ("sample.every", "50"),
    ("sample.prompt", ""),
)
"""Default settings of a stage. All other settings default to those of the parent."""
GRPO_DEFAULTS = (
    ("train.steps", "200"),
    ("train.batch_size", "64"),
    ("train.accumulation", "1"),
    ("train.total_batch_tokens", "0"),
    ("train.lr_multiplier", "0.1"),
    ("tune.beta", "0.04"),
    ("evaluate.answers_every", "20"),
    ("tune.lora_rank", "0"),
)
"""Default settings of grpo, which override STAGE_DEFAULTS."""
LORA_DEFAULTS = (("train.lr_multiplier", "1"),)
"""Default settings of sft with LoRA, which override STAGE_DEFAULTS: adapters need a higher learning rate than full
fine-tuning (docs/performance.md)."""
CONVERSATIONS = {"sft": Path("conversations", "good.jsonl"), "dpo": Path("conversations", "preferences.jsonl")}
"""Where the home stores what was marked in a chat: replies marked good or corrected, and corrections as preferences."""


@dataclass(frozen=True)
class Stage:
    """A stage to start: the parent's checkpoint, the configuration and the tokenizer of the new run."""

    parent: Parent
    config: RunConfig
    tokenizer: Tokenizer
    keep_optimizer: bool

    @property
    def new_tokens(self) -> int:
        """The special tokens that the parent's tokenizer lacks."""
        return self.tokenizer.vocab_size - load_tokenizer(self.parent.run.path / "tokenizer").vocab_size


def plan_stage(
    home: Path,
    parent: Parent,
    overrides: Sequence[tuple[str, str]],
    *,
    stage: str = "sft",
    keep_optimizer: bool = False,
) -> Stage:
    """The stage with `overrides`, checked. `data.corpus` defaults to what was marked in a chat; for grpo, which uses
    the corpus only for evaluation, to that of an sft parent, else to the embedded dialogues.

    ConfigError where the weights of `parent` cannot be trained with it.
    """
    rank = dict(overrides).get("tune.lora_rank", str(parent.config.tune.lora_rank))
    more = {"grpo": GRPO_DEFAULTS, "sft": LORA_DEFAULTS if rank != "0" else ()}.get(stage, ())
    defaults = merge_overrides(dict(STAGE_DEFAULTS), more)
    base = with_overrides(parent.config, [*defaults.items(), ("tune.stage", stage)])
    config = with_overrides(base, [*corpus_override(home, parent, stage, overrides), *overrides])
    return stage_with(home, parent, config, keep_optimizer=keep_optimizer)


def stage_with(home: Path, parent: Parent, config: RunConfig, *, keep_optimizer: bool = False) -> Stage:
    """The stage with a complete configuration, checked. ConfigError where the weights of `parent` cannot be trained
    with it."""
    problems = [
        Problem(path, f"cannot change from {before} to {after}: {why}; start a new run for that")
        for path, before, after in diff(parent.config, config)
        if (why := why_unchangeable(path, parent.config)) and not adds_convolution(parent, config, path)
    ]
    if problems:
        raise ConfigError(problems)
    if keep_optimizer:
        check_optimizer(parent, config)
    tokenizer = with_template(load_tokenizer(parent.run.path / "tokenizer"))
    stage = Stage(parent, with_vocabulary(home, parent, config, tokenizer), tokenizer, keep_optimizer)
    rows = stage.new_tokens if config.tune.lora_rank else 0
    return replace(stage, config=replace(stage.config, tune=replace(config.tune, lora_rows=rows)))


def adds_convolution(parent: Parent, config: RunConfig, path: str) -> bool:
    """Whether the field is `model.embedding_conv`, and the stage can give the parent's model its first convolution:
    with new weights, which neither a kept optimizer state nor adapters know."""
    return path == CONVOLUTION and not parent.config.model.embedding_conv and not config.tune.lora_rank


def corpus_override(
    home: Path, parent: Parent, stage: str, overrides: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """`data.corpus` where it is not given, as `plan_stage` says. WrongUse if no replies were marked in a chat."""
    if any(path == "data.corpus" for path, _ in overrides):
        return []
    if stage == "grpo":
        return [("data.corpus", parent.config.data.corpus if parent.config.tune.stage == "sft" else "dialogues")]
    marked = home / CONVERSATIONS[stage]
    if not is_filled(marked):
        what, how = ("preferences", "correct") if stage == "dpo" else ("conversations", "mark")
        raise WrongUse(
            f"There are no {what} to train on; {how} replies in the chat, or name a file with --data.corpus FILE."
        )
    return [("data.corpus", str(marked))]


def check_optimizer(parent: Parent, config: RunConfig) -> None:
    """WrongUse unless the optimizer state of `parent` fits `config`."""
    if OPTIMIZER not in parent.files:
        raise WrongUse(f"{parent.reference} has no optimizer state to keep; leave out --keep-optimizer.")
    if parent.config.tune.lora_rank or config.tune.lora_rank:
        raise WrongUse("Adapters start with a new optimizer state; leave out --keep-optimizer.")
    if parent.config.model.embedding_conv != config.model.embedding_conv:
        raise WrongUse(f"{CONVOLUTION} adds weights without an optimizer state; leave out --keep-optimizer.")
    changed = [path for path, _, _ in diff(parent.config, config) if path.startswith("optim.")]
    if changed:
        raise WrongUse(f"{changed[0]} changes the optimizer, so its state cannot be kept; leave out --keep-optimizer.")


def with_vocabulary(home: Path, parent: Parent, config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """`config` with the tokenizer saved in the home, and a model with a row for each of its tokens."""
    identity = str(parent.run.info().get("id", ""))[:8]
    kept = keep_tokenizer(home, f"{parent.run.name}-{identity}-{tokenizer.fingerprint()[:8]}", tokenizer.save)
    grows = 0 < config.model.vocab_size < tokenizer.vocab_size
    model = replace(config.model, vocab_size=0) if grows else config.model
    return replace(config, tokenizer=replace(config.tokenizer, path=str(kept.resolve())), model=model)


def start_stage(home: Path, stage: Stage, *, name: str = "", stem: str = "") -> Run:
    """Create the run with its first checkpoint. `name` defaults to `stem` + `-N`, and `stem` to the names of the parent
    and the stage. No run remains after an error."""
    parent, config = stage.parent, stage.config
    if stage.keep_optimizer:
        verify(parent.checkpoint)

    def fill(run: Run) -> None:
        stage.tokenizer.save(run.path / "tokenizer")
        write_first_checkpoint(stage, run)

    suffix = "" if stem else f"-{config.tune.stage}"
    return create_child(home, parent, config, fill, name=name, stem=stem or stem_of(parent.run.name), suffix=suffix)


def write_first_checkpoint(stage: Stage, run: Run) -> None:
    """Publish the parent's weights, and its optimizer state if that is kept, with rows for all tokens, as step 0. With
    LoRA the weights are written once, as the base of the run, and step 0 holds the adapters."""
    parent, tune, vocab_size = stage.parent, stage.config.tune, stage.tokenizer.vocab_size
    known = load_tokenizer(parent.run.path / "tokenizer").vocab_size
    model = resolve_model(stage.config.model, vocab_size)
    weights = {
        name: with_rows(tensor, model.vocab_size, known) if name in VOCABULARY_WEIGHTS else tensor
        for name, tensor in read_weights(parent.checkpoint, parent.config, known).items()
    }
    if model.embedding_conv and not parent.config.model.embedding_conv:
        weights |= new_convolution(model, stage.config.train.seed)
    file, base = MODEL, {}
    if tune.lora_rank:
        file, base = ADAPTER, {"name": parent.reference, "sha256": write_base(run, parent, weights)}
        weights = initial_adapters(model, tune, weights, vocab_size, stage.config.train.seed)
    with published_directory(run.checkpoint_directory / "step-00000000") as staging:
        sums = {file: write_tensors(staging / file, weights)}
        if stage.keep_optimizer:
            state = {
                name: pad_rows(tensor, model.vocab_size) if name.endswith(VOCABULARY_WEIGHTS) else tensor
                for name, tensor in read_tensors(parent.checkpoint.path / OPTIMIZER).items()
            }
            sums[OPTIMIZER] = write_tensors(staging / OPTIMIZER, state)
        write_json(staging / STATE, {"format": FORMAT})
        write_manifest(staging, 0, {}, sums, base)


def new_convolution(model: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Initial weights of a convolution over the embeddings, by their name."""
    name, size = "embedding_conv.weight", torch.Size((model.embedding_conv - 1, model.d_model))
    return {name: initial_values(name, size, model, torch.Generator().manual_seed(seed))}


def write_base(run: Run, parent: Parent, weights: Mapping[str, Tensor]) -> str:
    """Write the base model of the adapters of `run`; returns the sha256 of the file.

    A copy, so that the run does not depend on the parent, which may be deleted. Not a hard link: the rows of new tokens
    make it another file, and run directories are copied between disks.
    """
    with published_directory(run.path / BASE) as staging:
        sha256 = write_tensors(staging / MODEL, weights)
        write_manifest(staging, parent.checkpoint.step, {}, {MODEL: sha256})
    return sha256


def with_rows(weight: Tensor, rows: int, known: int) -> Tensor:
    """`weight` (V, d) extended to `rows` rows. Those from `known` on are new: the mean of the first `known` rows, plus
    noise of a tenth of their standard deviation, so that no two are equal (Hewitt 2021, "Initializing New Word
    Embeddings")."""
    padded = pad_rows(weight, rows)
    mean, std = weight[:known].mean(0), weight[:known].std(0, correction=0)
    noise = torch.randn(rows - known, weight.shape[1], generator=torch.Generator().manual_seed(ROW_SEED))
    padded[known:] = mean + 0.1 * std * noise.to(weight.dtype)
    return padded


def pad_rows(tensor: Tensor, rows: int) -> Tensor:
    """A copy of `tensor`, padded with rows of zeros to `rows` rows if it has fewer."""
    padded = tensor.new_zeros(max(rows, len(tensor)), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    return padded
