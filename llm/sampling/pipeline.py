"""The logits pipeline: sampling parameters as an ordered list of logits processors, which can be reordered and traced.

Default order: bans, penalties and biases, temperature, truncation; then softmax and sampling. A processor whose
parameters are neutral is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llm.config.decode_schema import DecodeConfig
from llm.errors import ConfigError, Problem
from llm.names import did_you_mean
from llm.sampling import filters, penalties
from llm.sampling.vocabulary import NamedTokens, Vocabulary


@dataclass(frozen=True)
class SamplingContext:
    """Inputs of a processor other than the logits.

    `history` (B, T) int64: all tokens so far, including the prompt; `generated`: number of new tokens; `uniform` (B,)
    float: random numbers in [0, 1); `mu` (B,) float: mirostat's state in bits, which the caller updates.
    """

    history: Tensor
    generated: int
    uniform: Tensor
    mu: Tensor


@dataclass(frozen=True)
class LogitsProcessor:
    """One entry of `PROCESSORS`.

    `params`: the fields of `DecodeConfig` it reads; by default the field with its name. It is active if the first of
    them differs from its default, or, if `active` is given, where `active(params)` is true.
    """

    name: str
    apply: Callable[[Tensor, DecodeConfig, NamedTokens, SamplingContext], Tensor]
    params: tuple[str, ...] = ()
    active: Callable[[DecodeConfig], bool] | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return self.params or (self.name,)

    def is_active(self, params: DecodeConfig) -> bool:
        """Whether `params` turn the processor on."""
        if self.active is not None:
            return self.active(params)
        return bool(getattr(params, self.fields[0]) != getattr(DEFAULTS, self.fields[0]))

    def parameters(self, params: DecodeConfig) -> dict[str, Any]:
        """The values of the fields it reads."""
        return {name: getattr(params, name) for name in self.fields}


DEFAULTS = DecodeConfig()
PROCESSORS: tuple[LogitsProcessor, ...] = (
    LogitsProcessor("banned_tokens", lambda logits, p, tokens, ctx: filters.ban(logits, tokens.banned)),
    LogitsProcessor(
        "min_tokens",
        lambda logits, p, tokens, ctx: (
            filters.ban(logits, tokens.stop_ids) if p.ban_end or ctx.generated < p.min_tokens else logits
        ),
        ("min_tokens", "ban_end"),
        active=lambda p: p.ban_end or p.min_tokens > 0,
    ),
    LogitsProcessor(
        "no_repeat_ngram",
        lambda logits, p, tokens, ctx: filters.no_repeat_ngram(logits, ctx.history, p.no_repeat_ngram),
    ),
    LogitsProcessor(
        "repetition_penalty",
        lambda logits, p, tokens, ctx: penalties.repetition_penalty(
            logits, last(ctx.history, p.repetition_window), p.repetition_penalty
        ),
        ("repetition_penalty", "repetition_window"),
    ),
    LogitsProcessor(
        "presence_penalty",
        lambda logits, p, tokens, ctx: penalties.presence_penalty(
            logits, last(ctx.history, p.penalty_window), p.presence_penalty
        ),
        ("presence_penalty", "penalty_window"),
    ),
    LogitsProcessor(
        "frequency_penalty",
        lambda logits, p, tokens, ctx: penalties.frequency_penalty(
            logits, last(ctx.history, p.penalty_window), p.frequency_penalty
        ),
        ("frequency_penalty", "penalty_window"),
    ),
    LogitsProcessor(
        "dry",
        lambda logits, p, tokens, ctx: penalties.dry(
            logits, last(ctx.history, p.dry_window), tokens.breakers, p.dry_multiplier, p.dry_base, p.dry_allowed_length
        ),
        ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_window", "dry_breakers"),
    ),
    LogitsProcessor(
        "logit_bias", lambda logits, p, tokens, ctx: penalties.logit_bias(logits, tokens.biased, tokens.bias)
    ),
    LogitsProcessor(
        "length_penalty",
        lambda logits, p, tokens, ctx: penalties.length_penalty(
            logits, tokens.stop_ids, p.length_penalty, ctx.generated - p.length_penalty_start
        ),
        ("length_penalty", "length_penalty_start"),
    ),
    LogitsProcessor(
        "dynamic_temperature",
        lambda logits, p, tokens, ctx: penalties.dynamic_temperature(
            logits, p.temperature, p.dynamic_range, p.dynamic_exponent
        ),
        ("temperature", "dynamic_range", "dynamic_exponent"),
        active=lambda p: p.dynamic_range > 0 and p.temperature > 0,
    ),
    LogitsProcessor(
        "temperature",
        lambda logits, p, tokens, ctx: penalties.temperature(logits, p.temperature),
        active=lambda p: p.temperature != 1 and (p.dynamic_range == 0 or p.temperature == 0),
    ),
    LogitsProcessor("top_k", lambda logits, p, tokens, ctx: filters.top_k(logits, p.top_k)),
    LogitsProcessor("top_n_sigma", lambda logits, p, tokens, ctx: filters.top_n_sigma(logits, p.top_n_sigma)),
    LogitsProcessor("typical_p", lambda logits, p, tokens, ctx: filters.typical(logits, p.typical_p)),
    LogitsProcessor("top_p", lambda logits, p, tokens, ctx: filters.top_p(logits, p.top_p)),
    LogitsProcessor("min_p", lambda logits, p, tokens, ctx: filters.min_p(logits, p.min_p)),
    LogitsProcessor("epsilon_cutoff", lambda logits, p, tokens, ctx: filters.epsilon_cutoff(logits, p.epsilon_cutoff)),
    LogitsProcessor("eta_cutoff", lambda logits, p, tokens, ctx: filters.eta_cutoff(logits, p.eta_cutoff)),
    LogitsProcessor(
        "xtc",
        lambda logits, p, tokens, ctx: filters.xtc(logits, p.xtc_threshold, p.xtc_probability, ctx.uniform),
        ("xtc_probability", "xtc_threshold"),
    ),
    LogitsProcessor(
        "mirostat",
        lambda logits, p, tokens, ctx: filters.mirostat(logits, ctx.mu),
        ("mirostat_tau", "mirostat_eta"),
    ),
)
"""All processors, in the default order."""

BANS = ("banned_tokens", "min_tokens")


class LogitsPipeline:
    """Applies the active processors of `params`, in order, to logits (B, V); returns logits (B, V)."""

    def __init__(self, params: DecodeConfig, tokens: NamedTokens) -> None:
        by_name = {item.name: item for item in PROCESSORS}
        self.params = params
        self.processors = tuple(by_name[name] for name in resolve_order(params.order))
        self._tokens = tokens
        self._active = tuple(item for item in self.processors if item.is_active(params))

    def __call__(self, logits: Tensor, ctx: SamplingContext) -> Tensor:
        for item in self._active:
            logits = item.apply(logits, self.params, self._tokens, ctx)
        return logits

    def describe(self) -> list[tuple[str, bool, Mapping[str, Any]]]:
        """(name, active, parameters) in the order of application."""
        return [(item.name, item in self._active, item.parameters(self.params)) for item in self.processors]

    def trace(self, logits: Tensor, ctx: SamplingContext) -> list[tuple[str, Tensor]]:
        """(name, logits): first the input as "model", then the logits after each active processor."""
        stages = [("model", logits)]
        for item in self._active:
            logits = item.apply(logits, self.params, self._tokens, ctx)
            stages.append((item.name, logits))
        return stages


def build_pipeline(params: DecodeConfig, vocabulary: Vocabulary) -> LogitsPipeline:
    """The pipeline of `params`. ConfigError for an unknown token, or for an unknown or repeated name in the order."""
    return LogitsPipeline(params, vocabulary.resolve(params))


def resolve_order(names: Sequence[str]) -> tuple[str, ...]:
    """The bans, then `names`, then all other processors in the default order.

    Bans come first: a filter before them could leave only banned tokens. ConfigError for an unknown or repeated name.
    """
    known = tuple(item.name for item in PROCESSORS)
    unknown = [name for name in names if name not in known]
    if unknown:
        advice = did_you_mean(unknown[0], known) or f"use {', '.join(known)}."
        raise ConfigError([Problem("decode.order", f"{unknown[0]!r} is not a logits processor; {advice}")])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError([Problem("decode.order", f"{twice} occurs twice; list it once.")])
    return tuple(dict.fromkeys((*BANS, *names, *known)))


def last(history: Tensor, window: int) -> Tensor:
    """The last `window` columns of `history` (B, T); all if `window` is 0."""
    return history[:, -window:] if window > 0 else history
