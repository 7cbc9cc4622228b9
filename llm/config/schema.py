"""The configuration of a run: a tree of frozen dataclasses.

A field's metadata holds its help text, its bounds, whether it can change during training (`live`) and whether a resumed
run may change it (`safe`). TOML files, the command line and the forms of the workbench all read this metadata.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llm.config.decode_schema import DecodeConfig
from llm.config.optimizers import OPTIMIZER_INFO
from llm.config.setting import setting
from llm.config.tune_schema import TuneConfig


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes token ids."""

    kind: Literal["byte", "char", "bpe", "tiktoken", "sentencepiece", "gpt2-files"] = setting(
        "bpe",
        "byte: 256 ids; char: one id per character; bpe, sentencepiece: trained on the corpus unless path is given; "
        "tiktoken, gpt2-files: loaded.",
    )
    vocab_size: int = setting(
        2048, "Vocabulary size of a trained tokenizer, special tokens included.", low=1, high=2**31
    )
    encoding: str = setting("gpt2", "Name of the tiktoken encoding (kind tiktoken).")
    path: str = setting(
        "", "Tokenizer to load: a tokenizer folder of this program, a .model file, or a folder with vocab.json."
    )
    special_tokens: tuple[str, ...] = setting(
        ("<|endoftext|>",), "Special tokens; the first one separates documents and ends a text."
    )
    train_mb: float = setting(8.0, "Megabytes of the corpus to train a tokenizer on.", above=0)
    train_sample: Literal["spread", "beginning"] = setting(
        "spread", "Where these megabytes come from: pieces spread evenly over the corpus, or its beginning."
    )
    pattern: str = setting("ours", "Pre-tokenization of kind bpe: ours, gpt2, gpt4, or a regular expression.")
    ties: Literal["ids", "bytes"] = setting(
        "ids",
        "Which of two equally frequent pairs kind bpe merges first: the one with smaller ids, or with greater bytes "
        "(CS336).",
    )


@dataclass(frozen=True)
class DataConfig:
    """The text and how batches are taken from it."""

    corpus: str = setting(
        "stories",
        "stories, pylib, dialogues (for fine-tuning), a downloaded dataset (see llm-workbench data), a web address, "
        "or the path or glob of text, JSONL, CSV, Parquet or token files.",
    )
    validation: str = setting(
        "",
        "Validation text or tokens, given like corpus; empty = the validation split of the corpus, or a share of it.",
    )
    format: Literal["auto", "text", "jsonl", "csv", "parquet", "tokens"] = setting(
        "auto",
        "File format; auto detects it from the content. jsonl: JSON objects, one per line or in a list. tokens: .npy, "
        ".bin or encoded_tokens_chunk_K.dat.",
    )
    size_mb: float = setting(10.0, "Megabytes of a built-in corpus to generate.", above=0)
    seed: int = setting(1, "Seed of a built-in corpus.", low=0)
    text_field: str = setting("text", "Field or column with the text in JSON, CSV or Parquet.")
    validation_fraction: float = setting(0.05, "Share of the text held out for validation.", above=0, high=0.5)
    split: Literal["documents", "tail"] = setting(
        "documents", "Validation text: whole documents spread over the corpus, or its last characters (tail)."
    )
    order: Literal["random", "epoch", "sequential", "stream"] = setting(
        "random",
        "random: windows at random positions; epoch: every window once per epoch, shuffled; sequential: in order; "
        "stream: Parquet is tokenized during training, other files are read in order.",
    )
    stride: int = setting(0, "Distance between window starts in epoch order; 0 = the sequence length.", low=0)
    drop_last: bool = setting(False, "Epoch order: drop the last batch of an epoch if it is incomplete.")
    streams: int = setting(
        0,
        "Stream order: number of independent streams; row group g belongs to stream g mod streams; 0 = the number of "
        "processes at the first step.",
        low=0,
    )
    boundary: Literal["after", "before", "none"] = setting(
        "after", "Where the separator token goes: after each document, before it, or nowhere."
    )
    chunk_tokens: int = setting(
        0,
        "Store prepared tokens in int32 files encoded_tokens_chunk_K.dat of this many tokens; 0 = the standard format.",
        low=0,
    )
    processes: int = setting(
        0, "Worker processes to tokenize a large corpus; 0 = one per core, 1 = no workers.", low=0, safe=True
    )


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer."""

    depth: int = setting(0, "Sets the shape by one number: n_layer = depth, d_model = 64·depth; 0 = off.", low=0)
    n_layer: int = setting(4, "Transformer blocks.", low=1)
    d_model: int = setting(128, "Width of the residual stream.", low=1)
    n_head: int = setting(4, "Attention heads; must divide d_model unless head_dim is set.", low=1)
    head_dim: int = setting(0, "Width of an attention head; 0 = d_model / n_head.", low=0)
    n_kv_head: int = setting(0, "Key/value heads (grouped-query attention); 0 = n_head.", low=0)
    d_ff: int = setting(0, "Hidden width of the feed-forward layer; 0 = 8/3·d_model for SwiGLU, else 4·d_model.", low=0)
    d_ff_multiple: int = setting(
        32, "SwiGLU: a derived d_ff is rounded up to a multiple of this; 1 = no rounding.", low=1
    )
    context: int = setting(256, "Context length: the longest sequence of the model, in tokens.", low=1)
    vocab_size: int = setting(0, "Rows of the embedding; 0 = the tokenizer's vocabulary size.", low=0)
    norm: Literal["rmsnorm", "layernorm"] = setting(
        "rmsnorm", "Normalization before each sublayer and before the head."
    )
    norm_eps: float = setting(1e-5, "Epsilon of the normalization.", above=0)
    norm_gain: bool = setting(True, "Give normalizations a learned gain.")
    embedding_norm: bool = setting(False, "Normalize the embeddings before the first block.")
    embedding_conv: int = setting(
        0,
        "Width of a causal depthwise convolution over the embeddings, which adds weighted embeddings of the "
        "width - 1 tokens before to each; 0 = none. No other program has it.",
        low=0,
        high=16,
    )
    position: Literal["rope", "learned"] = setting(
        "rope", "Rotary position embedding (RoPE), or a learned embedding per position."
    )
    rope_theta: float = setting(10000.0, "RoPE: base of the frequencies.", above=0)
    rope_pairs: Literal["even-odd", "halves"] = setting("even-odd", "RoPE: coordinates that form a pair.")
    rope_inverse: bool = setting(False, "RoPE: rotate by the negative angle, as nanochat does; most models do not.")
    qk_norm: bool = setting(False, "Normalize queries and keys (after RoPE).")
    qk_gain: bool = setting(False, "Give qk_norm a learned gain and apply it before RoPE, as in Qwen3.")
    mlp: Literal["swiglu", "gelu", "gelu-exact", "relu2"] = setting(
        "swiglu",
        "Activation of the feed-forward layer; gelu: tanh approximation (GPT-2); gelu-exact: erf (nanoGPT); relu2: "
        "squared ReLU (nanochat).",
    )
    bias: bool = setting(False, "Biases in the linear layers and in LayerNorm.")
    qkv_bias: bool = setting(False, "Biases in the query, key and value projections.")
    tied_head: bool = setting(True, "Share the weights of embedding and output head.")
    dropout: float = setting(0.0, "Dropout on embeddings, attention weights and sublayer outputs.", low=0, high=0.95)
    softcap: float = setting(0.0, "Limit logits to ±softcap by softcap·tanh(x/softcap); 0 = off.", low=0)
    init: Literal["normal", "residual-scaled", "xavier-truncated", "zero-output", "zero-output-normal"] = setting(
        "residual-scaled",
        "Initial weights; residual-scaled: output projections scaled by 1/√(2·n_layer); zero-output: output "
        "projections and head 0, other matrices uniform; zero-output-normal: other matrices normal.",
    )
    init_std: float = setting(0.02, "Standard deviation of normal initializations.", above=0)


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer. Its learning rate is `train.lr`."""

    kind: str = setting(
        "adamw",
        "Optimizer; muon: Muon for the matrices of the blocks, AdamW for the other weights.",
        choices=tuple(OPTIMIZER_INFO),
    )
    beta1: float = setting(0.9, "AdamW: decay of the first moment.", low=0, high=0.9999)
    beta2: float = setting(0.95, "AdamW: decay of the second moment.", low=0, high=0.99999)
    eps: float = setting(1e-8, "AdamW: epsilon.", above=0)
    eps_inside: bool = setting(False, "AdamW: m/(√v+ε) with the bias correction in the step size, as in CS336.")
    weight_decay: float = setting(0.1, "Decoupled weight decay.", low=0)
    decay_after: bool = setting(False, "AdamW: apply weight decay after the update instead of before it.")
    decay_all: bool = setting(
        False, "Apply weight decay to every tensor; otherwise only to those with two or more dimensions."
    )
    matrix_lr: float = setting(0.02, "Muon: learning rate of the matrices of the blocks.", above=0)
    momentum: float = setting(0.95, "Muon: Nesterov momentum.", low=0, high=0.9999)
    momentum_start: float = setting(0.85, "Muon: momentum at the first step of its warm-up.", low=0, high=0.9999)
    momentum_warmup_steps: int = setting(
        0, "Muon: steps of linear momentum warm-up from momentum_start to momentum; 0 = no warm-up.", low=0
    )
    embedding_lr: float = setting(0.0, "Learning rate of the embedding; 0 = train.lr.", low=0)
    head_lr: float = setting(0.0, "Learning rate of an untied head; 0 = train.lr.", low=0)
    width_scaled_lr: bool = setting(False, "Scale AdamW's learning rates by (d_model/768)^-½.")
    fused: Literal["auto", "on", "off"] = setting(
        "auto", "Optimizer kernels that update all tensors at once, with the same results."
    )


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate by step: linear warm-up, hold at the peak, decay to `lr_min`."""

    kind: Literal["constant", "cosine", "linear", "sqrt"] = setting(
        "cosine",
        "Decay of the learning rate after warm-up and hold: none, half a cosine, linear, or 1/√(t+1).",
        safe=True,
    )
    lr_min: float = setting(0.0, "Learning rate at the end of the decay.", low=0, safe=True)
    warmup_steps: int = setting(0, "Steps of linear warm-up.", low=0, safe=True)
    warmup_ratio: float = setting(
        0.0, "Warm-up as a share of all steps (if warmup_steps is 0).", low=0, high=1, safe=True
    )
    warmup_from: Literal["zero", "first", "next"] = setting(
        "next",
        "Share of the peak at step t (from 0) of T warm-up steps: t/T (zero) or (t+1)/T (next); first: count all "
        "steps, also of the decay, from 1.",
        safe=True,
    )
    hold_steps: int = setting(0, "Step at which the decay starts; 0 = use hold_until.", low=0, safe=True)
    hold_until: float = setting(
        0.0, "Start of the decay as a share of all steps (if hold_steps is 0).", low=0, high=1, safe=True
    )
    decay_steps: int = setting(0, "Step at which the decay ends; 0 = use decay_until.", low=0, safe=True)
    decay_until: float = setting(
        1.0, "End of the decay as a share of all steps (if decay_steps is 0).", above=0, high=1, safe=True
    )


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch size, learning rate and hardware of the training."""

    steps: int = setting(
        1000,
        "Length in optimizer steps; 0 = use tokens, epochs, tokens_per_parameter, flops or minutes.",
        low=0,
        safe=True,
    )
    tokens: int = setting(0, "Length in tokens.", low=0, safe=True)
    epochs: float = setting(0.0, "Length in passes over the training tokens; may be fractional.", low=0, safe=True)
    tokens_per_parameter: float = setting(0.0, "Length in tokens per parameter.", low=0, safe=True)
    flops: float = setting(0.0, "Length in floating-point operations.", low=0, safe=True)
    minutes: float = setting(
        0.0,
        "Length in minutes: as many steps as this machine takes in that time, measured at the start.",
        low=0,
        safe=True,
    )
    batch_size: int = setting(
        8,
        "Sequences per micro-batch; 0 = the largest number that fits in memory, found at the start (needs "
        "total_batch_tokens).",
        low=0,
    )
    seq_len: int = setting(0, "Tokens per training sequence; 0 = model.context.", low=0)
    accumulation: int = setting(1, "Gradient accumulation: micro-batches per step.", low=1)
    total_batch_tokens: int = setting(0, "Tokens per step; sets the accumulation; 0 = use accumulation.", low=0)
    lr: float = setting(3e-4, "Peak learning rate.", above=0)
    lr_multiplier: float = setting(
        1.0, "Factor of every learning rate; can be changed during training.", low=0, live=True
    )
    clip: float = setting(1.0, "Clip the gradient norm to this value; 0 = off.", low=0, live=True)
    seed: int = setting(1337, "Seed of initial weights, batches and dropout.", low=0)
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps.", safe=True)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "Precision of forward and backward pass; weights are fp32."
    )
    kernels: Literal["fused", "reference"] = setting(
        "fused", "Arithmetic of every layer: fused PyTorch operations, or the written-out reference."
    )
    nproc: int = setting(
        1,
        "Processes (ranks) of this machine that train together, one for each GPU; torchrun starts them.",
        low=1,
        safe=True,
    )
    sharding: Literal["ddp", "fsdp", "hsdp"] = setting(
        "ddp",
        "What several ranks hold. ddp: each all of the state; fsdp: each a part of weights, gradients and optimizer "
        "state; hsdp: parts within a machine, copies between machines.",
        safe=True,
    )
    recompute: Literal["none", "blocks", "attention"] = setting(
        "none",
        "Activations to compute again in the backward pass instead of keeping them: less memory for more time, with "
        "the same gradients. blocks: all within a block; attention: those of attention. The last block keeps its own.",
        safe=True,
    )
    compile: Literal["auto", "on", "off"] = setting("auto", "torch.compile: auto is on for CUDA and off for CPU.")
    threads: int = setting(0, "CPU threads; 0 = the fastest number, measured at the start.", low=0)
    log_every: int = setting(0, "Steps between log lines; 0 = about ten lines per second.", low=0, live=True)
    max_bad_steps: int = setting(
        5, "Consecutive non-finite steps before the run rolls back, and at last stops.", low=1, safe=True
    )
    on_spike: Literal["mark", "skip", "roll-back"] = setting(
        "mark",
        "At a loss spike: mark it, skip the step, or roll back to a checkpoint and continue with new text.",
        safe=True,
    )


@dataclass(frozen=True)
class EvaluateConfig:
    """Validation during training."""

    every: int = setting(250, "Steps between evaluations; 0 = only at the end.", low=0, live=True)
    batches: int = setting(
        20, "Batches per evaluation, spread over the validation text; 0 = all of it.", low=0, safe=True
    )
    at_start: bool = setting(True, "Evaluate before the first step, also exact answers.", safe=True)
    train_too: bool = setting(False, "Also evaluate on the same number of training batches.", safe=True)
    core_every: int = setting(0, "Steps between CORE evaluations, and one at the end; 0 = never.", low=0, safe=True)
    core_path: str = setting("", "Folder of the CORE bundle; empty = the downloaded one.", safe=True)
    core_examples: int = setting(500, "Maximum number of questions per CORE task; 0 = all.", low=0, safe=True)
    answers_every: int = setting(
        0,
        "Fine-tuning: steps between evaluations of exact answers to held-out questions of the built-in dialogues, and "
        "one at the end; 0 = never.",
        low=0,
        live=True,
    )
    answers_questions: int = setting(64, "Questions per evaluation of exact answers.", low=1, high=10_000, safe=True)


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved and which are kept."""

    every: int = setting(250, "Steps between checkpoints; 0 = only at the end.", low=0, live=True)
    keep: int = setting(
        3, "Number of newest checkpoints to keep, besides best and pinned ones; 0 = all.", low=0, live=True
    )
    only_improved: bool = setting(False, "Save only if the validation loss improved, and at the end.", safe=True)


@dataclass(frozen=True)
class SampleConfig:
    """Text generated during training."""

    every: int = setting(250, "Steps between samples; 0 = never.", low=0, live=True)
    prompt: str = setting("", "Prompt of the sample; empty = the start of a document.", live=True)
    max_tokens: int = setting(120, "Tokens per sample.", low=1, high=100_000, live=True)


@dataclass(frozen=True)
class RunConfig:
    """The complete configuration of a run."""

    purpose: str = setting("", "What this preset is for, in one line.")
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
    tune: TuneConfig = field(default_factory=TuneConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
