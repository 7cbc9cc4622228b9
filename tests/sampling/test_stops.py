"""Stop strings are found wherever the pieces are cut, and nothing else is held back for good."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm.sampling import StopStrings


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopStrings(stops)
    text = "".join(matcher.feed(piece) for piece in pieces)
    return text + ("" if matcher.found else matcher.finish()), matcher.found


def cut_before_first(text: str, stops: list[str]) -> str:
    """The text up to the stop string whose occurrence is complete first."""
    for end in range(len(text) + 1):
        places = [end - len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if places:
            return text[: min(places)]
    return text


@given(
    pieces=st.lists(st.text("ab\n", max_size=4), max_size=12),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_found_across_any_borders(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    characters = list(text)
    shown, found = run(characters, stops)
    assert found == any(stop in text for stop in stops)
    assert shown == cut_before_first(text, stops)
    assert run(pieces, stops) == (shown, found)


def test_what_was_held_back_keeps_its_place_when_there_are_no_stop_strings_any_more() -> None:
    matcher = StopStrings(["xyz"])
    shown = matcher.feed("abx")
    matcher.set_stops([])
    assert shown + matcher.feed("q") + matcher.feed("r") + matcher.finish() == "abxqr"


def test_what_cannot_become_a_stop_is_shown_at_once() -> None:
    matcher = StopStrings(["\nUser:"])
    assert matcher.feed("Hello.\nUs") == "Hello."
    assert matcher.feed("ed to") == "\nUsed to"
    assert matcher.feed(" it\nUser: no") == " it"
    assert matcher.found
    assert matcher.feed("more") == ""


def test_no_stop_strings_hold_nothing() -> None:
    matcher = StopStrings(["", ""])
    assert matcher.feed("anything") == "anything"
    assert not matcher.found
