"""Where the prompts of `sample` come from: an argument, a file, stdin, and many at once as lines of JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from llm.run import Run
from tests.cli.test_cli_real import Shell

PARAMS = ("--max-tokens", "9", "--seed", "3", "--temperature", "1", "--num-samples", "2")


@pytest.fixture
def shell(trained_run: Run, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(trained_run.path.parent.parent, capsys)


def lines_of(printed: str) -> list[Any]:
    return [json.loads(line) for line in printed.splitlines()]


def test_many_prompts_give_what_each_gives_alone_in_their_order(shell: Shell, tmp_path: Path) -> None:
    prompts = ["Ada saw", "Chen", "Béla saw", "从前", "Dora saw", "", "Ada saw"]
    path = tmp_path / "prompts.jsonl"
    written = [json.dumps({"prompt": prompt, "id": index, "kept": -1}) for index, prompt in enumerate(prompts)]
    path.write_text("\n\n".join(written) + "\n")
    found = lines_of(shell("sample", "tiny-1", "--jsonl", str(path), *PARAMS))
    assert [line["id"] for line in found] == list(range(7))
    for line, prompt in zip(found, prompts, strict=True):
        alone = shell.data("sample", "tiny-1", "--prompt", prompt, *PARAMS)
        assert line["samples"] == alone["samples"]
        assert (line["prompt"], line["run"], line["step"], line["seed"]) == (prompt, "tiny-1", 20, 3)
        assert (line["tokens"], line["prompt_tokens"]) == (alone["tokens"], alone["prompt_tokens"])


def test_a_line_may_have_other_sampling_parameters(shell: Shell, tmp_path: Path) -> None:
    lines = [
        {"prompt": "Ada saw"},
        {"prompt": "Chen", "seed": 8, "temperature": 0, "max_tokens": 3, "num_samples": 1},
        {"prompt": "Dora saw", "stop": ["."], "logit_bias": []},
        {"prompt": "Ada"},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = lines_of(shell("sample", "tiny-1", "--jsonl", str(path), *PARAMS))
    own = ("--seed", "8", "--temperature", "0", "--max-tokens", "3")
    alone = [
        shell.data("sample", "tiny-1", "--prompt", "Ada saw", *PARAMS),
        shell.data("sample", "tiny-1", "--prompt", "Chen", *own),
        shell.data("sample", "tiny-1", "--prompt", "Dora saw", *PARAMS, "--stop", "."),
        shell.data("sample", "tiny-1", "--prompt", "Ada", *PARAMS),
    ]
    assert [line["samples"] for line in found] == [one["samples"] for one in alone]
    assert [line["seed"] for line in found] == [3, 8, 3, 3]


def test_lines_from_stdin_may_be_bare_texts(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('"Ada"\n{"prompt": "\\ud800 Chen"}\n'))
    found = lines_of(shell("sample", "tiny-1", "--jsonl", "-", *PARAMS))
    assert [line["prompt"] for line in found] == ["Ada", "\ufffd Chen"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"Ada"\n\nAda\n', "line 3 is not JSON"),
        ('{"prompt": 3}\n', "line 1 has no prompt"),
        ("[]\n", "line 1 has no prompt"),
        ('"Ada"\n{"prompt": "Ada", "temperature": "hot"}\n', "line 2: decode.temperature: must be a number"),
        ('{"prompt": "Ada", "top_p": 3}\n', "line 1: decode.top_p"),
    ],
)
def test_a_line_that_cannot_be_is_named(shell: Shell, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    shell("sample", "tiny-1", "--jsonl", str(path), status=2)
    assert words in shell.said.splitlines()[-1]


def test_what_comes_before_a_line_that_cannot_be_is_written(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    for wrong, words in (
        ({"banned_tokens": ["two letters"]}, "tokens, not one"),
        ({"max_total_tokens": 1}, "max_total_tokens is 1"),
        ({"beams": 2, "num_samples": 3}, "raise beams"),
    ):
        path.write_text('"Ada"\n"Béla"\n' + json.dumps({"prompt": "Ada saw", **wrong}) + "\n")
        printed = shell("sample", "tiny-1", "--jsonl", str(path), "--max-tokens", "2", status=2)
        assert [line["prompt"] for line in lines_of(printed)] == ["Ada", "Béla"]
        assert "line 3:" in shell.said and words in shell.said


def test_a_line_nested_beyond_measure_is_no_json(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("[" * 200_000 + "\n")
    shell("sample", "tiny-1", "--jsonl", str(path), status=2)
    assert "line 1 is not JSON" in shell.said


def test_a_prompt_that_is_no_text_is_refused(shell: Shell) -> None:
    shell("sample", "tiny-1", "--prompt", "\udcff\udcfeabc", status=2)
    assert "the prompt is not UTF-8 text" in shell.said


@pytest.mark.parametrize("words", [("sample", "tiny-1", "--prompt", "-"), ("tokenizer", "encode", "tiny-1", "-")])
def test_bytes_on_stdin_that_are_no_text_are_refused(
    shell: Shell, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    shell(*words, status=2)
    assert "from stdin is not UTF-8 text" in shell.said


def test_a_prompt_from_a_file_or_stdin(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Béla saw")
    typed = shell("sample", "tiny-1", "--prompt", "Béla saw", *PARAMS)
    assert shell("sample", "tiny-1", "--prompt-file", str(path), *PARAMS) == typed
    for flag in ("--prompt", "--prompt-file"):
        monkeypatch.setattr("sys.stdin", io.StringIO("Béla saw"))
        assert shell("sample", "tiny-1", flag, "-", *PARAMS) == typed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompt", "a", "--jsonl", "b"), "not allowed with"),
        (("--jsonl", "/no/such"), "/no/such"),
        (("--prompt-file", "/no/such"), "/no/such"),
        (("--jsonl", "/"), "'/' is not a file"),
        (("--prompt-file", "/"), "'/', which is not a file"),
        (("--jsonl", "-", "--explain"), "leave out --jsonl"),
    ],
)
def test_what_does_not_go_together(shell: Shell, words: tuple[str, ...], said: str) -> None:
    shell("sample", "tiny-1", *words, status=2)
    assert said in shell.said
