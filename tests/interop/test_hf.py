"""Hugging Face folders: transformers loads what is exported, and an import gives every tensor back."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from llm.config import DecodeConfig
from llm.engine import Engine
from llm.errors import UserError
from llm.interop import hf
from llm.interop.export import export
from llm.interop.formats import FORMATS
from llm.interop.import_run import import_run
from llm.interop.source import open_source
from llm.interop.tokenizer_json import dump_tokenizer_json
from llm.run import Run
from llm.run.checkpoints import MODEL
from llm.tokenizer import load_tokenizer
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.chat_template import Message, default_template
from llm.tokenizer.spm import SentencePieceTokenizer
from llm.weights import load_model
from tests.interop.runs_for_tests import (
    END,
    NANOCHAT,
    SHAPE,
    SHAPES,
    bpe_tokenizer,
    finish,
    hashes,
    make_run,
    source_of,
    text_of_all_kinds,
)
from tests.tokenizer.test_chat_template import random_conversation

TOKENIZER = ByteTokenizer((END,))
CLASSES = ("gpt2", "llama", "qwen3", "nanochat")


def export_run(run: Run, target: Path, format: str = "hf", dtype: str = "f32") -> Path:
    folder: Path = finish(export(source_of(run), FORMATS[format], dtype, target))
    return folder


def import_folder(home: Path, folder: Path, **more: Any) -> Run:
    run: Run = finish(import_run(home, folder, **more))[0]
    return run


@torch.no_grad()
@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SHAPES)
def test_transformers_gives_our_logits_and_text_and_an_import_every_tensor(
    name: str, count: int, home: Path, tmp_path: Path
) -> None:
    run = make_run(home, SHAPES[name], TOKENIZER)
    folder = export_run(run, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ours, tokenizer = load_model(run, run.checkpoint())
    text = torch.randint(0, 257, (3, 64), generator=torch.Generator().manual_seed(1))
    assert (ours(text) - theirs(text).logits).abs().max() <= 1e-5
    greedy = DecodeConfig(temperature=0.0, max_tokens=count, ban_end=True)
    pieces = list(Engine(ours, tokenizer).stream("Once upon a time", greedy))[:-1]
    prompt = torch.tensor([tokenizer.encode("Once upon a time")])
    expected = theirs.generate(prompt, do_sample=False, max_new_tokens=count, suppress_tokens=[256])
    assert [piece.token_id for piece in pieces] == expected[0, prompt.shape[1] :].tolist()
    back = import_folder(home, folder, name="back")
    assert hashes(back) == hashes(run)
    assert back.config().model == run.config().model
    assert (back.status().name, back.checkpoint().step) == ("imported", 0)


FOREIGN: dict[str, Any] = {
    "gpt2": transformers.GPT2Config(n_layer=2, n_embd=24, n_head=3, n_positions=64, vocab_size=257),
    "gpt2 untied": transformers.GPT2Config(
        n_layer=2, n_embd=24, n_head=3, n_positions=64, vocab_size=257, tie_word_embeddings=False, n_inner=50
    ),
    "llama": transformers.LlamaConfig(
        hidden_size=24, intermediate_size=44, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        vocab_size=257, max_position_embeddings=64, attention_bias=True, rope_theta=5000.0,
    ),
    "llama with wide heads": transformers.LlamaConfig(
        hidden_size=24, intermediate_size=44, num_hidden_layers=2, num_attention_heads=6, head_dim=8, vocab_size=257,
        max_position_embeddings=64, tie_word_embeddings=True, mlp_bias=True,
    ),
    "qwen3": transformers.Qwen3Config(
        hidden_size=24, intermediate_size=44, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        head_dim=8, vocab_size=300, max_position_embeddings=64, tie_word_embeddings=True,
    ),
    "nanochat": transformers.NanoChatConfig(
        hidden_size=24, intermediate_size=44, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        vocab_size=257, max_position_embeddings=64, pad_token_id=None,
    ),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", FOREIGN)
def test_a_model_of_transformers_gives_its_logits_here(name: str, home: Path, tmp_path: Path) -> None:
    """Saved by transformers in several files, with every weight random."""
    torch.manual_seed(5)
    theirs = transformers.AutoModelForCausalLM.from_config(FOREIGN[name]).eval()
    for weight in theirs.parameters():
        weight.add_(torch.randn(weight.shape), alpha=0.1)
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder, max_shard_size="10KB")
    assert (folder / hf.INDEX).is_file()
    TOKENIZER.save(tmp_path / "tokenizer")
    run = import_folder(home, folder, tokenizer=tmp_path / "tokenizer")
    assert run.name == "theirs"
    ours, _ = load_model(run, run.checkpoint())
    text = torch.randint(0, 257, (3, 64), generator=torch.Generator().manual_seed(1))
    assert (ours(text) - theirs(text).logits).abs().max() <= 1e-5


def test_the_folder_says_what_the_model_is(home: Path, tmp_path: Path) -> None:
    """Shards, dtype, sampling parameters, model card; transformers reads them."""
    run = make_run(home, replace(SHAPE, vocab_size=500), bpe_tokenizer())
    source = source_of(run)
    decode = DecodeConfig(temperature=0.7, top_k=0, top_p=0.9, repetition_penalty=1.2, max_tokens=33)
    source = replace(source, config=replace(source.config, decode=decode))
    folder = tmp_path / "out"
    folder.mkdir()
    list(hf.write(source, folder, "bf16", shard_bytes=10_000))
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    settings = model.generation_config
    assert (settings.temperature, settings.top_k, settings.top_p, settings.max_new_tokens) == (0.7, 0, 0.9, 33)
    assert (settings.repetition_penalty, settings.eos_token_id, settings.do_sample) == (
        1.2,
        source.tokenizer.separator,
        True,
    )
    card = (folder / "README.md").read_text()
    assert "random@7" in card and "llm-workbench train run.toml" in card
    back = import_folder(home, folder, name="back")
    assert back.config().decode == decode
    again = (export_run(back, tmp_path / "again") / "README.md").read_text()
    assert "training data" in card and "training data" not in again and "imported from out" in again
    assert "BF16" in str(json.loads((back.checkpoint().path / MODEL).read_bytes()[8:2000].split(b"}")[0] + b"}}"))


def damage_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_tensors(folder: Path, **changes: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        name = name.replace("__", ".")
        tensors.pop(name) if value is None else tensors.update({name: value})
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


NORM = "model__norm__weight"
FAULTS: dict[str, tuple[Any, str]] = {
    "cut off": (damage_header, "model.safetensors is damaged .*get it again"),
    "swapped shape": (
        lambda folder: change_tensors(folder, model__layers__0__mlp__up_proj__weight=torch.zeros(24, 44)),
        r"model\.layers\.0\.mlp\.up_proj\.weight has the shape 24×44 instead of 44×24",
    ),
    "missing": (lambda folder: change_tensors(folder, **{NORM: None}), r"model\.norm\.weight is missing"),
    "extra": (lambda folder: change_tensors(folder, a__b=torch.zeros(2)), r"a\.b is unexpected"),
    "NaN": (
        lambda folder: change_tensors(folder, **{NORM: torch.full((24,), torch.nan)}),
        r"model\.norm\.weight holds values that are NaN",
    ),
    "quantized": (
        lambda folder: change_tensors(folder, **{NORM: torch.zeros(24, dtype=torch.uint8)}),
        "quantized",
    ),
    "8 bits": (
        lambda folder: change_tensors(folder, **{NORM: torch.zeros(24, dtype=torch.int8)}),
        "I8, a quantized model",
    ),
    "scaled in the older form": (
        lambda folder: change_config(folder, rope_scaling={"type": "linear", "factor": 2.0}),
        "scaled by linear",
    ),
    "half a rotation": (lambda folder: change_config(folder, partial_rotary_factor=0.5), "only a part of each head"),
    "heads": (lambda folder: change_config(folder, num_attention_heads=5, head_dim=4), r"divide model\.n_head\.$"),
    "scaled positions": (
        lambda folder: change_config(folder, rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}),
        "scaled by llama3",
    ),
    "other architecture": (lambda folder: change_config(folder, architectures=["BertModel"]), "holds a BertModel"),
    "many layers": (lambda folder: change_config(folder, num_hidden_layers=10**9), "describes 1000000000 layers"),
    "a size beyond memory": (
        lambda folder: change_config(folder, hidden_size=1 << 40, intermediate_size=1 << 40),
        "a model that no memory holds",
    ),
    "a long context": (
        lambda folder: change_config(folder, max_position_embeddings=1 << 30),
        "shorten it with --context",
    ),
    "text as a number": (lambda folder: change_config(folder, hidden_size="wide"), "cannot be used"),
    "a setting is missing": (
        lambda folder: (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}'),
        "has no num_attention_heads",
    ),
    "a pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "pickle, which may run code",
    ),
    "other vocabulary": (
        lambda folder: (folder / "tokenizer.json").write_bytes(dump_tokenizer_json(bpe_tokenizer())),
        "has 400 ids, but the model only 257 rows",
    ),
    "smaller vocabulary": (
        lambda folder: (folder / "tokenizer.json").write_bytes(dump_tokenizer_json(CharTokenizer("abc", (END,)))),
        "has 5 ids, and the model 257 rows",
    ),
    "smaller vocabulary of another program": (
        lambda folder: (
            change_config(folder, llm_workbench=None),
            (folder / "tokenizer.json").write_bytes(dump_tokenizer_json(CharTokenizer("abc", (END,)))),
        ),
        "has 5 ids, and the model 257 rows",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without faults."""
    place = tmp_path_factory.mktemp("whole")
    return export_run(make_run(place, SHAPE, TOKENIZER), place / "out")


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_lie_are_refused_in_a_sentence(fault: str, whole: Path, home: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "out"))
    damage, message = FAULTS[fault]
    damage(folder)
    before = sorted(home.rglob("*"))
    with pytest.raises(UserError, match=message):
        import_folder(home, folder, name="back")
    assert sorted(home.rglob("*")) == before


def test_a_model_that_transformers_lacks_is_refused_with_the_field(home: Path, tmp_path: Path) -> None:
    run = make_run(home, replace(NANOCHAT, embedding_norm=False), TOKENIZER)
    with pytest.raises(UserError, match=r"model\.embedding_norm is off, NanoChatForCausalLM has on"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hf", "gguf", "llama2c", "nanogpt"])
def test_a_convolution_over_the_embeddings_fits_safetensors_only(name: str, home: Path, tmp_path: Path) -> None:
    run = make_run(home, replace(SHAPE, embedding_conv=4), TOKENIZER)
    source = open_source(run, run.checkpoint())
    for _ in export(source, FORMATS["safetensors"], "f32", tmp_path / "ours"):
        pass
    with pytest.raises(
        UserError, match=r"model.embedding_conv is 4, and no other program has that; .*fits safetensors\."
    ):
        next(export(source, FORMATS[name], FORMATS[name].dtypes[0], tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir() if path.name in ("ours", "out")] == ["ours"]


def test_a_value_that_float16_cannot_hold_is_named(home: Path, tmp_path: Path) -> None:
    run = make_run(home, SHAPE, TOKENIZER, spread=1e6)
    with pytest.raises(UserError, match=r"f16 cannot hold; export with --dtype bf16 or f32"):
        export_run(run, tmp_path / "out", dtype="f16")
    assert not (tmp_path / "out").exists()


def test_safetensors_holds_our_names(home: Path, tmp_path: Path) -> None:
    run = make_run(home, SHAPE, TOKENIZER)
    folder = export_run(run, tmp_path / "out", "safetensors")
    written, ours = load_file(folder / "model.safetensors"), load_file(run.checkpoint().path / MODEL)
    assert written.keys() == ours.keys()
    assert all(torch.equal(written[name], ours[name]) for name in ours)


def test_a_shorter_context(home: Path, tmp_path: Path) -> None:
    folder = export_run(make_run(home, SHAPE, TOKENIZER), tmp_path / "out")
    run = import_folder(home, folder, name="back", context=32)
    assert load_model(run, run.checkpoint())[0].config.context == 32


@pytest.mark.parametrize("name", CLASSES)
def test_the_tokenizer_of_every_architecture_gives_our_ids(name: str, home: Path, tmp_path: Path) -> None:
    """Also for those whose own tokenizer class would replace the pre-tokenizer."""
    tokenizer = bpe_tokenizer()
    folder = export_run(make_run(home, SHAPES[name], tokenizer), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = text_of_all_kinds() + END + "12345"
    assert theirs(text).input_ids == tokenizer.encode(text, special=True)
    assert theirs.eos_token_id == tokenizer.separator


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte", "char", "sentencepiece", "ours", "gpt2", "gpt4"])
def test_a_megabyte_of_text_has_our_ids_in_transformers(kind: str, home: Path, tmp_path: Path) -> None:
    """Code, Chinese, emoji, runs of blanks, and special tokens everywhere in it."""
    tokenizer = {
        "byte": lambda: ByteTokenizer((END,)),
        "char": lambda: CharTokenizer.train([text_of_all_kinds(seed=2)], (END,)),
        "sentencepiece": lambda: SentencePieceTokenizer.train([text_of_all_kinds(seed=2)], 700),
    }.get(kind, lambda: bpe_tokenizer(600, kind))()
    folder = export_run(make_run(home, SHAPE, tokenizer), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    special = next(iter(tokenizer.special_tokens))
    text = special.join(text_of_all_kinds(10_000, seed) for seed in range(100))
    assert len(text.encode()) > 1_000_000
    assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(text, special=True)


def test_a_chat_template_goes_out_and_comes_back(home: Path, tmp_path: Path) -> None:
    """transformers renders a conversation to our ids."""
    plain = bpe_tokenizer(special=(END,))
    tokenizer = plain.with_chat_template(default_template(plain))
    run = make_run(home, SHAPE, tokenizer)
    folder = export_run(run, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": f"Hello {END} there"}, {"role": "assistant", "content": "Hi!"}]
    rendered = theirs.apply_chat_template(messages, tokenize=False)
    template = tokenizer.chat_template
    assert template is not None
    conversation = [Message("user", f"Hello {END} there"), Message("assistant", "Hi!")]
    assert theirs(rendered).input_ids == template.encode(tokenizer, conversation)[0]
    ends = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    assert set(ends) == tokenizer.stop_ids
    back = load_tokenizer(import_folder(home, folder, name="back").path / "tokenizer")
    assert back.fingerprint() == tokenizer.fingerprint()


def test_a_chat_template_of_another_program_is_not_dropped_in_silence(home: Path, tmp_path: Path) -> None:
    folder = export_run(make_run(home, SHAPE, TOKENIZER), tmp_path / "out")

    def warnings() -> str:
        return " ".join(finish(hf.read(folder, None)).warnings)

    assert "chat template" not in warnings()
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert "The chat template is a program (Jinja) and is not read" in warnings()
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ messages }}"}))
    assert "is not read" in warnings()


def test_sentencepiece_goes_out_in_both_forms(home: Path, tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer.train([text_of_all_kinds(seed=2)], 600)
    folder = export_run(make_run(home, SHAPE, tokenizer), tmp_path / "out")
    assert (folder / "tokenizer.model").read_bytes() == tokenizer.model_bytes
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = text_of_all_kinds()
    assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
    assert (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")
    back = load_tokenizer(import_folder(home, folder, name="back").path / "tokenizer")
    assert back.fingerprint() == tokenizer.fingerprint()


def test_the_chat_template_of_the_export_gives_our_ids_for_1000_conversations(home: Path, tmp_path: Path) -> None:
    """Also where messages contain special tokens, which its tokenizer would read as control."""
    plain = bpe_tokenizer()
    tokenizer = plain.with_chat_template(default_template(plain))
    template = tokenizer.chat_template
    assert template is not None
    folder = export_run(make_run(home, SHAPE, tokenizer), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    chance = random.Random(11)
    for _ in range(1000):
        messages = random_conversation(chance)
        ids, _ = template.encode(tokenizer, messages)
        dicts = [{"role": one.role, "content": one.content} for one in messages]
        assert theirs.apply_chat_template(dicts, return_dict=False) == ids
    prompt = theirs.apply_chat_template(dicts[:-1], add_generation_prompt=True, return_dict=False)
    assert prompt == template.prompt_ids(tokenizer, messages[:-1])
