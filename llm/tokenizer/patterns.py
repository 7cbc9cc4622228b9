"""Pre-tokenization: the regular expressions that split text into pre-tokens.

No merge crosses the border of a pre-token. Every pattern must match all text: tiktoken silently drops text that its
pattern does not match (0.14.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llm.errors import ConfigError, Problem

if TYPE_CHECKING:
    import regex

OWN_PATTERN = "|".join(
    [
        r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])",  # English endings: it's, we'll
        r"[^\r\n\p{L}\p{M}\p{N}]?+[\p{L}\p{M}]++",  # a word with the space or sign before it
        r"\p{N}{1,2}+",  # digits in pairs: a small vocabulary has no room for a thousand triples
        r" ?[^\s\p{L}\p{M}\p{N}]++[\r\n]*+",  # punctuation with the line break that follows it
        r"\s{0,63}[\r\n]",  # line breaks and the blanks before them
        r"\s{1,64}(?!\S)",  # blanks, without the last one before a word
        r"\s",
    ]
)
"""Similar to GPT-4's (cl100k). Letters keep their combining marks. Repeats are possessive or limited, or tiktoken's
regex engine would keep a state per character and fail on a million spaces."""

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""GPT-2's pattern with possessive repeats; the pieces are the same."""

_GPT4_TEXT = [
    r"'(?i:[sdmt]|ll|ve|re)",
    r"[^\r\n\p{L}\p{N}]?+\p{L}++",
    r"\p{N}{1,3}+",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
]
GPT4_PATTERN = "|".join([*_GPT4_TEXT, r"\s*[\r\n]|\s+(?!\S)|\s"])
"""GPT-4's pattern with possessive repeats, as Llama 3 has it: also at the end of a text, a line break ends a piece."""

CL100K_PATTERN = "|".join([*_GPT4_TEXT, r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"])
"""The pattern of tiktoken's cl100k_base: the whitespace at the end of a text is one piece."""

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_PATTERN = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)

NAMED_PATTERNS: Mapping[str, str] = {"ours": OWN_PATTERN, "gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN}
KNOWN_PATTERNS = frozenset({OWN_PATTERN, GPT2_PATTERN, GPT4_PATTERN, CL100K_PATTERN, O200K_PATTERN})
"""The patterns for which the rules of `cuts` hold."""

ANYTHING = r"|[\s\S]"
PROBE = "".join(map(chr, range(128))) + "aé中א \n\n  12'll A. Don't  stop 12.5%,\n\n\té 海!\n"
"""Characters of every kind, to find patterns that match the empty text between some of them."""


def resolve_pattern(name: str) -> str:
    """The pattern of `tokenizer.pattern`, a name or a regular expression, extended to match all text.

    ConfigError if one of the two regex engines, that of training and that of tiktoken, cannot compile it.
    """
    if name in NAMED_PATTERNS:
        return NAMED_PATTERNS[name]
    pattern = name if name in KNOWN_PATTERNS or name.endswith(ANYTHING) else name + ANYTHING
    try:
        compile_pattern(pattern)
        _compile_in_tiktoken(pattern)
    except Exception as error:
        names = ", ".join(NAMED_PATTERNS)
        message = f"is neither {names} nor a valid regular expression ({str(error).splitlines()[0]})"
        raise ConfigError([Problem("tokenizer.pattern", message)]) from error
    return pattern


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Compile a pattern. regex.error if it is invalid; ValueError if it matches the empty text, as tiktoken crashes."""
    import regex

    compiled = regex.compile(pattern)
    if any(not match.group() for text in ("", PROBE) for match in compiled.finditer(text)):
        raise ValueError("the pattern matches the empty text")
    return compiled


def _compile_in_tiktoken(pattern: str) -> None:
    import tiktoken

    tiktoken.Encoding(
        "check", pat_str=pattern, mergeable_ranks={bytes([value]): value for value in range(256)}, special_tokens={}
    )
