"""The files that data come in, and those that describe them: for each, whole examples and everything that reads it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llm.config.schema import DataConfig
from llm.core.bundle import BASELINES, DATA, INDEX, load_bundle
from llm.data.text.corpora import open_corpus
from llm.data.text.datasets import downloaded_urls, local_copy, url_dataset, write_record
from llm.data.text.download import unpack
from llm.data.text.fetch import metadata_path, read_metadata
from llm.data.text.text_files import FileHashes
from llm.data.tokens.dataset import load_dataset, verify_dataset
from llm.data.tokens.prepare import find_tokenized_dataset
from llm.data.tokens.shards import Shard, ShardWriter
from llm.data.tokens.token_files import TokenFile
from llm.data.tokens.verification import unverified
from llm.run import Run
from llm.tokenizer import load_tokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.gpt2files import load_gpt2_files, printable_bytes
from llm.tokenizer.ranks import RankTokenizer
from llm.tokenizer.spm import SentencePieceTokenizer
from tests.core.bundles_for_tests import write_bundle
from tests.draining import result_of
from tests.fuzz.run_kinds import Kind
from workbench.commands.sample_jsonl import parse_line
from workbench.data.corpora import prepared_datasets, read_added

ADDRESS = "http://127.0.0.1:9/text.txt"
ROWS = [{"text": "Once upon a time", "id": 1}, {"text": "there was", "id": 2}]


def data_kinds(home: Path, folder: Path) -> list[Kind]:
    """Everything that is read of data; `home` is that of `trained_home`, the other files are made in `folder`."""
    folder.mkdir()
    return [
        *prepared_kinds(home),
        *tokenizer_kinds(folder / "tokenizers"),
        *token_file_kinds(folder / "tokens"),
        *text_kinds(home, folder / "texts"),
        *bundle_kinds(folder / "bundle"),
        *download_kinds(home, folder / "downloads"),
    ]


def prepared_kinds(home: Path) -> Iterator[Kind]:
    """What lies in `<home>/data/<fingerprint>`."""
    dataset, _ = find_tokenized_dataset(Run(home / "runs" / "tiny").config(), home)
    assert dataset is not None
    path = dataset.path

    def read() -> None:
        list(prepared_datasets(home))
        found = load_dataset(path)
        result_of(verify_dataset(found))
        found.train.read(0, len(found.train))
        found.validation.read(0, min(9, len(found.validation)))

    for name in ("dataset.json", "train-00000.json", "train-00000.bin", "verified.json", "tokenizer/tokenizer.json"):
        yield Kind(f"prepared {name}", path / name, read)
    hashes = home / "data" / "files.json"
    hashes.write_text(json.dumps({"2f": [1, 2, "x"]}))
    yield Kind("files.json", hashes, lambda: FileHashes(hashes).of(path / "dataset.json", lambda size: None))
    yield Kind("unverified", path / "verified.json", lambda: unverified(path, [path / "train-00000.bin"]))


def tokenizer_kinds(folder: Path) -> Iterator[Kind]:
    ranks = {bytes([value]): value for value in range(256)} | {b"th": 256, b"the": 257}
    bpe = RankTokenizer("bpe", ranks, {"<|endoftext|>": 258}, r"\w+|\W")
    bpe.save(folder / "bpe")
    CharTokenizer("abc .", ["<|endoftext|>"]).save(folder / "char")

    for kind, name in (("bpe", "tokenizer.json"), ("bpe", "ranks.tiktoken"), ("char", "tokenizer.json")):

        def read(place: Path = folder / kind) -> None:
            tokenizer = load_tokenizer(place)
            tokenizer.decode(tokenizer.encode("the cat<|endoftext|>", special=True))

        yield Kind(f"{kind} {name}", folder / kind / name, read)
    gpt2 = folder / "gpt2"
    gpt2.mkdir()
    alphabet = printable_bytes()
    ids = {name: number for number, name in enumerate([*alphabet, "th", "the", "<|endoftext|>"])}
    (gpt2 / "vocab.json").write_text(json.dumps(ids))
    (gpt2 / "merges.txt").write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")
    for name in ("vocab.json", "merges.txt"):
        yield Kind(name, gpt2 / name, lambda: load_gpt2_files(gpt2).encode("the cat"))
    model = folder / "a.model"
    trained = SentencePieceTokenizer.train(["the cat sat on the mat\n" * 50], 300)
    model.write_bytes(trained.files()["sentencepiece.model"])
    yield Kind("sentencepiece.model", model, lambda: SentencePieceTokenizer.from_file(model))


def token_file_kinds(folder: Path) -> Iterator[Kind]:
    """Token files of other programs, and our own outside a prepared dataset."""
    folder.mkdir()
    ids = np.arange(200) % 100
    np.save(folder / "a.npy", ids.astype(np.uint16))
    ids.astype("<i4").tofile(folder / "encoded_tokens_chunk_0.dat")
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(ids)
    (folder / "b.bin").write_bytes(header.tobytes() + ids.astype("<u2").tobytes())
    writer = ShardWriter(folder, "own", vocab_size=100, vocabulary="v")
    writer.write(ids)
    writer.close()

    def reader(path: Path) -> Kind:
        def read() -> None:
            file = TokenFile(path, 100)
            file.verify(lambda size: None)
            file.read(0, len(file))

        return Kind(path.name, path, read)

    yield from map(reader, (folder / "a.npy", folder / "encoded_tokens_chunk_0.dat", folder / "b.bin"))

    def verify_and_read() -> None:
        shard = Shard(folder / "own-00000.bin")
        shard.verify()
        shard.read(0, 50)

    for name in ("own-00000.json", "own-00000.bin"):
        yield Kind(name, folder / name, verify_and_read)


def text_kinds(home: Path, folder: Path) -> Iterator[Kind]:
    import pyarrow as arrow
    from pyarrow import parquet

    folder.mkdir()
    (folder / "a.txt").write_text("Once upon a time<|endoftext|>there was a cat.\n")
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "a.json").write_text(json.dumps(ROWS))
    parquet.write_table(arrow.table({"text": ["Once", "upon", None]}), folder / "a.parquet")
    for name in ("a.txt", "a.jsonl", "a.json", "a.parquet"):

        def read(path: Path = folder / name) -> None:
            corpus = open_corpus(DataConfig(corpus=str(path)), home, "<|endoftext|>")
            for document in corpus.documents():
                "".join(document.pieces)
            corpus.fingerprint()
            corpus.warnings()

        yield Kind(name, folder / name, read)
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt": "Once", "temperature": 0.5, "id": 7}\n"Once"\n')

    def lines() -> None:
        for number, line in enumerate(prompts.read_bytes().decode(errors="replace").splitlines(), 1):
            parse_line(number, line)

    yield Kind("prompts.jsonl", prompts, lines)


def bundle_kinds(folder: Path) -> Iterator[Kind]:
    write_bundle(folder)
    for name in (INDEX, BASELINES, f"{DATA}/pronouns.jsonl", f"{DATA}/last_words.jsonl"):
        yield Kind(f"CORE {name}", folder / name, lambda: load_bundle(folder))


def download_kinds(home: Path, folder: Path) -> Iterator[Kind]:
    folder.mkdir()
    dataset = url_dataset(ADDRESS)
    here = home / "datasets" / dataset.name
    here.mkdir(parents=True)
    (here / "text.txt").write_text("text")
    entry = {"size": 4, "sha256": "0" * 64}
    source = {"url": ADDRESS, "sha256": "0" * 64}
    write_record(dataset, home, {"files": {"text.txt": entry}, "sources": {"text.txt": source}})

    def found() -> None:
        list(downloaded_urls(home))
        local_copy(dataset, home)

    (record,) = here.glob("*.json")
    yield Kind("record of a download", record, found)
    note = metadata_path(folder / "part")
    note.write_text(json.dumps({"url": ADDRESS, "validator": '"one"', "total": 4}))
    yield Kind("note of a download", note, lambda: read_metadata(folder / "part"))
    added = home / "corpora.json"
    added.write_text(json.dumps([{"path": "/nowhere", "text_field": "text"}]))
    yield Kind("corpora.json", added, lambda: read_added(home))
    archive = folder / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("a/one.txt", "text " * 50)
        bundle.writestr("two.txt", "text")
    yield Kind("a.zip", archive, lambda: unpack(archive, folder / "unpacked"))
