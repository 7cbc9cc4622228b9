"""Conversations packed into rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from llm.data.batches.packing import PackedBatches, PackedRows, pack
from llm.data.text.conversations import Conversation
from llm.data.tokens.conversation_tokens import ConversationTokens, ConversationWriter, conversation_spans
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.chat_template import Message, default_template

BYTES = ByteTokenizer(["<|endoftext|>"])
TOKENIZER = BYTES.with_chat_template(default_template(BYTES))
SEQ_LEN = 47


def conversations(count: int, seed: int = 1, longest: int = 9) -> list[Conversation]:
    chance = random.Random(seed)

    def text() -> str:
        return "".join(chance.choices("abcdefgh", k=chance.randint(1, longest)))

    return [
        tuple(
            message
            for _ in range(chance.randint(1, 2))
            for message in (Message("user", text()), Message("assistant", text()))
        )
        for _ in range(count)
    ]


def written(folder: Path, rows: list[Conversation]) -> ConversationTokens:
    writer = ConversationWriter(folder, "train", TOKENIZER)
    writer.write(rows)
    writer.close()
    record = writer.record()
    paths = [[folder / f"{stem}.bin" for stem in record[name]] for name in ("shards", "marks")]
    return ConversationTokens("training", paths[0], paths[1], record["bytes"])


@pytest.mark.parametrize("packing", ["documents", "plain", "off"])
def test_an_epoch_holds_every_conversation_once_with_its_mask(packing: str, tmp_path: Path) -> None:
    rows = conversations(61)
    packed = PackedRows(written(tmp_path, rows), SEQ_LEN, packing)  # type: ignore[arg-type]
    assert packed.rows == 61 if packing == "off" else packed.rows < 40
    inputs, targets, *positions = packed.read(np.arange(packed.rows))
    assert len(positions) == (packing == "documents")
    expected, found = [], []
    for row in rows:
        ids, counted = TOKENIZER.chat_template.encode(TOKENIZER, row)  # type: ignore[union-attr]
        expected.append([(a, b if c else -1) for a, b, c in zip(ids, ids[1:], counted[1:], strict=False)])
    for line_in, line_out in zip(inputs.tolist(), targets.tolist(), strict=True):
        starts = [place for place, token in enumerate(line_in) if token == 256]
        for start, stop in zip(starts, [*starts[1:], SEQ_LEN], strict=True):
            pairs = list(zip(line_in[start:stop], line_out[start:stop], strict=True))
            while pairs[-1] == (0, -1):
                pairs.pop()
            found.append(pairs)
    assert sorted(found) == sorted(expected)
    assert packed.num_targets.tolist() == (targets != -1).sum(1).tolist()


def test_positions_restart_at_every_conversation(tmp_path: Path) -> None:
    packed = PackedRows(written(tmp_path, conversations(20)), SEQ_LEN, "documents")
    inputs, _, positions = packed.read(np.arange(packed.rows))
    assert ((positions == 0) == (inputs == 256))[:, :-1][inputs[:, :-1] != 0].all()
    assert ((np.diff(positions, axis=1) == 1) | (positions[:, 1:] == 0)).all()


def test_batches_are_a_function_of_seed_and_number_and_ranks_share_them(tmp_path: Path) -> None:
    packed = PackedRows(written(tmp_path, conversations(90)), SEQ_LEN, "documents")
    whole = PackedBatches(packed, rows=4, seed=3)
    seen = np.concatenate([whole.numbers(i) for i in range(packed.rows)])
    assert (np.bincount(seen) == 4).all(), "four epochs hold every row four times"
    assert not (seen[: packed.rows] == seen[packed.rows : 2 * packed.rows]).all()
    parts = [PackedBatches(packed, rows=4, seed=3, rank=rank, ranks=2).batch(7) for rank in range(2)]
    for array, halves in zip(whole.batch(7), zip(*parts, strict=True), strict=True):
        assert (array == np.concatenate(halves)).all()
    assert whole.num_targets(7) == (whole.batch(7)[1] != -1).sum()
    assert PackedBatches(packed, rows=1000, seed=3).batch(0)[0].shape == (1000, SEQ_LEN)


def test_long_conversations_are_cut_after_a_whole_answer(tmp_path: Path) -> None:
    fits = (Message("user", "a"), Message("assistant", "b"))
    later = (Message("user", "c" * 20), Message("assistant", "d" * 20))
    split = written(tmp_path, [fits, fits + later, later + fits, fits + fits])
    spans = conversation_spans(split.read_marks(), 20)
    assert (spans.cut, spans.dropped) == (1, 1) and spans.lengths.tolist() == [7, 7, 13]
    end = TOKENIZER.special_tokens["<|end|>"]
    for start, length in zip(spans.starts, spans.lengths, strict=True):
        ids = split.read(int(start), int(start + length))
        assert ids[0] == 256 and ids[-1] == end
    assert spans.counted.tolist() == [2, 2, 4]
    assert len(conversation_spans(split.read_marks(), 3).starts) == 0


def test_bins_are_full() -> None:
    chance = random.Random(2)
    sizes = [chance.randint(1, 100) for _ in range(3000)]
    bins = pack(sizes, 100)
    assert sorted(index for row in bins for index in row) == list(range(3000))
    assert max(sum(sizes[index] for index in row) for row in bins) <= 100
    assert sum(sizes) / (100 * len(bins)) > 0.98
