"""Run directories as training would leave them, without training."""

from __future__ import annotations

from pathlib import Path

from llm.config import from_mapping
from llm.events import Evaluated, Finished, Started, StepLogged
from llm.files import published_directory
from llm.run import CheckpointInfo, Run
from llm.run.checkpoints import list_checkpoints, write_manifest


def started(step: int = 0, total_steps: int = 500) -> Started:
    return Started(
        step=step,
        total_steps=total_steps,
        parameters=123_456,
        tokens_per_step=2048,
        device="cpu",
        precision="fp32",
        threads=1,
        compiled=False,
        pid=1,
        host="here",
    )


def step_logged(step: int, loss: float) -> StepLogged:
    return StepLogged(
        step=step,
        tokens_seen=step * 2048,
        loss=loss,
        lr=1e-3,
        lr_multiplier=1.0,
        grad_norm=0.5,
        step_ms=10.0,
        tokens_per_second=200_000.0,
        total_flops=0.0,
    )


def evaluated(step: int, loss: float) -> Evaluated:
    return Evaluated(step=step, validation_loss=loss, perplexity=2.7, bits_per_byte=loss / 2, tokens=999)


def make_run(
    home: Path, name: str, *, steps: int = 0, loss: float = 2.0, end: str = "finished", **config: object
) -> Run:
    """A run of `steps` logged steps, evaluated at the last one; `end` "" leaves the log without an end."""
    mapping = {"train": {"steps": 500}, "data": {"corpus": config.get("corpus", "stories"), "size_mb": 1.0}}
    run = Run.create(home, name, from_mapping(mapping))
    if not steps:
        return run
    log = run.log()
    log.append(started())
    for step in range(1, steps + 1):
        log.append(step_logged(step, loss + (steps - step) * 0.01))
    log.append(evaluated(steps, loss + 0.1))
    if end:
        log.append(Finished(step=steps, status=end))
    log.close()
    return run


def save_fake(run: Run, step: int, loss: float) -> CheckpointInfo:
    """A committed checkpoint whose only file is not a model."""
    directory = run.checkpoint_directory / f"step-{step:08d}"
    directory.parent.mkdir(exist_ok=True)
    with published_directory(directory) as staging:
        (staging / "weights.bin").write_bytes(bytes(range(256)) * 10)
        write_manifest(staging, step, {"loss": loss, "validation_loss": loss + 0.1, "bits_per_byte": loss / 2})
    return next(info for info in list_checkpoints(run.checkpoint_directory) if info.step == step)
