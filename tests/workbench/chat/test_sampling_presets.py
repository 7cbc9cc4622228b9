"""Sampling presets: the file and the dialog."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from llm.config import DecodeConfig
from llm.errors import UserError, WrongUse
from tests.workbench.chat.chat_for_tests import ChatApp, opened
from tests.workbench.waiting import until_true
from workbench.chat.sampling_presets import load_sampling_presets, save_sampling_preset, summary
from workbench.chat.sampling_presets_dialog import SamplingPresetsDialog

CALM = DecodeConfig(temperature=0.25, top_k=7, stop=("\n",), seed=99)


def test_saved_without_the_seed(home):
    assert load_sampling_presets(home) == {}
    save_sampling_preset(home, "calm", CALM)
    save_sampling_preset(home, "usual", DecodeConfig())
    assert load_sampling_presets(home) == {"calm": replace(CALM, seed=DecodeConfig().seed), "usual": DecodeConfig()}
    assert tomllib.loads((home / "knobs.toml").read_text())["calm"] == {"temperature": 0.25, "top_k": 7, "stop": ["\n"]}
    save_sampling_preset(home, "calm", None)
    assert list(load_sampling_presets(home)) == ["usual"]
    assert "temperature 0.25" in summary(CALM) and summary(DecodeConfig()) == "defaults"


@pytest.mark.parametrize("text", ["[calm", "[calm]\ntop_q = 3", "[calm]\ntop_k = -3", "calm = 3"])
def test_a_wrong_file_is_named(home, text):
    (home / "knobs.toml").write_text(text)
    with pytest.raises(UserError, match=r"knobs\.toml"):
        load_sampling_presets(home)
    with pytest.raises(UserError):
        save_sampling_preset(home, "other", CALM)
    assert (home / "knobs.toml").read_text() == text, "what a person wrote is not overwritten"


def test_a_wrong_name(home):
    with pytest.raises(WrongUse):
        save_sampling_preset(home, "../x", CALM)


async def test_saving_and_using(home, chat_model):
    async with ChatApp(home).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        screen.panel.set_all(CALM)
        await pilot.press("f8")
        await until_true(lambda: isinstance(pilot.app.screen, SamplingPresetsDialog))
        await pilot.press(*"calm", "enter")
        await until_true(lambda: pilot.app.screen is screen and load_sampling_presets(home))
        screen.panel.set_all(DecodeConfig(seed=3))
        await pilot.press("f8")
        await until_true(lambda: isinstance(pilot.app.screen, SamplingPresetsDialog) and pilot.app.screen.entries)
        await pilot.press("enter")
        await until_true(lambda: screen.panel.params == replace(CALM, seed=3))
