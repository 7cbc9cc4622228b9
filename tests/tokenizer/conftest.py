from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from llm.config.schema import TokenizerConfig
from llm.tokenizer import Tokenizer, build_tokenizer
from llm.tokenizer.pretrained import load_encoding

CORPUS = [
    "Once upon a time there was a small fox. The fox said: \"I'm hungry, let's eat!\"\n\nThey'd eaten 1234 berries.\n",
    "def merge(ids, pair):\n    for left, right in pairwise(ids):\n        yield (left, right) == pair\n\n\n    # ok\n",
    "从前有一只小狐狸。狐狸说：“我饿了，我们吃吧！”它们吃了１２３４个浆果。\n",
    "naïve café — Ελληνικά, русский; हिन्दी में; emoji 👩‍👩‍👧 😀😀 done.\r\n\tTabs\t\tand  spaces   \n",
] * 3
"""Prose, code, Chinese, and a little of everything else."""

AWKWARD = " \n\t\r '’s.,!-/aZLéß1２你好。，　😀👩\u200d\u0301\u00a0\u0085\x1c\x00ſ"
"""Characters at which splitting patterns decide something."""


def awkward_text() -> st.SearchStrategy[str]:
    """Text of assigned characters: what Unicode will yet assign, libraries of different age split differently."""
    return st.text(st.sampled_from(AWKWARD) | st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=60)


def tiktoken_copies() -> Path | None:
    """Copies of tiktoken's files beside the repository, where somebody has put them."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "tiktoken"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def gpt2() -> Tokenizer:
    folder = tiktoken_copies()
    if folder is None:
        pytest.skip("there is no copy of tiktoken's gpt2 files beside the repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return load_encoding("gpt2", ["<|endoftext|>"])


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Tokenizer]:
    """One tokenizer of each kind that is trained here."""
    return {
        kind: build_tokenizer(TokenizerConfig(kind=kind, vocab_size=500), CORPUS)
        for kind in ("byte", "char", "bpe", "sentencepiece")
    }


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return CORPUS
