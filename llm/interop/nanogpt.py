"""karpathy/nanoGPT: ckpt.pt, as its sample.py loads it. Source: model.py, train.py and sample.py of nanoGPT."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llm.config.schema import ModelConfig
from llm.errors import UserError
from llm.events import Progress
from llm.interop.architectures import GPT2, nanogpt_settings, read_gpt_sizes
from llm.interop.hf import OWN_TABLE
from llm.interop.imported import (
    Imported,
    TokenizerNeeded,
    check_finite,
    check_shape,
    check_tensors,
    check_vocabulary,
    expected_shapes,
    find_tokenizer,
    shapes_of,
)
from llm.interop.model_card import RECIPE, model_card, recipe
from llm.interop.source import Source, to_dtype
from llm.interop.torch_file import load_checkpoint, plain_weights
from llm.reader import WRONG_SHAPE
from llm.tokenizer import Tokenizer
from llm.tokenizer.pretrained import load_encoding

EPSILON = 1e-5  # fixed in model.py
GPT2_ROWS = range(50257, 50305)  # embeddings of GPT-2's vocabulary, which nanoGPT pads to 50304
USAGE = """## Use

With https://github.com/karpathy/nanoGPT: put ckpt.pt into a folder `out`, then

    python sample.py --out_dir=out

sample.py reads and writes text by GPT-2's vocabulary unless data/ holds a meta.pkl; the tokenizer of this model is in
`tokenizer/`, and its split into ids the same only where it is GPT-2's.
"""
APPROXIMATION = """
nanoGPT computes GELU exactly; this model was trained with the approximation by tanh (`model.mlp = gelu`), so that
logits differ in the third decimal.
"""


def problem(shape: ModelConfig, tokenizer: Tokenizer) -> str:
    """Why nanoGPT cannot be this model; "" where it can. Any tokenizer fits: the file does not hold it."""
    return problem_of_shape(shape)


def problem_of_shape(shape: ModelConfig) -> str:
    reasons = GPT2.misfits(shape)
    if shape.mlp == "relu2":
        reasons.append("model.mlp is relu2, nanoGPT has gelu-exact")
    if not shape.tied_head:
        reasons.append("model.tied_head is off, nanoGPT has on")
    if shape.d_ff != 4 * shape.d_model:
        reasons.append(f"model.d_ff is {shape.d_ff}, nanoGPT has 4·d_model = {4 * shape.d_model}")
    if shape.norm_eps != EPSILON:
        reasons.append(f"model.norm_eps is {shape.norm_eps:g}, nanoGPT has {EPSILON:g}")
    return "; ".join(reasons)


def layout(c: ModelConfig) -> ModelConfig:
    """The layout of nanoGPT: biases everywhere or nowhere, and gains."""
    biased = c.bias or c.qkv_bias
    return replace(c, bias=biased, qkv_bias=biased, norm_gain=True)


def write(source: Source, folder: Path, dtype: str) -> Iterator[Progress]:
    """Write ckpt.pt, tokenizer/, run.toml and README.md. The file has no optimizer state."""
    import torch

    from llm.interop.weights import NANOGPT_NAMING, convert, to_names

    yield Progress(stage="Writing weights", done=0, total=0)
    shape = layout(source.shape)
    weights = to_names(convert(source.weights(), source.shape, shape), NANOGPT_NAMING)
    checkpoint = {
        "model": {name: to_dtype(name, value, dtype).contiguous() for name, value in weights.items()},
        "model_args": nanogpt_settings(shape),
        "iter_num": source.info.step,
        "best_val_loss": source.info.metrics.get("validation_loss", float("inf")),
        "config": {OWN_TABLE: asdict(source.shape)},
    }
    torch.save(checkpoint, folder / "ckpt.pt")
    source.tokenizer.save(folder / "tokenizer")
    (folder / RECIPE).write_bytes(recipe(source.config))
    usage = USAGE + (APPROXIMATION if source.shape.mlp == "gelu" else "")
    (folder / "README.md").write_bytes(model_card(source, "nanogpt", usage))


# --- reading


def is_file(path: Path) -> bool:
    """Whether `path` looks like a checkpoint of nanoGPT."""
    return path.is_file() and path.suffix == ".pt"


def read(path: Path, tokenizer_path: Path | None) -> Generator[Progress, None, Imported]:
    """The model in a ckpt.pt. The tokenizer is `tokenizer_path`, the folder `tokenizer` of our export, or GPT-2's."""
    from llm.interop.weights import NANOGPT_NAMING, convert, from_names, weight_shapes

    yield Progress(stage="Reading weights", done=0, total=0)
    content = load_checkpoint(path)
    if not {"model", "model_args"} <= content.keys():
        raise UserError(f"{path} is not a checkpoint of nanoGPT: it has no model and model_args.")
    tensors = plain_weights(path, content["model"])
    tensors = {name: value for name, value in tensors.items() if not name.endswith(".attn.bias")}  # a mask, no weight
    shape = read_shape(path, content["model_args"])
    check_tensors(path, shapes_of(tensors), expected_shapes(path, shape, NANOGPT_NAMING, len(tensors)))
    check_finite(path, tensors)
    tokenizer, warnings = read_tokenizer(path, shape, tokenizer_path)
    weights = from_names(tensors, NANOGPT_NAMING, weight_shapes(shape))
    original = original_shape(content.get("config"), shape)
    if original is not None:
        weights, shape = convert(weights, shape, original), original
    return Imported(shape, weights, tokenizer, warnings=warnings + check_vocabulary(path, shape, tokenizer))


def read_shape(path: Path, settings: Any) -> ModelConfig:
    """The model of `model_args`. UserError where they are incomplete."""
    try:
        biased = bool(settings.get("bias", True))
        shape = ModelConfig(
            **read_gpt_sizes(settings),
            n_kv_head=settings["n_head"],
            context=settings["block_size"],
            norm="layernorm",
            norm_eps=EPSILON,
            position="learned",
            mlp="gelu-exact",
            bias=biased,
            qkv_bias=biased,
            dropout=settings.get("dropout", 0.0),
        )
        check_shape(shape)
    except WRONG_SHAPE as error:
        raise UserError(f"{path} cannot be used: its model_args are incomplete or wrong ({error}).") from error
    return shape


def original_shape(config: Any, shape: ModelConfig) -> ModelConfig | None:
    """The model before our export, if the checkpoint names one that exports to this one."""
    try:
        original = ModelConfig(**config[OWN_TABLE])
        check_shape(original)
        same = not problem_of_shape(original) and nanogpt_settings(layout(original)) == nanogpt_settings(shape)
    except WRONG_SHAPE:
        return None
    return original if same else None


def read_tokenizer(path: Path, shape: ModelConfig, given: Path | None) -> tuple[Tokenizer, tuple[str, ...]]:
    if given is not None:
        return find_tokenizer(given)
    if (folder := path.with_name("tokenizer")).is_dir():
        return find_tokenizer(folder)
    if shape.vocab_size in GPT2_ROWS:
        return load_encoding("gpt2"), ()
    raise TokenizerNeeded(
        f"{path} does not say how text becomes its {shape.vocab_size} ids (meta.pkl is a pickle, which may run code, "
        "and is not read); name the tokenizer with --tokenizer."
    )
