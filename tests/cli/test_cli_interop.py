"""`export` and `import` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm.run import Run
from workbench.cli import main


def test_a_model_goes_out_and_comes_in(
    trained_home: Path, trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The import writes the same greedy text, can be evaluated, and forked."""
    home, name = ["--home", str(trained_home)], trained_run.name
    assert main(["export", *home, f"{name}@10", "--to", "hf", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["step"], written["format"]) == (10, "hf")
    assert main(["import", *home, written["path"], "--name", "theirs"]) == 0
    assert capsys.readouterr().out == "theirs\n"
    texts = []
    for run in (f"{name}@10", "theirs"):
        assert main(["sample", *home, run, "--prompt", "Ada", "--greedy", "--max-tokens", "20"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    corpus = Run.open(trained_home, name).config().data.corpus
    losses = []
    for run in (f"{name}@10", "theirs"):
        assert main(["eval", *home, run, "--corpus", corpus, "--batches", "0", "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["validation_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3), "one is in float32, the other in bfloat16"
    fields = ["--data.corpus", corpus, "--train.steps", "2", "--train.device", "cpu", "--train.threads", "1"]
    assert main(["fork", *home, "theirs", "--name", "continued", *fields, "--evaluate.every", "0"]) == 0
    assert Run.open(trained_home, "continued").status().name == "finished"
    assert Run.open(trained_home, "continued").info()["parent"] == "theirs@0"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["export", "tiny-1", "--to", "llama2c"], 1, "does not fit the format llama2c"),
        (["export", "tiny-1", "--to", "hf", "--dtype", "q8_0"], 2, "hf has no dtype q8_0; use one of f32, f16, bf16"),
        (["export", "tiny-1", "--to", "onnx"], 2, "invalid choice: 'onnx'"),
        (["export", "tiny-1", "--to", "hf", "--out", "."], 2, "exists already"),
        (["import", "nowhere"], 2, "there is no nowhere"),
        (["import", ".", "--name", "tiny-1"], 2, "a run named tiny-1 exists already"),
        (["import", "."], 1, "is not a model that can be imported; name a Hugging Face folder"),
    ],
)
def test_errors_are_sentences(
    arguments: list[str],
    status: int,
    message: str,
    trained_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([arguments[0], "--home", str(trained_home), *arguments[1:]]) == status
    assert message in capsys.readouterr().err
