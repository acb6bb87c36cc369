"""One run at a time in a workdir."""

import contextlib
import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from acmix_jax.errors import UserError


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds a workdir for one process, on all hosts of a shared file system that has POSIX locks, as most have.

    The lock is the operating system's and ends with the process, however that ends. Processes that are forked from
    this one, such as input workers, do not hold it, and two runs in one process do not exclude each other. The file
    "lock" stays.

    Raises:
      UserError: another process holds the workdir, or it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / "lock").open("a+")
    except OSError as error:
        raise UserError(f"cannot write to {str(workdir)!r} ({error.strerror}); choose another --workdir") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # what a lock that is taken raises depends on the system
            file.seek(0)
            holder = file.read().strip() or "unknown process"
            raise UserError(
                f"a run in {str(workdir)!r} has not ended ({holder}); wait for it, end it, or choose another --workdir "
                f"(or delete {file.name}, if that host is gone)"
            ) from error
        except OSError as error:
            print(
                f"warning: cannot lock {str(workdir)!r} ({error.strerror}); start no other run there", file=sys.stderr
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
