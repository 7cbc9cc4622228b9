"""`sample --explain`: the distribution that each token of a reply is drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm.config import DecodeConfig
from llm.errors import WrongUse
from llm.run import CheckpointInfo, Run
from workbench.chat.conversation import params_to_mapping
from workbench.commands.output import print_json
from workbench.text import one_line

if TYPE_CHECKING:
    from llm.engine import Engine
    from llm.sampling import Stage

SHOWN = 5  # tokens of a distribution in the printed form; --json has ten


def explain(
    run: Run, info: CheckpointInfo, engine: Engine, prompt: str, params: DecodeConfig, *, as_json: bool
) -> None:
    """Print a reply token by token, with the distribution before and after each logits processor."""
    from llm.engine import Piece
    from workbench.chat.tokens import quote_token

    if params.num_samples > 1 or params.beams > 1:
        raise WrongUse("--explain needs a single sample; leave --num-samples and --beams at 1.")
    pieces = [item for item in engine.stream(prompt, params) if isinstance(item, Piece) and item.token_id is not None]
    tokens = [piece.token_id for piece in pieces if piece.token_id is not None]
    found = []
    for at, (piece, stages) in enumerate(zip(pieces, engine.explain_each(prompt, params, tokens), strict=True)):
        if as_json:
            named = [stage_record(stage, engine) for stage in stages]
            probability = piece.probability
            found.append({"token": tokens[at], "text": piece.text, "probability": probability, "stages": named})
        else:
            print(f"{at + 1}  {quote_token(engine.tokenizer, tokens[at])}  probability {100 * piece.probability:.2f} %")
            for stage in stages:
                print(stage_line(stage, engine))
    if as_json:
        record = {"run": run.name, "step": info.step, "prompt": prompt, "tokens": found}
        print_json(record | {"decode": params_to_mapping(params)})


def stage_record(stage: Stage, engine: Engine) -> dict[str, Any]:
    from workbench.chat.tokens import quote_token

    top = [
        {"token": token, "text": quote_token(engine.tokenizer, token), "probability": probability}
        for token, probability in stage.top
    ]
    return {"name": stage.name, "kept": stage.kept, "entropy_bits": stage.entropy_bits, "top": top}


def stage_line(stage: Stage, engine: Engine) -> str:
    from workbench.chat.tokens import quote_token

    top = [
        (quote_token(engine.tokenizer, token), probability) for token, probability in stage.top[:SHOWN] if probability
    ]
    likeliest = "  ".join(f"{one_line(text)} {100 * probability:.1f}%" for text, probability in top)
    return f"   {stage.name:<20} {stage.kept:>7,} left {stage.entropy_bits:6.2f} bits  {likeliest}"
