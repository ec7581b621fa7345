"""Folders that a jail needs on the machine's own disk, and their removal at the next start when a supervisor
was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from harness.sandbox.inside.folders import remove_contents

PREFIX = "bench-jail-"


class Scratch:
    """A folder that its maker holds locked: the kernel lets go of the lock when the maker ends, however it
    ends.
    """

    def __init__(self) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            # A start beside this one may take the new folder for an abandoned one before the lock is there;
            # then another is made.
            with contextlib.suppress(FileNotFoundError):
                self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self._handle, fcntl.LOCK_EX)
                if self.path.exists():
                    return
                os.close(self._handle)

    def discard(self) -> None:
        """Remove the folder; what cannot be removed is left to the next start."""
        with contextlib.suppress(OSError):
            _remove(self.path)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def sweep() -> int:
    """Remove the folders of supervisors that are gone, of this user only; the number removed."""
    count = 0
    for path in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid != os.geteuid():
                continue
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
                count += 1
            finally:
                os.close(handle)
    return count


def _remove(path: Path) -> None:
    remove_contents(str(path))
    path.rmdir()
