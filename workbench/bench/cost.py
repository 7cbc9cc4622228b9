"""`llm-workbench bench cost`: CPU time of training, decoding, data preparation and opening a run, by size.

Each part varies one size and keeps the others fixed. Times are CPU seconds of this process on one thread, which depend
least on other processes. `docs/cost_plots.py` draws the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from llm.config import from_mapping
from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig
from llm.data.tokens.prepare import prepare
from llm.device import Plan
from llm.engine import Engine
from llm.model.counts import parameters
from llm.model.transformer import Transformer
from workbench.bench.decode import NumberTokenizer
from workbench.bench.report import Result, Stats, alternate, machine, torch_threads
from workbench.bench.train import Shape, our_step, random_batches
from workbench.bench.ui import write_long_run
from workbench.charts.curve_cache import load_cache

BASE = ModelConfig(n_layer=4, d_model=128, n_head=4, n_kv_head=4, d_ff=352, context=128, vocab_size=512)
BATCH = 4
WIDTHS, CONTEXTS, BATCHES = (64, 128, 192, 256, 384), (32, 64, 128, 256, 512), (1, 2, 4, 8, 16)
CORPUS_MB, LOGGED_STEPS = (1, 2, 4, 8), (1_000, 10_000, 100_000)
NEW_TOKENS, PROMPT = 32, 8

Workloads = dict[float, Callable[[], object]]
"""What to measure at each size."""


def measure(home: Path, rounds: int) -> Iterator[tuple[str, Result]]:
    """Yield the name and result of each part: the unit of its sizes, and CPU seconds by size."""
    with torch_threads(1):
        for name, (unit, per, make) in PARTS.items():
            yield name, {"unit": unit, "per": per, "seconds": measure_sizes(make(home), rounds)}


def measure_sizes(workloads: Workloads, rounds: int) -> list[Result]:
    """CPU seconds of each size, after one warm-up of each."""
    seconds: dict[float, list[float]] = {size: [] for size in workloads}
    for work in workloads.values():
        work()
    for size in alternate(list(workloads), rounds):
        began = time.process_time()
        workloads[size]()
        seconds[size].append(time.process_time() - began)
    return [{"size": size, **vars(Stats.of(values))} for size, values in seconds.items()]


def steps_by_model_size(home: Path) -> Workloads:
    """A training step by the number of parameters."""
    return dict(training_step(with_width(width), BATCH) for width in WIDTHS)


def steps_by_context(home: Path) -> Workloads:
    return {context: training_step(replace(BASE, context=context), BATCH)[1] for context in CONTEXTS}


def steps_by_batch_size(home: Path) -> Workloads:
    return {rows: training_step(BASE, rows)[1] for rows in BATCHES}


def with_width(width: int) -> ModelConfig:
    return replace(BASE, d_model=width, d_ff=width * 11 // 4, n_head=width // 32, n_kv_head=width // 32)


def training_step(model: ModelConfig, rows: int) -> tuple[int, Callable[[], object]]:
    """The number of parameters, and one step of `rows` sequences."""
    shape = Shape(model, batch_size=rows, compared_steps=0, steps_per_turn=1)
    built = Transformer(model)
    built.init_weights(torch.Generator().manual_seed(0))
    step, batch = our_step(built, Plan("cpu", "fp32", 1, compiled=False)), random_batches(shape)[0]
    return parameters(model), lambda: step(batch)


def decoding_by_model_size(home: Path) -> Workloads:
    """NEW_TOKENS tokens of one text by the number of parameters."""
    workloads: Workloads = {}
    for width in WIDTHS:
        model = Transformer(with_width(width))
        model.init_weights(torch.Generator().manual_seed(0))
        workloads[parameters(model.config)] = decoding(Engine(model.eval(), NumberTokenizer(model.config.vocab_size)))
    return workloads


def decoding(engine: Engine) -> Callable[[], object]:
    params = DecodeConfig(temperature=0.0, max_tokens=NEW_TOKENS, lookup=0)
    return lambda: list(engine.stream(list(range(PROMPT)), params))


def preparation_by_corpus_size(home: Path) -> Workloads:
    """Prepare a corpus and its tokenizer, by megabytes; each call in a new home."""
    counter = iter(range(10**6))

    def work(megabytes: int) -> Callable[[], object]:
        config = from_mapping({"data": {"corpus": "stories", "size_mb": float(megabytes), "processes": 1}})
        return lambda: list(prepare(config, home / f"corpus-{megabytes}-{next(counter)}"))

    return {megabytes: work(megabytes) for megabytes in CORPUS_MB}


def opening_by_run_length(home: Path) -> Workloads:
    """Read the log of a run without a cache, by the number of logged steps."""

    def work(steps: int) -> Callable[[], object]:
        run = write_long_run(home, steps, f"steps-{steps}")
        return lambda: load_cache(run).catch_up()

    return {steps: work(steps) for steps in LOGGED_STEPS}


PARTS: Mapping[str, tuple[str, str, Callable[[Path], Workloads]]] = {
    "model size": ("parameters", "training step", steps_by_model_size),
    "context": ("tokens of context", "training step", steps_by_context),
    "batch": ("sequences per step", "training step", steps_by_batch_size),
    "decoding": ("parameters", f"{NEW_TOKENS} tokens of one text", decoding_by_model_size),
    "corpus size": ("MB", "preparing the corpus", preparation_by_corpus_size),
    "run length": ("logged steps", "opening the curves", opening_by_run_length),
}


def about() -> Result:
    return machine("torch", "numpy", cpu=torch.backends.cpu.get_cpu_capability(), threads=1)


def lines_of(name: str, result: Result) -> list[str]:
    """The printed result of one part."""
    lines = [f"{name}: CPU time of {result['per']}"]
    for each in result["seconds"]:
        low, high = each["interval"]
        lines.append(
            f"  {each['size']:>12,} {result['unit']}: {1e3 * each['median']:,.1f} ms "
            f"[{1e3 * low:,.1f}–{1e3 * high:,.1f}, {each['confidence']:.0%}]"
        )
    return lines
