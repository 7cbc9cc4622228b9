"""The model of the chat: a checkpoint, or a run in training in this process or another. Imports torch late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm.config import DecodeConfig
from llm.errors import UserError
from llm.run import Run, find_checkpoint
from workbench.chat.tokens import quote_token, token_texts
from workbench.chat.weights import LIVE, Cancel, LiveModels, Loaded, LocalWeights, RemoteWeights, load_checkpoint

if TYPE_CHECKING:
    from llm.engine import Done, Piece
    from llm.sampling import Stage
    from llm.tokenizer.chat_template import Message


class ChatModel:
    """A model of `run`, whose weights come from `load`: called at once and, in training, before every reply.

    `load` returns None if the weights have not changed. `warnings` are to be shown once the model is open.
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, run: Run, load: Callable[[Cancel], Loaded | None], cancel: Cancel, *, in_training: bool) -> None:
        from llm.model.counts import parameters
        from llm.tokenizer.chat_template import chat_template

        loaded = load(cancel)
        assert loaded is not None, "the first load returns weights"
        config = run.config()
        self.run, self.in_training, self._load = run, in_training, load
        self.engine, self.weights, self.step, self.sha256 = loaded
        self.device = self.engine.device.type
        self.context = self.engine.context
        self.parameters = parameters(self.engine.model.config)
        self.decode = config.decode
        self.template = chat_template(self.engine.tokenizer, config.data.corpus)
        self.is_tuned = config.tune.stage != "pretrain"

    @property
    def name(self) -> str:
        """RUN@STEP of the current weights."""
        return f"{self.run.name}@{self.step}"

    def update(self, cancel: Cancel) -> None:
        """Load newer weights if the run is in training. Raises UserError."""
        if self.in_training and (loaded := self._load(cancel)) is not None:
            self.engine, self.weights, self.step, self.sha256 = loaded

    def use_weights(self, params: DecodeConfig) -> None:
        """Use the kind of weights that `params.weights` names; rebuild the engine if it has another."""
        from llm.engine import Engine

        if params.weights != self.engine.weights:
            version, tokenizer = self.engine.weights_version, self.engine.tokenizer
            self.engine = Engine(self.weights, tokenizer, weights=params.weights, weights_version=version)

    def save_weights(self) -> None:
        """Save the weights of a run in training as RUN@STEP. Raises OSError."""
        from llm.training.checkpoint import publish_weights

        publish_weights(self.run.kept_directory / f"step-{self.step:08d}", self.weights.state_dict(), self.step)

    def validate(self, params: DecodeConfig) -> None:
        """UserError if `params` name an unknown token or logits processor."""
        self.engine.pipeline(params)

    def prompt_ids(self, prompt: str | Sequence[int], params: DecodeConfig, given: Sequence[int] = ()) -> list[int]:
        """The tokens of a prompt, followed by the tokens `given`."""
        return [*self.engine.prompt_ids(prompt, params), *given]

    def conversation_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation up to where the next answer begins."""
        assert self.template is not None, "the model has a chat template"
        return self.template.prompt_ids(self.engine.tokenizer, messages)

    def prompt_changes(self, prompt: str) -> str:
        """A sentence about characters of the prompt that the tokenizer changes, or ""."""
        return self.engine.tokenizer.prompt_changes(prompt)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The complete characters of tokens that follow a prompt."""
        from llm.tokenizer.stream import StreamDecoder

        decoder = StreamDecoder(self.engine.tokenizer, continuing=True)
        return "".join(decoder.feed(token) for token in tokens)

    def stream(
        self,
        prompt: str | Sequence[int],
        params: DecodeConfig,
        *,
        cancel: Cancel,
        params_source: Callable[[], DecodeConfig],
        given: Sequence[int] = (),
    ) -> Iterator[Piece | Done]:
        """Generate from `prompt` followed by the tokens `given`; all of the best of n, the best one first."""
        self.use_weights(params)
        start = self.prompt_ids(prompt, params, given) if given else prompt
        count = max(params.num_samples, params.best_of)
        return self.engine.stream(start, params, num_samples=count, cancel=cancel, params_source=params_source)

    def explain(
        self, start: Sequence[int], params: DecodeConfig, *, generated: Sequence[int], also: Sequence[int], top: int
    ) -> list[Stage]:
        """The distribution of the token after `start` and `generated`: the `top` most likely tokens, and those of
        `also`, before and after each logits processor."""
        self.use_weights(params)
        return self.engine.explain(start, params, generated=generated, also=also, top=top)

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        """The tokens of a text, each as it is displayed."""
        return [text for _, text in token_texts(self.engine.tokenizer, tokens)]

    def quote(self, token: int) -> str:
        """A single token as it is displayed."""
        return quote_token(self.engine.tokenizer, token)


def open_model(home: Path, training: LiveModels, reference: str, cancel: Cancel) -> ChatModel:
    """The model of `RUN`, `RUN@best`, `RUN@STEP` or `RUN@live`. `@live` of a run that is not in training is its last
    checkpoint. Raises UserError."""
    name, _, which = reference.rpartition("@") if "@" in reference else (reference, "", "")
    if which == LIVE:
        run = Run.open(home, name)
        live = training.live_model(name)
        if live is not None:
            return ChatModel(run, LocalWeights(live).load, cancel, in_training=True)
        holder = run.holder()
        if holder is not None and holder.is_here:
            raise UserError(f"{name} is still preparing its data; try again after its first step.")
        if holder is not None:
            return ChatModel(run, RemoteWeights(run).load, cancel, in_training=True)
        reference = name
    skipped: list[str] = []
    run, info = find_checkpoint(home, reference, skipped.append)
    model = ChatModel(run, lambda cancel: load_checkpoint(run, info), cancel, in_training=False)
    model.warnings = tuple(skipped)
    return model
