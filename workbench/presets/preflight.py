"""A preflight in a process of its own, and what it found out, remembered for later estimates."""

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
from llm.errors import UserError
from llm.events import Progress, StepLogged, from_record
from llm.files import read_json, write_json
from llm.limits import usable_cores
from llm.run import Run, list_runs
from llm.run.log import last_events
from workbench.runs.catalog import LogDigest

FORMAT = 1
REMEMBERED = 200  # measurements kept, the newest
LEARNT_FROM, ENOUGH_STEPS = 10, 8  # runs whose logs are looked at, and steps that one must have logged
SENSIBLE = (1e-12, 1e30)  # what was measured lies between these, in whatever unit
LENGTHS = ("steps", "tokens", "epochs", "tokens_per_parameter", "flops", "lr", "lr_multiplier", "seed", "log_every")


@dataclass(frozen=True)
class Measurement:
    """What a preflight measured on one machine; the fields of `llm.training.preflight.Preflight` that stay true for runs of
    another length, and when that was (Unix seconds). Of what was learnt from a run, the bytes are not known: 0."""

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

    @property
    def is_sound(self) -> bool:
        """Whether its values are what they should be: it may come from a file that anybody can write to."""
        words = (self.machine, self.key, self.name, self.device, self.precision)
        counts = (self.threads, self.training_bytes, self.peak_bytes)
        rates = (self.step_seconds, self.tokens_per_second, self.flops_per_second)
        return (
            all(isinstance(word, str) for word in words)
            and all(isinstance(count, int) and 0 <= count < SENSIBLE[1] for count in counts)
            and all(isinstance(rate, int | float) and SENSIBLE[0] < rate < SENSIBLE[1] for rate in rates)
            and isinstance(self.time, int | float)
        )


class PreflightJob:
    """Runs `python -m llm.training.preflight` and follows what it says. `on_progress(progress)` and `on_end(result, problem)`
    are called in a thread; problem is "" where it went well and "cancelled" where that was wanted."""

    def __init__(
        self,
        config: RunConfig,
        name: str,
        home: Path,
        on_progress: Callable[[Progress], object],
        on_end: Callable[[Measurement | None, str], object],
        program: tuple[str, ...] = (sys.executable, "-m", "llm.training.preflight"),
    ) -> None:
        self.config = config
        self.name = name
        self.home = home
        self.cancelled = False
        self._on_progress = on_progress
        self._on_end = on_end
        self._folder = tempfile.TemporaryDirectory(prefix="llm-workbench-preflight-")
        path = Path(self._folder.name) / "config.toml"
        path.write_text(to_toml(config), encoding="utf-8")
        self._process = subprocess.Popen(
            [*program, str(path), "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._errors = b""
        threading.Thread(target=self._drain_errors, name="preflight errors", daemon=True).start()
        threading.Thread(target=self._follow, name=f"preflight {name}", daemon=True).start()

    def cancel(self) -> None:
        """End it at once."""
        self.cancelled = True
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
        if self.cancelled:
            found, problem = None, "cancelled"
        elif found is None and not problem:
            last = self._errors.decode(errors="replace").strip().splitlines()[-1:]
            reason = "it was ended, as when memory runs out" if status < 0 else "".join(last) or f"status {status}"
            problem = f"the preflight did not get to its end: {reason}."
        self._on_end(found, problem)


def machine_name() -> str:
    """This machine, as far as speed goes: a home may be shared by several."""
    return f"{platform.node()} {platform.machine()} {usable_cores()} cores"


def key_of(config: RunConfig) -> str:
    """Two configurations with the same key do the same work in each step."""
    mapping = to_mapping(config)
    train = {name: value for name, value in mapping.get("train", {}).items() if name not in LENGTHS}
    work = [train, *(mapping.get(name) for name in ("model", "tokenizer", "optim"))]
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:16]


def measurement(record: dict[str, Any], config: RunConfig, name: str) -> Measurement:
    own: dict[str, Any] = {"machine": machine_name(), "key": key_of(config), "name": name, "time": time.time()}
    return Measurement(**{item.name: (own | record)[item.name] for item in fields(Measurement)} | own)


def remember(home: Path, *measured: Measurement) -> None:
    """Add them to `<home>/measured.json`, each in place of what was measured before for the same work on this machine.
    A disk that refuses is no reason to stop."""
    replaced = {(one.machine, one.key) for one in measured}
    others = [one for one in measurements(home) if (one.machine, one.key) not in replaced]
    kept = sorted([*others, *measured], key=lambda one: one.time)[-REMEMBERED:]
    try:
        write_json(home / "measured.json", {"format": FORMAT, "measured": [asdict(one) for one in kept]})
    except OSError:
        return


def learn_from_runs(home: Path) -> None:
    """Remember how fast the newest runs trained on this machine, where nothing was measured for the same work.

    Reads the ends of their logs; for a thread.
    """
    known = {one.key for one in measurements(home) if one.machine == machine_name()}
    learnt: dict[str, Measurement] = {}
    for run in list_runs(home)[:LEARNT_FROM]:
        try:
            found = measured_by(run)
        except (UserError, OSError):
            continue  # a damaged run teaches nothing
        if found is not None and found.is_sound and found.key not in known:
            learnt.setdefault(found.key, found)
    if learnt:
        remember(home, *learnt.values())


def measured_by(run: Run) -> Measurement | None:
    """The speed of a run as its log has it, the median of the last steps; None where it did not train on this machine,
    or not for long enough."""
    log = run.path / "events.jsonl"
    started = LogDigest.of(log).started
    steps = [event for event in last_events(log) if isinstance(event, StepLogged) and event.tokens_per_second > 0]
    if started is None or started.host != platform.node() or len(steps) < ENOUGH_STEPS or not steps[-1].total_flops:
        return None
    rate = statistics.median(step.tokens_per_second for step in steps)
    return Measurement(
        machine=machine_name(),
        key=key_of(run.config()),
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
    """All that was measured, oldest first; nothing where the file is missing or damaged. Damaged entries are passed
    over."""
    try:
        content = read_json(home / "measured.json")
        entries = content["measured"] if content["format"] == FORMAT else []
        found = [measured for entry in entries if (measured := _restored(entry)) is not None]
    except (UserError, KeyError, TypeError):
        return []
    return found


def _restored(entry: Any) -> Measurement | None:
    try:
        measured = Measurement(**entry)
    except TypeError:
        return None
    return measured if measured.is_sound else None


@dataclass(frozen=True)
class Speed:
    """FLOP/s to expect of a run here: `exact` when its own work was measured, else from what was measured of `name`, a
    preflight or a run."""

    flops_per_second: float
    name: str
    exact: bool
    measured: Measurement


def expected_speed(home: Path, config: RunConfig) -> Speed | None:
    """From what was measured on this machine, for other work the newest of it; None while nothing was."""
    here = [one for one in measurements(home) if one.machine == machine_name()]
    key = key_of(config)
    for one in here:
        if one.key == key:
            return Speed(one.flops_per_second, one.name, True, one)
    return Speed(here[-1].flops_per_second, here[-1].name, False, here[-1]) if here else None
