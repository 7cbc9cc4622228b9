"""Resolves the sampling parameters that name tokens (bans, biases, sequence breakers) to ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm.config.decode_schema import DecodeConfig
from llm.errors import ConfigError, Problem, UserError

if TYPE_CHECKING:
    from llm.tokenizer.base import Tokenizer

MAX_BIAS = 1e6  # larger than any logit, and no sum with it overflows


@dataclass(frozen=True)
class NamedTokens:
    """Ids (N,) int64 of banned, stop and biased tokens; biases (N,) float; DRY's sequence breakers (V,) bool."""

    banned: Tensor
    stop_ids: Tensor
    biased: Tensor
    bias: Tensor
    breakers: Tensor


class Vocabulary:
    """Finds token ids for the logits pipeline; tensors are on `device`."""

    def __init__(self, tokenizer: Tokenizer, device: torch.device | str = "cpu") -> None:
        self.tokenizer = tokenizer
        self.size = tokenizer.vocab_size
        self.device = torch.device(device)
        self._containing = lru_cache(maxsize=8)(self._find_containing)

    def resolve(self, params: DecodeConfig) -> NamedTokens:
        """The ids of all tokens that `params` name. ConfigError lists every unknown one."""
        problems: list[Problem] = []
        banned = [self._id("decode.banned_tokens", text, problems) for text in params.banned_tokens]
        biases = [self._bias(entry, problems) for entry in params.logit_bias]
        if problems:
            raise ConfigError(problems)
        return NamedTokens(
            banned=self._ids(banned),
            stop_ids=self._ids(sorted(self.tokenizer.stop_ids)),
            biased=self._ids([token for token, _ in biases]),
            bias=torch.tensor([value for _, value in biases], device=self.device),
            breakers=self._containing(params.dry_breakers if params.dry_multiplier > 0 else ()),
        )

    def _ids(self, ids: list[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self.device)

    def _bias(self, entry: str, problems: list[Problem]) -> tuple[int, float]:
        """The token and the bias of "TOKEN=BIAS", split at the last "=": a token may contain one."""
        text, _, number = entry.rpartition("=")
        try:
            bias = float(number)
        except ValueError:
            bias = float("nan")
        if not text or not abs(bias) <= MAX_BIAS:
            problems.append(
                Problem("decode.logit_bias", f"{entry!r} is not TOKEN=BIAS, for example 198=-5 or ' the'=2.")
            )
            return 0, 0.0
        return self._id("decode.logit_bias", text, problems), bias

    def _id(self, path: str, text: str, problems: list[Problem]) -> int:
        """The id of `text`: a number, or the text of exactly one token, with or without quotes."""
        if text.isascii() and text.isdigit():
            if int(text) >= self.size:
                problems.append(Problem(path, f"token {text} does not exist; use an id from 0 to {self.size - 1}."))
            return int(text)
        quoted = len(text) > 2 and text[0] == text[-1] and text[0] in "'\""
        content = text[1:-1] if quoted else text
        try:
            ids = self.tokenizer.encode(content, special=True)
        except UserError as error:
            problems.append(Problem(path, str(error)))
            return 0
        if len(ids) != 1:
            parts = ", ".join(map(str, ids)) or "none"
            problems.append(
                Problem(path, f"{content!r} is {len(ids)} tokens, not one (ids: {parts}); use one of these ids.")
            )
            return 0
        return ids[0]

    def _find_containing(self, texts: tuple[str, ...]) -> Tensor:
        """Mask (V,) bool of the tokens that contain one of `texts`."""
        wanted = [text.encode("utf-8", "surrogatepass") for text in texts if text]
        token_bytes = self.tokenizer.token_bytes
        mask = [any(text in token_bytes(id) for text in wanted) for id in range(self.size)]
        return torch.tensor(mask, dtype=torch.bool, device=self.device)
