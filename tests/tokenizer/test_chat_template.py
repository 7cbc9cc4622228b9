"""Chat templates."""

from __future__ import annotations

from llm.tokenizer.chat_template import chat_template


def test_the_template_of_the_stories() -> None:
    template = chat_template("stories")
    assert template is not None
    assert template.render_prompt([("a", "b")], "c") == "Question: a\nAnswer: b\n\nQuestion: c\nAnswer:"
    assert chat_template("pylib") is None
