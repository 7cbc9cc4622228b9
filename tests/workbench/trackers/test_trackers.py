"""Curves are read back from the trackers with their own readers, exactly, also after roll-backs and resumes."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from llm.events import Event, Finished, RolledBack, Saved, Skipped
from llm.run import Run
from tests.workbench.runs_for_tests import evaluated, make_run, started, step_logged
from workbench import cli
from workbench.runs.export import HEADINGS
from workbench.trackers.follower import Follower
from workbench.trackers.metrics import Row
from workbench.trackers.process import tracking
from workbench.trackers.tensorboard_tracker import TensorBoardTracker
from workbench.trackers.tracker import places

LOSSES = [2.0 + step * 0.1 + 1e-9 for step in range(1, 11)]


def append(run: Run, *events: Event) -> None:
    log = run.log()
    for event in events:
        log.append(event)
    log.close()


def saved(step: int) -> Saved:
    return Saved(step=step, path=f"checkpoints/step-{step:08d}", size_bytes=1)


def steps(first: int, last: int, offset: float = 0.0) -> list[Event]:
    return [step_logged(step, LOSSES[step - 1] + offset) for step in range(first, last + 1)]


def losses_in_tensorboard(folder: Path) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    events = reader.Scalars("loss")
    assert len({event.step for event in events}) == len(events)
    return {event.step: event.value for event in events}


def same(found: dict[int, float], expected: dict[int, float]) -> None:
    assert list(found) == list(expected)
    np.testing.assert_array_equal(list(found.values()), np.float32(list(expected.values())))


def test_tensorboard_reads_back_the_curve_after_roll_backs_and_resumes(home: Path) -> None:
    run = make_run(home, "a-run")
    follower = Follower(run, places(["tensorboard"], home, None), pytest.fail)
    folder = home / "exports" / "tensorboard" / "a-run"
    append(run, started(), *steps(1, 6, 100.0), saved(4), RolledBack(step=4, from_step=6, reason="spike"))
    follower.poll()
    append(run, *steps(5, 8, 200.0), Skipped(step=9, reason="NaN", loss=math.nan, grad_norm=math.inf))
    follower.poll()
    follower.close(with_unsaved=False)
    expected = {step: LOSSES[step - 1] + (100.0 if step < 5 else 200.0) for step in range(1, 9)} | {9: math.nan}
    same(losses_in_tensorboard(folder), expected)
    append(run, started(step=4), *steps(5, 10))  # killed, and resumed
    again = Follower(run, places(["tensorboard"], home, None), pytest.fail)
    again.poll()
    again.close(with_unsaved=False)
    same(
        losses_in_tensorboard(folder), {step: LOSSES[step - 1] + (100.0 if step < 5 else 0.0) for step in range(1, 11)}
    )


class Recorder:
    """A tracker that cannot take a step back."""

    can_rewind = False
    place = "nowhere"

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def log(self, row: Row) -> None:
        self.rows.append(row)

    def rewind(self, step: int) -> None:
        raise AssertionError("it cannot")

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_a_tracker_that_cannot_discard_steps_gets_final_steps_once(home: Path) -> None:
    run = make_run(home, "a-run")
    follower, recorder = Follower(run, {}, pytest.fail), Recorder()
    follower.trackers["recorder"] = recorder
    append(run, started(), *steps(1, 3))
    follower.poll()
    assert recorder.rows == []
    append(run, saved(3), evaluated(3, 1.5), *steps(4, 6, 100.0), RolledBack(step=3, from_step=6, reason="spike"))
    follower.poll()
    assert [row.step for row in recorder.rows] == [1, 2, 3, 3]
    append(run, *steps(4, 6), started(step=3), *steps(4, 8), saved(8), Finished(step=8, status="finished"))
    follower.poll()
    assert [row.metrics["loss"] for row in recorder.rows if "loss" in row.metrics] == LOSSES[:8]
    assert recorder.rows[3].metrics == {"validation_loss": 1.5, "perplexity": 2.7, "bits_per_byte": 0.75}


class Broken(Recorder):
    can_rewind = True

    def log(self, row: Row) -> None:
        raise OSError("no route to host")

    def rewind(self, step: int) -> None: ...


def test_a_tracker_that_fails_is_dropped(home: Path) -> None:
    run = make_run(home, "a-run", steps=3)
    said: list[str] = []
    follower, recorder = Follower(run, {}, said.append), Recorder()
    follower.trackers |= {"broken": Broken(), "recorder": recorder}
    follower.poll()
    follower.close(with_unsaved=True)
    assert said == ["warning: tracking in broken has stopped (no route to host); training is not affected."]
    assert [row.step for row in recorder.rows] == [1, 2, 3, 3]


def export(home: Path, names: str, **environment: str) -> str:
    """What `runs export` writes to stderr, in another process, so that the tests do not keep its modules."""
    words = ["--home", str(home), "runs", "export", "a-run", "--to", names]
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-m", "workbench", *words],
        check=True,
        env=os.environ | environment,
        cwd=root,
        capture_output=True,
        text=True,
    ).stderr


def test_trackio_holds_the_curve_once(home: Path) -> None:
    run = make_run(home, "a-run")
    append(run, started(), *steps(1, 4), Skipped(step=5, reason="NaN", loss=math.nan, grad_norm=1.0), evaluated(5, 1.5))
    shown = export(home, "trackio,csv").splitlines()
    assert [line.partition(": ")[0] for line in shown] == ["trackio", "csv"], "not the greeting of the package"
    append(run, *steps(6, 8), Finished(step=8, status="finished"))
    export(home, "trackio,csv")
    with sqlite3.connect(home / "exports" / "trackio" / "llm-workbench.db") as database:
        found = [
            (step, json.loads(metrics))
            for step, metrics in database.execute("select step, metrics from metrics order by id")
        ]
    losses = [(step, metrics["loss"]) for step, metrics in found if "loss" in metrics]
    assert losses == [
        *((step, LOSSES[step - 1]) for step in range(1, 5)),
        (5, "NaN"),
        *((step, LOSSES[step - 1]) for step in (6, 7, 8)),
    ]
    assert [metrics["validation_loss"] for _, metrics in found if "validation_loss" in metrics] == [1.5]
    lines = (home / "exports" / "csv" / "a-run.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4", "5", "6", "7", "8"]


def history_of(path: Path) -> list[dict[str, Any]]:
    """The history of an offline run of W&B, which has no reader for it: LevelDB's log format, of protobuf records."""
    from wandb.proto import wandb_internal_pb2

    data, at, records, partial = path.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0 or 32768 - at % 32768 < 7:  # the end of a block is padded
            at += 32768 - at % 32768
            continue
        partial += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(partial)
            records.append(record)
            partial = b""
    rows = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    return [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


@pytest.mark.slow
def test_wandb_holds_the_curve_once(home: Path) -> None:
    """Slow: W&B takes many seconds to begin without a network."""
    run = make_run(home, "a-run")
    append(run, started(), *steps(1, 4), Skipped(step=5, reason="NaN", loss=math.nan, grad_norm=1.0))
    export(home, "wandb", WANDB_MODE="offline")
    append(run, *steps(6, 8), Finished(step=8, status="finished"))
    export(home, "wandb", WANDB_MODE="offline")
    files = sorted((home / "exports" / "wandb").rglob("*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 2
    rows = [row for path in files for row in history_of(path) if "loss" in row]
    assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["loss"] for row in rows if row["_step"] != 5] == [*LOSSES[:4], *LOSSES[5:8]]
    assert math.isnan(float(rows[4]["loss"]))


def test_train_tracks_what_it_logs(tiny_preset: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--home", str(home), "train", str(tiny_preset), "--train.steps", "12", "--track", "tensorboard,csv"]
    assert cli.main(words) == 0
    run = Run.open(home, "tiny-1")
    logged = {event.step: event.loss for event in run.events() if hasattr(event, "lr_multiplier")}  # type: ignore[attr-defined]
    same(losses_in_tensorboard(home / "exports" / "tensorboard" / "tiny-1"), logged)
    lines = (home / "exports" / "csv" / "tiny-1.csv").read_text().splitlines()
    assert len(lines) == 1 + 13  # a heading, and steps 0 to 12
    capsys.readouterr()
    assert cli.main([*words[:-1], "tensorbord"]) == 2
    assert "did you mean tensorboard?" in capsys.readouterr().err
    assert not (home / "runs" / "tiny-2").exists()


def test_the_process_of_the_trackers_gives_way_to_the_trainer(home: Path) -> None:
    """From its first import on, and in the same session, since Linux weighs niceness within a session only."""
    run, before = make_run(home, "a-run"), {child.pid for child in psutil.Process().children()}
    with tracking(run, home, ["csv"], pytest.fail):
        (process,) = (child for child in psutil.Process().children() if child.pid not in before)
        assert process.nice() == 19
        assert os.getsid(process.pid) == os.getsid(0)
        assert os.getpgid(process.pid) == process.pid, "ctrl+c is for the trainer"


def test_writing_csv_does_not_import_pandas() -> None:
    """pyarrow 26.0.1 imports it for any numpy array: half a second."""
    code = (
        "import sys, numpy as np\n"
        "from workbench.runs.export import HEADINGS, rows_text\n"
        "sys.stdout.write(rows_text({name: np.array([1.0, np.nan]) for name in HEADINGS}))\n"
        "sys.exit('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [",".join(["1"] * len(HEADINGS)), "," * (len(HEADINGS) - 1)]


def test_a_reader_of_an_older_file_starts_again(home: Path) -> None:
    """A TensorBoard that is open while a run is exported again shows each step once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(home, "a-run")
    out = home / "out"
    first = TensorBoardTracker(run, out)
    first.log(Row(1, 1.0, {"loss": 5.0}))
    first.close()
    reader = EventAccumulator(str(out / "a-run"), size_guidance={"scalars": 0})
    reader.Reload()
    second = TensorBoardTracker(run, out)
    second.log(Row(1, 1.0, {"loss": 6.0}))
    second.close()
    reader.Reload()
    assert [event.value for event in reader.Scalars("loss")] == [6.0]
    TensorBoardTracker(run, out).close()
    assert len(list((out / "a-run").iterdir())) == 2
