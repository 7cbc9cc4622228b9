"""Notifications of errors, and changes that report them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.app import App

from llm.errors import UserError
from workbench.text import clean

ERROR_SECONDS = 15.0


def notify_error(app: App[Any], error: Exception | str) -> None:
    """Show an error for long enough to read it."""
    app.notify(clean(describe_error(error)), severity="error", timeout=ERROR_SECONDS, markup=False)


def describe_error(error: Exception | str) -> str:
    """The message of an error; for an OSError, the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}."
    return str(error)


def attempt(app: App[Any], change: Callable[[], object]) -> bool:
    """Call `change` and report a UserError or OSError; returns whether it succeeded. Works in any thread."""
    try:
        change()
    except (UserError, OSError) as error:
        notify_error(app, error)
        return False
    return True
