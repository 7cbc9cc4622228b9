"""Arrow files, and folders that Hugging Face's `datasets` has saved, read as the library reads them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as arrow
import pytest

from llm.config.schema import DataConfig
from llm.data.text.corpora import Corpus, open_corpus
from llm.errors import UserError

TEXTS = ["Once upon a time.", "", "从前有座山", None, "The end.\n"]


def write_arrow(path: Path, texts: list[str | None], *, as_file: bool = False, column: str = "text") -> Path:
    table = arrow.table({"id": list(range(len(texts))), column: arrow.array(texts, arrow.string())})
    path.parent.mkdir(parents=True, exist_ok=True)
    make = arrow.ipc.new_file if as_file else arrow.ipc.new_stream
    with arrow.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
    return path


def corpus_of(path: Path, home: Path, **data: str) -> Corpus:
    return open_corpus(DataConfig(corpus=str(path), **data), home)  # type: ignore[arg-type]


def texts_of(corpus: Corpus) -> list[str]:
    return ["".join(document.pieces) for document in corpus.documents()]


@pytest.mark.parametrize("as_file", [False, True])
def test_a_file_of_either_format(as_file: bool, home: Path) -> None:
    corpus = corpus_of(write_arrow(home / "text.arrow", TEXTS, as_file=as_file), home)
    assert texts_of(corpus) == [text for text in TEXTS if text]
    assert ["1 row" in warning for warning in corpus.warnings()] == [True]


def test_a_saved_data_set_is_its_training_split(home: Path) -> None:
    """As `datasets.DatasetDict.save_to_disk` lays it out."""
    folder = home / "saved"
    write_arrow(folder / "train" / "data-00000-of-00002.arrow", ["a b", "c d"])
    write_arrow(folder / "train" / "data-00001-of-00002.arrow", ["e f"])
    write_arrow(folder / "test" / "data-00000-of-00001.arrow", ["held out"])
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split in ("train", "test"):
        (folder / split / "state.json").write_text('{"_split": "train"}')
        (folder / split / "dataset_info.json").write_text('{"description": "text about the data"}')
    corpus = corpus_of(folder, home)
    assert texts_of(corpus) == ["a b", "c d", "e f"]
    assert texts_of(corpus_of(folder / "test", home)) == ["held out"]
    assert "about the dataset" in " ".join(corpus.warnings())
    assert corpus.fingerprint() != corpus_of(folder / "test", home).fingerprint()


def test_files_that_cannot_be_read_are_named(home: Path) -> None:
    path = write_arrow(home / "rows.arrow", TEXTS, column="content")
    with pytest.raises(UserError, match=r"no column 'text'; set data\.text_field to one of: id, content"):
        texts_of(corpus_of(path, home))
    assert len(texts_of(corpus_of(path, home, text_field="content"))) == 3
    with pytest.raises(UserError, match=r"holds int64, not text; set data\.text_field to one of: content"):
        texts_of(corpus_of(path, home, text_field="id"))
    damaged = home / "damaged.arrow"
    damaged.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"damaged\.arrow cannot be read as Arrow"):
        texts_of(corpus_of(damaged, home, text_field="content"))


@pytest.mark.slow
def test_what_the_library_saves(home: Path) -> None:
    """Slow: the library takes seconds to import."""
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_dict({"text": [f"story {number}" for number in range(2500)]})
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(
        home / "saved", num_shards={"train": 3, "test": 1}
    )
    assert texts_of(corpus_of(home / "saved", home)) == rows["text"]
