"""The ``bench`` command as tests call it: in this process where nothing needs one of its own, and the words
that start one.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from harness.cli import main
from harness.records.schema import find_runs, read_samples

BENCH = [sys.executable, "-c", "from harness.cli import main; main()"]
TIMING = {
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

    Environment and threads are put back. Tests of signals, of dying and of what an interpreter loads start
    ``BENCH`` itself.
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


def started(*arguments: object, **how: Any) -> subprocess.Popen[str]:
    """``bench ARGUMENTS`` as a process that Ctrl-C reaches, even where the tests themselves were started deaf
    to it.
    """
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    command = [*BENCH, *map(str, arguments)]
    if deaf:
        command[2] = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {command[2]}"
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **how)


def answers(root: Path) -> list[dict[str, Any]]:
    """All samples below a store without what time decides."""
    rows = [
        sample.model_dump(exclude=TIMING) for folder in find_runs(root) for sample in read_samples(folder)
    ]
    return sorted(rows, key=lambda row: (row["run_id"], row["doc_id"], row["repeat"]))
