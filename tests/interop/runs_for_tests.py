"""Runs with random weights, made without training, and text of all kinds."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from llm.config import RunConfig
from llm.config.schema import DataConfig, ModelConfig, TokenizerConfig
from llm.interop.source import Source, open_source
from llm.model.transformer import Transformer
from llm.run import Run
from llm.run.checkpoints import MODEL
from llm.tokenizer import Tokenizer, build_tokenizer
from llm.training.checkpoint import publish_weights

END = "<|endoftext|>"
SHAPE = ModelConfig(n_layer=2, d_model=24, n_head=6, n_kv_head=2, d_ff=44, context=256, norm_eps=1e-5)
GPT2 = replace(SHAPE, n_kv_head=6, norm="layernorm", position="learned", mlp="gelu", bias=True, qkv_bias=True)
NANOCHAT = replace(
    SHAPE, norm_gain=False, embedding_norm=True, rope_pairs="halves", rope_inverse=True, qk_norm=True, mlp="relu2",
    tied_head=False, softcap=15.0,
)  # fmt: skip
SHAPES = {
    "gpt2": GPT2,
    "gpt2 without biases": replace(GPT2, bias=False, qkv_bias=False, norm_gain=False, mlp="gelu-exact"),
    "gpt2 untied": replace(GPT2, tied_head=False, qkv_bias=False, mlp="relu2"),
    "llama": SHAPE,
    "llama in halves, untied, with biases": replace(
        SHAPE, rope_pairs="halves", tied_head=False, bias=True, qkv_bias=True
    ),
    "llama with the other rotation": replace(SHAPE, rope_inverse=True, qkv_bias=True, norm_gain=False),
    "llama with wide heads": replace(SHAPE, head_dim=10, rope_theta=997.0),
    "qwen3": replace(SHAPE, qk_norm=True, qk_gain=True, head_dim=6),
    "qwen3 without gains": replace(SHAPE, qk_norm=True, tied_head=False, norm_gain=False),
    "nanochat": NANOCHAT,
    "nanochat, tied, even and odd": replace(
        NANOCHAT, tied_head=True, rope_pairs="even-odd", rope_inverse=False, softcap=0.0
    ),
}


def text_of_all_kinds(size: int = 20_000, seed: int = 1) -> str:
    """Code, Chinese, emoji, whitespace runs, numbers and combining marks, mixed."""
    draw = random.Random(seed)
    parts = (
        "def f(x):\n\treturn x ** 2  # it's 12345 we'll",
        "从前有一个聪明的女孩，她叫黛西。",
        "😀👩‍👩‍👧🇩🇪❤️ naïve Ünïcode e\u0301 ",
        "    \n\n\t\t  \r\n ",
        "Once upon a time there was 3.14159 of them, wasn't there?",
        " " * 37,
        "אבג हिन्दी ไทย 한국어 ",
        "aaaaaaaaaaaaaaaaaaaaaaabababab----====____....",
        "{\"key\": [1, 22, 333, 4444]}\x00\x7f",
    )  # fmt: skip
    pieces: list[str] = []
    length = 0
    while length < size:
        part = draw.choice(parts)
        pieces.append(part[: draw.randint(1, len(part))])
        length += len(pieces[-1])
    return "".join(pieces)


def bpe_tokenizer(
    vocab_size: int = 400, pattern: str = "ours", special: tuple[str, ...] = (END, "<|user|>")
) -> Tokenizer:
    config = TokenizerConfig(kind="bpe", vocab_size=vocab_size, pattern=pattern, special_tokens=special)
    return build_tokenizer(config, [text_of_all_kinds(seed=2)])


def make_run(home: Path, shape: ModelConfig, tokenizer: Tokenizer, name: str = "random", spread: float = 0.1) -> Run:
    """A run whose checkpoint at step 7 holds random weights; gains and biases too are random."""
    shape = replace(shape, vocab_size=shape.vocab_size or tokenizer.vocab_size)
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(3)
    model.init_weights(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=spread)
    special = tuple(tokenizer.special_tokens)
    config = replace(
        RunConfig(),
        model=shape,
        tokenizer=TokenizerConfig(kind=tokenizer.kind, vocab_size=tokenizer.vocab_size, special_tokens=special),
        data=DataConfig(boundary="after" if special else "none"),
    )

    def fill(run: Run) -> None:
        tokenizer.save(run.path / "tokenizer")
        publish_weights(run.checkpoint_directory / "step-00000007", model.state_dict(), 7)

    return Run.create(home, name, config, fill=fill)


def source_of(run: Run) -> Source:
    return open_source(run, run.checkpoint())


def finish(work: Generator[Any, None, Any]) -> Any:
    """The result of a generator of progress."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def hashes(run: Run) -> dict[str, str]:
    tensors = load_file(run.checkpoint().path / MODEL)
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in tensors.items()}
