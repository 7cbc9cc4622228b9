"""`llm-workbench bench quickstart`: quality of the model of the first preset after its two minutes.

Trains it in a temporary home, compares its bits per byte with `xz -9e` on the same validation text, and scores
replies of many seeds: the share of words that occur in the corpus, and whether the characters keep their names.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llm.config import load_preset, with_overrides
from llm.data.text.stories import vocabulary, words
from llm.data.text.stories.library import library
from llm.events import Evaluated, Event, Progress, Started, StepLogged
from llm.generators import drain
from llm.run import Run
from workbench.bench.report import Result

PROMPT = "Once"
MAX_NAMES = 2  # each story of the corpus has a hero and at most one friend
CAPITALIZED = re.compile(r"\b[A-Z][a-z]+\b")


@dataclass(frozen=True)
class Reply:
    """One reply: its words that occur in the corpus, and its characters in order of appearance."""

    text: str
    words: int
    known_words: int
    names: tuple[str, ...]

    @property
    def is_consistent(self) -> bool:
        """Whether it has one hero, named at least twice, and at most one friend, of the other gender, as in every story
        of the corpus."""
        if not 1 <= len(self.names) <= MAX_NAMES or story_of(self.text).count(self.names[0]) < 2:
            return False
        return len({name in female_names() for name in self.names}) == len(self.names)


def story_of(text: str) -> str:
    """The part before the first question, since questions have other topics."""
    return text.split("\n\nQuestion:")[0]


def female_names() -> frozenset[str]:
    """The names of the characters that the corpus calls "she"."""
    return frozenset((*library().words["girls"], *library().words["she_animals"]))


def score_reply(text: str) -> Reply:
    """Score a reply, including its prompt."""
    found = words(text)
    people = {*female_names(), *library().words["boys"], *library().words["he_animals"]}
    named = [name for name in CAPITALIZED.findall(story_of(text)) if name in people]
    known = vocabulary()
    return Reply(text, len(found), sum(word in known for word in found), tuple(dict.fromkeys(named)))


def xz_bits_per_byte(path: Path) -> float:
    """Size of a file compressed with `xz -9e`, in bits per byte."""
    text = path.read_bytes()
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


def measure(home: Path, overrides: Sequence[tuple[str, str]], seeds: int) -> Result:
    """Train quickstart in `home` and score it. Seconds are wall time, without the import of torch."""
    from llm.data.tokens.prepare import prepare
    from llm.training.run import run_training

    config = with_overrides(load_preset("quickstart", home), overrides)
    run = Run.create_numbered(home, "bench", config)
    events: list[Event] = []
    run_training(run, home, on_event=events.append)
    evaluated = [event for event in events if isinstance(event, Evaluated)][-1]
    logged = [event for event in events if isinstance(event, StepLogged)]
    started = next(event for event in events if isinstance(event, Started))
    first_progress = next(event for event in events if isinstance(event, Progress))
    dataset = drain(prepare(config, home))
    replies = [score_reply(text) for text in generate_replies(run, seeds)]
    total = sum(reply.words for reply in replies)
    return {
        "seconds_to_first_step": logged[0].time - first_progress.time,
        "training_seconds": evaluated.elapsed,
        "steps": evaluated.step,
        "threads": started.threads,
        "precision": started.precision,
        "validation_loss": evaluated.validation_loss,
        "bits_per_byte": evaluated.bits_per_byte,
        "xz_bits_per_byte": xz_bits_per_byte(dataset.validation_text),
        "known_words": sum(reply.known_words for reply in replies) / total,
        "consistent_replies": sum(reply.is_consistent for reply in replies),
        "replies": [asdict(reply) | {"is_consistent": reply.is_consistent} for reply in replies],
    }


def generate_replies(run: Run, seeds: int) -> list[str]:
    """The prompt and its completion for seeds 1, 2, …, with the preset's sampling parameters."""
    from llm.engine import Engine, Piece
    from llm.weights import load_model

    model, tokenizer = load_model(run, run.checkpoint())
    engine, params = Engine(model, tokenizer), run.config().decode
    texts = []
    for seed in range(1, seeds + 1):
        pieces = engine.stream(PROMPT, replace(params, seed=seed))
        texts.append(PROMPT + "".join(piece.text for piece in pieces if isinstance(piece, Piece)))
    return texts


def lines_of(result: Result) -> list[str]:
    """The printed result: each number, and the reply of seed 1."""
    numbers = {name: value for name, value in result.items() if name != "replies"}
    lines = [f"{name:<22} {f'{value:.4f}' if isinstance(value, float) else value}" for name, value in numbers.items()]
    return [*lines, "", "reply of seed 1:", result["replies"][0]["text"]]
