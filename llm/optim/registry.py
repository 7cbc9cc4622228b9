"""The update rule of each optimizer. A new one needs an entry here and one in `llm.config.optimizers`."""

from __future__ import annotations

from collections.abc import Callable

from llm.config.schema import OptimConfig
from llm.optim.adamw import AdamW
from llm.optim.muon import Muon
from llm.optim.optimizer import Rule
from llm.optim.sgd import SGD

OPTIMIZERS: dict[str, Callable[[OptimConfig, bool], Rule]] = {
    "adamw": lambda optim, fused: AdamW(
        optim.beta1, optim.beta2, optim.eps, optim.eps_inside, optim.decay_after, fused
    ),
    "sgd": lambda optim, fused: SGD(fused),
    "muon": lambda optim, fused: Muon(optim.momentum, fused),
}
"""(settings, fused) → rule, by the names of `llm.config.optimizers.OPTIMIZER_INFO`."""
