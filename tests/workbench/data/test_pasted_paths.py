"""Paths as people paste them, and the field that holds the text of rows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from llm.config import RunConfig
from llm.errors import UserError
from tests.workbench.opening import app_with, open_data_screen
from tests.workbench.waiting import shown, until
from workbench.data.corpora import add_corpus, config_with, list_corpora, path_problem, preview, read_added
from workbench.data.fields import FieldNeeded
from workbench.data.pasted import pasted_path
from workbench.ui.dialogs import Ask, AskText

NAMES = (
    "plain.txt",
    "My notes (1).txt",
    "it's.txt",
    'a "b".txt',
    "tail .txt",
    "海 100%.txt",
    "back\\slash.txt",
    "$HOME&x.txt",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_found_however_it_was_pasted(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("text")
    escaped = "".join(letter if letter.isalnum() or letter in "/._-" else f"\\{letter}" for letter in str(path))
    for pasted in (
        str(path),
        f"{path} ",
        f"  {path}\n",
        shlex.quote(str(path)),
        shlex.quote(str(path)) + " ",
        escaped,
        escaped + " ",
        path.as_uri(),
        f"'{path.as_uri()}'" if "'" not in path.as_uri() else path.as_uri(),
        path.as_uri().replace("file://", "file://localhost") + " ",
    ):
        assert pasted_path(pasted) == str(path), pasted
        assert path_problem(pasted) == "", pasted


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_around_what_is_not_there_yet_or_a_pattern(tmp_path: Path, quote: str) -> None:
    (tmp_path / "a b").mkdir()
    assert pasted_path(f"{quote}{tmp_path}/a b/*.txt{quote} ") == f"{tmp_path}/a b/*.txt"
    assert pasted_path(f"{tmp_path}/a\\ b/*.txt") == f"{tmp_path}/a b/*.txt"
    assert path_problem(f"{quote}{tmp_path}/none.txt{quote}") == "no such file or folder"
    assert pasted_path(f"{quote}https://example.org/a%20b.txt{quote} ") == "https://example.org/a%20b.txt"
    assert pasted_path(" https://example.org/it's.txt ") == "https://example.org/it's.txt"
    assert pasted_path("") == pasted_path(" ") == ""


@pytest.mark.parametrize(
    "text", ["x" * 5_000, "~" + "x" * 300, "file:///" + "x" * 300, "*" * 300, "x" * 300 + "/*.txt"]
)
def test_a_name_that_is_too_long_is_a_problem_of_the_field(text: str) -> None:
    assert path_problem(text) == "file name too long"


def test_a_name_that_ends_in_a_space_or_has_quotes_is_taken_as_it_is(tmp_path: Path) -> None:
    for name in ("a ", "'b'", "c\\ d"):
        (tmp_path / name).write_text("text")
        assert pasted_path(str(tmp_path / name)) == str(tmp_path / name)
    for pasted in (
        f"{tmp_path}/a \n",
        f"{tmp_path}/a\\ ",
        f"{tmp_path}/a\\  ",
        f"'{tmp_path}/a '",
        f"file://{tmp_path}/a%20",
    ):
        assert pasted_path(pasted) == f"{tmp_path}/a "


async def test_a_pasted_path_is_added(home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "my notes.txt"
    mine.write_text("a text", encoding="utf-8")
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = f"'{mine}' "
        await pilot.press("enter")
        await until(pilot, lambda: screen.current == f"added {mine}")
    assert [record["path"] for record in read_added(home)] == [str(mine)]


NESTED = {"id": "identity_0", "parts": [{"from": "human", "value": "Who are you?"}]}


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        (NESTED, ["id"]),
        ({"request": "Name a fox.", "reply": "Reynard, of course it is."}, ["reply", "request"]),
        ({"url": "https://example.org/a", "hash": "a1b2c3"}, ["url", "hash"]),
        ({"n": 1, "rows": [1]}, []),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "list", "csv"])
def test_no_field_is_guessed(home: Path, tmp_path: Path, row: dict[str, Any], fields: list[str], kind: str) -> None:
    path = tmp_path / f"rows.{'csv' if kind == 'csv' else 'json'}"
    if kind == "csv":
        if any(isinstance(value, list) for value in row.values()):
            return
        path.write_text(",".join(row) + "\n" + "".join(f'"{value}",' for value in row.values()).rstrip(",") + "\n")
    else:
        path.write_text(json.dumps([row, row]) if kind == "list" else f"{json.dumps(row)}\n" * 2)
    with pytest.raises(FieldNeeded) as caught:
        add_corpus(home, str(path))
    assert list(caught.value.fields) == fields
    assert set(caught.value.others) == set(row) - set(fields)
    assert read_added(home) == []


def test_a_field_that_alone_reads_like_text_is_taken(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,date,body\n7,2024-01-01,a text\n")
    assert add_corpus(home, str(path)).text_field == "body"
    path.write_text('{"text": null}\n{"text": "late"}\n')
    assert add_corpus(home, str(path)).text_field == "text"


async def test_the_fields_are_offered(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [NESTED | {"system": "You are a fox.", "note": "As it was said."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        for answer in (["escape"], ["end", "enter"], ["down", "enter"]):
            await pilot.press("a")
            await until(pilot, lambda: isinstance(app.screen, AskText))
            app.screen.query_one(Input).value = str(path)
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, Ask) and "Which field" in shown(app.screen))
            for text in ("note: As it was said.", "system: You are a fox.", "id: identity_0", "parts"):
                assert text in shown(app.screen)
            assert read_added(home) == []
            await pilot.press(*answer)
            await until(pilot, lambda: app.screen is screen)
        await until(pilot, lambda: screen.current == f"added {path}")
        await until(pilot, lambda: "You are a fox." in shown(screen))
    assert next(entry for entry in list_corpora(home) if entry.kind == "added").text_field == "system"


def test_conversations_are_recognized_and_previewed(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Name fox {number}.", "input": "", "output": "Reynard."} for number in range(12)]
    path.write_text("\n".join(map(json.dumps, [*rows, {"instruction": "", "output": "Reynard."}])))
    entry = add_corpus(home, str(path))
    assert (entry.shape, entry.about) == ("instruction", "your conversations (instruction)")
    text, warnings = preview(entry, home)
    assert text.startswith("12 conversations\n\nuser: Name fox 0.\nassistant: Reynard.\n\nuser: Name fox 1.")
    assert "line 13 has an empty question (message 1)" in warnings[1]
    assert config_with(entry, RunConfig()).tune.stage == "sft"
    assert next(found for found in list_corpora(home) if found.kind == "added") == entry
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n{"messages": []}\n')
    with pytest.raises(UserError, match="holds no conversation"):
        add_corpus(home, str(tmp_path / "bad.jsonl"))


def test_preferences_are_recognized_and_previewed(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Name fox {number}.", "chosen": "Reynard.", "rejected": "No."} for number in range(3)]
    path.write_text("\n".join(map(json.dumps, [*rows, {"prompt": "a", "chosen": "b", "rejected": "b"}])))
    entry = add_corpus(home, str(path))
    assert (entry.shape, entry.about) == ("preference", "your preferences")
    text, warnings = preview(entry, home)
    assert text.startswith("3 preferences\n\nuser: Name fox 0.\nchosen: Reynard.\nrejected: No.\n\nuser: Name fox 1.")
    assert "line 4 has the same answer as chosen and rejected" in warnings[1]
    assert config_with(entry, RunConfig()).tune.stage == "dpo"


async def test_the_preview_lists_what_is_skipped(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("the text")
    (folder / "b.png").write_bytes(b"\x89PNG\0")
    add_corpus(home, str(folder))
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_data_screen(app, pilot)
        screen.listing.highlighted = screen.listing.get_option_index(f"added {folder}")
        await until(pilot, lambda: "the text" in shown(screen))
        assert "1 file or folder skipped (it holds NUL bytes)" in " ".join(shown(screen).split())


def test_the_preview_says_what_is_amiss_in_what_it_read(home: Path, tmp_path: Path) -> None:
    """Of a file it does not read to the end."""
    (tmp_path / "a.txt").write_bytes("Où est la forêt ? ".encode("latin-1") * 100_000)
    (tmp_path / "b.jsonl").write_text('{"text": null}\n' + '{"text": "fine"}\n' * 100)
    for name, told in (("a.txt", "the file has another encoding"), ("b.jsonl", "1 row without text")):
        _, notes = preview(add_corpus(home, str(tmp_path / name)), home)
        assert told in notes[0]
