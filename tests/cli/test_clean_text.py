"""No control byte reaches the terminal, and nothing else is changed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len, get_character_cell_size
from wcwidth import wcwidth

from workbench.text import clean


def test_ordinary_text_is_untouched() -> None:
    text = "Once upon a time,\n\tJosé said: 你好, שלום, 👍\u00a0!"
    assert clean(text) == text


def test_controls_become_their_pictures() -> None:
    assert clean("\x1b[2J\x07\r\x00") == "␛[2J␇␍␀"


def test_c1_format_surrogate_private_and_unassigned_become_the_replacement() -> None:
    assert clean("\x7f\x9b\u200b\u202e\ud800\ue000\U000e0fff\u2028\u2029") == "�" * 9


@pytest.mark.parametrize(
    "text", ["❤\ufe0f", "👍🏽", "a🏽b", "1\ufe0f\u20e3", "👨\u200d👩", "नमस्ते", "กำ", "한", "e\u0301"]
)
def test_text_is_as_wide_as_the_sum_of_its_characters(text: str) -> None:
    shown = clean(text)
    assert cell_len(shown) == sum(map(get_character_cell_size, shown))
    assert cell_len(shown) == sum(max(0, wcwidth(character)) for character in shown)


@given(st.text(alphabet=st.characters(categories=None)))
def test_one_visible_character_for_each(text: str) -> None:
    shown = clean(text)
    assert len(shown) == len(text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") for c in shown)
    assert clean(shown) == shown
