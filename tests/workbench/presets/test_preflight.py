"""Preflights, and the measured speeds that estimates use."""

from __future__ import annotations

import json
import os
import platform
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llm.config import from_mapping
from llm.events import Progress
from tests.conftest import tiny_config
from tests.workbench.scripted import scripted_run
from workbench.presets.estimate import estimate
from workbench.presets.preflight import (
    Measurement,
    PreflightJob,
    expected_speed,
    machine_name,
    measure_recent_runs,
    measurements,
    save_measurements,
    work_key,
)
from workbench.presets.summary import memory_text, speed_text


class Reports:
    """What a job reports."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.result: Measurement | None = None
        self.problem = ""
        self.ended = threading.Event()

    def end(self, result: Measurement | None, problem: str) -> None:
        self.result, self.problem = result, problem
        self.ended.set()


def make_measurement(name: str, key: str, machine: str = "", flops: float = 1e9) -> Measurement:
    return Measurement(machine or machine_name(), key, name, "cpu", "fp32", 1, 0.1, 100.0, flops, 10, 20)


@pytest.mark.slow  # by default the one in test_preflight_keys.py, whose result is the same
def test_a_preflight_measures_real_steps_in_a_separate_process(home: Path, corpus: Path) -> None:
    reports, config = Reports(), tiny_config(corpus)
    PreflightJob(config, "tiny", home, reports.progress.append, reports.end)
    assert reports.ended.wait(120), "it did not end"
    assert reports.problem == ""
    found = reports.result
    assert found is not None
    assert (found.name, found.device, found.precision, found.threads) == ("tiny", "cpu", "fp32", 1)
    tokens = 4 * 32
    assert abs(found.tokens_per_second * found.step_seconds - tokens) < 1e-6
    assert found.peak_bytes > found.training_bytes > 0
    assert reports.progress[-1].stage == "Measuring steps"
    assert not (home / "runs").exists() or not any((home / "runs").iterdir())


def test_a_preflight_can_be_canceled_at_once(home: Path, corpus: Path) -> None:
    reports = Reports()
    job = PreflightJob(tiny_config(corpus), "tiny", home, reports.progress.append, reports.end)
    job.cancel()
    assert reports.ended.wait(120), "it did not end"
    assert (reports.result, reports.problem) == (None, "canceled")


def test_a_missing_corpus_is_reported(home: Path, corpus: Path) -> None:
    config = tiny_config(corpus)
    config = replace(config, data=replace(config.data, corpus=str(home / "nothing.txt")))
    reports = Reports()
    PreflightJob(config, "tiny", home, reports.progress.append, reports.end)
    assert reports.ended.wait(120), "it did not end"
    assert "nothing.txt" in reports.problem
    assert reports.result is None


def test_measurements_are_saved_per_machine_and_replaced(home: Path, corpus: Path) -> None:
    config = tiny_config(corpus)
    assert expected_speed(home, config) is None
    save_measurements(home, make_measurement("elsewhere", work_key(config), machine="another machine", flops=9e9))
    assert expected_speed(home, config) is None
    save_measurements(home, make_measurement("other", "0" * 16, flops=2e9))
    speed = expected_speed(home, config)
    assert speed is not None
    assert (speed.flops_per_second, speed.name, speed.exact) == (2e9, "other", False)
    for flops in (3e9, 4e9):
        save_measurements(home, make_measurement("tiny", work_key(config), flops=flops))
    speed = expected_speed(home, replace(config, train=replace(config.train, steps=9999)))
    assert speed is not None
    assert (speed.flops_per_second, speed.exact) == (4e9, True)
    assert len(measurements(home)) == 3


def test_short_steps_do_not_predict_long_ones(home: Path) -> None:
    """Steps of two milliseconds are mostly overhead: their FLOP/s would predict days for a preset with more work."""
    small = from_mapping({"model": {"n_layer": 1, "d_model": 32, "n_head": 2, "context": 32}})
    large = from_mapping({"model": {"n_layer": 6, "d_model": 384, "n_head": 6, "context": 256}})
    step_flops = estimate(small).batch_plan.flops_per_token * estimate(small).batch_plan.tokens_per_step
    tiny = replace(make_measurement("tiny", "0" * 16, flops=step_flops / 0.002), step_seconds=0.002)
    save_measurements(home, tiny)
    speed = expected_speed(home, small)
    assert speed is not None and (speed.name, speed.exact) == ("tiny", False), "its work is the same"
    assert expected_speed(home, large) is None
    save_measurements(home, make_measurement("long", "1" * 16, flops=2e9))
    speed = expected_speed(home, large)
    assert speed is not None and speed.name == "long"


def test_the_log_of_a_run_on_this_machine_gives_its_speed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = from_mapping({"train": {"steps": 600}})
    for name, steps in (("few-1", 4), ("brief-1", 50)):
        scripted_run(home, name, steps, config=from_mapping({"model": {"n_layer": steps}}))
    scripted_run(home, "there-1", 100, config=config)
    measure_recent_runs(home)
    assert measurements(home) == [], "the run trained on the host `here`, another machine"
    monkeypatch.setattr(platform, "node", lambda: "here")
    (home / "runs" / "broken-1").mkdir()
    (home / "runs" / "broken-1" / "run.toml").write_text("[[[", encoding="utf-8")
    measure_recent_runs(home)
    speed = expected_speed(home, replace(config, train=replace(config.train, steps=9)))
    assert speed is not None and (speed.name, speed.exact) == ("there-1", True)
    assert abs(speed.measured.tokens_per_second - 40_960) < 900
    assert abs(speed.flops_per_second / speed.measured.tokens_per_second - 1e10 / 2048) < 1
    assert "measured" in speed_text(estimate(config), speed)
    assert "measured" not in memory_text(estimate(config), speed), "its memory is not known"
    measure_recent_runs(home)
    assert [one.name for one in measurements(home)] == ["there-1"], (
        "four steps are too few, 2.5 s are too short, and each run is measured once"
    )


def test_damaged_files_of_measurements_are_ignored(home: Path) -> None:
    for text in ("", "{", "[]", '{"format": 1, "measured": [{"name": 3}]}', '{"format": 99, "measured": []}'):
        (home / "measured.json").write_text(text, encoding="utf-8")
        assert measurements(home) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens_per_second", "fast"),
        ("tokens_per_second", 0),
        ("flops_per_second", None),
        ("flops_per_second", -1.0),
        ("step_seconds", float("inf")),
        ("peak_bytes", "much"),
        ("threads", 10**40),
        ("name", 7),
        ("time", "noon"),
    ],
)
def test_invalid_entries_are_skipped(home: Path, field: str, value: object) -> None:
    config = from_mapping({})
    sound = make_measurement("sound", "0" * 16, flops=2e9)
    wrong = asdict(make_measurement("wrong", work_key(config))) | {field: value}
    record = {"format": 1, "measured": [asdict(sound), wrong, 5, None]}
    (home / "measured.json").write_text(json.dumps(record), encoding="utf-8")
    assert measurements(home) == [sound]
    speed = expected_speed(home, config)
    assert speed is not None and speed.name == "sound"


def test_a_failed_write_is_ignored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_run(home, "there-1", 100)
    monkeypatch.setattr(platform, "node", lambda: "here")
    (home / "measured.json").mkdir()  # nothing can take its place
    measure_recent_runs(home)
    save_measurements(home, make_measurement("tiny", "0" * 16))
    assert measurements(home) == []


def test_other_work_uses_the_newest_measurement(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "here")
    for age, layers in enumerate((3, 2, 1, 3)):
        run = scripted_run(home, f"layers-{age}", 100 + age, config=from_mapping({"model": {"n_layer": layers}}))
        os.utime(run.path, (1000.0 - age, 1000.0 - age))  # the first one is the newest
        log = run.path / "events.jsonl"
        records = [json.loads(line) | {"time": 1000.0 - age} for line in log.read_text(encoding="utf-8").splitlines()]
        log.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    measure_recent_runs(home)
    assert [one.name for one in measurements(home)] == ["layers-2", "layers-1", "layers-0"]
    speed = expected_speed(home, from_mapping({"model": {"n_layer": 9}}))
    assert speed is not None and (speed.name, speed.exact) == ("layers-0", False)
    save_measurements(home, replace(make_measurement("later", "0" * 16), time=2000.0))
    save_measurements(home, replace(make_measurement("earlier", "1" * 16), time=500.0))
    speed = expected_speed(home, from_mapping({"model": {"n_layer": 9}}))
    assert speed is not None and speed.name == "later"
