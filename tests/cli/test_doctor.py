"""The diagnosis: true on this machine, and plain where something is missing."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from llm.limits import Memory
from workbench import cli
from workbench.commands import doctor
from workbench.commands.doctor import (
    Finding,
    home_is_writable,
    machine,
    optional,
    other_llm_package,
    processors,
    release,
)


def test_every_line_of_a_real_diagnosis(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json", "--home", str(home)]) == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {"python", "torch", "cpu", "device", "torch.compile", "memory", "disk", "home", "terminal"} <= set(findings)
    assert findings["torch"]["level"] == "ok"
    assert all(finding["level"] == "ok" or finding["advice"] for finding in findings.values())
    assert cli.main(["doctor", "--home", str(home / "not" / "yet")]) == 0
    assert "usable core" in capsys.readouterr().out
    assert not (home / "not").exists(), "looking makes nothing"


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = home_is_writable(tmp_path / "file" / "home")
    assert finding.level == "fail"
    assert "--home" in finding.advice


def test_little_memory_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: Memory(4 * 10**9, 10**9))
    assert next(iter(machine(home))) == Finding(
        "memory", "warn", "1.0 of 4.0 GB free", "close other programs, or choose a small preset"
    )


def test_a_limit_of_memory_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: Memory(7 * 10**8, 5 * 10**8, "the cgroup's memory.max"))
    about = "0.5 of 0.7 GB free within the cgroup's memory.max"
    assert next(iter(machine(home))) == Finding("memory", "warn", about, "raise the limit, or choose a small preset")


def test_a_limit_of_the_processors_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for allowed, quota, cores, text in (
        (8, None, 8, "8 usable cores"),
        (4, None, 4, "4 usable cores (CPU affinity: 4 of 8 processors)"),
        (8, 1.5, 1, "1 usable core (cgroup quota: 1.5 of 8 processors)"),
        (4, 20.0, 4, "4 usable cores (CPU affinity: 4 of 8 processors)"),
    ):
        monkeypatch.setattr(doctor, "allowed_processors", lambda allowed=allowed: allowed)
        monkeypatch.setattr(doctor, "cpu_quota", lambda quota=quota: quota)
        monkeypatch.setattr(doctor, "usable_cores", lambda cores=cores: cores)
        assert processors() == text


def test_another_package_of_this_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "0.27")
    assert other_llm_package().level == "warn"


def test_what_is_optional_says_what_it_is_for() -> None:
    finding = optional("rustbpe", "fast BPE training", "it is slow", "rustbpe", find=lambda _: None)
    assert (finding.level, finding.advice) == ("warn", "if you need fast BPE training: pip install 'rustbpe'")


@pytest.mark.parametrize(("version", "number"), [("2.13.0+cpu", (2, 13)), ("2.10", (2, 10)), ("nightly", (0, 0))])
def test_release(version: str, number: tuple[int, int]) -> None:
    assert release(version) == number
