"""The last step that was written to a tracker that cannot discard steps, in a file of its folder."""

from __future__ import annotations

from pathlib import Path

from llm.files import read_json, write_json


class LastStep:
    """The last step of a run that was written, so that a resumed run or a second export adds only what is new.

    Rows of one step may come one after the other (a logged step and its evaluation). UserError for a damaged file:
    without it a step could be written twice.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self._path, self._run_id = path, run_id
        record = read_json(path) if path.exists() else {}
        known = isinstance(record, dict) and record.get("id") == run_id and isinstance(record.get("step"), int)
        self.before: int = record["step"] if known else -1
        """The last step of an earlier session; −1 for none."""
        self._step = self.before

    def is_new(self, step: int) -> bool:
        return step > self.before

    def note(self, step: int) -> None:
        self._step = max(self._step, step)

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {"id": self._run_id, "step": self._step})
