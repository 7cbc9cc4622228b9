"""Operations on a run and its checkpoints: verify, pin, rename, delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm.errors import WrongUse, problem_of
from llm.files import remove_directory
from llm.run import CheckpointInfo, Run, check_run_name, verify
from workbench.formatting import format_size, plural
from workbench.runs.summaries import RunSummary


def verify_checkpoint(info: CheckpointInfo, progress: Callable[[int], object] = lambda count: None) -> str:
    """Compare a checkpoint with its checksums; returns what is wrong, "" if it is intact. For a thread.

    `progress` gets the number of bytes read since its last call.
    """
    return problem_of(lambda: verify(info, progress))


def pin(run: Run, step: int) -> bool:
    """Pin or unpin the checkpoint of `step`; returns whether it is now pinned. Pinned checkpoints are never pruned."""
    pins = set(run.meta()["pins"])
    pins ^= {step}
    run.update_meta(pins=sorted(pins))
    return step in pins


def check_new_name(run: Run, name: str) -> None:
    """Raise `WrongUse` if a run cannot have this name."""
    check_run_name(name)
    if run.path.with_name(name).exists():
        raise WrongUse(f"a run named {name} exists already; choose another name.")


def rename(run: Run, name: str) -> Run:
    """Rename a run. Raises `RunBusy` while it is in training."""
    check_new_name(run, name)
    target = run.path.with_name(name)
    with run.lock():
        run.path.rename(target)
    return Run(target)


def delete_checkpoint(run: Run, info: CheckpointInfo) -> None:
    """Delete a checkpoint and its pin. Raises `RunBusy` while the run is in training, which may load it."""
    with run.lock():
        remove_directory(info.path)
        pins = [step for step in run.meta()["pins"] if step != info.step]
        run.update_meta(pins=pins)


def describe_deletion(summary: RunSummary, checkpoints: Sequence[CheckpointInfo]) -> str:
    """The question before a run is deleted, which lists what is lost."""
    parts = []
    if checkpoints:
        steps = ", ".join(str(info.step) for info in checkpoints[-5:])
        number = "its only checkpoint" if len(checkpoints) == 1 else f"all {len(checkpoints)} checkpoints"
        parts.append(f"{number} (step {steps})" if len(checkpoints) <= 5 else f"{number} (newest {steps})")
    parts.append(f"the record of {plural(summary.step, 'step')}")
    if summary.notes:
        parts.append("your notes")
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    size = format_size(summary.size_bytes)
    effect = f"This moves {listed} to the trash. It can be restored until the trash is emptied."
    return f"Delete {summary.name} ({size})? {effect}"
