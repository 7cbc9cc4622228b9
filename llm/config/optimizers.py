"""What the configuration and the counts need to know of each optimizer. Its update rule: `llm.optim.registry`."""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = ("embedding", "head", "matrices", "vectors", "adapters")
"""Parameter groups: token and position embeddings, an untied head, the blocks' matrices, gains and biases, and the
adapters of LoRA."""


@dataclass(frozen=True)
class OptimizerInfo:
    """`state_tensors`: tensors of a weight's shape and dtype that are kept for it. `groups`: those it updates; AdamW
    updates the others. `lr_field`: the field of their learning rate."""

    state_tensors: int
    groups: tuple[str, ...] = GROUPS
    lr_field: str = "train.lr"


OPTIMIZER_INFO = {
    "adamw": OptimizerInfo(state_tensors=2),
    "sgd": OptimizerInfo(state_tensors=0),
    "muon": OptimizerInfo(state_tensors=1, groups=("matrices",), lr_field="optim.matrix_lr"),
}
"""By the value of `optim.kind`."""


def optimizer_of_group(kind: str, group: str) -> str:
    """The optimizer that updates `group` when `optim.kind` is `kind`."""
    return kind if group in OPTIMIZER_INFO[kind].groups else "adamw"
