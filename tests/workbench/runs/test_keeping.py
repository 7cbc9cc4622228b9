"""The trash, the tree of forks, exported curves, and data that no run uses."""

from __future__ import annotations

import csv
import io
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from llm.errors import WrongUse
from llm.events import Finished
from llm.files import write_json
from llm.run import Run, RunBusy
from tests.workbench.runs_for_tests import evaluated, make_run, save_fake, started, step_logged
from workbench.data.prepared_data import clean, list_prepared, unused
from workbench.runs import trash
from workbench.runs.export import rows_text, write_csv
from workbench.runs.lineage import as_tree
from workbench.runs.summaries import RunSummary


def test_deleted_runs_can_be_brought_back_until_the_trash_is_emptied(tmp_path):
    run = make_run(tmp_path, "a-1", steps=5)
    save_fake(run, 5, 1.0)
    trash.move_to_trash(tmp_path, run)
    assert not run.path.exists()
    (item,) = trash.list_trash(tmp_path)
    assert item.name == "a-1" and item.size_bytes > 2560
    assert trash.restore(tmp_path, item).name == "a-1" and len(run.checkpoints()) == 1
    trash.move_to_trash(tmp_path, run)
    make_run(tmp_path, "a-1", steps=1)
    back = trash.restore(tmp_path, trash.find_trashed(tmp_path, "a-1"))
    assert back.name == "a-1-restored-1" and len(back.checkpoints()) == 1
    trash.move_to_trash(tmp_path, back)
    items = trash.list_trash(tmp_path)
    assert "permanently deletes 1 run with all checkpoints: a-1-restored-1" in trash.describe_emptying(items)
    assert trash.empty(items) == items[0].size_bytes
    assert trash.list_trash(tmp_path) == []
    with pytest.raises(WrongUse, match="no run named a-9"):
        trash.find_trashed(tmp_path, "a-9")


def test_a_run_in_training_is_not_thrown_away(tmp_path):
    run = make_run(tmp_path, "a-1", steps=5)
    with run.lock(), pytest.raises(RunBusy):
        trash.move_to_trash(tmp_path, run)
    assert run.path.exists() and trash.list_trash(tmp_path) == []


def row(name, parent="", **more):
    return RunSummary(name, None, "finished", parent=parent, **more)


def test_forks_stand_below_their_parents():
    rows = [row("b", "a@5"), row("d", "b@9"), row("lost", "gone@1"), row("c", "a@7"), row("a")]
    assert [(item.name, branch) for item, branch in as_tree(rows)] == [
        ("lost", ""),
        ("a", ""),
        ("b", "├ "),
        ("d", "│ └ "),
        ("c", "└ "),
    ]


def test_a_renamed_parent_is_found_by_its_id_and_a_circle_hides_nothing():
    rows = [row("renamed", id="17"), row("child", "old@5", parent_id="17")]
    assert [branch for _, branch in as_tree(rows)] == ["", "└ "]
    circle = [row("x", "y@1"), row("y", "x@1"), row("self", "self@2")]
    assert sorted(item.name for item, _ in as_tree(circle)) == ["self", "x", "y"]
    chain = [row(f"r{n}", f"r{n - 1}@1" if n else "") for n in range(5000)]
    assert len(as_tree(chain)) == 5000


def test_curves_as_csv_without_what_was_voided(tmp_path):
    run = make_run(tmp_path, "a-1", steps=4, loss=2.0, end="")
    log = run.log()
    log.append(started(step=2))
    log.append(replace(step_logged(3, 1.25), loss=float("nan"), mfu=None))
    log.append(evaluated(3, 1.5))
    log.append(Finished(step=3, status="stopped"))
    log.close()
    file = io.StringIO()
    assert write_csv(run, file) == 3
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [(r["step"], r["loss"], r["validation_loss"]) for r in rows] == [
        ("1", "2.03", ""),
        ("2", "2.02", ""),
        ("3", "", "1.5"),
    ]
    assert rows[0]["tokens_seen"] == "2048" and rows[0]["mfu"] == "" and float(rows[0]["lr"]) == 1e-3


@pytest.mark.parametrize(
    "value", [0.1, 5e-324, 1.7976931348623157e308, 123456789.123456789, 1e16, -0.0, -1e-5, math.inf]
)
def test_numbers_of_the_csv_read_back_exactly(value):
    text, none, whole = rows_text({"loss": np.array([value, math.nan, 2.0])}).splitlines()
    assert (repr(float(text)), none, float(whole)) == (repr(value), "", 2.0)


def test_counts_of_the_csv_are_integers_while_they_are_exact():
    counts = np.array([2048.0, math.nan, 2.0**52])
    assert rows_text({"step": np.arange(3.0), "tokens_seen": counts}) == f"0,2048\n1,\n2,{2**52}\n"
    assert rows_text({"tokens_seen": np.array([math.inf, 1.0])}) == "inf\n1\n"


def cached(home, name):
    folder = home / "data" / name
    folder.mkdir(parents=True)
    (folder / "train.bin").write_bytes(bytes(1000))
    write_json(folder / "dataset.json", {"corpus": "stories"})
    return folder


def uses(run, fingerprint):
    info = save_fake(run, 4, 1.0)
    write_json(info.path / "state.json", {"data_fingerprint": fingerprint})


def test_only_data_that_no_run_uses_are_taken_away(tmp_path):
    kept, in_trash, idle = (cached(tmp_path, name) for name in ("aa", "bb", "cc"))
    (tmp_path / "data" / ".tmp-1-x").mkdir()
    uses(make_run(tmp_path, "a-1", steps=4), "aa")
    thrown = make_run(tmp_path, "b-1", steps=4)
    uses(thrown, "bb")
    trash.move_to_trash(tmp_path, thrown)
    found = {data.fingerprint: data for data in list_prepared(tmp_path)}
    assert found["aa"].used_by == ("a-1",) and found["bb"].used_by[0].startswith("b-1@")
    doomed = unused(list(found.values()))
    assert [data.fingerprint for data in doomed] == ["cc"]
    assert clean(doomed) == doomed[0].size_bytes > 1000
    assert kept.exists() and in_trash.exists() and not idle.exists()


def test_a_run_without_a_checkpoint_keeps_its_data(trained_run, home):
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    run = Run.open(home, "tiny-1")
    (by_checkpoint,) = list_prepared(home)
    assert by_checkpoint.used_by == ("tiny-1",)
    shutil.rmtree(run.checkpoint_directory)
    assert list_prepared(home)[0].used_by == ("tiny-1",), "it may be training towards its first save"
    shutil.rmtree(run.path)
    assert unused(list_prepared(home))[0].fingerprint == by_checkpoint.fingerprint
