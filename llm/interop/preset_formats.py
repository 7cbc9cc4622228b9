"""The formats that a model will fit, from its configuration. Loads tokenizers: run it in a thread."""

from __future__ import annotations

from collections.abc import Iterator

from llm.config import RunConfig, TokenizerConfig, resolve_model, with_overrides
from llm.config.fit import expected_vocab_size
from llm.errors import UserError
from llm.interop.formats import fitting_formats, in_words
from llm.tokenizer import RankTokenizer, Tokenizer, build_tokenizer
from llm.tokenizer.patterns import resolve_pattern
from llm.tokenizer.pretrained import ENCODINGS

SAMPLE = "Once upon a time"


def describe_formats(config: RunConfig) -> str:
    """The formats that a model of `config` will fit, and the change with which it would fit more; "" where that is not
    known before training."""
    try:
        found = formats_of(config)
        return "; ".join([", ".join(found), *with_changes(config, found)])
    except UserError:  # also of fields that contradict each other, which the Presets screen reports
        return ""


def with_changes(config: RunConfig, found: list[str]) -> list[str]:
    """What a field would have to be for more formats than `found`."""
    gained = {change: formats_of(with_overrides(config, [change])) for change in changes(config)}
    more = {change: [name for name in names if name not in found] for change, names in gained.items()}
    return [f"with {path} {value} also {in_words(names)}" for (path, value), names in more.items() if names]


def changes(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Fields that keep a model from a format, with the value that fits."""
    if config.model.embedding_conv:
        yield "model.embedding_conv", "0"
    if config.tokenizer.kind == "bpe" and not config.tokenizer.path:
        yield "tokenizer.pattern", "gpt4"


def formats_of(config: RunConfig) -> list[str]:
    """The formats that a model of `config` will fit. UserError where its shape or tokenizer is unknown."""
    shape = resolve_model(config.model, expected_vocab_size(config.tokenizer))
    return fitting_formats(shape, stand_in(config.tokenizer))


def stand_in(config: TokenizerConfig) -> Tokenizer:
    """A tokenizer that fits the same formats as the one that will be trained; that of `config.path` itself."""
    if config.path or config.kind not in ("bpe", "tiktoken"):
        return build_tokenizer(config, [SAMPLE])
    encoding = ENCODINGS.get(config.encoding)
    pattern = encoding.pattern if config.kind == "tiktoken" and encoding else resolve_pattern(config.pattern)
    return RankTokenizer(config.kind, {bytes([value]): value for value in range(256)}, {}, pattern)
