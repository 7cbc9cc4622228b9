"""Few-shot prompts as token ids, and the tokens to score in each."""

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
    """Token ids; those from index `start` on are scored. `start` is at least 1: the first token has no prediction."""

    tokens: list[int]
    start: int


class Question(NamedTuple):
    """One prompt per option; `gold` is the index of the correct one.

    A language_modeling question has one prompt. It is correct if greedy decoding gives all scored tokens.
    """

    prompts: list[Prompt]
    gold: int


def questions(task: Task, tokenizer: Tokenizer, max_length: int, max_examples: int = 0) -> Iterator[Question]:
    """The questions of `task`, at most `max_examples` (0: all), with prompts of at most `max_length` tokens, truncated
    on the left.

    The examples are shuffled with a fixed seed and cut to `max_examples`. The shots of question i are drawn from the
    other examples with the seed `SHOTS_SEED + i`. Seeds and order are those of nanochat (`evaluate_model` and
    `evaluate_example`, commit d575940), so that results on few examples can be compared. A task with more shots than
    `max_examples` keeps as many examples as it needs; nanochat cannot evaluate it.
    """
    examples = list(task.examples)
    random.Random(ORDER_SEED).shuffle(examples)
    if max_examples:
        examples = examples[: max(max_examples, task.shots + 1)]
    for index in range(min(len(examples), max_examples or len(examples))):
        drawn = random.Random(SHOTS_SEED + index).sample(range(len(examples) - 1), task.shots)
        others = (examples[other + (other >= index)] for other in drawn)  # without the question's example
        shots = "".join(join_option(task, *other.options[other.gold]) + BETWEEN_SHOTS for other in others)
        yield question(task, examples[index], shots, tokenizer, max_length)


def question(task: Task, example: Example, shots: str, tokenizer: Tokenizer, max_length: int) -> Question:
    """The prompts of one example after the text `shots`, and where their scoring starts.

    multiple_choice scores what follows the longest common prefix of all options, schema the longest common suffix,
    language_modeling what follows the context. Prefixes are compared as token ids, not characters, because a token may
    span the end of the context and the start of the continuation.
    """
    texts = [shots + join_option(task, *option) for option in example.options]
    if task.kind == "language_modeling":
        texts.append(shots + join_option(task, example.options[0][0], "").rstrip())
    first = [] if tokenizer.separator is None else [tokenizer.separator]
    sequences = [first + ids.tolist() for ids in tokenizer.encode_batch(texts)]
    if task.kind == "schema":
        same = common_length([ids[::-1] for ids in sequences])
        starts = [len(ids) - same for ids in sequences]
    else:
        starts = [common_length(sequences)] * len(sequences)
    prompts = sequences[: len(example.options)]
    shortest = min(map(len, prompts))
    # An option that is a prefix of another one ("no", "none") is scored by its last token.
    starts = [min(start, shortest - 1) if task.kind == "multiple_choice" else start for start in starts]
    return Question(
        [crop_prompt(ids, start, max_length) for ids, start in zip(prompts, starts, strict=False)], example.gold
    )


def join_option(task: Task, context: str, continuation: str) -> str:
    return context + task.delimiter + continuation


def crop_prompt(ids: list[int], start: int, max_length: int) -> Prompt:
    """The last `max_length` of `ids`, of which the first is not scored."""
    cut = max(0, len(ids) - max_length)
    return Prompt(ids[cut:], max(1, start - cut))


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """The length of the longest common prefix."""
    shortest = min(map(len, sequences))
    for position in range(shortest):
        if len({ids[position] for ids in sequences}) > 1:
            return position
    return shortest
