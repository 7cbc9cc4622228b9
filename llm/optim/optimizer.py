"""Parameter groups, each with an update rule, rates and state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from llm.errors import UserError
from llm.shards import local_part

State = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Step:
    """The scalars of one update of a group.

    count: 0-D float32, 1 for the first step. ok: 0-D bool that enables the update, or None for always. Both are on the
    weights' device.
    """

    lr: float
    weight_decay: float
    count: Tensor
    ok: Tensor | None
    momentum: float | None = None
    """Overrides the rule's momentum."""


class Rule(Protocol):
    """An update rule. `slots` names the state tensors of each weight, which have its shape and dtype."""

    @property
    def name(self) -> str: ...

    @property
    def slots(self) -> tuple[str, ...]: ...

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: State, step: Step) -> None:
        """One step in place; nothing changes if `step.ok` is False."""


@dataclass
class Group:
    """Parameters that share a rule, a peak learning rate and a weight decay.

    For sharded parameters (`llm.shards`), the state and the update cover only this rank's part.
    """

    label: str
    rule: Rule
    lr: float
    weight_decay: float
    names: list[str]
    weights: list[Tensor]
    state: State = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            parts = [local_part(weight) for weight in self.weights]
        self.state = {slot: [torch.zeros_like(part) for part in parts] for slot in self.rule.slots}


class Optimizer:
    """Updates the weights of its groups, without synchronizing with the host.

    `step_count` (0-D float32 on the device) counts the applied steps, not the skipped ones.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(group for group in groups if group.weights)
        self.step_count = torch.zeros((), dtype=torch.float32, device=self.groups[0].weights[0].device)

    @torch.no_grad()
    def step(self, lr_scale: float, finite: Tensor | None = None, *, momentum: float | None = None) -> None:
        """Update the weights by their gradients, with every learning rate multiplied by `lr_scale`.

        finite: a 0-D bool tensor on the device; if False, neither weights nor state change.
        momentum: overrides the momentum of the rules in this step (`llm.optim.schedule.momentum_at`).
        ValueError if a weight has no gradient.
        """
        count = self.step_count + 1
        for group in self.groups:
            step = Step(group.lr * lr_scale, group.weight_decay, count, finite, momentum)
            parts = [local_part(weight) for weight in group.weights]
            group.rule.update(parts, gradients_of(group), group.state, step)
        self.step_count.copy_(count if finite is None else torch.where(finite, count, self.step_count))

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for group in self.groups:
            for weight in group.weights:
                weight.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """The live state by name: "step", and "rule.slot.parameter", such as "adamw.m.blocks.0.attn.q.weight"."""
        return {"step": self.step_count} | {name: tensor for name, _, tensor in self._named_state()}

    def state_owners(self) -> dict[str, Tensor]:
        """The weight that each tensor of `state_tensors` belongs to, by the name of the tensor; "step" has none."""
        return {name: weight for name, weight, _ in self._named_state()}

    def _named_state(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, weight, state tensor) for each slot of each weight."""
        for group in self.groups:
            for slot, tensors in group.state.items():
                for name, weight, tensor in zip(group.names, group.weights, tensors, strict=True):
                    yield f"{group.rule.name}.{slot}.{name}", weight, tensor

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved values into the state. UserError, with nothing changed, unless names and shapes match exactly."""
        own = self.state_tensors()
        for name in sorted(own.keys() | tensors.keys()):
            if name not in tensors:
                raise_mismatch(f"it lacks {name}")
            if name not in own:
                raise_mismatch(f"it has {name}, which this optimizer does not")
            if own[name].shape != tensors[name].shape:
                raise_mismatch(f"{name} has the shape {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def gradients_of(group: Group) -> list[Tensor]:
    """The gradients of a group's weights, for sharded ones this rank's part. ValueError if a weight has none."""
    gradients = [local_part(weight.grad) for weight in group.weights if weight.grad is not None]
    if len(gradients) < len(group.weights):
        missing = next(name for name, weight in zip(group.names, group.weights, strict=True) if weight.grad is None)
        raise ValueError(f"{missing} has no gradient: call backward before step.")
    return gradients


def raise_mismatch(reason: str) -> None:
    raise UserError(
        f"The saved optimizer state does not match this run: {reason}; "
        "use a checkpoint of the same model and optimizer, or start without its optimizer state."
    )
