"""`llm-workbench bench train`: training throughput compared with transformers and nanoGPT.

All candidates start from the same weights and train on the same few batches of random tokens. First their loss curves
are compared with ours. If one differs, the computation differs, and no speed is measured. Then all run in one process
in the order A B C, C B A. Our own step is measured twice: the ratio of the two shows the noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import RunConfig, from_mapping
from llm.config.schema import ModelConfig
from llm.device import Plan, choose_device, choose_precision
from llm.errors import UserError
from llm.limits import usable_cores
from llm.model.counts import flops_per_token, parameters
from llm.model.transformer import Transformer
from llm.optim import build_optimizer
from llm.training.batch_plan import resolve_batch_plan
from llm.training.context import StepContext
from llm.training.state import TrainerState
from llm.training.step import Rows, StepResult, take_step, to_device
from workbench.bench.peers import GPT2_124M, nanogpt_model, nanogpt_optimizer, peer_machine, transformers_model
from workbench.bench.report import Result, Stats, alternate, ratio_text, ratios, torch_threads

BATCHES = 4
LR, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0
TOLERANCE = {"fp32": 2e-4, "bf16": 1e-2, "fp16": 1e-2}
NANOGPT_TOLERANCE = 1e-2  # nanoGPT has the exact GELU, our model GPT-2's tanh approximation

TrainStep = Callable[[Rows], Callable[[], float]]
"""Trains on one batch; returns a function that reads its loss, for which it waits until the device is done."""


@dataclass(frozen=True)
class Shape:
    """A model, its batch size, and two numbers of steps: those whose losses are compared, and those in one timing."""

    model: ModelConfig
    batch_size: int
    compared_steps: int
    steps_per_turn: int

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch_size * self.model.context


CHAR = replace(GPT2_124M, n_layer=4, d_model=128, n_head=4, n_kv_head=4, d_ff=512, context=64, vocab_size=65)
WIDE = replace(CHAR, n_layer=6, d_model=384, n_head=6, n_kv_head=6, d_ff=1536, context=256)
SHAPES = {
    "char": Shape(CHAR, batch_size=12, compared_steps=20, steps_per_turn=15),
    "6x384": Shape(WIDE, batch_size=12, compared_steps=8, steps_per_turn=1),
    "gpt2-124m": Shape(GPT2_124M, batch_size=1, compared_steps=3, steps_per_turn=1),
}


@dataclass(frozen=True)
class Candidate:
    """One candidate: its training step in a precision, and the loss of each compared step."""

    name: str
    precision: str
    step: TrainStep
    losses: tuple[float, ...]


def machine(device: str, threads: int) -> Result:
    """Versions and hardware."""
    return peer_machine(choose_device(device), threads=threads or usable_cores())


def measure(
    device: str, shapes: Sequence[str], pairs: int, threads: int, nanogpt: Path | None, *, compile_nanogpt: bool = False
) -> Iterator[Result]:
    """Yield one result per shape. `threads` 0 means one per core; `compile_nanogpt` adds nanoGPT compiled on a CPU."""
    device = choose_device(device)
    with torch_threads(threads or usable_cores()):
        for name in shapes:
            yield {"shape": name, **measure_shape(SHAPES[name], device, pairs, nanogpt, compile_nanogpt)}


def measure_shape(shape: Shape, device: str, pairs: int, nanogpt: Path | None, compile_nanogpt: bool) -> Result:
    """Compare the loss curves, then the speeds."""
    batches = random_batches(shape)
    candidates = build_candidates(shape, device, nanogpt, compile_nanogpt, batches)
    ours = {each.precision: each for each in candidates if each.name == "llm-workbench"}
    for candidate in candidates:
        check_losses(ours[candidate.precision], candidate)
    speeds = measure_speeds(candidates, shape, batches, pairs)
    by_name = dict(zip([(each.name, each.precision) for each in candidates], speeds, strict=True))
    default = choose_precision("auto", device)
    return {
        "parameters": parameters(shape.model),
        "tokens_per_step": shape.tokens,
        "gflop_per_token": flops_per_token(shape.model, shape.model.context) / 1e9,
        "rivals": [
            {
                "name": candidate.name,
                "precision": candidate.precision,
                "losses": candidate.losses,
                "largest_loss_gap": loss_gap(ours[candidate.precision], candidate),
                "tokens_per_second": asdict(Stats.of(speed)),
            }
            for candidate, speed in zip(candidates, speeds, strict=True)
        ],
        "ratios": [
            {"ours": precision, "rival": name, "rival_precision": theirs,
             **asdict(Stats.of(ratios(by_name["llm-workbench", precision], speed)))}
            for (name, theirs), speed in by_name.items()
            for precision in dict.fromkeys((theirs, default))
            if name != "llm-workbench"
        ],
    }  # fmt: skip


def random_batches(shape: Shape) -> list[Rows]:
    """A few batches that repeat, so that their loss falls."""
    drawn = np.random.default_rng(1)
    size = (BATCHES, shape.batch_size, shape.model.context + 1)
    return [(rows[:, :-1], rows[:, 1:]) for rows in drawn.integers(shape.model.vocab_size, size=size)]


def build_candidates(
    shape: Shape, device: str, nanogpt: Path | None, compile_nanogpt: bool, batches: list[Rows]
) -> list[Candidate]:
    """All candidates, in float32 and in the default precision, after their compared steps from the same weights."""
    model = Transformer(shape.model)
    model.init_weights(torch.Generator().manual_seed(0))
    compiled = device.startswith("cuda")
    candidates = []
    for precision in dict.fromkeys((choose_precision("auto", device), "fp32")):
        plan = Plan(device, precision, torch.get_num_threads(), compiled)
        makers: dict[str, Callable[[], TrainStep]] = {
            "llm-workbench": partial(our_step, model, plan),
            "transformers": partial(transformers_step, model, plan),
        }
        if nanogpt is not None:
            makers["nanoGPT"] = partial(nanogpt_step, model, plan, nanogpt)
        if nanogpt is not None and compile_nanogpt:
            makers["nanoGPT compiled"] = partial(nanogpt_step, model, replace(plan, compiled=True), nanogpt)
        if precision == "fp32":
            makers["llm-workbench again"] = makers["llm-workbench"]
        for name, make in makers.items():
            step = make()
            candidates.append(Candidate(name, precision, step, first_losses(step, shape, batches)))
    return candidates


def first_losses(step: TrainStep, shape: Shape, batches: list[Rows]) -> tuple[float, ...]:
    return tuple(step(batches[i % BATCHES])() for i in range(shape.compared_steps))


def our_step(model: Transformer, plan: Plan) -> TrainStep:
    """The training step of a run."""
    model = deepcopy(model).to(plan.device).train()
    config = our_settings()
    state = TrainerState(model, build_optimizer(model, config))
    context = StepContext(config, state, plan, resolve_batch_plan(config, model.config.vocab_size, train_tokens=0))
    loss_fn = torch.compile(model.loss, dynamic=False) if plan.compiled else model.loss

    def step(batch: Rows) -> Callable[[], float]:
        result = take_step(context, batch, loss_fn)
        if not isinstance(result, StepResult):
            raise UserError("a step does not fit into memory; choose a smaller model with --shapes.")
        return lambda: result.loss

    return step


def our_settings() -> RunConfig:
    """The optimizer settings of all candidates."""
    beta1, beta2 = BETAS
    return from_mapping(
        {
            "optim": {"kind": "adamw", "beta1": beta1, "beta2": beta2, "weight_decay": WEIGHT_DECAY},
            "train": {"lr": LR, "clip": CLIP, "steps": 1},
            "schedule": {"kind": "constant", "warmup_steps": 0, "warmup_ratio": 0.0},
        }
    )


def transformers_step(model: Transformer, plan: Plan) -> TrainStep:
    """transformers' GPT-2 with torch's fused AdamW and our weight decay groups."""
    twin = transformers_model(model.to(plan.device)).train()
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in twin.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
    run: Any = torch.compile(twin) if plan.compiled else twin

    def loss_fn(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = run(input_ids=inputs, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return plain_step(twin, optimizer, loss_fn, plan)


def nanogpt_step(model: Transformer, plan: Plan, folder: Path) -> TrainStep:
    """nanoGPT's model and its AdamW, compiled if `plan` says so (on a CPU that takes a C++ compiler)."""
    twin = nanogpt_model(model.to(plan.device), folder)
    optimizer = nanogpt_optimizer(twin, LR, BETAS, WEIGHT_DECAY, plan.device)
    run: Any = torch.compile(twin) if plan.compiled else twin
    return plain_step(twin, optimizer, lambda inputs, targets: run(inputs, targets)[1], plan)


def plain_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Callable[[Tensor, Tensor], Tensor], plan: Plan
) -> TrainStep:
    """A plain PyTorch step: forward, backward, clip, update."""

    def step(batch: Rows) -> Callable[[], float]:
        inputs, targets = (to_device(part, plan.device) for part in batch)
        with plan.autocast() if plan.precision != "fp32" else nullcontext():
            loss = loss_fn(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item

    return step


def loss_gap(ours: Candidate, other: Candidate) -> float:
    """The largest difference between two loss curves, relative to ours; NaN if a loss is NaN."""
    a, b = np.array(ours.losses), np.array(other.losses)
    return float(np.max(np.abs(b - a) / a))


def check_losses(ours: Candidate, other: Candidate) -> None:
    """Raise UserError if two loss curves differ: their speeds cannot be compared."""
    tolerance = NANOGPT_TOLERANCE if other.name.startswith("nanoGPT") else TOLERANCE[other.precision]
    gap = loss_gap(ours, other)
    if not gap <= tolerance:
        raise UserError(
            f"the losses of {ours.name} and {other.name} in {other.precision} differ by {gap:.2%} within "
            f"{len(ours.losses)} steps, so they do not compute the same; their speeds cannot be compared."
        )


def measure_speeds(candidates: Sequence[Candidate], shape: Shape, batches: list[Rows], pairs: int) -> list[list[float]]:
    """Tokens per second of each candidate, `pairs` values each, in alternating order."""
    speeds: list[list[float]] = [[] for _ in candidates]
    for index in alternate(range(len(candidates)), pairs):
        speeds[index].append(tokens_per_second(candidates[index].step, shape, batches))
    return speeds


def tokens_per_second(step: TrainStep, shape: Shape, batches: list[Rows]) -> float:
    """Tokens per second over one timing, including the work still queued on the device."""
    began = time.perf_counter()
    for i in range(shape.steps_per_turn):
        read_loss = step(batches[i % BATCHES])
    read_loss()
    return shape.steps_per_turn * shape.tokens / (time.perf_counter() - began)


def lines_of(result: Result) -> list[str]:
    """The printed result of one shape."""
    lines = [f"{result['shape']}: {result['parameters']:,} parameters, {result['tokens_per_step']:,} tokens a step"]
    for rival in result["rivals"]:
        speed = rival["tokens_per_second"]
        lines.append(
            f"  {rival['name'] + ' ' + rival['precision']:<26} {speed['median']:>9,.0f} tokens/s "
            f"({speed['low']:,.0f}–{speed['high']:,.0f}), loss {rival['losses'][0]:.4f} to {rival['losses'][-1]:.4f}, "
            f"loss differs by at most {rival['largest_loss_gap']:.3%} from ours"
        )
    for each in result["ratios"]:
        lines.append(f"  ours {each['ours']} / {each['rival']} {each['rival_precision']}: {ratio_text(each)}")
    return lines
