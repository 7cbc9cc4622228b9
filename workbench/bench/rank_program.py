"""`llm.train` that prints, at its end, what the loop took per step besides the step itself (`bench ranks`, host)."""

from __future__ import annotations

import sys
import time
from typing import Any

WARM_UP = 50  # steps


def main() -> int:
    from llm.train import main as train
    from llm.training import loop

    take_step = vars(loop)["take_step"]
    began: list[tuple[float, float]] = []
    ended: list[tuple[float, float]] = []

    def timed(*arguments: Any, **options: Any) -> Any:
        began.append((time.perf_counter(), time.thread_time()))
        result = take_step(*arguments, **options)
        ended.append((time.perf_counter(), time.thread_time()))
        return result

    vars(loop)["take_step"] = timed
    status = train()
    between = list(zip(ended[WARM_UP:-1], began[WARM_UP + 1 :], strict=True))
    wall, processor = (sum(later[at] - earlier[at] for earlier, later in between) / len(between) for at in (0, 1))
    print(f"besides the step {1000 * wall:.3f} {1000 * processor:.3f} ms of time, of a processor")
    return status


if __name__ == "__main__":
    sys.exit(main())
