"""`runs` reads little of each run, and says what it always said."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from llm.config import RunConfig
from llm.events import Evaluated, Finished, RolledBack, Saved, StepLogged, to_line
from llm.run import Run
from llm.run.directory import run_table
from llm.run.log import newest_lines
from workbench import cli
from workbench.commands import runs
from workbench.commands.runs import latest_metrics


def step(number: int, loss: float) -> bytes:
    return to_line(
        StepLogged(
            step=number,
            tokens_seen=number,
            loss=loss,
            lr=1.0,
            lr_multiplier=1.0,
            grad_norm=1.0,
            step_ms=1.0,
            tokens_per_second=1.0,
            total_flops=1.0,
        )
    )


def evaluated(number: int, loss: float) -> bytes:
    return to_line(Evaluated(step=number, validation_loss=loss, perplexity=4.0, bits_per_byte=0.5, tokens=3))


def test_the_newest_of_each_metric(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", RunConfig())
    lines = [evaluated(10, 3.0), step(10, 2.5), evaluated(20, 2.0), *(step(n, 1 + 1 / n) for n in range(21, 200))]
    log = run.path / "events.jsonl"
    log.write_bytes(b"".join(lines) + b"damaged\n" + to_line(Finished(step=199, status="stopped")))
    expected = {"loss": 1 + 1 / 199, "validation_loss": 2.0, "perplexity": 4.0, "bits_per_byte": 0.5, "step": 199}
    assert latest_metrics(run) == expected
    assert run.status().name == "stopped"
    with log.open("ab") as file:
        file.write(to_line(RolledBack(step=100, from_step=199, reason="a spike")))
        file.write(step(101, 9.0))
    assert latest_metrics(run) == expected | {"step": 101, "loss": 9.0}
    assert run.status().name == "crashed"


def test_a_checkpoint_that_was_saved_later_does_not_turn_back_the_step(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", RunConfig())
    saved = to_line(Saved(step=20, path="checkpoints/step-00000020", size_bytes=1))
    foreign = evaluated(20, 2.0).replace(b'"type": "Evaluated", ', b"").replace(b"}", b', "type": "Evaluated"}')
    (run.path / "events.jsonl").write_bytes(foreign + step(30, 2.5) + step(31, 2.25) + saved)
    assert latest_metrics(run) == {
        "loss": 2.25, "validation_loss": 2.0, "perplexity": 4.0, "bits_per_byte": 0.5, "step": 31,
    }  # fmt: skip
    (run.path / "events.jsonl").write_bytes(foreign + saved)
    assert latest_metrics(run)["step"] == 20


@pytest.mark.parametrize("window", [1, 7, 8, 9, 15, 16, 17, 1000])
def test_the_newest_lines_are_those_of_the_window_last_one_first(tmp_path: Path, window: int) -> None:
    log = tmp_path / "log"
    for text in (b"", b"\n", b"cut", b"one\n", b"\n\none\n\ntwo\ncut", b"a first line\nthe last\n"):
        log.write_bytes(text)
        lines = text[-window:].split(b"\n")[:-1]
        assert list(newest_lines(log, window)) == lines[1 if window < len(text) else 0 :][::-1]


def test_the_run_table_is_read_alone_only_where_it_is_the_last(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", RunConfig(purpose="a text with\n[run]\nin it"), parent="b@3")
    text = (run.path / "run.toml").read_text()
    assert run_table(text).startswith("[run]\n") and len(run_table(text)) < len(text) / 2
    assert run.info() == tomllib.loads(text)["run"]
    (run.path / "run.toml").write_text("not TOML\n" + text)
    assert run.info() == tomllib.loads(text)["run"], "the rest is not parsed"
    (run.path / "run.toml").write_text(text)
    assert (run.info()["parent"], run.info()["format"]) == ("b@3", 1)
    moved = run_table(text) + "\n" + text.removesuffix(run_table(text))
    assert run_table(moved) == moved
    assert run_table("nothing of the kind") == "nothing of the kind"


def test_the_table_reads_no_manifest_of_a_run_with_a_log(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.create(home, "a", RunConfig())
    (run.path / "events.jsonl").write_bytes(step(7, 2.5))
    damaged = Run.create(home, "b", RunConfig())
    (damaged.path / "meta.json").write_text("[")
    monkeypatch.setattr(Run, "checkpoints", lambda run: pytest.fail("not needed"))
    assert cli.main(["runs", "--home", str(home)]) == 0
    rows = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert (rows["a"], rows["b"]) == ("crashed", "unreadable")


def test_reading_many_runs_shows_progress(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        Run.create(home, name, RunConfig())
    assert cli.main(["runs", "--json", "--home", str(home)]) == 0
    before = capsys.readouterr()
    assert before.err == ""
    monkeypatch.setattr(runs, "MANY_RUNS", 10)
    monkeypatch.setattr(runs, "list_runs", lambda home: [Run(home / "runs" / name) for name in "abc"] * 4)
    assert cli.main(["runs", "--json", "--home", str(home)]) == 0
    after = capsys.readouterr()
    assert len(json.loads(after.out)) == 12
    assert "Reading the runs …" in after.err
