"""Summaries of runs: true, also for logs whose beginning is far back, and cheap when nothing changed."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from llm.errors import UserError, WrongUse
from llm.events import Finished, Paused, Resumed, Sampled
from llm.run import Run, RunBusy
from tests.workbench.runs_for_tests import evaluated, make_run, save_fake, started, step_logged
from workbench.runs import catalog as service
from workbench.runs.catalog import LogDigest, RunCatalog, has_curves, status_of
from workbench.runs.listing import select_runs
from workbench.runs.operations import delete_checkpoint, describe_deletion, pin, rename, verify_checkpoint
from workbench.runs.summaries import RunSummary
from workbench.runs.trash import move_to_trash


def test_a_summary_says_how_a_run_stands(tmp_path):
    make_run(tmp_path, "done-1", steps=7, loss=1.5)
    make_run(tmp_path, "broken-1", steps=3, end="")
    make_run(tmp_path, "fresh-1")
    rows = {row.name: row for row in RunCatalog(tmp_path).refresh()}
    done = rows["done-1"]
    assert (done.status, done.step, done.total_steps) == ("finished", 7, 500)
    assert (done.loss, done.validation_loss, done.bits_per_byte) == (1.5, 1.6, 0.8)
    assert done.parameters == 123_456 and done.corpus == "stories" and done.size_bytes > 1000
    assert rows["broken-1"].status == "crashed"
    assert rows["fresh-1"].status == "new" and rows["fresh-1"].loss is None


def test_who_trains_it(tmp_path):
    run = make_run(tmp_path, "busy-1", steps=2, end="")
    with run.lock():
        assert RunCatalog(tmp_path).refresh()[0].status == "running here"
        log = run.log()
        log.append(Paused(step=2))
        paused = RunCatalog(tmp_path).refresh()[0]
        assert paused.status == "paused here" and paused.is_running
        log.append(Resumed(step=2))
        log.close()
        assert RunCatalog(tmp_path).refresh()[0].status == "running here"
    (run.path / "events.jsonl").unlink()
    assert status_of(run.holder(), None) == "new"


def test_what_is_appended_is_seen_and_what_is_unchanged_is_not_read_again(tmp_path, monkeypatch):
    run = make_run(tmp_path, "a-1", steps=5)
    catalog = RunCatalog(tmp_path)
    assert catalog.refresh()[0].step == 5

    def never(*_arguments):
        raise AssertionError("read again although nothing changed")

    monkeypatch.setattr(service, "directory_size", never)
    monkeypatch.setattr(Run, "config", never)
    assert catalog.refresh()[0].step == 5
    monkeypatch.setattr(service, "directory_size", lambda path: 77)
    log = run.log()
    log.append(started(step=5, total_steps=900))
    log.append(step_logged(6, 0.25))
    log.close()
    row = catalog.refresh()[0]
    assert (row.step, row.total_steps, row.loss, row.status, row.size_bytes) == (6, 900, 0.25, "crashed", 77)


def test_the_beginning_of_a_long_log_is_found_from_its_end(tmp_path):
    run = make_run(tmp_path, "long-1")
    log = run.log()
    log.append(started(total_steps=111))
    log.append(step_logged(1, 9.0))
    log.append(started(step=1, total_steps=222))
    log.append(evaluated(1, 8.0))
    log.append(step_logged(2, 7.0))
    for _ in range(400):
        log.append(Sampled(step=2, prompt='{"type": "Started", "step": 5}\n', text="x" * 400))
    log.close()
    assert (run.path / "events.jsonl").stat().st_size > 150_000
    digest = LogDigest.from_log(run.path / "events.jsonl")
    assert digest.started is not None and digest.started.total_steps == 222
    assert digest.evaluated is not None and digest.evaluated.validation_loss == 8.0
    assert digest.step is not None and digest.step.loss == 7.0


def test_a_torn_tail_and_a_damaged_configuration(tmp_path):
    run = make_run(tmp_path, "torn-1", steps=4, end="")
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"type": "StepLogged", "st')
    broken = make_run(tmp_path, "bad-1", steps=1)
    (broken.path / "run.toml").write_text("[[[")
    rows = {row.name: row for row in RunCatalog(tmp_path).refresh()}
    assert rows["torn-1"].step == 4
    assert rows["bad-1"].status == "unreadable" and "run.toml" in rows["bad-1"].reason


@pytest.mark.parametrize("damage", [b"\0", b"["], ids=["NUL", "deep"])
def test_a_status_is_found_before_a_long_damaged_tail(tmp_path, damage):
    run = make_run(tmp_path, "a-1", steps=30)
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(damage * (1 << 17))
    (summary,) = RunCatalog(tmp_path).refresh()
    assert (run.status().name, summary.status, summary.step) == ("finished", "finished", 30)


META = ('{"tags": null}', '{"tags": [1]}', '{"pins": null}', '{"pins": [[]]}', '{"notes": 5}', "[1, 2]", "[" * 99_999)
HEADER = ('created = "yesterday"', "id = 5", "format = true_or_false", 'format = "new"', "parent = []", "")


@pytest.mark.parametrize("text", META, ids=range(len(META)))
def test_a_damaged_meta_file_makes_one_unreadable_row(tmp_path, text):
    make_run(tmp_path, "good-1", steps=4)
    bad = make_run(tmp_path, "bad-1", steps=1)
    (bad.path / "meta.json").write_text(text)
    rows = {row.name: row for row in RunCatalog(tmp_path).refresh()}
    assert rows["good-1"].step == 4
    assert rows["bad-1"].status == "unreadable" and "meta.json" in rows["bad-1"].reason
    with pytest.raises(UserError, match=r"meta\.json .*; "):
        bad.meta()


@pytest.mark.parametrize("line", HEADER)
def test_a_damaged_header_makes_one_unreadable_row(tmp_path, line):
    make_run(tmp_path, "good-1", steps=4)
    bad = make_run(tmp_path, "bad-1", steps=1)
    table = (bad.path / "run.toml").read_text().partition("[run]")[0]
    (bad.path / "run.toml").write_text(f"{table}[run]\n{line}\n" if line else f"run = 5\n{table}")
    rows = {row.name: row for row in RunCatalog(tmp_path).refresh()}
    assert rows["good-1"].step == 4
    assert rows["bad-1"].status == "unreadable" and "run.toml" in rows["bad-1"].reason
    with pytest.raises(UserError, match=r"run\.toml .*; restore it"):
        bad.info()


def test_folders_in_the_wrong_place_and_links_that_lead_nowhere(tmp_path):
    make_run(tmp_path, "good-1", steps=4)
    bad = make_run(tmp_path, "bad-1")
    (bad.path / "events.jsonl").mkdir()
    (bad.path / "events.jsonl" / "x").touch()
    (tmp_path / "runs" / "loop").symlink_to("loop")
    (tmp_path / "runs" / "note.txt").touch()
    rows = {row.name: row for row in RunCatalog(tmp_path).refresh()}
    assert sorted(rows) == ["bad-1", "good-1"]
    assert rows["bad-1"].status == "unreadable" and "events.jsonl" in rows["bad-1"].reason
    assert not has_curves(bad)


def test_a_run_that_may_not_be_entered(tmp_path, monkeypatch):
    make_run(tmp_path, "good-1", steps=4)
    closed = make_run(tmp_path, "closed-1", steps=1)
    stat, read_text = os.stat, Path.read_text

    def guarded(path, *arguments, **options):
        if str(path).startswith(f"{closed.path}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    def guarded_text(path, *arguments, **options):
        guarded(path)
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", guarded)
    monkeypatch.setattr(Path, "read_text", guarded_text)
    rows = {row.name: row for row in RunCatalog(tmp_path).refresh()}
    assert rows["good-1"].step == 4
    assert rows["closed-1"].status == "unreadable" and "Permission denied" in rows["closed-1"].reason


def test_a_deleted_run_disappears(tmp_path):
    run = make_run(tmp_path, "gone-1", steps=1)
    catalog = RunCatalog(tmp_path)
    assert len(catalog.refresh()) == 1
    move_to_trash(tmp_path, run)
    assert catalog.refresh() == [] and not run.path.exists()


def test_no_home_yet(tmp_path):
    assert RunCatalog(tmp_path / "nothing").refresh() == []


def rows_named(*rows):
    return [RunSummary(tmp, None, status, **more) for tmp, status, more in rows]


def test_filter_and_order():
    rows = rows_named(
        ("b", "finished", {"loss": 2.0, "touched": 5.0, "tags": ("Keep",)}),
        ("a", "running here", {"loss": None, "touched": 9.0, "corpus": "stories"}),
        ("c", "crashed", {"loss": 1.0, "touched": 1.0, "notes": "keep an eye"}),
        ("d", "finished", {"loss": math.nan, "touched": 2.0}),
    )
    assert [row.name for row in select_runs(rows)] == ["a", "b", "d", "c"]
    assert [row.name for row in select_runs(rows, sort="loss")][:2] == ["c", "b"]
    assert [row.name for row in select_runs(rows, sort="loss", reverse=True)][:2] == ["b", "c"]
    assert [row.name for row in select_runs(rows, "KEEP")] == ["b", "c"]
    assert [row.name for row in select_runs(rows, "keep crash")] == ["c"]
    assert select_runs(rows, sort="status")[0].name == "a"


def test_pin_rename_delete(tmp_path):
    run = make_run(tmp_path, "x-1", steps=3)
    info = save_fake(run, 3, 1.0)
    assert pin(run, 3) and run.checkpoints()[0].pinned
    assert not pin(run, 3) and not run.checkpoints()[0].pinned
    pin(run, 3)
    delete_checkpoint(run, info)
    assert run.checkpoints() == [] and run.meta()["pins"] == []
    make_run(tmp_path, "taken")
    with pytest.raises(WrongUse, match="exists already"):
        rename(run, "taken")
    with pytest.raises(UserError):
        rename(run, "../up")
    moved = rename(run, "better-name")
    assert moved.name == "better-name" and (moved.path / "run.toml").exists()


def test_a_run_in_training_is_neither_renamed_nor_deleted(tmp_path):
    run = make_run(tmp_path, "x-1", steps=3)
    info = save_fake(run, 3, 1.0)
    pin(run, 3)
    with run.lock():
        with pytest.raises(RunBusy):
            delete_checkpoint(run, info)
        with pytest.raises(RunBusy):
            move_to_trash(tmp_path, run)
        with pytest.raises(RunBusy):
            rename(run, "y")
    assert (run.path / "run.toml").exists()
    assert [kept.pinned for kept in run.checkpoints()] == [True]


def test_verification_names_what_is_damaged(tmp_path):
    run = make_run(tmp_path, "x-1", steps=3)
    info = save_fake(run, 3, 1.0)
    assert verify_checkpoint(info) == ""
    (info.path / "weights.bin").write_bytes(b"\0" * 2560)
    assert "weights.bin" in verify_checkpoint(info)


def test_what_is_lost_is_reported_plainly(tmp_path):
    run = make_run(tmp_path, "x-1", steps=3)
    infos = [save_fake(run, step, 1.0) for step in (1, 2, 3)]
    summary = RunSummary("x-1", run.path, "finished", step=1234, notes="mine", size_bytes=5_000_000)
    assert describe_deletion(summary, infos) == (
        "Delete x-1 (5 MB)? This moves all 3 checkpoints (step 1, 2, 3), the record of 1,234 steps and your notes "
        "to the trash. It can be restored until the trash is emptied."
    )


def test_a_finish_has_a_reason(tmp_path):
    run = make_run(tmp_path, "x-1", steps=2, end="")
    log = run.log()
    log.append(Finished(step=2, status="failed", reason="the loss was not finite 5 times"))
    log.close()
    row = RunCatalog(tmp_path).refresh()[0]
    assert (row.status, row.reason) == ("failed", "the loss was not finite 5 times")


def test_what_was_known_is_kept_for_the_next_time(tmp_path, monkeypatch):
    make_run(tmp_path, "a-1", steps=5, loss=math.nan)
    make_run(tmp_path, "b-1", steps=3).update_meta(tags=["x"], notes="é")
    busy = make_run(tmp_path, "c-1", steps=3, end="")
    with busy.lock():
        first = {row.name: row for row in RunCatalog(tmp_path).refresh()}
    assert first["c-1"].status == "running here"
    reads = []
    config = Run.config
    monkeypatch.setattr(Run, "config", lambda run: reads.append(run.name) or config(run))
    catalog = RunCatalog(tmp_path)
    again = {row.name: row for row in catalog.refresh()}
    assert reads == ["c-1"], "only the one that was in training is read again"
    assert again["b-1"].tags == ("x",) and math.isnan(again["a-1"].loss) and again["c-1"].status == "crashed"
    assert [row is other for row, other in zip(catalog.refresh(), catalog.refresh(), strict=True)] == [True] * 3
    log = Run(tmp_path / "runs" / "b-1").log()
    log.append(step_logged(4, 0.5))
    log.close()
    assert {row.name: row.step for row in catalog.refresh()}["b-1"] == 4
    (tmp_path / "cache" / "runs.json").write_text('{"format": 1, "runs": 7')
    assert len(RunCatalog(tmp_path).refresh()) == 3


def test_reading_a_checkpoint_tells_how_far_it_is(tmp_path):
    info = save_fake(make_run(tmp_path, "a-1", steps=5), 5, 1.0)
    counts = []
    assert verify_checkpoint(info, counts.append) == ""
    assert sum(counts) == info.size_bytes == 2560
