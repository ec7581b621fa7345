"""One jail for the whole process, opened at first use: what lm-eval's scoring uses, since it passes no jail
around.
"""

from __future__ import annotations

import atexit
import os
import threading

from harness.sandbox.jail import Jail, open_jail

UNSAFE_VARIABLE = "BENCH_ALLOW_UNSAFE_CODE"
_lock = threading.Lock()
_jails: list[Jail] = []


def shared_jail() -> Jail:
    """The process-wide jail. Raises JailError where nothing isolates, unless BENCH_ALLOW_UNSAFE_CODE=1."""
    with _lock:
        if not _jails:
            _jails.append(open_jail(allow_unsafe=os.environ.get(UNSAFE_VARIABLE) == "1"))
        return _jails[0]


def close_shared() -> None:
    """End the process-wide jail; the next use opens a new one."""
    with _lock:
        while _jails:
            _jails.pop().close()


atexit.register(close_shared)
