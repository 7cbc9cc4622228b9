"""A model read from another program's files, and the checks that all readers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.config import DecodeConfig, fields_of
from llm.config.fields import validate
from llm.config.resolve import check_resolved
from llm.config.schema import ModelConfig
from llm.errors import UserError
from llm.files import read_json
from llm.run.shapes import BITS, OTHER_BITS, TensorEntry, read_header
from llm.tokenizer import Tokenizer, load_tokenizer
from llm.tokenizer.gpt2files import FILE_NAMES, load_gpt2_files
from llm.tokenizer.saved import is_saved_here
from llm.tokenizer.spm import SentencePieceTokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from llm.interop.weights import Naming

MAX_TOKENIZER_BYTES = 64 << 20
FLOATS = ("F64", "F32", "F16", "BF16")
LISTED = 20  # tensors that are named in an error
GPT2_NAMES = frozenset(name for names in FILE_NAMES for name in names)
TOKENIZER_FILES = "tokenizer.model, tokenizer.json or vocab.json with merges.txt"


class TokenizerNeeded(UserError):
    """The model's own files hold no tokenizer that can be read: another must be named."""


@dataclass(frozen=True)
class Imported:
    """`weights` are by our names, in the dtype of the file. `decode` holds the sampling parameters of the folder."""

    shape: ModelConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    warnings: tuple[str, ...] = ()


def check_shape(shape: ModelConfig) -> None:
    """ValueError for a value of another type or out of bounds, as a file of the configuration would raise it, and for
    sizes that do not fit together."""
    for item in fields_of(ModelConfig):
        try:
            validate(item, getattr(shape, item.name))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{item.name} {error}") from error
    check_resolved(shape)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def expected_shapes(path: Path, shape: ModelConfig, naming: Naming, tensors: int) -> dict[str, tuple[int, ...]]:
    """The shape of every weight by its name in another program. UserError for more layers than the `tensors` in `path`,
    and for sizes that no memory holds."""
    import torch

    from llm.interop.weights import to_names, weight_shapes

    if shape.n_layer > tensors:  # before a model of any size is built
        raise UserError(f"{path} holds {tensors} tensors, but its configuration describes {shape.n_layer} layers.")
    try:
        weights = {name: torch.empty(size, device="meta") for name, size in weight_shapes(shape).items()}
        return shapes_of(to_names(weights, naming))
    except (OverflowError, RuntimeError) as error:  # sizes beyond 64 bits
        raise UserError(f"{path}: the configuration describes a model that no memory holds; get it again.") from error


def check_tensors(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """UserError that names every tensor that is missing, unexpected or of another shape."""
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is unexpected" for name in found if name not in expected]
    faults += [
        f"{name} has the shape {size_text(found[name])} instead of {size_text(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if faults:
        rest = [f"and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        listed = "; ".join([*faults[:LISTED], *rest])
        raise UserError(f"{path} does not hold the weights that its configuration describes: {listed}.")


def size_text(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "a number"


def check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """UserError for weights that are NaN or infinite."""
    import torch

    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: {name} holds values that are NaN or infinite; get the file again.")


def check_vocabulary(path: Path, shape: ModelConfig, tokenizer: Tokenizer) -> tuple[str, ...]:
    """UserError where the tokenizer has more ids than the model has rows. A warning for rows without a token."""
    rows, ids = shape.vocab_size, tokenizer.vocab_size
    if ids > rows:
        raise TokenizerNeeded(
            f"the tokenizer of {path} has {ids:,} ids, but the model only {rows:,} rows; it belongs to another model. "
            "Name the right one with --tokenizer."
        )
    return (f"{rows - ids:,} of the model's {rows:,} ids have no token.",) if ids < rows else ()


def read_headers(paths: Iterable[Path]) -> dict[str, TensorEntry]:
    """The tensors in all files by name. UserError for a damaged file, and for dtypes that are not weights."""
    entries: dict[str, TensorEntry] = {}
    for path in paths:
        entries |= (header := read_header(path, "get it again from its source", BITS | OTHER_BITS))
        for name, entry in header.items():
            if entry.dtype not in FLOATS:
                raise UserError(f"{path}: {name} is {entry.dtype}, a quantized model; import one of float weights.")
    return entries


def find_tokenizer(path: Path, end: str = "") -> tuple[Tokenizer, tuple[str, ...]]:
    """The tokenizer in a folder or file, and warnings. `end` is the token that ends a text, where it is known."""
    from llm.interop.tokenizer_json import parse_tokenizer_json

    if path.is_dir() and is_saved_here(path):
        return load_tokenizer(path), ()
    file = tokenizer_file(path)
    if file.suffix == ".model":
        return SentencePieceTokenizer.from_file(file), ()
    if file.name in GPT2_NAMES:
        return load_gpt2_files(file, (end,) if end else ()), ()
    tokenizer, warning = parse_tokenizer_json(read_json(file, MAX_TOKENIZER_BYTES), end)
    return tokenizer, (warning,) if warning else ()


def tokenizer_file(path: Path) -> Path:
    """`path` itself if it is a tokenizer's file, else the first such file in the folder. Raises TokenizerNeeded."""
    if path.is_file() and (path.suffix in (".model", ".json") or path.name in GPT2_NAMES):
        return path
    folder = path if path.is_dir() else path.parent
    gpt2_files = [vocab for vocab, merges in FILE_NAMES if (folder / merges).is_file()]
    for name in ("tokenizer.model", "tokenizer.json", *gpt2_files):
        if (folder / name).is_file():
            return folder / name
    raise TokenizerNeeded(f"{folder} holds no tokenizer ({TOKENIZER_FILES}); name one with --tokenizer.")


def read_json_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError where it is none."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} is not a JSON object; get it again from its source.")
    return record
