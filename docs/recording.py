"""Record the first two minutes of a new user: an asciinema cast, and an animated GIF made from it.

    python -m docs.recording record docs/pictures/first-two-minutes.cast
    python -m docs.recording gif docs/pictures/first-two-minutes.cast docs/pictures/first-two-minutes.gif

`record` opens the workbench in a temporary home on a pseudo-terminal, presses the keys of `SCRIPT` and writes every
byte with its time (asciicast v2, https://docs.asciinema.org/manual/asciicast/v2/). `gif` plays a cast into a terminal
emulator and draws it `SPEED` times as fast.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
from PIL import Image

from docs.terminal_images import BACKGROUND, FOREGROUND, RGB, Cell, draw_cells
from workbench.bench.pseudo import PseudoTerminal

COLUMNS, LINES = 100, 30
SPEED = 6.0  # of the GIF
FRAME_SECONDS = 1.5  # of the recording between two frames of the GIF
LAST_FRAME_MS = 4000
SCRIPT = (  # seconds after the start, and the keys pressed then
    (5.0, b"\r"),  # train quickstart, the first preset
    (45.0, b"c"),  # talk to it while it trains
    (50.0, b"Once"),
    (52.0, b"\r"),
    (70.0, b"\x1b"),
    (71.0, b"2"),  # back to the curves
    (115.0, b"c"),
    (120.0, b"One day, a cat"),
    (123.0, b"\r"),
)
END_SECONDS = 140.0
ANSI: dict[str, RGB] = {
    "black": (0, 0, 0),
    "red": (205, 49, 49),
    "green": (13, 188, 121),
    "brown": (229, 229, 16),
    "blue": (36, 114, 200),
    "magenta": (188, 63, 188),
    "cyan": (17, 168, 205),
    "white": (229, 229, 229),
}


def record(target: Path) -> None:
    """Play `SCRIPT` and write the cast to `target`."""
    os.environ["COLORTERM"] = "truecolor"
    keys = list(SCRIPT)
    with (
        tempfile.TemporaryDirectory() as home,
        PseudoTerminal(Path(home), COLUMNS, LINES) as terminal,
        target.open("w", encoding="utf-8") as cast,
    ):
        header = {"version": 2, "width": COLUMNS, "height": LINES, "title": "llm-workbench: the first two minutes"}
        cast.write(json.dumps(header) + "\n")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character
        start = time.monotonic()
        while (now := time.monotonic() - start) < END_SECONDS:
            if keys and now >= keys[0][0]:
                terminal.press(keys.pop(0)[1])
            if written := terminal.read(0.1):
                cast.write(json.dumps([round(now, 3), "o", decoder.decode(written)]) + "\n")


def read_cast(path: Path) -> Iterator[tuple[float, str]]:
    """The time and the text of everything that was written."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in lines[1:]:
        at, kind, text = json.loads(line)
        if kind == "o":
            yield at, text


def draw_gif(cast: Path, target: Path) -> None:
    """Draw a cast as an animated GIF, each frame only where it differs from the one before."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    frames: list[Image.Image] = []
    due = 0.0
    for at, text in read_cast(cast):
        while at >= due:
            frames.append(draw_cells(cells_of_screen(screen), 12))
            due += FRAME_SECONDS
        stream.feed(text)
    frames.append(draw_cells(cells_of_screen(screen), 12))
    palette = frames[-1].quantize(128)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [round(1000 * FRAME_SECONDS / SPEED)] * (len(small) - 1) + [LAST_FRAME_MS]
    small[0].save(target, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)


def cells_of_screen(screen: pyte.Screen) -> list[list[Cell]]:
    """The cells of the emulator's screen."""
    return [[cell_of(screen.buffer[y][x]) for x in range(screen.columns)] for y in range(screen.lines)]


def cell_of(character: pyte.screens.Char) -> Cell:
    foreground, background = color_of(character.fg, FOREGROUND), color_of(character.bg, BACKGROUND)
    if character.reverse:
        foreground, background = background, foreground
    return Cell(character.data or " ", foreground, background, character.bold)


def color_of(name: str, default: RGB) -> RGB:
    """A color as pyte names it: "default", one of eight names, or six hexadecimal digits."""
    if name == "default":
        return default
    name = name.removeprefix("bright")
    if name in ANSI:
        return ANSI[name]
    return int(name[0:2], 16), int(name[2:4], 16), int(name[4:6], 16)


def main() -> int:
    match sys.argv[1:]:
        case ["record", target]:
            record(Path(target))
        case ["gif", cast, target]:
            draw_gif(Path(cast), Path(target))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
