"""Sudden rises of the training loss, which often come before a divergence."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from itertools import pairwise

WINDOW, LEAST = 50, 20  # steps looked back on; steps needed before anything is called sudden
DEVIATIONS, SHARE = 6.0, 1.1  # a spike is this many times the scatter, and this factor, above the mean


class SpikeWatch:
    """Compares each loss with those of the steps just before it."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.quiet = 0

    def see(self, loss: float) -> str:
        """What is to be said of a finite `loss` (nats per token): "" unless it is a spike.

        A spike, and the plateau that may follow it, is reported once: then nothing is said for a whole window.
        """
        said = ""
        self.quiet = max(0, self.quiet - 1)
        if len(self.recent) >= LEAST and not self.quiet:
            mean, deviation = statistics.fmean(self.recent), scatter(self.recent)
            if loss > max(mean + DEVIATIONS * deviation, mean * SHARE):
                self.quiet = WINDOW
                said = (
                    f"loss spike: {loss:.3f} after {mean:.3f} ± {deviation:.3f} in the {len(self.recent)} steps before"
                )
        self.recent.append(loss)
        return said


def scatter(losses: Iterable[float]) -> float:
    """Standard deviation of the noise on a falling curve: that of the differences from one to the next, over √2."""
    return statistics.pstdev(later - earlier for earlier, later in pairwise(losses)) / math.sqrt(2)
