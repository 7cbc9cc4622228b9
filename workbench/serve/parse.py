"""The bodies of requests, checked: what to generate, and how to answer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm.config import DecodeConfig, fields_of
from llm.config.fields import validate
from llm.engine.continuous import Request
from llm.reader import Malformed, parse_json
from llm.tokenizer.chat_template import Message
from workbench.serve.errors import ApiError

Json = dict[str, Any]

MAX_BODY_BYTES = 1 << 20
MAX_PROMPTS = 32
MAX_STOPS = 16
IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
"""Fields that clients send and that change nothing here."""
RENAMED = {"max_completion_tokens": "max_tokens", "n": "num_samples"}
"""Fields of the API that are sampling parameters of another name."""
FIXED = frozenset(
    (
        "beams",
        "beam_length_penalty",
        "best_of",
        "lookup",
        "max_total_tokens",
        "num_samples",
        "order",
        "separator_first",
        "stop",
        "weights",
    )
)
"""Sampling parameters that a request cannot set by their own name."""
SAMPLING = {field.name: field for field in fields_of(DecodeConfig)}
CHAT_ONLY, COMPLETION_ONLY = frozenset(("messages", "top_logprobs")), frozenset(("prompt", "echo"))
COMMON = frozenset(("model", "stream", "stream_options", "stop", "seed", "logit_bias", "logprobs"))
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
}
"""Features that are not supported, with the values that do not ask for them."""


@dataclass(frozen=True)
class ModelInfo:
    """What checking a request needs of the served model."""

    name: str
    """The id in the API."""
    aliases: frozenset[str]
    context: int
    decode: DecodeConfig
    encode: Callable[[str | Sequence[int]], list[int]]
    """The tokens of a prompt, at least one. Raises UserError."""
    encode_chat: Callable[[Sequence[Message]], list[int]]
    """The tokens of a conversation up to where the next answer begins. Raises UserError."""
    chat_stops: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """A checked request: one `Request` per prompt. `logprobs`: whether the answer has them; `echo`: whether it begins
    with the prompt."""

    requests: tuple[Request, ...]
    is_chat: bool
    stream: bool
    include_usage: bool
    logprobs: bool
    echo: bool = False


def parse_call(body: bytes, model: ModelInfo, *, is_chat: bool) -> Call:
    """Check the body of a request. Raises ApiError and UserError."""
    fields = parse_object(body)
    check_model(fields.get("model"), model)
    check_names(fields, is_chat=is_chat)
    logprobs, top = parse_logprobs(fields, is_chat=is_chat)
    echo = flag(fields, "echo")
    params = parse_sampling(fields, model.decode)
    if is_chat:
        prompts = [model.encode_chat(parse_messages(fields.get("messages")))]
        params = replace(params, stop=(*params.stop, *model.chat_stops))
    else:
        prompts = [model.encode(prompt) for prompt in parse_prompts(fields.get("prompt"))]
    where = "messages" if is_chat else "prompt"
    for ids in prompts:
        check_length(ids, model.context, where)
    requests = tuple(Request(tuple(ids), params, top, echo) for ids in prompts)
    options = fields.get("stream_options") or {}
    include_usage = isinstance(options, dict) and options.get("include_usage") is True
    return Call(requests, is_chat, flag(fields, "stream"), include_usage, logprobs, echo)


def parse_object(body: bytes) -> Json:
    try:
        fields = parse_json(body, MAX_BODY_BYTES)
    except Malformed as error:
        raise ApiError(400, f"The body of the request is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "The body of the request must be a JSON object.")
    return fields


def check_model(name: Any, model: ModelInfo) -> None:
    if name is None:
        raise ApiError(400, f'you must provide a model parameter: "model": "{model.name}"', param="model")
    if not isinstance(name, str):
        raise ApiError(400, "model must be a string.", param="model")
    if name != model.name and name not in model.aliases:
        message = f"The model {name!r} does not exist; this server has {model.name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")


def check_names(fields: Json, *, is_chat: bool) -> None:
    """ApiError for a field that is unknown or not supported."""
    own = COMMON | (CHAT_ONLY if is_chat else COMPLETION_ONLY)
    known = own | IGNORED | NEUTRAL.keys() | RENAMED.keys() | (SAMPLING.keys() - FIXED)
    for name, value in fields.items():
        if name not in known:
            raise ApiError(400, f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")
        if name in NEUTRAL and value not in NEUTRAL[name]:
            raise ApiError(400, f"{name} is not supported by this server.", param=name, code="unsupported_parameter")


def parse_sampling(fields: Json, defaults: DecodeConfig) -> DecodeConfig:
    """The sampling parameters: those of the run, changed by those of the request. Without a seed, a random one."""
    values: Json = {}
    for name, value in fields.items():
        target = RENAMED.get(name, name)
        if value is None or target not in SAMPLING or name in ("stop", "seed", "logit_bias", *FIXED):
            continue
        if target == "max_tokens" and value == 0 and fields.get("echo") is True:
            values[target] = 0  # only the prompt, for its log-probabilities
            continue
        try:
            values[target] = validate(SAMPLING[target], value)
        except ValueError as error:
            raise ApiError(400, f"{name} {error}.", param=name) from None
    values["stop"] = (*defaults.stop, *parse_stops(fields.get("stop")))
    values["logit_bias"] = (*defaults.logit_bias, *parse_bias(fields.get("logit_bias")))
    values["seed"] = parse_seed(fields.get("seed"))
    return replace(replace(defaults, beams=1, best_of=1, max_total_tokens=0, num_samples=1), **values)


def parse_stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise ApiError(400, f"stop must be a string or a list of at most {MAX_STOPS} strings.", param="stop")
    return tuple(stop for stop in stops if stop)


def parse_bias(value: Any) -> tuple[str, ...]:
    """{"198": -5} as the sampling parameter writes it, "198=-5"."""
    biases = value or {}
    if not isinstance(biases, dict) or not all(is_token(key) and is_number(bias) for key, bias in biases.items()):
        raise ApiError(400, "logit_bias must map token ids to numbers.", param="logit_bias")
    return tuple(f"{token}={bias}" for token, bias in biases.items())


def is_token(text: str) -> bool:
    return text.isascii() and text.isdigit()


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_seed(value: Any) -> int:
    if value is None:
        return secrets.randbits(63)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ApiError(400, "seed must be a whole number.", param="seed")
    return value % 2**63


def parse_logprobs(fields: Json, *, is_chat: bool) -> tuple[bool, int]:
    """Whether the answer has log-probabilities, and how many alternatives per token."""
    value = fields.get("logprobs")
    if not is_chat:
        if value is None or value is False:
            return False, 0
        return True, parse_count(value, "logprobs", 5)
    top, wanted = fields.get("top_logprobs"), flag(fields, "logprobs")
    if top is not None and not wanted:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
    return wanted, parse_count(top or 0, "top_logprobs", 20)


def parse_count(value: Any, name: str, most: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ApiError(400, f"{name} must be a whole number from 0 to {most}.", param=name)
    return int(value)


def flag(fields: Json, name: str) -> bool:
    value = fields.get(name)
    if not isinstance(value, bool | None):
        raise ApiError(400, f"{name} must be true or false.", param=name)
    return bool(value)


def parse_prompts(value: Any) -> list[str | list[int]]:
    """A prompt is a string or a list of token ids; there may be a list of either."""
    if isinstance(value, str) or is_id_list(value):
        return [value]
    is_short_list = isinstance(value, list) and 0 < len(value) <= MAX_PROMPTS
    if is_short_list and (all(isinstance(one, str) for one in value) or all(map(is_id_list, value))):
        return list(value)
    raise ApiError(
        400,
        f"prompt must be a string, a list of token ids, or a list of at most {MAX_PROMPTS} of these.",
        param="prompt",
    )


def is_id_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(id) is int for id in value)


def parse_messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages must be a list with at least one message.", param="messages")
    messages = [parse_message(message, f"messages[{index}]") for index, message in enumerate(value)]
    if messages[-1].role != "user":
        raise ApiError(400, "The last message must be one of the user.", param="messages")
    return messages


def parse_message(message: Any, param: str) -> Message:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in ("system", "developer", "user", "assistant"):
        raise ApiError(400, f"{param} must have the role system, user or assistant.", param=param)
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ApiError(400, f"The content of {param} must be text.", param=param)
    return Message("system" if role == "developer" else role, content)


def check_length(ids: list[int], context: int, param: str) -> None:
    """ApiError for a prompt that leaves no room for a token."""
    if len(ids) >= context:
        message = (
            f"This model's maximum context length is {context} tokens, but the {param} resulted in {len(ids)}; "
            f"at least one must remain to be generated. Shorten the {param}."
        )
        raise ApiError(400, message, param=param, code="context_length_exceeded")
