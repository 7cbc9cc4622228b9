"""Tokenizers: text to ids and back.

`build_tokenizer` trains or loads what a configuration asks for, `load_tokenizer` reads what `Tokenizer.save` wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import ConfigError, Problem, UserError, WrongUse
from llm.reader import WRONG_SHAPE
from llm.tokenizer.base import Progress, Tokenizer, number_special_tokens
from llm.tokenizer.bpe import READING_SHARE, SPLIT_PATTERN, train_bpe
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.gpt2files import load_gpt2_files
from llm.tokenizer.pretrained import load_encoding
from llm.tokenizer.ranks import RankTokenizer
from llm.tokenizer.saved import RECORD, is_saved_here, read_record
from llm.tokenizer.spm import SentencePieceTokenizer
from llm.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    from llm.config.schema import TokenizerConfig

__all__ = ["Progress", "StreamDecoder", "Tokenizer", "build_tokenizer", "load_tokenizer", "train_bpe"]


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str], progress: Progress | None = None) -> Tokenizer:
    """The tokenizer that `config` asks for: loaded from `config.path`, or trained on `texts`.

    BPE and SentencePiece read the first `train_mb` megabytes of `texts`, characters all of it, the others none.
    A ready-made vocabulary keeps its own special tokens, and the configured ones are added where it lacks them;
    SentencePiece has <s> and </s> only.
    When the text does not yield `vocab_size` tokens, the tokenizer has fewer and its `vocab_size` says so.
    `progress` is called with (done, 1.0).
    """
    tokenizer = _load_existing(config) if config.path else _train(config, texts, progress)
    if progress:
        progress(1.0, 1.0)
    return tokenizer


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer that was saved in `directory`. Nothing but JSON and plain tables is read, no code is run."""
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
        raise UserError(f"{directory / RECORD} has the unknown kind {record['kind']!r}; the kinds are {known}.")
    try:
        tokenizer = loaders[record["kind"]](record, directory)
        if tokenizer.special_tokens != record["special_tokens"]:
            raise ValueError("its special tokens have other ids")
        return tokenizer
    except (OSError, *WRONG_SHAPE) as error:
        raise UserError(f"The tokenizer in {directory} is damaged ({error}); restore it from a copy.") from error


def _load_existing(config: TokenizerConfig) -> Tokenizer:
    path = Path(config.path).expanduser()
    if not path.exists():
        raise WrongUse(f"There is no tokenizer at {path}; check tokenizer.path, or leave it empty to train one.")
    if path.is_dir() and is_saved_here(path):
        tokenizer = load_tokenizer(path)
        if tokenizer.kind != config.kind:
            raise WrongUse(f"{path} holds a tokenizer of kind {tokenizer.kind}; set tokenizer.kind to that.")
        return tokenizer
    if config.kind == "sentencepiece":
        return SentencePieceTokenizer.from_file(path)
    if config.kind == "gpt2-files":
        return load_gpt2_files(path, config.special_tokens)
    raise WrongUse(f"{path} holds no saved tokenizer; name a directory that this program has written.")


def _train(config: TokenizerConfig, texts: Iterable[str], progress: Progress | None) -> Tokenizer:
    if config.kind == "byte":
        return ByteTokenizer(config.special_tokens)
    if config.kind == "char":
        return CharTokenizer.train(texts, config.special_tokens)
    if config.kind == "tiktoken":
        return load_encoding(config.encoding, config.special_tokens)
    if config.kind == "gpt2-files":
        raise WrongUse("A tokenizer of kind gpt2-files is loaded: set tokenizer.path to the folder of vocab.json.")
    beginning = _first_megabytes(texts, config.train_mb, progress)
    if config.kind == "sentencepiece":
        return SentencePieceTokenizer.train(beginning, config.vocab_size)
    return _train_bpe_tokenizer(config, beginning, progress)


def _train_bpe_tokenizer(config: TokenizerConfig, texts: Iterable[str], progress: Progress | None) -> RankTokenizer:
    least = 256 + len(config.special_tokens)
    if config.vocab_size < least:
        message = f"{config.vocab_size} is too small for 256 bytes and the special tokens; set it to {least} or more."
        raise ConfigError([Problem("tokenizer.vocab_size", message)])
    learnt = train_bpe(texts, config.vocab_size - len(config.special_tokens), progress=progress)
    ranks = {bytes([value]): value for value in range(256)}
    ranks.update((token, 256 + index) for index, token in enumerate(learnt))
    return RankTokenizer("bpe", ranks, number_special_tokens(config.special_tokens, len(ranks)), SPLIT_PATTERN)


def _first_megabytes(texts: Iterable[str], megabytes: float, progress: Progress | None) -> Iterator[str]:
    """`texts` up to about `megabytes` (10^6 bytes of UTF-8); the last one is cut off there."""
    budget = megabytes * 1e6
    read = 0
    for text in texts:
        size = len(text.encode(errors="replace"))
        if read + size > budget:
            yield text[: int(len(text) * (budget - read) / size)]
            return
        yield text
        read += size
        if progress:
            progress(READING_SHARE * read / budget, 1.0)
