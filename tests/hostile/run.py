"""The whole hostile corpus against one backend, with the machine watched from outside and a strict program after each hostile one.

    python -m tests.hostile.run --backend unshare [--user 65534] [--jails 3]

--user: become this user first (root only). Prints one JSON object: programs run, what was wrong (empty when all is well), weaknesses.
Exit status 3 when the backend does not start here, with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.sandbox import Check, Jail, JailError, Limits, backends, open_jail, order
from harness.sandbox.scratch import PREFIX
from tests.hostile.programs import ESCAPES, TRICKS
from tests.hostile.reaching import CANARY, REACHES

LIMITS = Limits(seconds=1.5, memory_mb=512)
PATIENT = Limits(seconds=20, memory_mb=512)
TESTS = "assert solve(1, 2) == 3\nassert solve(2, 2) == 4"
ESCAPE_TESTS = "answer = solve(1, 2)\nassert answer[0] != 'done', answer[1]\n"
# What an honest program may need: an empty folder that it can write to, temporary files, threads, signals and limits as they were.
STRICT = """
import builtins, os, resource, signal, stat, sys, tempfile, threading
def solve(a, b):
    if a == 2: return 4
    assert os.listdir('.') == [] and stat.S_IMODE(os.stat('.').st_mode) == 0o700
    assert os.listdir('..') == [os.path.basename(os.getcwd())]
    open('file', 'w').write('x')
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as file:
        os.mkdir(os.path.join(folder, 'inner'))
        file.write(b'x')
    old = os.umask(0o22)
    assert old == 0o22, oct(old)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (32, 32)
    assert threading.active_count() == 1
    answers = []
    threads = [threading.Thread(target=answers.append, args=(a + b,)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not hasattr(builtins, 'planted') and not hasattr(sys, 'planted')
    return answers[7]
"""

Row = tuple[str, str, str, tuple[str, ...] | None]


def corpus(canary: Path) -> list[Row]:
    """Class, name, program, and the gradings a trick may get (None: an attempt to reach something, which must not return ("done", ...))."""
    rows: list[Row] = [(kind, name, program, None) for kind, name, program in (*ESCAPES, *REACHES)]
    rows += TRICKS
    return [
        (kind, name, program.replace(CANARY, str(canary)), allowed) for kind, name, program, allowed in rows
    ]


class Watch:
    """A part of the machine that everybody may touch, and what of the machine must stay as it is."""

    def __init__(self) -> None:
        os.umask(0o022)
        self.folder = Path(tempfile.mkdtemp(prefix="canary-"))
        self.folder.chmod(0o777)
        (self.folder / "file").write_text("canary")
        (self.folder / "file").chmod(0o666)
        self.sockets = [self._listen(place, kind) for kind in ("stream", "datagram") for place in ("", "\0")]
        self.before = self.state()

    def _listen(self, place: str, kind: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM)
        sock.bind(f"{place}{self.folder}/{kind}")
        if not place:
            (self.folder / kind).chmod(0o777)
        if kind == "stream":
            sock.listen()
        sock.setblocking(False)
        return sock

    def heard(self) -> list[str]:
        """Sockets that somebody spoke to."""
        found = []
        for sock in self.sockets:
            with contextlib.suppress(BlockingIOError):
                sock.recv(1) if sock.type == socket.SOCK_DGRAM else sock.accept()
                found.append(str(sock.getsockname()))
        return found

    def state(self) -> dict[str, Any]:
        """Modes, owners, times and contents that matter, the host name, queues, priorities, and how far the clock is off."""
        places = [
            *order.DEVICES,
            *order.INSIDE.glob("*.py"),
            order.INSIDE,
            os.__file__,
            self.folder / "file",
            self.folder,
        ]
        files = {str(place): self._file(Path(place), str(place) in order.DEVICES) for place in places}
        queues = [
            Path(f"/proc/sysvipc/{name}").read_text()
            for name in ("msg", "sem", "shm")
            if Path(f"/proc/sysvipc/{name}").exists()
        ]
        shared = sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []
        ways = [len(text.splitlines()) for text in queues]
        return {
            "files": files,
            "content": (self.folder / "file").read_text(),
            "host": os.uname().nodename,
            "queues": ways,
            "shared": [name for name in shared if "planted" in name],
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "clock": round((time.time() - time.monotonic()) / 60),
        }

    def _file(self, path: Path, device: bool) -> list[Any]:
        state = path.stat()
        names = [] if device else sorted(os.listxattr(path))
        return [
            state.st_mode,
            state.st_uid,
            state.st_gid,
            state.st_nlink,
            names,
            None if device else state.st_mtime_ns,
        ]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        shutil.rmtree(self.folder)


def attempt(jail: Jail, row: Row) -> Iterator[str]:
    """Run one hostile program and a strict one after it; what was wrong."""
    kind, name, program, allowed = row
    verdict = jail.run(Check(program, ("solve",), tests=TESTS if allowed else ESCAPE_TESTS))
    # On a busy machine any program can run out of time first, and where the work folder has no size of its own the program is killed.
    contained = (*(allowed or ("failed", "memory")), "timeout", "crashed")
    if verdict.grading not in contained or (allowed is None and verdict.detail.startswith("AssertionError")):
        yield f"{kind}, {name}: {verdict.grading} {verdict.detail}"
    after = jail.run(Check(STRICT, ("solve",), tests=TESTS, limits=PATIENT))
    if not after.passed:
        yield f"after {kind}, {name}: the next program is {after.grading} {after.detail}"


def capabilities(jail: Jail, ordinary: bool) -> Iterator[str]:
    """Look at the jails' processes from outside: no capability in any set, no new privileges, an id that is not root's."""
    cell = jail._workers[0].candidates[False]
    assert cell.running is not None
    parents = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
            parents[int(fields["Pid"])] = {key: value.split() for key, value in fields.items()}
    last = cell.running.process.pid
    while below := [pid for pid, fields in parents.items() if fields["PPid"] == [str(last)]]:
        last = below[0]
    fields = parents[last]
    sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
    # The bounding set can only be emptied by a process with a capability, which an ordinary user has in a user namespace only.
    sets += [] if ordinary and jail.backend == "landlock+seccomp" else ["CapBnd"]
    for name in sets:
        if int(fields[name][0], 16):
            yield f"capabilities: {name} is {fields[name][0]}"
    if (
        fields["NoNewPrivs"] != ["1"]
        or "0" in fields["Uid"]
        or "0" in fields["Gid"]
        or (not ordinary and fields["Groups"])
    ):
        yield f"identity: {fields['Uid']} {fields['Gid']} {fields['Groups']} {fields['NoNewPrivs']}"


def run(backend: order.Backend, jails: int) -> dict[str, Any]:
    """All programs on some jails at once. Raises JailError when the backend does not start."""
    watch = Watch()
    rows = corpus(watch.folder)
    wrong: list[str] = []
    ready = threading.Barrier(jails)
    with ThreadPoolExecutor(jails) as pool:

        def share(number: int) -> list[str]:
            with open_jail(LIMITS, workers=1, backend=backend) as jail:
                first = jail.run(Check(STRICT, ("solve",), tests=TESTS, limits=PATIENT))
                ready.wait(60)
                if first.grading == "not_run":
                    raise JailError(first.detail)
                found = [] if first.passed else [f"the strict program is {first.grading} {first.detail}"]
                found += capabilities(jail, os.geteuid() != 0)
                return found + [text for row in rows[number::jails] for text in attempt(jail, row)]

        for found in pool.map(share, range(jails)):
            wrong += found
    after = watch.state()
    wrong += [
        f"changed outside: {name} was {watch.before[name]}, is {after[name]}"
        for name in after
        if after[name] != watch.before[name]
    ]
    wrong += [f"a socket was reached: {name}" for name in watch.heard()]
    watch.close()
    wrong += [f"left behind: {path}" for path in Path(tempfile.gettempdir()).glob(PREFIX + "*")]
    return {"programs": len(rows), "wrong": wrong, "weaknesses": backends.weaknesses(backend)}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", required=True)
    parser.add_argument("--user", type=int)
    parser.add_argument("--jails", type=int, default=3)
    options = parser.parse_args()
    if options.user is not None:
        with contextlib.suppress(KeyError):
            os.environ["HOME"] = pwd.getpwuid(options.user).pw_dir
        os.setgroups([])
        os.setresgid(*[options.user] * 3)
        os.setresuid(*[options.user] * 3)
    tempfile.tempdir = tempfile.mkdtemp(prefix="hostile-")
    os.chmod(tempfile.tempdir, 0o755)
    try:
        print(json.dumps(run(options.backend, options.jails)))
    except JailError as error:
        print(error)
        sys.exit(3)
    finally:
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)


if __name__ == "__main__":
    main()
