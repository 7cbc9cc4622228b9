"""Prompts and scores, against answers known by hand and against the definition computed the plain way."""

from __future__ import annotations

import math
import random

import pytest
import torch

from llm.config import ModelConfig, resolve_model
from llm.core.bundle import Example, Task, load_bundle
from llm.core.questions import Prompt, questions
from llm.core.score import CoreResult, evaluate_core, group_questions, score_prompts
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.tokenizer.byte import ByteTokenizer
from tests.core.bundles_for_tests import CPU, TableModel, result_of, write_bundle

TOKENIZER = ByteTokenizer(["<|endoftext|>"])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, ...]:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("core") / "bundle"))


def right_texts(tasks: tuple[Task, ...], tokenizer: Tokenizer = TOKENIZER) -> list[list[int]]:
    """Every prompt with its right answer."""
    return [
        asked.prompts[asked.gold if len(asked.prompts) > 1 else 0].tokens
        for task in tasks
        for asked in questions(task, tokenizer, 4096)
    ]


def evaluated(model: object, tasks: tuple[Task, ...], **options: int) -> CoreResult:
    result: CoreResult = result_of(evaluate_core(model, TOKENIZER, tasks, CPU, **({"batch_tokens": 512} | options)))  # type: ignore[arg-type]
    return result


# --- the metric


def test_a_perfect_model_scores_one(tasks: tuple[Task, ...]) -> None:
    result = evaluated(TableModel(right_texts(tasks), 257), tasks)
    assert result.accuracy == {"colours": 1.0, "pronouns": 1.0, "last_words": 1.0}
    assert result.core_metric == 1.0
    assert result.examples == 9


def test_a_model_that_finds_everything_equally_likely_scores_zero(tasks: tuple[Task, ...]) -> None:
    result = evaluated(TableModel([], 257), tasks)  # the first of equal options, right in half of the cases
    assert result.accuracy == {"colours": 0.5, "pronouns": 0.5, "last_words": 0.0}
    assert result.core_metric == 0.0


def test_centering_by_hand(tasks: tuple[Task, ...]) -> None:
    """3 of 4 colours: (.75 − .5)/.5 = .5; no pronoun, so the first of two: 0; 2 of 3 words: 2/3; the mean is 7/18."""
    known = [
        ids
        for ids in right_texts((tasks[0], tasks[2]))
        if not TOKENIZER.decode(ids).endswith(("Blood is\nAnswer: red!", "two three four"))
    ]
    result = evaluated(TableModel(known, 257), tasks)
    assert result.centred == pytest.approx({"colours": 0.5, "pronouns": 0.0, "last_words": 2 / 3})
    assert result.core_metric == pytest.approx(7 / 18)


def test_always_wrong_is_below_zero(tasks: tuple[Task, ...]) -> None:
    colours = tasks[0]
    wrong = [asked.prompts[1 - asked.gold].tokens for asked in questions(colours, TOKENIZER, 4096)]
    assert evaluated(TableModel(wrong, 257), (colours,)).core_metric == -1.0


# --- prompts


def test_a_few_shot_prompt_to_the_letter(tasks: tuple[Task, ...]) -> None:
    """The order and the shots are those of Python's generator seeded 1337 and 1234 + i, drawn from all but the i-th."""
    colours = tasks[0]
    order = list(colours.examples)
    random.Random(1337).shuffle(order)
    for index, asked in enumerate(questions(colours, TOKENIZER, 4096)):
        others = [order[i] for i in range(4) if i != index]
        shot = random.Random(1234 + index).sample(others, 1)[0]
        for option, prompt in zip(order[index].options, asked.prompts, strict=True):
            assert prompt.tokens[0] == 256
            solved = "\nAnswer: ".join(shot.options[shot.gold])
            assert TOKENIZER.decode(prompt.tokens) == solved + "\n\n" + "\nAnswer: ".join(option)
        assert asked.gold == order[index].gold


@pytest.mark.parametrize("shots", [0, 3, 10])
def test_shots_are_drawn_from_the_examples(shots: int) -> None:
    """As nanochat has it: shuffle, cut to the limit, then draw the shots of question i from what is left."""
    examples = tuple(Example(((f"question {number}", "yes"), (f"question {number}", "no")), 0) for number in range(97))
    task = Task("many", "multiple_choice", shots, " ", 0.5, examples)
    kept = list(examples)
    random.Random(1337).shuffle(kept)
    kept = kept[:13]
    found = list(questions(task, TOKENIZER, 4096, max_examples=13))
    assert len(found) == 13
    for index, asked in enumerate(found):
        available = [i for i in range(13) if i != index]
        drawn = [kept[i] for i in random.Random(1234 + index).sample(available, shots)]
        text = "".join(f"{shot.options[0][0]} yes\n\n" for shot in drawn) + kept[index].options[0][0] + " yes"
        assert TOKENIZER.decode(asked.prompts[0].tokens) == text


def test_fewer_questions_than_shots_can_be_asked() -> None:
    examples = tuple(Example(((f"question {number}", "yes"), (f"question {number}", "no")), 0) for number in range(40))
    (asked,) = questions(Task("many", "multiple_choice", 5, " ", 0.5, examples), TOKENIZER, 4096, max_examples=1)
    text = TOKENIZER.decode(asked.prompts[0].tokens)
    assert text.count("question") == 6 and len(set(text.split("\n\n"))) == 6


def spans(task: Task, tokenizer: Tokenizer = TOKENIZER, longest: int = 4096) -> list[list[str]]:
    """The scored text of every question and option."""
    return [
        [tokenizer.decode(prompt.tokens[prompt.start :]) for prompt in asked.prompts]
        for asked in questions(task, tokenizer, longest)
    ]


def one(kind: str, *options: tuple[str, str], delimiter: str = " ") -> Task:
    return Task("one", kind, 0, delimiter, 0.0, (Example(options, 0),))  # type: ignore[arg-type]


def test_multiple_choice_scores_after_the_common_prefix() -> None:
    assert spans(one("multiple_choice", ("It is", "warm"), ("It is", "water"))) == [["rm", "ter"]]


def test_an_option_that_is_a_prefix_keeps_its_last_token() -> None:
    assert spans(one("multiple_choice", ("Say", "no"), ("Say", "none"))) == [["o", "one"]]


def test_schema_scores_the_common_suffix() -> None:
    assert spans(one("schema", ("The cup", "broke"), ("The dog", "broke"))) == [[" broke", " broke"]]


def test_language_modeling_scores_the_continuation_with_the_space_before_it() -> None:
    assert spans(one("language_modeling", ("one two", "three"))) == [[" three"]]
    assert spans(one("language_modeling", ("Q", "yes"), delimiter="\nAnswer: ")) == [[" yes"]]


def test_a_token_across_the_border_belongs_to_the_continuation() -> None:
    """An id may cross the border: scoring starts at the first id that differs."""

    class Pairs(ByteTokenizer):
        def encode_ordinary(self, text: str) -> list[int]:
            return [int.from_bytes(text[at : at + 3].encode()) for at in range(0, len(text), 3)]

    (asked,) = questions(one("language_modeling", ("abcd", "efg")), Pairs(["<|endoftext|>"]), 4096)
    assert (len(asked.prompts[0].tokens), asked.prompts[0].start) == (1 + 3, 2)  # abc | "d e" | fg


def test_a_long_prompt_is_cut_on_the_left() -> None:
    task = one("multiple_choice", ("x" * 50, "warm"), ("x" * 50, "cold!"))
    (asked,) = questions(task, TOKENIZER, 11)
    assert [TOKENIZER.decode(prompt.tokens) for prompt in asked.prompts] == ["xxxxxx warm", "xxxxx cold!"]
    assert spans(task, longest=11) == [["warm", "cold!"]]


def test_a_continuation_longer_than_the_context_is_scored_as_far_as_it_fits() -> None:
    task = one("schema", ("a", "0123456789"), ("b", "0123456789"))
    (asked,) = questions(task, TOKENIZER, 4)
    assert [(TOKENIZER.decode(prompt.tokens), prompt.start) for prompt in asked.prompts] == [("6789", 1)] * 2


def test_without_a_separator_the_first_token_is_not_scored() -> None:
    (asked,) = questions(one("multiple_choice", ("", "ab"), ("", "cd"), delimiter=""), ByteTokenizer([]), 4096)
    assert [prompt.start for prompt in asked.prompts] == [1, 1]


# --- scores


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = ModelConfig(n_layer=2, d_model=12, n_head=3, context=64, tied_head=False, dropout=0.5)
    model = Transformer(resolve_model(config, 257))
    model.init_weights(torch.Generator().manual_seed(3))
    for parameter in model.parameters():
        parameter.data *= 5  # so that options differ clearly
    return model.double()


def test_scores_equal_the_definition_computed_one_by_one(model: Transformer) -> None:
    chance = random.Random(5)
    prompts = []
    for _ in range(23):
        tokens = [chance.randrange(257) for _ in range(chance.randrange(2, 65))]
        prompts.append(Prompt(tokens, chance.randrange(1, len(tokens))))
    model.eval()
    for prompt, score in zip(prompts, score_prompts(model, CPU, prompts, 150), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt.tokens]))[0]
        logs = torch.log_softmax(logits, -1)
        positions = range(prompt.start, len(prompt.tokens))
        expected = -sum(float(logs[at - 1, prompt.tokens[at]]) for at in positions) / len(positions)
        assert score.loss == pytest.approx(expected, rel=1e-6)
        assert score.exact == all(int(logits[at - 1].argmax()) == prompt.tokens[at] for at in positions)


def test_an_empty_option_is_never_correct() -> None:
    model = TableModel([], 257)
    model.eval()
    scores = score_prompts(model, CPU, [Prompt([5], 1), Prompt([], 1), Prompt([5, 0], 1)], 64)  # type: ignore[arg-type]
    assert [score.loss for score in scores[:2]] == [math.inf, math.inf]
    assert [score.exact for score in scores] == [False, False, True]


def test_the_result_does_not_depend_on_the_batches(model: Transformer, tasks: tuple[Task, ...]) -> None:
    results = [evaluated(model, tasks, batch_tokens=size) for size in (1, 130, 4096)]
    assert results[0] == results[1] == results[2]


def test_no_input_is_longer_than_the_context(tasks: tuple[Task, ...]) -> None:
    model = TableModel([], 257, context=20)
    evaluated(model, tasks)
    assert model.longest == 20


def test_max_examples(tasks: tuple[Task, ...]) -> None:
    assert evaluated(TableModel(right_texts(tasks), 257), tasks, max_examples=2).examples == 6


def test_no_random_number_is_drawn_and_the_mode_is_restored(model: Transformer, tasks: tuple[Task, ...]) -> None:
    before = torch.get_rng_state(), random.getstate()
    model.train()
    evaluated(model, tasks)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_the_mode_is_restored_when_closed_early(model: Transformer, tasks: tuple[Task, ...]) -> None:
    model.train()
    scoring = evaluate_core(model, TOKENIZER, tasks, CPU, batch_tokens=64)
    progress = next(scoring)
    assert (progress.stage, progress.total) == ("CORE: colours", 9)
    assert not model.training
    scoring.close()
    assert model.training


def test_size_of_groups(tasks: tuple[Task, ...]) -> None:
    asked = list(questions(tasks[0], TOKENIZER, 4096))
    groups = list(group_questions(iter(asked), 2 * len(asked[0].prompts[0].tokens) + 1))
    assert [question for group in groups for question in group] == asked
    assert [len(group) for group in groups] == [2, 2]
