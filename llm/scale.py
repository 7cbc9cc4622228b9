"""What training needs on many GPUs, by formula: memory, bytes moved, seconds, checkpoints. Does not import torch.

Every figure follows from the shape of the model and the assumptions of `Machine`; none is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm.config import RunConfig, resolve_model
from llm.config.fit import expected_vocab_size
from llm.config.optimizers import OPTIMIZER_INFO, optimizer_of_group
from llm.config.resolve import resolve_seq_len
from llm.config.schema import ModelConfig
from llm.errors import WrongUse
from llm.model.counts import (
    MIN_LOGIT_ROWS,
    Precision,
    activation_bytes_per_token,
    flops_per_token,
    inner_matrices,
    kv_width,
    matrix_parameters,
    parameters,
    q_width,
    trained_parameters,
)

FP32, BF16 = 4, 2
NEWTON_SCHULZ_STEPS = 5
LOGIT_BYTES_GPU = 3 * FP32 * (1 << 27)
"""Logits, their softmax and their gradient of one chunk on a GPU (`llm.model.loss.GPU_CHUNK_LOGITS`), at most."""


@dataclass(frozen=True)
class Machine:
    """The assumptions. Peak and memory are from the manufacturer's data sheet, bandwidths in bytes/s for each GPU.

    mfu: the share of the peak that a training step reaches without communication. `usable` is the share of the memory
    that the state and the activations may take.
    """

    gpu: str
    peak_flops: float
    memory_bytes: float
    within: float
    between: float
    mfu: float = 0.4
    usable: float = 0.9
    per_machine: int = 8
    disk: float = 2e9


MACHINES = {
    "H100": Machine("H100", 989e12, 80e9, within=450e9, between=50e9),
    "H200": Machine("H200", 989e12, 141e9, within=450e9, between=50e9),
    "A100": Machine("A100", 312e12, 80e9, within=300e9, between=25e9),
}
"""Data sheets: dense bf16; NVLink in one direction; one 400 Gbit/s (A100: 200 Gbit/s) network card for each GPU."""


@dataclass(frozen=True)
class Needs:
    """What each of `gpus` needs. Bytes are of one rank; `moved_bytes` are sent and received in a step."""

    gpus: int
    sharding: str
    recompute: str
    parameters: int
    tokens_per_step: int
    micro_batch: int
    grad_accum_steps: int
    state_bytes: float
    activation_bytes: float
    moved_bytes: float
    compute_seconds: float
    communication_seconds: float
    checkpoint_bytes: int
    checkpoint_seconds: float
    fits: bool

    @property
    def memory_bytes(self) -> float:
        return self.state_bytes + self.activation_bytes

    @property
    def step_seconds(self) -> float:
        """Communication overlaps with computation, so the longer of both."""
        return max(self.compute_seconds, self.communication_seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / self.step_seconds


def plan(config: RunConfig, gpus: int, machine: Machine) -> Needs:
    """What `config` needs on `gpus` GPUs, with the largest micro-batch that fits. WrongUse where `gpus` cannot divide
    its step."""
    model = resolve_model(config.model, expected_vocab_size(config.tokenizer))
    seq_len = resolve_seq_len(config.train, config.model)
    sequences = config.train.total_batch_tokens // seq_len
    rows, rest = divmod(sequences, gpus) if sequences else (config.train.batch_size * config.train.accumulation, 0)
    if rest or not rows:
        nearest = max(1, round(sequences / gpus)) * gpus * seq_len
        raise WrongUse(
            f"{gpus} GPUs cannot divide the {sequences} sequences of a step; set train.total_batch_tokens to a "
            f"multiple of {gpus * seq_len}, such as {nearest}."
        )
    sizes = [size for size in range(rows, 0, -1) if rows % size == 0]
    found = [needs(config, model, gpus, machine, size, rows) for size in sizes]
    return next((each for each in found if each.fits), found[-1])


def needs(config: RunConfig, model: ModelConfig, gpus: int, machine: Machine, micro_batch: int, rows: int) -> Needs:
    """What a rank needs that computes `rows` sequences in micro-batches."""
    seq_len, train = resolve_seq_len(config.train, config.model), config.train
    precision: Precision = "bf16" if train.precision == "auto" else train.precision
    narrow, count = FP32 if precision == "fp32" else BF16, parameters(model)
    shards = shard_count(train.sharding, gpus, machine)
    trained, optimizer = sum(trained_parameters(model, config.tune).values()), optimizer_bytes(model, config)
    state = (FP32 * (count + trained) + optimizer) / shards
    if shards > 1:
        state += gathered_bytes(model, narrow)
    else:
        state += (narrow * count if precision != "fp32" else 0) + (FP32 * trained if gpus > 1 else 0)  # DDP's buckets
    per_token = activation_bytes_per_token(model, seq_len, precision, train.recompute)
    logits = min(LOGIT_BYTES_GPU, 3 * FP32 * max(MIN_LOGIT_ROWS, micro_batch * seq_len) * model.vocab_size)
    activations = micro_batch * seq_len * per_token + logits
    accumulation = rows // micro_batch
    again = {"none": 0.0, "attention": 0.1, "blocks": 1 / 3}[train.recompute]  # of forward and backward together
    again *= 1 - 1 / model.n_layer  # the last block is not computed again
    work = rows * seq_len * flops_per_token(model, seq_len, config.tune) * (1 + again)
    if config.optim.kind == "muon" and not config.tune.lora_rank:
        work += newton_schulz_flops(model) / gpus
    moved, seconds = communication(train.sharding, trained, narrow, gpus, shards, accumulation, machine)
    checkpoint = FP32 * trained + optimizer
    return Needs(
        gpus=gpus,
        sharding=train.sharding if gpus > 1 else "none",
        recompute=train.recompute,
        parameters=count,
        tokens_per_step=rows * gpus * seq_len,
        micro_batch=micro_batch,
        grad_accum_steps=accumulation,
        state_bytes=state,
        activation_bytes=activations,
        moved_bytes=moved,
        compute_seconds=work / (machine.mfu * machine.peak_flops),
        communication_seconds=seconds,
        checkpoint_bytes=checkpoint,
        checkpoint_seconds=checkpoint / machine.disk,
        fits=state + activations <= machine.usable * machine.memory_bytes,
    )


def shard_count(sharding: str, gpus: int, machine: Machine) -> int:
    """Among how many ranks one copy of the state is spread."""
    if sharding == "ddp":
        return 1
    return gpus if sharding == "fsdp" else min(gpus, machine.per_machine)


def optimizer_bytes(model: ModelConfig, config: RunConfig) -> int:
    """Bytes of the optimizer's state."""
    return sum(
        FP32 * OPTIMIZER_INFO[optimizer_of_group(config.optim.kind, group)].state_tensors * count
        for group, count in trained_parameters(model, config.tune).items()
    )


def gathered_bytes(model: ModelConfig, narrow: int) -> int:
    """FSDP: the whole weights of two blocks, one in use and one on its way, the gradients of one, and the embedding and
    head with their gradients."""
    block = matrix_parameters(model) // model.n_layer
    outside = parameters(model) - matrix_parameters(model)
    return (2 * narrow + FP32) * block + 2 * FP32 * outside


def communication(
    sharding: str, count: int, narrow: int, gpus: int, shards: int, accumulation: int, machine: Machine
) -> tuple[float, float]:
    """Bytes that one rank sends in a step, and the seconds they take, by the usual ring algorithms.

    DDP all-reduces fp32 gradients once. FSDP gathers the weights in the forward and in the backward pass and reduces
    the gradients, in each micro-batch. HSDP does so within a machine, and all-reduces the parts of the gradients
    between machines.
    """
    if gpus == 1:
        return 0.0, 0.0
    link = machine.within if gpus <= machine.per_machine else machine.between
    if sharding == "ddp":
        moved = 2 * (gpus - 1) / gpus * FP32 * count
        return moved, moved / link
    share = (shards - 1) / shards
    inner = accumulation * share * (2 * narrow + FP32) * count
    if sharding == "fsdp":
        return inner, inner / link
    machines = gpus // shards
    outer = accumulation * 2 * (machines - 1) / machines * FP32 * count / shards
    return inner + outer, inner / machine.within + outer / machine.between


def newton_schulz_flops(model: ModelConfig) -> float:
    """Operations that Muon needs to orthogonalize all matrices of the blocks once: five steps, each XXᵀ, A² and a
    product with X."""
    d, ff = model.d_model, model.d_ff
    shapes = [(q_width(model), d)] * 2 + [(kv_width(model), d)] * 2 + [(ff, d)] * (inner_matrices(model) + 1)
    total = 0.0
    for one, other in shapes:
        short, long = min(one, other), max(one, other)
        total += NEWTON_SCHULZ_STEPS * (4 * short * short * long + 2 * short**3)
    return model.n_layer * total
