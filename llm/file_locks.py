"""Advisory file locks (flock), also where the file system has none."""

from __future__ import annotations

import errno
import fcntl

NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOLCK})
"""What flock answers on a file system without locks: Lustre mounted without them, NFS that has no lock daemon, or that
locks only what is open for writing."""


def try_lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file or folder; whether the file system has locks. BlockingIOError where another process holds it
    and `wait` is not set."""
    flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, flags)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True
