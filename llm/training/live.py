"""Access to the weights of a model while it is being trained, in the same process."""

from __future__ import annotations

from llm.device import Plan
from llm.model.adapters import merged_weights
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.training.state import TrainerState


class LiveWeights:
    """A run in training, as a chat needs it. Copies are made under the trainer's lock and share no memory with the
    training model, so that a chat cannot change it."""

    def __init__(self, run_name: str, state: TrainerState, tokenizer: Tokenizer, plan: Plan) -> None:
        self.run_name = run_name
        self.tokenizer = tokenizer
        self.plan = plan
        self.state = state
        """The training state itself, not a copy: do not change it."""

    @property
    def step(self) -> int:
        """The last completed step: the version of the weights."""
        return self.state.step

    def snapshot(self) -> tuple[Transformer, int]:
        """A copy of the model between two steps, in evaluation mode, and its step."""
        model = self.state.model
        with self.state.lock:
            step = self.state.step
            weights = {name: tensor.detach().clone() for name, tensor in merged_weights(model).items()}
        model_copy = Transformer(model.config)
        model_copy.load_state_dict(weights)
        return model_copy.to(self.plan.device).eval(), step
