"""The position-wise feed-forward."""

from __future__ import annotations

from torch import Tensor

from llm.config.resolve import check_resolved
from llm.config.schema import ModelConfig
from llm.model.layers import Layer, Linear


class FeedForward(Layer):
    """down(activation(up(x))): (..., d_model) → (..., d_ff) → (..., d_model).

    gelu: the tanh approximation, GPT-2's; gelu-exact: with the error function, nanoGPT's; relu2: max(0, x)² (So et al.
    2021, Primer); swiglu: silu(gate(x))·up(x) (Shazeer 2020, eq. 6).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_resolved(config, ("d_model", "d_ff"))
        self.activation = config.mlp
        self.up = Linear(config.d_model, config.d_ff, bias=config.bias)
        self.gate = Linear(config.d_model, config.d_ff, bias=config.bias) if config.mlp == "swiglu" else None
        self.down = Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, hidden = self.widen(x)
        if gate is not None:
            hidden = self.kernels.silu(gate) * hidden
        elif self.activation == "gelu":
            hidden = self.kernels.gelu(hidden)
        elif self.activation == "gelu-exact":
            hidden = self.kernels.gelu_exact(hidden)
        else:
            hidden = hidden.relu().square()
        y: Tensor = self.down(hidden)
        return y

    def widen(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Gate (if any) and hidden layer before the activation: (..., d_model) → (..., d_ff) each."""
        return None if self.gate is None else self.gate(x), self.up(x)
