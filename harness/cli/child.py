"""A sweep's cell as a process of its own: ``python -m harness.cli.child PARENT_PID run ...``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

from harness.cli import main


def child() -> None:
    """Dies with the sweep that started it, and otherwise behaves as ``bench``."""
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, Linux only
    if parent and os.getppid() != parent:
        sys.exit(1)
    sys.argv = ["bench", *arguments]
    main()


if __name__ == "__main__":
    child()
