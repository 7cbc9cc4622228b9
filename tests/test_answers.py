"""The judge of exact answers."""

from __future__ import annotations

import pytest

from llm.answers import is_right, normalize

ANSWERS = ("The kite was red.", "red")


@pytest.mark.parametrize("reply", ["The kite was red.", "the kite was red", "Kite was red!", "red", " Red. ", "a red"])
def test_right(reply: str) -> None:
    assert is_right(reply, ANSWERS)


@pytest.mark.parametrize(
    "reply", ["", "The kite was red and blue.", "The kite was blue.", "It is red", "reddish", "kite"]
)
def test_wrong(reply: str) -> None:
    assert not is_right(reply, ANSWERS)


def test_articles_inside_words_stay() -> None:
    assert normalize("An apple, a banana and the theater.") == "apple banana and theater"
