"""From a run directory to a stream of events: setup, the loop, its tasks, checkpoints."""
