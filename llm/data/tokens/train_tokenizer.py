"""Training a tokenizer on the text of a corpus."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llm.config.schema import RunConfig
from llm.data.background import Report, count_megabytes, run_in_background
from llm.data.text.corpora import BUILT_IN
from llm.data.tokens.conversation_source import ConversationSource
from llm.data.tokens.sources import StreamSource, TextSource
from llm.events import Progress
from llm.tokenizer import Sample, Tokenizer, build_tokenizer, is_trained_on_sample, take_sample
from llm.tokenizer.training_process import train_in_subprocess


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer, with sentences about its training text and about problems."""

    tokenizer: Tokenizer
    notes: list[str]
    warnings: list[str]


def train_tokenizer(
    config: RunConfig, source: TextSource | StreamSource | ConversationSource, characters: int, folder: Path
) -> Generator[Progress, None, TrainedTokenizer]:
    """Train the tokenizer of `config` on the training text of `source`; `folder` takes temporary files.

    A character tokenizer is trained on all text, so that no character is unknown, in this process. Others are trained
    on a sample, in another process.
    """
    if not is_trained_on_sample(config.tokenizer):
        tokenizer = yield from run_in_background(
            lambda report: train_char_tokenizer(config, source, characters, report), "Training the tokenizer", 100, "%"
        )
        return TrainedTokenizer(tokenizer, [], [])
    if config.data.corpus in BUILT_IN:
        config = replace(config, tokenizer=replace(config.tokenizer, train_sample="beginning"))
    megabytes, which = config.tokenizer.train_mb, config.tokenizer.train_sample
    texts = source.texts_to_sample(characters, megabytes * 1e6 if which == "spread" else None)
    size = source.size_bytes / 1e6
    sample = yield from run_in_background(
        lambda report: take_sample(texts, megabytes, which, lambda read: report(read / 1e6)),
        "Reading text for the tokenizer",
        min(size, megabytes) if which == "beginning" else size,
    )
    tokenizer = yield from run_in_background(
        lambda report: train_in_subprocess(config.tokenizer, sample.texts, folder, lambda done: report(100 * done)),
        "Training the tokenizer",
        100,
        "%",
    )
    return TrainedTokenizer(
        tokenizer, [describe_sample(sample, config)], vocabulary_warnings(tokenizer, sample, config)
    )


def train_char_tokenizer(
    config: RunConfig, source: TextSource | StreamSource | ConversationSource, characters: int, report: Report
) -> Tokenizer:
    """A character tokenizer, trained on both splits of the text."""
    read = count_megabytes(lambda done: report(100e6 * done / source.size_bytes))

    def texts() -> Iterator[str]:
        for piece in source.texts(characters, with_validation=True):
            read(len(piece))
            yield piece

    return build_tokenizer(config.tokenizer, texts())


def describe_sample(sample: Sample, config: RunConfig) -> str:
    """A sentence about the training text of the tokenizer."""
    taken, read = sample.taken_bytes / 1e6, sample.read_bytes / 1e6
    if not sample.is_whole:
        return f"The tokenizer was trained on {taken:,.1f} MB of text, evenly spread over {read:,.1f} MB."
    if config.tokenizer.train_sample == "beginning" and taken >= 0.999 * config.tokenizer.train_mb:
        return f"The tokenizer was trained on the first {taken:,.1f} MB of the text."
    return f"The tokenizer was trained on all training text, {taken:,.1f} MB."


def vocabulary_warnings(tokenizer: Tokenizer, sample: Sample, config: RunConfig) -> list[str]:
    """A warning if the vocabulary is smaller than configured."""
    wanted = config.tokenizer.vocab_size
    if tokenizer.vocab_size >= wanted:
        return []
    return [
        f"The tokenizer has {tokenizer.vocab_size:,} ids, not {wanted:,}: nothing is left to merge in "
        f"the {sample.taken_bytes / 1e6:,.2f} MB of its text; give more text or a smaller tokenizer.vocab_size."
    ]
