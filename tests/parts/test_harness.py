"""The lm-evaluation-harness gives our model the scores that it gives the exported one through transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm.run import Run
from llm.weights import load_model
from workbench import cli

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
"""
KINDS = {
    "choice": "output_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: 0\n",
    "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{long}}'\nmetric_list:\n"
    "  - metric: bits_per_byte\n",
    "until": "output_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: '{{choices[0]}}'\n"
    "generation_kwargs: {until: ['.'], max_gen_toks: 8}\nmetric_list:\n  - metric: exact_match\n",
}
LINES = [
    {"text": "Ada saw", "choices": [" a red ball", " the moon on day 7."], "long": "Ada saw two cats on day 3. " * 4},
    {"text": "Béla saw two cats on day 12 and Chen ", "choices": ["saw", "x"], "long": "Chen saw"},
    {"text": "Dora saw the moon on day 1.\n" * 3, "choices": ["Ada", "Chen saw an old book"], "long": "day"},
    {"text": "", "choices": ["Ada", "zzz"], "long": "x" * 40},
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with one made-up task of each kind."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    for name, text in KINDS.items():
        (folder / f"{name}.yaml").write_text(CHOICE.format(name=name, data=data) + text)
    return folder


def evaluate(model: Any, tasks: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The results, and every answer of the model by task."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(model=model, tasks=sorted(KINDS), task_manager=manager, bootstrap_iters=0, log_samples=True)
    answers = {name: [sample["resps"] for sample in samples] for name, samples in found["samples"].items()}
    return found["results"], answers


@pytest.mark.slow
def test_the_scores_are_those_of_the_exported_model(
    trained_run: Run, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slow: the harness takes many seconds to import."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from llm.interop.harness import HarnessModel

    home = str(trained_run.path.parent.parent)
    exported = tmp_path / "exported"
    assert cli.main(["--home", home, "export", "tiny-1", "--to", "hf", "--out", str(exported)]) == 0
    folder = next(path.parent for path in exported.rglob("config.json"))
    (folder / "generation_config.json").unlink()  # its max_new_tokens would replace the tasks' max_gen_toks
    model, tokenizer = load_model(trained_run, trained_run.checkpoint())
    mine = HarnessModel(model, tokenizer, batch_tokens=64)
    blanks = Instance("loglikelihood", {}, ("\n\n", "Ada"), 0)
    ((score, _),) = mine.loglikelihood([blanks])  # the adapter of transformers fails: no context is left
    assert -60 < score < 0
    ours = evaluate(mine, tasks)
    theirs = evaluate(HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2), tasks)
    for name in ("choice", "rolling"):
        for own, other in zip(ours[1][name], theirs[1][name], strict=True):
            assert flatten(own) == pytest.approx(flatten(other), abs=1e-4)
    assert ours[1]["until"] == theirs[1]["until"]
    assert ours[0]["rolling"]["bits_per_byte,none"] == pytest.approx(theirs[0]["rolling"]["bits_per_byte,none"])
    capsys.readouterr()
    assert cli.main(["--home", home, "eval", "tiny-1", "--harness", str(tasks), "--device", "cpu", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["tasks"]["choice"]["acc,none"] == ours[0]["choice"]["acc,none"]


def flatten(value: Any) -> list[float]:
    """The numbers in nested lists; harness versions nest them differently."""
    if isinstance(value, list | tuple):
        return [number for item in value for number in flatten(item)]
    return [float(value)]
