"""What a configuration wants to learn from: text to tokenize before training, Parquet to stream, or token files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from llm.config.schema import RunConfig
from llm.data.text.corpora import Advance, Corpus, digest, open_corpus, separator_of
from llm.data.text.datasets import located
from llm.data.text.file_kinds import kind_of
from llm.data.text.find_files import describe_passed_over, find_files, look_for_files
from llm.data.text.parquet import RowGroups, StreamedCorpus
from llm.data.text.text_files import Document
from llm.data.text.validation_split import Unit, units
from llm.data.tokens.token_files import TokenCorpus
from llm.data.tokens.token_paths import is_token_corpus
from llm.errors import ConfigError, Problem

TRAINED_KINDS = ("char", "bpe", "sentencepiece")
SAMPLED_GROUPS = 64  # row groups of a streamed corpus that a tokenizer learns from, at least
SAMPLE_BYTES = 1 << 20  # of a streamed corpus, tokenized before training: to probe the machine, to evaluate on


class TextSource:
    """A corpus that is tokenized before training, and what of it, or which other one, is for validation."""

    stream: RowGroups | None = None

    def __init__(self, config: RunConfig, home: Path) -> None:
        self.data = config.data
        self.corpus = open_corpus(config.data, home, separator_of(config))
        self.validation = validation_corpus(config, home)
        self.name = self.corpus.name
        self.size_bytes = self.corpus.size_bytes + (self.validation.size_bytes if self.validation else 0)

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        """Hexadecimal digest of what decides the text. `advance` is told of bytes read to find it."""
        identity = self.corpus.fingerprint(advance)
        return digest(identity, self.validation.fingerprint(advance)) if self.validation else identity

    @property
    def needs_character_count(self) -> bool:
        """Whether the last characters are held out, to find which their number must be known."""
        return self.data.split == "tail" and self.validation is None

    def units(self, characters: int = 0) -> Iterator[Unit]:
        """All text to tokenize, each stretch assigned to a side. `characters`: all there are, where that is needed."""
        if self.validation is None:
            return units(self.corpus, self.data, characters)
        return itertools.chain(whole(self.corpus, held_out=False), whole(self.validation, held_out=True))

    def texts(self, characters: int, *, held_out_too: bool) -> Iterator[str]:
        """The text to learn a tokenizer from."""
        for unit in self.units(characters):
            yield from unit.pieces if held_out_too or not unit.held_out else ()

    def texts_to_sample(self, characters: int, spread_bytes: float | None) -> Iterator[str]:
        """The text to take a sample of, for a tokenizer: all there is for training."""
        return self.texts(characters, held_out_too=False)

    def warnings(self) -> list[str]:
        return [*self.corpus.warnings(), *(self.validation.warnings() if self.validation else ())]


class StreamSource:
    """Parquet files that are tokenized while training; the validation text and a sample of the rest are, before."""

    def __init__(self, config: RunConfig, home: Path) -> None:
        data = config.data
        self.name = data.corpus
        self.validation = validation_corpus(config, home)
        paths, self._passed_over = look_for_files(data.corpus)
        corpus = StreamedCorpus(
            data.corpus,
            paths,
            data.text_field,
            data.validation_fraction,
            hold_out=self.validation is None,
        )
        self.stream, self.held_out, self.identity = corpus.train, corpus.held_out, corpus.identity
        self.size_bytes = SAMPLE_BYTES + (self.validation.size_bytes if self.validation else self.held_out.size_bytes)

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        """Hexadecimal digest of what decides the text. `advance` is told of bytes read to find it."""
        validation = [self.validation.fingerprint(advance)] if self.validation else []
        return digest("stream", *self.identity(), *validation)

    def units(self, characters: int = 0) -> Iterator[Unit]:
        """The sample, and the text held out."""
        sampled = 0
        for document in documents(self.stream):
            if sampled >= SAMPLE_BYTES:
                break
            sampled += document.size_bytes
            yield Unit(False, True, True, document.pieces)
        if self.validation:
            yield from whole(self.validation, held_out=True)
        for document in documents(self.held_out):
            yield Unit(True, True, True, document.pieces)

    def texts(self, characters: int, *, held_out_too: bool) -> Iterator[str]:
        """The text to learn a tokenizer from: the whole stream, for as far as somebody reads it."""
        for document in itertools.chain(documents(self.stream), documents(self.held_out) if held_out_too else ()):
            yield from document.pieces

    def texts_to_sample(self, characters: int, spread_bytes: float | None) -> Iterator[str]:
        """The text to take a sample of: from the beginning on; or from row groups evenly spread over all of it, as many
        as hold `spread_bytes`, because reading all of a stream could take hours."""
        wanted = range(len(self.stream.groups)) if spread_bytes is None else spread_groups(self.stream, spread_bytes)
        for number in wanted:
            for document in self.stream.documents(number):
                yield from document.pieces

    def warnings(self) -> list[str]:
        return [*describe_passed_over(self._passed_over), *(self.validation.warnings() if self.validation else ())]


Source: TypeAlias = TextSource | StreamSource | TokenCorpus


def open_source(config: RunConfig, home: Path) -> Source:
    """What `config.data` names. UserError where there is no such file, nothing in it, or a named data set is not
    downloaded; ConfigError where the rest of the configuration does not go with it."""
    config = replace(config, data=located(config.data, home))
    if is_token_corpus(config.data, trains_tokenizer=trains_tokenizer(config)):
        return TokenCorpus(config.data, home)
    if not is_streamed(config):
        return TextSource(config, home)
    if config.train.epochs:
        message = "the length in epochs needs the number of tokens, which a stream does not know; give train.tokens"
        raise ConfigError([Problem("train.epochs", message)])
    return StreamSource(config, home)


def trains_tokenizer(config: RunConfig) -> bool:
    """Whether the tokenizer is learnt from the corpus."""
    return config.tokenizer.kind in TRAINED_KINDS and not config.tokenizer.path


def is_streamed(config: RunConfig) -> bool:
    """Whether the corpus is read while training: stream order, and Parquet."""
    if config.data.order != "stream" or config.data.corpus in ("stories", "pylib"):
        return False
    paths = find_files(config.data.corpus)
    kinds = (kind_of(path, config.data.format, config.data.text_field) for path in paths)
    return bool(paths) and all(kind.reading == "parquet" for kind in kinds)


def validation_corpus(config: RunConfig, home: Path) -> Corpus | None:
    """The text of `data.validation`, if that is given."""
    if not config.data.validation:
        return None
    return open_corpus(replace(config.data, corpus=config.data.validation), home, separator_of(config))


def whole(corpus: Corpus, *, held_out: bool) -> Iterator[Unit]:
    """Every document of a corpus, all on one side."""
    return (Unit(held_out, True, True, document.pieces) for document in corpus.documents())


def spread_groups(text: RowGroups, size_bytes: float) -> list[int]:
    """Numbers of row groups, evenly spread, that together hold twice `size_bytes`, and SAMPLED_GROUPS at least; all
    where there are no more."""
    total = len(text.groups)
    enough = int(-(-2 * size_bytes * total // max(1, text.size_bytes)))
    count = min(total, max(SAMPLED_GROUPS, enough))
    return [number * total // count for number in range(count)]


def documents(text: RowGroups) -> Iterator[Document]:
    return itertools.chain.from_iterable(map(text.documents, range(len(text.groups))))
