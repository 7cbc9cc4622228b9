#!/bin/sh
# textual 8.2.8: a footer holds the keys it has shown before (all but the palette's) for as long as its screen lives.
#
# Expected: when the keys change and the footer is composed anew, the widgets of the old keys are released.
# Seen: each of them is a FooterKey bound to the footer's `compact` with data_bind, and a watcher is dropped from the list only
# when the watched value changes, which `compact` does not. The same holds for any widget bound to a value that stays.
# Exits 0 while this is so, 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet textual==8.2.8
timeout 60 "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import gc
import sys

from textual.app import App
from textual.widgets import Footer
from textual.widgets._footer import FooterKey


class Keys(App):
    BINDINGS = [("a", "app.bell", "One"), ("b", "app.bell", "Two")]

    def compose(self):
        yield Footer()


async def main() -> bool:
    app = Keys()
    async with app.run_test() as pilot:
        counts = []
        for _ in range(3):
            for _ in range(20):
                app.query_one(Footer).refresh(recompose=True)
                await pilot.pause()
            gc.collect()
            counts.append(sum(isinstance(each, FooterKey) for each in gc.get_objects()))
        print(f"{len(app.query(FooterKey))} keys on the screen; in memory after 20, 40 and 60 compositions: {counts}")
    return counts[2] - counts[0] >= 40


sys.exit(not asyncio.run(main()))
PYTHON
