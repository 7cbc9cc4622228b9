"""The sampling parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from llm.config.setting import setting

WeightFormat = Literal["auto", "int8", "int4"]
"""The format of a model's matrices while it generates: `DecodeConfig.weights`."""

parameter = partial(setting, live=True)  # a chat applies a change from the next token on


@dataclass(frozen=True)
class DecodeConfig:
    """Sampling parameters: the defaults of `sample` and of the chat. Their definitions: `llm.sampling`."""

    temperature: float = parameter(
        1.0,
        "0 = greedy; lower = more predictable, higher = more varied; 1 = the model's probabilities.",
        low=0,
        high=100,
    )
    dynamic_range: float = parameter(
        0.0, "Vary the temperature by up to ± this with the model's uncertainty; 0 = off.", low=0, high=100
    )
    dynamic_exponent: float = parameter(1.0, "Exponent of the dynamic temperature's curve.", above=0, high=100)
    top_k: int = parameter(0, "Keep the k most likely tokens; 0 = off.", low=0)
    top_p: float = parameter(
        1.0, "Keep the most likely tokens whose total probability reaches p; 1 = off.", above=0, high=1
    )
    min_p: float = parameter(
        0.0, "Keep tokens with at least this share of the highest probability; 0 = off.", low=0, high=1
    )
    typical_p: float = parameter(
        1.0,
        "Keep the tokens with the most typical surprise whose total probability reaches this; 1 = off.",
        above=0,
        high=1,
    )
    top_n_sigma: float = parameter(
        0.0, "Keep tokens whose logit is within n standard deviations of the highest; 0 = off.", low=0, high=100
    )
    epsilon_cutoff: float = parameter(0.0, "Drop tokens with a lower probability than this; 0 = off.", low=0, high=0.99)
    eta_cutoff: float = parameter(
        0.0,
        "Drop tokens below this probability, or below a lower one if the model is uncertain; 0 = off.",
        low=0,
        high=0.99,
    )
    xtc_probability: float = parameter(
        0.0,
        "XTC: probability of excluding all tokens above the threshold except the least likely of them; 0 = off.",
        low=0,
        high=1,
    )
    xtc_threshold: float = parameter(0.1, "XTC: probability above which a token may be excluded.", above=0, high=1)
    mirostat_tau: float = parameter(0.0, "Mirostat v2: target surprise in bits per token; 0 = off.", low=0, high=100)
    mirostat_eta: float = parameter(0.1, "Mirostat v2: learning rate.", above=0, high=1)
    repetition_penalty: float = parameter(
        1.0,
        "Divide positive logits of tokens in the text by this, multiply negative ones (CTRL); 1 = off.",
        above=0,
        high=100,
    )
    repetition_window: int = parameter(0, "Number of last tokens for the repetition penalty; 0 = all.", low=0)
    presence_penalty: float = parameter(
        0.0, "Subtracted once from the logit of every token in the text; 0 = off.", low=-100, high=100
    )
    frequency_penalty: float = parameter(
        0.0, "Subtracted from a token's logit for each occurrence in the text; 0 = off.", low=-100, high=100
    )
    penalty_window: int = parameter(0, "Number of last tokens for presence and frequency penalties; 0 = all.", low=0)
    no_repeat_ngram: int = parameter(0, "Never repeat a sequence of n tokens; 0 = off.", low=0)
    dry_multiplier: float = parameter(
        0.0, "DRY: penalty for a token that continues a repeated passage; 0 = off.", low=0
    )
    dry_base: float = parameter(1.75, "DRY: factor of the penalty for each additional repeated token.", low=1, high=100)
    dry_allowed_length: int = parameter(2, "DRY: shortest repeated passage with a penalty, in tokens.", low=1)
    dry_window: int = parameter(0, "DRY: number of last tokens to search; 0 = all.", low=0)
    dry_breakers: tuple[str, ...] = parameter(
        ("\n", ":", '"', "*"), "DRY: tokens that contain one of these texts end a repeated passage."
    )
    logit_bias: tuple[str, ...] = parameter(
        (),
        "Values to add to logits: TOKEN=BIAS, where TOKEN is an id or the token's text (in quotes if it is a number).",
    )
    banned_tokens: tuple[str, ...] = parameter(
        (), "Tokens to exclude: ids, or a token's text (in quotes if it is a number)."
    )
    ban_end: bool = parameter(False, "Exclude the end-of-text tokens, so that only max_tokens or stop ends the text.")
    min_tokens: int = parameter(0, "Minimum number of new tokens.", low=0)
    max_tokens: int = parameter(200, "Maximum number of new tokens.", low=1)
    max_total_tokens: int = parameter(0, "Maximum number of tokens including the prompt; 0 = no limit.", low=0)
    length_penalty: float = parameter(
        1.0,
        "Raises the end-of-text logit with every token after length_penalty_start: above 1 ends sooner; 1 = off.",
        above=0,
        high=100,
    )
    length_penalty_start: int = parameter(0, "Number of new tokens before the length penalty starts.", low=0)
    stop: tuple[str, ...] = parameter((), "Texts that end the reply; they are not part of it.")
    order: tuple[str, ...] = parameter(
        (), "Order of the logits processors: bans first, then these, then the others in the default order."
    )
    beams: int = parameter(1, "Beam search with this many beams instead of sampling; 1 = off.", low=1, high=64)
    beam_length_penalty: float = parameter(
        1.0, "Beam search: divide a text's log-probability by its length to this power; higher favors longer texts."
    )
    num_samples: int = parameter(1, "Number of texts to generate from one prompt.", low=1, high=256)
    best_of: int = parameter(
        1,
        "Generate this many texts at once and return num_samples of them, those with the highest mean log-probability "
        "per token; 1 = off.",
        low=1,
        high=256,
    )
    separator_first: bool = parameter(False, "Put the separator token before the prompt, as before a document.")
    lookup: int = parameter(
        8,
        "One text by a large model on a CPU: read up to this many tokens ahead that followed the last three tokens "
        "earlier in the text; 0 = off. The text is the same, and comes sooner where it repeats.",
        low=0,
        high=64,
    )
    weights: WeightFormat = parameter(  # noqa: RUF009 (ruff does not see that the alias is immutable)
        "auto",
        "Matrices while generating: auto = bfloat16 for a large model where the processor multiplies it, else as "
        "trained; int8 = 8 bits (CPU): faster for a large model, slightly less exact; int4 = 4 bits and a scale per 32 "
        "inputs (CPU): the least memory, less exact.",
    )
    seed: int = parameter(1, "Sampling seed; the same seed gives the same text.", low=0, high=2**63 - 1)
