"""The keys of the Chat screen, in the order of the key line.

The ids are stable: users remap keys by id in settings.toml.
"""

from __future__ import annotations

from textual.binding import Binding, BindingType

from workbench.chat.conversation import Exchange

NEEDS_EXCHANGE = {"regenerate", "edit", "branch", "new", "export"}
"""Actions that need an exchange."""
NEEDS_REPLY = {"continue_reply", "replay", "microscope", "split", "pin_prompt", "copy_reply", "keep", "mark"}
"""Actions that need a reply with tokens."""


def is_possible(action: str, picked: Exchange | None, writing: bool) -> bool:
    """Whether an action has an effect on the selected exchange. `writing`: a reply is being generated."""
    if action in NEEDS_EXCHANGE:
        return picked is not None and (not writing or action == "new")
    if action == "correct":  # an empty reply too
        return picked is not None and bool(picked.model) and not writing and suits(action, picked)
    if action in NEEDS_REPLY:
        return picked is not None and bool(picked.tokens) and not writing and suits(action, picked)
    return True


def suits(action: str, picked: Exchange) -> bool:
    """Whether an action makes sense for a reply of this kind."""
    match action:
        case "continue_reply":
            return not picked.is_turn
        case "keep":
            return picked.live
        case "mark":
            return suits("correct", picked) and bool(picked.reply.strip())
        case "correct":
            return picked.kind != "on" and bool(picked.question.strip())
    return True


def key(
    identity: str, keys: str, action: str, label: str, about: str, *, hidden: bool = False, priority: bool = False
) -> Binding:
    """A key with a label for the key line, unless hidden, and a text for the help."""
    return Binding(keys, action, label, id=f"chat.{identity}", tooltip=about, show=not hidden, priority=priority)


MICROSCOPE = ("microscope", "Microscope", "Microscope: the distribution of each token")
SPLIT = ("split", "Split", "Split: compare with another checkpoint")
TIMELAPSE = ("timelapse", "Time-lapse", "Time-lapse: the prompt at every checkpoint")
EXPORT = ("export", "Export", "Export as Markdown and JSONL")

CHAT_KEYS: list[BindingType] = [
    key("escape", "escape", "leave('stop')", "Stop", "Stop the reply or the running job"),
    key("escape", "escape", "leave('cancel send')", "Cancel send", "Do not send the prompt; return it to the field"),
    key("escape", "escape", "leave('cancel edit')", "Cancel edit", "Leave the prompt unchanged"),
    key("escape", "escape", "leave('conversation')", "Browse", "To the conversation, where single-letter keys work"),
    key("escape", "escape", "leave('prompt')", "Prompt", "Back to the prompt"),
    key("escape", "escape", "leave('cancel correction')", "Cancel", "Leave the reply unchanged"),
    key("edit", "e", "edit", "Edit", "Edit the prompt, as a new branch"),
    key("good", "plus", "mark('good')", "Good", "Mark the reply good: fine-tuning trains on it"),
    key("bad", "minus", "mark('bad')", "Bad", "Mark the reply bad"),
    key("correct", "c", "correct", "Correct", "Correct the reply: fine-tuning trains on the correction"),
    key("undo", "u", "undo", "Undo", "Undo the last mark"),
    key("tune", "T", "tune", "Fine-tune", "Fine-tune the model on the replies marked good"),
    key("microscope", "m", *MICROSCOPE),
    key("split", "s", *SPLIT),
    key("timelapse", "t", *TIMELAPSE),
    key("keep", "K", "keep", "Save weights", "Save the weights that wrote the reply"),
    key("regenerate", "ctrl+r", "regenerate", "Regenerate", "Generate another reply, with the next seed"),
    key("go-on", "ctrl+g", "continue_reply", "Continue", "Continue the reply"),
    key("model", "ctrl+o", "model", "Model", "Open another model"),
    key("knobs", "f2", "knobs", "Sampling", "To the sampling parameters, and back"),
    key("new", "ctrl+n", "new", "New", "New conversation"),
    key("view", "ctrl+t", "view", "Chat mode", "Switch between completion and chat"),
    key("system", "f12", "system", "System", "The system prompt: what the model reads before the conversation"),
    key("past", "f3,slash", "past", "History", "Past conversations"),
    key("branch", "b", "branch", "Branch", "Start a branch after this exchange"),
    key("replay", "R", "replay", "Replay", "Generate the reply again, and compare"),
    key("copy", "y", "copy_reply", "Copy", "Copy the reply"),
    key("pin-prompt", "P", "pin_prompt", "Pin", "Pin the prompt for the time-lapse, or unpin it", hidden=True),
    key("export", "x", *EXPORT, hidden=True),
    key("microscope-key", "f4", *MICROSCOPE, hidden=True),
    key("split-key", "f5", *SPLIT, hidden=True),
    # The prompt field uses these two keys itself.
    key("timelapse-key", "f6", *TIMELAPSE, hidden=True, priority=True),
    key("export-key", "f7", *EXPORT, hidden=True, priority=True),
    key("knob-presets", "f8", "knob_presets", "Presets", "Saved sampling parameters", hidden=True),
]
