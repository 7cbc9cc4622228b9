"""The keys of the Runs screen, the most used ones first: the key line leaves out what does not fit.

The ids are stable: users remap keys by id in settings.toml.
"""

from __future__ import annotations

from textual.binding import Binding, BindingType

RUNS_KEYS: list[BindingType] = [
    Binding("r", "resume", "Resume", id="runs.resume"),
    Binding("f", "fork", "Fork", id="runs.fork"),
    Binding("F", "fine_tune", "Fine-tune", id="runs.fine-tune"),
    Binding("c", "chat", "Chat", id="runs.chat"),
    Binding("t", "curves", "Curves", id="runs.curves"),
    Binding("space", "mark", "Mark", id="runs.mark", key_display="␣"),
    Binding("o", "overlay", "Overlay", id="runs.overlay"),
    Binding("equals_sign", "compare", "Compare", id="runs.compare", key_display="="),
    Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
    Binding("d,delete", "delete", "Delete", id="runs.delete", key_display="d"),
    Binding("s", "sort", "Sort", id="runs.sort"),
    Binding("S", "reverse", "Reverse", id="runs.reverse"),
    Binding("l", "lineage", "Tree", id="runs.lineage"),
    Binding("Q", "enqueue", "Enqueue", id="runs.queue"),
    Binding("v", "verify", "Verify", id="runs.verify"),
    Binding("p", "pin", "Pin", id="runs.pin"),
    Binding("n", "notes", "Notes", id="runs.notes"),
    Binding("T", "tags", "Tags", id="runs.tags"),
    Binding("R", "rename", "Rename", id="runs.rename"),
    Binding("e", "export", "Export CSV", id="runs.export"),
    Binding("E", "export_model", "Export model", id="runs.export-model"),
    Binding("I", "import_model", "Import model", id="runs.import"),
    Binding("y", "copy_path", "Copy path", id="runs.copy-path"),
    Binding("w", "queue", "Queue", id="runs.waiting"),
    Binding("x", "trash", "Trash", id="runs.trash"),
    Binding("A", "serve", "Serve API", id="runs.serve"),
    Binding("D", "cached_data", "Prepared data", id="runs.data"),
    Binding("escape", "back", "Back", id="runs.back", show=False),
]
