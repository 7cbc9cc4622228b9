"""Presets that fine-tune another preset's run: the base trains first, and the stage follows when it has ended."""

from __future__ import annotations

from pathlib import Path

from llm.config import RunConfig
from llm.config.sizes import MEDIUM
from llm.run import Run
from workbench.presets.sizes import size_entry


class Stages:
    """The stages of one home that wait for their base run, in memory only. After a restart, starting the preset finds
    the base again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._waiting: dict[str, tuple[RunConfig, str]] = {}  # name of the base run → (configuration, stem)

    def first_run(self, config: RunConfig, stem: str, size: str) -> Run:
        """The run to train now for a preset with a base: its own if the base is complete, else the base run, a new one
        in `size`. Raises UserError."""
        from llm.training.base_run import base_config, find_base_run, is_complete, start_from_base

        base = find_base_run(self.home, config)
        if base is not None and is_complete(base):
            return start_from_base(self.home, config, base, stem=stem)
        if base is None:
            preset = base_config(self.home, config, size or MEDIUM)
            base = Run.create_numbered(self.home, config.tune.base, preset, extra=size_entry(size))
        self._waiting[base.name] = config, stem
        return base

    def waits_for(self, name: str) -> str:
        """The preset that starts from a run when it has ended; "" for none."""
        return self._waiting[name][1] if name in self._waiting else ""

    def next_run(self, ended: str) -> Run | None:
        """The run to train after the run `ended`; None if none waits for it, or it is not complete. Raises
        UserError."""
        if ended not in self._waiting:
            return None
        from llm.training.base_run import is_complete, start_from_base

        config, stem = self._waiting.pop(ended)
        base = Run(self.home / "runs" / ended)
        return start_from_base(self.home, config, base, stem=stem) if is_complete(base) else None
