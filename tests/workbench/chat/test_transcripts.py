"""Conversations as trees, on disk, found again and exported."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.chat.conversation import Conversation, Exchange
from workbench.chat.transcripts import as_markdown, export, list_conversations, load, recent_prompts, save_exchange
from workbench.chat.transcripts_dialog import facts_of

HOSTILE = "夜 \x1b]0;x\x07 [b] ```\n\udc80 \u202e"


def tree():
    """1 → 2 → 3, with 4 next to 2."""
    conversation = Conversation()
    conversation.add("text", "a", 0).reply = "A"
    conversation.add("turn", "b", 1).reply = " B "
    conversation.add("turn", "c", 2).reply = "C"
    conversation.add("turn", "d", 1).reply = "D"
    return conversation


def shown(conversation):
    return "".join(exchange.prompt for exchange in conversation.path())


def test_branches_and_turning_between_them():
    conversation = tree()
    assert shown(conversation) == "ad"
    last = conversation.exchanges[4]
    assert conversation.position(last) == (2, 2)
    other = conversation.sibling(last, 1)
    assert (other.prompt, conversation.position(other), shown(conversation)) == ("b", (1, 2), "abc")
    assert conversation.sibling(other, -1) is last and shown(conversation) == "ad"


def test_the_history_of_a_question_are_the_questions_right_before_it():
    conversation = tree()
    conversation.switch_to(conversation.exchanges[2])
    assert conversation.history(conversation.exchanges[3]) == [("b", "B")]
    assert conversation.history(conversation.exchanges[2]) == [], "a text is no question"
    conversation.exchanges[2].reply = " "
    assert conversation.history(conversation.exchanges[3]) == [], "what was never answered is no turn"
    conversation.exchanges[2].reply = "B"
    conversation.exchanges[2].file_text = "what is in b.txt"
    assert conversation.history(conversation.exchanges[3]) == [("what is in b.txt", "B")]
    assert conversation.history(conversation.add("on", "", 1)) == []


def test_markdown_has_all_that_was_written():
    conversation = Conversation()
    cut = conversation.add("text", "FILE:q.txt", 0)
    cut.file_text, cut.reply, cut.problem = "Once", "and then", "the disk is gone"
    several = conversation.add("text", "Twice", 1)
    several.reply, several.others = "first", ("second", "third")
    text = as_markdown(conversation)
    order = ["FILE:q.txt", "Once", "and then", "the disk is gone", "Twice", "first", "sample 2", "second", "third"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_parameters_of_every_token():
    cold, hot = DecodeConfig(temperature=0.1), DecodeConfig(temperature=2.0)
    exchange = Exchange(1, 0, "text", "x", given=2, params=cold, changes=((3, hot),))
    assert [exchange.params_at(token).temperature for token in (0, 2, 4, 5, 6)] == [0.1, 0.1, 0.1, 2.0, 2.0]


def written_tree(home):
    conversation = tree()
    first = conversation.exchanges[1]
    first.prompt, first.context, first.reply, first.tokens = HOSTILE, HOSTILE, HOSTILE, [3, 1, 2]
    first.model, first.sha256, first.others = "run@7", "ab", ("other",)
    first.params = DecodeConfig(temperature=0.25, seed=9, stop=("\n\n",))
    first.changes = ((2, replace(first.params, top_k=5)),)
    for exchange in conversation.exchanges.values():
        save_exchange(home, conversation, exchange)
    return conversation


def test_what_was_kept_is_read_back_whole(home):
    conversation = written_tree(home)
    again = load(conversation.file)
    assert again.exchanges == conversation.exchanges
    assert (again.leaf, again.created, again.file) == (4, conversation.created, conversation.file)
    lines = [json.loads(line) for line in conversation.file.read_bytes().splitlines()]
    assert lines[0]["format"] == 1 and lines[1]["seed"] == 9 and len(lines) == 5


def test_a_torn_line_and_nonsense_are_left_out(home):
    conversation = written_tree(home)
    with conversation.file.open("ab") as file:
        file.write(b'[1]\n{"type": "exchange", "number": 9}\n{"type": "exch')
    again = load(conversation.file)
    assert again.exchanges == conversation.exchanges
    save_exchange(home, again, again.add("turn", "after the tear", 4))
    assert load(conversation.file).exchanges[5].prompt == "after the tear"


def test_an_exchange_whose_former_is_missing_is_left_out(home):
    conversation = written_tree(home)
    lines = conversation.file.read_bytes().splitlines(keepends=True)
    conversation.file.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert set(load(conversation.file).exchanges) == {1, 4}


def test_a_later_format_is_refused(home):
    file = home / "x.jsonl"
    file.write_text('{"type": "conversation", "format": 99}\n')
    with pytest.raises(UserError, match="newer"):
        load(file)


def test_search(home):
    written_tree(home)
    other = Conversation()
    other.add("text", "The Moon", 0).model = "second@3"
    save_exchange(home, other, other.exchanges[1])
    found = list_conversations(home)
    assert len(found) == 2
    assert [one.prompt for one in found if "moon" in one.text and "second@3" in one.text] == ["The Moon"]
    assert [one.exchanges for one in found if "夜" in one.text] == [4]


def test_a_prompt_that_failed_adds_no_model_to_the_list(home):
    conversation = Conversation()
    for model in ("first@1", "", "second@3", "first@1"):
        exchange = conversation.add("text", "x", conversation.leaf)
        exchange.model, exchange.problem = model, "" if model else "it failed"
        save_exchange(home, conversation, exchange)
    only_failed = Conversation()
    save_exchange(home, only_failed, only_failed.add("text", "y", 0))
    listed = {one.prompt: (one.models, facts_of(one)) for one in list_conversations(home)}
    assert listed["x"][0] == ("first@1", "second@3") and listed["x"][1].endswith(" · first@1, second@3")
    assert listed["y"][0] == () and listed["y"][1].endswith(" · no model")


def test_prompts_are_found_again(home):
    first = tree()
    for exchange in first.exchanges.values():
        save_exchange(home, first, exchange)
    first.file.rename(first.file.with_name("2020.jsonl"))
    second = Conversation()
    for prompt in ("x", "x", " ", "y"):
        save_exchange(home, second, second.add("text", prompt, second.leaf))
    second.file.rename(second.file.with_name("2021.jsonl"))
    assert recent_prompts(home) == ["a", "b", "c", "d", "x", "y"]
    (home / "transcripts" / "zz.jsonl").write_text('{"type": "conversation", "format": 99}\n')
    assert recent_prompts(home, files=2) == ["x", "y"], "a file that cannot be read is skipped"


def test_exports(home):
    conversation = written_tree(home)
    markdown, jsonl = export(home, conversation)
    text = markdown.read_text(encoding="utf-8")
    assert "````text\n夜" in text and "**run@7** (seed 9, temperature 0.25)" in text
    assert as_markdown(conversation).count("**Prompt**") == 2, "what is shown"
    assert len(jsonl.read_bytes().splitlines()) == 4, "all branches"


def test_a_home_that_cannot_be_written(home):
    (home / "transcripts").write_text("in the way")
    conversation = tree()
    with pytest.raises(UserError, match="not saved"):
        save_exchange(home, conversation, conversation.exchanges[1])
