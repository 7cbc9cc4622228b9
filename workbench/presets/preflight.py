"""Preflights in a separate process, and the measured speeds that later estimates use."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llm.config import RunConfig, to_mapping, to_toml
from llm.config.check import LENGTHS
from llm.config.fit import expected_vocab_size
from llm.errors import ConfigError, UserError
from llm.events import Progress, StepLogged, from_record
from llm.files import read_json, write_json
from llm.limits import usable_cores
from llm.run import Run, list_runs
from llm.run.log import last_events
from llm.training.batch_plan import resolve_batch_plan
from workbench.presets.estimate import expected_tokens
from workbench.runs.catalog import LogDigest

FORMAT = 1
MAX_MEASUREMENTS = 200  # the newest are kept
RECENT_RUNS = 10  # whose logs are measured
SKIPPED_STEPS, MIN_STEPS, MIN_SECONDS = 3, 8, 3.0  # of a run: not measured at its start; enough for a measurement
LONG_STEP_SECONDS, SIMILAR_WORK = 0.05, 0.25  # see `Measurement.predicts`
PLAUSIBLE = (1e-12, 1e30)  # lower and upper limit of any measured value, in its unit
NO_WORK = (*LENGTHS, "lr", "lr_multiplier", "seed", "log_every")
"""Fields of `train` that do not change the work of a step."""


@dataclass(frozen=True)
class Measurement:
    """Speed and memory of a training step on one machine, from a preflight or from the log of a run: the fields of
    `llm.training.preflight.Preflight` that do not depend on the length of a run. `time` is in Unix seconds. Bytes are 0
    if unknown, as in logs."""

    machine: str
    key: str
    name: str
    device: str
    precision: str
    threads: int
    step_seconds: float
    tokens_per_second: float
    flops_per_second: float
    training_bytes: int
    peak_bytes: int
    time: float = 0.0

    def predicts(self, step_flops: float) -> bool:
        """Whether the FLOP/s hold for other work of `step_flops` per step. Short steps are mostly overhead, so their
        FLOP/s say nothing about steps with more work."""
        own_flops = self.step_seconds * self.flops_per_second
        return self.step_seconds >= LONG_STEP_SECONDS or own_flops >= SIMILAR_WORK * step_flops

    @property
    def is_sound(self) -> bool:
        """Whether the values have the right types and plausible sizes: the file may have been edited."""
        words = (self.machine, self.key, self.name, self.device, self.precision)
        counts = (self.threads, self.training_bytes, self.peak_bytes)
        rates = (self.step_seconds, self.tokens_per_second, self.flops_per_second)
        return (
            all(isinstance(word, str) for word in words)
            and all(isinstance(count, int) and 0 <= count < PLAUSIBLE[1] for count in counts)
            and all(isinstance(rate, int | float) and PLAUSIBLE[0] < rate < PLAUSIBLE[1] for rate in rates)
            and isinstance(self.time, int | float)
        )


class PreflightJob:
    """Runs `python -m llm.training.preflight` and reads its output. Calls `on_progress(progress)` and
    `on_end(result, problem)` in a thread; `problem` is "" after success and "canceled" after `cancel`."""

    def __init__(
        self,
        config: RunConfig,
        name: str,
        home: Path,
        on_progress: Callable[[Progress], object],
        on_end: Callable[[Measurement | None, str], object],
    ) -> None:
        self.config = config
        self.name = name
        self.home = home
        self.canceled = False
        self._on_progress = on_progress
        self._on_end = on_end
        self._folder = tempfile.TemporaryDirectory(prefix="llm-workbench-preflight-")
        path = Path(self._folder.name) / "config.toml"
        path.write_text(to_toml(config), encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llm.training.preflight", str(path), "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._errors = b""
        threading.Thread(target=self._drain_errors, name="preflight errors", daemon=True).start()
        threading.Thread(target=self._follow, name=f"preflight {name}", daemon=True).start()

    def cancel(self) -> None:
        """Kill the process."""
        self.canceled = True
        self._process.kill()

    def _drain_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors = self._process.stderr.read()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        found: Measurement | None = None
        problem = ""
        for line in self._process.stdout:
            record = json.loads(line)
            if record.get("type") == "Preflight":
                found = measurement(record, self.config, self.name)
            elif record.get("type") == "Problem":
                problem = str(record["message"])
            elif isinstance(event := from_record(record), Progress):
                self._on_progress(event)
        status = self._process.wait()
        self._folder.cleanup()
        if self.canceled:
            found, problem = None, "canceled"
        elif found is None and not problem:
            last = self._errors.decode(errors="replace").strip().splitlines()[-1:]
            reason = (
                "it was killed, perhaps because memory ran out" if status < 0 else "".join(last) or f"status {status}"
            )
            problem = f"the preflight failed: {reason}."
        self._on_end(found, problem)


def machine_name() -> str:
    """The name of this machine with its number of cores: several machines may share a home directory."""
    return f"{platform.node()} {platform.machine()} {usable_cores()} cores"


def work_key(config: RunConfig) -> str:
    """A hash of the fields that determine the work of a step."""
    mapping = to_mapping(config)
    train = {name: value for name, value in mapping.get("train", {}).items() if name not in NO_WORK}
    work = [train, *(mapping.get(name) for name in ("model", "tokenizer", "optim"))]
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:16]


def measurement(record: dict[str, Any], config: RunConfig, name: str) -> Measurement:
    own: dict[str, Any] = {"machine": machine_name(), "key": work_key(config), "name": name, "time": time.time()}
    values = record | own
    return Measurement(**{field.name: values[field.name] for field in fields(Measurement)})


def save_measurements(home: Path, *measured: Measurement) -> None:
    """Add measurements to `<home>/measured.json`. Each replaces the one of the same work and machine. Ignores a failed
    write."""
    replaced = {(one.machine, one.key) for one in measured}
    others = [one for one in measurements(home) if (one.machine, one.key) not in replaced]
    kept = sorted([*others, *measured], key=lambda one: one.time)[-MAX_MEASUREMENTS:]
    try:
        write_json(home / "measured.json", {"format": FORMAT, "measured": [asdict(one) for one in kept]})
    except OSError:
        return


def measure_recent_runs(home: Path) -> None:
    """Save the speed of the newest runs on this machine, unless the same work is already measured. Reads the ends of
    their logs: run it in a thread."""
    known = {one.key for one in measurements(home) if one.machine == machine_name()}
    found: dict[str, Measurement] = {}
    for run in list_runs(home)[:RECENT_RUNS]:
        try:
            measured = measurement_of_run(run)
        except (UserError, OSError):
            continue  # damaged
        if measured is not None and measured.is_sound and measured.key not in known:
            found.setdefault(measured.key, measured)
    if found:
        save_measurements(home, *found.values())


def measurement_of_run(run: Run) -> Measurement | None:
    """The median speed of the last steps of a run, without the first ones; None if the run trained on another machine,
    or for too few steps or seconds."""
    log = run.path / "events.jsonl"
    started = LogDigest.from_log(log).started
    if started is None or started.host != platform.node():
        return None
    first = started.step + SKIPPED_STEPS
    logged = (event for event in last_events(log) if isinstance(event, StepLogged) and event.step > first)
    steps = [event for event in logged if event.tokens_per_second > 0]
    if len(steps) < MIN_STEPS or not steps[-1].total_flops:
        return None
    if steps[-1].elapsed - steps[0].elapsed < MIN_SECONDS:
        return None
    rate = statistics.median(step.tokens_per_second for step in steps)
    return Measurement(
        machine=machine_name(),
        key=work_key(run.config()),
        name=run.name,
        device=started.device,
        precision=started.precision,
        threads=started.threads,
        step_seconds=started.tokens_per_step / rate,
        tokens_per_second=rate,
        flops_per_second=rate * steps[-1].total_flops / steps[-1].tokens_seen,
        training_bytes=0,
        peak_bytes=0,
        time=steps[-1].time,
    )


def measurements(home: Path) -> list[Measurement]:
    """All measurements, oldest first; empty if the file is missing or damaged. Damaged entries are skipped."""
    try:
        content = read_json(home / "measured.json")
        entries = content["measured"] if content["format"] == FORMAT else []
        found = [measured for entry in entries if (measured := _measurement_from(entry)) is not None]
    except (UserError, KeyError, TypeError):
        return []
    return found


def _measurement_from(entry: Any) -> Measurement | None:
    try:
        measured = Measurement(**entry)
    except TypeError:
        return None
    return measured if measured.is_sound else None


@dataclass(frozen=True)
class Speed:
    """The measurement that predicts the speed of a run: of the same work if `exact`, else of other work."""

    measured: Measurement
    exact: bool

    @property
    def flops_per_second(self) -> float:
        return self.measured.flops_per_second

    @property
    def name(self) -> str:
        """The preset or run that was measured."""
        return self.measured.name


def expected_speed(home: Path, config: RunConfig) -> Speed | None:
    """The speed measured on this machine for the same work, else the newest measurement that predicts it, else None."""
    here = [one for one in measurements(home) if one.machine == machine_name()]
    key = work_key(config)
    for one in here:
        if one.key == key:
            return Speed(one, exact=True)
    try:
        plan = resolve_batch_plan(config, expected_vocab_size(config.tokenizer), expected_tokens(config))
    except ConfigError:
        return None
    step_flops = plan.flops_per_token * plan.tokens_per_step
    others = [one for one in here if one.predicts(step_flops)]
    return Speed(others[-1], exact=False) if others else None
