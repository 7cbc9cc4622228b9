"""Tokenizers: text to ids and back.

`build_tokenizer` trains or loads the tokenizer of a configuration, `load_tokenizer` reads a saved one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import ConfigError, Problem, UserError, WrongUse
from llm.files import expand_user
from llm.reader import WRONG_SHAPE
from llm.tokenizer.base import Progress, Tokenizer
from llm.tokenizer.bpe import train_bpe, train_merges
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.chat_template import ChatTemplate
from llm.tokenizer.gpt2files import load_gpt2_files
from llm.tokenizer.patterns import resolve_pattern
from llm.tokenizer.pretrained import load_encoding
from llm.tokenizer.ranks import RankTokenizer
from llm.tokenizer.sampling import Sample, take_sample
from llm.tokenizer.saved import RECORD, TEMPLATE, is_saved_here, read_record
from llm.tokenizer.special_tokens import number_special_tokens
from llm.tokenizer.spm import SentencePieceTokenizer
from llm.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    from llm.config.schema import TokenizerConfig


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of `config`: loaded from `config.path`, or trained on `texts` in this process.

    BPE and SentencePiece train on a sample of `train_mb` megabytes, characters on all text, the others on none. A
    pretrained vocabulary keeps its special tokens, and the configured ones are added; SentencePiece has <s> and </s>
    only. A small text may yield fewer than `vocab_size` tokens.
    """
    if not is_trained_on_sample(config):
        return _build_without_sample(config, texts)
    return train_tokenizer(config, take_sample(texts, config.train_mb, config.train_sample).texts)


def is_trained_on_sample(config: TokenizerConfig) -> bool:
    """Whether the tokenizer of `config` is trained on a sample of the text."""
    return not config.path and config.kind in ("bpe", "sentencepiece")


def train_tokenizer(config: TokenizerConfig, texts: Sequence[str], progress: Progress | None = None) -> Tokenizer:
    """A BPE or SentencePiece tokenizer trained on all of `texts`."""
    if config.kind == "sentencepiece":
        return SentencePieceTokenizer.train(texts, config.vocab_size)
    return _train_bpe_tokenizer(config, texts, progress)


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer saved in `directory`. Reads only JSON and plain tables; runs no code."""
    record = read_record(directory)
    loaders: Mapping[str, Callable[[Mapping[str, Any], Path], Tokenizer]] = {
        "byte": ByteTokenizer.from_saved,
        "char": CharTokenizer.from_saved,
        "bpe": RankTokenizer.from_saved,
        "tiktoken": RankTokenizer.from_saved,
        "gpt2-files": RankTokenizer.from_saved,
        "sentencepiece": SentencePieceTokenizer.from_saved,
    }
    if not isinstance(record["kind"], str) or record["kind"] not in loaders:
        known = ", ".join(loaders)
        raise UserError(f"{directory / RECORD} has the unknown kind {record['kind']!r}; known kinds: {known}.")
    try:
        tokenizer = loaders[record["kind"]](record, directory)
        if TEMPLATE in record:
            tokenizer = tokenizer.with_chat_template(ChatTemplate.from_record(record[TEMPLATE]))
        if tokenizer.special_tokens != record["special_tokens"]:
            raise ValueError("its special tokens have other ids")
        return tokenizer
    except (OSError, *WRONG_SHAPE) as error:
        raise UserError(f"The tokenizer in {directory} is damaged ({error}); restore it from a backup.") from error


def _load_existing(config: TokenizerConfig) -> Tokenizer:
    path = expand_user(config.path)
    if not path.exists():
        raise WrongUse(f"There is no tokenizer at {path}; check tokenizer.path, or leave it empty to train one.")
    if path.is_dir() and is_saved_here(path):
        tokenizer = load_tokenizer(path)
        if tokenizer.kind != config.kind:
            raise WrongUse(f"{path} holds a tokenizer of kind {tokenizer.kind}; set tokenizer.kind to it.")
        return tokenizer
    if config.kind == "sentencepiece":
        return SentencePieceTokenizer.from_file(path)
    if config.kind == "gpt2-files":
        return load_gpt2_files(path, config.special_tokens)
    raise WrongUse(f"{path} holds no saved tokenizer; name a folder written by llm-workbench.")


def _build_without_sample(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    if config.path:
        return _load_existing(config)
    if config.kind == "byte":
        return ByteTokenizer(config.special_tokens)
    if config.kind == "char":
        return CharTokenizer.train(texts, config.special_tokens)
    if config.kind == "tiktoken":
        return load_encoding(config.encoding, config.special_tokens)
    raise WrongUse("A tokenizer of kind gpt2-files is not trained; set tokenizer.path to the folder of vocab.json.")


def _train_bpe_tokenizer(config: TokenizerConfig, texts: Iterable[str], progress: Progress | None) -> RankTokenizer:
    least = 256 + len(config.special_tokens)
    if config.vocab_size < least:
        message = f"{config.vocab_size} is too small for 256 bytes and the special tokens; set it to {least} or more."
        raise ConfigError([Problem("tokenizer.vocab_size", message)])
    pattern = resolve_pattern(config.pattern)
    size = config.vocab_size - len(config.special_tokens)
    learned = train_bpe(texts, size, pattern=pattern, ties=config.ties, progress=progress)
    tokens = dict.fromkeys([*(bytes([value]) for value in range(256)), *learned])  # two merges may make the same token
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return RankTokenizer("bpe", ranks, number_special_tokens(config.special_tokens, len(ranks)), pattern)
