"""The page of the Presets screen on one configuration: sizes, costs and changes."""

from __future__ import annotations

import textwrap
from typing import Any

from textual.content import Content

from llm.config import RunConfig, diff, resolve_model, with_overrides
from llm.config.fit import expected_vocab_size
from llm.errors import UserError
from llm.model.counts import parameters, trained_parameters
from workbench.formatting import format_count, format_duration, format_size
from workbench.presets.estimate import PROGRAM_BYTES, Estimate, corpus_bytes, estimate, fitting_overrides
from workbench.presets.preflight import Speed
from workbench.presets.prepared import DataState
from workbench.text import clean

LABEL_WIDTH = 11
GENERATED = ("stories", "pylib", "dialogues")
DESCRIPTIONS = ("purpose", "group")  # fields that describe a preset and do not affect the run
ANY_SPEED = 1e9  # FLOP/s; has no effect without a time limit


def preset_page(
    name: str,
    config: RunConfig,
    base: RunConfig,
    data: DataState | None,
    width: int,
    speed: Speed | None = None,
    size: str = "",
) -> Content:
    """The page next to the list, `width` columns wide: purpose, costs, data, and changes.

    `base` is the preset before the edits; `data` is None until it is checked, `speed` until it is measured; `size` says
    how the size is chosen, "" for a preset without sizes.
    """
    lines = [Content.styled(clean(name), "bold"), Content(clean(config.purpose)), Content("")]
    lines += row("Size", size, "", width) if size else []
    lines += costs(config, data, width, speed)
    lines += row("Data", *data_text(config, data), width)
    formats = "checking…" if data is None else data.formats
    lines += row("Export to", formats, "", width) if formats else []
    if changed := change_lines(base, config):
        lines += [Content(""), Content.styled("Your changes", "bold $text-warning"), *changed]
    lines += [Content(""), Content.styled("Differs from the defaults", "bold"), *change_lines(RunConfig(), config)]
    return Content("\n").join(lines)


def costs(config: RunConfig, data: DataState | None, width: int, speed: Speed | None = None) -> list[Content]:
    """The costs of training, `width` columns wide, or why training is impossible."""
    state = data or DataState()
    try:
        rate = speed.flops_per_second if speed is not None else 0.0
        sizes = estimate(config, vocab_size=state.vocab_size, train_tokens=state.train_tokens, flops_per_second=rate)
    except UserError as error:
        problems = [Content(clean(line)) for line in str(error).split("\n")]
        return [Content.styled("Cannot be trained", "bold $text-error"), *problems]
    return [line for entry in figures(config, sizes, data, speed) for line in row(*entry, width)]


def figures(
    config: RunConfig, guess: Estimate, data: DataState | None, speed: Speed | None = None
) -> list[tuple[str, str, str]]:
    """Label, text and style of each line: model, memory, step, length, speed, tokenizer."""
    model, plan = guess.model, guess.batch_plan
    about = "about " if guess.vocab_is_guess else ""
    shape = f"{model.n_layer} layers × {model.d_model}, {model.n_head} heads, context {model.context}"
    trained = trained_text(config, guess)
    memory = memory_text(guess, speed)
    micro = f" in {plan.grad_accum_steps} micro-batches" if plan.grad_accum_steps > 1 else ""
    if not config.train.batch_size:
        micro = " in the largest micro-batches that fit"
    about_steps = "about " if guess.length_is_guess else ""
    steps = f"{about_steps}{plan.steps:,} steps, {format_count(guess.total_tokens)} tokens"
    if config.train.minutes:
        steps = f"{config.train.minutes:g} minutes: {steps}"
    if data is not None and data.is_prepared:
        steps += f", {guess.total_tokens / data.train_tokens:.2g} epochs"
    return [
        ("Model", f"{about}{format_count(guess.parameters)} parameters{trained}: {shape}", ""),
        ("Memory", memory, "" if guess.fits else "$text-error"),
        *([] if guess.fits else [("", misfit_text(config, guess), "$text-error")]),
        ("Each step", f"{plan.tokens_per_step:,} tokens ({plan.global_batch_size} × {plan.seq_len}){micro}", ""),
        ("Total", steps, ""),
        ("Speed", speed_text(guess, speed), ""),
        ("Tokenizer", tokenizer_text(config, guess), ""),
    ]


def trained_text(config: RunConfig, guess: Estimate) -> str:
    """The number of trainable LoRA parameters; "" without LoRA."""
    if not config.tune.lora_rank:
        return ""
    count = sum(trained_parameters(guess.model, config.tune).values())
    return f" and {format_count(count)} trainable LoRA parameters"


def memory_text(guess: Estimate, speed: Speed | None) -> str:
    """The memory that training needs: measured, else by formula."""
    if speed is not None and speed.exact and speed.measured.peak_bytes:
        training, peak = speed.measured.training_bytes, speed.measured.peak_bytes
        return f"{format_size(training)} for training, {format_size(peak)} in total (measured)"
    return f"about {format_size(guess.training_bytes)} for training, and {format_size(PROGRAM_BYTES)} for the program"


def misfit_text(config: RunConfig, guess: Estimate) -> str:
    """Why the run does not fit into memory, and the nearest model that does."""
    reason = f"does not fit: {format_size(guess.available_bytes)} free"
    try:
        fitted = with_overrides(config, fitting_overrides(config, ANY_SPEED))
    except UserError:
        return reason
    model = resolve_model(fitted.model, expected_vocab_size(fitted.tokenizer))
    shape = f"{model.n_layer} layers × {model.d_model}, {format_count(parameters(model))} parameters"
    batch = fitted.train.batch_size or "as fits"
    return f"{reason}. Nearest that fits: {shape}, batch {batch} (press f)"


def speed_text(guess: Estimate, speed: Speed | None) -> str:
    """Tokens per second and the duration of the run, from measurements on this machine."""
    if speed is None:
        return "not measured yet (press p to measure a few steps)"
    exact = speed.exact
    rate = speed.measured.tokens_per_second if exact else speed.flops_per_second / guess.batch_plan.flops_per_token
    source = "measured" if exact else f"estimated from {clean(speed.name)}; press p to measure"
    time = format_duration(round(guess.total_tokens / rate))
    return f"about {format_count(rate, digits=3)} tokens/s, {time} ({source})"


def tokenizer_text(config: RunConfig, guess: Estimate) -> str:
    kind = config.tokenizer.kind
    if kind == "char" and guess.vocab_is_guess:
        return "char: one id per character of the text"
    name = f"{kind} {config.tokenizer.encoding}" if kind == "tiktoken" else kind
    return f"{clean(name)}, {guess.model.vocab_size:,} ids"


def data_text(config: RunConfig, data: DataState | None) -> tuple[str, str]:
    """The corpus and its state, and the style."""
    corpus = config.data.corpus
    name = f"{clean(corpus)}, {format_size(corpus_bytes(config))}"
    if data is None:
        return f"{name}; checking…", ""
    if data.problem:
        return f"{name}: {clean(data.problem)}", "$text-error"
    if data.is_prepared:
        return f"{name}; prepared: {format_count(data.train_tokens)} tokens", "$text-success"
    verb = "will be generated" if corpus in GENERATED else "will be read"
    return f"{name}; {verb} and tokenized first", ""


def row(label: str, text: str, style: str, width: int) -> list[Content]:
    """A label with its text, wrapped."""
    first, *rest = textwrap.wrap(text, max(20, width - LABEL_WIDTH)) or [""]
    return [
        Content.assemble((f"{label:<{LABEL_WIDTH}}", "$foreground-muted"), (first, style)),
        *(Content.assemble(" " * LABEL_WIDTH, (line, style)) for line in rest),
    ]


def change_lines(before: RunConfig, after: RunConfig) -> list[Content]:
    """One line per field that differs: `path  before → after`."""
    different = [entry for entry in diff(before, after) if entry[0] not in DESCRIPTIONS]
    width = max((len(path) for path, _, _ in different), default=0)
    return [
        Content.assemble((f"{path:<{width}}  ", "$foreground-muted"), change_text(old, new))
        for path, old, new in different
    ]


def change_text(before: Any, after: Any) -> Content:
    """The old and the new value of a field."""
    return Content.assemble(f"{format_value(before)} → ", (format_value(after), "bold"))


def format_value(value: Any) -> str:
    """The value of a field as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return clean(", ".join(str(item) for item in value)) or "(none)"
    if isinstance(value, float):
        return f"{value:.6g}"
    return clean(str(value)) or "(empty)"
