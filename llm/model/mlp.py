"""The position-wise feed-forward network (MLP)."""

from __future__ import annotations

from torch import Tensor

from llm.config.resolve import check_resolved
from llm.config.schema import ModelConfig
from llm.model.layers import Layer, Linear, joint_linear


class FeedForward(Layer):
    """down(activation(up(x))): (..., d_model) → (..., d_ff) → (..., d_model). The activation is `config.mlp`:

    gelu: the tanh approximation (GPT-2); gelu-exact: the error function (nanoGPT); relu2: max(0, x)² (So et al.
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
        y: Tensor = self.down(self.activate(x))
        return y

    def activate(self, x: Tensor) -> Tensor:
        """The hidden layer: (..., d_model) → (..., d_ff)."""
        if self.gate is not None:
            return self.kernels.swiglu(joint_linear((self.gate, self.up), x))
        hidden: Tensor = self.up(x)
        if self.activation == "gelu":
            return self.kernels.gelu(hidden)
        if self.activation == "gelu-exact":
            return self.kernels.gelu_exact(hidden)
        return hidden.relu().square()
