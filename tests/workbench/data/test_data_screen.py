"""Corpora: listing, adding, previewing, preparing, and any text as tokens."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from textual.widgets import Input, OptionList, TextArea

from llm.config import from_mapping
from llm.data.tokens.prepare import prepare
from llm.events import Progress
from llm.tokenizer.byte import ByteTokenizer
from tests.draining import result_of
from tests.workbench.opening import app_with, open_data_screen
from tests.workbench.waiting import shown, until
from workbench.chat.tokens import color_tokens, quote_token, token_texts
from workbench.data.corpora import add_corpus, list_corpora, path_problem, read_added
from workbench.data.dialogs import PrepareDialog
from workbench.data.jobs import DataJob
from workbench.data.prepared_data import inspect_dataset
from workbench.data.screen import DataScreen
from workbench.presets.screen import PresetsScreen
from workbench.ui.dialogs import Ask, AskText


def mark(screen: DataScreen, key: str) -> None:
    screen.listing.highlighted = screen.listing.get_option_index(key)


def prepared(home: Path, corpus: Path) -> str:
    """The name of the folder of the prepared corpus, as bytes."""
    made = prepare(from_mapping({"data": {"corpus": str(corpus)}, "tokenizer": {"kind": "byte"}}), home)
    return result_of(made).path.name


async def test_what_is_here_and_what_can_be_downloaded(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_data_screen(app, pilot)
        await until(pilot, lambda: "Beginning" in shown(screen) and "said" in shown(screen))
        mark(screen, "named tinystories")
        await until(pilot, lambda: "Not downloaded. Press Enter to download it." in shown(screen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Ask) and "2.25 GB" in shown(app.screen))
        await pilot.press("enter")  # the answer marked first is No
        await until(pilot, lambda: app.screen is screen)
        assert screen.jobs.job is None
        mark(screen, "named core")
        await until(pilot, lambda: "CORE metric" in shown(screen) and screen.entry is not None)
        await pilot.press("enter")
        await until(pilot, lambda: "is not known" in " ".join(shown(app.screen).split()))


@pytest.mark.parametrize(
    "changes",
    [
        {"made_with": 5},
        {"made_with": None},
        {"made_with": {"data": 5, "tokenizer": {}}},
        {"notes": 5},
        {"warnings": [1]},
        {"splits": {"train": {"tokens": "9", "bytes": 9}, "validation": {"tokens": 1, "bytes": 1}}},
    ],
)
async def test_a_damaged_index_is_a_problem_of_its_entry(home: Path, corpus: Path, changes: dict[str, object]) -> None:
    name = prepared(home, corpus)
    index = home / "data" / name / "dataset.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        mark(screen, f"prepared {name}")
        await until(pilot, lambda: "is damaged" in " ".join(shown(screen).split()))


async def test_an_edited_list_with_a_path_that_cannot_be_one(home: Path) -> None:
    (home / "corpora.json").write_text(json.dumps([{"path": "a\0b", "text_field": "text"}]))
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_data_screen(app, pilot)
        mark(screen, "added a\0b")
        await pilot.press("enter")
        await until(pilot, lambda: "holds a NUL byte" in " ".join(shown(app.screen).split()))


async def test_a_text_of_ones_own_is_checked_added_shown_and_forgotten(home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("Erste Zeile\x1b]0;title\x07 [bold]ok[/]\n日本語 text\n", encoding="utf-8")
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        line = app.screen.query_one(Input)
        line.value = str(tmp_path / "none.txt")
        await until(pilot, lambda: "no such file" in shown(app.screen))
        line.value = str(mine)
        await pilot.press("enter")
        await until(pilot, lambda: screen.current == f"added {mine}")
        await until(pilot, lambda: "␛]0;title␇ [bold]ok[/]" in shown(screen) and "日本語" in shown(screen))
        assert [record["path"] for record in read_added(home)] == [str(mine)]
        await pilot.press("d")
        await until(pilot, lambda: f"added {mine}" not in screen.entries)
        assert mine.exists()


async def test_what_was_added_is_marked_whichever_list_brought_it(home: Path, tmp_path: Path) -> None:
    """The window in which it was typed closes, and the screen under it makes a list of its own."""
    mine = tmp_path / "mine.txt"
    mine.write_text("a text", encoding="utf-8")
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        before, added = screen.current, add_corpus(home, str(mine)).key
        await pilot.press("1", "5")  # listed again
        await until(pilot, lambda: added in screen.entries)
        assert screen.current == before != added
        screen.reload(added)
        await until(pilot, lambda: screen.current == added)


def test_the_text_field_of_rows_is_found(home: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "7", "body": "a long enough text"}) + "\n", encoding="utf-8")
    assert add_corpus(home, str(rows)).text_field == "body"
    assert next(entry for entry in list_corpora(home) if entry.kind == "added").text_field == "body"


def test_paths_are_checked_as_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes").mkdir()
    assert path_problem("~/notes") == ""
    assert path_problem("~/notes/**/*.md") == ""
    assert path_problem("~/absent") == "no such file or folder"
    assert "no such folder" in path_problem("~/absent/*.md")


async def test_preparing_a_text_and_taking_it_to_the_presets(home: Path, corpus: Path) -> None:
    add_corpus(home, str(corpus))
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        mark(screen, f"added {corpus}")
        await until(pilot, lambda: "Ada saw" in shown(screen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PrepareDialog))
        dialog = app.screen
        dialog.query_one("#vocabulary", Input).value = "few"
        await until(pilot, lambda: "tokenizer.vocab_size" in shown(dialog))
        dialog.query_one("#vocabulary", Input).value = "300"
        await pilot.press("enter")
        await until(pilot, lambda: screen.entry is not None and screen.entry.kind == "prepared")
        await until(pilot, lambda: "Most frequent" in shown(screen) and "bpe, 300 ids" in shown(screen))
        for text in ("bytes per token", "validation", "whole documents", "Beginning"):
            assert text in shown(screen)
        await pilot.press("u")
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen) and "Your changes" in shown(app.screen))
        config = app.screen.edited["quickstart"]  # type: ignore[attr-defined]
        assert (config.data.corpus, config.tokenizer.vocab_size) == (str(corpus), 300)
        assert config.model.n_layer > 1, "only data and tokenizer are taken over"


async def test_text_typed_in_is_shown_as_tokens(home: Path, corpus: Path) -> None:
    name = prepared(home, corpus)
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        mark(screen, f"prepared {name}")
        await until(pilot, lambda: "Least frequent" in shown(screen))
        await pilot.press("t", *"a b")
        await until(pilot, lambda: "3 tokens (byte" in shown(screen) and "a·b" in shown(screen))
        await pilot.press("f2")
        await until(pilot, lambda: "a 97 · 32 b 98" in shown(screen))
        screen.query_one(TextArea).text = "你"
        await until(pilot, lambda: "░ 228 ░ 189 你 160" in shown(screen))
        await pilot.press("escape")
        assert app.focused is screen.listing


def test_counts_are_those_of_the_tokens(home: Path, corpus: Path) -> None:
    looked = inspect_dataset(home / "data" / prepared(home, corpus))
    ids = looked.dataset.train.read(0, len(looked.dataset.train)).tolist()
    for token, count in [*looked.most, *looked.least]:
        assert ids.count(token) == count
    assert [count for _, count in looked.most] == sorted((count for _, count in looked.most), reverse=True)
    assert looked.unused == 257 - len(set(ids))


def test_each_token_has_its_place() -> None:
    tokenizer = ByteTokenizer(("<|end|>",))
    ids = [*tokenizer.encode("é \n"), 256]
    assert list(token_texts(tokenizer, ids)) == [(195, "░"), (169, "é"), (32, " "), (10, "\n"), (256, "<|end|>")]
    assert color_tokens(tokenizer, ids).plain == "░é·↵\n<|end|>"
    assert color_tokens(tokenizer, ids, monochrome=True).plain == "░|é|·|↵|\n<|end|>|"
    backgrounds = [span.style for span in color_tokens(tokenizer, ids).spans]
    assert all(one != other for one, other in itertools.pairwise(backgrounds))
    assert quote_token(tokenizer, 195) == "\\xc3"
    assert [text for _, text in token_texts(tokenizer, tokenizer.encode("e\u0301"))] == ["e", "░", "◌\u0301"]


def test_a_job_is_canceled_at_its_next_report() -> None:
    ended: list[tuple[object, str]] = []
    closed = threading.Event()

    def work() -> Generator[Progress, None, str]:
        try:
            while True:
                yield Progress(stage="Tokenizing", done=1, total=2)
        finally:
            closed.set()

    job = DataJob("Preparing x", work, lambda result, problem: ended.append((result, problem)))
    job.start()
    job.cancel()
    assert closed.wait(120)
    limit = time.monotonic() + 120
    while job.is_running and time.monotonic() < limit:
        time.sleep(0.01)
    assert ended == [(None, "canceled")]


async def test_canceling_leaves_nothing_behind(home: Path) -> None:
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_data_screen(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PrepareDialog))
        await until(pilot, lambda: [one.highlighted for one in app.screen.query(OptionList)] == [0])  # it has its list
        app.screen.query_one(OptionList).highlighted = 3  # bytes: nothing to learn first
        app.screen.query_one("#megabytes", Input).value = "30"
        await pilot.press("enter")
        await until(pilot, lambda: "Tokenizing" in shown(screen) and "x Cancel" in shown(screen))
        await pilot.press("x")
        await until(pilot, lambda: screen.jobs.job is None)
    assert not list((home / "data").iterdir())
