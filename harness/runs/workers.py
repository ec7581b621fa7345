"""Running the cells of a sweep: a process each, some side by side, or through Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.runs.sweep import CellStatus, Job, Outcome, State, SweepError

POLL_S = 0.1
# Nothing of a sweep leaves the machine, and no token is written to the home folder.
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
# Answers travel through files; Ray's own store only has to start.
STORE_BYTES = 128 << 20


class Process:
    """A running cell; its output goes to ``log``."""

    def __init__(self, cell: Job, log: Path, gpu: str | None, timeout_s: float | None) -> None:
        self.cell, self.log, self.timeout_s = cell, log, timeout_s
        self.started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})}
        command = [sys.executable, "-m", "harness.cli.child", str(os.getpid()), *cell.arguments]
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    def poll(self) -> Outcome | None:
        """The outcome once the process has ended (or has had its time)."""
        seconds = time.monotonic() - self.started
        code = self.popen.poll()
        late = code is None and self.timeout_s is not None and seconds > self.timeout_s
        if late:
            self.kill()
        elif code is None:
            return None
        status: CellStatus = (
            "timeout" if late else "complete" if code == 0 else "refused" if code == 2 else "crashed"
        )
        error = "" if status == "complete" else self._last_line()
        return Outcome(self.cell.key, self.cell.label, status, code, round(seconds, 2), error)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def _last_line(self) -> str:
        return self.log.read_text(errors="replace").strip().split("\n")[-1].strip()[:300] or "no output"


Watcher = Callable[[Job, Outcome | None], None]


def run_local(
    pending: Sequence[Job],
    state: State,
    workers: int,
    gpus: Sequence[str],
    timeout_s: float | None,
    watch: Watcher,
) -> None:
    """Run cells in up to ``workers`` processes, slot k on GPU k; ``watch(cell, None)`` at its start and with
    its outcome at its end.
    """
    waiting, running = list(pending), dict[int, Process]()
    try:
        while waiting or running:
            for slot in range(workers):
                if slot not in running and waiting:
                    cell = waiting.pop(0)
                    running[slot] = Process(
                        cell, state.log(cell), gpus[slot % len(gpus)] if gpus else None, timeout_s
                    )
                    watch(cell, None)
            time.sleep(POLL_S)
            for slot, process in list(running.items()):
                outcome = process.poll()
                if outcome is not None:
                    del running[slot]
                    state.add(outcome)
                    watch(process.cell, outcome)
    finally:
        for process in running.values():
            process.kill()


def run_ray(
    pending: Sequence[Job], state: State, workers: int, use_gpu: bool, timeout_s: float | None, watch: Watcher
) -> None:
    """The same cells through Ray with up to ``workers`` at a time; Ray gives each task a GPU of its own if
    ``use_gpu``.
    """
    for name, value in RAY.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SweepError(
            "--ray needs Ray: pip install 'dllm-bench[train]', or leave --ray out and use --workers"
        ) from None
    cpus = None if use_gpu else workers
    try:
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            ignore_reinit_error=True,
            object_store_memory=STORE_BYTES,
        )
    except Exception as error:
        raise SweepError(
            f"--ray: Ray did not start ({str(error).splitlines()[0]}): leave --ray out and use --workers"
        ) from error
    try:
        task = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0, max_retries=0)(_to_the_end)
        futures = {
            task.remote(cell, str(state.log(cell).resolve()), timeout_s, os.getcwd()): cell
            for cell in pending
        }
        for cell in futures.values():
            watch(cell, None)
        while futures:
            done, _ = ray.wait(list(futures))
            for future in done:
                cell = futures.pop(future)
                try:
                    outcome = ray.get(future)
                except ray.exceptions.RayError as error:
                    outcome = Outcome(cell.key, cell.label, "crashed", None, 0.0, str(error).splitlines()[0])
                state.add(outcome)
                watch(cell, outcome)
    finally:
        ray.shutdown()


def _to_the_end(cell: Job, log: str, timeout_s: float | None, folder: str) -> Outcome:
    os.chdir(folder)
    process = Process(cell, Path(log), None, timeout_s)
    while (outcome := process.poll()) is None:
        time.sleep(POLL_S)
    return outcome
