"""Views of the model in training for tasks: its full weights, a model that one rank can run, an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from torch import Tensor

from llm.engine import Engine
from llm.model.adapters import merged_weights
from llm.model.transformer import Transformer
from llm.training.context import TrainingContext
from llm.training.evaluate import evaluation_mode
from llm.training.sharded_sampling import ShardedReader, next_token_logits
from llm.training.state import whole_weights


def view_handlers(context: TrainingContext) -> dict[str, Callable[..., object]]:
    """The handlers of the other ranks while rank 0 uses a sharded model, by name (`Ranks.run_on_all`)."""
    return {
        "forward": lambda tokens: next_token_logits(context.state.model, context.plan, tokens),
        "gather weights": lambda: list(whole_weights(context.state)),
    }


def all_weights(context: TrainingContext) -> dict[str, Tensor]:
    """The full weights by name, with adapters merged; gathered from all ranks if the state is sharded."""
    state = context.state
    if state.sharding is None:
        return merged_weights(state.model)
    gathered = context.ranks.run_on_all("gather weights", lambda: list(whole_weights(state)))
    return {name: tensor for name, tensor in gathered if tensor is not None}


def whole_model(context: TrainingContext) -> Transformer:
    """The model in training; a copy with the full weights, which rank 0 alone can run, if it is sharded; a copy with
    merged weights if it has adapters."""
    state = context.state
    if state.sharding is None and state.model.lora is None:
        return state.model
    model = Transformer(state.model.config, kernels=context.config.train.kernels)
    model.load_state_dict(all_weights(context))
    return model.to(context.plan.device)


@contextmanager
def sampling_engine(context: TrainingContext) -> Iterator[Engine]:
    """An engine with the current weights."""
    model, tokenizer = context.state.model, context.dataset.tokenizer
    if context.state.sharding is None:
        with evaluation_mode(model):
            yield Engine(model, tokenizer)
    else:
        reader = cast(Transformer, ShardedReader(model, context.plan, context.ranks))
        yield Engine(reader, tokenizer, use_cache=False)
