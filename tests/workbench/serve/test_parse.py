"""What a request may say, and the errors of the API where it says something else."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from itertools import product
from typing import Any

import pytest

from llm.config import DecodeConfig
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.chat_template import STORIES_TEMPLATE, ChatTemplate
from workbench.serve.chat_prompt import encode_chat
from workbench.serve.errors import ApiError
from workbench.serve.parse import (
    CHAT_ONLY,
    COMMON,
    COMPLETION_ONLY,
    NEUTRAL,
    RENAMED,
    SAMPLING,
    Call,
    ModelInfo,
    parse_call,
)

TOKENIZER = ByteTokenizer()
HELLO = [{"role": "user", "content": "Hi"}]


def parse(is_chat: bool = False, template: ChatTemplate | None = None, **fields: Any) -> Call:
    model = ModelInfo(
        name="a-run",
        aliases=frozenset(("a-run@last",)),
        context=60,
        decode=DecodeConfig(temperature=0.7, max_tokens=20, stop=("END",), beams=3),
        encode=lambda prompt: TOKENIZER.encode(prompt) if isinstance(prompt, str) else list(prompt),
        encode_chat=lambda messages: encode_chat(TOKENIZER, template, messages),
        chat_stops=("STOP",),
    )
    defaults = {"model": "a-run"} | ({"messages": HELLO} if is_chat else {"prompt": "Once"})
    return parse_call(json.dumps(defaults | fields).encode(), model, is_chat=is_chat)


def test_the_parameters_are_those_of_the_run_unless_given() -> None:
    (request,) = parse(seed=-1).requests
    params = request.params
    assert bytes(request.prompt) == b"Once"
    assert (params.temperature, params.max_tokens, params.stop) == (0.7, 20, ("END",))
    assert (params.beams, params.num_samples, params.seed) == (1, 1, 2**63 - 1)
    first, second = (parse().requests[0].params.seed for _ in range(2))
    assert first != second
    given = parse(
        max_completion_tokens=5, n=2, stop="x", logit_bias={"65": -100}, top_p=0.5, top_k=3, min_p=None, user="me"
    ).requests[0].params  # fmt: skip
    assert (given.max_tokens, given.num_samples, given.stop, given.top_p) == (5, 2, ("END", "x"), 0.5)
    assert (given.logit_bias, given.top_k) == (("65=-100",), 3)


def test_a_prompt_is_a_text_or_ids_or_a_list_of_either() -> None:
    assert [one.prompt for one in parse(prompt=["ab", "c"]).requests] == [(97, 98), (99,)]
    assert [one.prompt for one in parse(prompt=[97, 98]).requests] == [(97, 98)]
    assert [one.prompt for one in parse(prompt=[[97], [98]]).requests] == [(97,), (98,)]


def test_an_echo_may_have_no_new_tokens() -> None:
    call = parse(echo=True, max_tokens=0, logprobs=1)
    assert (call.echo, call.requests[0].echo, call.requests[0].params.max_tokens) == (True, True, 0)
    assert not parse().echo


def prompt_of(template: ChatTemplate | None, *texts: str) -> str:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return bytes(parse(True, template, messages=messages).requests[0].prompt).decode()


def test_a_chat_follows_the_template_of_the_model() -> None:
    assert prompt_of(STORIES_TEMPLATE, "A", "b", "C") == "Question: A\nAnswer: b\n\nQuestion: C\nAnswer:"
    call = parse(True, STORIES_TEMPLATE, messages=[{"role": "system", "content": "S"}, *HELLO])
    assert bytes(call.requests[0].prompt).decode() == "Question: S\n\nHi\nAnswer:"
    assert call.requests[0].params.stop == ("END", "STOP")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert bytes(parse(True, messages=[{"role": "user", "content": parts}]).requests[0].prompt) == b"ab"


def test_a_chat_without_a_template_is_a_text_that_is_continued() -> None:
    assert prompt_of(None, "Once", " there was", "Then") == "Once there was\n\nThen"


def test_log_probabilities_are_asked_for_in_two_ways() -> None:
    assert [
        (call.logprobs, call.requests[0].top_logprobs) for call in (parse(), parse(logprobs=0), parse(logprobs=3))
    ] == [
        (False, 0),
        (True, 0),
        (True, 3),
    ]
    chat = parse(True, logprobs=True, top_logprobs=2)
    assert (chat.logprobs, chat.requests[0].top_logprobs) == (True, 2)


@pytest.mark.parametrize(
    ("fields", "status", "param", "code", "words"),
    [
        ({"model": None}, 400, "model", None, "you must provide a model"),
        ({"model": "gpt-4"}, 404, "model", "model_not_found", "'gpt-4' does not exist"),
        ({"model": ["a-run"]}, 400, "model", None, "must be a string"),
        ({"prompt": "x" * 60}, 400, "prompt", "context_length_exceeded", "maximum context length is 60 tokens"),
        ({"prompt": 5}, 400, "prompt", None, "must be a string"),
        ({"prompt": ["a"] * 33}, 400, "prompt", None, "at most 32"),
        ({"temperature": "hot"}, 400, "temperature", None, 'must be a number, not "hot"'),
        ({"top_p": 7}, 400, "top_p", None, "must be at most 1"),
        ({"n": 0}, 400, "n", None, "n must be at least 1"),
        ({"max_tokens": 1.5}, 400, "max_tokens", None, "whole number"),
        ({"stop": [1]}, 400, "stop", None, "list of at most"),
        ({"seed": "1"}, 400, "seed", None, "whole number"),
        ({"logit_bias": {"a": 1}}, 400, "logit_bias", None, "token ids"),
        ({"logprobs": 6}, 400, "logprobs", None, "from 0 to 5"),
        ({"stream": "yes"}, 400, "stream", None, "true or false"),
        ({"echo": "yes"}, 400, "echo", None, "true or false"),
        ({"max_tokens": 0}, 400, "max_tokens", None, "max_tokens"),
        ({"beams": 4}, 400, "beams", "unknown_parameter", "Unrecognized"),
        ({"tmperature": 1}, 400, "tmperature", "unknown_parameter", "Unrecognized request argument"),
    ],
)
def test_errors_of_completions(fields: dict[str, Any], status: int, param: str, code: str | None, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert (caught.value.status, caught.value.param, caught.value.code) == (status, param, code)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]"),
        ({"messages": [*HELLO, {"role": "user", "content": [{"type": "image_url"}]}]}, "messages[1]"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Yes"}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_errors_of_chats(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(True, **fields)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("is_chat", [False, True])
def test_no_value_of_a_field_is_a_fault_of_the_server(is_chat: bool) -> None:
    """Values of every kind for every field are accepted, or refused with an error of the API."""
    values = [
        None, True, -1, 3.5, math.nan, 10**30, "", "\ud800", [], [1], ["a"], [None], [[]], [{"type": ["x"]}],
        {}, {"a": [1]}, {"1": None}, [{"role": ["user"], "content": "x"}], [{"role": "user", "content": [{}]}],
    ]  # fmt: skip
    fields = COMMON | CHAT_ONLY | COMPLETION_ONLY | NEUTRAL.keys() | RENAMED.keys() | SAMPLING.keys()
    for name, value in product(sorted(fields), values):
        with suppress(ApiError):
            parse(is_chat, **{name: value})
