"""From a model and a configuration to an optimiser."""

from __future__ import annotations

from llm.config.schema import OptimConfig, RunConfig
from llm.model.transformer import Transformer
from llm.optim.adamw import AdamW
from llm.optim.muon import Muon
from llm.optim.optimizer import Group, Optimizer, Rule
from llm.optim.sgd import SGD

LIST_DEVICES = ("cpu", "cuda", "mps")  # where torch has whole-list kernels
REFERENCE_WIDTH = 768  # width at which width_scaled_lr leaves the rates alone


def build_optimizer(model: Transformer, config: RunConfig) -> Optimizer:
    """The optimiser that `config.optim` describes, over the parameters of `model`.

    Groups: "embedding" (tokens and positions), "head" (an untied one), "matrices" (those of the blocks), "vectors"
    (gains and biases). Muon takes the matrices at `matrix_lr`, AdamW everything else; otherwise one rule takes all.
    Vectors are decayed only with `decay_all`. With `width_scaled_lr` AdamW's rates are multiplied by (d_model/768)^−½.
    Build it once the model is on its device.
    """
    optim = config.optim
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    device = named[0][1].device.type
    fused = optim.fused == "on" or (optim.fused == "auto" and device in LIST_DEVICES)
    groups = []
    for label, (_, rate) in rates(config).items():
        rule = rule_for(label, optim, fused)
        if optim.width_scaled_lr and isinstance(rule, AdamW):
            rate *= (model.config.d_model / REFERENCE_WIDTH) ** -0.5
        members = [(name, weight) for name, weight in named if label_of(name, weight.ndim) == label]
        decays = optim.decay_all or label != "vectors"
        groups.append(
            Group(
                label=label,
                rule=rule,
                lr=rate,
                weight_decay=optim.weight_decay if decays else 0.0,
                names=[name for name, _ in members],
                weights=[weight for _, weight in members],
            )
        )
    return Optimizer(groups)


def rates(config: RunConfig) -> dict[str, tuple[str, float]]:
    """Each group's learning rate, after the field that it comes from."""
    optim, base = config.optim, ("train.lr", config.train.lr)
    return {
        "embedding": ("optim.embedding_lr", optim.embedding_lr) if optim.embedding_lr else base,
        "head": ("optim.head_lr", optim.head_lr) if optim.head_lr else base,
        "matrices": ("optim.matrix_lr", optim.matrix_lr) if optim.kind == "muon" else base,
        "vectors": base,
    }


def idle_rate(optimizer: Optimizer, config: RunConfig) -> str:
    """A sentence where `train.lr` is no group's learning rate, nor as high as one; "" elsewhere."""
    used = {rates(config)[group.label] for group in optimizer.groups}
    if config.train.lr in [rate for _, rate in used]:
        return ""
    fields = ", ".join(sorted(field for field, _ in used))
    return (
        f"train.lr = {config.train.lr:g} sets no learning rate here, as {fields} do; change those, or "
        "train.lr_multiplier for all of them."
    )


def label_of(name: str, dimensions: int) -> str:
    """The group that a parameter belongs to."""
    if dimensions < 2:
        return "vectors"
    if name.startswith("blocks."):
        return "matrices"
    return "head" if name.startswith("head.") else "embedding"


def rule_for(label: str, optim: OptimConfig, fused: bool) -> Rule:
    """The rule that moves a group."""
    if optim.kind == "sgd":
        return SGD(fused)
    if optim.kind == "muon" and label == "matrices":
        return Muon(optim.momentum, fused)
    return AdamW(optim.beta1, optim.beta2, optim.eps, optim.eps_inside, optim.decay_after, fused)
