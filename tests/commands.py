"""The ``bench`` command as tests call it: in this process where nothing needs one of its own, in a fork of a
server that has the imports behind it where one is killed, and the words that start a fresh one.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from harness.cli import main
from harness.records.schema import find_runs, read_samples

BENCH = [sys.executable, "-c", "from harness.cli import main; main()"]
TIMING = {
    "admitted_s",
    "time_s",
    "latency_s",
    "first_block_s",
    "forward_s",
    "select_s",
    "peak_memory_bytes",
    "order",
    "batch",
    "rows",
    "seal",
    "call_memory_bytes",
}


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``bench ARGUMENTS`` in this process: status and output as a process of its own would give them, without
    its 7 s of imports.

    Environment and threads are put back. Tests of signals and of dying take ``started``; those of what an
    interpreter loads start ``BENCH`` itself.
    """
    words, threads = [str(argument) for argument in arguments], torch.get_num_threads()
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["bench", *words]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
        finally:
            torch.set_num_threads(threads)
    return subprocess.CompletedProcess([*BENCH, *words], status, out.getvalue(), err.getvalue())


class Started:
    """A forked process with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, target: Callable[..., object], *arguments: object) -> None:
        self._errors = tempfile.NamedTemporaryFile("r")  # noqa: SIM115
        self._process = _forks().Process(
            target=_forked, args=(dict(os.environ), self._errors.name, target, arguments)
        )
        self._process.start()
        atexit.register(self._process.kill)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def errors(self) -> str:
        """What it wrote to its standard error until its end."""
        self.wait()
        return self._errors.read()


@cache
def _forks() -> Any:
    """Processes that start with everything imported, in milliseconds instead of 8 to 12 s."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded", __name__])
    return context


def _forked(
    environment: dict[str, str], errors: str, target: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # Ctrl-C reaches it even where the tests themselves were started deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(os.devnull, "w") as nowhere, open(errors, "a") as file:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(file.fileno(), 2)
    target(*arguments)


def started(*arguments: object) -> Started:
    """``bench ARGUMENTS`` as a process of its own."""
    return Started(_bench, [str(argument) for argument in arguments])


def _bench(words: list[str]) -> None:
    sys.argv = ["bench", *words]
    main()


def answers(root: Path) -> list[dict[str, Any]]:
    """All samples below a store without what time decides."""
    rows = [
        sample.model_dump(exclude=TIMING) for folder in find_runs(root) for sample in read_samples(folder)
    ]
    return sorted(rows, key=lambda row: (row["run_id"], row["doc_id"], row["repeat"]))
