"""Corpora: the two embedded ones and a person's own files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm.config.schema import DataConfig
from llm.data.text import text_files
from llm.data.text.corpora import Corpus, open_corpus
from llm.data.text.text_files import FileHashes, read_text
from llm.errors import UserError


def opened(pattern: Path | str, home: Path, **fields: Any) -> Corpus:
    return open_corpus(DataConfig(corpus=str(pattern), **fields), home, "<|endoftext|>")


def texts(corpus: Corpus) -> list[str]:
    return ["".join(document.pieces) for document in corpus.documents()]


def test_stories_can_be_read_again_even_when_the_first_reader_stopped(tmp_path: Path) -> None:
    corpus = opened("stories", tmp_path, size_mb=0.05)
    beginning = next(iter(corpus.documents()))
    first, second = texts(corpus), texts(corpus)
    assert first == second
    assert first[0] == "".join(beginning.pieces)
    assert sum(map(len, first)) >= 50_000
    assert corpus.fingerprint() == opened("stories", tmp_path, size_mb=0.05).fingerprint()
    assert len({opened("stories", tmp_path, size_mb=0.05, seed=s).fingerprint() for s in (1, 2, 3)}) == 3


def test_pylib_is_source_of_this_python_in_a_fixed_order(tmp_path: Path) -> None:
    corpus = opened("pylib", tmp_path, size_mb=1)
    found = texts(corpus)
    assert found == texts(opened("pylib", tmp_path, size_mb=1))
    assert 0.9e6 < sum(len(text.encode()) for text in found) <= 1e6
    assert sum("def " in text for text in found) > len(found) / 2
    assert not any(part in document.name for document in corpus.documents() for part in ("test/", "site-packages"))
    assert corpus.fingerprint() != opened("pylib", tmp_path, size_mb=2).fingerprint()


def test_text_file_is_one_document_for_any_content(tmp_path: Path) -> None:
    path = tmp_path / "日本語 [x] 🙂.txt"
    path.write_bytes("\ufeffEinst\n\nwar 海\r\n".encode())
    assert texts(opened(path, tmp_path)) == ["Einst\n\nwar 海\r\n"]


def test_text_file_is_split_at_the_separator_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PIECE_BYTES", 20)
    path = tmp_path / "a.txt"
    path.write_text("One.<|endoftext|>\nTwo, a longer text.\n<|endoftext|><|endoftext|>Three.")
    assert texts(opened(path, tmp_path)) == ["One.", "Two, a longer text.", "Three."]


def test_large_files_come_in_bounded_pieces_with_characters_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "aé海🙂" * 400_000
    path.write_text(text, encoding="utf-8")
    pieces = list(read_text(path, lambda path, count: None))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 1 << 20
    assert len(pieces) >= 4


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\xe9 na\xefve ".encode("latin-1") + "\ufffd".encode())
    corpus = opened(path, tmp_path)
    assert texts(corpus) == ["caf\ufffd na\ufffdve \ufffd"]
    (warning,) = corpus.warnings()
    assert "2 bytes" in warning
    assert "latin.txt" in warning


def test_folder_is_read_all_the_way_down_without_hidden_and_binary_files(tmp_path: Path) -> None:
    for name, content in {
        "b/c.txt": b"C",
        "a.md": b"A",
        ".git/x": b"no",
        ".y": b"no",
        "p.png": b"\x89\0",
        "e": b"",
    }.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(content)
    (tmp_path / "d" / "z.jsonl").write_text('{"text": "J"}\n')
    assert texts(opened(tmp_path / "d", tmp_path)) == ["A", "J", "C"]


def test_glob(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert texts(opened(tmp_path / "*.txt", tmp_path)) == ["a.txt", "b.txt"]


def test_a_json_list_of_stories_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TinyStories' own archive has them; read piece by piece, whatever the pieces cut."""
    stories = [f'Story {n}: \\ "said" [the] {{fox}}, 海🙂.\n' for n in range(60)]
    for number, indent in enumerate((None, 1, 4)):
        records = [{"story": text, "instruction": {"words": ["a", n]}} for n, text in enumerate(stories[number::3])]
        text = json.dumps(records, indent=indent, ensure_ascii=bool(number))
        (tmp_path / f"data{number:02}.json").write_text("\n " * number + text + "\n", encoding="utf-8")
    for size in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(text_files, "PIECE_BYTES", size)
        found = texts(opened(tmp_path, tmp_path, text_field="story"))
        assert found == [*stories[0::3], *stories[1::3], *stories[2::3]]


def test_json_that_is_no_list_is_text_and_an_empty_list_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "an object"}')
    assert texts(opened(tmp_path / "package.json", tmp_path)) == ['{"name": "an object"}']
    (tmp_path / "none.json").write_text(" [ ]\n")
    assert texts(opened(tmp_path / "none.json", tmp_path)) == []
    (tmp_path / "list.json").write_text('[{"text": "as text"}]')
    assert texts(opened(tmp_path / "list.json", tmp_path, format="text")) == ['[{"text": "as text"}]']


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"text": "a"}, {"text": "b"', "is invalid JSON after item 1"),
        ('[{"text": "a"} {"text": "b"}]', "is invalid JSON after item 1"),
        ('[{"text": "a"}, oops]', "is invalid JSON after item 1"),
        ('[{"text": "a"}]]', "is invalid JSON after item 1"),
        ('[{"text": "a"}, "b"]', r"list\.json item 2 has no text in the field 'text'.*not an object"),
        (
            '[{"text": "a"}, {"story": "b", "n": 1}]',
            r"item 2 has no text in the field 'text'; its fields are: story, n",
        ),
    ],
)
def test_a_json_list_that_is_broken_or_lacks_the_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(UserError, match=words):
        texts(opened(tmp_path / "list.json", tmp_path))


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"body": "one\\n"}\n\n{"body": "", "n": 1}\r\n{"body": "h\\ud800i \xff"}')
    corpus = opened(path, tmp_path, text_field="body")
    assert texts(corpus) == ["one\n", "h\ufffdi \ufffd"]
    assert texts(corpus) == ["one\n", "h\ufffdi \ufffd"]
    assert "1 bytes" in corpus.warnings()[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"a.jsonl line 2 is not JSON"),
        ('["text"]', r"a.jsonl line 2 has no text in the field 'text'; its fields are: none, it is not an object"),
        (
            '{"body": "x", "id": 3}',
            r"a.jsonl line 2 has no text in the field 'text'; its fields are: body, id .*data.text_field",
        ),
        ('{"text": 3}', r"a.jsonl line 2 has no text"),
    ],
)
def test_bad_jsonl_names_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        texts(opened(path, tmp_path))


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    wanted = [f"text {n} 海" for n in range(700)]
    parquet.write_table(arrow.table({"text": [*wanted, None, ""], "n": range(702)}), path, row_group_size=100)
    assert texts(opened(path, tmp_path)) == wanted
    with pytest.raises(UserError, match=r"has no column 'body'.*text, n"):
        texts(opened(path, tmp_path, text_field="body"))
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        texts(opened(path, tmp_path))


def test_parquet_with_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.parquet"))
    parquet.write_table(arrow.table({"text": ["words"]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(path)
    assert texts(opened(tmp_path, tmp_path)) == ["words"]


def test_a_damaged_column_name_in_parquet_is_reported(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"letters": ["words"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"letters", b"lette\xc6s"))
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        texts(opened(path, tmp_path))


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "large_binary", "dictionary"])
def test_parquet_text_kept_as_bytes_is_read_as_text(tmp_path: Path, kind: str) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    column = arrow.array(["a 海", None, "b", "b"])
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
    parquet.write_table(arrow.table({"text": column}), path)
    assert texts(opened(path, tmp_path)) == ["a 海", "b", "b"]


def test_parquet_bytes_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    raw = arrow.array([b"good \xef\xbf\xbd", b"bad \xff\xfe"])
    for column in (raw, raw.view("string")):  # nobody checks what is written as a string
        parquet.write_table(arrow.table({"text": column}), tmp_path / "a.parquet")
        corpus = opened(tmp_path / "a.parquet", tmp_path)
        assert texts(corpus) == ["good \ufffd", "bad \ufffd\ufffd"]
        assert "2 bytes that are not UTF-8" in corpus.warnings()[0]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": [1, 2]}, r"column 'text' of .*a\.parquet holds int64, not text; give a file with text"),
        ({"text": [["a"], ["b"]], "body": ["a", "b"]}, r"holds list<.*string>, not text; set .* to one of: body\."),
    ],
)
def test_parquet_columns_of_other_types_are_refused_by_name(
    tmp_path: Path, columns: dict[str, list[Any]], told: str
) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=told):
        texts(opened(tmp_path / "a.parquet", tmp_path))


def test_missing_empty_and_binary_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.bin").write_bytes(b"MZ\0\0")
    for name, message in {
        "nowhere.txt": "There is no corpus .*nowhere.txt",
        "*.nothing": "There is no corpus",
        "n" * 300: "There is no corpus",
        "empty.txt": "is empty",
        "folder": "folder holds no text files",
        "x.bin": "NUL bytes",
    }.items():
        with pytest.raises(UserError, match=message):
            texts(opened(tmp_path / name, tmp_path))
    with pytest.raises(UserError, match="/dev/zero holds no text"):
        opened("/dev/zero", tmp_path)


def test_a_folder_that_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK)  # as for a folder without permissions
    with pytest.raises(UserError, match="private may not be read; allow that"):
        opened(tmp_path / "private", tmp_path)


def test_fingerprint_is_the_content_wherever_it_lies(tmp_path: Path) -> None:
    for name, content in {"a.txt": "same", "b.txt": "same", "c.txt": "other"}.items():
        (tmp_path / name).write_text(content)
    a, b, c = (opened(tmp_path / name, tmp_path).fingerprint() for name in ("a.txt", "b.txt", "c.txt"))
    assert a == b != c


def test_hashes_of_large_files_are_remembered_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(b"x" * text_files.MIN_RECORDED_BYTES)
    hashes = FileHashes(tmp_path / "data" / "files.json")
    first = hashes.of(path, lambda size: None)
    assert not hashes.record.exists(), "it may change again with the same time stamp"
    monkeypatch.setattr(text_files, "SETTLED_SECONDS", -1.0)
    assert first == hashes.of(path, lambda size: None)
    record = json.loads(hashes.record.read_text())
    hashes.record.write_text(json.dumps({key: [*value[:-1], "remembered"] for key, value in record.items()}))
    assert hashes.of(path, lambda size: None) == "remembered"
    os.utime(path)
    assert hashes.of(path, lambda size: None) == first
    for damaged in ("{", "[]", json.dumps(dict.fromkeys(record, 7)), json.dumps({key: [] for key in record})):
        hashes.record.write_text(damaged)
        assert hashes.of(path, lambda size: None) == first


def test_a_change_that_keeps_size_and_modification_time_changes_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As rsync --inplace --times and touch -d leave it."""
    monkeypatch.setattr(text_files, "SETTLED_SECONDS", -1.0)
    path = tmp_path / "large.txt"
    path.write_bytes(b"x" * text_files.MIN_RECORDED_BYTES)
    hashes = FileHashes(tmp_path / "data" / "files.json")
    first, before = hashes.of(path, lambda size: None), path.stat()
    with path.open("r+b") as file:
        file.write(b"y" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert hashes.of(path, lambda size: None) != first


def test_embedded_names_win_over_files_unless_written_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stories").write_text("mine")
    assert opened("stories", tmp_path, size_mb=0.001).name == "stories"
    assert texts(opened("./stories", tmp_path)) == ["mine"]
    assert replace(DataConfig()).corpus == "stories"
