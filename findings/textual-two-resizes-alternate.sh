#!/bin/sh
# textual 8.2.8: with two sizes in the queue of a screen and a message between them, the screen is laid out at one size
# and the other in turn, without end.
#
# Expected: after several sizes at once, the screen is laid out at the newest one a few times at most.
# Seen: layouts continue for as long as the screen has other messages to handle. A layout at a size posts that size to
# the screen again, and the two in the queue keep each other alive. Here 300 messages are allowed, then it ends.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet textual==8.2.8
timeout 60 "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys

from textual.app import App
from textual.events import Resize
from textual.geometry import Size


async def main() -> int:
    app = App()
    async with app.run_test(size=(80, 24)) as pilot:
        screen, laid_out, left = app.screen, [], 300
        refresh = screen._refresh_layout

        def count(size=None, scroll=False):
            laid_out.append(size)
            refresh(size, scroll)

        def between():
            nonlocal left
            left -= 1
            if left > 0:
                screen.call_later(between)

        screen._refresh_layout = count
        for size in (Size(60, 20), Size(80, 24)):
            screen.post_message(Resize(size, size))
            screen.call_later(between)
        while left > 0:
            await asyncio.sleep(0.01)
        await pilot.pause()
    old, new = laid_out.count(Size(60, 20)), laid_out.count(Size(80, 24))
    print(f"after two sizes and 300 other messages: laid out {old} times at the old size, {new} times at the new one")
    return min(old, new)


sys.exit(asyncio.run(main()) < 20)
PYTHON
