"""Advisory file locks (flock)."""

from __future__ import annotations

import errno
import fcntl

NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOLCK})
"""Errors of flock on a file system without locks: Lustre mounted without them, NFS without a lock daemon, or NFS that
locks only files open for writing."""


def try_lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file or folder. Returns whether the file system has locks. BlockingIOError where another process
    holds the lock and `wait` is false."""
    flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, flags)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True
