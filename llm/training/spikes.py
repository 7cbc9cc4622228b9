"""Detect sudden rises of the training loss, which often precede divergence."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

WINDOW, MIN_STEPS = 50, 20  # steps in the baseline, and steps needed for one
DEVIATIONS, FACTOR = 6.0, 1.1  # a spike exceeds the mean by this many standard deviations, and by this factor
ACCEPTED_AFTER = 5  # spikes in a row, after which the loss counts as a new level
LAG = 2  # steps whose loss may still be unread when the next step is taken


@dataclass(frozen=True)
class Baseline:
    """Mean and noise of recent losses, in nats per token. A loss above `limit` (a float32) is a spike."""

    mean: float = math.nan
    noise_std: float = math.nan
    steps: int = 0

    @property
    def limit(self) -> float:
        """Infinite with too few steps. Rounded to float32, so that host and device decide alike."""
        if not self.steps:
            return math.inf
        return float(np.float32(max(self.mean + DEVIATIONS * self.noise_std, self.mean * FACTOR)))


@dataclass
class SpikeDetector:
    """Recent losses as (step, loss, whether it was a spike); part of a checkpoint.

    The baseline of a step ends `LAG` + 1 steps before it, so that it depends neither on the device nor on when a loss
    is read. `due` is the step of a spike that is yet to be rolled back, or 0.
    """

    seen: deque[tuple[int, float, bool]] = field(default_factory=lambda: deque(maxlen=WINDOW + LAG))
    due: int = 0

    def baseline(self, step: int) -> Baseline:
        """The baseline for the loss of `step`; without steps if there are too few, or after ACCEPTED_AFTER spikes in a
        row."""
        known = [(loss, spike) for at, loss, spike in self.seen if at < step - LAG][-WINDOW:]
        losses = [loss for loss, spike in known if not spike]
        accepted = all(spike for _, spike in known[-ACCEPTED_AFTER:])
        if len(losses) < MIN_STEPS or accepted:
            return Baseline()
        return Baseline(sum(losses) / len(losses), noise_std(losses), len(losses))

    def update(self, step: int, loss: float) -> str:
        """Add the loss of `step`, the next one; returns a description if it is a spike, else ""."""
        baseline = self.baseline(step)
        is_spike = loss > baseline.limit
        self.seen.append((step, loss, is_spike))
        if not is_spike:
            return ""
        before = f"{baseline.mean:.3f} ± {baseline.noise_std:.3f} in the {baseline.steps} steps before"
        return f"loss spike: {loss:.3f} after {before}"

    @property
    def is_first(self) -> bool:
        """Whether the last spike is the only one in the window, and not part of a plateau."""
        return sum(spike for _, _, spike in self.seen) == 1

    def as_json(self) -> dict[str, Any]:
        return {"seen": [list(entry) for entry in self.seen], "due": self.due}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SpikeDetector:
        detector = cls(due=int(value.get("due", 0)))
        detector.seen.extend((int(step), float(loss), bool(spike)) for step, loss, spike in value.get("seen", []))
        return detector


def noise_std(losses: Sequence[float]) -> float:
    """Standard deviation of the noise on a falling curve: that of its successive differences, over √2."""
    changes = [later - earlier for earlier, later in pairwise(losses)]
    mean = sum(changes) / len(changes)
    return math.sqrt(sum((change - mean) ** 2 for change in changes) / len(changes) / 2)
