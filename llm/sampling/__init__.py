"""From logits to the next token.

`filters` and `penalties` are the logits processors, each a pure function with its source; `pipeline` orders them;
`draw` samples a token; `stops` finds stop strings; `explain` shows the effect of each processor.
"""

from llm.config.decode_schema import DecodeConfig
from llm.sampling.draw import Uniforms, draw
from llm.sampling.explain import Stage, explain
from llm.sampling.pipeline import LogitsPipeline, SamplingContext, build_pipeline, resolve_order
from llm.sampling.stops import StopStrings
from llm.sampling.vocabulary import Vocabulary
