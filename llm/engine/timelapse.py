"""The same prompts, with the same seed, at every checkpoint of a run: how its text came to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llm.config.schema import DecodeConfig
from llm.device import choose_device
from llm.engine import Engine, Piece
from llm.errors import UserError
from llm.run import Run
from llm.training.checkpoint import load_model


@dataclass(frozen=True)
class Frame:
    """What the checkpoint of `step` writes on from `prompt`. `metrics` are those it was saved with.

    `problem` says why there is no text, such as a checkpoint that was deleted meanwhile.
    """

    step: int
    prompt: str
    text: str
    metrics: dict[str, float]
    problem: str = ""


def timelapse(
    run: Run,
    prompts: Sequence[str],
    params: DecodeConfig,
    *,
    device: str = "auto",
    cancel: Callable[[], bool] = lambda: False,
) -> Iterator[Frame]:
    """A frame per checkpoint and prompt, oldest checkpoint first. UserError where a prompt or a knob cannot be."""
    where = choose_device(device)
    infos = run.checkpoints()
    if not infos:
        raise UserError(f"run {run.name} has no checkpoint yet; train it until its first save.")
    for info in infos:
        try:
            model, tokenizer = load_model(run, info, where)
        except (UserError, OSError) as error:
            for text in prompts:
                yield Frame(info.step, text, "", info.metrics, str(error))
            continue
        engine = Engine(model, tokenizer)
        for text in prompts:
            if cancel():
                return
            items = engine.stream(text, params, num_samples=1, cancel=cancel)
            written = "".join(item.text for item in items if isinstance(item, Piece))
            yield Frame(info.step, text, written, info.metrics)


def pinned_prompts(run: Run) -> list[str]:
    """The prompts that are pinned to a run, in the order they were."""
    return [text for text in run.meta().get("prompts", []) if isinstance(text, str)]


def pin_prompt(run: Run, prompt: str) -> bool:
    """Pin a prompt to a run, or unpin it if it is; returns whether it is now."""
    prompts = pinned_prompts(run)
    pinned = prompt not in prompts
    run.update_meta(prompts=[*prompts, prompt] if pinned else [one for one in prompts if one != prompt])
    return pinned
