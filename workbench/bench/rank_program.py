"""`llm.train` that prints the overhead of the training loop at the end (`bench ranks --part host`)."""

from __future__ import annotations

import sys
import time
from typing import Any

WARM_UP = 50  # steps
LABEL = "overhead of the training loop per step in ms (wall, CPU):"


def main() -> int:
    from llm.train import main as train
    from llm.training import loop

    take_step = vars(loop)["take_step"]
    began: list[tuple[float, float]] = []
    ended: list[tuple[float, float]] = []

    def time_step(*arguments: Any, **options: Any) -> Any:
        began.append((time.perf_counter(), time.thread_time()))
        result = take_step(*arguments, **options)
        ended.append((time.perf_counter(), time.thread_time()))
        return result

    vars(loop)["take_step"] = time_step
    status = train()
    between = list(zip(ended[WARM_UP:-1], began[WARM_UP + 1 :], strict=True))
    wall, cpu = (sum(later[at] - earlier[at] for earlier, later in between) / len(between) for at in (0, 1))
    print(f"{LABEL} {1000 * wall:.3f} {1000 * cpu:.3f}")
    return status


if __name__ == "__main__":
    sys.exit(main())
