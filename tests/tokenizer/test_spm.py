"""SentencePiece, trained here or loaded, against the library itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from llm.config.schema import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer import StreamDecoder, Tokenizer, build_tokenizer
from llm.tokenizer.spm import SentencePieceTokenizer

from .conftest import CORPUS


def library_model(**options: Any) -> bytes:
    model = io.BytesIO()
    lines = [line for text in CORPUS for line in text.splitlines() if line.strip()]
    settings: dict[str, Any] = {
        "vocab_size": 420,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "minloglevel": 3,
        "num_threads": 1,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **(settings | options))
    return model.getvalue()


def test_ids_are_arranged_as_in_llama(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["sentencepiece"]
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2}
    assert (tokenizer.separator, tokenizer.stop_ids) == (1, {1, 2})
    assert [tokenizer.token_bytes(3 + value) for value in range(256)] == [bytes([value]) for value in range(256)]
    assert tokenizer.token_bytes(0) == "\ufffd".encode()
    assert tokenizer.token_bytes(1) == tokenizer.token_bytes(2) == b""


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_both_algorithms_encode_as_the_library_does(algorithm: Any) -> None:
    tokenizer = SentencePieceTokenizer.train(CORPUS, 420, algorithm)
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.files()["sentencepiece.model"])
    assert tokenizer.vocab_size == model.vocab_size()
    for text in CORPUS:
        assert tokenizer.encode(text) == model.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == model.decode(model.encode(text)) == text


def test_bytes_of_tokens_are_the_text_with_its_dummy_prefix(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["sentencepiece"]
    assert tokenizer.dummy_prefix == b" "
    for text in ("fox", " fox", "你好 12\n", ""):
        joined = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text)))
        assert joined == ((b" " + text.encode()) if text else b"")


def test_the_dummy_prefix_goes_at_the_start_and_after_a_separator_only(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["sentencepiece"]
    story = tokenizer.encode("The fox")
    assert tokenizer.decode([1, *story, 2, 1, *story]) == "The foxThe fox"
    continued = StreamDecoder(tokenizer, continuing=True)
    assert "".join(map(continued.feed, story)) == " The fox"


def test_the_vocabulary_is_written_next_to_the_model(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    """A line for each piece, with its score, as SentencePiece's own trainer writes it."""
    tokenizer = tokenizers["sentencepiece"]
    tokenizer.save(tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.model"))
    lines = (tmp_path / "sentencepiece.vocab").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [line.rsplit("\t", 1)[0] for line in lines] == [model.id_to_piece(id) for id in range(model.vocab_size())]
    assert [float(line.rsplit("\t", 1)[1]) for line in lines[259:]] == [
        pytest.approx(model.get_score(id)) for id in range(259, model.vocab_size())
    ]


def test_special_tokens_in_text(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["sentencepiece"]
    assert not {1, 2} & set(tokenizer.encode("<s>The fox</s>"))
    assert tokenizer.encode("<s>The fox</s>", special=True) == [1, *tokenizer.encode("The fox"), 2]


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"},
        {"model_type": "bpe", "normalization_rule_name": "nfkc_cf"},
        {"model_type": "bpe", "add_dummy_prefix": False},
        {"model_type": "unigram", "split_by_whitespace": False},
        {"model_type": "bpe", "bos_id": -1, "eos_id": 1, "pad_id": 3, "control_symbols": ["<|user|>"]},
        {"model_type": "bpe", "byte_fallback": False, "vocab_size": 300, "character_coverage": 0.98},
    ],
)
def test_other_peoples_models_are_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(library_model(**options))
    tokenizer = build_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(path)), [])
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in CORPUS:
        assert tokenizer.encode(text) == model.encode(text)
        if options.get("byte_fallback", True):
            normalised = model.normalize(text).replace("▁", " ").removeprefix(tokenizer.dummy_prefix.decode())
            assert tokenizer.decode(tokenizer.encode(text)) == normalised
    whole = tokenizer.encode(" ".join(CORPUS * 300))
    assert [token_id for ids in tokenizer.encode_stream([" ".join(CORPUS * 300)]) for token_id in ids] == whole
    if options.get("bos_id") == -1:
        assert tokenizer.special_tokens["</s>"] == tokenizer.separator == 1
        assert "<|user|>" in tokenizer.special_tokens


def test_a_text_too_small_for_the_vocabulary_gives_what_it_can(capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = SentencePieceTokenizer.train(["hello world, hello"], 1000)
    assert 259 < tokenizer.vocab_size < 1000
    assert tokenizer.decode(tokenizer.encode("hello you")) == "hello you"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("texts", "vocab_size", "complaint"),
    [([], 400, "not empty"), (["abc"], 100, "259 or more"), (["abcdefghij"], 262, r"ask for 2\d\d or more")],
)
def test_what_cannot_be_trained_is_refused(texts: list[str], vocab_size: int, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        SentencePieceTokenizer.train(texts, vocab_size)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.model"
    with pytest.raises(UserError, match="no tokenizer at"):
        build_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(path)), [])
    for content in (b"not a model", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"broken\.model.*not a SentencePiece model"):
            build_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(path)), [])
    assert capfd.readouterr() == ("", "")


def test_a_model_that_leaves_text_as_it_is_says_nothing(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["sentencepiece"]
    assert tokenizer.text_changes() == ""
    assert tokenizer.prompt_changes("a\n\t  b ＡＡ ") == ""


def test_a_model_with_the_default_normalization_says_what_it_does_to_text() -> None:
    tokenizer = SentencePieceTokenizer(library_model(model_type="unigram"))
    said = tokenizer.text_changes()
    for change in ("line breaks", "tabs", "repeated spaces", "the beginning and end", "Ａ by A"):
        assert change in said
    assert "capital" not in said
    assert "count the bytes of the original text" in said
    assert "of the rewritten text" in tokenizer.text_changes(bytes_known=False)
    assert tokenizer.prompt_changes("one line") == ""
    assert tokenizer.prompt_changes("<s>one line") == ""
    assert "rewrites the prompt" in tokenizer.prompt_changes("two\nlines")
    small = SentencePieceTokenizer(library_model(model_type="bpe", normalization_rule_name="nfkc_cf"))
    assert "capital letters become lower case" in small.text_changes()


def test_bits_per_byte_count_the_bytes_of_the_text_itself(tmp_path: Path) -> None:
    """Newlines and runs of spaces that the model drops are bytes of the text all the same."""
    from llm.config import from_mapping
    from llm.data.tokens.dataset import load_dataset
    from llm.data.tokens.prepare import prepare

    model = tmp_path / "other.model"
    model.write_bytes(library_model(model_type="unigram"))
    text = tmp_path / "text.txt"
    text.write_text("The fox  and\n\n\tthe ﬁsh.\n" * 400, encoding="utf-8")
    tokenizer = {"kind": "sentencepiece", "path": str(model)}
    steps = prepare(
        from_mapping({"data": {"corpus": str(text)}, "tokenizer": tokenizer, "model": {"context": 8}}), tmp_path
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            dataset = end.value
            break
    (warning,) = dataset.warnings
    assert "rewrites text" in warning
    for split in (dataset.train, dataset.validation):
        ids = split.read(0, len(split)).tolist()
        spelled = len(dataset.tokenizer.decode(ids).encode())
        assert split.bytes_scale == pytest.approx(split.bytes / spelled)
        assert split.bytes_scale > 1.1
    index = json.loads((dataset.path / "dataset.json").read_bytes())
    for record in index["splits"].values():
        del record["spelled"]  # as data that were prepared before have it
    (dataset.path / "dataset.json").write_text(json.dumps(index))
    assert load_dataset(dataset.path).validation.bytes_scale == pytest.approx(dataset.validation.bytes_scale)


def test_a_folder_in_the_place_of_a_model_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        build_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(tmp_path)), ())
    assert str(caught.value) == f"{tmp_path} cannot be loaded (Is a directory); name a .model file of SentencePiece."
