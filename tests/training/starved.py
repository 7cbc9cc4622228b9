"""`python -m tests.training.starved RUN_DIR STEP MEGABYTES`: train a run, and from STEP on, or from the search for the
largest micro-batch, let the process have no more than MEGABYTES beyond what it holds then. What the kernel refuses is
what the trainer meets."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil

from llm.errors import UserError
from llm.events import Event, Progress, Started, StepLogged
from llm.run import Run
from llm.training.run import run_training


def main() -> int:
    run, step, headroom = Run(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]) << 20

    def on_event(event: Event) -> None:
        is_probe = isinstance(event, Progress) and event.stage.startswith("Finding the largest") and not event.done
        is_limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
        if not is_limited and (is_probe or (isinstance(event, Started | StepLogged) and event.step == step)):
            limit = psutil.Process().memory_info().vms + headroom
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    try:
        run_training(run, run.path.parent.parent, on_event=on_event)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
