"""Reading a bundle, and the message for each fault in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.core.bundle import Example, bundle_folder, load_bundle
from llm.errors import UserError
from tests.core.bundles_for_tests import INDEX, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_tasks_of_the_index(bundle: Path) -> None:
    colours, pronouns, last_words = load_bundle(bundle)
    assert (colours.label, colours.kind, colours.shots, colours.delimiter) == (
        "colours",
        "multiple_choice",
        1,
        "\nAnswer: ",
    )
    assert (pronouns.kind, pronouns.shots, pronouns.delimiter, pronouns.baseline) == ("schema", 0, " ", 0.5)
    assert (last_words.kind, last_words.shots, last_words.baseline) == ("language_modeling", 2, 0.0)
    assert colours.examples[1] == Example((("Question: Blood is", "blue"), ("Question: Blood is", "red!")), 1)
    assert pronouns.examples[1].options[1] == ("I fed my cat. The cat", "was glad.")
    assert last_words.examples[0] == Example((("one two", "three"),), 0)  # the stray space is dropped


def test_the_folder_of_an_unpacked_archive_works(tmp_path: Path) -> None:
    inner = write_bundle(tmp_path / "eval_bundle")
    assert bundle_folder(str(tmp_path), tmp_path / "home") == inner


def test_the_downloaded_bundle_is_the_default(tmp_path: Path) -> None:
    inner = write_bundle(tmp_path / "datasets" / "core" / "eval_bundle")
    assert bundle_folder("", tmp_path) == inner


def test_a_missing_bundle_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="llm-workbench data download core"):
        bundle_folder("", tmp_path)
    with pytest.raises(UserError, match=r"nowhere contains no core\.yaml"):
        bundle_folder(str(tmp_path / "nowhere"), tmp_path)


INDEX_FAULTS = {
    "icl_tasks: [": r"core\.yaml line \d+ is not YAML",
    "icl_tasks: \t- x": r"core\.yaml line 1 is not YAML",
    "tasks: []": r"core\.yaml lists no tasks; add a list under icl_tasks",
    "icl_tasks: 7": r"core\.yaml lists no tasks; add a list under icl_tasks",
    "": r"core\.yaml lists no tasks; add a list under icl_tasks",
    "\x00": r"core\.yaml is not YAML",
    "icl_tasks:\n- just text": r"core\.yaml line 2: a task must be a mapping",
    "icl_tasks:\n- {dataset_uri: x.jsonl, icl_task_type: schema}": r"line 2: label is missing",
    "icl_tasks:\n\n- {label: odd, dataset_uri: x.jsonl, icl_task_type: essay}": r"line 3: the type of odd must be",
    "icl_tasks:\n- {label: odd, dataset_uri: pronouns.jsonl, icl_task_type: schema}": r"no row for odd",
    "icl_tasks:\n- {label: colours, dataset_uri: pronouns.jsonl, icl_task_type: schema, num_fewshot: [many]}": (
        r"line 2: num_fewshot"
    ),
    "icl_tasks:\n- {label: colours, dataset_uri: pronouns.jsonl, icl_task_type: schema, num_fewshot: [2]}": (
        r"pronouns\.jsonl has 2 examples, too few for 2 shots"
    ),
    "icl_tasks:\n- {label: colours, dataset_uri: ../../x.jsonl, icl_task_type: schema}": r"is outside eval_data",
    "icl_tasks:\n- {label: colours, dataset_uri: /etc/passwd, icl_task_type: schema}": r"is outside eval_data",
    "icl_tasks:\n- {label: colours, dataset_uri: x.jsonl, icl_task_type: schema}": r"x\.jsonl is missing",
    'icl_tasks:\n- {label: colours, dataset_uri: "a\\0b", icl_task_type: schema}': r"is not the name of a file",
    "icl_tasks:\n- {label: colours, dataset_uri: circle, icl_task_type: schema}": r"is not the name of a file",
    "icl_tasks:\n- !!python/object/apply:os.system ['true']": r"is not YAML",
    INDEX + INDEX.partition("icl_tasks:\n")[2]: r"lists the task colours twice",
}


@pytest.mark.parametrize("text", INDEX_FAULTS, ids=range(len(INDEX_FAULTS)))
def test_a_fault_in_the_index_is_named(bundle: Path, text: str) -> None:
    (bundle / "eval_data" / "circle").symlink_to("circle")
    (bundle / "core.yaml").write_text(text)
    with pytest.raises(UserError, match=INDEX_FAULTS[text]):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("pronouns", '{"context_options": ["a", "b"], "continuation": "c", "gold": 2}', "schema example"),
        ("pronouns", '{"context_options": ["a", "b"], "continuation": "c", "gold": "0"}', "schema example"),
        ("pronouns", '{"context_options": ["a", "b"], "continuation": "c", "gold": -1}', "schema example"),
        ("knowledge/colours", '{"query": "q", "choices": "ab", "gold": true}', "multiple_choice example"),
        ("knowledge/colours", '{"query": "q", "choices": [1, 2], "gold": 0}', "multiple_choice example"),
        ("last_words", '{"context": "no end"}', "language_modeling example"),
        ("last_words", "[1, 2]", "language_modeling example"),
        ("last_words", '{"context": "cut o', "language_modeling example"),
    ],
)
def test_a_fault_in_an_example_is_named_with_its_line(bundle: Path, name: str, line: str, fault: str) -> None:
    path = bundle / "eval_data" / f"{name}.jsonl"
    path.write_text(path.read_text() + "\n" + line + "\n")
    number = len(path.read_text().splitlines())
    with pytest.raises(UserError, match=rf"{path.name} line {number} is not a {fault}"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("row", "fault"),
    [("x,a,b,0,1,much,,", "line 8"), ("x,a,b,0,1,100,,", "below 100"), ("x", "line 8"), ("x" * 200_000, "line")],
)
def test_a_fault_in_the_baselines_is_named_with_its_line(bundle: Path, row: str, fault: str) -> None:
    path = bundle / "eval_meta_data.csv"
    path.write_text(path.read_text() + "\n" + row + "\n")
    with pytest.raises(UserError, match=rf"eval_meta_data\.csv.*{fault}"):
        load_bundle(bundle)


def test_bytes_that_are_not_text_are_named(bundle: Path) -> None:
    (bundle / "eval_data" / "pronouns.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"pronouns\.jsonl cannot be read"):
        load_bundle(bundle)
