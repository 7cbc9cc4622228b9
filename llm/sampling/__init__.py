"""From logits to the next token.

`filters` and `penalties` hold the transformations, each a pure function with its source; `stack` puts them in order;
`draw` picks the token; `stops` finds stop strings; `explain` shows what each transformation did.
"""

from llm.config.schema import DecodeConfig as Knobs
from llm.sampling.draw import Uniforms, draw
from llm.sampling.explain import Stage, explain
from llm.sampling.stack import Moment, Stack, build_stack, resolved_order
from llm.sampling.stops import StopStrings
from llm.sampling.vocabulary import Vocabulary

__all__ = [
    "Knobs",
    "Moment",
    "Stack",
    "Stage",
    "StopStrings",
    "Uniforms",
    "Vocabulary",
    "build_stack",
    "draw",
    "explain",
    "resolved_order",
]
