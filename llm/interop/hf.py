"""A folder in Hugging Face's format: write one from a checkpoint, and read one.

`AutoModelForCausalLM` and `AutoTokenizer` load what is written without remote code. config.json has our own table
`llm_workbench`: the layout of the weights before the export and the chat template, so that an import restores both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.config.schema import ModelConfig
from llm.errors import UserError
from llm.events import Progress
from llm.files import write_json
from llm.interop.architectures import (
    ARCHITECTURES,
    LLAMA,
    Architecture,
    absent_biases,
    architecture_of,
    nearest_misfit,
)
from llm.interop.generation import generation_config, read_decode
from llm.interop.imported import (
    Imported,
    TokenizerNeeded,
    check_finite,
    check_shape,
    check_tensors,
    check_vocabulary,
    expected_shapes,
    find_tokenizer,
    read_headers,
    read_json_file,
)
from llm.interop.model_card import RECIPE, model_card, recipe
from llm.interop.source import Source, end_token_id, eos_token_ids, to_dtype
from llm.interop.tokenizer_json import dump_tokenizer_json
from llm.reader import WRONG_SHAPE
from llm.run.checkpoints import FILE_NAME
from llm.tokenizer import Tokenizer
from llm.tokenizer.chat_template import ChatTemplate
from llm.tokenizer.spm import SentencePieceTokenizer

if TYPE_CHECKING:
    from torch import Tensor

Json = dict[str, Any]

SHARD_BYTES = 4 << 30
OWN_TABLE = "llm_workbench"
TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
USAGE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
```
"""


def problem(shape: ModelConfig, tokenizer: Tokenizer) -> str:
    """Why a model cannot be a Hugging Face folder; "" where it can."""
    reasons = [f"transformers has no class for this model: {reason}"] if (reason := nearest_misfit(shape)) else []
    if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.rewrites:
        rewrites = ", ".join(tokenizer.rewrites)
        reasons.append(f"tokenizer.json cannot express how the SentencePiece model rewrites text ({rewrites})")
    return "; ".join(reasons)


def write(source: Source, folder: Path, dtype: str, shard_bytes: int = SHARD_BYTES) -> Iterator[Progress]:
    """Write the folder: configuration, tokenizer, weights and model card."""
    from llm.interop.weights import NAMINGS, convert, to_names

    kind = architecture_of(source.shape)
    assert kind is not None, "problem() is asked first"
    weights = to_names(convert(source.weights(), source.shape, kind.layout(source.shape)), NAMINGS[kind.name])
    if source.shape.tied_head:
        del weights["lm_head.weight"]
    write_tokenizer(source, folder)
    write_json(folder / "config.json", config_json(source, kind, dtype))
    write_json(folder / "generation_config.json", generation_config(source.config.decode, source.tokenizer))
    (folder / "README.md").write_bytes(model_card(source, "transformers", USAGE))
    (folder / RECIPE).write_bytes(recipe(source.config))
    yield from write_shards(weights, folder, dtype, shard_bytes)


def write_shards(weights: Mapping[str, Tensor], folder: Path, dtype: str, shard_bytes: int) -> Iterator[Progress]:
    """Write the weights in files of at most `shard_bytes` (a larger tensor alone in one), with an index where there are
    several."""
    from llm.interop.source import torch_dtype
    from llm.training.tensor_file import write_tensors

    width = torch_dtype(dtype).itemsize
    shards: list[list[str]] = [[]]
    size = 0
    for name, value in weights.items():
        if shards[-1] and size + width * value.numel() > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += width * value.numel()
    total = width * sum(value.numel() for value in weights.values())
    done = 0
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        yield Progress(stage="Writing weights", done=done / 1e6, total=total / 1e6, unit="MB")
        part = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = {name: to_dtype(name, weights[name], dtype) for name in names}
        write_tensors(folder / part, tensors, metadata={"format": "pt"})
        places |= dict.fromkeys(names, part)
        done += sum(value.nbytes for value in tensors.values())
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    yield Progress(stage="Writing weights", done=total / 1e6, total=total / 1e6, unit="MB")


def config_json(source: Source, kind: Architecture, dtype: str) -> Json:
    """config.json. `rope_theta` is for transformers 4, which does not read `rope_parameters`."""
    settings = kind.settings(kind.layout(source.shape))
    if "rope_parameters" in settings:
        settings["rope_theta"] = source.shape.rope_theta
    return {
        "architectures": [kind.name],
        "model_type": kind.model_type,
        **settings,
        "bos_token_id": source.tokenizer.separator,
        "eos_token_id": eos_token_ids(source.tokenizer),
        "torch_dtype": TORCH_NAMES[dtype],
        OWN_TABLE: {"model": asdict(source.shape), "ids": source.tokenizer.vocab_size} | own_template(source.tokenizer),
    }


def own_template(tokenizer: Tokenizer) -> Json:
    """Our record of the chat template; an import does not read its Jinja form."""
    return {} if tokenizer.chat_template is None else {"chat_template": tokenizer.chat_template.to_record()}


def write_tokenizer(source: Source, folder: Path) -> None:
    """tokenizer.json, and for SentencePiece also tokenizer.model."""
    tokenizer = source.tokenizer
    names = {token_id: text for text, token_id in tokenizer.special_tokens.items()}
    begin, end = (
        None if token_id is None else names[token_id] for token_id in (tokenizer.separator, end_token_id(tokenizer))
    )
    # Other classes replace the pre-tokenizer, findings/transformers-replaces-the-pre-tokenizer.sh.
    settings: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.shape.context,
        "clean_up_tokenization_spaces": False,
        "bos_token": begin,
        "eos_token": end,
        "pad_token": end,
    }
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template.to_jinja(tokenizer.special_tokens)
    if isinstance(tokenizer, SentencePieceTokenizer):
        (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes)
        settings |= {"add_bos_token": False, "add_eos_token": False}
    write_json(folder / "tokenizer_config.json", {key: value for key, value in settings.items() if value is not None})
    (folder / "tokenizer.json").write_bytes(dump_tokenizer_json(tokenizer))


# --- reading

INDEX = "model.safetensors.index.json"
IGNORED = {"GPT2LMHeadModel": (".attn.bias", ".attn.masked_bias"), "LlamaForCausalLM": (".rotary_emb.inv_freq",)}
"""Endings of tensors that older files hold besides the weights."""


def is_folder(path: Path) -> bool:
    """Whether `path` looks like a folder of this format."""
    return (path / "config.json").is_file()


def read(folder: Path, tokenizer_path: Path | None) -> Generator[Progress, None, Imported]:
    """The model in `folder`. UserError names what is missing, damaged or not supported."""
    from llm.interop.weights import NAMINGS, convert, from_names, weight_shapes

    settings = read_json_file(folder / "config.json")
    kind = find_architecture(folder, settings)
    shape = read_shape(folder, kind, settings)
    found_tokenizer, warnings = find_tokenizer(tokenizer_path or folder, separator_token(folder))
    tokenizer = with_own_template(found_tokenizer, settings)
    warnings += (*check_vocabulary(folder, shape, tokenizer), *template_warnings(folder, tokenizer))
    if tokenizer_path is None:
        check_own_vocabulary(folder, settings, shape, tokenizer)
    files = weight_files(folder)
    entries = read_headers(files)
    prefix = "" if any(name.startswith(("transformer.", "model.")) for name in entries) else "transformer."
    ignored = IGNORED.get(kind.name, ())
    found = {prefix + name: entry.shape for name, entry in entries.items() if not name.endswith(ignored)}
    expected = expected_shapes(folder, shape, NAMINGS[kind.name], len(entries))
    absent = absent_biases(settings) if kind is LLAMA else ()
    absent_names = {name for name in expected if name.endswith("bias") and any(part in name for part in absent)}
    if shape.tied_head:
        expected.pop("lm_head.weight")
        found.pop("lm_head.weight", None)
    check_tensors(folder, found, {name: size for name, size in expected.items() if name not in absent_names})
    tensors = yield from read_files(files, prefix)
    check_finite(folder, tensors)
    check_tied_head(folder, shape, kind, tensors)
    tensors |= {name: zeros_like_embedding(expected[name], tensors, kind) for name in absent_names}
    weights = from_names(tensors, NAMINGS[kind.name], weight_shapes(shape))
    original = original_shape(settings, kind, shape)
    if original is not None:
        with suppress(ValueError):  # weights changed after the export stay in the folder's layout
            weights, shape = convert(weights, shape, original), original
    return Imported(shape, weights, tokenizer, read_decode(folder), warnings)


def find_architecture(folder: Path, settings: Json) -> Architecture:
    named = settings.get("architectures") or []
    name = str(named[0]) if isinstance(named, list) and named else ""
    for kind in ARCHITECTURES:
        if kind.name == name or (not name and kind.model_type == settings.get("model_type")):
            return kind
    known = ", ".join(kind.name for kind in ARCHITECTURES)
    raise UserError(f"{folder} holds a {name or settings.get('model_type')!s:.60}; only {known} can be imported.")


def read_shape(folder: Path, kind: Architecture, settings: Json) -> ModelConfig:
    """The model that config.json describes."""
    path = folder / "config.json"
    if settings.get("quantization_config"):
        raise UserError(f"{path} describes a quantized model; import one of float weights.")
    try:
        shape = kind.read(settings)
        check_shape(shape)
    except KeyError as error:
        raise UserError(f"{path} has no {error.args[0]}; get it again from its source.") from error
    except WRONG_SHAPE as error:
        raise UserError(f"{path} cannot be used: {str(error).rstrip('.')}.") from error
    return shape


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    if (folder / INDEX).is_file():
        places = read_json_file(folder / INDEX).get("weight_map")
        names = sorted(set(places.values())) if isinstance(places, dict) else []
        if not names or not all(isinstance(name, str) and FILE_NAME.fullmatch(name) for name in names):
            raise UserError(f"{folder / INDEX} does not name files of its folder; get it again from its source.")
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if any(folder.glob("*.bin")):
        raise UserError(
            f"{folder} holds weights as a pickle, which may run code when it is loaded; save it as safetensors with "
            "save_pretrained in transformers."
        )
    raise UserError(f"{folder} holds no model.safetensors; name the folder of a whole model.")


def read_files(files: list[Path], prefix: str) -> Generator[Progress, None, dict[str, Tensor]]:
    from llm.training.tensor_file import read_tensors

    tensors: dict[str, Tensor] = {}
    for number, path in enumerate(files):
        yield Progress(stage="Reading weights", done=number, total=len(files), unit="files")
        tensors |= {prefix + name: value for name, value in read_tensors(path).items()}
    return tensors


def check_tied_head(folder: Path, shape: ModelConfig, kind: Architecture, tensors: Mapping[str, Tensor]) -> None:
    import torch

    from llm.interop.weights import EMBEDDING, NAMINGS

    head = tensors.get("lm_head.weight")
    if shape.tied_head and head is not None and not torch.equal(head, tensors[NAMINGS[kind.name].name(EMBEDDING)]):
        raise UserError(
            f"{folder}: lm_head.weight differs from the embedding, but config.json says that they are one "
            "(tie_word_embeddings); set it to false there."
        )


def zeros_like_embedding(size: tuple[int, ...], tensors: Mapping[str, Tensor], kind: Architecture) -> Tensor:
    import torch

    from llm.interop.weights import EMBEDDING, NAMINGS

    return torch.zeros(size, dtype=tensors[NAMINGS[kind.name].name(EMBEDDING)].dtype)


def original_shape(settings: Json, kind: Architecture, shape: ModelConfig) -> ModelConfig | None:
    """The model before our export, if config.json names one that exports to the same settings."""
    try:
        original = ModelConfig(**settings[OWN_TABLE]["model"])
        check_shape(original)
        same = not kind.misfits(original) and kind.settings(kind.layout(original)) == kind.settings(shape)
    except WRONG_SHAPE:
        return None
    return original if same else None


def with_own_template(tokenizer: Tokenizer, settings: Json) -> Tokenizer:
    """`tokenizer` with the chat template of our export, if config.json holds one."""
    try:
        template = ChatTemplate.from_record(settings[OWN_TABLE]["chat_template"])
        return tokenizer.with_chat_template(template)
    except (UserError, *WRONG_SHAPE):
        return tokenizer


def check_own_vocabulary(folder: Path, settings: Json, shape: ModelConfig, tokenizer: Tokenizer) -> None:
    """TokenizerNeeded where the tokenizer in the folder has another number of ids than the one of our export, or, in a
    folder of another program, leaves more than half of the rows without a token."""
    own, rows, ids = settings.get(OWN_TABLE), shape.vocab_size, tokenizer.vocab_size
    expected = own.get("ids", ids) if isinstance(own, dict) else max(ids, rows // 2)
    if ids != expected:
        raise TokenizerNeeded(
            f"the tokenizer of {folder} has {ids:,} ids, and the model {rows:,} rows; it belongs to another model. "
            "Name the right one with --tokenizer."
        )


def template_warnings(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """A warning where the folder has a chat template of another program."""
    if tokenizer.chat_template is not None:
        return []
    path = folder / "tokenizer_config.json"
    has_template = (folder / "chat_template.jinja").is_file() or (
        path.is_file() and bool(read_json_file(path).get("chat_template"))
    )
    sentence = "The chat template is a program (Jinja) and is not read: the model completes text; sft adds a template."
    return [sentence] if has_template else []


def separator_token(folder: Path) -> str:
    """The token that ends a text, as tokenizer_config.json names it; "" where it does not. Where we wrote the folder,
    bos_token is that token: eos_token may be the end of an answer."""
    path = folder / "tokenizer_config.json"
    record = read_json_file(path) if path.is_file() else {}
    own = OWN_TABLE in read_json_file(folder / "config.json")
    token = record.get("bos_token" if own else "eos_token")
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
