"""From logits to the next token.

`filters` and `penalties` hold the transformations, each a pure function with its source; `pipeline` puts them in order;
`draw` picks the token; `stops` finds stop strings; `explain` shows what each transformation did.
"""

from llm.config.schema import DecodeConfig as DecodeConfig
from llm.sampling.draw import Uniforms, draw
from llm.sampling.explain import Stage, explain
from llm.sampling.pipeline import LogitsPipeline, SamplingContext, build_pipeline, resolve_order
from llm.sampling.stops import StopStrings
from llm.sampling.vocabulary import Vocabulary

__all__ = [
    "DecodeConfig",
    "LogitsPipeline",
    "SamplingContext",
    "Stage",
    "StopStrings",
    "Uniforms",
    "Vocabulary",
    "build_pipeline",
    "draw",
    "explain",
    "resolve_order",
]
