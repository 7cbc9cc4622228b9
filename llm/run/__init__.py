"""Run directories; ARCHITECTURE.md describes their files."""

from llm.run.checkpoints import CheckpointInfo, verify
from llm.run.directory import Run, RunStatus, check_run_name, find_checkpoint, free_name, list_runs
from llm.run.lock import Holder, RunBusy
from llm.run.log import Command, CommandTail, EventLog, EventTail
