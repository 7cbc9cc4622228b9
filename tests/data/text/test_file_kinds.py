"""What files hold is told by their content, wherever a sign of it stands and whatever they are called."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from llm.config.schema import DataConfig
from llm.data.text import json_text, text_files
from llm.data.text.corpora import Corpus, open_corpus
from llm.errors import UserError

SEPARATOR = "<|endoftext|>"
ROWS = [{"text": f'Row {n} 海, "said"\n[the] {{fox}}.', "n": n} for n in range(40)]
TEXTS = [str(row["text"]) for row in ROWS]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def opened(pattern: Path | str, **fields: Any) -> Corpus:
    return open_corpus(DataConfig(corpus=str(pattern), **fields), Path(), SEPARATOR)


def texts(corpus: Corpus) -> list[str]:
    return ["".join(document.pieces) for document in corpus.documents()]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- separators


@pytest.mark.parametrize("before", [text_files.PIECE_BYTES - 5, text_files.PIECE_BYTES, 3 * text_files.PIECE_BYTES])
def test_separators_count_wherever_the_first_stands(tmp_path: Path, before: int) -> None:
    """Past the first megabyte, at its end, and across its border; the text before it is stripped like the others."""
    first = "\n\n" + "x" * (before - 2)
    (tmp_path / "a.txt").write_text(first + SEPARATOR + SEPARATOR.join(f"\ntext {n}\n" for n in range(40)))
    assert texts(opened(tmp_path / "a.txt")) == [first.strip(), *(f"text {n}" for n in range(40))]


def test_every_place_of_a_separator_across_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PIECE_BYTES", 32)
    for place in range(100):
        text = "é" * (place % 7) + "a" * place + SEPARATOR + "b" * 90 + SEPARATOR + "c"
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        assert texts(opened(tmp_path / "a.txt")) == [part for part in text.split(SEPARATOR) if part]


def test_a_text_too_long_to_be_held_is_read_as_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PIECE_BYTES", 100)
    monkeypatch.setattr(text_files, "MAX_CHARACTERS_IN_MEMORY", 300)
    long = "word " * 400 + "end"
    (tmp_path / "a.txt").write_text(f"one{SEPARATOR} \n {long} \n\n {SEPARATOR}\ntwo\n{SEPARATOR}{long}")
    corpus = opened(tmp_path / "a.txt")
    assert texts(corpus) == ["one", long, "two", long]
    assert [document.name for document in corpus.documents()] == ["a.txt"] * 4, "though nobody read the pieces"
    assert max(len(piece) for document in corpus.documents() for piece in document.pieces) < 500


# --- compressed files and other encodings


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_text_and_rows_are_read(tmp_path: Path, suffix: str) -> None:
    text = "Einst\n\nwar 海 " * 100_000
    (tmp_path / f"a.txt{suffix}").write_bytes(COMPRESS[suffix](text.encode()))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(COMPRESS[suffix](lines(ROWS).encode()))
    (tmp_path / f"c{suffix}").write_bytes(COMPRESS[suffix](f"one{SEPARATOR}two".encode()))
    corpus = opened(tmp_path)
    assert texts(corpus) == [text, *TEXTS, "one", "two"]
    assert corpus.warnings() == []
    assert texts(opened(tmp_path / f"b.jsonl{suffix}")) == TEXTS


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    raw = COMPRESS[suffix]("".join(f"{n * n} {n}\n" for n in range(50_000)).encode())
    middle = len(raw) // 2
    raw = raw[:middle] if damage == "cut off" else raw[:middle] + bytes(64) + raw[middle + 64 :]
    (tmp_path / f"a.txt{suffix}").write_bytes(raw)
    with pytest.raises(UserError, match=rf"compressed file .*a\.txt\{suffix} .* is damaged or truncated .*restore"):
        texts(opened(tmp_path / f"a.txt{suffix}"))


def test_frames_one_after_another_and_frames_to_skip(tmp_path: Path) -> None:
    compress = COMPRESS[".zst"]
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    (tmp_path / "a.txt.zst").write_bytes(skipped + compress(b"one ") + compress(b"") + skipped + compress(b"two"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"three ") + gzip.compress(b"four"))
    assert texts(opened(tmp_path)) == ["one two", "three four"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
def test_a_byte_order_mark_decides_the_encoding(tmp_path: Path, encoding: str) -> None:
    """Of text, JSON lines, JSON and CSV."""
    (tmp_path / "a.txt").write_bytes(f"\ufeffEinst war 海🙂{SEPARATOR}\ufffd".encode(encoding))
    (tmp_path / "b.jsonl").write_bytes(("\ufeff" + lines(ROWS)).encode(encoding))
    (tmp_path / "c.json").write_bytes(("\ufeff" + json.dumps(ROWS)).encode(encoding))
    (tmp_path / "d.csv").write_bytes('\ufefftext,n\n"Once, 海",1\n'.encode(encoding))
    corpus = opened(tmp_path)
    assert texts(corpus) == ["Einst war 海🙂", "\ufffd", *TEXTS, *TEXTS, "Once, 海"]
    assert texts(opened(tmp_path / "b.jsonl")) == TEXTS


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("人人生而自由,在尊严和权利上一律平等。\n" * 50, "gbk", "GB18030"),
        ("Où est la forêt près de la rivière ?\n" * 50, "latin-1", "WINDOWS-1252"),
    ],
)
def test_the_warning_about_another_encoding_names_it_and_what_to_do(
    tmp_path: Path, text: str, encoding: str, named: str
) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    corpus = opened(tmp_path / "a.txt")
    texts(corpus)
    (warning,) = corpus.warnings()
    assert "a.txt" in warning
    assert "the file has another encoding" in warning
    assert f"iconv -f {named} -t UTF-8" in warning
    assert (tmp_path / "a.txt").read_bytes().decode(named.lower()) == text, "what the sentence says helps"


def test_archives_are_refused_as_what_they_are(tmp_path: Path) -> None:
    import tarfile
    import zipfile

    (tmp_path / "in.txt").write_text("text")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "in.txt", "in.txt")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "in.txt", "in.txt")
    for name, reason in (("a.zip", "a zip archive: unpack it"), ("a.tar.gz", "a tar archive: unpack it")):
        with pytest.raises(UserError, match=reason):
            texts(opened(tmp_path / name))
    (tmp_path / "in.txt").rename(tmp_path / "z.txt")
    corpus = opened(tmp_path)
    assert texts(corpus) == ["text"]
    assert all(any(reason in note for note in corpus.warnings()) for reason in ("zip archive", "tar archive"))


# --- rows


SHAPES = {
    "lines": lines(ROWS),
    "lines apart": "\n\n" + lines(ROWS).replace("\n", "\r\n\r\n"),
    "pretty-printed": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "concatenated": "".join(json.dumps(row) for row in ROWS),
    "list": json.dumps(ROWS),
    "pretty-printed list": json.dumps(ROWS, indent=4, ensure_ascii=False),
    "data": json.dumps({"version": "1.0", "data": ROWS}),
    "pretty-printed data": json.dumps({"meta": {"a": [1]}, "data": ROWS, "more": [[1], [2]]}, indent=1),
    "another list": json.dumps({"n": 1, "examples": ROWS}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["a.json", "a.JSONL", "a.jsonl", "a.txt", "rows", "a.ndjson.gz"])
def test_rows_of_json_are_known_by_their_content(tmp_path: Path, shape: str, name: str) -> None:
    raw = SHAPES[shape].encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert texts(opened(tmp_path / name)) == TEXTS


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [16, 57, 1000])
def test_rows_are_the_same_wherever_pieces_end(
    tmp_path: Path, shape: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "PIECE_BYTES", size)
    (tmp_path / "a.json").write_text(SHAPES[shape], encoding="utf-8")
    assert texts(opened(tmp_path / "a.json")) == TEXTS


def test_rows_too_long_for_the_first_look(tmp_path: Path) -> None:
    long = [{"n": 0, "text": "long " * 40_000}, {"n": 1, "text": "short"}]
    wanted = [row["text"] for row in long]
    for number, text in enumerate(
        (lines(long), json.dumps(long), json.dumps({"data": long}), json.dumps(long, indent=1))
    ):
        (tmp_path / f"{number}.json").write_text(text)
        assert texts(opened(tmp_path / f"{number}.json")) == wanted


def test_what_a_file_is_does_not_depend_on_where_its_rows_begin(tmp_path: Path) -> None:
    filler = {"meta": ["x" * 50_000] * 6}
    late_lists = (json.dumps(filler | {"data": ROWS}), json.dumps(filler | {"examples": ROWS}, indent=1))
    for number, text in enumerate(late_lists):
        (tmp_path / f"{number}.json").write_text(" \n" * 100_000 * number + text)
        assert texts(opened(tmp_path / f"{number}.json")) == TEXTS
    late = [filler | row for row in ROWS]
    (tmp_path / "a.json").write_text(lines(late))
    assert texts(opened(tmp_path / "a.json")) == TEXTS
    (tmp_path / "b.json").write_text(lines([filler, filler]))
    with pytest.raises(UserError, match="its fields are: meta"):
        texts(opened(tmp_path / "b.json"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_lists_of_objects_inside_rows_are_no_rows(tmp_path: Path, name: str) -> None:
    rows = [{"data": [{"text": "no"}], "text": f"text {n}", "more": [{"text": "no"}]} for n in range(3)]
    path = tmp_path / name
    for content in (lines(rows), lines(rows[:1]), json.dumps(rows)):
        path.write_text(content)
        assert texts(opened(path)) == [row["text"] for row in rows][: content.count("more")]
    path.write_text(lines([{"data": [{"text": "no"}], "n": n} for n in range(3)]))
    with pytest.raises(UserError, match="its fields are: data, n"):
        texts(opened(path))


def test_sentences_stay_short_for_any_fields(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({f"word {n}": n for n in range(50_000)}))
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "b.jsonl").write_text(json.dumps({"k" * 9999: 1, **{f"f{n}": n for n in range(999)}}))
    corpus = opened(tmp_path / "[av]*")
    assert len(texts(corpus)) == 2
    assert 0 < len(corpus.warnings()[0]) < 1000
    with pytest.raises(UserError) as caught:
        texts(opened(tmp_path / "b.jsonl"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv(tmp_path: Path, delimiter: str, ending: str) -> None:
    rows = [
        ["id", "text", "label"],
        ["1", 'He said "no"\nand left; a,b|c\td.', "x"],
        ["2", "海", "y"],
        ["3", "", "z"],
        ["4"],
    ]
    quoted = (delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    (tmp_path / "a.csv").write_bytes((ending.join(quoted) + ending).encode())
    corpus = opened(tmp_path / "a.csv")
    assert texts(corpus) == ['He said "no"\nand left; a,b|c\td.', "海"]
    assert "skipped 1 row without text" in corpus.warnings()[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text,n\na,b,c\n", r"a\.csv line 2 has 3 cells where the first row has 2; put the text in quotes"),
        ('text,n\n"a,1\nb,2\n', r"a\.csv line 3 is not CSV"),
        ("id,body\n1,a\n", r"no text in the field 'text'; its fields are: id, body \(data\.text_field names"),
    ],
)
def test_csv_that_cannot_be_read_is_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=told):
        texts(opened(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_too_long_to_be_held_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(json_text, "MAX_LINE", 30)
    monkeypatch.setattr(text_files, "PIECE_BYTES", 20)
    row = "text\n" if name == "a.csv" else '{"text": "one"}\n'
    (tmp_path / name).write_text(row + "x" * 40 + "\n")
    with pytest.raises(UserError, match="line 2 cannot be read"):
        texts(opened(tmp_path / name))


def test_rows_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "one"}\n{"text": null, "n": 2}\n')
    corpus = opened(tmp_path / "a.jsonl")
    assert texts(corpus) == ["one"]
    (warning,) = corpus.warnings()
    assert "skipped 2 rows without text in the field 'text' (null)" in warning


def test_rows_that_lack_the_field_are_refused_and_never_learned_as_markup(tmp_path: Path) -> None:
    rows = [{"id": n, "content": "a text"} for n in range(3)]
    for name, text in {
        "a.json": lines(rows),
        "b.txt": lines(rows),
        "c.json": "\n".join(json.dumps(row, indent=1) for row in rows),
        "d.json": json.dumps({"data": rows}),
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=r"no text in the field 'text'; its fields are: id, content"):
            texts(opened(tmp_path / name))
        assert texts(opened(tmp_path / name, text_field="content")) == ["a text"] * 3
        assert texts(opened(tmp_path / name, format="text")) == [text]


def test_other_files_between_texts_are_read_as_text_with_a_warning(tmp_path: Path) -> None:
    """A folder of source code holds such files."""
    (tmp_path / "a.py").write_text("print()\n")
    (tmp_path / "package.json").write_text('{"name": "x", "version": "1"}')
    (tmp_path / "points.csv").write_text("x,y\n1,2\n")
    corpus = opened(tmp_path)
    assert texts(corpus) == ["print()\n", '{"name": "x", "version": "1"}', "x,y\n1,2\n"]
    assert [("package.json was read as plain text" in w, "points.csv was read" in w) for w in corpus.warnings()] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[Intro]\nWe sing {and} so on\n",
        "{\\rtf1 hello}",
        '[{"a": 1}, oops',
        "{ int x; }\n",
        "{}\n",
        "[]x",
        "[1, 2]\n",
        "{",
        "[",
    ],
)
def test_text_that_starts_like_json_is_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("More.")
    assert texts(opened(tmp_path)) == [text, "More."]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv", "a.ndjson"])
@pytest.mark.parametrize("text", ["[" * 200_000, '{"text":' * 200_000, '{"text": "fine"}\n{"text":' + "[" * 200_000])
def test_a_line_of_brackets_is_text_or_a_sentence(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    try:
        assert texts(opened(tmp_path / name)) in ([text], ["fine"])
    except UserError as error:
        assert name in str(error)


# --- fingerprints

EARLIER = {
    "a.txt": "a40a2e288926",
    "b.jsonl": "bd6034e61b1d",
    "c.json": "e17cdb1cf32d",
    "d.json": "c513968b87ab",
    "e.md": "3848f165e590",
    ".": "017fea8b2f7f",
}


def test_fingerprints_of_what_was_read_before_stay(tmp_path: Path) -> None:
    """Prepared data are found by them: these are the values of the releases before content was looked at."""
    files = {
        "a.txt": "text\n",
        "b.jsonl": '{"text": "a"}\n',
        "c.json": '[{"text": "a"}]',
        "d.json": '{"name": "a"}',
        "e.md": "# text",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = {name: opened(tmp_path / name).fingerprint()[:12] for name in files}
    found["."] = opened(tmp_path).fingerprint()[:12]
    assert found == EARLIER
    (tmp_path / "f.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    first = opened(tmp_path / "f.json").fingerprint()
    assert first != opened(tmp_path / "f.json", format="text").fingerprint()
