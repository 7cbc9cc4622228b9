"""A run goes on, and is measured, when its text is gone and the tokens prepared from it are not."""

from __future__ import annotations

from pathlib import Path

from llm.data.tokens.prepare import prepare
from llm.events import Warned
from llm.run import Run
from llm.training.run import run_training
from tests.draining import result_of
from workbench.cli import main

from .conftest import MakeRun
from .test_resume import StopAfter, assert_same_end


def test_resume_and_eval_do_without_the_text(make_run: MakeRun, tmp_path: Path, corpus: Path) -> None:
    whole, run = make_run("whole"), make_run("stopped")
    assert run_training(whole, tmp_path).status == "finished"
    assert run_training(run, tmp_path, commands=StopAfter(30)).status == "stopped"
    text = corpus.read_text()
    corpus.write_text(text + "\nMore of it.")
    result_of(prepare(run.config(), tmp_path))  # the newest tokens are those of another text
    corpus.unlink()
    assert run_training(Run.open(tmp_path, "stopped"), tmp_path).status == "finished"
    assert_same_end(whole, run)
    notes = [event.message for event in run.events() if isinstance(event, Warned)]
    assert any("is missing; the dataset tokenized from it earlier is used" in note for note in notes)
    assert main(["eval", "stopped", "--home", str(tmp_path)]) == 0


def test_a_copy_of_the_text_was_prepared_first(make_run: MakeRun, tmp_path: Path, corpus: Path) -> None:
    """Both have the same tokens, in a folder that was made for the other."""
    copy = tmp_path / "copy.txt"
    copy.write_text(corpus.read_text())
    result_of(prepare(make_run("other", data__corpus=str(copy)).config(), tmp_path))
    run = make_run("stopped")
    assert run_training(run, tmp_path, commands=StopAfter(30)).status == "stopped"
    corpus.unlink()
    assert run_training(run, tmp_path).status == "finished"
