"""`llm-workbench bench decode`: tokens per second at batch size 1, compared with transformers' `generate`.

Both have the same weights and run in one process in the order A B B A, so that a machine that becomes slower affects
both alike. The time from the first new token to the last counts, without the prompt. Each runs on its fastest number of
threads, unless one is given. The weights are random and decoding is greedy, which does not change the speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from llm.config.decode_schema import DecodeConfig, WeightFormat
from llm.config.schema import ModelConfig
from llm.device import choose_device, choose_threads, time_call
from llm.engine import Engine, Piece
from llm.limits import usable_cores
from llm.model.counts import parameters
from llm.model.transformer import Transformer
from llm.tokenizer.base import BaseTokenizer
from workbench.bench.peers import SIZES, peer_machine, transformers_model
from workbench.bench.report import Result, Stats, alternate, ratios, torch_threads

PROMPT_TOKENS = 32
NEW_TOKENS = 48
TRIAL_TOKENS = 8
READ_BYTES, READ_REPEATS = 1 << 28, 5  # to measure memory bandwidth; larger than any cache
DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
INTEGERS: tuple[tuple[WeightFormat, float], ...] = (("int8", 1), ("int4", 5 / 8))
"""The integer formats and the bytes of a weight in them; int4 has 32 bits of scale and zero point per 32 weights."""
# Memory bandwidth in bytes per second, from the data sheets.
BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12, "RTX 4090": 1.01e12, "RTX 3090": 0.94e12}

Decode = Callable[[int], tuple[float, list[int]]]
"""decode(n) generates n tokens; returns tokens per second after the first, and the tokens."""


@dataclass(frozen=True)
class Candidate:
    """One way to decode: the dtype and size of its weights, and its threads."""

    name: str
    dtype: str
    bytes_per_weight: float
    threads: int
    decode: Decode


@dataclass(frozen=True)
class Comparison:
    """Tokens per second of two candidates, and the ratio of the first to the second."""

    first: str
    second: str
    first_speed: Stats
    second_speed: Stats
    ratio: Stats


class NumberTokenizer(BaseTokenizer):
    """`size` tokens; the text of each is its id. There is no end token."""

    kind = "numbers"

    def __init__(self, size: int) -> None:
        super().__init__([b"%d " % number for number in range(size)], {})

    def encode_ordinary(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def record(self) -> dict[str, Any]:
        return {"size": self.vocab_size}


class TimeStreamer:
    """A streamer for transformers' `generate` that records the time of each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: torch.Tensor) -> None:
        """Called once with the prompt, then with each token, on the CPU."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """End of the text."""


def machine(device: str) -> Result:
    """Versions, hardware, and the lengths of prompt and completion."""
    return peer_machine(choose_device(device), prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)


def measure(device: str, sizes: Sequence[str], rounds: int, threads: int = 0) -> Iterator[Result]:
    """Yield one result per size. `threads` 0 uses the fastest number for each candidate."""
    device = choose_device(device)
    with torch_threads(threads or usable_cores()):
        for size in sizes:
            yield measure_size(size, SIZES[size], device, rounds, threads)


def measure_size(size: str, config: ModelConfig, device: str, rounds: int, threads: int) -> Result:
    """All comparisons at one size."""
    bandwidth = memory_bandwidth(device)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    model = model.eval().to(device)
    prompt = torch.randint(config.vocab_size, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    candidates = build_candidates(model, prompt, threads)
    ours, ours_fp32, theirs, theirs_bf16, uncached, *integers = candidates
    pairs = [(ours, theirs), (ours_fp32, theirs), (ours, theirs_bf16), (ours, uncached), (ours, ours)]
    pairs += [(quantized, ours_fp32) for quantized in integers]
    comparisons = [compare(first, second, rounds) for first, second in pairs]
    return {
        "size": size,
        "parameters": parameters(config),
        "same_tokens_in_fp32": ours_fp32.decode(NEW_TOKENS)[1] == theirs.decode(NEW_TOKENS)[1],
        "rivals": [{"name": each.name, "dtype": each.dtype, "threads": each.threads} for each in candidates],
        "matches": [asdict(comparison) for comparison in comparisons],
        "memory_bandwidth": bandwidth,
        "bandwidth_use": None
        if bandwidth is None
        else {
            "ours": bandwidth_use(config, ours, comparisons[0].first_speed.median, bandwidth),
            "ours fp32": bandwidth_use(config, ours_fp32, comparisons[1].first_speed.median, bandwidth),
            "transformers": bandwidth_use(config, theirs, comparisons[0].second_speed.median, bandwidth),
        },
    }


def build_candidates(model: Transformer, prompt: list[int], threads: int) -> list[Candidate]:
    """Our engine in its default dtype and in float32, transformers in float32 and bfloat16, our engine without a KV
    cache, and on a CPU our engine with int8 and int4 weights."""
    tokenizer = NumberTokenizer(model.config.vocab_size)
    engine = Engine(model, tokenizer)
    float32 = Engine(model, tokenizer, dtype=torch.float32)
    uncached = Engine(model, tokenizer, dtype=torch.float32, use_cache=False)
    theirs = transformers_model(model)
    theirs_bf16 = transformers_model(model).to(torch.bfloat16)
    own = engine.model.head_weight.dtype
    found: list[tuple[str, str, float, Decode]] = [
        ("engine", DTYPE_NAMES[own], own.itemsize, engine_decode(engine, prompt)),
        ("engine", "fp32", 4, engine_decode(float32, prompt)),
        ("transformers", "fp32", 4, transformers_decode(theirs, prompt)),
        ("transformers", "bf16", 2, transformers_decode(theirs_bf16, prompt)),
        ("without cache", "fp32", 4, engine_decode(uncached, prompt)),
    ]
    if model.head_weight.device.type == "cpu":
        for weights, size in INTEGERS:
            decode = engine_decode(Engine(model, tokenizer, weights=weights), prompt)
            found.append(("engine", weights, size, decode))
    return [
        Candidate(name, dtype, size, threads or best_threads(decode), decode) for name, dtype, size, decode in found
    ]


def engine_decode(engine: Engine, prompt: list[int]) -> Decode:
    """Decode as the chat and `sample` do, with sampling, text and log-probabilities."""

    def decode(count: int) -> tuple[float, list[int]]:
        times, tokens = [], []
        for piece in engine.stream(prompt, DecodeConfig(temperature=0.0, max_tokens=count)):
            if isinstance(piece, Piece):
                times.append(time.perf_counter())
                tokens.append(piece.token_id or 0)
        return rate(times), tokens

    return decode


def transformers_decode(model: Any, prompt: list[int]) -> Decode:
    """Decode with transformers' `generate` and its KV cache."""
    ids = torch.tensor([prompt], device=model.device)

    def decode(count: int) -> tuple[float, list[int]]:
        streamer = TimeStreamer()
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            streamer=streamer,
        )
        return rate(streamer.times[1:]), found[0, len(prompt) :].tolist()

    return decode


def rate(times: Sequence[float]) -> float:
    """Tokens per second from the first of `times` to the last."""
    return (len(times) - 1) / (times[-1] - times[0])


def best_threads(decode: Decode) -> int:
    """The number of threads on which `decode` is fastest."""
    return choose_threads(lambda: decode(TRIAL_TOKENS), 0)


def compare(first: Candidate, second: Candidate, rounds: int) -> Comparison:
    """Decode `rounds` times A B B A, which makes two pairs each."""
    sides: tuple[tuple[Candidate, list[float]], ...] = ((first, []), (second, []))  # `second` may be `first`
    for candidate, speeds in alternate(sides, 2 * rounds):
        torch.set_num_threads(candidate.threads)
        speeds.append(candidate.decode(NEW_TOKENS)[0])
    (_, ours), (_, theirs) = sides
    names = [f"{candidate.name} {candidate.dtype}" for candidate in (first, second)]
    return Comparison(names[0], names[1], Stats.of(ours), Stats.of(theirs), Stats.of(ratios(ours, theirs)))


def bandwidth_use(config: ModelConfig, candidate: Candidate, tokens_per_second: float, bandwidth: float) -> float:
    """The model bandwidth utilization (MBU): bytes of weights read per second, as a share of the memory's `bandwidth`.

    Learned position embeddings are not counted, since a token reads one row of them. The share can exceed 1 if the
    weights fit in a CPU's cache.
    """
    positions = config.context * config.d_model if config.position == "learned" else 0
    return (parameters(config) - positions) * candidate.bytes_per_weight * tokens_per_second / bandwidth


def memory_bandwidth(device: str) -> float | None:
    """Bytes per second: from the data sheet of a GPU, measured on a CPU; None if unknown."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
        return next((bandwidth for known, bandwidth in BANDWIDTH.items() if known in name), None)
    if device != "cpu":
        return None
    torch.set_num_threads(usable_cores())
    numbers = torch.ones(READ_BYTES // 4)
    seconds = [time_call(numbers.sum) for _ in range(READ_REPEATS)]
    return READ_BYTES / min(seconds)
