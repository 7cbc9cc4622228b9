"""README.md of an export: what the model is, what it was trained on, and how to train it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llm.config import RunConfig, to_toml
from llm.interop.source import Source
from llm.model.counts import parameters

METRICS = {
    "loss": "training loss (nats per token)",
    "validation_loss": "validation loss (nats per token)",
    "perplexity": "validation perplexity",
    "bits_per_byte": "validation bits per byte",
}
RECIPE = "run.toml"


def model_card(source: Source, library: str, usage: str) -> bytes:
    """The content of README.md. `library` is the tag of the Hub, `usage` an example in Markdown."""
    c, state = source.shape, source.state
    metrics = {**source.info.metrics, **state.get("metrics", {})}
    rows = [("checkpoint", source.title), ("parameters", f"{parameters(c):,}"), ("context", f"{c.context:,} tokens")]
    rows += [("tokenizer", f"{source.tokenizer.kind}, {source.tokenizer.vocab_size:,} ids")]
    origin = source.run.info().get("imported_from", "")
    rows += [] if origin else [("training data", without_folder(source.config.data.corpus))]
    if state.get("tokens_seen"):
        rows += [("tokens seen", f"{state['tokens_seen']:,} in {source.info.step:,} steps")]
    rows += [(label, f"{metrics[name]:.4f}") for name, label in METRICS.items() if name in metrics]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    made = f"It was imported from {origin}." if origin else reproduction(source)
    return f"""---
library_name: {library}
pipeline_tag: text-generation
---

# {source.run.name}

A language model trained with llm-workbench.

| | |
|---|---|
{table}

{usage}
{made}
""".encode()


def reproduction(source: Source) -> str:
    parent = source.run.info().get("parent", "")
    start = f"The run is a fork of {parent}; its parent is needed too." if parent else "To train it again:"
    return f"""## Reproduce

{start}

    llm-workbench train {RECIPE}

`{RECIPE}` holds the whole configuration, seeds included. Paths in it are file names: put the files next to it.
"""


def recipe(config: RunConfig) -> bytes:
    """The configuration as a preset, with the names of files instead of their places on this machine."""
    data = config.data
    data = replace(data, corpus=without_folder(data.corpus), validation=without_folder(data.validation))
    tokenizer = replace(config.tokenizer, path=without_folder(config.tokenizer.path))
    core = replace(config.evaluate, core_path=without_folder(config.evaluate.core_path))
    return to_toml(replace(config, data=data, tokenizer=tokenizer, evaluate=core)).encode()


def without_folder(text: str) -> str:
    """The last part of an absolute path; any other text as it is."""
    return Path(text).name if Path(text).is_absolute() else text
