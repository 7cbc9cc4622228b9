"""`sample` with every sampling parameter, and into a real terminal: as it is written, safe, and stopped by Ctrl+C."""

from __future__ import annotations

import os
import pty
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llm.config import DecodeConfig, RunConfig, to_mapping
from llm.engine import Completion, Engine
from llm.run import Run
from llm.weights import load_model
from tests.cli.test_cli_real import Shell
from tests.forking import NOTHING, ForkedProgram, run_workbench

PATIENCE = 120.0
EVERY_PARAMETER = {
    "temperature": "0.9", "dynamic_range": "0.2", "dynamic_exponent": "1.5", "top_k": "90", "top_p": "0.98",
    "min_p": "0.001", "typical_p": "0.99", "top_n_sigma": "6", "epsilon_cutoff": "1e-5", "eta_cutoff": "1e-5",
    "xtc_probability": "0.2", "xtc_threshold": "0.3", "mirostat_tau": "6", "mirostat_eta": "0.2",
    "repetition_penalty": "1.1", "repetition_window": "20", "presence_penalty": "0.2", "frequency_penalty": "0.1",
    "penalty_window": "30", "no_repeat_ngram": "5", "dry_multiplier": "0.5", "dry_base": "1.5",
    "dry_allowed_length": "3", "dry_window": "50", "dry_breakers": '[".", "!"]', "logit_bias": '["97=0.5", "e=-0.5"]',
    "banned_tokens": '["q", "120"]', "ban_end": "on", "min_tokens": "3", "max_tokens": "40", "max_total_tokens": "60",
    "length_penalty": "1.01", "length_penalty_start": "10", "stop": '["zzz", "\\n\\n"]', "order": '["top_p", "top_k"]',
    "beams": "2", "beam_length_penalty": "0.7", "num_samples": "2", "separator_first": "on",
    "seed": "12", "lookup": "4", "weights": "int8",
}  # fmt: skip


@pytest.fixture
def shell(trained_run: Run, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(trained_run.path.parent.parent, capsys)


def flags(params: dict[str, str]) -> list[str]:
    return [word for name, value in params.items() for word in (f"--{name.replace('_', '-')}", value)]


def test_the_list_has_every_parameter_at_another_value_than_usual(shell: Shell) -> None:
    assert set(EVERY_PARAMETER) == set(DecodeConfig.__dataclass_fields__) - {"best_of"}, "it excludes beams"
    used = shell.data("sample", "tiny-1", "--prompt", "Ada", *flags(EVERY_PARAMETER))["decode"]
    usual = to_mapping(RunConfig())["decode"]
    assert [name for name in EVERY_PARAMETER if used[name] == usual[name]] == []


@pytest.mark.parametrize("without", [(), ("beams",), ("beams", "num_samples"), ("beams", "dynamic_range")])
def test_the_reply_is_that_of_the_engine_with_these_parameters(
    shell: Shell, trained_run: Run, without: tuple[str]
) -> None:
    """All parameters at once: beam search, several drawn samples, one, and with the fixed temperature."""
    given = {name: value for name, value in EVERY_PARAMETER.items() if name not in without}
    found = shell.data("sample", "tiny-1", "--prompt", "Ada", *flags(given))
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in found["decode"].items()}
    params = replace(DecodeConfig(), **lists)
    model, tokenizer = load_model(trained_run, trained_run.checkpoint())
    reply = Engine(model, tokenizer, weights=params.weights).stream("Ada", params)
    expected = Completion.from_reply(reply)[0]
    assert [sample["text"] for sample in found["samples"]] == list(expected.texts)
    assert all(expected.texts)
    if params.num_samples == 1:
        assert shell("sample", "tiny-1", "--prompt", "Ada", *flags(given)) == expected.texts[0]


@contextmanager
def in_a_terminal(home: Path, errors: Path, *words: str) -> Iterator[tuple[int, ForkedProgram]]:
    """`sample tiny-1` writing to a terminal; yields what can be read of it, and the process."""
    ours, theirs = pty.openpty()
    streams = (NOTHING, os.ttyname(theirs), errors)
    process = ForkedProgram(run_workbench, "sample", "tiny-1", "--home", str(home), *words, streams=streams)
    os.close(theirs)
    try:
        yield ours, process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def rest_of(terminal: int) -> bytes:
    """All that is still to come."""
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux, once the other side is closed
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def test_it_streams_and_ctrl_c_ends_it(shell: Shell, tmp_path: Path) -> None:
    endless = ("--prompt", "Ada", "--max-tokens", "100000000", "--ban-end", "--temperature", "1")
    with in_a_terminal(shell.home, tmp_path / "errors", *endless) as (terminal, process):
        assert os.read(terminal, 65536), "something is shown long before the end"
        process.send_signal(signal.SIGINT)
        shown = rest_of(terminal)
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    assert said == "interrupted.\n"
    assert b"Traceback" not in shown


def test_a_terminal_is_shown_nothing_it_could_obey(shell: Shell, tmp_path: Path) -> None:
    words = ("--prompt", "Ada", "--logit-bias", "27=1000", "--max-tokens", "3")
    with in_a_terminal(shell.home, tmp_path / "errors", *words) as (terminal, process):
        shown = rest_of(terminal).decode()
        assert process.wait(PATIENCE) == 0
    assert shown == "␛␛␛\r\n"
    assert shell("sample", "tiny-1", *words) == "\x1b" * 3, "a pipe or a file is given the text itself"
