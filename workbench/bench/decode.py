"""`llm-workbench bench decode`: tokens per second at batch size 1, compared with transformers' `generate`.

Both sides have the same weights and run in one process in the order A B B A, so that a slower machine slows both. A
rate counts from the first new token to the last, without the prompt. Each side runs on its fastest number of threads,
unless one is given. The weights are random and decoding is greedy, which does not change the speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig
from llm.device import choose_device, choose_threads, time_call
from llm.engine import Engine, Piece
from llm.limits import usable_cores
from llm.model.counts import parameters
from llm.model.transformer import Transformer
from llm.tokenizer.base import BaseTokenizer
from workbench.bench.peers import SIZES, peer_machine, transformers_model
from workbench.bench.report import Result, Speed

PROMPT_TOKENS = 32
NEW_TOKENS = 48
TRIAL_TOKENS = 8
READ_BYTES, READ_REPEATS = 1 << 28, 5  # to measure the memory's bandwidth; more than any cache holds
DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int8: "int8"}
# Memory bandwidth in bytes per second, from the data sheets.
BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12, "RTX 4090": 1.01e12, "RTX 3090": 0.94e12}

Decode = Callable[[int], tuple[float, list[int]]]
"""decode(n) generates n tokens; returns tokens per second after the first, and the tokens."""


@dataclass(frozen=True)
class Candidate:
    """One way to decode: the dtype and size of its weights, and its threads."""

    name: str
    dtype: str
    bytes_per_weight: int
    threads: int
    decode: Decode


@dataclass(frozen=True)
class Match:
    """Tokens per second of two candidates, and their ratio, pair by pair."""

    first: str
    second: str
    first_speed: Speed
    second_speed: Speed
    ratio: Speed


class NumberTokenizer(BaseTokenizer):
    """`size` tokens, each the text of its number; none ends a text."""

    kind = "numbers"

    def __init__(self, size: int) -> None:
        super().__init__([b"%d " % number for number in range(size)], {})

    def encode_ordinary(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def record(self) -> dict[str, Any]:
        return {"size": self.vocab_size}


class Clock:
    """A streamer for `generate` that records the time of each new token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: torch.Tensor) -> None:
        """Called once with the prompt, then with each token, on the CPU."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """End of the text."""


def machine(device: str) -> Result:
    """Versions, hardware and lengths."""
    return peer_machine(choose_device(device), prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)


def measure(device: str, sizes: Sequence[str], rounds: int, threads: int = 0) -> Iterator[Result]:
    """Yield one result per size. `threads` 0 uses the fastest number for each candidate."""
    device = choose_device(device)
    before = torch.get_num_threads()
    try:
        for size in sizes:
            yield measure_size(size, SIZES[size], device, rounds, threads)
    finally:
        torch.set_num_threads(before)


def measure_size(size: str, config: ModelConfig, device: str, rounds: int, threads: int) -> Result:
    """All comparisons at one size."""
    bandwidth = memory_bandwidth(device)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    model = model.eval().to(device)
    prompt = torch.randint(config.vocab_size, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    rivals = make_rivals(model, prompt, threads)
    ours, ours_fp32, theirs, theirs_bf16, recomputing, *int8 = rivals
    pairs = [(ours, theirs), (ours_fp32, theirs), (ours, theirs_bf16), (ours, recomputing), (ours, ours)]
    pairs += [(narrow, ours_fp32) for narrow in int8]
    matches = [play(first, second, rounds) for first, second in pairs]
    return {
        "size": size,
        "parameters": parameters(config),
        "same_tokens_in_fp32": ours_fp32.decode(NEW_TOKENS)[1] == theirs.decode(NEW_TOKENS)[1],
        "rivals": [{"name": r.name, "dtype": r.dtype, "threads": r.threads} for r in rivals],
        "matches": [asdict(match) for match in matches],
        "memory_bandwidth": bandwidth,
        "bandwidth_use": None
        if bandwidth is None
        else {
            "ours": bandwidth_use(config, ours, matches[0].first_speed.median, bandwidth),
            "ours fp32": bandwidth_use(config, ours_fp32, matches[1].first_speed.median, bandwidth),
            "transformers": bandwidth_use(config, theirs, matches[0].second_speed.median, bandwidth),
        },
    }


def make_rivals(model: Transformer, prompt: list[int], threads: int) -> list[Candidate]:
    """Our engine by default and in float32, transformers in float32 and bfloat16, our engine without a KV cache, and on
    a CPU with int8 weights."""
    tokenizer = NumberTokenizer(model.config.vocab_size)
    engine = Engine(model, tokenizer)
    float32 = Engine(model, tokenizer, dtype=torch.float32)
    recomputing = Engine(model, tokenizer, dtype=torch.float32, use_cache=False)
    theirs = transformers_model(model)
    theirs_bf16 = transformers_model(model).to(torch.bfloat16)
    found: list[tuple[str, torch.dtype, Decode]] = [
        ("engine", engine.model.head_weight.dtype, engine_decode(engine, prompt)),
        ("engine", torch.float32, engine_decode(float32, prompt)),
        ("transformers", torch.float32, transformers_decode(theirs, prompt)),
        ("transformers", torch.bfloat16, transformers_decode(theirs_bf16, prompt)),
        ("without cache", torch.float32, engine_decode(recomputing, prompt)),
    ]
    if model.head_weight.device.type == "cpu":
        int8 = Engine(model, tokenizer, weights="int8")
        found.append(("engine", torch.int8, engine_decode(int8, prompt)))
    return [
        Candidate(name, DTYPE_NAMES[dtype], dtype.itemsize, threads or best_threads(decode), decode)
        for name, dtype, decode in found
    ]


def engine_decode(engine: Engine, prompt: list[int]) -> Decode:
    """What the chat and `sample` do, including sampling, text and log-probabilities."""

    def decode(count: int) -> tuple[float, list[int]]:
        times, tokens = [], []
        for piece in engine.stream(prompt, DecodeConfig(temperature=0.0, max_tokens=count)):
            if isinstance(piece, Piece):
                times.append(time.perf_counter())
                tokens.append(piece.token_id or 0)
        return rate(times), tokens

    return decode


def transformers_decode(model: Any, prompt: list[int]) -> Decode:
    """transformers' `generate` with its own KV cache."""
    ids = torch.tensor([prompt], device=model.device)

    def decode(count: int) -> tuple[float, list[int]]:
        clock = Clock()
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            streamer=clock,
        )
        return rate(clock.times[1:]), found[0, len(prompt) :].tolist()

    return decode


def rate(times: Sequence[float]) -> float:
    """Tokens per second from the first of `times` to the last."""
    return (len(times) - 1) / (times[-1] - times[0])


def best_threads(decode: Decode) -> int:
    """The number of threads on which `decode` is fastest."""
    return choose_threads(lambda: decode(TRIAL_TOKENS), 0)


def play(first: Candidate, second: Candidate, rounds: int) -> Match:
    """`rounds` times A B B A: two pairs each."""
    speeds: dict[str, list[float]] = {"first": [], "second": []}
    for _ in range(rounds):
        for side, rival in (("first", first), ("second", second), ("second", second), ("first", first)):
            torch.set_num_threads(rival.threads)
            speeds[side].append(rival.decode(NEW_TOKENS)[0])
    ratios = [a / b for a, b in zip(speeds["first"], speeds["second"], strict=True)]
    names = [f"{rival.name} {rival.dtype}" for rival in (first, second)]
    return Match(names[0], names[1], Speed.of(speeds["first"]), Speed.of(speeds["second"]), Speed.of(ratios))


def bandwidth_use(config: ModelConfig, rival: Candidate, tokens_per_second: float, bandwidth: float) -> float:
    """The model bandwidth utilization (MBU): bytes of weights read per second, as a share of the memory's `bandwidth`.

    A table of positions is not counted: only one row of it is read. Weights that fit in a CPU's cache can exceed 1.
    """
    looked_up = config.context * config.d_model if config.position == "learned" else 0
    return (parameters(config) - looked_up) * rival.bytes_per_weight * tokens_per_second / bandwidth


def memory_bandwidth(device: str) -> float | None:
    """Bytes per second: of a GPU by its data sheet, None if it is unknown; of a CPU by measurement."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
        return next((bandwidth for known, bandwidth in BANDWIDTH.items() if known in name), None)
    if device != "cpu":
        return None
    torch.set_num_threads(usable_cores())
    numbers = torch.ones(READ_BYTES // 4)
    seconds = [time_call(numbers.sum) for _ in range(READ_REPEATS)]
    return READ_BYTES / min(seconds)
