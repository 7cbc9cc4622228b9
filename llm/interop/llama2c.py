"""karpathy/llama2.c: model files that run.c (version 0) and runq.c (version 2, int8) read, and tokenizer.bin.

The programs fix θ = 10000, ε = 1e-5, heads of width d_model / n_head, even and odd coordinates that rotate together,
and a SentencePiece vocabulary with <s> 1, </s> 2 and the bytes from 3 on. They end a text at <s> only, and neither
reads version 1. Sources: export.py, tokenizer.py, run.c and runq.c of karpathy/llama2.c.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from llm.config.schema import ModelConfig
from llm.errors import UserError, reason_of
from llm.events import Progress
from llm.interop.architectures import LLAMA
from llm.interop.imported import Imported, TokenizerNeeded, check_finite, check_vocabulary, find_tokenizer
from llm.interop.model_card import RECIPE, model_card, recipe
from llm.interop.sentencepiece_model import BPE, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, dump_model, parse_model
from llm.interop.source import Source
from llm.reader import Malformed, read_bytes
from llm.tokenizer import Tokenizer
from llm.tokenizer.spm import MAX_MODEL_BYTES, SPACE, SentencePieceTokenizer

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]

THETA, EPSILON = 10000.0, 1e-5  # fixed in run.c and runq.c
BEGIN, END, FIRST_BYTE = 1, 2, 3  # ids fixed in run.c
MAGIC, HEADER_BYTES = 0x616B3432, 256  # of version 2
GROUP = 64  # weights that share a scale in version 2, at most
NEVER = -1e10  # the score from which run.c looks for merges: a token with it is never made
LARGEST = 1 << 24  # of a number in a header
FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
ORDER = (
    "attn_norm.gain",
    "attn.q.weight",
    "attn.k.weight",
    "attn.v.weight",
    "attn.out.weight",
    "mlp_norm.gain",
    "mlp.gate.weight",
    "mlp.down.weight",
    "mlp.up.weight",
)
"""The weights of a block as the files have them: all layers of one, then all layers of the next."""
USAGE = """## Use

With the programs of https://github.com/karpathy/llama2.c:

    ./{program} model.bin -z tokenizer.bin -t 0 -i "Once"
"""


def problem(shape: ModelConfig, tokenizer: Tokenizer) -> str:
    """Why llama2.c cannot run a model; "" where it can."""
    reasons = LLAMA.misfits(shape)
    if shape.rope_theta != THETA:
        reasons.append(f"model.rope_theta is {shape.rope_theta:g}, run.c computes with {THETA:g}")
    if shape.norm_eps != EPSILON:
        reasons.append(f"model.norm_eps is {shape.norm_eps:g}, run.c computes with {EPSILON:g}")
    if shape.head_dim and shape.head_dim * shape.n_head != shape.d_model:
        reasons.append(f"model.head_dim is {shape.head_dim}, run.c computes with d_model / n_head")
    if shape.bias or shape.qkv_bias:
        reasons.append("model.bias or model.qkv_bias is on, run.c has no biases")
    return "; ".join([*reasons, *tokenizer_problems(tokenizer)])


def tokenizer_problems(tokenizer: Tokenizer) -> list[str]:
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return [f"the tokenizer is {tokenizer.kind}, run.c has SentencePiece"]
    model = parse_model(tokenizer.model_bytes)
    kinds = [kind for _, _, kind in model.pieces[: FIRST_BYTE + 256]]
    if kinds != [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256:
        return ["the first ids of the tokenizer are not <unk>, <s>, </s> and the 256 bytes, as in run.c"]
    if model.model_type != BPE or tokenizer.rewrites or not tokenizer.dummy_prefix:
        return ["the tokenizer is not a BPE model that only puts a space before a text, as in run.c"]
    return []


def write(source: Source, folder: Path, dtype: str) -> Iterator[Progress]:
    """Write model.bin (version 0 for f32, version 2 for int8), tokenizer.bin, run.toml and README.md."""
    from llm.interop.weights import convert

    c = source.shape
    layout = replace(LLAMA.layout(c), rope_pairs="even-odd")
    weights = {name: value.float().numpy() for name, value in convert(source.weights(), c, layout).items()}
    yield Progress(stage="Writing weights", done=0, total=0)
    with (folder / "model.bin").open("wb") as file:
        (write_version_2 if dtype == "int8" else write_version_0)(file, c, weights)
    assert isinstance(source.tokenizer, SentencePieceTokenizer), "problem() is asked first"
    (folder / "tokenizer.bin").write_bytes(dump_tokenizer(source.tokenizer, c.vocab_size))
    (folder / RECIPE).write_bytes(recipe(source.config))
    program = "runq" if dtype == "int8" else "run"
    (folder / "README.md").write_bytes(model_card(source, "llama2.c", USAGE.format(program=program)))


def numbers(c: ModelConfig, vocab_size: int) -> bytes:
    return struct.pack("<7i", c.d_model, c.d_ff, c.n_layer, c.n_head, c.n_kv_head, vocab_size, c.context)


def write_version_0(file: BinaryIO, c: ModelConfig, weights: Mapping[str, Array]) -> None:
    """Header, weights in float32, and the place of two tables of angles that run.c skips. A negative vocabulary size
    says that the head follows."""
    file.write(numbers(c, c.vocab_size if c.tied_head else -c.vocab_size))
    for name, _ in file_order(c):
        if name != "head.weight":
            file.write(weights[name].tobytes())
    file.write(bytes(4 * angle_numbers(c)))
    if not c.tied_head:
        file.write(weights["head.weight"].tobytes())


def write_version_2(file: BinaryIO, c: ModelConfig, weights: Mapping[str, Array]) -> None:
    """Header, gains in float32, then matrices as int8 with a float32 scale per group."""
    group = math.gcd(GROUP, c.d_model, c.d_ff)
    header = struct.pack("<Ii", MAGIC, 2) + numbers(c, c.vocab_size) + struct.pack("<Bi", c.tied_head, group)
    file.write(header.ljust(HEADER_BYTES, b"\0"))
    layers = range(c.n_layer)
    norms = [f"blocks.{layer}.{part}.gain" for part in ("attn_norm", "mlp_norm") for layer in layers]
    for name in [*norms, "final_norm.gain"]:
        file.write(weights[name].tobytes())
    blocks = [f"blocks.{layer}.{part}" for part in ORDER if part.endswith("weight") for layer in layers]
    for name in ["embedding.weight", *blocks, *(() if c.tied_head else ("head.weight",))]:
        values, scales = quantize(weights[name], group)
        file.write(values.tobytes() + scales.tobytes())


def quantize(matrix: Array, group: int) -> tuple[NDArray[np.int8], Array]:
    """Symmetric int8 per `group` numbers, as quantize_q80 of llama2.c: values (numbers / group, group), scales."""
    rows = matrix.reshape(-1, group)
    scales = (np.abs(rows).max(axis=1) / 127.0).astype(np.float32)
    steps = np.where(scales > 0, scales, np.float32(1))[:, None]
    return np.round(rows / steps).astype(np.int8), scales


def dump_tokenizer(tokenizer: SentencePieceTokenizer, rows: int) -> bytes:
    """tokenizer.bin: the longest token's length, then score, length and bytes of each of `rows` tokens."""
    pieces = parse_model(tokenizer.model_bytes).pieces
    entries = [(score, text.replace(SPACE, " ").encode()) for text, score, _ in pieces]
    entries[BEGIN], entries[END] = (0.0, b"\n<s>\n"), (0.0, b"\n</s>\n")
    entries += [(NEVER, b"<pad>")] * (rows - len(entries))
    longest = max(len(text) for _, text in entries)
    return struct.pack("<I", longest) + b"".join(struct.pack("<fI", score, len(text)) + text for score, text in entries)


# --- reading


def is_file(path: Path) -> bool:
    """Whether `path` looks like a model of llama2.c."""
    return path.is_file() and path.suffix == ".bin"


def read(path: Path, tokenizer_path: Path | None) -> Generator[Progress, None, Imported]:
    """The model in a file of version 0, with its tokenizer.bin. UserError names what is damaged or not supported."""
    yield Progress(stage="Reading weights", done=0, total=0)
    shape = read_shape(path)
    place = tokenizer_path or path.with_name("tokenizer.bin")
    tokenizer: Tokenizer
    warnings: tuple[str, ...] = ()
    if place.suffix == ".bin":
        tokenizer = read_tokenizer(place, shape.vocab_size)
    else:
        tokenizer, warnings = find_tokenizer(place)
    weights = read_weights(path, shape)
    check_finite(path, weights)
    return Imported(shape, weights, tokenizer, warnings=warnings + check_vocabulary(path, shape, tokenizer))


def read_shape(path: Path) -> ModelConfig:
    """The model that a header describes. UserError unless the file is exactly as long as it says."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) >= 8 and struct.unpack("<I", header[:4])[0] == MAGIC:
        version = struct.unpack("<i", header[4:8])[0]
        raise UserError(f"{path} is version {version} of the format; export version 0 (float32) with llama2.c.")
    values = dict(zip(FIELDS, struct.unpack("<7i", header[:28].ljust(28, b"\0")), strict=True))
    tied, values["vocab_size"] = values["vocab_size"] > 0, abs(values["vocab_size"])
    size = path.stat().st_size
    sound = all(0 < value < LARGEST for value in values.values()) and 4 * values["dim"] * values["n_layers"] <= size
    heads, keys = values["n_heads"], values["n_kv_heads"]
    if not sound or values["dim"] % (2 * heads) or heads % keys:
        raise UserError(f"{path} is not a model of llama2.c: its header holds {', '.join(map(str, values.values()))}.")
    shape = ModelConfig(
        n_layer=values["n_layers"],
        d_model=values["dim"],
        n_head=heads,
        n_kv_head=keys,
        d_ff=values["hidden_dim"],
        context=values["seq_len"],
        vocab_size=values["vocab_size"],
        norm_eps=EPSILON,
        rope_theta=THETA,
        tied_head=tied,
    )
    expected = 28 + 4 * (sum(math.prod(size) for _, size in file_order(shape)) + angle_numbers(shape))
    if size != expected:
        raise UserError(f"{path} is cut off or damaged: {size:,} bytes instead of {expected:,}.")
    return shape


def angle_numbers(c: ModelConfig) -> int:
    """How many numbers the two tables of angles hold."""
    return 2 * c.context * (c.d_model // c.n_head // 2)


def file_order(c: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight in the order of version 0; the tables of angles are before the head."""
    d, kv = c.d_model, c.n_kv_head * (c.d_model // c.n_head)
    sizes: dict[str, tuple[int, ...]] = dict.fromkeys(ORDER, (d, d))
    sizes |= {"attn_norm.gain": (d,), "mlp_norm.gain": (d,), "attn.k.weight": (kv, d), "attn.v.weight": (kv, d)}
    sizes |= {"mlp.gate.weight": (c.d_ff, d), "mlp.up.weight": (c.d_ff, d), "mlp.down.weight": (d, c.d_ff)}
    blocks = [(f"blocks.{layer}.{part}", sizes[part]) for part in ORDER for layer in range(c.n_layer)]
    head = [] if c.tied_head else [("head.weight", (c.vocab_size, d))]
    return [("embedding.weight", (c.vocab_size, d)), *blocks, ("final_norm.gain", (d,)), *head]


def read_weights(path: Path, c: ModelConfig) -> dict[str, Tensor]:
    import torch

    values = np.fromfile(path, np.float32, offset=28)
    weights, place = {}, 0
    for name, size in file_order(c):
        place += angle_numbers(c) if name == "head.weight" else 0
        count = math.prod(size)
        weights[name] = torch.from_numpy(values[place : place + count].reshape(size).copy())
        place += count
    return weights


def read_tokenizer(path: Path, rows: int) -> SentencePieceTokenizer:
    """The SentencePiece model in a tokenizer.bin with `rows` tokens."""
    try:
        content = read_bytes(path, MAX_MODEL_BYTES)
    except FileNotFoundError:
        raise TokenizerNeeded(f"there is no {path}; name the tokenizer with --tokenizer.") from None
    except (OSError, Malformed) as error:
        raise TokenizerNeeded(
            f"{path} cannot be read ({reason_of(error)}); name the tokenizer with --tokenizer."
        ) from error
    pieces, place = [], 4
    for row in range(rows):
        score, size = struct.unpack("<fI", content[place : place + 8].ljust(8, b"\0"))
        text = content[place + 8 : place + 8 + size]
        if len(text) < size or not size:
            raise UserError(f"{path} ends at token {row:,} of {rows:,}: it is cut off, or of another model.")
        pieces.append((text, score))
        place += 8 + size
    if place != len(content):
        raise UserError(f"{path} holds more than the model's {rows:,} tokens; it is of another model.")
    try:
        return SentencePieceTokenizer(dump_model([piece_of(row, *piece) for row, piece in enumerate(pieces)]))
    except (ValueError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}); get it again from its source.") from error


def piece_of(row: int, text: bytes, score: float) -> tuple[str, float, int]:
    """The SentencePiece piece of a token."""
    if row <= END:
        return (("<unk>", "<s>", "</s>")[row], 0.0, UNKNOWN if row == 0 else CONTROL)
    if row < FIRST_BYTE + 256:
        return (f"<0x{row - FIRST_BYTE:02X}>", 0.0, BYTE)
    if score == np.float32(NEVER):
        return (f"<pad{row}>", 0.0, UNUSED)
    return (text.decode().replace(" ", SPACE), score, NORMAL)
