"""The pictures of the README: the real screens over a real run, as SVG and as PNG.

    python -m docs.pictures HOME RUN [--folder docs/pictures] [--prompt TEXT]

HOME is a home folder of the workbench, RUN a run in it that has at least one checkpoint. Nothing there is changed but
what looking changes: the conversation is kept among the transcripts, as every conversation is.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from docs.terminal_images import cells_of_strips, draw_cells
from llm.environment import configure_threads
from llm.files import write_atomic
from llm.run import Run
from workbench.app import WorkbenchApp
from workbench.charts.export import picture_of_strips, strips_of

SIZE = (132, 40)
MOST_BYTES = 150_000
PATIENCE_SECONDS = 120.0
STILL_SECONDS = 2.5  # a screen that has not changed for so long is done with what it was doing


def shown(app: WorkbenchApp) -> str:
    """The characters on the screen, line by line, but for the top one with the clock of a training."""
    return "\n".join(strip.text for strip in strips_of(app.screen)[1:])


async def until(pilot: Pilot[int], condition: Callable[[], bool], what: str) -> None:
    """Let the app run until the condition holds; ends the program where it does not in good time."""
    limit = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > limit:
            sys.exit(f"{what} did not appear within {PATIENCE_SECONDS:.0f} seconds.")
        await pilot.pause(0.05)


async def stillness(pilot: Pilot[int], app: WorkbenchApp) -> None:
    """Until nothing has changed for a while."""
    before, since, limit = shown(app), time.monotonic(), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() - since < STILL_SECONDS and time.monotonic() < limit:
        await pilot.pause(0.1)
        now = shown(app)
        if now != before:
            before, since = now, time.monotonic()


def keep(app: WorkbenchApp, folder: Path, name: str) -> None:
    """Write the picture of the screen as it is."""
    svg = picture_of_strips(strips_of(app.screen), "llm-workbench").encode()
    if len(svg) > MOST_BYTES:
        sys.exit(f"the picture of {name} has {len(svg):,} bytes, more than {MOST_BYTES:,}; make SIZE smaller.")
    write_atomic(folder / f"{name}.svg", svg)
    draw_cells(cells_of_strips(strips_of(app.screen))).quantize(64).save(folder / f"{name}.png", optimize=True)
    print(f"{folder / name}.svg and .png")


async def take(home: Path, run: str, folder: Path, prompt: str) -> None:
    """Go through the screens, a picture of each."""
    app = WorkbenchApp(home)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "parameters" in shown(app), "the list of presets")
        await stillness(pilot, app)
        keep(app, folder, "presets")
        app.open_train(run)
        await until(pilot, lambda: app.current_mode == "train" and run in shown(app), f"the run {run}")
        await stillness(pilot, app)
        keep(app, folder, "train")
        for mode in ("runs", "data"):
            await app.action_show(mode)
            await stillness(pilot, app)
            keep(app, folder, mode)
        app.open_chat(f"{run}@last")
        await until(pilot, lambda: app.current_mode == "chat" and run in shown(app), f"the model of {run}")
        await stillness(pilot, app)
        await pilot.press(*("space" if letter == " " else letter for letter in prompt), "enter")
        await stillness(pilot, app)
        keep(app, folder, "chat")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of the README from a real run.")
    parser.add_argument("home", type=Path, help="home folder of the workbench")
    parser.add_argument("run", help="name of a run in it, with a checkpoint")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent / "pictures")
    parser.add_argument(
        "--prompt", default="Once there was a", help="what the model continues in the picture of the chat"
    )
    options = parser.parse_args()
    configure_threads()  # before torch is loaded
    Run.open(options.home, options.run)  # says at once where there is no such run
    options.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take(options.home, options.run, options.folder, options.prompt))


if __name__ == "__main__":
    main()
