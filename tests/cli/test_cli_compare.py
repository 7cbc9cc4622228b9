"""`sample --explain`, `compare` and `timelapse` on a real run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.cli.test_cli_real import Shell, shell  # noqa: F401


def test_every_token_explained(shell: Shell) -> None:  # noqa: F811
    params = ("--max-tokens", "5", "--top-k", "7", "--temperature", "0.8")
    words = ("sample", "tiny-1@10", "--prompt", "Ada", "--explain", *params)
    found = shell.data(*words)
    assert (found["run"], found["step"], len(found["tokens"])) == ("tiny-1", 10, 5)
    for token in found["tokens"]:
        assert [stage["name"] for stage in token["stages"]] == ["model", "temperature", "top_k"]
        assert token["stages"][2]["kept"] == 7
        last = {entry["token"]: entry["probability"] for entry in token["stages"][2]["top"]}
        assert last[token["token"]] == pytest.approx(token["probability"], rel=1e-3)
    reply = shell.data("sample", "tiny-1@10", "--prompt", "Ada", *params)
    assert "".join(token["text"] for token in found["tokens"]) == reply["samples"][0]["text"]
    lines = shell(*words).splitlines()
    assert len(lines) == 5 * 4 and "probability" in lines[0] and "7 left" in lines[3]
    shell("sample", "tiny-1", "--explain", "--num-samples", "2", status=2)
    assert "--explain needs a single sample" in shell.said


def test_a_prompt_from_a_file_is_not_taken_for_the_name_of_another(shell: Shell, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "inner.txt").write_text("secret")
    (tmp_path / "outer.txt").write_text(f"FILE:{tmp_path}/inner.txt")
    given = ("--prompt", f"FILE:{tmp_path}/outer.txt", "--max-tokens", "3")
    found = shell.data("compare", "tiny-1@10", "tiny-1@20", *given)
    assert found["prompt"] == f"FILE:{tmp_path}/inner.txt"
    frames = shell.data("timelapse", "tiny-1", *given)["frames"]
    assert {frame["prompt"] for frame in frames} == {f"FILE:{tmp_path}/inner.txt"}


def test_several_samples_are_refused_where_one_is_written(shell: Shell) -> None:  # noqa: F811
    for words in (("compare", "tiny-1@10", "tiny-1@20"), ("timelapse", "tiny-1")):
        shell(*words, "--num-samples", "2", status=2)
        assert "leave --num-samples at 1" in shell.said


def test_two_checkpoints_compared(shell: Shell) -> None:  # noqa: F811
    words = ("compare", "tiny-1@10", "tiny-1@20", "--prompt", "Ada", "--max-tokens", "30")
    found = shell.data(*words)
    first, second = found["sides"]
    assert (first["checkpoint"], second["checkpoint"]) == ("tiny-1@10", "tiny-1@20")
    assert found["same_tokenizer"] and len(first["divergence"]) == len(first["tokens"]) == 30
    place = found["first_token"]
    assert first["tokens"][:place] == second["tokens"][:place] and first["tokens"] != second["tokens"]
    printed = shell(*words)
    assert f"first difference at token {place + 1}" in printed and "mean KL to the other" in printed
    assert "the texts are equal" in shell("compare", "tiny-1", "tiny-1@20", "--max-tokens", "3")
    shell("compare", "tiny-1@10", "tiny-1@13", status=2)
    assert "no checkpoint 13" in shell.said


def test_time_lapse(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("sys.stdin", io.StringIO("Chen"))
    words = ("timelapse", "tiny-1", "--prompt", "Ada", "--prompt", "-", "--max-tokens", "9")
    frames = shell.data(*words)["frames"]
    assert [(one["step"], one["prompt"]) for one in frames] == [(10, "Ada"), (10, "Chen"), (20, "Ada"), (20, "Chen")]
    printed = shell("timelapse", "tiny-1", "--prompt", "Ada", "--max-tokens", "9")
    assert "--- tiny-1@10 (validation loss" in printed and f"Ada{frames[0]['text']}" in printed
