"""Chat templates: the ids of a conversation, the same in every program."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llm.tokenizer import Tokenizer, load_tokenizer, train_bpe
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.char import CharTokenizer
from llm.tokenizer.chat_template import STORIES_TEMPLATE, ChatTemplate, Message, chat_template, default_template
from llm.tokenizer.patterns import GPT2_PATTERN
from llm.tokenizer.ranks import RankTokenizer
from llm.tokenizer.spm import SentencePieceTokenizer

SPECIALS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
HOSTILE = (*SPECIALS, "<|end", "|>", "< |end|>", "<<|user|>|>", "\n\nQuestion:", "{{ x }}", "{% if %}", "'", '"', "\\n")
PARTS = (*HOSTILE, "the cat", " ", "\n", "\t", "  sat", "é", "中文", "🙂", "12345", "\u200b", "don't", "\r\n", "\x00")


def with_template(tokenizer: Tokenizer) -> Tokenizer:
    return tokenizer.with_chat_template(default_template(tokenizer))


def random_conversation(chance: random.Random) -> list[Message]:
    def content() -> str:
        return "".join(chance.choices(PARTS, k=chance.randint(1, 12)))

    messages = [Message("system", content())] if chance.random() < 0.3 else []
    for _ in range(chance.randint(1, 4)):
        messages += [Message("user", content()), Message("assistant", content())]
    return messages


def test_the_template_of_the_stories() -> None:
    template = chat_template(ByteTokenizer(), "stories")
    assert template is STORIES_TEMPLATE
    prompt = template.render_prompt([Message("user", "a"), Message("assistant", "b"), Message("user", "c")])
    assert prompt == "Question: a\nAnswer: b\n\nQuestion: c\nAnswer:"
    assert chat_template(ByteTokenizer(), "pylib") is None


def test_only_answers_and_their_ends_are_counted() -> None:
    tokenizer = with_template(ByteTokenizer(["<|endoftext|>"]))
    template = tokenizer.chat_template
    assert template is not None and chat_template(tokenizer, "stories") is template
    messages = [Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v")]
    ids, counted = template.encode(tokenizer, messages)
    assert tokenizer.decode(ids, special=True) == (
        "<|endoftext|><|system|>s<|end|><|user|>u<|end|><|assistant|>a<|end|><|user|>v<|end|>"
    )
    end = tokenizer.special_tokens["<|end|>"]
    assert [token for token, is_counted in zip(ids, counted, strict=True) if is_counted] == [ord("a"), end]
    assert template.prompt_ids(tokenizer, messages) == [*ids, tokenizer.special_tokens["<|assistant|>"]]
    messages[2] = messages[2]._replace(is_learned=False)
    assert template.encode(tokenizer, messages) == (ids, [False] * len(ids))
    assert tokenizer.stop_ids == {256, end}


def test_a_word_is_the_same_token_at_the_start_of_a_message_as_within(tmp_path: Path) -> None:
    """Learned and generated with its space, where words hold the space before them."""
    merges = train_bpe(["I saw Tom and Tom saw me. " * 9], 300)
    ranks = {token: rank for rank, token in enumerate([*(bytes([value]) for value in range(256)), *merges])}
    tokenizer = with_template(RankTokenizer("bpe", ranks, {"<|endoftext|>": len(ranks)}, GPT2_PATTERN))
    template = tokenizer.chat_template
    assert template is not None
    (tom,) = tokenizer.encode(" Tom")
    messages = [Message("user", "Tom saw Tom"), Message("assistant", "Tom")]
    ids, counted = template.encode(tokenizer, messages)
    assert ids.count(tom) == 3
    end, prompt = tokenizer.special_tokens["<|end|>"], template.prompt_ids(tokenizer, messages[:1])
    assert [*prompt, tom, end] == ids
    assert [token for token, is_counted in zip(ids, counted, strict=True) if is_counted] == [tom, end]
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).chat_template == template


def test_special_tokens_in_a_message_are_text() -> None:
    tokenizer = with_template(ByteTokenizer(["<|endoftext|>"]))
    template = tokenizer.chat_template
    assert template is not None
    chance = random.Random(1)
    for _ in range(200):
        messages = random_conversation(chance)
        ids, _ = template.encode(tokenizer, messages)
        assert sum(token >= 256 for token in ids) == 1 + 2 * len(messages)
        contents = "".join(message.content for message in messages)
        assert tokenizer.decode(ids).replace("< |", "<|") == contents.replace("< |", "<|")


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "sentencepiece"])
def test_a_template_is_saved_with_its_tokenizer(kind: str, tmp_path: Path) -> None:
    text = "the cat sat on the mat, and the dog sat on the cat. " * 20
    plain: Tokenizer
    if kind == "byte":
        plain = ByteTokenizer(["<|endoftext|>"])
    elif kind == "char":
        plain = CharTokenizer(text, ["<|endoftext|>"])
    elif kind == "bpe":
        ranks = {token: rank for rank, token in enumerate([bytes([value]) for value in range(256)])}
        ranks |= {token: 256 + rank for rank, token in enumerate(train_bpe([text], 270, pattern=GPT2_PATTERN)[-10:])}
        plain = RankTokenizer("bpe", ranks, {"<|endoftext|>": len(ranks)}, GPT2_PATTERN)
    else:
        plain = SentencePieceTokenizer.train([text], 280)
    tokenizer = with_template(plain)
    assert tokenizer.vocab_size == plain.vocab_size + 4 and plain.chat_template is None
    assert tokenizer.encode(text) == plain.encode(text)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.chat_template, loaded.special_tokens) == (tokenizer.chat_template, tokenizer.special_tokens)
    assert (loaded.fingerprint(), loaded.stop_ids) == (tokenizer.fingerprint(), tokenizer.stop_ids)
    assert loaded.fingerprint() != plain.fingerprint()
    messages = [Message("user", "the cat?"), Message("assistant", "sat")]
    assert loaded.chat_template is not None and tokenizer.chat_template is not None
    assert loaded.chat_template.encode(loaded, messages) == tokenizer.chat_template.encode(tokenizer, messages)


def test_a_system_message_joins_the_first_question_where_the_template_has_none() -> None:
    prompt = STORIES_TEMPLATE.render_prompt([Message("system", "Be brief."), Message("user", "Who?")])
    assert prompt == "Question: Be brief.\n\nWho?\nAnswer:"
    unlearned = [Message("system", "Be brief."), Message("assistant", "Hello.", is_learned=False)]
    assert not any(piece.is_counted for piece in STORIES_TEMPLATE.pieces(unlearned))


def test_transformers_gives_the_same_ids() -> None:
    """Also where messages contain special tokens, which its tokenizers would read as control."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as FastTokenizer
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ours = with_template(ByteTokenizer(["<|endoftext|>"]))
    template = ours.chat_template
    assert template is not None
    fast = FastTokenizer(models.BPE(vocab={sign: byte for byte, sign in bytes_to_unicode().items()}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ours.special_tokens])
    theirs = PreTrainedTokenizerFast(tokenizer_object=fast)
    theirs.chat_template = template.to_jinja(ours.special_tokens)
    chance = random.Random(7)
    for _ in range(100):
        messages = random_conversation(chance)
        dicts = [{"role": one.role, "content": one.content} for one in messages]
        assert theirs.apply_chat_template(dicts, return_dict=False) == template.encode(ours, messages)[0]
        prompt = theirs.apply_chat_template(dicts[:-1], add_generation_prompt=True, return_dict=False)
        assert prompt == template.prompt_ids(ours, messages[:-1])


def test_a_template_with_text_between_its_tokens_is_encoded_as_one_text() -> None:
    """ChatML, in which a role and the message that follows are one text."""
    tokens = ("<|im_start|>", "<|im_end|>")
    roles = ("system", "user", "assistant")
    chatml = ChatTemplate(
        "", {role: f"<|im_start|>{role}\n" for role in roles}, dict.fromkeys(roles, "<|im_end|>\n"), tokens
    )
    tokenizer = ByteTokenizer(["<|endoftext|>"]).with_chat_template(chatml)
    ids, counted = chatml.encode(tokenizer, [Message("user", "hi"), Message("assistant", "yo")])
    assert tokenizer.decode(ids, special=True) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    )
    learned = [token for token, is_counted in zip(ids, counted, strict=True) if is_counted]
    assert tokenizer.decode(learned, special=True) == "yo<|im_end|>"
    assert ChatTemplate.from_record(chatml.to_record()) == chatml
