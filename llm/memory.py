"""Turn out-of-memory errors into messages. Imports nothing large, since memory may run out while torch is loaded."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from llm.errors import UserError

TORCH_BYTES = 700 << 20
"""Least address space for loading torch; with less it can crash without an exception."""
MESSAGES = (
    "allocate memory",  # torch's allocator, and the dynamic loader
    "failed to map segment",  # the dynamic loader
    "bad_alloc",
    "error return without exception set",  # a SystemError of an extension that ignores a failed allocation
    "without setting an exception",
    "start new thread",  # a thread needs memory for its stack
)


def to_memory_shortage(error: BaseException) -> UserError | None:
    """The `UserError` for an error that too little memory caused; None for any other."""
    texts = " ".join(
        str(link) for link in error_chain(error) if isinstance(link, ImportError | SystemError | RuntimeError)
    )
    no_memory = any(
        isinstance(link, MemoryError) or (isinstance(link, OSError) and link.errno == errno.ENOMEM)
        for link in error_chain(error)
    )
    if not no_memory and not any(message in texts for message in MESSAGES):
        return None
    return UserError(
        "there is too little memory; close other programs, raise the limit of this process (ulimit -v, or the "
        "container's), or use a smaller model or batch."
    )


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    link: BaseException | None = error
    for _ in range(20):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


@contextmanager
def memory_errors_as_user_errors() -> Iterator[None]:
    """Raise out-of-memory errors as `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (shortage := to_memory_shortage(error)) is not None:
            raise shortage from error
        raise


def check_memory_for_torch() -> None:
    """`UserError` where the address space limit of this process is too small to load torch."""
    import resource

    import psutil

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    left = limit - psutil.Process().memory_info().vms
    if left < TORCH_BYTES:
        raise UserError(
            f"this process may use {limit / 1e6:.0f} MB of address space (ulimit -v), of which {max(0, left) / 1e6:.0f}"
            f" MB are left, and torch needs {TORCH_BYTES / 1e6:.0f} MB at least; raise the limit."
        )
