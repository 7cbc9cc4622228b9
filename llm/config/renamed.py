"""Renamed fields. Their old names are still read from `run.toml`, presets, flags and saved overrides."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

RENAMED = {"train.attention": "train.kernels"}
"""Old path of a field → its new path."""

RENAMED_VALUES = {"train.kernels": {"sdpa": "fused"}}
"""New path of a field → its old values → their new names."""


def current_path(path: str) -> str:
    """The path of a field today. Logs one line per process and field where `path` is an old one."""
    if path not in RENAMED:
        return path
    log_rename(path)
    return RENAMED[path]


def current_value(path: str, value: Any) -> Any:
    """The value of the field at (new) `path` under its name today."""
    return RENAMED_VALUES.get(path, {}).get(value, value) if isinstance(value, str) else value


@cache
def log_rename(path: str) -> None:
    """Written to stderr unless a log handler is installed."""
    logging.getLogger(__name__).warning("%s is now called %s; the old name still works.", path, RENAMED[path])
