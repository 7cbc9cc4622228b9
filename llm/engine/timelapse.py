"""Generate from the same prompts and seed at every checkpoint of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llm.config.decode_schema import DecodeConfig
from llm.device import choose_device
from llm.engine import Engine, Piece
from llm.errors import UserError
from llm.run import Run
from llm.weights import load_model


@dataclass(frozen=True)
class Frame:
    """The text that the checkpoint of `step` generates from `prompt`, and the metrics saved with it.

    `problem` says why there is no text, for example a checkpoint that was deleted meanwhile.
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
    """A frame per checkpoint and prompt, oldest checkpoint first. UserError for an invalid prompt or parameter."""
    where = choose_device(device)
    infos = run.checkpoints()
    if not infos:
        raise UserError(f"run {run.name} has no checkpoint yet; train it until it saves one.")
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
            generated = "".join(item.text for item in items if isinstance(item, Piece))
            yield Frame(info.step, text, generated, info.metrics)


def pinned_prompts(run: Run) -> list[str]:
    """The prompts pinned to a run, oldest first."""
    return [text for text in run.meta().get("prompts", []) if isinstance(text, str)]


def toggle_pin(run: Run, prompt: str) -> bool:
    """Pin or unpin a prompt; returns whether it is now pinned."""
    prompts = pinned_prompts(run)
    pinned = prompt not in prompts
    run.update_meta(prompts=[*prompts, prompt] if pinned else [one for one in prompts if one != prompt])
    return pinned
