"""The last step that a tracker without a way back has, kept beside its files."""

from __future__ import annotations

from pathlib import Path

from llm.files import read_json, write_json
from llm.reader import Malformed


class LastStep:
    """The last step of a run that was written, so that a resumed run or a second export adds only what is new.

    Rows of one step may come one after the other (a logged step and its evaluation).
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self._path, self._run_id = path, run_id
        try:
            kept = read_json(path) if path.exists() else {}
        except (OSError, Malformed):
            kept = {}
        known = isinstance(kept, dict) and kept.get("id") == run_id and isinstance(kept.get("step"), int)
        self.before: int = kept["step"] if known else -1
        """The last step of an earlier session; −1 for none."""
        self._step = self.before

    def is_new(self, step: int) -> bool:
        return step > self.before

    def note(self, step: int) -> None:
        self._step = max(self._step, step)

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {"id": self._run_id, "step": self._step})
