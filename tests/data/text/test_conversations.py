"""Conversations from files: every shape, and every bad row by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm.data.text.conversation_files import ConversationFiles, conversation_shape
from llm.data.text.conversations import (
    BadRow,
    Conversation,
    conversation_from_row,
    preference_from_row,
    shape_of,
)
from llm.data.text.text_files import FileHashes
from llm.errors import UserError
from llm.tokenizer.chat_template import Message

TURN = (Message("user", "Who?"), Message("assistant", "A cat."))
SAME = {
    "messages": {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A cat."}]},
    "list": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A cat."}],
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
            {"role": "assistant", "content": "A cat."},
        ]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A cat."}]},
    "alpaca": {"instruction": "Who?", "input": "", "output": "A cat."},
    "prompt": {"prompt": "Who?", "completion": "A cat."},
    "trl": {
        "prompt": [{"role": "user", "content": "Who?"}],
        "completion": [{"role": "assistant", "content": "A cat."}],
    },
    "unfinished": {
        "messages": [
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Why?"},
        ]
    },
}


def files(path: Path, tmp_path: Path) -> ConversationFiles[Conversation]:
    return ConversationFiles(str(path), conversation_from_row, FileHashes(tmp_path / "hashes.json"))


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", SAME)
def test_every_shape_is_the_same_conversation(name: str) -> None:
    assert conversation_from_row(SAME[name]) == TURN


def test_system_messages_and_inputs() -> None:
    row = {"system": "Be brief.", "conversations": SAME["sharegpt"]["conversations"]}  # type: ignore[call-overload]
    assert conversation_from_row(row) == (Message("system", "Be brief."), *TURN)
    asked = conversation_from_row({"instruction": "Add.", "input": "1 2", "output": "3"})
    assert asked == (Message("user", "Add.\n\n1 2"), Message("assistant", "3"))


def test_an_answer_of_weight_0_is_read_and_not_learned() -> None:
    """As in the files that OpenAI fine-tunes on."""
    messages = [{"role": one.role, "content": one.content} for one in TURN * 2]
    messages[1]["weight"] = 0  # type: ignore[assignment]
    messages[3]["weight"] = 1  # type: ignore[assignment]
    found = conversation_from_row({"messages": messages})
    assert found == (TURN[0], TURN[1]._replace(is_learned=False), *TURN)
    messages[3]["weight"] = 0  # type: ignore[assignment]
    with pytest.raises(BadRow, match="has no answer to learn: the weight of each is 0"):
        conversation_from_row({"messages": messages})
    messages[3]["weight"] = 0.5  # type: ignore[assignment]
    with pytest.raises(BadRow, match=r"has the weight 0\.5 in message 4"):
        conversation_from_row({"messages": messages})
    pair = preference_from_row(
        {"chosen": messages[:2], "rejected": [messages[0], {"role": "assistant", "content": "-"}]}
    )
    assert pair.chosen == TURN  # the last answers are compared, and no others


def test_null_fields_are_absent() -> None:
    """A table has every column in every row: a file of two shapes has nulls in both."""
    message = dict.fromkeys(("role", "content", "from", "value"))
    theirs = [message | {"from": "human", "value": "Who?"}, message | {"from": "gpt", "value": "A cat."}]
    assert conversation_from_row({"messages": theirs, "prompt": None}) == TURN
    assert conversation_from_row(SAME["prompt"] | {"completion": None, "response": "A cat."}) == TURN  # type: ignore[operator]
    assert conversation_from_row(SAME["alpaca"] | {"chosen": None, "rejected": None}) == TURN  # type: ignore[operator]
    with pytest.raises(BadRow, match=r"\(but: prompt\)"):
        conversation_from_row({"prompt": "Who?", "completion": None})


@pytest.mark.parametrize("as_file", [False, True])
def test_saved_datasets_hold_conversations_too(as_file: bool, tmp_path: Path) -> None:
    """As `datasets` saves what it has downloaded: Arrow in folders, with nulls."""
    import pyarrow as arrow

    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    (folder.parent / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (folder / "state.json").write_text("{}")
    path = folder / "data-00000-of-00001.arrow"
    table = arrow.Table.from_pylist([*[SAME["messages"]] * 300, {"messages": None}, SAME["messages"]])
    make = arrow.ipc.new_file if as_file else arrow.ipc.new_stream
    with arrow.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table)
    found = files(folder.parent, tmp_path)
    assert list(found.rows()) == [TURN] * 301 and conversation_shape(path) == "messages"
    assert [sentence for sentence in found.skipped if "row 301 has none of the fields" in sentence]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_files_of_every_format(suffix: str, tmp_path: Path) -> None:
    rows = [
        SAME["messages"],
        {"messages": [{"role": "user", "content": "é\n"}, {"role": "assistant", "content": "🙂"}]},
    ]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        import pyarrow as arrow
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows, indent=1) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    found = files(path, tmp_path)
    assert list(found.rows()) == [TURN, (Message("user", "é\n"), Message("assistant", "🙂"))]
    assert found.skipped == [] and conversation_shape(path) == "messages"


def test_lists_of_messages_on_every_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "nanochat.jsonl", [SAME["list"], SAME["list"]])
    assert list(files(path, tmp_path).rows()) == [TURN, TURN]


def test_every_bad_row_is_named_by_its_line_and_the_others_are_used(tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    bad = [
        ("{broken\n", "is not JSON"),
        ({"messages": [{"content": "a"}, answer]}, "has no role in message 1"),
        ({"messages": [user, user, answer]}, "has two messages of user in a row (message 2)"),
        ({"messages": [user, {"role": "assistant", "content": "  "}]}, "has an empty answer (message 2)"),
        ({"messages": [user, {"role": "assistant", "content": "x" * 10_000_000}]}, "has 10,000,000 characters"),
        ({"messages": [user, {"role": "tool", "content": "b"}]}, "has the unknown role 'tool' in message 2"),
        ({"messages": [user, {"role": "assistant", "content": None}]}, "has no text in message 2"),
        ({"messages": [answer]}, "begins with an answer (message 1)"),
        ({"messages": [user]}, "has no answer"),
        ({"messages": []}, "has no messages"),
        ({"text": "a"}, "has none of the fields messages, conversations"),
        ("17\n", "is not an object with messages"),
        ({"messages": [user, answer, {"role": "system", "content": "c"}]}, "has a system message in place 3"),
        ({"chosen": "a", "rejected": "b"}, "is a preference"),
    ]
    rows: list[Any] = []
    for row, _ in bad:
        rows += [row, SAME["alpaca"]]
    found = files(write_lines(tmp_path / "rows.jsonl", rows), tmp_path)
    assert list(found.rows()) == [TURN] * len(bad)
    assert len(found.skipped) == len(bad)
    for number, ((_, reason), sentence) in enumerate(zip(bad, found.skipped, strict=True)):
        assert f"rows.jsonl line {2 * number + 1} {reason}" in sentence
    assert found.warnings()[0] == "14 rows were skipped; all others are used."
    assert found.warnings()[-1].startswith("9 more rows were skipped")


def test_a_file_without_conversations_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "a"}])
    with pytest.raises(UserError, match=r"holds no conversation.*line 1 has none of the fields"):
        list(files(path, tmp_path).rows())
    assert conversation_shape(path) == ""


def test_preferences() -> None:
    row = {"prompt": "Who?", "chosen": "A cat.", "rejected": "No."}
    found = preference_from_row(row)
    assert found.chosen == TURN and found.rejected == (TURN[0], Message("assistant", "No."))
    lists = {
        name: [{"role": one.role, "content": one.content} for one in conversation]
        for name, conversation in (("chosen", found.chosen), ("rejected", found.rejected))
    }
    assert preference_from_row(lists) == found and shape_of(lists) == "preference"
    for wrong in (row | {"rejected": "A cat."}, row | {"chosen": ""}, {"chosen": "a"}):
        with pytest.raises(BadRow):
            preference_from_row(wrong)
