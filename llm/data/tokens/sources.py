"""The data of a configuration: text to tokenize before training, Parquet to stream, or token files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from llm.config.schema import RunConfig
from llm.data.text.corpora import BUILT_IN, Advance, Corpus, digest, open_corpus, separator_of
from llm.data.text.datasets import resolve_names
from llm.data.text.file_kinds import kind_of
from llm.data.text.find_files import describe_skipped, find_files, search_files
from llm.data.text.parquet import RowGroups, StreamedCorpus
from llm.data.text.text_files import Document
from llm.data.text.validation_split import Unit, units
from llm.data.tokens.conversation_source import ConversationSource
from llm.data.tokens.token_files import TokenCorpus
from llm.data.tokens.token_paths import is_token_corpus
from llm.errors import ConfigError, Problem

TRAINED_KINDS = ("char", "bpe", "sentencepiece")
MIN_SAMPLED_GROUPS = 64  # row groups of a streamed corpus that a tokenizer is trained on
SAMPLE_BYTES = 1 << 20  # of a streamed corpus, tokenized before training: for preflight and evaluation


class TextSource:
    """A corpus that is tokenized before training, with a share of it or another corpus for validation."""

    def __init__(self, config: RunConfig, home: Path) -> None:
        self.data = config.data
        self.corpus = open_corpus(config.data, home, separator_of(config))
        self.validation = validation_corpus(config, home)
        self.name = self.corpus.name
        self.size_bytes = self.corpus.size_bytes + (self.validation.size_bytes if self.validation else 0)

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        """Hexadecimal digest of what decides the text. `advance` is called with the number of bytes read."""
        identity = self.corpus.fingerprint(advance)
        return digest(identity, self.validation.fingerprint(advance)) if self.validation else identity

    @property
    def needs_character_count(self) -> bool:
        """Whether the split needs the number of characters: the last ones are for validation."""
        return self.data.split == "tail" and self.validation is None

    def units(self, characters: int = 0) -> Iterator[Unit]:
        """All text, each unit assigned to a split. `characters` is the total if `needs_character_count`."""
        if self.validation is None:
            return units(self.corpus, self.data, characters)
        return itertools.chain(
            whole_corpus(self.corpus, is_validation=False), whole_corpus(self.validation, is_validation=True)
        )

    def texts(self, characters: int, *, with_validation: bool) -> Iterator[str]:
        """The text to train a tokenizer on."""
        for unit in self.units(characters):
            yield from unit.pieces if with_validation or not unit.is_validation else ()

    def texts_to_sample(self, characters: int, spread_bytes: float | None) -> Iterator[str]:
        """The text to sample for a tokenizer: all training text."""
        return self.texts(characters, with_validation=False)

    def warnings(self) -> list[str]:
        return [*self.corpus.warnings(), *(self.validation.warnings() if self.validation else ())]


class StreamSource:
    """Parquet files that are tokenized during training; the validation text and a sample of the rest are before."""

    def __init__(self, config: RunConfig, home: Path) -> None:
        data = config.data
        self.name = data.corpus
        self.validation = validation_corpus(config, home)
        paths, self._skipped = search_files(data.corpus)
        split = self.validation is None
        corpus = StreamedCorpus(data.corpus, paths, data.text_field, data.validation_fraction, split)
        self.stream, self.validation_groups, self.identity = corpus.train, corpus.validation, corpus.identity
        self.size_bytes = SAMPLE_BYTES + (self.validation or self.validation_groups).size_bytes

    def fingerprint(self, advance: Advance = lambda size: None) -> str:
        """Hexadecimal digest of what decides the text. `advance` is called with the number of bytes read."""
        validation = [self.validation.fingerprint(advance)] if self.validation else []
        return digest("stream", *self.identity(), *validation)

    def units(self, characters: int = 0) -> Iterator[Unit]:
        """The sample of the training text, and the validation text."""
        sampled = 0
        for document in documents(self.stream):
            if sampled >= SAMPLE_BYTES:
                break
            sampled += document.size_bytes
            yield Unit(False, True, True, document.pieces)
        if self.validation:
            yield from whole_corpus(self.validation, is_validation=True)
        for document in documents(self.validation_groups):
            yield Unit(True, True, True, document.pieces)

    def texts(self, characters: int, *, with_validation: bool) -> Iterator[str]:
        """The text to train a tokenizer on: the whole stream, as far as it is read."""
        validation = documents(self.validation_groups) if with_validation else ()
        for document in itertools.chain(documents(self.stream), validation):
            yield from document.pieces

    def texts_to_sample(self, characters: int, spread_bytes: float | None) -> Iterator[str]:
        """The text to sample for a tokenizer: all from the beginning, or row groups with at least `spread_bytes` of
        text, evenly spread, because reading a whole stream can take hours."""
        numbers = range(len(self.stream.groups)) if spread_bytes is None else spread_groups(self.stream, spread_bytes)
        for number in numbers:
            for document in self.stream.documents(number):
                yield from document.pieces

    def warnings(self) -> list[str]:
        return [*describe_skipped(self._skipped), *(self.validation.warnings() if self.validation else ())]


Source: TypeAlias = TextSource | StreamSource | TokenCorpus | ConversationSource


def open_source(config: RunConfig, home: Path) -> Source:
    """The source that `config.data` names. UserError if a file is missing or empty, or a dataset is not downloaded;
    ConfigError if the rest of the configuration contradicts it."""
    config = replace(config, data=resolve_names(config.data, home))
    if config.tune.stage != "pretrain":
        return ConversationSource(config, home)
    if is_token_corpus(config.data, trains_tokenizer=trains_tokenizer(config)):
        return TokenCorpus(config.data, home)
    if not is_streamed(config):
        return TextSource(config, home)
    if config.train.epochs:
        message = "epochs need the number of tokens, which is unknown for a stream; set train.tokens instead"
        raise ConfigError([Problem("train.epochs", message)])
    return StreamSource(config, home)


def trains_tokenizer(config: RunConfig) -> bool:
    """Whether the tokenizer is trained on the corpus."""
    return config.tokenizer.kind in TRAINED_KINDS and not config.tokenizer.path


def is_streamed(config: RunConfig) -> bool:
    """Whether the corpus is read during training: data.order is stream and the files are Parquet."""
    if config.data.order != "stream" or config.data.corpus in BUILT_IN:
        return False
    paths = find_files(config.data.corpus)
    kinds = (kind_of(path, config.data.format, config.data.text_field) for path in paths)
    return bool(paths) and all(kind.reading == "parquet" for kind in kinds)


def validation_corpus(config: RunConfig, home: Path) -> Corpus | None:
    """The corpus of `data.validation`, if set."""
    if not config.data.validation:
        return None
    return open_corpus(replace(config.data, corpus=config.data.validation), home, separator_of(config))


def whole_corpus(corpus: Corpus, *, is_validation: bool) -> Iterator[Unit]:
    """Every document of a corpus, all in one split."""
    return (Unit(is_validation, True, True, document.pieces) for document in corpus.documents())


def spread_groups(text: RowGroups, size_bytes: float) -> list[int]:
    """Numbers of evenly spread row groups that hold twice `size_bytes`, at least MIN_SAMPLED_GROUPS, at most all."""
    total = len(text.groups)
    enough = int(-(-2 * size_bytes * total // max(1, text.size_bytes)))
    count = min(total, max(MIN_SAMPLED_GROUPS, enough))
    return [number * total // count for number in range(count)]


def documents(text: RowGroups) -> Iterator[Document]:
    return itertools.chain.from_iterable(map(text.documents, range(len(text.groups))))
