"""The update rules as `torch.optim.Optimizer` classes, for use without the trainer.

`param_groups`, `state_dict`, `load_state_dict`, closures, hooks and PyTorch's learning-rate schedulers work as with
PyTorch's optimizers. State tensors have PyTorch's names, so that a state of its optimizer of the same kind can be
loaded. The trainer uses `llm.optim.Optimizer`, which can disable an update on the device and updates whole lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from llm.optim import adamw, muon, sgd
from llm.optim.optimizer import Rule, Step

STATE_NAMES = {"m": "exp_avg", "v": "exp_avg_sq", "momentum": "momentum_buffer"}
"""PyTorch's name of each slot of a rule."""


class RuleOptimizer(torch.optim.Optimizer):
    """A PyTorch optimizer that updates its groups by a `Rule`."""

    def rule(self, group: dict[str, Any]) -> Rule:
        """The rule with the hyperparameters of `group`."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; ValueError if a hyperparameter or a parameter is invalid for the rule."""
        super().add_param_group(param_group)
        try:
            self.check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def check(self, group: dict[str, Any]) -> None:
        """ValueError if a hyperparameter of `group` is out of range."""
        for name in ("lr", "weight_decay"):
            require(group[name] >= 0, name, group[name], "at least 0")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the loss if `closure` computes it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rule = self.rule(group)
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(weight, rule, group)
        return loss

    def update(self, weight: Tensor, rule: Rule, group: dict[str, Any]) -> None:
        """Update one parameter and its state, which starts at 0."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state.update({STATE_NAMES[slot]: torch.zeros_like(weight) for slot in rule.slots})
        state["step"] += 1
        assert weight.grad is not None
        slots = {slot: [state[STATE_NAMES[slot]]] for slot in rule.slots}
        step = Step(float(group["lr"]), group["weight_decay"], state["step"].to(weight.device), None)
        rule.update([weight], [weight.grad], slots, step)


class AdamW(RuleOptimizer):
    """`llm.optim.adamw.AdamW`: PyTorch's form, or CS336's with `eps_inside` and `decay_after`."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        eps_inside: bool = False,
        decay_after: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"eps_inside": eps_inside, "decay_after": decay_after})

    def rule(self, group: dict[str, Any]) -> Rule:
        # A group loaded from PyTorch's AdamW lacks the last two.
        inside, after = group.get("eps_inside", False), group.get("decay_after", False)
        beta1, beta2 = group["betas"]
        return adamw.AdamW(beta1, beta2, group["eps"], eps_inside=inside, decay_after=after)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        require(group["eps"] >= 0, "eps", group["eps"], "at least 0")
        for beta in group["betas"]:
            require(0 <= beta < 1, "betas", group["betas"], "at least 0 and below 1")


class SGD(RuleOptimizer):
    """`llm.optim.sgd.SGD`: without momentum, and with decoupled weight decay."""

    def __init__(self, params: ParamsT, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def rule(self, group: dict[str, Any]) -> Rule:
        return sgd.SGD()


class Muon(RuleOptimizer):
    """`llm.optim.muon.Muon`, for matrices only."""

    def __init__(self, params: ParamsT, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def rule(self, group: dict[str, Any]) -> Rule:
        return muon.Muon(group["momentum"])

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        require(0 <= group["momentum"] < 1, "momentum", group["momentum"], "at least 0 and below 1")
        for weight in group["params"]:
            if weight.ndim != 2:
                raise ValueError(
                    f"Muon updates matrices, but a parameter has the shape {tuple(weight.shape)}; use AdamW for it."
                )


def require(holds: bool, name: str, value: object, bounds: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {bounds}, not {value}.")
