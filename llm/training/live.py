"""Access to the weights of a model while it is being trained, in the same process."""

from __future__ import annotations

from llm.device import Plan
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer
from llm.training.state import TrainerState


class LiveWeights:
    """What a chat needs of a run in training. Copies are taken under the trainer's lock and never share memory with
    the model that trains, so that talking to it cannot change it."""

    def __init__(self, run_name: str, state: TrainerState, tokenizer: Tokenizer, plan: Plan) -> None:
        self.run_name = run_name
        self.tokenizer = tokenizer
        self.plan = plan
        self._state = state

    @property
    def step(self) -> int:
        """The last completed step: the version of the weights."""
        return self._state.step

    def snapshot(self) -> tuple[Transformer, int]:
        """A copy of the model as it stands between two steps, ready to sample from, and its step."""
        model = self._state.model
        with self._state.lock:
            step = self._state.step
            weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        twin = Transformer(model.config)
        twin.load_state_dict(weights)
        return twin.to(self.plan.device).eval(), step
