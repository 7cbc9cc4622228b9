"""From examples to token ids: few-shot prompts, and which of their tokens are scored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llm.core.bundle import Example, Task
from llm.tokenizer import Tokenizer

ORDER_SEED = 1337
SHOTS_SEED = 1234
BETWEEN_SHOTS = "\n\n"


class Prompt(NamedTuple):
    """Token ids, of which those from `start` on are scored; each of them has at least one before it."""

    tokens: list[int]
    start: int


class Question(NamedTuple):
    """One prompt per option. Of a language_modeling task there is one, whose tokens must all be predicted."""

    prompts: list[Prompt]
    gold: int


def questions(task: Task, tokenizer: Tokenizer, longest: int, max_examples: int = 0) -> Iterator[Question]:
    """The questions of `task`, at most `max_examples` (0: all of them), none longer than `longest` tokens.

    The examples are shuffled by one fixed seed and cut to `max_examples`; the shots shown before the i-th are drawn by
    another seed from those that remain, without the i-th. Seeds and order are those of nanochat (`evaluate_model` and
    `evaluate_example`, commit d575940), so that results on few examples compare. A task that shows more shots than
    `max_examples` leaves keeps as many examples as it needs, which nanochat cannot evaluate. A prompt that is too long
    loses its beginning.
    """
    examples = list(task.examples)
    random.Random(ORDER_SEED).shuffle(examples)
    if max_examples:
        examples = examples[: max(max_examples, task.shots + 1)]
    for index in range(min(len(examples), max_examples or len(examples))):
        drawn = random.Random(SHOTS_SEED + index).sample(range(len(examples) - 1), task.shots)
        others = (examples[other + (other >= index)] for other in drawn)  # all but the one that is asked
        shots = "".join(joined(task, *other.options[other.gold]) + BETWEEN_SHOTS for other in others)
        yield question(task, examples[index], shots, tokenizer, longest)


def question(task: Task, example: Example, shots: str, tokenizer: Tokenizer, longest: int) -> Question:
    """The prompts of one example after the text `shots`, and where their scoring starts.

    Token ids decide, not characters: what a tokenizer makes of the border between context and continuation differs.
    multiple_choice scores what follows the longest common beginning of all options, schema the longest common ending,
    language_modeling what follows the context.
    """
    texts = [shots + joined(task, *option) for option in example.options]
    if task.kind == "language_modeling":
        texts.append(shots + joined(task, example.options[0][0], "").rstrip())
    first = [] if tokenizer.separator is None else [tokenizer.separator]
    sequences = [first + ids for ids in tokenizer.encode_batch(texts)]
    if task.kind == "schema":
        same = common_length([ids[::-1] for ids in sequences])
        starts = [len(ids) - same for ids in sequences]
    else:
        starts = [common_length(sequences)] * len(sequences)
    prompts = sequences[: len(example.options)]
    shortest = min(map(len, prompts))
    # An option that another one begins with ("no", "none") still has its last token to be judged by.
    starts = [min(start, shortest - 1) if task.kind == "multiple_choice" else start for start in starts]
    return Question([cropped(ids, start, longest) for ids, start in zip(prompts, starts, strict=False)], example.gold)


def joined(task: Task, context: str, continuation: str) -> str:
    return context + task.delimiter + continuation


def cropped(ids: list[int], start: int, longest: int) -> Prompt:
    """The last `longest` of `ids`; at least the first of them is context."""
    cut = max(0, len(ids) - longest)
    return Prompt(ids[cut:], max(1, start - cut))


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many ids all sequences begin with in common."""
    shortest = min(map(len, sequences))
    for position in range(shortest):
        if len({ids[position] for ids in sequences}) > 1:
            return position
    return shortest
