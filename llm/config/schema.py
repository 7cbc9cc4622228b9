"""The configuration of a run: one tree of frozen dataclasses, every field documented where it is declared.

A field's metadata carries its help text, its bounds, whether it may be changed while training (`live`) and whether a
resumed run may differ in it (`safe`). Everything that shows or checks a configuration (TOML files, the command line,
the forms of the workbench) reads this metadata; nothing repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from llm.config.optimizers import OPTIMIZER_INFO


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    safe: bool = False,
) -> Any:
    """Declare one configuration field. `low` and `high` are inclusive bounds, `above` is an exclusive lower bound.

    `choices` are the allowed values of a string; a Literal type lists them itself.
    """
    bounds = {"low": low, "high": high, "above": above, "choices": choices}
    return field(default=default, metadata={"help": help, **bounds, "live": live, "safe": safe or live})


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes token ids."""

    kind: Literal["byte", "char", "bpe", "tiktoken", "sentencepiece", "gpt2-files"] = setting(
        "bpe", "byte: 256 ids; char: one id per character; bpe: trained here; the others load what somebody else made."
    )
    vocab_size: int = setting(2048, "Ids of a trained tokenizer, special tokens included.", low=1, high=2**31)
    encoding: str = setting("gpt2", "Name of the tiktoken encoding (kind tiktoken).")
    path: str = setting(
        "", "An existing tokenizer to load: a directory written here, a .model file, or vocab.json's folder."
    )
    special_tokens: tuple[str, ...] = setting(
        ("<|endoftext|>",), "Special tokens; the first one separates documents and ends a text."
    )
    train_mb: float = setting(8.0, "How much of the corpus a trained tokenizer reads, in megabytes.", above=0)
    train_sample: Literal["spread", "beginning"] = setting(
        "spread", "Which part of the corpus that is: pieces evenly spread over all of it, or its beginning."
    )
    pattern: str = setting(
        "ours",
        "How text is split before bytes are merged (kind bpe): ours, gpt2, gpt4, or a regular expression of your own.",
    )
    ties: Literal["ids", "bytes"] = setting(
        "ids",
        "Which of two equally frequent pairs is merged (kind bpe): the one of smaller ids, or of greater bytes, as "
        "CS336 has it.",
    )


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how batches are cut from it."""

    corpus: str = setting(
        "stories",
        "stories, pylib, a downloaded data set (llm-workbench data lists them) or web address, or a path: a file or "
        "folder of text, JSONL, Parquet or token files, or a glob.",
    )
    validation: str = setting(
        "", "As corpus, the validation text or tokens; empty = those the corpus comes with, or a share of it."
    )
    format: Literal["auto", "text", "jsonl", "csv", "parquet", "tokens"] = setting(
        "auto",
        "What the files are; auto looks at their content. jsonl: objects, one a line or otherwise, or a list of them. "
        "Token files: .npy, .bin, encoded_tokens_chunk_K.dat.",
    )
    size_mb: float = setting(10.0, "How much of an embedded corpus to make, in megabytes.", above=0)
    seed: int = setting(1, "Seed of a generated corpus.", low=0)
    text_field: str = setting("text", "Field holding the text in JSON, CSV or Parquet.")
    validation_fraction: float = setting(0.05, "Share of the text held out for validation.", above=0, high=0.5)
    split: Literal["documents", "tail"] = setting(
        "documents", "Hold out whole documents spread over the corpus, or the last characters of it (tail)."
    )
    order: Literal["random", "epoch", "sequential", "stream"] = setting(
        "random",
        "random: windows at random starts; epoch: every window once, shuffled; sequential: in order; "
        "stream: Parquet tokenised while training, anything else in order.",
    )
    stride: int = setting(0, "Distance between window starts in epoch order; 0 = the sequence length.", low=0)
    drop_last: bool = setting(False, "Epoch order: leave out the windows that do not fill a pass's last batch.")
    streams: int = setting(
        0,
        "Stream order: row group g goes to stream g mod streams, each with rows of its own; 0 = as many as there are "
        "processes at the first step.",
        low=0,
    )
    boundary: Literal["after", "before", "none"] = setting(
        "after", "Put the separator token after each document, before it, or nowhere."
    )
    chunk_tokens: int = setting(
        0, "Keep prepared tokens as int32 files encoded_tokens_chunk_K.dat of this many; 0 = our own shards.", low=0
    )
    processes: int = setting(0, "Processes that tokenise a large corpus; 0 = one per core, 1 = none.", low=0, safe=True)


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer, composed of small layers."""

    depth: int = setting(0, "One number that sets the shape: n_layer = depth, d_model = 64·depth; 0 = off.", low=0)
    n_layer: int = setting(4, "Blocks.", low=1)
    d_model: int = setting(128, "Width of the residual stream.", low=1)
    n_head: int = setting(4, "Attention heads; must divide d_model.", low=1)
    n_kv_head: int = setting(0, "Key/value heads (grouped-query attention); 0 = n_head.", low=0)
    d_ff: int = setting(
        0, "Hidden width of the feed-forward; 0 = derived (8/3·d_model for SwiGLU, else 4·d_model).", low=0
    )
    d_ff_multiple: int = setting(32, "SwiGLU: a derived d_ff is rounded up to a multiple of this; 1 = not.", low=1)
    context: int = setting(256, "Longest sequence the model can see, in tokens.", low=1)
    vocab_size: int = setting(0, "Rows of the embedding; 0 = the tokenizer's size.", low=0)
    norm: Literal["rmsnorm", "layernorm"] = setting("rmsnorm", "Normalisation before each sub-layer and at the end.")
    norm_eps: float = setting(1e-5, "Added under the root of a normalisation.", above=0)
    norm_gain: bool = setting(True, "Whether a normalisation has a learned gain.")
    embedding_norm: bool = setting(False, "Normalise the embeddings before the first block.")
    position: Literal["rope", "learned"] = setting("rope", "Rotary positions, or a learned embedding per position.")
    rope_theta: float = setting(10000.0, "Base of the rotary frequencies.", above=0)
    rope_pairs: Literal["even-odd", "halves"] = setting("even-odd", "Which coordinates rotate together.")
    rope_inverse: bool = setting(False, "Rotate by minus the angle, as nanochat does; most models rotate by plus.")
    qk_norm: bool = setting(False, "Normalise queries and keys (after the rotation).")
    mlp: Literal["swiglu", "gelu", "gelu-exact", "relu2"] = setting(
        "swiglu",
        "The feed-forward's activation; gelu: the tanh approximation (GPT-2); gelu-exact: the erf form (nanoGPT).",
    )
    bias: bool = setting(False, "Biases in the linear layers and in LayerNorm.")
    qkv_bias: bool = setting(False, "Biases in the query, key and value projections.")
    tied_head: bool = setting(True, "The output head shares the embedding's weights.")
    dropout: float = setting(0.0, "Dropout on embeddings, attention weights and sub-layer outputs.", low=0, high=0.95)
    softcap: float = setting(0.0, "Squash logits to ±softcap by softcap·tanh(x/softcap); 0 = off.", low=0)
    init: Literal["normal", "residual-scaled", "xavier-truncated", "zero-output", "zero-output-normal"] = setting(
        "residual-scaled",
        "How weights start; residual-scaled shrinks output projections by 1/√(2·n_layer); zero-output sets them and "
        "the head to 0, the other matrices uniform or normal.",
    )
    init_std: float = setting(0.02, "Standard deviation of normal initialisations.", above=0)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser: how gradients move weights. The learning rate itself is `train.lr`."""

    kind: str = setting(
        "adamw",
        "adamw; sgd; muon: Muon on the blocks' matrices and AdamW on everything else.",
        choices=tuple(OPTIMIZER_INFO),
    )
    beta1: float = setting(0.9, "AdamW: decay of the first moment.", low=0, high=0.9999)
    beta2: float = setting(0.95, "AdamW: decay of the second moment.", low=0, high=0.99999)
    eps: float = setting(1e-8, "AdamW: added to the root of the second moment.", above=0)
    eps_inside: bool = setting(False, "AdamW: m/(√v+ε) with the bias correction in the step size, as CS336 writes it.")
    weight_decay: float = setting(0.1, "Decoupled weight decay.", low=0)
    decay_after: bool = setting(False, "AdamW: decay the weights after the update instead of before it.")
    decay_all: bool = setting(False, "Decay every tensor; otherwise only those with two or more dimensions.")
    matrix_lr: float = setting(0.02, "Muon: learning rate of the blocks' matrices.", above=0)
    momentum: float = setting(0.95, "Muon: Nesterov momentum.", low=0, high=0.9999)
    momentum_start: float = setting(0.85, "Muon: momentum at the first step, where it warms up.", low=0, high=0.9999)
    momentum_warmup_steps: int = setting(
        0, "Muon: steps over which the momentum goes in a line from momentum_start to momentum; 0 = none.", low=0
    )
    embedding_lr: float = setting(0.0, "Learning rate of the embedding; 0 = train.lr.", low=0)
    head_lr: float = setting(0.0, "Learning rate of an untied head; 0 = train.lr.", low=0)
    width_scaled_lr: bool = setting(False, "Scale AdamW's rates by (d_model/768)^-½.")
    fused: Literal["auto", "on", "off"] = setting(
        "auto", "Whole-list optimiser kernels, proved equal to the written-out ones."
    )


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a function of the step: linear warm-up, hold at the peak, fall to `lr_min`."""

    kind: Literal["constant", "cosine", "linear", "sqrt"] = setting(
        "cosine",
        "How the rate falls after warm-up and hold: not at all, by half a cosine, in a line, or as 1/√(t+1).",
        safe=True,
    )
    lr_min: float = setting(0.0, "Learning rate at the end of the fall.", low=0, safe=True)
    warmup_steps: int = setting(0, "Steps of linear warm-up.", low=0, safe=True)
    warmup_ratio: float = setting(
        0.0, "Warm-up as a share of all steps (used when warmup_steps is 0).", low=0, high=1, safe=True
    )
    warmup_from: Literal["zero", "first", "next"] = setting(
        "next",
        "Rate at step t (from 0) of T warm-up steps: t/T (zero), or (t+1)/T (next); "
        "first counts all steps from 1, warm-up and decay alike.",
        safe=True,
    )
    hold_steps: int = setting(
        0, "Step up to which the peak is held before the fall begins; 0 = hold_until.", low=0, safe=True
    )
    hold_until: float = setting(
        0.0, "The same as a share of all steps (used when hold_steps is 0).", low=0, high=1, safe=True
    )
    decay_steps: int = setting(
        0, "Step at which the rate reaches lr_min, and stays; 0 = decay_until.", low=0, safe=True
    )
    decay_until: float = setting(
        1.0, "The same as a share of all steps (used when decay_steps is 0).", above=0, high=1, safe=True
    )


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how much per step, on what."""

    steps: int = setting(
        1000, "Optimiser steps; 0 = derived from tokens, epochs, tokens_per_parameter or flops.", low=0, safe=True
    )
    tokens: int = setting(0, "Length as tokens seen.", low=0, safe=True)
    epochs: float = setting(0.0, "Length as passes over the training tokens; may be fractional.", low=0, safe=True)
    tokens_per_parameter: float = setting(0.0, "Length as tokens per parameter.", low=0, safe=True)
    flops: float = setting(0.0, "Length as a budget of floating-point operations.", low=0, safe=True)
    batch_size: int = setting(8, "Sequences per micro-batch.", low=1)
    seq_len: int = setting(0, "Tokens per training sequence; 0 = the model's context.", low=0)
    accumulation: int = setting(1, "Micro-batches per step.", low=1)
    total_batch_tokens: int = setting(0, "Tokens per step; when set, accumulation is derived from it.", low=0)
    lr: float = setting(3e-4, "Peak learning rate.", above=0)
    lr_multiplier: float = setting(
        1.0, "Multiplies every learning rate; meant to be changed while training.", low=0, live=True
    )
    clip: float = setting(1.0, "Largest gradient norm; larger gradients are scaled down; 0 = off.", low=0, live=True)
    seed: int = setting(1337, "Seed of initialisation, batches and dropout.", low=0)
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps.", safe=True)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "Arithmetic of forward and backward; weights stay fp32."
    )
    kernels: Literal["fused", "reference"] = setting(
        "fused", "Arithmetic of every layer: fused PyTorch operations, or reference code written out in this package."
    )
    compile: Literal["auto", "on", "off"] = setting("auto", "torch.compile: auto is on for CUDA and off for CPU.")
    threads: int = setting(0, "CPU threads for arithmetic; 0 = chosen by measuring.", low=0)
    log_every: int = setting(0, "Steps between log lines; 0 = about ten lines a second.", low=0, live=True)
    max_bad_steps: int = setting(
        5, "Non-finite steps in a row before the run rolls back, then stops.", low=1, safe=True
    )
    on_spike: Literal["mark", "skip", "roll-back"] = setting(
        "mark",
        "A sudden rise of the loss: mark it, skip that step, or go back to the checkpoint before and on with new text.",
        safe=True,
    )


@dataclass(frozen=True)
class EvaluateConfig:
    """Validation while training."""

    every: int = setting(250, "Steps between evaluations; 0 = only at the end.", low=0, live=True)
    batches: int = setting(
        20, "Batches per evaluation, spread over the held-out text; 0 = all of it.", low=0, safe=True
    )
    at_start: bool = setting(True, "Evaluate once before the first step.", safe=True)
    train_too: bool = setting(False, "Also evaluate on as many batches of training text.", safe=True)
    core_every: int = setting(
        0, "Steps between measurements of the CORE metric, and at the end; 0 = never.", low=0, safe=True
    )
    core_path: str = setting("", "Folder of the CORE bundle; empty = the one that was downloaded.", safe=True)
    core_examples: int = setting(500, "Most questions of each CORE task; 0 = all of them.", low=0, safe=True)


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved and which saves are kept."""

    every: int = setting(250, "Steps between checkpoints; 0 = only at the end.", low=0, live=True)
    keep: int = setting(3, "Newest checkpoints kept; best and pinned ones are always kept; 0 = all.", low=0, live=True)
    only_improved: bool = setting(False, "Save only when the validation loss improved (and at the end).", safe=True)


@dataclass(frozen=True)
class SampleConfig:
    """Text written by the model while it trains."""

    every: int = setting(250, "Steps between samples; 0 = never.", low=0, live=True)
    prompt: str = setting("", "What the sample continues; empty = the start of a document.", live=True)
    max_tokens: int = setting(120, "Tokens per sample.", low=1, high=100_000, live=True)


@dataclass(frozen=True)
class DecodeConfig:
    """Decoding knobs: the defaults of a preset for `sample` and for the chat pane. What each does: `llm.sampling`."""

    temperature: float = setting(
        1.0, "0 = greedy; lower is safer, higher more varied; 1 = as the model says.", low=0, high=100, live=True
    )
    dynamic_range: float = setting(
        0.0,
        "Let the temperature move this far, either way, with the model's uncertainty; 0 = off.",
        low=0,
        high=100,
        live=True,
    )
    dynamic_exponent: float = setting(1.0, "Bend of the dynamic temperature's curve.", above=0, high=100, live=True)
    top_k: int = setting(0, "Keep only the k likeliest tokens; 0 = off.", low=0, live=True)
    top_p: float = setting(1.0, "Keep the likeliest tokens that together reach p; 1 = off.", above=0, high=1, live=True)
    min_p: float = setting(
        0.0, "Keep tokens at least this share as likely as the likeliest; 0 = off.", low=0, high=1, live=True
    )
    typical_p: float = setting(
        1.0,
        "Keep the tokens of most typical surprise that together reach this mass; 1 = off.",
        above=0,
        high=1,
        live=True,
    )
    top_n_sigma: float = setting(
        0.0,
        "Keep tokens whose logit is within n standard deviations of the largest; 0 = off.",
        low=0,
        high=100,
        live=True,
    )
    epsilon_cutoff: float = setting(0.0, "Drop tokens less likely than this; 0 = off.", low=0, high=0.99, live=True)
    eta_cutoff: float = setting(
        0.0,
        "Drop tokens less likely than this or, where the model is uncertain, than a lower bar; 0 = off.",
        low=0,
        high=0.99,
        live=True,
    )
    xtc_probability: float = setting(
        0.0,
        "How often to exclude the top choices: all tokens above the threshold but the last; 0 = never.",
        low=0,
        high=1,
        live=True,
    )
    xtc_threshold: float = setting(
        0.1, "Probability above which a token counts as a top choice.", above=0, high=1, live=True
    )
    mirostat_tau: float = setting(
        0.0, "Mirostat v2: surprise to hold, in bits per token; 0 = off.", low=0, high=100, live=True
    )
    mirostat_eta: float = setting(0.1, "Mirostat v2: how quickly it corrects.", above=0, high=1, live=True)
    repetition_penalty: float = setting(
        1.0,
        "Divide (or multiply) the logits of tokens already seen, as in CTRL; 1 = off.",
        above=0,
        high=100,
        live=True,
    )
    repetition_window: int = setting(
        0, "How many of the last tokens the repetition penalty looks at; 0 = all.", low=0, live=True
    )
    presence_penalty: float = setting(
        0.0, "Taken once from the logit of every token seen; 0 = off.", low=-100, high=100, live=True
    )
    frequency_penalty: float = setting(
        0.0, "Taken from a token's logit once per occurrence; 0 = off.", low=-100, high=100, live=True
    )
    penalty_window: int = setting(
        0, "How many of the last tokens presence and frequency penalties look at; 0 = all.", low=0, live=True
    )
    no_repeat_ngram: int = setting(0, "Never write the same n tokens in a row twice; 0 = off.", low=0, live=True)
    dry_multiplier: float = setting(
        0.0, "DRY: penalty for a token that would go on repeating a passage; 0 = off.", low=0, live=True
    )
    dry_base: float = setting(
        1.75, "DRY: growth of the penalty per further repeated token.", low=1, high=100, live=True
    )
    dry_allowed_length: int = setting(
        2, "DRY: the penalty begins when this many tokens already repeat.", low=1, live=True
    )
    dry_window: int = setting(0, "DRY: how many of the last tokens are searched; 0 = all.", low=0, live=True)
    dry_breakers: tuple[str, ...] = setting(
        ("\n", ":", '"', "*"), "DRY: tokens holding any of these texts end a repeated passage.", live=True
    )
    logit_bias: tuple[str, ...] = setting(
        (),
        "Added to tokens' logits: TOKEN=BIAS, where TOKEN is an id, or the token's text (in quotes if it is a number).",
        live=True,
    )
    banned_tokens: tuple[str, ...] = setting(
        (), "Tokens never written: ids, or a token's text (in quotes if it is a number).", live=True
    )
    ban_end: bool = setting(False, "Never end of its own accord: the end-of-text tokens are banned.", live=True)
    min_tokens: int = setting(0, "Do not end before this many new tokens.", low=0, live=True)
    max_tokens: int = setting(200, "Most new tokens.", low=1, live=True)
    max_total_tokens: int = setting(0, "Most tokens, the prompt's included; 0 = no limit.", low=0, live=True)
    length_penalty: float = setting(
        1.0,
        "Grow the end-of-text logit by this factor per token past its start: above 1 ends sooner; 1 = off.",
        above=0,
        high=100,
        live=True,
    )
    length_penalty_start: int = setting(0, "New tokens after which the length penalty begins.", low=0, live=True)
    stop: tuple[str, ...] = setting((), "Texts that end the reply; they are not shown.", live=True)
    order: tuple[str, ...] = setting(
        (),
        "Order of the transformations: bans always first, then those named, then the others as usual.",
        live=True,
    )
    beams: int = setting(
        1, "Beam search over this many continuations, instead of drawing; 1 = off.", low=1, high=64, live=True
    )
    beam_length_penalty: float = setting(
        1.0,
        "Beam search divides a text's log-probability by its length to this power: higher favours longer texts.",
        live=True,
    )
    num_samples: int = setting(1, "Texts written at once from one prompt.", low=1, high=256, live=True)
    separator_first: bool = setting(
        False, "Put the separator token before the prompt, as before a document.", live=True
    )
    seed: int = setting(1, "Seed of the draw; the same seed gives the same text.", low=0, high=2**63 - 1, live=True)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does."""

    purpose: str = setting("", "One line: what this preset is for.")
    group: str = setting("yours", "Heading under which the preset is listed.")
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
