"""Presets by name: shipped ones, the user's, and presets that extend others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llm.config import (
    RENAMED,
    RunConfig,
    check,
    check_name,
    default_home,
    diff,
    fields_of,
    from_mapping,
    list_presets,
    load_preset,
    preset_notes,
    resolve_model,
    save_preset,
)
from llm.config.renamed import RENAMED_VALUES, log_rename
from llm.errors import ConfigError, WrongUse


def write(home: Path, name: str, text: str) -> None:
    (home / "presets").mkdir(exist_ok=True)
    (home / "presets" / f"{name}.toml").write_text(text)


def test_notes_are_the_paragraphs_of_the_head_comment(tmp_path: Path) -> None:
    head = "# Follows a paper,\n# nearly.\n#\n# Different:\n# - one\n#   thing;\n# - another.\n"
    write(tmp_path, "mine", f"{head}[train]\n# not this\nlr = 1e-3\n")
    write(tmp_path, "bare", "[train]\nlr = 1e-3\n")
    notes = {preset.name: preset.notes for preset in list_presets(tmp_path)}
    assert notes["mine"] == "Follows a paper, nearly.\n\nDifferent:\n- one thing;\n- another."
    assert notes["bare"] == ""
    assert preset_notes("mine", tmp_path) == notes["mine"]
    assert preset_notes("gpt2-124m", tmp_path) == notes["gpt2-124m"] and "Different on purpose:" in notes["gpt2-124m"]


def test_every_shipped_preset_is_usable(tmp_path: Path) -> None:
    presets = list_presets(tmp_path)
    assert presets[0].name == "quickstart"
    assert {"quickstart", "shakespeare-char"} <= {preset.name for preset in presets}
    for preset in presets:
        assert (preset.problem, preset.mine) == ("", False)
        assert preset.purpose.endswith(".") and len(preset.purpose) <= 75, "one line"
        assert preset.notes
        config = load_preset(preset.name, tmp_path)
        assert check(config) == []
        resolve_model(config.model, config.tokenizer.vocab_size)


def test_own_presets_extend_shipped_ones_and_each_other(tmp_path: Path) -> None:
    write(tmp_path, "wide", 'extends = "quickstart"\n[model]\nd_model = 384\n')
    write(tmp_path, "wide-long", 'extends = "wide"\npurpose = "Longer."\n[train]\nepochs = 2.5\n')
    base, config = load_preset("quickstart", tmp_path), load_preset("wide-long", tmp_path)
    assert [path for path, *_ in diff(base, config)] == [
        "purpose",
        "group",
        "model.d_model",
        "train.epochs",
        "train.minutes",
    ]
    mine = [preset for preset in list_presets(tmp_path) if preset.mine]
    assert [(preset.name, preset.purpose, preset.group) for preset in mine] == [
        ("wide", "", "yours"),
        ("wide-long", "Longer.", "yours"),
    ]


def test_a_circle_is_an_error_and_listed(tmp_path: Path) -> None:
    write(tmp_path, "a", 'extends = "b"')
    write(tmp_path, "b", 'extends = "a"')
    with pytest.raises(ConfigError, match="circle: a → b → a"):
        load_preset("a", tmp_path)
    assert ["circle" in preset.problem for preset in list_presets(tmp_path) if preset.mine] == [True, True]


def test_problems_of_file_and_overrides_come_together(tmp_path: Path) -> None:
    write(tmp_path, "bad", 'extends = "quickstart"\n[model]\nn_layers = 3\nd_model = "wide"\n')
    with pytest.raises(ConfigError) as raised:
        load_preset("bad", tmp_path, [("train.learning-rate", "1"), ("train.steps", "ten")])
    lines = str(raised.value).splitlines()
    assert lines == [
        "model.n_layers: there is no such field; did you mean model.n_layer? (in bad.toml)",
        'model.d_model: must be a whole number, not "wide" (in bad.toml)',
        "train.learning_rate: there is no such field; did you mean train.lr?",
        'train.steps: must be a whole number, not "ten"',
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model\n", r"broken.toml: is not valid TOML.*line 1"),
        ("extends = 3", "must be the name of a preset, not 3"),
        ('extends = "quickstrat"', r"did you mean quickstart\?"),
    ],
)
def test_an_invalid_file_is_reported(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, "broken", text)
    with pytest.raises(WrongUse, match=words):
        load_preset("broken", tmp_path)
    assert next(preset for preset in list_presets(tmp_path) if preset.mine).problem


def test_a_binary_file(tmp_path: Path) -> None:
    write(tmp_path, "binary", "")
    (tmp_path / "presets" / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_preset("binary", tmp_path)


def test_unknown_presets_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"did you mean quickstart\?"):
        load_preset("quikstart", tmp_path)
    with pytest.raises(WrongUse, match=r"there are .*quickstart"):
        load_preset("zzz", tmp_path)
    with pytest.raises(WrongUse, match="no file"):
        load_preset("nowhere/x.toml", tmp_path)


def test_a_preset_may_be_a_file_anywhere(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('extends = "quickstart"\n[train]\nsteps = 7\n')
    assert load_preset(str(tmp_path / "one.toml"), tmp_path / "home").train.steps == 7


def test_saving_keeps_only_the_difference(tmp_path: Path) -> None:
    config = load_preset("quickstart", tmp_path, [("train.steps", "77"), ("tokenizer.special_tokens", "<end>")])
    path = save_preset(tmp_path, "mine", config, extends="quickstart")
    assert path == tmp_path / "presets" / "mine.toml"
    assert "n_layer" not in path.read_text()
    assert load_preset("mine", tmp_path) == replace(config, group="yours")
    save_preset(tmp_path, "whole", config)
    assert load_preset("whole", tmp_path) == replace(config, group="yours")


def test_a_shipped_name_is_not_shadowed(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="shipped preset"):
        save_preset(tmp_path, "quickstart", from_mapping({}))
    write(tmp_path, "quickstart", "[train]\nsteps = 3\n")
    assert load_preset("quickstart", tmp_path).train.steps != 3
    assert "rename" in next(preset for preset in list_presets(tmp_path) if preset.mine).problem


@pytest.mark.parametrize("name", ["a", "run-1", "A.b_c-9", "x" * 64])
def test_good_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "..", "a b", "a\n", "x" * 65, "é"])
def test_bad_names(name: str) -> None:
    with pytest.raises(WrongUse):
        check_name(name)


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM_WORKBENCH_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.setenv("LLM_WORKBENCH_HOME", "")
    assert default_home() == Path.home() / "llm-workbench"


def test_a_renamed_field_is_read_under_its_old_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_rename.cache_clear()
    write(tmp_path, "old", 'extends = "quickstart"\n[train]\nattention = "reference"\n')
    assert load_preset("old", tmp_path).train.kernels == "reference"
    assert load_preset("old", tmp_path, [("train.attention", "sdpa")]).train.kernels == "fused"
    assert [record.getMessage() for record in caplog.records] == [
        "train.attention is now called train.kernels; the old name still works."
    ]


def test_renamed_fields_exist() -> None:
    paths = {field.path for field in fields_of(RunConfig)}
    assert paths.issuperset(RENAMED.values()) and paths.isdisjoint(RENAMED)
    assert paths.issuperset(RENAMED_VALUES)
