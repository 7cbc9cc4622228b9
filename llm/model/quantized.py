"""Matrices in int8 and int4 for inference on a CPU, multiplied by kernels that torch has.

Decoding a token reads every weight once, so a matrix of fewer bytes takes less time where memory is the limit. All
classes have the same interface: x Wᵀ + b, x (..., inputs) in any dtype → (..., outputs). With `gelu`, a GELU follows:
"tanh" (approximation) or "none" (exact), as `approximate` of `F.gelu`. The weights of a run stay as they are on
disk. Row i of a result has the same bits for any number of rows and threads (tests/model/test_quantized.py).
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

INT8_LEVELS = 63
"""The largest absolute value of a weight in `Int8Linear`: 7 bits. Without VNNI, fbgemm adds two products of a byte and
a weight in 16 bits, which hold 2 · 255 · 63 but not twice that. The same on every CPU, so that the text is the same."""
GELU_MULTIPLE = 64
"""The outputs of `Int8Linear` before a GELU are padded to a multiple of this: torch computes the numbers that fill no
vector at the end of a tensor by other instructions, so that the last outputs of a row depended on the rows after it."""
INT8_MULTIPLE = 32
"""The inputs of `Int8WeightLinear` are padded to a multiple of this, the widest vector of torch's kernels."""
INT4_GROUP = 32
"""Inputs that share a scale and a zero point in `Int4Linear`, the smallest group that torch's kernel has."""
INT4_MULTIPLE = 16
"""The outputs of `Int4Linear` are padded to a multiple of this, as torch's kernel needs."""
TINY = torch.finfo(torch.float32).tiny


def has_fbgemm() -> bool:
    """Whether torch multiplies int8 matrices with fbgemm: built with it, on a CPU with AVX2, and not set to another
    library (`torch.backends.quantized.engine`)."""
    return torch.backends.quantized.engine in ("x86", "fbgemm") and hasattr(torch, "quantize_per_channel")


def has_int4() -> bool:
    """Whether torch has a product with int4 matrices for this CPU; tries a small one."""
    try:
        product = Int4Linear(torch.ones(INT4_MULTIPLE, INT4_GROUP))(torch.ones(1, INT4_GROUP))
    except (AttributeError, RuntimeError):  # RuntimeError includes NotImplementedError
        return False
    return bool((product == INT4_GROUP).all())


class Int8Linear:
    """W and x in integers of a byte: a scale per output for W, a scale and a minimum per row for x; result in float32.

    Symmetric round-to-nearest per output, and asymmetric per row of x (Dettmers et al. 2022, LLM.int8(), section 2).
    fbgemm quantizes x itself, with one scale for all rows, which would make a row depend on the others. Therefore each
    row is mapped to [0, 1] first, so that this scale is always 1/255. Integer sums are exact.
    """

    is_packed = True

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: str | None = None) -> None:
        self.weight = torch.empty(0, dtype=torch.int8)  # fbgemm holds the matrix
        self.outputs = len(weight)
        if gelu is not None:
            padding = -self.outputs % GELU_MULTIPLE
            weight, bias = F.pad(weight, (0, 0, 0, padding)), None if bias is None else F.pad(bias, (0, padding))
        scales = (weight.float().abs().amax(dim=1) / INT8_LEVELS).clamp_(min=TINY)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():  # torch 2.13 announces their removal; without them, `has_fbgemm` is false
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            integers = torch.quantize_per_channel(weight.float(), scales.double(), zeros, 0, torch.qint8)
        # quantized::linear_prepack and quantized::linear_dynamic of torch 2.13, which its dynamic quantization calls:
        # torch/ao/nn/quantized/dynamic/modules/linear.py, aten/src/ATen/native/quantized/cpu/qlinear_dynamic.cpp
        self.matrix = torch.ops.quantized.linear_prepack(integers, None)
        self.row_sums = integers.int_repr().sum(dim=1) * scales
        self.bias, self.gelu = None if bias is None else bias.float(), gelu

    def __call__(self, x: Tensor) -> Tensor:
        x = x.float()
        low, high = torch.aminmax(x, dim=-1, keepdim=True)
        span = (high - low).clamp_(min=TINY)
        y: Tensor = torch.ops.quantized.linear_dynamic((x - low).div_(span), self.matrix, False)
        y = y.mul_(span).addcmul_(low, self.row_sums)
        if self.bias is not None:
            y += self.bias
        return y if self.gelu is None else F.gelu(y, approximate=self.gelu)[..., : self.outputs]


class Int8WeightLinear:
    """W in int8 with a scale per output, and x and the result in bfloat16: int8 on CPUs without fbgemm.

    The scales are rounded to bfloat16 before the weights are divided by them, since the kernel multiplies by bfloat16
    scales. torch has a fast kernel for bfloat16 activations and none for float32.
    """

    is_packed = True

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: str | None = None) -> None:
        self.padding = -weight.shape[1] % INT8_MULTIPLE
        weight = F.pad(weight.float(), (0, self.padding))
        self.scales = (weight.abs().amax(dim=1) / 127).clamp_(min=1e-30).bfloat16()
        self.weight = (weight / self.scales.unsqueeze(1)).round_().clamp_(-127, 127).to(torch.int8)
        self.bias, self.gelu = None if bias is None else bias.bfloat16(), gelu

    def __call__(self, x: Tensor) -> Tensor:
        rows = F.pad(x.flatten(0, -2).bfloat16(), (0, self.padding)).contiguous()
        # aten::_weight_int8pack_mm of torch 2.13, aten/src/ATen/native/cpu/int8mm_kernel.cpp
        y = torch._weight_int8pack_mm(rows, self.weight, self.scales).unflatten(0, x.shape[:-1])
        if self.bias is not None:
            y += self.bias
        return y if self.gelu is None else F.gelu(y, approximate=self.gelu)


class Int4Linear:
    """W in 4 bits with a scale and a zero point in bfloat16 per `INT4_GROUP` inputs of an output, and x and the result
    in bfloat16: 5 bits per weight.

    Asymmetric round-to-nearest between the extremes of a group (Frantar et al. 2022, GPTQ, section 4, "RTN"). A weight
    is (q − 8) · scale + zero, q from 0 to 15.
    """

    is_packed = True

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: str | None = None) -> None:
        self.outputs = len(weight)
        self.padding = -weight.shape[1] % INT4_GROUP
        weight = F.pad(weight.float(), (0, self.padding, 0, -self.outputs % INT4_MULTIPLE))
        groups = weight.unflatten(1, (-1, INT4_GROUP))
        low, high = torch.aminmax(groups, dim=2, keepdim=True)
        scale = ((high - low) / 15).clamp_(min=1e-30).bfloat16()
        zero = (low + 8 * scale).bfloat16()
        levels = ((groups - zero) / scale + 8).round_().clamp_(0, 15).to(torch.int32)
        # aten::_convert_weight_to_int4pack_for_cpu and aten::_weight_int4pack_mm_for_cpu of torch 2.13,
        # aten/src/ATen/native/cpu/int4mm_kernel.cpp; the 1 is for GPUs and not used
        self.weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.flatten(1), 1)
        self.scales = torch.cat((scale, zero), dim=2).transpose(0, 1).contiguous()
        self.bias, self.gelu = None if bias is None else bias.bfloat16(), gelu

    def __call__(self, x: Tensor) -> Tensor:
        rows = F.pad(x.flatten(0, -2).bfloat16(), (0, self.padding)).contiguous()
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, INT4_GROUP, self.scales)
        y = y[:, : self.outputs].unflatten(0, x.shape[:-1])
        if self.bias is not None:
            y = y + self.bias
        return y if self.gelu is None else F.gelu(y, approximate=self.gelu)
