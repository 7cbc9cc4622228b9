"""What the Chat screen and the windows over it look like, in their main states.

After a wanted change: `pytest tests/workbench/test_pictures_chat.py --snapshot-update`, and look at what has changed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot

import workbench.chat.microscope_screen as microscope_module
import workbench.chat.reply as reply_module
import workbench.chat.screen as screen_module
import workbench.chat.split_screen as split_module
import workbench.chat.timelapse_screen as lapse_module
from llm.config import DecodeConfig
from llm.engine.compare import Comparison, Side
from llm.engine.timelapse import Frame
from llm.errors import UserError
from llm.run import Run
from llm.sampling import Stage
from tests.workbench.chat.chat_for_tests import FakeModel
from tests.workbench.opening import app_with
from tests.workbench.pictures_for_tests import HUGE, LARGE, SMALL, Look, settle
from tests.workbench.runs_for_tests import make_run, save_fake
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp
from workbench.chat.microscope import Explained
from workbench.chat.reply import Pace
from workbench.chat.sampling_presets import save_sampling_preset
from workbench.chat.service import ChatService
from workbench.chat.split import CurvesLoaded, FrameReady, SideStarted, SplitDone, TimeLapseEnded

SIZE = pytest.mark.parametrize("size", [SMALL], ids=["80x24"])
WORDS = [f"{word} " for word in ["there", "was", "a", "fox", "who", "had", "never", "seen", "the", "moon", "."]]
HOSTILE = ["日本語 ", "❤\ufe0f ", "\x1b[31m ", "שלום ", "[bold]x[/] ", "\u202e"]
GONE = UserError("quick-1@250 is gone: run quick-1 has last, best and steps 100, 200, 300.")

Act = Callable[[Pilot[int], Any], Awaitable[None]]


@pytest.fixture
def chat_model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """The model of the chat, with the same speed on every machine."""
    one = FakeModel(words=WORDS)
    one.name, one.parameters, one.context = "quick-1@300", 1_279_104, 64

    def service(home: Path, training: Any, post: Any) -> ChatService:
        return ChatService(home, training, post, opener=lambda *arguments: one)

    monkeypatch.setattr(screen_module, "ChatService", service)
    monkeypatch.setattr(reply_module, "POST_EVERY", 0.0)
    monkeypatch.setattr(reply_module, "Pace", lambda tokens, *rest: Pace(tokens, 123.0, 0.012, *rest[2:]))
    return one


def name_of(value: Any) -> str:
    """The id of a parameter: 80x24 for a size."""
    return value if isinstance(value, str) else value.__name__ if callable(value) else f"{value[0]}x{value[1]}"


def chatting(app: WorkbenchApp, act: Act) -> Callable[[Pilot[int]], Awaitable[None]]:
    """Open the chat with the model, and do something there."""

    async def run(pilot: Pilot[int]) -> None:
        app.open_chat("quick-1@300")
        await until(pilot, lambda: app.current_mode == "chat" and app.screen.session.model is not None)  # type: ignore[attr-defined]
        await settle(pilot)  # painted, before a window is laid over it
        await act(pilot, app.screen)
        await settle(pilot)

    return run


async def say(pilot: Pilot[int], screen: Any, text: str) -> None:
    count = len(screen.session.conversation.exchanges)
    screen.prompt.focus()
    screen.prompt.text = text
    await pilot.press("enter")
    await until(pilot, lambda: len(screen.session.conversation.exchanges) == count + 1 and not screen.session.writing)


async def nothing_yet(pilot: Pilot[int], screen: Any) -> None:
    """A model, and nothing said."""


async def branches(pilot: Pilot[int], screen: Any) -> None:
    """Two replies to one prompt, an exchange picked out, text that wants to be more than text."""
    await say(pilot, screen, "Once ")
    screen.session.service.chat_model.words = HOSTILE
    await pilot.press("ctrl+r")
    session = screen.session
    await until(pilot, lambda: [one.number for one in session.exchanges] == [2] and not session.writing)
    await pilot.press("escape", "p")


async def questions(pilot: Pilot[int], screen: Any) -> None:
    await pilot.press("ctrl+t")
    screen.session.service.chat_model.words = [" A ", "fox."]
    await say(pilot, screen, "Who saw the moon?")
    await say(pilot, screen, "And who else?")


async def failed(pilot: Pilot[int], screen: Any) -> None:
    await say(pilot, screen, "FILE:not-there.txt")


async def params(pilot: Pilot[int], screen: Any) -> None:
    await pilot.press("f2", "down", *"40")


async def wrong_value(pilot: Pilot[int], screen: Any) -> None:
    await pilot.press("f2", *"hot")


async def presets(pilot: Pilot[int], screen: Any) -> None:
    home = screen.workbench.home
    save_sampling_preset(home, "calm", DecodeConfig(temperature=0.3, top_p=0.9))
    save_sampling_preset(home, "wild", DecodeConfig(temperature=1.4, min_p=0.05))
    await pilot.press("f8")
    await until(pilot, lambda: "calm" in shown(pilot.app.screen))


async def models(pilot: Pilot[int], screen: Any) -> None:
    trained(screen.workbench.home)
    await pilot.press("ctrl+o")
    await until(pilot, lambda: "quick-1@100" in shown(pilot.app.screen))


async def past(pilot: Pilot[int], screen: Any) -> None:
    await say(pilot, screen, "Once upon a time ")
    await pilot.press("ctrl+n")
    await say(pilot, screen, "The \x1b[2J moon ")
    await pilot.press("f3", *"moon")
    await until(pilot, lambda: "2 of 2" in shown(pilot.app.screen))


async def no_past(pilot: Pilot[int], screen: Any) -> None:
    await pilot.press("f3")
    await until(pilot, lambda: "No conversations yet" in shown(pilot.app.screen))


STATES: dict[Act, tuple[str, ...]] = {
    nothing_yet: ("quick-1@300", "1.279M parameters"),
    branches: ("Once", "日本語", "שלום", "[bold]x[/]", "2/2"),
    questions: ("Who saw the moon?", "A fox.", "And who else?"),
    failed: ("FILE:not-there.txt",),
    params: ("40", "top k"),
    wrong_value: ("hot",),
    presets: ("calm", "wild", "temperature 0.3"),
    models: ("quick-1@100", "quick-1@200", "quick-1@300"),
    past: ("The", "moon", "2 of 2"),
    no_past: ("No conversations yet",),
}
"""What the chat can be like, and texts that are shown then."""
SELDOM = (questions, failed, wrong_value, no_past)
"""What tests of the keys and the screen see too: tested with `-m slow`."""
PICTURED = (branches, params, models)
WIDE = (nothing_yet, branches, params)
"""Laid out differently where there is room."""


@pytest.mark.parametrize(
    ("act", "size"),
    [pytest.param(act, SMALL, marks=pytest.mark.slow if act in SELDOM else ()) for act in STATES],
    ids=name_of,
)
def test_chat(
    act: Act,
    size: tuple[int, int],
    still_home: Path,
    chat_model: FakeModel,
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = itertools.count()
    monkeypatch.setattr("workbench.chat.transcripts.secrets.token_hex", lambda count: f"{next(numbers):06}")
    app = app_with(still_home)
    look(app, size, chatting(app, act), *STATES[act], picture=act in PICTURED, also=LARGE if act in WIDE else None)


def test_all_sampling_parameters(still_home: Path, chat_model: FakeModel, look: Look) -> None:
    app = app_with(still_home)
    look(app, HUGE, chatting(app, nothing_yet))


@SIZE
def test_without_a_model(size: tuple[int, int], still_home: Path, look: Look) -> None:
    app = app_with(still_home)

    async def visit(pilot: Pilot[int]) -> None:
        await app.action_show("chat")
        await until(pilot, lambda: "No model yet" in shown(app.screen))
        await settle(pilot)

    look(app, size, visit, "No model yet", also=LARGE)


@SIZE
def test_a_reply_that_is_being_written(
    size: tuple[int, int],
    still_home: Path,
    chat_model: FakeModel,
    look: Look,
) -> None:
    chat_model.gate = threading.Semaphore(8)
    app = app_with(still_home)

    async def write(pilot: Pilot[int], screen: Any) -> None:
        screen.prompt.text = "Once "
        await pilot.press("enter")
        await until(pilot, lambda: "seen" in screen.transcript.text)
        await pilot.press(*"next")

    look(app, size, chatting(app, write), "there was a fox who had never seen", "next", picture=False, also=LARGE)
    chat_model.gate.release(99)


# The windows over it


def trained(home: Path) -> Run:
    """A run of 300 steps with three checkpoints."""
    run = make_run(home, "quick-1", steps=300)
    for step, loss in ((100, 2.4), (200, 1.3), (300, 0.8)):
        save_fake(run, step, loss)
    return run


def explained() -> Explained:
    """The third of six tokens, drawn from five."""
    names = {0: "·was", 1: "·lived", 2: "·stood", 3: "日", 4: "\\xe6"}
    model = Stage("model", ((0, 0.5), (1, 0.3), (2, 0.15), (3, 0.04), (4, 0.00001)), 2048, 1.71)
    cooler = Stage("temperature", ((0, 0.62), (1, 0.27), (2, 0.1), (3, 0.01), (4, 0.0000004)), 2048, 1.32)
    cut = Stage("top_k", ((0, 0.7), (1, 0.3), (2, 0.0), (3, 0.0), (4, 0.0)), 2, 0.88)
    return Explained(2, [" there", " once", " was", " a", " fox", "."], [model, cooler, cut], names)


def comparison() -> Comparison:
    left = ("there", " was", " a", " fox", " who", " saw", " 月", ".")
    right = ("there", " was", " no", " moon", " that", " night")
    return Comparison(
        "Once ",
        (
            Side("".join(left), tuple(range(8)), left, (-0.1,) * 8, "stop", (0.0, 0.05, 2.5, 0.7, 0.2, 0.0, 0.3, 0.1)),
            Side("".join(right), tuple(range(6)), right, (-0.2,) * 6, "length", (0.0, 0.1, 1.9, 0.6, 0.0, 0.4)),
        ),
        True,
        2,
        10,
    )


async def microscope(pilot: Pilot[int], screen: Any) -> None:
    await say(pilot, screen, "Once ")
    await pilot.press("f4")
    await until(pilot, lambda: pilot.app.screen is not screen)
    if "gone" not in shown(pilot.app.screen):
        await pilot.press("right", "right")
    await until(pilot, lambda: any(words in shown(pilot.app.screen) for words in ("Token 3 of", "is gone")))


async def split(pilot: Pilot[int], screen: Any) -> None:
    trained(screen.workbench.home)
    await say(pilot, screen, "Once ")
    await pilot.press("f5")
    await until(pilot, lambda: "quick-1@100" in shown(pilot.app.screen))
    await pilot.press(*"@100", "enter")
    await until(pilot, lambda: any(words in shown(pilot.app.screen) for words in ("first difference", "is gone")))
    if "first difference" in shown(pilot.app.screen):
        await pilot.press("d")
        await until(pilot, lambda: "token 3" in shown(pilot.app.screen))


async def lapse(pilot: Pilot[int], screen: Any) -> None:
    trained(screen.workbench.home)
    await say(pilot, screen, "Once ")
    await pilot.press("f6")
    await until(pilot, lambda: any(words in shown(pilot.app.screen) for words in ("of 3 ", "is gone")))
    if "of 3 " in shown(pilot.app.screen):
        await pilot.press("right")
        await until(pilot, lambda: "quick-1@200" in shown(pilot.app.screen))


SHOWN: dict[Act, tuple[str, ...]] = {
    microscope: ("Token 3 of", "·lived", "temperature"),
    split: ("quick-1@300", "quick-1@100", "token 3"),
    lapse: ("quick-1@200", "a fox was", "of 3 "),
}
"""Texts of the windows."""


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the windows ask of the models comes out the same everywhere."""

    def explain(exchange: Any, at: int, chat_model: Any, top: int) -> Explained:
        found = explained()
        exchange.tokens = [0, 1, 0, 2, 3, 4]
        found.at = at
        return found

    def compare(exchange: Any, other: str, service: Any, stop: Any, post: Any) -> SplitDone:
        post(SideStarted(1, other, ""))
        return SplitDone(comparison())

    def scrub(run: Run, prompts: Any, params: Any, stop: Any, post: Any) -> TimeLapseEnded:
        steps = np.arange(1.0, 301.0)
        post(CurvesLoaded(steps, 1.0 + 6 * np.exp(-steps / 90), steps[99::100], np.array([3.2, 1.9, 1.4])))
        for step, text in ((100, "the the"), (200, "a fox was"), (300, "there was a fox.")):
            post(FrameReady(Frame(step, "Once ", text, {"validation_loss": step / 100})))
        return TimeLapseEnded()

    monkeypatch.setattr(microscope_module, "explain_token", explain)
    monkeypatch.setattr(split_module, "split", compare)
    monkeypatch.setattr(lapse_module, "run_timelapse", scrub)


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows find that what they ask for is no longer there."""

    def refuse(*arguments: object) -> Any:
        raise GONE

    monkeypatch.setattr(microscope_module, "explain_token", refuse)
    monkeypatch.setattr(split_module, "split", refuse)
    monkeypatch.setattr(lapse_module, "run_timelapse", refuse)


@pytest.mark.parametrize(
    ("act", "state", "size"),
    [
        *((act, "done", SMALL) for act in SHOWN),
        (microscope, "gone", SMALL),
        *(pytest.param(act, "gone", SMALL, marks=pytest.mark.slow) for act in (split, lapse)),
    ],
    ids=name_of,
)
def test_windows(
    act: Act,
    state: str,
    size: tuple[int, int],
    still_home: Path,
    chat_model: FakeModel,
    look: Look,
    request: pytest.FixtureRequest,
) -> None:
    request.getfixturevalue(state)
    app = app_with(still_home)
    texts = SHOWN[act] if state == "done" else ("is gone", "100, 200, 300")
    is_done = state == "done"
    look(app, size, chatting(app, act), *texts, picture=is_done, also=LARGE if is_done else None)
