"""Whether the data of a configuration is prepared, and to what its model can be exported.

May read and hash a corpus file: run it in a thread.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from llm.config import RunConfig
from llm.errors import UserError
from workbench.terminal import write_log


@dataclass(frozen=True)
class DataState:
    """The data of a configuration. `train_tokens` is 0 until it is prepared; `problem` says why that is impossible.
    `formats` says to which formats a model of it can be exported; "" where that is not known."""

    vocab_size: int = 0
    train_tokens: int = 0
    problem: str = ""
    formats: str = ""

    @property
    def is_prepared(self) -> bool:
        return self.train_tokens > 0


def find_data_state(config: RunConfig, home: Path) -> DataState:
    """The state of the data that `config` needs. Prepares nothing."""
    from llm.data.tokens.prepare import find_tokenized_dataset
    from llm.interop.preset_formats import describe_formats

    formats = ""
    try:
        formats = describe_formats(config)
        dataset, tokenizer = find_tokenized_dataset(config, home)
        if dataset is None:
            vocab_size = tokenizer.vocab_size if tokenizer is not None else 0
            return DataState(vocab_size=vocab_size, formats=formats)
        return DataState(dataset.tokenizer.vocab_size, len(dataset.train), formats=formats)
    except UserError as error:
        return DataState(problem=str(error), formats=formats)
    except Exception as error:  # noqa: BLE001 - a failed check must not end the app
        write_log(traceback.format_exc())
        return DataState(problem=f"the check failed ({type(error).__name__}: {error}); see workbench.log.")
