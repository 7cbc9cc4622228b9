"""`bench data` on a small text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.bench import data
from workbench.bench.data import lines_of, measure, peak_memory, text_pieces


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data, "VOCABULARY", 400)
    monkeypatch.setattr(data, "TEXT_BYTES", 60_000)
    file = tmp_path / "text.txt"
    file.write_text("".join(f"Line {number} of a text: Ärger, naïve, {number**2}.\n" for number in range(3000)))
    return file


def test_every_part_on_a_small_text(text: Path) -> None:
    results = dict(measure(text, data.PARTS, pairs=1, megabytes=1))
    assert 60_000 <= results["text"]["bytes"] < 400_000
    for match in (results["bpe"], *results["tokenize"].values()):
        assert match["ratio"]["median"] > 0
    prepared = results["prepare"]
    assert prepared["bytes"] >= 1_000_000
    assert prepared["peak_bytes"] > 10_000_000  # a Python process
    assert "1 MB" in lines_of("prepare", prepared)[0]
    assert "tokenize, all threads: ours" in "\n".join(lines_of("tokenize", results["tokenize"]))


def test_the_pieces_are_the_start_of_the_file(text: Path) -> None:
    pieces = text_pieces(text)
    assert text.read_text().startswith("".join(pieces))


def test_peak_memory_includes_child_processes() -> None:
    child = "import time; x = bytearray(60_000_000); print('there', flush=True); time.sleep(60)"
    parent = (
        f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE);"
        "c.stdout.readline(); x = bytearray(50_000_000); import time; time.sleep(1); c.kill(); c.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert 110_000_000 < peak_memory(process) < 200_000_000
