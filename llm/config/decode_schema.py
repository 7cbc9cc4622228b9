"""The sampling parameters."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config.setting import setting


@dataclass(frozen=True)
class DecodeConfig:
    """Sampling parameters: the defaults of `sample` and of the chat. Their definitions: `llm.sampling`."""

    temperature: float = setting(
        1.0,
        "0 = greedy; lower = more predictable, higher = more varied; 1 = the model's probabilities.",
        low=0,
        high=100,
        live=True,
    )
    dynamic_range: float = setting(
        0.0, "Vary the temperature by up to ± this with the model's uncertainty; 0 = off.", low=0, high=100, live=True
    )
    dynamic_exponent: float = setting(1.0, "Exponent of the dynamic temperature's curve.", above=0, high=100, live=True)
    top_k: int = setting(0, "Keep the k most likely tokens; 0 = off.", low=0, live=True)
    top_p: float = setting(
        1.0, "Keep the most likely tokens whose total probability reaches p; 1 = off.", above=0, high=1, live=True
    )
    min_p: float = setting(
        0.0, "Keep tokens with at least this share of the highest probability; 0 = off.", low=0, high=1, live=True
    )
    typical_p: float = setting(
        1.0,
        "Keep the tokens with the most typical surprise whose total probability reaches this; 1 = off.",
        above=0,
        high=1,
        live=True,
    )
    top_n_sigma: float = setting(
        0.0,
        "Keep tokens whose logit is within n standard deviations of the highest; 0 = off.",
        low=0,
        high=100,
        live=True,
    )
    epsilon_cutoff: float = setting(
        0.0, "Drop tokens with a lower probability than this; 0 = off.", low=0, high=0.99, live=True
    )
    eta_cutoff: float = setting(
        0.0,
        "Drop tokens below this probability, or below a lower one if the model is uncertain; 0 = off.",
        low=0,
        high=0.99,
        live=True,
    )
    xtc_probability: float = setting(
        0.0,
        "XTC: probability of excluding all tokens above the threshold except the least likely of them; 0 = off.",
        low=0,
        high=1,
        live=True,
    )
    xtc_threshold: float = setting(
        0.1, "XTC: probability above which a token may be excluded.", above=0, high=1, live=True
    )
    mirostat_tau: float = setting(
        0.0, "Mirostat v2: target surprise in bits per token; 0 = off.", low=0, high=100, live=True
    )
    mirostat_eta: float = setting(0.1, "Mirostat v2: learning rate.", above=0, high=1, live=True)
    repetition_penalty: float = setting(
        1.0,
        "Divide positive logits of tokens in the text by this, multiply negative ones (CTRL); 1 = off.",
        above=0,
        high=100,
        live=True,
    )
    repetition_window: int = setting(0, "Number of last tokens for the repetition penalty; 0 = all.", low=0, live=True)
    presence_penalty: float = setting(
        0.0, "Subtracted once from the logit of every token in the text; 0 = off.", low=-100, high=100, live=True
    )
    frequency_penalty: float = setting(
        0.0, "Subtracted from a token's logit for each occurrence in the text; 0 = off.", low=-100, high=100, live=True
    )
    penalty_window: int = setting(
        0, "Number of last tokens for presence and frequency penalties; 0 = all.", low=0, live=True
    )
    no_repeat_ngram: int = setting(0, "Never repeat a sequence of n tokens; 0 = off.", low=0, live=True)
    dry_multiplier: float = setting(
        0.0, "DRY: penalty for a token that continues a repeated passage; 0 = off.", low=0, live=True
    )
    dry_base: float = setting(
        1.75, "DRY: factor of the penalty for each additional repeated token.", low=1, high=100, live=True
    )
    dry_allowed_length: int = setting(2, "DRY: shortest repeated passage with a penalty, in tokens.", low=1, live=True)
    dry_window: int = setting(0, "DRY: number of last tokens to search; 0 = all.", low=0, live=True)
    dry_breakers: tuple[str, ...] = setting(
        ("\n", ":", '"', "*"), "DRY: tokens that contain one of these texts end a repeated passage.", live=True
    )
    logit_bias: tuple[str, ...] = setting(
        (),
        "Values to add to logits: TOKEN=BIAS, where TOKEN is an id or the token's text (in quotes if it is a number).",
        live=True,
    )
    banned_tokens: tuple[str, ...] = setting(
        (), "Tokens to exclude: ids, or a token's text (in quotes if it is a number).", live=True
    )
    ban_end: bool = setting(
        False, "Exclude the end-of-text tokens, so that only max_tokens or stop ends the text.", live=True
    )
    min_tokens: int = setting(0, "Minimum number of new tokens.", low=0, live=True)
    max_tokens: int = setting(200, "Maximum number of new tokens.", low=1, live=True)
    max_total_tokens: int = setting(0, "Maximum number of tokens including the prompt; 0 = no limit.", low=0, live=True)
    length_penalty: float = setting(
        1.0,
        "Raises the end-of-text logit with every token after length_penalty_start: above 1 ends sooner; 1 = off.",
        above=0,
        high=100,
        live=True,
    )
    length_penalty_start: int = setting(0, "Number of new tokens before the length penalty starts.", low=0, live=True)
    stop: tuple[str, ...] = setting((), "Texts that end the reply; they are not part of it.", live=True)
    order: tuple[str, ...] = setting(
        (), "Order of the logits processors: bans first, then these, then the others in the default order.", live=True
    )
    beams: int = setting(1, "Beam search with this many beams instead of sampling; 1 = off.", low=1, high=64, live=True)
    beam_length_penalty: float = setting(
        1.0,
        "Beam search: divide a text's log-probability by its length to this power; higher favors longer texts.",
        live=True,
    )
    num_samples: int = setting(1, "Number of texts to generate from one prompt.", low=1, high=256, live=True)
    separator_first: bool = setting(
        False, "Put the separator token before the prompt, as before a document.", live=True
    )
    seed: int = setting(1, "Sampling seed; the same seed gives the same text.", low=0, high=2**63 - 1, live=True)
