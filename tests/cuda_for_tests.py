"""A stand-in for CUDA: the product's own code for GPUs runs on a CPU, and what it asks of the device is counted.

A tensor "on cuda:N" is an ordinary one whose memory is marked with N. `Tensor.device` and `Tensor.is_cuda` read the
mark, and the result of an operation inherits it. As on a GPU,

- tensors of two devices do not mix, except for scalars and indices on the host;
- what makes the host wait (`item`, `tolist`, `nonzero`, a copy that blocks) is listed in `waits`, and is refused while
  a graph is captured;
- a copy to pinned memory that does not block arrives when the host has waited for the stream of its device, or for an
  event recorded there later; until then the memory holds NaN;
- a captured graph is replayed: the same operations on the same memory;
- memory beyond `capacity` is refused.

Numbers are those of the CPU's kernels. Not shown: CUDA's own kernels, speed, streams that overlap, NCCL, compilation.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
FACTORIES = ("empty", "zeros", "ones", "full", "arange", "tensor")
"""Functions of torch that the product calls with a device."""
READS = {
    f"aten.{name}" for name in ["_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "bincount"]
}
INDEXING = {aten.index, aten.index_put, aten.index_put_}
REAL_DEVICE: Any = Tensor.device
ATTENTION, AUTOCAST = F.scaled_dot_product_attention, torch.autocast
TO, NUMPY, TOLIST, NEW_TENSOR, CLONE = (
    Tensor.to,
    Tensor.numpy,
    Tensor.tolist,
    Tensor.new_tensor,
    torch.UntypedStorage.clone,
)


class Copy(NamedTuple):
    """A copy to pinned memory, on the stream of `device`, that has not arrived."""

    device: int
    target: Tensor
    value: Tensor


class Gpu(TorchDispatchMode):
    """The devices cuda:0 to cuda:{count - 1}. `calls` counts, `waits` names what the host has waited for."""

    def __init__(self, count: int, capacity: int) -> None:
        super().__init__()
        self.count, self.capacity = count, capacity
        self.calls: Counter[str] = Counter()
        self.waits: list[str] = []
        self.current = self.allocated = self.peak = 0
        self.copies: list[Copy] = []
        self.recording: list[Any] | None = None
        self.is_paused = False

    def index(self, device: Any) -> int | None:
        """The number of a CUDA device; None for other devices."""
        if isinstance(device, int):
            return device
        wanted = torch.device("cpu" if device is None else device)
        return None if wanted.type != "cuda" else self.current if wanted.index is None else wanted.index

    def mark(self, memory: Any, index: int | None) -> None:
        """Put new memory on a device. OutOfMemoryError, as CUDA raises it, where it does not fit."""
        if index is None or hasattr(memory, "cuda_index"):
            return
        memory.cuda_index = index
        self.allocated += memory.nbytes()
        weakref.finalize(memory, self.free, memory.nbytes())
        if self.allocated > self.capacity:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {memory.nbytes()} bytes.")
        self.peak = max(self.peak, self.allocated)

    def free(self, size: int) -> None:
        self.allocated -= size

    def wait(self, what: str) -> None:
        """Record that the host waits for the device."""
        if self.recording is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.waits.append(what)

    def on(self, device: int) -> list[Copy]:
        return [copy for copy in self.copies if copy.device == device]

    def arrive(self, copies: list[Copy]) -> None:
        for copy in copies:
            copy.target.copy_(copy.value)
        self.copies = [copy for copy in self.copies if not any(copy is other for other in copies)]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, function.overloadpacket
        if self.is_paused:
            return function(*args, **kwargs)
        if packet is aten.copy_:
            result = self.copy(*args, **kwargs)
        else:
            given = list(tensors_in((args, kwargs)))
            devices = {index for tensor in given if (index := index_of(tensor)) is not None}
            is_mixed = devices and any(tensor.ndim and index_of(tensor) is None for tensor in given)
            if len(devices) > 1 or (is_mixed and packet not in INDEXING):
                raise RuntimeError(f"{packet}: Expected all tensors to be on the same device")
            has_mask = packet in INDEXING and any(index.dtype == torch.bool for index in tensors_in(args[1]))
            if devices and (str(packet) in READS or has_mask):
                self.wait(str(packet))
            result = function(*args, **kwargs)
            for tensor in tensors_in(result):
                self.mark(tensor.untyped_storage(), min(devices, default=None))
        if self.recording is not None:
            self.recording.append((function, args, kwargs, result))
        return result

    def copy(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """`target.copy_(source)`."""
        to, of = index_of(target), index_of(source)
        if to is None and of is not None and non_blocking and is_pinned(target):
            self.calls["copy to pinned memory"] += 1
            self.copies.append(Copy(of, target, source.clone()))
            return target.fill_(math.nan if target.dtype.is_floating_point else 77)
        self.count_copy(to, of, source, non_blocking)
        return target.copy_(source)

    def count_copy(self, to: int | None, of: int | None, source: Tensor, non_blocking: bool) -> None:
        if of is None and to is not None and non_blocking and is_pinned(source):
            self.calls["copy from pinned memory"] += 1
        elif (of is None) != (to is None):
            self.wait("copy to the host" if to is None else "copy to the device")

    def move(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`tensor.to`."""
        named = [word for word in (*args, *kwargs.values()) if isinstance(word, str | torch.device)]
        if not named:
            return TO(tensor, *args, **kwargs)
        to, of = self.index(named[0]), index_of(tensor)
        args = tuple("cpu" if word is named[0] else word for word in args)
        kwargs = {name: "cpu" if word is named[0] else word for name, word in kwargs.items()}
        if to == of:
            return TO(tensor, *args, **kwargs)
        self.count_copy(to, of, tensor, kwargs.get("non_blocking", False) or True in args)
        with self.paused():
            moved = TO(tensor, *args, **{**kwargs, "copy": True})
        self.mark(moved.untyped_storage(), to)
        return moved

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = False

    def factory(self, name: str) -> Callable[..., Tensor]:
        """`torch.empty` and the like."""
        make: Any = getattr(torch, name)

        def create(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> Tensor:
            index = self.index(device)
            if index is not None and name == "tensor":
                self.wait("copy to the device")
            tensor: Tensor = make(*args, device=device if index is None else "cpu", **kwargs)
            self.mark(tensor.untyped_storage(), index)
            return pin(tensor) if pin_memory else tensor

        return create

    def new_tensor(self, like: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`like.new_tensor`."""
        tensor = NEW_TENSOR(like, *args, **kwargs)
        if index_of(like) is not None:
            self.wait("copy to the device")
        self.mark(tensor.untyped_storage(), index_of(like))
        return tensor

    def to_list(self, tensor: Tensor) -> Any:
        if index_of(tensor) is not None:
            self.wait("tolist")
        return TOLIST(tensor)

    def clone_memory(self, memory: Any) -> Any:
        """`UntypedStorage.clone`, with which tensors are copied deeply."""
        clone = CLONE(memory)
        self.mark(clone, getattr(memory, "cuda_index", None))
        return clone

    @contextmanager
    def graph(self, graph: Graph, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
        """`torch.cuda.graph`."""
        self.calls[f"capture {capture_error_mode}"] += 1
        self.recording = graph.work
        try:
            yield
        finally:
            self.recording = None

    @contextmanager
    def device_of(self, tensor: Tensor) -> Iterator[None]:
        """`torch.cuda.device_of`."""
        before, self.current = self.current, index_of(tensor) or 0
        try:
            yield
        finally:
            self.current = before

    def autocast(self, kind: str, dtype: torch.dtype | None = None, enabled: bool = True) -> Any:
        """`torch.autocast`."""
        if kind == "cuda" and enabled:
            self.calls[f"autocast {dtype}"] += 1
        return AUTOCAST("cpu", dtype=dtype, enabled=enabled)

    def synchronize(self, device: Any = None) -> None:
        """`torch.cuda.synchronize`."""
        self.stream(device).synchronize()

    def stream(self, device: Any = None) -> Stream:
        """`torch.cuda.current_stream`."""
        return Stream(self, self.index("cuda" if device is None else device) or 0)

    def replacements(self) -> dict[str, Any]:
        """What stands in for the names of `torch.cuda`."""

        @contextmanager
        def enter(stream: Stream) -> Iterator[None]:
            yield

        def count(name: str) -> Callable[[], None]:
            return lambda: self.calls.update([name])

        return {
            "is_available": lambda: self.count > 0,
            "is_bf16_supported": lambda including_emulation=True: True,
            "device_count": lambda: self.count,
            "current_device": lambda: self.current,
            "set_device": lambda device: setattr(self, "current", device),
            "device_of": self.device_of,
            "get_device_name": lambda device=None: f"NVIDIA H200 number {self.index(device)}",
            "get_device_properties": lambda device: SimpleNamespace(total_memory=self.capacity),
            "mem_get_info": lambda device=None: (self.capacity - self.allocated, self.capacity),
            "max_memory_allocated": lambda device=None: self.peak,
            "empty_cache": count("empty cache"),
            "synchronize": self.synchronize,
            "current_stream": self.stream,
            "stream": enter,
            "Stream": self.stream,
            "Event": lambda: Event(self),
            "CUDAGraph": type("CUDAGraph", (Graph,), {"gpu": self}),  # transformers has it in annotations
            "graph": self.graph,
        }


class Graph:
    """`torch.cuda.CUDAGraph`: the captured operations, with their arguments and results."""

    gpu: Gpu

    def __init__(self) -> None:
        self.work: list[Any] = []

    def replay(self) -> None:
        self.gpu.calls["replay"] += 1
        for function, args, kwargs, before in self.work:
            for old, new in zip(tensors_in(before), tensors_in(function(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Stream:
    """`torch.cuda.Stream`; all of a device are one, in the order of the calls."""

    def __init__(self, gpu: Gpu, device: int) -> None:
        self.gpu, self.device = gpu, device

    def wait_stream(self, other: Stream) -> None:
        self.gpu.calls["stream waits for stream"] += 1

    def synchronize(self) -> None:
        self.gpu.wait(f"stream of cuda:{self.device}")
        self.gpu.arrive(self.gpu.on(self.device))


class Event:
    """`torch.cuda.Event`."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.earlier: list[Copy] = []

    def record(self, stream: Stream | None = None) -> None:
        self.gpu.calls["record"] += 1
        self.earlier = self.gpu.on((stream or self.gpu.stream()).device)

    def synchronize(self) -> None:
        self.gpu.wait("event")
        self.gpu.arrive(self.earlier)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)


def index_of(tensor: Tensor) -> int | None:
    """The number of the device that a tensor is on; None on the host."""
    index: int | None = getattr(tensor.untyped_storage(), "cuda_index", None)
    return index


def is_pinned(tensor: Tensor) -> bool:
    return hasattr(tensor.untyped_storage(), "pinned")


def pin(tensor: Tensor) -> Tensor:
    memory: Any = tensor.untyped_storage()
    memory.pinned = True
    return tensor


def to_numpy(tensor: Tensor, **options: Any) -> Any:
    if index_of(tensor) is not None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")
    return NUMPY(tensor, **options)


def device_of(tensor: Tensor) -> torch.device:
    index = index_of(tensor)
    real: torch.device = REAL_DEVICE.__get__(tensor)
    return real if index is None else torch.device("cuda", index)


def attention(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False, **options: Any) -> Tensor:
    """`scaled_dot_product_attention` with the mask on the device, where the CPU's kernel would make one on the host."""
    if is_causal and options.get("dropout_p"):
        options["attn_mask"] = torch.ones(query.shape[2], key.shape[2], device=query.device).tril().bool()
        is_causal = False
    result: Tensor = ATTENTION(query, key, value, is_causal=is_causal, **options)
    return result


def needs_gpus(count: int = 1) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The marks of a test that needs real GPUs."""
    is_here = torch.cuda.device_count() >= count
    skip = pytest.mark.skipif(not is_here, reason=f"needs {count} NVIDIA GPU{'s' * (count > 1)}")
    return lambda test: pytest.mark.cuda(skip(test))


@contextmanager
def pretend_cuda(patch: pytest.MonkeyPatch, count: int = 2, capacity: int = 10**12) -> Iterator[Gpu]:
    """A context in which torch has `count` devices of `capacity` bytes."""
    gpu = Gpu(count, capacity)
    for name, value in gpu.replacements().items():
        patch.setattr(torch.cuda, name, value)
    for name in FACTORIES:
        patch.setattr(torch, name, gpu.factory(name))
    is_enabled, get_dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    patch.setattr(torch, "is_autocast_enabled", lambda kind: is_enabled("cpu"))
    patch.setattr(torch, "get_autocast_dtype", lambda kind: get_dtype("cpu"))
    patch.setattr(torch, "autocast", gpu.autocast)
    patch.setattr(F, "scaled_dot_product_attention", attention)
    methods = {
        "device": property(device_of),
        "is_cuda": property(lambda tensor: index_of(tensor) is not None),
        "to": lambda tensor, *args, **kwargs: gpu.move(tensor, *args, **kwargs),
        "cpu": lambda tensor: gpu.move(tensor, "cpu"),
        "cuda": lambda tensor: gpu.move(tensor, "cuda"),
        "pin_memory": lambda tensor: pin(tensor.clone()),
        "numpy": to_numpy,
        "tolist": lambda tensor: gpu.to_list(tensor),
        "new_tensor": lambda like, *args, **kwargs: gpu.new_tensor(like, *args, **kwargs),
    }
    for name, method in methods.items():
        patch.setattr(Tensor, name, method)
    patch.setattr(torch.UntypedStorage, "clone", lambda memory: gpu.clone_memory(memory))
    with gpu:
        yield gpu
