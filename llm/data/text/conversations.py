"""Conversations from the rows of datasets, in the four shapes that people have.

    messages       {"messages": [{"role": "user", "content": "…"}, …]} (OpenAI), or the list alone (nanochat); an
                   answer with "weight": 0 is read and not learned
    conversations  {"conversations": [{"from": "human", "value": "…"}, …], "system": "…"} (ShareGPT)
    instruction    {"instruction": "…", "input": "…", "output": "…"} (Alpaca)
    prompt         {"prompt": "…", "completion": "…"}; both may be lists of messages (TRL)

A preference is a row with `chosen` and `rejected`: two texts after a `prompt`, or two lists of messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from llm.tokenizer.chat_template import Message, Role

Conversation: TypeAlias = tuple[Message, ...]

MAX_MESSAGE = 1_000_000
"""Characters of a message; a longer one is a mistake of the program that wrote the file."""
ROLE_NAMES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
}  # fmt: skip
LISTS = ("messages", "conversations", "conversation")
ANSWERS = ("completion", "response", "answer")


class BadRow(ValueError):
    """A row that is not a usable conversation. The message says why, without the place."""


class Preference(NamedTuple):
    """Two answers to the same prompt, each as a whole conversation; the first is the better one."""

    chosen: Conversation
    rejected: Conversation


def shape_of(row: Any) -> str:
    """The name of the shape of a row: "messages", "conversations", "instruction", "prompt" or "preference"; "" if it is
    none of them."""
    if isinstance(row, list):
        return "messages" if row and all(isinstance(item, dict) and "role" in item for item in row) else ""
    if not isinstance(row, dict):
        return ""
    row = {name: value for name, value in row.items() if value is not None}
    if "chosen" in row and "rejected" in row:
        return "preference"
    for name in LISTS:
        if isinstance(row.get(name), list):
            return "messages" if name == "messages" else "conversations"
    if "instruction" in row and "output" in row:
        return "instruction"
    return "prompt" if "prompt" in row and any(name in row for name in ANSWERS) else ""


def conversation_from_row(row: Any) -> Conversation:
    """The conversation of a row, checked. Raises BadRow."""
    shape = shape_of(row)
    if not shape:
        raise BadRow(why_no_conversation(row))
    if shape == "preference":
        raise BadRow("is a preference (chosen and rejected), not a conversation; use it for tune.stage dpo")
    return check_conversation(messages_of(row, shape))


def preference_from_row(row: Any) -> Preference:
    """The two conversations of a row with `chosen` and `rejected`, checked. Raises BadRow."""
    if shape_of(row) != "preference":
        raise BadRow("has no fields chosen and rejected")
    prompt = messages_in(row["prompt"], "user") if row.get("prompt") else []
    both = []
    for name in ("chosen", "rejected"):
        try:
            messages = [*prompt, *messages_in(row[name], "assistant")]
            both.append(check_conversation([message._replace(is_learned=True) for message in messages]))
        except BadRow as error:
            raise BadRow(f"{error} (in {name})") from None
    chosen, rejected = both
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("has a chosen and a rejected answer to different prompts")
    if chosen == rejected:
        raise BadRow("has the same answer as chosen and rejected")
    return Preference(chosen, rejected)


def messages_of(row: Any, shape: str) -> list[Message]:
    """The messages of a row of a known shape, not checked against each other."""
    if isinstance(row, list):
        return messages_in(row, "user")
    system = [Message("system", text_in(row["system"], "system"))] if row.get("system") else []
    if shape in ("messages", "conversations"):
        name = next(name for name in LISTS if isinstance(row.get(name), list))
        found = messages_in(row[name], "user")
        return found if found and found[0].role == "system" else system + found
    if shape == "instruction":
        parts = [text_in(row["instruction"], "instruction"), text_in(row.get("input") or "", "input")]
        question = "\n\n".join(filter(None, parts))
        return [*system, Message("user", question), Message("assistant", text_in(row["output"], "output"))]
    return [*system, *messages_in(row["prompt"], "user"), *messages_in(first_given(row, *ANSWERS), "assistant")]


def messages_in(value: Any, role: Role) -> list[Message]:
    """The messages of a list, or a text as one message of `role`. Raises BadRow."""
    if not isinstance(value, list):
        return [Message(role, text_in(value, role))]
    return [message_of(item, number) for number, item in enumerate(value, 1)]


def message_of(item: Any, number: int) -> Message:
    """One message; roles and contents under the names of OpenAI or ShareGPT."""
    if not isinstance(item, dict):
        raise BadRow(f"has a message {number} that is not an object")
    role = first_given(item, "role", "from")
    if role is None:
        raise BadRow(f"has no role in message {number}")
    if not isinstance(role, str) or role.lower() not in ROLE_NAMES:
        raise BadRow(f"has the unknown role {str(role)[:30]!r} in message {number}")
    content = first_given(item, "content", "value")
    weight = item.get("weight")
    if weight not in (None, 0, 1):
        raise BadRow(f"has the weight {str(weight)[:30]} in message {number}; it must be 0 or 1")
    return Message(ROLE_NAMES[role.lower()], text_in(content, f"message {number}"), weight != 0)


def first_given(item: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of these fields that is there and not null; None if there is none. Tables have a column
    for every field of any row, and null where a row lacks it."""
    return next((item[name] for name in names if item.get(name) is not None), None)


def text_in(value: Any, name: str) -> str:
    """A text, or the texts in a list of content parts. Raises BadRow."""
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        raise BadRow(f"has no text in {name}")
    if len(value) > MAX_MESSAGE:
        raise BadRow(f"has {len(value):,} characters in {name}, more than {MAX_MESSAGE:,}")
    return value


def check_conversation(messages: Sequence[Message]) -> Conversation:
    """The messages if they are a conversation: at most one system message first, then questions and answers in turn.

    A question after the last answer is dropped. Raises BadRow.
    """
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        raise BadRow("has no messages")
    first = 1 + len(messages) - len(turns)
    for number, message in enumerate(turns, first):
        if message.role == "system":
            raise BadRow(f"has a system message in place {number}; only the first message may be one")
        if message.role != ("user", "assistant")[(number - first) % 2]:
            which = "begins with an answer" if number == first else f"has two messages of {message.role} in a row"
            raise BadRow(f"{which} (message {number})")
        if not message.content.strip():
            raise BadRow(f"has an empty {'question' if message.role == 'user' else 'answer'} (message {number})")
    if turns[-1].role == "user":
        messages = messages[:-1]
    if not any(message.role == "assistant" for message in messages):
        raise BadRow("has no answer")
    if not any(message.role == "assistant" and message.is_learned for message in messages):
        raise BadRow("has no answer to learn: the weight of each is 0")
    return tuple(messages)


def why_no_conversation(row: Any) -> str:
    """Why a row has none of the known shapes."""
    if not isinstance(row, dict):
        return "is not an object with messages"
    names = ", ".join([str(name)[:30] for name, value in row.items() if value is not None][:8]) or "none"
    return (
        f"has none of the fields messages, conversations, instruction and output, prompt and completion (but: {names})"
    )
