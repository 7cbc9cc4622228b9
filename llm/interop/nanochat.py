"""karpathy/nanochat: read a checkpoint folder (model_STEP.pt and meta_STEP.json).

Its tokenizer is a pickle and is not read; name another form of it, such as the tokenizer.json of a Hugging Face folder.
Models since January 2026 have weights that this program lacks (value embeddings, scales of the residual stream, sliding
windows); these are named. Source: gpt.py and checkpoint_manager.py of nanochat, commit d575940.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from llm.config.schema import ModelConfig
from llm.errors import UserError
from llm.events import Progress
from llm.interop.architectures import read_gpt_sizes
from llm.interop.imported import (
    Imported,
    TokenizerNeeded,
    check_finite,
    check_shape,
    check_tensors,
    check_vocabulary,
    expected_shapes,
    find_tokenizer,
    read_json_file,
    shapes_of,
)
from llm.interop.torch_file import load_checkpoint, plain_weights
from llm.reader import WRONG_SHAPE

EPSILON = 2.0**-23  # of F.rms_norm in float32
THETA, SOFTCAP = 10000.0, 15.0  # fixed in gpt.py


def find_model(path: Path) -> Path | None:
    """The newest model file of a checkpoint folder, or `path` itself; None where it is neither."""
    if path.is_file():
        return path if path.name.startswith("model_") and path.suffix == ".pt" else None
    return max(path.glob("model_*.pt"), default=None, key=lambda file: file.name)


def read(path: Path, tokenizer_path: Path | None) -> Generator[Progress, None, Imported]:
    """The model in a checkpoint. UserError names what is missing or not supported."""
    from llm.interop.weights import NANOCHAT_CHECKPOINT_NAMING, from_names, weight_shapes

    file = find_model(path)
    assert file is not None, "find_model is asked first"
    meta_path = file.with_name(file.name.replace("model_", "meta_", 1)).with_suffix(".json")
    settings = read_json_file(meta_path).get("model_config")
    yield Progress(stage="Reading weights", done=0, total=0)
    tensors = plain_weights(file, load_checkpoint(file))
    embedding = tensors.get("transformer.wte.weight")
    shape = read_shape(meta_path, settings, rows=len(embedding) if embedding is not None and embedding.dim() else 0)
    expected = expected_shapes(file, shape, NANOCHAT_CHECKPOINT_NAMING, len(tensors))
    check_tensors(file, shapes_of(tensors), expected)
    check_finite(file, tensors)
    if tokenizer_path is None:
        raise TokenizerNeeded(
            f"the tokenizer of {file} is a pickle, which may run code, and is not read; name its tokenizer.json with "
            "--tokenizer."
        )
    tokenizer, warnings = find_tokenizer(tokenizer_path, "<|bos|>")
    weights = from_names(tensors, NANOCHAT_CHECKPOINT_NAMING, weight_shapes(shape))
    return Imported(shape, weights, tokenizer, warnings=warnings + check_vocabulary(file, shape, tokenizer))


def read_shape(path: Path, settings: Any, rows: int) -> ModelConfig:
    """The model of `model_config`. `rows` of the embedding, where they are more than the vocabulary (padding)."""
    try:
        if set(settings.get("window_pattern", "L")) != {"L"}:
            raise ValueError(f"it attends within sliding windows ({settings['window_pattern']!s:.20})")
        sizes = read_gpt_sizes(settings)
        shape = ModelConfig(
            **sizes | {"vocab_size": max(rows, sizes["vocab_size"])},
            n_kv_head=settings["n_kv_head"],
            context=settings["sequence_len"],
            norm_eps=EPSILON,
            norm_gain=False,
            embedding_norm=True,
            rope_theta=THETA,
            rope_pairs="halves",
            rope_inverse=True,
            qk_norm=True,
            mlp="relu2",
            tied_head=False,
            softcap=SOFTCAP,
        )
        check_shape(shape)
    except WRONG_SHAPE as error:
        raise UserError(f"{path} cannot be used: its model_config is incomplete or not supported ({error}).") from error
    return shape
