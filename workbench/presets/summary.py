"""What a configuration means, in words and numbers, as the Presets screen shows it."""

from __future__ import annotations

import textwrap
from typing import Any

from textual.content import Content

from llm.config import RunConfig, diff, resolve_model, with_overrides
from llm.errors import UserError
from llm.model.counts import parameters
from workbench.formatting import format_count, format_duration, format_size
from workbench.presets.estimate import (
    PROGRAM_BYTES,
    Estimate,
    corpus_bytes,
    estimate,
    expected_vocabulary,
    nearest_that_fits,
)
from workbench.presets.preflight import Speed
from workbench.presets.prepared import DataState
from workbench.text import clean

LABEL_WIDTH = 11
GENERATED = ("stories", "pylib")
DESCRIBING = ("purpose", "group")  # fields that say what a preset is, not what it does


ANY_SPEED = 1e9  # FLOP/s, where only the memory matters


def meaning(
    name: str, config: RunConfig, base: RunConfig, data: DataState | None, width: int, speed: Speed | None = None
) -> Content:
    """The page beside the list, `width` columns wide: what would be trained, what it takes, and what differs.

    `base` is the preset before it was edited; `data` is None while nobody has looked yet, `speed` while nothing was
    measured here.
    """
    lines = [Content.styled(clean(name), "bold"), Content(clean(config.purpose)), Content("")]
    lines += costs(config, data, width, speed)
    lines += row("Data", *data_words(config, data), width)
    edited = changes(base, config)
    if edited:
        lines += [Content(""), Content.styled("Changed by you", "bold $text-warning"), *edited]
    lines += [Content(""), Content.styled("Differs from the defaults", "bold"), *changes(RunConfig(), config)]
    return Content("\n").join(lines)


def costs(config: RunConfig, data: DataState | None, width: int, speed: Speed | None = None) -> list[Content]:
    """What training would take, `width` columns wide; or why it cannot be."""
    state = data or DataState()
    try:
        sizes = estimate(config, vocab_size=state.vocab_size, train_tokens=state.train_tokens)
    except UserError as error:
        problems = [Content(clean(line)) for line in str(error).split("\n")]
        return [Content.styled("cannot be trained", "bold $text-error"), *problems]
    return [line for entry in figures(config, sizes, data, speed) for line in row(*entry, width)]


def figures(
    config: RunConfig, guess: Estimate, data: DataState | None, speed: Speed | None = None
) -> list[tuple[str, str, str]]:
    """Label, text and style: model, memory, step, length."""
    model, batch_plan = guess.model, guess.batch_plan
    about = "about " if guess.vocab_is_guess else ""
    shape = f"{model.n_layer} layers × {model.d_model}, {model.n_head} heads, context {model.context}"
    memory = memory_words(guess, speed)
    micro = f" in {batch_plan.grad_accum_steps} micro-batches" if batch_plan.grad_accum_steps > 1 else ""
    guessed = "about " if guess.length_is_guess else ""
    steps = f"{guessed}{batch_plan.steps:,} steps, {format_count(guess.total_tokens)} tokens"
    if data is not None and data.is_prepared:
        steps += f", {guess.total_tokens / data.train_tokens:.2g} passes over the text"
    return [
        ("Model", f"{about}{format_count(guess.parameters)} parameters: {shape}", ""),
        ("Memory", memory, "" if guess.fits else "$text-error"),
        *([] if guess.fits else [("", verdict(config, guess), "$text-error")]),
        (
            "Each step",
            f"{batch_plan.tokens_per_step:,} tokens ({batch_plan.global_batch_size} × {batch_plan.seq_len}){micro}",
            "",
        ),
        ("In all", steps, ""),
        ("Speed", speed_words(guess, speed), ""),
        ("Tokenizer", tokenizer_words(config, guess), ""),
    ]


def memory_words(guess: Estimate, speed: Speed | None) -> str:
    """What training holds: measured where that was done, else by formula."""
    if speed is not None and speed.exact and speed.measured.peak_bytes:
        held = speed.measured
        return f"{format_size(held.training_bytes)} while training, {format_size(held.peak_bytes)} in all (measured)"
    return f"about {format_size(guess.training_bytes)} while training, and {format_size(PROGRAM_BYTES)} for the program"


def verdict(config: RunConfig, guess: Estimate) -> str:
    """Why it will not fit, and the nearest that will."""
    reason = f"will not fit: {format_size(guess.available_bytes)} are free"
    try:
        fitted = with_overrides(config, nearest_that_fits(config, ANY_SPEED))
    except UserError:
        return reason
    model = resolve_model(fitted.model, expected_vocabulary(fitted))
    shape = f"{model.n_layer} layers × {model.d_model}, {format_count(parameters(model))} parameters"
    return f"{reason}. Nearest that will: {shape}, batch {fitted.train.batch_size} (f)"


def speed_words(guess: Estimate, speed: Speed | None) -> str:
    """Tokens per second and the time of the whole run, from what was measured on this machine."""
    if speed is None:
        return "not measured on this machine yet (p measures a few real steps)"
    rate = (
        speed.measured.tokens_per_second if speed.exact else speed.flops_per_second / guess.batch_plan.flops_per_token
    )
    source = "measured" if speed.exact else f"going by {clean(speed.name)}; p measures"
    time = format_duration(round(guess.total_tokens / rate))
    return f"about {format_count(rate, digits=3)} tokens/s, {time} ({source})"


def tokenizer_words(config: RunConfig, guess: Estimate) -> str:
    kind = config.tokenizer.kind
    if kind == "char" and guess.vocab_is_guess:
        return "char: an id for each character of the text"
    name = f"{kind} {config.tokenizer.encoding}" if kind == "tiktoken" else kind
    return f"{clean(name)}, {guess.model.vocab_size:,} ids"


def data_words(config: RunConfig, data: DataState | None) -> tuple[str, str]:
    """What text is needed and whether it is here; and the colour for that."""
    corpus = config.data.corpus
    name = f"{clean(corpus)}, {format_size(corpus_bytes(config))}"
    if data is None:
        return f"{name}; looking…", ""
    if data.problem:
        return f"{name}: {clean(data.problem)}", "$text-error"
    if data.is_prepared:
        return f"{name}; prepared: {format_count(data.train_tokens)} tokens", "$text-success"
    verb = "will be made" if corpus in GENERATED else "will be read"
    return f"{name}; {verb} and tokenised first", ""


def row(label: str, text: str, style: str, width: int) -> list[Content]:
    """A label and its text, wrapped beside it."""
    first, *rest = textwrap.wrap(text, max(20, width - LABEL_WIDTH)) or [""]
    return [
        Content.assemble((f"{label:<{LABEL_WIDTH}}", "$foreground-muted"), (first, style)),
        *(Content.assemble(" " * LABEL_WIDTH, (line, style)) for line in rest),
    ]


def changes(before: RunConfig, after: RunConfig) -> list[Content]:
    """Fields that differ, as `path  before → after`."""
    different = [entry for entry in diff(before, after) if entry[0] not in DESCRIBING]
    width = max((len(path) for path, _, _ in different), default=0)
    return [
        Content.assemble((f"{path:<{width}}  ", "$foreground-muted"), f"{shown(old)} → ", (shown(new), "bold"))
        for path, old, new in different
    ]


def shown(value: Any) -> str:
    """A value as it is typed into a form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return clean(", ".join(str(item) for item in value)) or "(none)"
    if isinstance(value, float):
        return f"{value:.6g}"
    return clean(str(value)) or "(empty)"
