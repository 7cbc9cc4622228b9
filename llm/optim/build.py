"""Builds the optimizer of a configuration: parameter groups, their update rules and learning rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from llm.config import get_value
from llm.config.optimizers import GROUPS, OPTIMIZER_INFO, optimizer_of_group
from llm.config.schema import RunConfig
from llm.model.transformer import Transformer
from llm.optim.muon import Muon
from llm.optim.optimizer import Group, Optimizer
from llm.optim.placement import Placement
from llm.optim.registry import OPTIMIZERS

FOREACH_DEVICES = ("cpu", "cuda", "mps")  # where torch has kernels for whole lists of tensors
REFERENCE_WIDTH = 768  # the d_model at which width_scaled_lr changes nothing (as in nanochat)

MakePlacement = Callable[[Sequence[tuple[int, ...]], bool], Placement]
"""(full shapes of the matrices, batched) → how ranks share the work of Muon."""


def build_optimizer(model: Transformer, config: RunConfig, make_placement: MakePlacement | None = None) -> Optimizer:
    """The optimizer that `config.optim` describes, for the trainable parameters of `model`.

    The model must be on its device: the state is allocated there. There is one parameter group for each of
    `llm.config.optimizers.GROUPS` that has parameters. Weight decay applies to the group "vectors" only with
    `decay_all`. With `width_scaled_lr` AdamW's learning rates are multiplied by (d_model/768)^−½. With several ranks,
    `make_placement` shares the work of Muon.
    """
    optim = config.optim
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    device = named[0][1].device.type
    fused = optim.fused == "on" or (optim.fused == "auto" and device in FOREACH_DEVICES)
    groups = []
    for label in GROUPS:
        kind, lr = optimizer_of_group(optim.kind, label), peak_lr(config, label)
        if optim.width_scaled_lr and kind == "adamw":
            lr *= (model.config.d_model / REFERENCE_WIDTH) ** -0.5
        members = [(name, weight) for name, weight in named if group_of(name, weight.ndim) == label]
        rule = OPTIMIZERS[kind](optim, fused)
        if isinstance(rule, Muon) and make_placement is not None and members:
            rule = replace(rule, placement=make_placement([tuple(weight.shape) for _, weight in members], fused))
        groups.append(
            Group(
                label=label,
                rule=rule,
                lr=lr,
                weight_decay=optim.weight_decay if optim.decay_all or label != "vectors" else 0.0,
                names=[name for name, _ in members],
                weights=[weight for _, weight in members],
            )
        )
    return Optimizer(groups)


def lr_field(config: RunConfig, group: str) -> str:
    """The configuration field that sets the learning rate of a parameter group."""
    if group in ("embedding", "head") and getattr(config.optim, f"{group}_lr"):
        return f"optim.{group}_lr"
    info = OPTIMIZER_INFO[config.optim.kind]
    return info.lr_field if group in info.groups else "train.lr"


def peak_lr(config: RunConfig, group: str) -> float:
    """The learning rate of a parameter group before the schedule."""
    lr = get_value(config, lr_field(config, group))
    assert isinstance(lr, float)
    return lr


def unused_lr_warning(optimizer: Optimizer, config: RunConfig) -> str:
    """A sentence if no parameter group uses `train.lr`; "" otherwise."""
    labels = [group.label for group in optimizer.groups]
    if config.train.lr in [peak_lr(config, label) for label in labels]:
        return ""
    fields = ", ".join(sorted({lr_field(config, label) for label in labels}))
    return (
        f"train.lr = {config.train.lr:g} has no effect: every learning rate is set by {fields}. Change those, or "
        "train.lr_multiplier for all of them."
    )


def group_of(name: str, dimensions: int) -> str:
    """The parameter group of a parameter."""
    if ".adapter." in name:
        return "adapters"
    if dimensions < 2 or name.startswith("embedding_conv."):
        return "vectors"
    if name.startswith("blocks."):
        return "matrices"
    return "head" if name.startswith("head.") else "embedding"
