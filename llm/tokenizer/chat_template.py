"""Chat templates: how the messages of a conversation become tokens, and where a reply ends.

The template belongs to a tokenizer and is saved with it. Training, chat, serving and export all use it. The content of
a message never becomes a special token: the name of a special token in it is written with a space after its first
character, here and in the Jinja form, so that every program gets the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llm.tokenizer.special_tokens import special_pattern

if TYPE_CHECKING:
    from llm.tokenizer.base import Tokenizer

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class Message(NamedTuple):
    """One message of a conversation. `is_learned`: whether an assistant message counts in the loss."""

    role: Role
    content: str
    is_learned: bool = True


class Piece(NamedTuple):
    """A special token, or a text that is encoded as a whole. `is_counted`: whether its tokens count in the loss."""

    text: str
    is_special: bool
    is_counted: bool


@dataclass(frozen=True)
class ChatTemplate:
    """A conversation is `begin`, then the content of each message between `before[role]` and `after[role]`.

    Spaces at the end of `before` are encoded with the content, so that its first word has the same token as within a
    sentence. In an assistant message they count in the loss, and the model generates them.
    `special_tokens` are those in these texts. Without any, an assistant message ends at the string `stop`. If `before`
    lacks "system", the system message is put before the first user message.
    """

    begin: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    special_tokens: tuple[str, ...] = ()
    stop: str = ""

    @property
    def end_tokens(self) -> tuple[str, ...]:
        """The special token that ends an assistant message, if there is one."""
        return tuple(piece.text for piece in self._split(self.after["assistant"]) if piece.is_special)[:1]

    def render_prompt(self, messages: Sequence[Message]) -> str:
        """The prompt for the next assistant message, as text for display."""
        return "".join(piece.text for piece in self.pieces(messages, add_generation_prompt=True))

    def pieces(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, reserved: Iterable[str] = ()
    ) -> list[Piece]:
        """The conversation in pieces; with `add_generation_prompt`, the prompt for the next assistant message.

        `reserved`: the special tokens of the tokenizer, which are escaped in the messages. In a prompt, no piece counts
        in the loss.
        """
        pieces = self._split(self.begin)
        for message in self._with_system(messages):
            is_counted = message.role == "assistant" and message.is_learned and not add_generation_prompt
            before = self.before[message.role].rstrip(" ")
            space = self.before[message.role][len(before) :]
            pieces += self._split(before)
            pieces.append(Piece(space + escape(message.content, reserved), False, is_counted))
            pieces += self._turn_end(self.after[message.role], is_counted)
        if add_generation_prompt:
            pieces += self._split(self.before["assistant"].rstrip(" "))
        return list(join_texts(pieces))

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The ids of a complete conversation, and whether each counts in the loss."""
        return encode_pieces(tokenizer, self.pieces(messages, reserved=tokenizer.special_tokens))

    def prompt_ids(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The ids of the prompt for the next assistant message."""
        pieces = self.pieces(messages, add_generation_prompt=True, reserved=tokenizer.special_tokens)
        return encode_pieces(tokenizer, pieces)[0]

    def to_jinja(self, reserved: Iterable[str]) -> str:
        """The template as Hugging Face's `chat_template`; `reserved` as in `pieces`."""
        escapes = "".join(f" | replace({name!a}, {escape(name, [name])!a})" for name in reserved)
        roles = [role for role in ROLES if role in self.before]
        branches = " ".join(
            f"{{%- {'if' if role == roles[0] else 'elif'} message['role'] == {role!a} -%}}"
            f"{{{{- {self.before[role]!a} + text + {self.after[role]!a} -}}}}"
            for role in roles
        )
        prompt = ascii(self.before["assistant"].rstrip(" "))
        return (
            f"{{{{- {self.begin!a} -}}}}"
            "{%- for message in messages -%}"
            f"{{%- set text = message['content']{escapes} -%}}"
            f"{branches}"
            "{%- else -%}{{- raise_exception('unknown role ' + message['role']) -}}{%- endif -%}"
            "{%- endfor -%}"
            f"{{%- if add_generation_prompt -%}}{{{{- {prompt} -}}}}{{%- endif -%}}"
        )

    def to_record(self) -> dict[str, Any]:
        """The template as JSON values."""
        return asdict(self) | {"special_tokens": list(self.special_tokens)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ChatTemplate:
        """Inverse of `to_record`. ValueError or TypeError for another record."""
        before, after = dict(record["before"]), dict(record["after"])
        texts = [record["begin"], record["stop"], *before.values(), *after.values(), *record["special_tokens"]]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a chat template holds texts")
        if before.keys() != after.keys() or not {"user", "assistant"} <= before.keys() <= set(ROLES):
            raise ValueError("a chat template has texts for user and assistant")
        return cls(record["begin"], before, after, tuple(record["special_tokens"]), record["stop"])

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not messages or messages[0].role != "system" or "system" in self.before:
            return messages
        system, *rest = messages
        if not rest:
            return [Message("user", system.content)]
        return [rest[0]._replace(content=f"{system.content}\n\n{rest[0].content}"), *rest[1:]]

    def _split(self, text: str) -> list[Piece]:
        """Split a part of the template into special tokens and texts, none of which count in the loss."""
        pattern = special_pattern(self.special_tokens)
        parts = pattern.split(text) if pattern else [text]
        return [Piece(part, index % 2 == 1, False) for index, part in enumerate(parts) if part]

    def _turn_end(self, text: str, is_counted: bool) -> list[Piece]:
        """The pieces after a message: those up to the first special token, which ends the turn, count in the loss."""
        pieces = self._split(text)
        last = next((index for index, piece in enumerate(pieces) if piece.is_special), len(pieces) - 1)
        return [piece._replace(is_counted=is_counted and index <= last) for index, piece in enumerate(pieces)]


STORIES_TEMPLATE = ChatTemplate(
    begin="",
    before={"user": "Question: ", "assistant": "Answer: "},
    after={"user": "\n", "assistant": "\n\n"},
    stop="\n\nQuestion:",
)


def default_template(tokenizer: Tokenizer) -> ChatTemplate:
    """The template that fine-tuning adds to a tokenizer: a token for each role, and one that ends a turn.

    A message begins with a space if the tokens of words include the space before them: a small vocabulary has tokens
    for names only in this form. A tokenizer with a `dummy_prefix` adds the space itself, and for bytes and characters
    it would be one more token.
    """
    names = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    begin = "" if tokenizer.separator is None else names[tokenizer.separator]
    roles: dict[str, str] = {role: f"<|{role}|>" for role in ROLES}
    tokens = (*([begin] if begin else []), *roles.values(), "<|end|>")
    space = "" if tokenizer.dummy_prefix or tokenizer.kind in ("byte", "char") else " "
    before = {role: token + space for role, token in roles.items()}
    return ChatTemplate(begin, before, dict.fromkeys(roles, "<|end|>"), tokens)


def with_template(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer` with a chat template: its own, or the default one."""
    return tokenizer if tokenizer.chat_template else tokenizer.with_chat_template(default_template(tokenizer))


def chat_template(tokenizer: Tokenizer, corpus: str) -> ChatTemplate | None:
    """The tokenizer's template, or that of the turns in `corpus`; None for plain text."""
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    return STORIES_TEMPLATE if corpus == "stories" else None


def escape(text: str, reserved: Iterable[str]) -> str:
    """`text` with a space after the first character of every special token in it, which makes it ordinary text."""
    for name in reserved:
        text = text.replace(name, f"{name[:1]} {name[1:]}")
    return text


def join_texts(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join adjacent texts of the same kind: a tokenizer may merge across their border. Drops empty pieces."""
    for (is_special, is_counted), group in groupby((piece for piece in pieces if piece.text), lambda piece: piece[1:]):
        if is_special:
            yield from group
        else:
            yield Piece("".join(piece.text for piece in group), False, is_counted)


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> tuple[list[int], list[bool]]:
    """The ids of the pieces, and whether each counts in the loss."""
    ids: list[int] = []
    counted: list[bool] = []
    for piece in pieces:
        new = [tokenizer.special_tokens[piece.text]] if piece.is_special else tokenizer.encode(piece.text)
        ids += new
        counted += [piece.is_counted] * len(new)
    return ids, counted
