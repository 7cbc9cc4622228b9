"""What the Data screen says of one corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.content import Content

from llm.data.text.urls import is_address
from workbench.chat.tokens import coloured, quoted
from workbench.data.corpora import Entry, Looked, sides
from workbench.formatting import format_size
from workbench.text import clean

if TYPE_CHECKING:
    from workbench.data.screen import DataScreen

NEXT = {
    "embedded": "Enter prepares it; u takes it to the presets.",
    "added": "Enter prepares it; u takes it to the presets; d forgets it, the files stay.",
    "address": "Enter prepares it; u takes it to the presets; d forgets it and deletes the copy.",
    "named": "Enter prepares it; u takes it to the presets.",
    "prepared": "u takes it to the presets; t types a text and splits it with this tokenizer.",
}


def corpus_page(
    entry: Entry, found: DataScreen.Found | None, width: int, *, with_ids: bool, monochrome: bool
) -> Content:
    """Facts, then text or tokens; while nobody has looked yet, what the index says."""
    title = entry.about if entry.kind == "prepared" else entry.name
    below = entry.name if entry.kind == "prepared" else entry.about
    lines: list[Content] = [Content.styled(clean(title), "bold"), Content(clean(below)), Content("")]
    problem = entry.problem or (found.problem if found is not None else "")
    if problem:
        lines.append(Content.styled(clean(problem), "$text-error"))
    elif entry.kind == "prepared":
        looked = found.looked if found is not None else None
        lines += prepared_facts(entry, looked)
        if looked is not None:
            lines += token_tables(looked, width)
            lines += [heading("How it begins")]
            beginning = looked.beginning
            lines += [coloured(looked.dataset.tokenizer, beginning, with_ids=with_ids, monochrome=monochrome)]
    elif not entry.here:
        lines.append(Content("Not here. Enter downloads it."))
    elif entry.corpus:
        next_ = NEXT["address" if is_address(entry.corpus) else entry.kind]
        lines.append(Content.styled(next_, "$foreground-muted"))
        lines += [Content.styled(clean(note), "$text-warning") for note in (found.notes if found is not None else ())]
        lines.append(heading("How it begins"))
        lines.append(Content(clean(found.text)) if found is not None else Content.styled("reading…", "dim"))
    else:
        lines.append(Content("Questions to measure a model with; no text to learn from."))
    return Content("\n").join(lines)


def heading(text: str) -> Content:
    return Content.assemble("\n", (text, "bold $text-accent"))


def prepared_facts(entry: Entry, looked: Looked | None) -> list[Content]:
    """Tokenizer, sizes and shares of a prepared data set."""
    both = sides(entry.record)
    splits = entry.record["splits"]
    facts: list[tuple[str, str]] = []
    if looked is not None:
        tokenizer = looked.dataset.tokenizer
        facts.append(("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} ids"))
    facts += [
        ("training", f"{splits['train']['tokens']:,} tokens"),
        ("held out", f"{splits['validation']['tokens']:,} tokens, {100 * both.held_out_share:.1f}%{how(entry.record)}"),
        ("text", f"{format_size(both.text_bytes)}, {both.bytes_per_token:.2f} bytes per token"),
    ]
    if looked is not None:
        facts.append(("on disk", format_size(looked.size_bytes)))
    changes = looked.dataset.tokenizer.text_changes() if looked is not None else ""
    sentences = [*entry.record.get("notes", ()), *entry.record.get("warnings", ()), *filter(None, [changes])]
    facts += [("note", clean(sentence)) for sentence in sentences]
    lines = [Content.assemble((f"{name:<10}", "$foreground-muted"), value) for name, value in facts]
    return [*lines, Content.styled(NEXT["prepared"], "$foreground-muted")]


def how(record: Any) -> str:
    """Which share is held out, where the index says how it was made."""
    data = record.get("made_with", {}).get("data", {})
    if data.get("validation"):
        return ", a text of its own"
    return {"documents": ", whole documents", "tail": ", the end of the text"}.get(data.get("split", ""), "")


def token_tables(looked: Looked, width: int) -> list[Content]:
    """Most and least frequent tokens, as many as fit into three lines each."""
    counted = f"in {looked.counted:,} tokens" + (f"; {looked.unused:,} ids never occur" if looked.unused else "")
    return [
        Content.assemble(heading("Most frequent"), (f"  {counted}", "$foreground-muted")),
        flowing(looked, looked.most, width),
        heading("Least frequent"),
        flowing(looked, looked.least, width),
    ]


def flowing(looked: Looked, pairs: list[tuple[int, int]], width: int, most_lines: int = 3) -> Content:
    """`token count` pairs, side by side, in columns of equal width."""
    cells = [
        Content.assemble((quoted(looked.dataset.tokenizer, token), "bold"), (f" {count:,}", "$foreground-muted"))
        for token, count in pairs
    ]
    if not cells:
        return Content("")
    column = min(max(cell.cell_length for cell in cells) + 2, max(width, 12))
    across = max(1, width // column)
    rows = [cells[start : start + across] for start in range(0, min(len(cells), across * most_lines), across)]
    padded = (Content("").join(cell.pad_right(max(0, column - cell.cell_length)) for cell in row) for row in rows)
    return Content("\n").join(padded)
