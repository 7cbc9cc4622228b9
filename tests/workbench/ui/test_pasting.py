"""What is pasted is never taken for keys: the filter by itself, in front of Textual's parser, and in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events

from tests.workbench.terminal_for_tests import Terminal
from workbench.ui.pasting import BEGIN, END, PICTURES, PasteFilter, PasteSafeParser

COLOURED = "zz\x1b[31m3 yy\x07\x1b[200~\x1bOA\x1b"
AS_TEXT = "zz␛[31m3 yy␇␛[200~␛OA␛"

pieces = st.sampled_from(
    [BEGIN, END, "\x1b", "\x1b[", "\x1b[20", "0~", "1~", "[201~", "x", "夜", "\r", "\n\t", "\x00\x07"]
)
streams = st.lists(pieces, max_size=30).map("".join)


def filtered_whole(stream: str) -> str:
    """The filter once more, over a stream that is there at once. A paste without an end goes on to the end."""
    paste = re.compile(f"{re.escape(BEGIN)}(.*?)({re.escape(END)}|$)", re.DOTALL)
    return paste.sub(lambda match: BEGIN + match[1].translate(PICTURES) + match[2], stream)


def split(data: st.DataObject, stream: str) -> list[str]:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)) | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(cuts)]


@given(st.data(), streams)
def test_however_it_is_split_the_text_is_the_same(data: st.DataObject, stream: str) -> None:
    stream += END  # so that nothing waits for what may follow
    one = PasteFilter()
    assert "".join(one.feed(piece) for piece in split(data, stream)) == filtered_whole(stream)


@given(st.data(), streams.filter(lambda stream: BEGIN not in stream))
def test_keys_pass_as_they_are_and_at_once(data: st.DataObject, stream: str) -> None:
    one = PasteFilter()
    for piece in split(data, stream):
        assert one.feed(piece) == piece


def events_of(*fed: str) -> list[events.Event]:
    parser = PasteSafeParser()
    return [event for piece in fed for event in parser.feed(piece)]  # type: ignore[misc]


@given(st.data())
def test_the_parser_tells_of_one_paste_and_of_the_keys_around_it(data: st.DataObject) -> None:
    told = events_of(*split(data, f"a{BEGIN}{COLOURED}{END}b"), "c")
    first, paste, *last = told
    assert isinstance(first, events.Key) and first.key == "a"
    assert isinstance(paste, events.Paste) and paste.text == AS_TEXT
    assert [event.key for event in last if isinstance(event, events.Key)] == ["b", "c"] and len(last) == 2


def test_escape_by_itself_and_arrows_are_keys() -> None:
    assert [event.key for event in events_of("\x1b[A", "\x1bOB", "x") if isinstance(event, events.Key)] == [
        "up",
        "down",
        "x",
    ]
    assert PasteFilter().feed("\x1b") == "\x1b"


@pytest.fixture
def terminal(home: Path) -> Iterator[Terminal]:
    terminal = Terminal(home)
    yield terminal
    terminal.close()


def test_pasted_colors_in_a_terminal(terminal: Terminal) -> None:
    terminal.until_shown("quickstart")
    terminal.type(b"4")
    terminal.until_shown("No model yet", "esc Browse")
    terminal.type(b"\x1b")
    terminal.until_shown("esc Prompt")
    terminal.type(f"{BEGIN}{COLOURED}{END}".encode())  # a 3 as a key would go to the Runs screen
    terminal.type(b"\x1b")
    terminal.until_shown("No model yet", "esc Browse")
    terminal.type(f"{BEGIN}{COLOURED}{END}!".encode())
    terminal.until_shown(AS_TEXT + "!")
    terminal.type(b"\x11")
    assert terminal.exit_status() == 0
