"""The page of the Data screen about one corpus."""

from __future__ import annotations

from typing import Any

from textual.content import Content

from llm.data.text.urls import is_url
from workbench.chat.tokens import color_tokens, quote_token
from workbench.data.corpora import Contents, Entry
from workbench.data.index import dataset_sizes
from workbench.data.prepared_data import Inspection
from workbench.formatting import format_size
from workbench.text import clean

MAX_LINES = 3  # of each table of tokens
HINTS = {
    "built-in": "Press Enter to prepare it, u to use it in a preset.",
    "added": "Press Enter to prepare it, u to use it in a preset, d to remove it from the list (the files stay).",
    "address": "Press Enter to prepare it, u to use it in a preset, d to remove it and delete the downloaded copy.",
    "named": "Press Enter to prepare it, u to use it in a preset.",
    "prepared": "Press u to use it in a preset, t to tokenize any text with its tokenizer.",
}


def corpus_page(entry: Entry, contents: Contents | None, width: int, *, with_ids: bool, monochrome: bool) -> Content:
    """Facts, then text or tokens. Until `contents` is read, only what the index contains."""
    title = entry.about if entry.kind == "prepared" else entry.name
    below = entry.name if entry.kind == "prepared" else entry.about
    lines: list[Content] = [Content.styled(clean(title), "bold"), Content(clean(below)), Content("")]
    problem = entry.problem or (contents.problem if contents is not None else "")
    if problem:
        lines.append(Content.styled(clean(problem), "$text-error"))
    elif entry.kind == "prepared":
        inspection = contents.inspection if contents is not None else None
        lines += prepared_facts(entry, inspection)
        if inspection is not None:
            lines += token_tables(inspection, width)
            lines += [heading("Beginning")]
            beginning = inspection.beginning
            lines += [color_tokens(inspection.dataset.tokenizer, beginning, with_ids=with_ids, monochrome=monochrome)]
    elif not entry.here:
        lines.append(Content("Not downloaded. Press Enter to download it."))
    elif entry.corpus:
        hint = HINTS["address" if is_url(entry.corpus) else entry.kind]
        lines.append(Content.styled(hint, "$foreground-muted"))
        lines += [
            Content.styled(clean(note), "$text-warning") for note in (contents.warnings if contents is not None else ())
        ]
        lines.append(heading("Beginning"))
        lines.append(Content(clean(contents.text)) if contents is not None else Content.styled("Reading…", "dim"))
    else:
        lines.append(Content("Questions for evaluation; no text to train on."))
    return Content("\n").join(lines)


def heading(text: str) -> Content:
    return Content.assemble("\n", (text, "bold $text-accent"))


def prepared_facts(entry: Entry, inspection: Inspection | None) -> list[Content]:
    """Tokenizer, sizes and shares of a prepared dataset."""
    both = dataset_sizes(entry.record)
    splits = entry.record["splits"]
    facts: list[tuple[str, str]] = []
    if inspection is not None:
        tokenizer = inspection.dataset.tokenizer
        facts.append(("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} ids"))
    facts += [
        ("training", f"{splits['train']['tokens']:,} tokens"),
        (
            "validation",
            f"{splits['validation']['tokens']:,} tokens, {100 * both.validation_share:.1f}%{split_text(entry.record)}",
        ),
        ("text", f"{format_size(both.text_bytes)}, {both.bytes_per_token:.2f} bytes per token"),
    ]
    if inspection is not None:
        facts.append(("on disk", format_size(inspection.size_bytes)))
    changes = inspection.dataset.tokenizer.text_changes() if inspection is not None else ""
    sentences = [*entry.record.get("notes", ()), *entry.record.get("warnings", ()), *filter(None, [changes])]
    facts += [("note", clean(sentence)) for sentence in sentences]
    lines = [Content.assemble((f"{name:<11}", "$foreground-muted"), value) for name, value in facts]
    return [*lines, Content.styled(HINTS["prepared"], "$foreground-muted")]


def split_text(record: Any) -> str:
    """How the validation text was split off, if the index records it."""
    data = record.get("made_with", {}).get("data", {})
    if data.get("validation"):
        return ", a separate text"
    return {"documents": ", whole documents", "tail": ", the end of the text"}.get(data.get("split", ""), "")


def token_tables(inspection: Inspection, width: int) -> list[Content]:
    """The most and least frequent tokens."""
    counted = f"in {inspection.counted:,} tokens" + (
        f"; {inspection.unused:,} ids never occur" if inspection.unused else ""
    )
    return [
        Content.assemble(heading("Most frequent"), (f"  {counted}", "$foreground-muted")),
        token_columns(inspection, inspection.most, width),
        heading("Least frequent"),
        token_columns(inspection, inspection.least, width),
    ]


def token_columns(inspection: Inspection, pairs: list[tuple[int, int]], width: int) -> Content:
    """`token count` pairs in columns of equal width."""
    cells = [
        Content.assemble(
            (quote_token(inspection.dataset.tokenizer, token), "bold"), (f" {count:,}", "$foreground-muted")
        )
        for token, count in pairs
    ]
    if not cells:
        return Content("")
    column = min(max(cell.cell_length for cell in cells) + 2, max(width, 12))
    across = max(1, width // column)
    rows = [cells[start : start + across] for start in range(0, min(len(cells), across * MAX_LINES), across)]
    padded = (Content("").join(cell.pad_right(max(0, column - cell.cell_length)) for cell in row) for row in rows)
    return Content("\n").join(padded)
