"""No control byte reaches the terminal, nothing else is changed, and text is as wide as it is counted."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len, get_character_cell_size
from wcwidth import wcwidth

from workbench.text import clean
from workbench.widths import count_spacing_marks

count_spacing_marks()

COLUMNS = {
    "नमस्ते": 4,
    "दुनिया": 5,
    "தமிழ்": 4,
    "বাংলা": 5,
    "తెలుగు": 5,
    "ಕನ್ನಡ": 4,
    "മലയാളം": 6,
    "မြန်မာ": 5,
    "ខ្មែរ": 4,
    "සිංහල": 4,
    "ක\u0dca\u200dර": 2,
    "ᬅᬓ᭄ᬱᬭ": 5,
    "می\u200cخواهم": 7,
    "ไทยที่": 4,
    "한\u302e": 4,
    "\u0903": 1,
    "👩\u200d👩\u200d👧": 6,
    "❤\ufe0f": 1,
    "e\u0301": 1,
    "שלום": 4,
}
"""As measured in tmux 3.3a and xterm 379, after `clean`."""


def test_ordinary_text_is_untouched() -> None:
    text = "Once upon a time,\n\tJosé said: 你好, שלום, 👍\u00a0! می\u200cخواهم, दुनिया"
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


@pytest.mark.parametrize("text", COLUMNS)
def test_text_is_counted_as_wide_as_terminals_draw_it(text: str) -> None:
    assert cell_len(clean(text)) == COLUMNS[text]


def test_every_spacing_mark_takes_columns() -> None:
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Mc"]
    wide = {mark for mark in marks if get_character_cell_size(mark) == 2}
    assert {"\u302e", "\u302f"} <= wide
    assert all(get_character_cell_size(mark) == 1 for mark in marks if mark not in wide)


ASK = """
import json, os, re, sys, termios, tty
tty.setraw(0)
columns = []
for text in json.loads(open(sys.argv[1], encoding="utf-8").read()):
    os.write(1, b"\\x1b[H\\x1b[2J" + text.encode() + b"\\x1b[6n")
    answer = b""
    while not answer.endswith(b"R"):
        answer += os.read(0, 1)
    columns.append(int(re.search(rb";(\\d+)R", answer)[1]) - 1)
open(sys.argv[2], "w").write(json.dumps(columns))
"""
"""Draws each text and asks the terminal where its cursor is."""


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_tmux_draws_text_as_wide_as_it_is_counted(tmp_path: Path) -> None:
    import json

    texts, answers = tmp_path / "texts.json", tmp_path / "answers.json"
    shown = [clean(text) for text in COLUMNS]
    texts.write_text(json.dumps(shown), encoding="utf-8")
    (tmp_path / "ask.py").write_text(ASK, encoding="utf-8")
    tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null", "-u"]
    command = f"{sys.executable} {tmp_path / 'ask.py'} {texts} {answers}"
    subprocess.run([*tmux, "new-session", "-d", "-x", "60", "-y", "5", command], check=True)
    limit = time.monotonic() + 120
    while not (answers.exists() and answers.read_text()) and time.monotonic() < limit:
        time.sleep(0.1)
    subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)
    assert dict(zip(COLUMNS, json.loads(answers.read_text()), strict=True)) == {
        text: cell_len(clean(text)) for text in COLUMNS
    }


@given(st.text(alphabet=st.characters(categories=None)))
def test_one_visible_character_for_each(text: str) -> None:
    shown = clean(text)
    assert len(shown) == len(text)
    unsafe = ("Cc", "Cf", "Cs", "Co", "Cn")
    assert all(c in "\n\t\u200c" or unicodedata.category(c) not in unsafe for c in shown)
    assert clean(shown) == shown
