"""The transcript: wrapping, following, hostile text, faithful copies, and the price of appending."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App
from textual.geometry import Offset
from textual.selection import Selection

import workbench.chat.transcript_view as transcript_module
from tests.workbench.waiting import until_true
from workbench.chat.transcript_view import Transcript, wrap
from workbench.text import clean


class Host(App[None]):
    CSS = "Transcript { padding: 0; }"

    def compose(self):
        yield Transcript(id="t")

    @property
    def transcript(self):
        return self.query_one(Transcript)


def rows(transcript):
    return [transcript.render_line(y).text.rstrip() for y in range(transcript.size.height)]


def wrapped(text, width):
    return [text[start:end] for start, end in wrap(text, 0, width)]


def test_words_are_kept_whole_where_they_fit():
    assert wrapped("one two three", 8) == ["one two ", "three"]
    assert wrapped("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert wrapped("a\n\nb", 4) == ["a\n", "\n", "b"]
    assert wrapped("ab\n", 4) == ["ab\n", ""]
    assert wrapped("日本語です", 5) == ["日本", "語で", "す"]


@given(text=st.text(alphabet="ab \n日é\u0301", max_size=60), width=st.integers(2, 9), cut=st.integers(0, 60))
def test_wrapping_loses_nothing_and_fits_and_can_resume_at_a_row(text, width, cut):
    spans = list(wrap(text, 0, width))
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(cell_len(text[start:end].rstrip(" \n")) <= width for start, end in spans)
    head = list(wrap(text[:cut], 0, width))
    assert head[:-1] + list(wrap(text, head[-1][0], width)) == spans


async def test_text_appears_as_it_is_appended():
    app = Host()
    async with app.run_test(size=(20, 6)):
        app.transcript.write("Once upon ", "prompt")
        app.transcript.write("a time there was")
        app.transcript.write(" a cat.\nEnd")
        assert rows(app.transcript)[:3] == ["Once upon a time", "there was a cat.", "End"]
        styles = [segment.style.color for segment in app.transcript.render_line(0)]
        assert len(set(styles)) >= 2, "the prompt looks different"


async def test_resizing_wraps_again():
    app = Host()
    async with app.run_test(size=(60, 6)) as pilot:
        app.transcript.write("one two three four five six")
        await pilot.resize_terminal(14, 6)
        await pilot.pause()
        assert rows(app.transcript)[:2] == ["one two three", "four five six"]


async def test_follows_only_from_the_end():
    app = Host()
    async with app.run_test(size=(20, 5)) as pilot:
        log = app.transcript
        log.write("\n".join(f"line {number}" for number in range(30)))
        await pilot.pause()
        assert rows(log)[-1] == "line 29"
        log.scroll_to(y=3, animate=False, immediate=True)
        await pilot.pause()
        log.write("\nline 30")
        await pilot.pause()
        assert log.scroll_offset.y == 3 and rows(log)[0] == "line 3"
        log.scroll_end(animate=False, immediate=True)
        log.write("\nline 31")
        await pilot.pause()
        assert rows(log)[-1] == "line 31"


HOSTILE = "a\x1b]52;c;x\x07[bold]b[/]\x9b2J\u202eright\u200b\ud800"


async def test_hostile_text_is_shown_safely_and_copied_faithfully():
    app = Host()
    async with app.run_test(size=(60, 5)):
        app.transcript.write(HOSTILE)
        shown = rows(app.transcript)[0]
        assert shown == clean(HOSTILE) and "[bold]" in shown and "\x1b" not in shown
        assert app.transcript.get_selection(Selection(None, None)) == (HOSTILE, "\n")


async def test_a_selection_has_no_line_breaks_that_wrapping_made():
    app = Host()
    async with app.run_test(size=(10, 6)):
        app.transcript.write("one two three\n\tfour")
        assert rows(app.transcript)[:4] == ["one two", "three", "    four", ""]
        text, _ = app.transcript.get_selection(Selection(Offset(4, 0), Offset(3, 1)))
        assert text == "two thr"
        text, _ = app.transcript.get_selection(Selection(Offset(4, 2), None))
        assert text == "four"


async def test_what_is_cut_is_gone():
    app = Host()
    async with app.run_test(size=(20, 6)):
        app.transcript.write("prompt ", "prompt")
        app.transcript.write("reply")
        app.transcript.cut(7)
        app.transcript.write("again")
        assert rows(app.transcript)[0] == "prompt again" and app.transcript.text == "prompt again"


@pytest.mark.parametrize("unit", ["word ", "x"])
async def test_appending_wraps_only_the_last_row_again(unit, monkeypatch):
    app = Host()
    begun_at = []
    wrap = transcript_module.wrap
    monkeypatch.setattr(
        transcript_module,
        "wrap",
        lambda text, start, width: begun_at.append(len(text) - start) or wrap(text, start, width),
    )
    async with app.run_test(size=(80, 24)):
        app.transcript.write(unit * 100_000)
        begun_at.clear()
        for _ in range(200):
            app.transcript.write(unit)
        assert len(begun_at) == 200 and max(begun_at) <= 80 + len(unit)
        assert len(app.transcript.text) == len(unit) * 100_200


async def test_tiny():
    app = Host()
    async with app.run_test(size=(1, 1)) as pilot:
        app.transcript.write("日本語\nabc " * 5)
        await pilot.resize_terminal(30, 9)
        await pilot.pause()
        assert rows(app.transcript)[0] == "日本語"


async def test_a_resize_does_not_lead_away_from_the_end():
    app = Host()
    async with app.run_test(size=(40, 12)) as pilot:
        log = app.transcript
        log.write("\n".join(f"line {number} of some length" for number in range(40)))
        for size in ((40, 6), (12, 6), (60, 20), (1, 1), (30, 9)):
            await pilot.resize_terminal(*size)
            await until_true(lambda size=size: log.size.height == size[1] and log.is_vertical_scroll_end)
        log.scroll_to(y=3, animate=False, immediate=True)
        await pilot.resize_terminal(30, 6)
        await until_true(lambda: log.size.height == 6)
        log.write("\nmore")
        await pilot.pause()
        assert log.scroll_offset.y == 3
