"""Sudden rises of the training loss, which often come before a divergence."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

WINDOW, LEAST = 50, 20  # steps looked back on; steps needed before anything is called sudden
DEVIATIONS, SHARE = 6.0, 1.1  # a spike is this many times the scatter, and this factor, above the mean
ACCEPTED_AFTER = 5  # spikes in a row: then the loss is not sudden any more, but what it now is
LAG = 2  # steps whose loss may still be on the device when the next step is decided on


@dataclass(frozen=True)
class Baseline:
    """What losses were lately, in nats per token. Above `limit` (a float32) one is a spike."""

    mean: float = math.nan
    noise_std: float = math.nan
    steps: int = 0

    @property
    def limit(self) -> float:
        """Infinite where too little is known. Rounded as a device would, so that both judge alike."""
        if not self.steps:
            return math.inf
        return float(np.float32(max(self.mean + DEVIATIONS * self.noise_std, self.mean * SHARE)))


@dataclass
class SpikeDetector:
    """The losses of the last steps, as (step, loss, whether it was a spike); part of a checkpoint.

    What is usual at a step is taken from the steps up to `LAG` + 1 before it, and so depends neither on the device nor
    on when a loss happened to be read. `due` is the step of a spike that is still to be rolled back, or 0.
    """

    seen: deque[tuple[int, float, bool]] = field(default_factory=lambda: deque(maxlen=WINDOW + LAG))
    due: int = 0

    def baseline(self, step: int) -> Baseline:
        """What the loss of `step` is judged by."""
        known = [(loss, spike) for at, loss, spike in self.seen if at < step - LAG][-WINDOW:]
        losses = [loss for loss, spike in known if not spike]
        accepted = all(spike for _, spike in known[-ACCEPTED_AFTER:])
        if len(losses) < LEAST or accepted:
            return Baseline()
        return Baseline(sum(losses) / len(losses), noise_std(losses), len(losses))

    def update(self, step: int, loss: float) -> str:
        """Take in the loss of a step, in order; what is to be said of it: "" unless it is a spike."""
        baseline = self.baseline(step)
        is_spike = loss > baseline.limit
        self.seen.append((step, loss, is_spike))
        if not is_spike:
            return ""
        before = f"{baseline.mean:.3f} ± {baseline.noise_std:.3f} in the {baseline.steps} steps before"
        return f"loss spike: {loss:.3f} after {before}"

    @property
    def is_first(self) -> bool:
        """Whether the spike just seen is the only one in the window: the plateau that may follow is no news."""
        return sum(spike for _, _, spike in self.seen) == 1

    def as_json(self) -> dict[str, Any]:
        return {"seen": [list(entry) for entry in self.seen], "due": self.due}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SpikeDetector:
        watch = cls(due=int(value.get("due", 0)))
        watch.seen.extend((int(step), float(loss), bool(spike)) for step, loss, spike in value.get("seen", []))
        return watch


def noise_std(losses: Sequence[float]) -> float:
    """Standard deviation of the noise on a falling curve: that of the differences from one to the next, over √2."""
    changes = [later - earlier for earlier, later in pairwise(losses)]
    mean = sum(changes) / len(changes)
    return math.sqrt(sum((change - mean) ** 2 for change in changes) / len(changes) / 2)
