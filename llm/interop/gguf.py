"""GGUF, the format of llama.cpp, written with the package `gguf`.

llama.cpp finds its code by the name of the architecture, and the split pattern of byte-level BPE by another name
(`tokenizer.ggml.pre`): a model or a pattern that it has no name for cannot be written. Its "llama" rotates even and odd
coordinates together, its "qwen3" the halves. Source: ggml's docs/gguf.md, llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.config.resolve import head_width
from llm.config.schema import ModelConfig
from llm.errors import UserError
from llm.events import Progress
from llm.interop.architectures import GPT2, LLAMA, QWEN3, Architecture, nearest_misfit
from llm.interop.model_card import RECIPE, model_card, recipe
from llm.interop.sentencepiece_model import BPE, UNKNOWN, parse_model
from llm.interop.source import Source, end_token_id
from llm.interop.tokenizer_json import FOREIGN_PATTERNS, byte_names, find_merges, printable
from llm.model.counts import q_width
from llm.tokenizer import RankTokenizer, Tokenizer
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.patterns import GPT2_PATTERN, GPT4_PATTERN
from llm.tokenizer.spm import SentencePieceTokenizer

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32  # numbers that q8_0 and q4_0 store together; a row is made of whole blocks
KINDS = (GPT2, LLAMA, QWEN3)
PRE_TOKENIZERS = {
    GPT2_PATTERN: "gpt-2",
    GPT4_PATTERN: "llama-bpe",
    FOREIGN_PATTERNS["GPT-4"]: "llama-bpe",
    FOREIGN_PATTERNS["Qwen"]: "qwen2",
}
"""Split pattern -> llama.cpp's name of it. tiktoken's cl100k has none: llama.cpp ends a piece at the last line break
before a special token or the end of a text. Its "gpt-4o" knows neither combining marks nor capitals beyond A to Z."""
PARTS = {
    "embedding.weight": "token_embd.weight",
    "position.weight": "position_embd.weight",
    "final_norm": "output_norm",
    "blocks": "blk",
    "attn.out": "attn_output",
    "attn.qkv": "attn_qkv",
    "attn.q_norm": "attn_q_norm",
    "attn.k_norm": "attn_k_norm",
    "attn.q.": "attn_q.",
    "attn.k.": "attn_k.",
    "attn.v.": "attn_v.",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    "gain": "weight",
    "head.weight": "output.weight",
}
NO_MERGE = "aa a"
"""For a vocabulary of bytes: llama.cpp needs a merge, and this one never applies, since nothing makes "aa"."""
USAGE = """## Use

    llama-cli -m {file} -p "Once" -no-cnv
"""


def problem(shape: ModelConfig, tokenizer: Tokenizer) -> str:
    """Why llama.cpp cannot run a model; "" where it can."""
    return shape_problem(shape) or tokenizer_problem(tokenizer)


def shape_problem(shape: ModelConfig) -> str:
    if reason := nearest_misfit(shape, KINDS):
        return f"llama.cpp has no architecture for this model: {reason}"
    if shape.position == "learned" and shape.mlp != "gelu":
        return f"llama.cpp computes GPT-2 with model.mlp = gelu, not {shape.mlp} (train with --model.mlp gelu)"
    return ""


def tokenizer_problem(tokenizer: Tokenizer) -> str:
    if isinstance(tokenizer, RankTokenizer) and tokenizer.pattern not in PRE_TOKENIZERS:
        return (
            "llama.cpp has no name for this tokenizer's split pattern, and would split text otherwise (train with "
            "--tokenizer.kind bpe --tokenizer.pattern gpt4)"
        )
    if isinstance(tokenizer, SentencePieceTokenizer):
        if tokenizer.rewrites:
            return "the SentencePiece model rewrites text before it splits it"
        if parse_model(tokenizer.model_bytes).model_type != BPE:
            return "the SentencePiece model is a unigram model, only BPE can be written"
    if not isinstance(tokenizer, RankTokenizer | ByteTokenizer | SentencePieceTokenizer):
        return f"llama.cpp has no tokenizer of kind {tokenizer.kind} (train with --tokenizer.kind byte)"
    return ""


def write(source: Source, folder: Path, dtype: str) -> Iterator[Progress]:
    """Write RUN-STEP-DTYPE.gguf, run.toml and README.md."""
    gguf = import_gguf()
    check_rows(source.shape, dtype)
    kind = next(kind for kind in KINDS if not kind.misfits(source.shape))
    path = folder / f"{source.run.name}-{source.info.step}-{dtype}.gguf"
    writer = gguf.GGUFWriter(path, kind.model_type)
    add_settings(gguf, writer, source, kind, dtype)
    add_tokenizer(gguf, writer, source)
    weights = named_weights(source, kind)
    for number, (name, value) in enumerate(weights.items()):
        yield Progress(stage="Converting weights", done=number, total=len(weights), unit="tensors")
        add_weight(gguf, writer, name, value, dtype)
    yield Progress(stage="Writing the file", done=0, total=0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / RECIPE).write_bytes(recipe(source.config))
    (folder / "README.md").write_bytes(model_card(source, "gguf", USAGE.format(file=path.name)))


def import_gguf() -> Any:
    """The package. UserError where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError("Writing GGUF needs the package gguf; run: pip install 'llm-workbench[gguf]'") from None
    return gguf


def check_rows(shape: ModelConfig, dtype: str) -> None:
    """UserError where the rows of a matrix are not whole blocks."""
    widths = {"model.d_model": shape.d_model, "model.d_ff": shape.d_ff, "the width of all heads": q_width(shape)}
    for name, width in widths.items():
        if dtype.startswith("q") and width % BLOCK:
            raise UserError(f"{dtype} stores blocks of {BLOCK} numbers, but {name} is {width}; use f16, bf16 or f32.")


def named_weights(source: Source, kind: Architecture) -> dict[str, Tensor]:
    """The weights by the names and in the layout of llama.cpp."""
    from llm.interop.weights import Naming, convert, to_names

    layout = kind.layout(source.shape)
    if kind is LLAMA:
        layout = replace(layout, rope_pairs="even-odd")
    weights = to_names(convert(source.weights(), source.shape, layout), Naming(PARTS, joins_qkv=kind is GPT2))
    if source.shape.tied_head:
        del weights["output.weight"]
    return weights


def add_weight(gguf: Any, writer: Any, name: str, value: Tensor, dtype: str) -> None:
    """Add one tensor. Vectors and positions stay float32; with q4_0, embedding and head are q8_0."""
    import torch

    wide = value.to(torch.float32).contiguous().numpy()
    if value.dim() == 1 or name == "position_embd.weight":
        writer.add_tensor(name, wide)
        return
    wanted = "q8_0" if dtype == "q4_0" and name in ("token_embd.weight", "output.weight") else dtype
    kind = gguf.GGMLQuantizationType[wanted.upper()]
    writer.add_tensor(name, gguf.quants.quantize(wide, kind), raw_dtype=kind)


def add_settings(gguf: Any, writer: Any, source: Source, kind: Architecture, dtype: str) -> None:
    c = source.shape
    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
    writer.add_name(source.run.name)
    writer.add_file_type(gguf.LlamaFileType[types[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.d_model)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_block_count(c.n_layer)
    writer.add_head_count(c.n_head)
    writer.add_head_count_kv(c.n_kv_head)
    if kind is GPT2:
        writer.add_layer_norm_eps(c.norm_eps)
        return
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_rope_dimension_count(head_width(c))
    writer.add_key_length(head_width(c))
    writer.add_value_length(head_width(c))
    writer.add_vocab_size(c.vocab_size)


def add_tokenizer(gguf: Any, writer: Any, source: Source) -> None:
    """Add the tokenizer, with as many tokens as the embedding has rows."""
    tokenizer, rows = source.tokenizer, source.shape.vocab_size
    texts = [f"[PAD{row}]" for row in range(rows)]
    kinds = [gguf.TokenType.UNUSED] * rows
    if isinstance(tokenizer, SentencePieceTokenizer):
        add_pieces(gguf, writer, tokenizer, texts, kinds)
    else:
        add_byte_tokens(gguf, writer, tokenizer, texts, kinds)
    for text, row in tokenizer.special_tokens.items():
        texts[row], kinds[row] = text, gguf.TokenType.CONTROL
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template.to_jinja(tokenizer.special_tokens))
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    if tokenizer.separator is not None:
        writer.add_bos_token_id(tokenizer.separator)
        writer.add_eos_token_id(end_token_id(tokenizer))


def add_pieces(gguf: Any, writer: Any, tokenizer: SentencePieceTokenizer, texts: list[str], kinds: list[Any]) -> None:
    """Add the scores of a SentencePiece model, and put the text and the type of each piece into `texts` and `kinds`."""
    pieces = parse_model(tokenizer.model_bytes).pieces
    scores = [0.0] * len(texts)
    for row, (text, score, kind) in enumerate(pieces):
        texts[row], scores[row], kinds[row] = text, score, gguf.TokenType(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores(scores)
    writer.add_add_space_prefix(bool(tokenizer.dummy_prefix))
    unknown = next((row for row, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN), None)
    if unknown is not None:
        writer.add_unk_token_id(unknown)


def add_byte_tokens(gguf: Any, writer: Any, tokenizer: Tokenizer, texts: list[str], kinds: list[Any]) -> None:
    """Add the merges of byte-level BPE, none for bytes, and put the text and the type of each token into `texts` and
    `kinds`."""
    names = byte_names()
    ranks = tokenizer.ranks if isinstance(tokenizer, RankTokenizer) else {bytes([row]): row for row in range(256)}
    for token, row in ranks.items():
        texts[row], kinds[row] = printable(token, names), gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[tokenizer.pattern] if isinstance(tokenizer, RankTokenizer) else "gpt-2")
    merges = [f"{printable(left, names)} {printable(right, names)}" for left, right in find_merges(ranks)]
    writer.add_token_merges(merges or [NO_MERGE])
