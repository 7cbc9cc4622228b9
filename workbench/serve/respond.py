"""The bodies of answers: whole, and as the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from llm.engine.continuous import NewToken
from llm.tokenizer.base import Tokenizer
from workbench.serve.parse import Call

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"


class Answer:
    """The answer to a call: collects new tokens, and renders all of them or those of one moment.

    `weights` (RUN@STEP) is the system fingerprint.
    """

    def __init__(self, call: Call, model: str, tokenizer: Tokenizer) -> None:
        self.call, self.model, self.tokenizer, self.weights = call, model, tokenizer, ""
        self.id = f"{'chatcmpl' if call.is_chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self._first = {id(request): offset for request, offset in zip(call.requests, offsets(call), strict=True)}
        count = sum(request.params.num_samples for request in call.requests)
        self._choices: list[list[NewToken]] = [[] for _ in range(count)]
        self._lengths = [0] * count
        self._has_text = [False] * count
        self._tokens = 0

    def add(self, tokens: Sequence[NewToken]) -> dict[int, list[NewToken]]:
        """Collect new tokens; returns them by the index of their choice."""
        found: dict[int, list[NewToken]] = {}
        for token in tokens:
            index = self._first[id(token.request)] + token.sample
            found.setdefault(index, []).append(token)
            self._choices[index].append(token)
        self._tokens += sum(not token.is_prompt for token in tokens)
        return found

    def whole(self) -> Json:
        """The answer that is not streamed."""
        choices = [self._choice(index, tokens) for index, tokens in enumerate(self._choices)]
        return self._envelope("chat.completion" if self.call.is_chat else "text_completion", choices, self.usage)

    def opening(self) -> bytes:
        """The first event of a stream: in a chat, the role of every choice."""
        if not self.call.is_chat:
            return b""
        start = {"role": "assistant", "content": ""}
        return b"".join(
            self._event([{"index": index, "delta": start, "logprobs": None, "finish_reason": None}])
            for index in range(len(self._choices))
        )

    def chunk(self, tokens: Sequence[NewToken]) -> bytes:
        """The event of a stream for new tokens: one choice for each sample that has any."""
        return self._event([self._delta(index, own) for index, own in sorted(self.add(tokens).items())])

    def closing(self) -> bytes:
        """The last events of a stream."""
        return (self._event([], self.usage) if self.call.include_usage else b"") + DONE

    @property
    def usage(self) -> Json:
        prompt = sum(len(request.prompt) for request in self.call.requests)
        return {"prompt_tokens": prompt, "completion_tokens": self._tokens, "total_tokens": prompt + self._tokens}

    def _event(self, choices: list[Json], usage: Json | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.call.is_chat else "text_completion"
        return event(self._envelope(kind, choices, usage))

    def _envelope(self, kind: str, choices: list[Json], usage: Json | None) -> Json:
        body: Json = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        if usage is not None or self.call.include_usage:
            body["usage"] = usage
        return body | {"system_fingerprint": self.weights}

    def _choice(self, index: int, tokens: list[NewToken]) -> Json:
        text = self._join(index, tokens)
        said: Json = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"index": index} | (said if self.call.is_chat else {"text": text}) | self._facts(index, tokens)

    def _delta(self, index: int, tokens: list[NewToken]) -> Json:
        text = self._join(index, tokens)
        said: Json = {"delta": {"content": text}} if self.call.is_chat else {"text": text}
        return {"index": index} | said | self._facts(index, tokens)

    def _join(self, index: int, tokens: list[NewToken]) -> str:
        """The text of `tokens`; in a chat without the space that the template has before every message."""
        text = "".join(token.text for token in tokens)
        if self.call.is_chat and not self._has_text[index]:
            text = text.lstrip()
            self._has_text[index] = bool(text)
        return text

    def _facts(self, index: int, tokens: list[NewToken]) -> Json:
        """The log-probabilities of `tokens`, and why the choice ended."""
        logprobs = None
        if self.call.logprobs:
            ends = () if self.call.echo else self.tokenizer.stop_ids  # clients that score a prompt count its tokens
            shown = [token for token in tokens if token.token_id not in ends]
            logprobs = self._chat_logprobs(shown) if self.call.is_chat else self._text_logprobs(index, shown)
        return {"logprobs": logprobs, "finish_reason": (tokens[-1].reason if tokens else "") or None}

    def _chat_logprobs(self, tokens: list[NewToken]) -> Json:
        content = [
            self._token(token.token_id, token.logprob) | {"top_logprobs": [self._token(*pair) for pair in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _text_logprobs(self, index: int, tokens: list[NewToken]) -> Json:
        """The older form of completions. `text_offset` counts characters of the choice."""
        places = []
        for token in tokens:
            places.append(self._lengths[index])
            self._lengths[index] += len(token.text)
        return {
            "tokens": [self._text(token.token_id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                None if token.logprob is None else {self._text(id): value for id, value in token.top}
                for token in tokens
            ],
            "text_offset": places,
        }

    def _token(self, token: int, logprob: float | None) -> Json:
        return {"token": self._text(token), "logprob": logprob, "bytes": list(self.tokenizer.token_bytes(token))}

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")


def offsets(call: Call) -> Iterator[int]:
    """The index of the first choice of each request."""
    count = 0
    for request in call.requests:
        yield count
        count += request.params.num_samples


def event(body: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
