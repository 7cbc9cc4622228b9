"""The models that the chat can open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm.errors import UserError
from llm.run import CheckpointInfo, Run, list_runs
from workbench.chat.weights import LIVE


@dataclass(frozen=True)
class ModelChoice:
    """A model the chat can open."""

    reference: str
    description: str


def run_name(reference: str) -> str:
    """The run of `RUN` or `RUN@STEP`."""
    return reference.rpartition("@")[0] or reference


def list_models(home: Path, max_runs: int = 200) -> list[ModelChoice]:
    """The models of the newest runs: those in training first, then checkpoints, newest first."""
    models: list[ModelChoice] = []
    for run in list_runs(home)[:max_runs]:
        try:
            infos, kept, holder = run.checkpoints(), run.kept(), run.holder()
        except (UserError, OSError):
            continue  # a damaged run, or one that was deleted meanwhile
        if holder is not None:
            models.append(ModelChoice(f"{run.name}@{LIVE}", "in training"))
        models += [ModelChoice(f"{run.name}@{info.step}", checkpoint_facts(info)) for info in reversed(infos)]
        models += [ModelChoice(f"{run.name}@{info.step}", "saved from chat") for info in reversed(kept)]
    return sorted(models, key=lambda choice: not choice.reference.endswith(f"@{LIVE}"))


def checkpoint_facts(info: CheckpointInfo) -> str:
    """Validation loss and tags of a checkpoint, as one line."""
    loss = info.metrics.get("validation_loss")
    return "  ".join(([f"validation {loss:.3f}"] if loss is not None else []) + info.tags)


def is_in_training(home: Path, reference: str) -> bool:
    """Whether the run of a reference is in training, in this process or another."""
    try:
        return Run.open(home, reference.partition("@")[0]).holder() is not None
    except UserError:
        return False


def default_reference(home: Path, active: str | None) -> str:
    """The model to open first: the run in training here, else the newest run with a checkpoint, else ""."""
    if active:
        return f"{active}@{LIVE}"
    for run in list_runs(home):
        if any(run.checkpoint_directory.glob("step-*")):
            return run.name
    return ""
