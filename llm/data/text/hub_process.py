"""Downloads a dataset of the hub: `python -m llm.data.text.hub_process NAME CONFIGURATION FOLDER`.

Prints a JSON object twice a second: the bytes read and written so far and in all (0: unknown), or an error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

REPORT_SECONDS = 0.5


class Report:
    """Prints the size of `folders`, to which the download adds, until the process ends."""

    def __init__(self, folder: Path) -> None:
        self.folders, self.total = [folder], 0
        threading.Thread(target=self._run, name="report", daemon=True).start()

    def _run(self) -> None:
        stopped = threading.Event()
        while not stopped.wait(REPORT_SECONDS):
            try:
                say({"done": sum(map(size_of, self.folders)), "total": self.total})
            except OSError:  # the program that started this one has ended
                os._exit(1)


def say(record: dict[str, Any]) -> None:
    """Print one line at once."""
    os.write(1, json.dumps(record).encode() + b"\n")


def size_of(folder: Path) -> int:
    """The bytes of the files below `folder`; links are not followed."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - thousands of files
            except OSError:  # renamed meanwhile
                continue
    return size


def download(name: str, configuration: str, folder: Path, report: Report) -> None:
    """Save the training split in `folder`. Raises what the library raises."""
    from datasets import disable_progress_bars, load_dataset_builder
    from huggingface_hub.constants import HF_HUB_CACHE

    disable_progress_bars()
    builder = load_dataset_builder(name, configuration or None)
    info = builder.info
    report.folders += [Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}"), Path(builder.cache_dir)]
    report.total = (info.download_size or 0) + 2 * (info.dataset_size or 0)  # downloaded, converted and saved
    builder.download_and_prepare()
    builder.as_dataset(split="train").save_to_disk(str(folder))


def main(name: str, configuration: str, folder: str) -> int:
    """Download, and print an error as one line."""
    report = Report(Path(folder))
    try:
        download(name, configuration, Path(folder), report)
    except Exception as error:  # noqa: BLE001 - the libraries raise errors of many kinds, and all end the download
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say({"error": reason})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
