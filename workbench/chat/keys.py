"""The keys of the Chat screen, in the order in which the bottom line shows them."""

from __future__ import annotations

from textual.binding import Binding, BindingType

OF_AN_EXCHANGE = {"regenerate", "edit", "branch", "new", "export"}
"""Actions that need something that was said."""
OF_A_REPLY = {"go_on", "replay", "microscope", "split", "pin_prompt", "copy_reply", "keep"}
"""Actions that need something that a model said."""


def chat_key(identity: str, keys: str, action: str, label: str, about: str) -> Binding:
    """A key with a label for the bottom line, and what it does for the help."""
    return Binding(keys, action, label, id=f"chat.{identity}", tooltip=about)


def further_key(identity: str, keys: str, action: str, label: str, about: str, *, priority: bool = False) -> Binding:
    """A key that only the help shows."""
    return Binding(keys, action, label, id=f"chat.{identity}", tooltip=about, show=False, priority=priority)


CHAT_KEYS: list[BindingType] = [
    chat_key("escape", "escape", "leave('stop')", "Stop", "Stop writing, or what else is being done"),
    chat_key("escape", "escape", "leave('take back')", "Take it back", "Take back what waits for the model"),
    chat_key("escape", "escape", "leave('give up')", "Leave it", "Leave the prompt as it was"),
    chat_key("escape", "escape", "leave('conversation')", "Browse", "To the conversation, where single keys work"),
    chat_key("escape", "escape", "leave('prompt')", "Write", "Back to the prompt"),
    chat_key("edit", "e", "edit", "Edit", "Edit the prompt, as a branch beside it"),
    chat_key("microscope", "m", "microscope", "Microscope", "Microscope: what each token was drawn from"),
    chat_key("split", "s", "split", "Split", "Split: another checkpoint beside it"),
    chat_key("timelapse", "t", "timelapse", "Time-lapse", "Time-lapse: the prompt at every checkpoint"),
    chat_key("keep", "K", "keep", "Keep this step", "Keep the weights that wrote it"),
    chat_key("regenerate", "ctrl+r", "regenerate", "Again", "Another reply, with the next seed"),
    chat_key("go-on", "ctrl+g", "go_on", "Go on", "Let the model go on writing"),
    chat_key("model", "ctrl+o", "model", "Model", "Choose another model"),
    chat_key("knobs", "f2", "knobs", "Knobs", "To the knobs, and back"),
    chat_key("new", "ctrl+n", "new", "New", "A new conversation"),
    chat_key("view", "ctrl+t", "view", "Questions/text", "Questions and answers, or text that goes on"),
    chat_key("past", "f3,slash", "past", "Past", "Past conversations"),
    chat_key("branch", "b", "branch", "From here", "Go on from here, as a branch"),
    chat_key("replay", "R", "replay", "Replay", "Write the reply again, and compare"),
    chat_key("copy", "y", "copy_reply", "Copy", "Copy the reply"),
    further_key("pin-prompt", "P", "pin_prompt", "Pin", "Pin the prompt for every time-lapse, or unpin it"),
    further_key("export", "x", "export", "Export", "Export as Markdown and JSONL"),
    further_key("microscope-key", "f4", "microscope", "Microscope", "Microscope: what each token was drawn from"),
    further_key("split-key", "f5", "split", "Split", "Split: another checkpoint beside it"),
    # A text field has uses of its own for these two keys.
    further_key(
        "timelapse-key", "f6", "timelapse", "Time-lapse", "Time-lapse: the prompt at every checkpoint", priority=True
    ),
    further_key("export-key", "f7", "export", "Export", "Export as Markdown and JSONL", priority=True),
    further_key("knob-presets", "f8", "knob_presets", "Presets", "Named sets of knobs"),
]
