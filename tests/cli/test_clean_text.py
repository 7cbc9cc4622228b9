"""No control byte reaches the terminal, and nothing else is changed."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from workbench.text import clean


def test_ordinary_text_is_untouched() -> None:
    text = "Once upon a time,\n\tJosé said: 你好, שלום, 👍\u00a0!"
    assert clean(text) == text


def test_controls_become_their_pictures() -> None:
    assert clean("\x1b[2J\x07\r\x00") == "␛[2J␇␍␀"


def test_c1_format_surrogate_private_and_unassigned_become_the_replacement() -> None:
    assert clean("\x7f\x9b\u200b\u202e\ud800\ue000\U000e0fff") == "�" * 7


@given(st.text(alphabet=st.characters(categories=None)))
def test_one_visible_character_for_each(text: str) -> None:
    shown = clean(text)
    assert len(shown) == len(text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") for c in shown)
    assert clean(shown) == shown
