"""The benchmarks on a GPU, as far as a stand-in shows them, and the command that runs all that needs one."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench.test_bench_train import SMALL, STAND_IN
from tests.cuda_for_tests import Gpu
from workbench.bench import decode, train
from workbench.bench.report import device_name
from workbench.commands.doctor import compiler, devices
from workbench.presets.estimate import available_bytes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def peers() -> None:
    """transformers has classes of `torch.cuda` in its annotations: it is imported before they are replaced."""
    import_module("transformers.models.gpt2.modeling_gpt2")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_training_is_compared_on_the_gpu_compiled(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    """Every loss is read after it has arrived, and every timing ends with the work of the device."""
    (tmp_path / "model.py").write_text(STAND_IN)
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda run, **options: compiled.append(run) or run)
    monkeypatch.setitem(train.SHAPES, "small", SMALL)
    (result,) = train.measure(device, ["small"], pairs=1, threads=1, nanogpt=tmp_path)
    assert len(compiled) == 7
    assert {rival["precision"] for rival in result["rivals"]} == {"bf16", "fp32"}
    assert all(rival["losses"][-1] < rival["losses"][0] for rival in result["rivals"])


def test_decoding_is_compared_on_the_gpu(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decode.SIZES, "small", replace(decode.SIZES["124M"], n_layer=1, d_model=24, n_head=2,
                        n_kv_head=2, d_ff=40, context=128, vocab_size=70))  # fmt: skip
    monkeypatch.setattr(decode, "NEW_TOKENS", 24)
    (result,) = decode.measure("cuda", ["small"], rounds=1, threads=1)
    assert result["same_tokens_in_fp32"]
    assert "int8" not in {rival["dtype"] for rival in result["rivals"]}
    assert result["memory_bandwidth"] == decode.BANDWIDTH["H200"]
    assert gpu.calls["replay"] > 0


def test_the_gpu_is_named(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.capacity = 80 * 10**9
    assert device_name("cuda:1") == "NVIDIA H200 number 1"
    findings = {finding.name: finding for finding in devices()}
    assert [findings[f"cuda:{index}"].about for index in (0, 1)] == [
        f"NVIDIA H200 number {index}, 80 GB" for index in (0, 1)
    ]
    assert findings["device"].about == "auto selects cuda with bf16"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert (compiler().level, compiler().advice) == ("warn", "install triton, or set train.compile to off")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert (compiler().level, compiler().about) == ("ok", "Triton is installed")


def test_the_free_memory_of_the_gpu_is_what_a_run_could_use(gpu: Gpu) -> None:
    gpu.capacity = 10**9
    taken = torch.zeros(1000, device="cuda")
    assert available_bytes() == 10**9 - gpu.allocated and gpu.allocated >= taken.nbytes


@pytest.mark.parametrize("failing", ["", "pytest", "train", "decode"])
def test_one_command_runs_the_tests_and_then_the_benchmarks(tmp_path: Path, failing: str) -> None:
    """`make gpu` with stand-ins for Python and the program."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name in ("python", "llm-workbench"):
        script = (
            f'#!/bin/sh\necho "{name} $*" >> {log}\ncase "$*" in *{failing or "never"}*) exit 3;; esac\n'
            f'[ {name} = python ] || echo "{{\\"of\\": \\"$2\\"}}"\n'
        )
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    ended = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), "gpu", f"VENV={tmp_path}", "NANOGPT=/there"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode == 0) is not bool(failing), ended.stderr
    calls = log.read_text().splitlines()
    assert calls[0] == "python -m pytest -m cuda -n 0"
    if not failing:
        assert json.loads((tmp_path / "gpu.json").read_text()) == {"train": {"of": "train"}, "decode": {"of": "decode"}}
        assert [call.split()[2] for call in calls[1:]] == ["train", "decode"]
        assert all("--device cuda" in call and call.endswith("--json") for call in calls[1:])
        assert "--nanogpt /there" in calls[1]
    else:
        assert not (tmp_path / "gpu.json").exists(), "no file that is not JSON"
