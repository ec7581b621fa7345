"""Around the jail's programs: the system-call filter, work folders and their removal, whole programs as
guests, large programs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.sandbox import (
    Check,
    Jail,
    JailError,
    Judgement,
    Limits,
    identity,
    launch,
    open_jail,
    order,
)
from harness.sandbox.inside import syscalls
from harness.sandbox.inside.folders import remove_contents, usage
from harness.sandbox.jail import PROGRAM_CHARACTERS
from harness.sandbox.scratch import PREFIX, Scratch, sweep
from suites.code import CodeScorer
from suites.grading import grade_file
from suites.suite import load_suite

BACKENDS: list[order.Backend] = ["bubblewrap", "unshare", "landlock+seccomp"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the jail needs Linux")
jailed = pytest.mark.skipif(launch.probe()[0] == "none", reason="nothing isolates here")


# --- the system-call filter, interpreted --------------------------------------------------------------------


def verdict(code: bytes, machine: str, number: int, *arguments: int) -> int:
    """What the kernel would answer: the BPF program run on one call."""
    data = struct.pack(
        "=IIQ6Q", number, syscalls.ARCHITECTURES[machine], 0, *(*arguments, *(0,) * (6 - len(arguments)))
    )
    at = value = 0
    while True:
        operation, true, false, operand = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x54:
            value &= operand
        elif operation == 0x05:
            at += operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            at += true if holds else false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("processes", [0, 4])
def test_filter_is_an_allow_list_on_both_processors(machine: str, processes: int) -> None:
    column = list(syscalls.ARCHITECTURES).index(machine)
    code = syscalls.build_filter(processes, 77, machine)
    plain = {pair[column] for pair in syscalls.PLAIN.values()} - {-1}
    checked = {pair[column] for pair in syscalls.CHECKED.values()} - {-1}
    assert not plain & checked
    assert len(code) // 8 < 4096
    for number in range(600):
        answer = verdict(code, machine, number, 1 << 40)
        if number in plain:
            assert answer == 0x7FFF0000, number
        elif number not in checked:
            assert answer in (0x00050001, 0x00050026), number
    assert verdict(code, machine, 0x40000000 + syscalls.PLAIN["read"][0]) == 0x00050001


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_checks_arguments(machine: str) -> None:
    column = list(syscalls.ARCHITECTURES).index(machine)
    alone, several = (syscalls.build_filter(processes, 77, machine) for processes in (0, 4))

    def allows(name: str, *arguments: int, code: bytes = alone) -> bool:
        return verdict(code, machine, syscalls.CHECKED[name][column], *arguments) == 0x7FFF0000

    assert allows("clone", 0x3D0F00)
    assert not any(
        allows("clone", flags)
        for flags in (17, 0x1200011, 0x10000000, 0x8011, 0x3D0F00 | 0x8000, 0x3D0F00 | 0x20000)
    )
    assert allows("clone", 0x1200011, code=several)
    assert not any(
        allows("clone", flags, code=several) for flags in (0x10000011, 0x8011, 0x20011, 0x40000011)
    )
    assert allows("execve", code=several)
    assert not allows("execve")
    assert allows("kill", 77, 9)
    assert not any(allows("kill", pid & (1 << 64) - 1, 9) for pid in (1, 0, -1, -77))
    assert allows("fcntl", 5, 3)
    assert not any(allows("fcntl", 5, command) for command in (8, 10, 15, 1024, 1026, 1031))
    assert not any(allows("ioctl", 5, request) for request in (0x5412, 0x5452, 0x8901))
    assert allows("sendto", 3, 1, 1, 0, 0)
    assert not any(allows("sendto", 3, 1, 1, 0, address) for address in (1, 1 << 32))
    assert allows("openat", 0, 0, 0o1102)
    assert not allows("openat", 0, 0, 0o1000)
    assert [allows("socketpair", family) for family in (1, 2, 16)] == [True, False, False]


@jailed
def test_usual_modules_work_under_the_filter() -> None:
    program = """
import asyncio, collections, concurrent.futures, csv, ctypes, datetime, decimal, functools, glob, hashlib
import io, itertools, json, math
import pathlib, queue, random, re, shutil, sqlite3, statistics, string, subprocess, tempfile, threading
import time, uuid, zlib
def solve(a, b):
    async def later():
        await asyncio.sleep(0.001)
        return a
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(lambda x: x + 1, range(8)))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'x', 'y')
        path.mkdir(parents=True)
        (path / 'f.json').write_text(json.dumps({'a': [1, 2.5, None]}))
        (path / 'f.json').rename(path / 'g.json')
        shutil.copyfile(path / 'g.json', path / 'h.json')
        data = json.loads((path / 'h.json').read_text())
    base = sqlite3.connect('base.sqlite')
    base.execute('create table t (x)')
    base.execute('insert into t values (1)')
    base.commit()
    try:
        subprocess.run(['true'])
    except PermissionError:
        data['no process'] = True
    rest = base.execute('select x from t').fetchall(), len(str(uuid.uuid4()))
    return [asyncio.run(later()), threads, data, hashlib.sha256(b'x').hexdigest()[:6], *rest]
"""
    tests = (
        "assert solve(1, 2) == [1, [1, 2, 3, 4, 5, 6, 7, 8], {'a': [1, 2.5, None], 'no process': True}, "
        "'2d7116', [(1,)], 36], solve"
    )
    with open_jail(Limits(seconds=60, cpu_seconds=30), workers=1) as jail:
        result = jail.run(Check(program, ("solve",), tests=tests))
        assert result.passed, result
        numeric = "import numpy as np\ndef solve(a, b):\n    ones = np.ones((64, 64))\n"
        numeric += "    return float((ones @ ones).sum()) + np.random.default_rng(0).integers(1)"
        result = jail.run(Check(numeric, ("solve",), tests="assert solve(1, 2) == 64 ** 3", numpy=True))
        assert result.passed, result


# --- folders ------------------------------------------------------------------------------------------------


def test_any_folder_can_be_emptied_without_recursion(tmp_path: Path) -> None:
    start = os.getcwd()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("stays")
    room = tmp_path / "room"
    room.mkdir()
    (room / "link").symlink_to(kept)
    os.chdir(room)
    for _ in range(3000):
        os.mkdir("d")
        os.mkdir("e")
        os.symlink(kept, "l")
        os.chdir("d")
    os.mkdir("closed", 0)
    os.chdir(start)
    (room / "odd\nname").write_bytes(b"x" * 5000)
    assert usage(str(room), 100)[1] >= 100
    remove_contents(str(room))
    assert os.listdir(room) == []
    assert (kept / "file").read_text() == "stays"


@linux
def test_folders_of_a_killed_supervisor_go_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = Scratch()
    code = (
        "from harness.sandbox.scratch import Scratch; s = Scratch(); (s.path / 'a' / "
        "'b').mkdir(parents=True); "
    )
    code += "print(s.path, flush=True); input()"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True, stdin=pipe, stdout=pipe
    ) as process:
        assert process.stdout is not None
        dead = Path(process.stdout.readline().strip())
        assert sweep() == 0
        assert dead.is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert sweep() == 1
    assert list(tmp_path.glob(PREFIX + "*")) == [living.path]
    living.discard()
    assert not living.path.exists()


# --- identity -----------------------------------------------------------------------------------------------


def test_root_keeps_its_id_only_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "has", lambda *names: True)
    monkeypatch.setattr(identity, "_covers", lambda number: True)
    tmp_path.chmod(0o755)
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    who = identity.choose([tmp_path / "open"], whole_way=False)
    assert who.own
    assert not who.weakness
    assert who.user is not None
    assert identity.FIRST_ID <= who.user < identity.FIRST_ID + identity.IDS
    (tmp_path / "open").chmod(0o600)
    assert str(tmp_path / "open") in identity.choose([tmp_path / "open"], whole_way=False).weakness
    (tmp_path / "open").chmod(0o644)
    tmp_path.chmod(0o700)
    assert identity.closed_at(tmp_path / "open", whole_way=False) is None
    assert identity.closed_at(tmp_path / "open", whole_way=True) is not None
    monkeypatch.setattr(identity, "_covers", lambda number: False)
    assert identity.choose([], whole_way=False).user == identity.NOBODY
    monkeypatch.setattr(identity, "has", lambda *names: False)
    assert "may not change its user" in identity.choose([], whole_way=False).weakness


# --- guests -------------------------------------------------------------------------------------------------

GUEST = """
import mmap, os, socket, sys
import numpy as np
sock, memory = socket.socket(fileno=int(sys.argv[1])), mmap.mmap(int(sys.argv[2]), 4096)
shared = np.frombuffer(memory, dtype=np.int64)
failures = []
for attempt in (
    lambda: open('/etc/passwd'), lambda: socket.socket(), os.fork, lambda: os.listdir(sys.argv[3]),
    lambda: os.chmod('/tmp', 0o700),
    lambda: os.kill(os.getppid(), 9), lambda: open('/proc/1/environ'),
):
    try:
        attempt()
        failures.append('worked')
    except OSError as error:
        failures.append(type(error).__name__)
while (word := sock.recv(16)):
    shared[1] = shared[0] * 2
    sock.sendall(repr([word, open(sys.argv[4]).read(), failures]).encode())
sys.exit(5)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@linux
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_whole_program_runs_as_a_guest_with_shared_memory(
    backend: order.Backend, open_folder: Path
) -> None:
    import numpy

    shown, hidden = open_folder / "shown", open_folder / "hidden"
    for folder in (shown, hidden):
        folder.mkdir(0o755)
        (folder / "file").write_text("text")
    script = open_folder / "guest.py"
    script.write_text(GUEST)
    packages = Path(numpy.__file__).parent
    here, there = socket.socketpair()
    memory = os.memfd_create("shared")
    os.truncate(memory, 4096)
    read = [packages, *([libs] if (libs := packages.parent / "numpy.libs").is_dir() else []), shown]
    arguments = [str(there.fileno()), str(memory), str(hidden), str(shown / "file")]
    # The folder of packages is on the path, but only what `read` names is in it.
    try:
        running = launch.start_guest(
            script,
            arguments,
            [],
            read,
            [there.fileno(), memory],
            Limits(seconds=60, memory_mb=2048),
            backend,
            search=[packages.parent],
        )
    except JailError as error:
        pytest.skip(f"{backend} does not start here: {error}")
    there.close()
    try:
        here.settimeout(30)
        for number in (21, 4):
            os.pwrite(memory, struct.pack("=q", number), 0)
            here.sendall(b"go")
            answer = here.recv(4096).decode()
            assert answer.startswith("[b'go', 'text', ["), running.ending(5)
            assert "worked" not in answer
            assert struct.unpack("=q", os.pread(memory, 8, 8)) == (2 * number,)
        here.close()
        assert running.ending(30) == ["ended", "SystemExit", "5"]
    finally:
        running.kill()
        os.close(memory)


@linux
def test_a_guest_that_does_not_end_is_killed(tmp_path: Path) -> None:
    if launch.probe()[0] == "none":
        pytest.skip("nothing isolates here")
    (tmp_path / "loop.py").write_text("while True: pass")
    running = launch.start_guest(tmp_path / "loop.py", limits=Limits(seconds=60))
    with pytest.raises(TimeoutError):
        running.ending(0.2)
    running.kill()
    assert running.process.returncode is not None


# --- grading ------------------------------------------------------------------------------------------------


@jailed
def test_a_program_of_any_size_gets_a_grade_and_grades_are_written_as_they_come(tmp_path: Path) -> None:
    suite = load_suite("nano-code")
    documents = dict(suite.docs(limit=2))
    right = [doc["prompt"] + doc["response"] for doc in documents.values()]
    output = tmp_path / "graded.jsonl"
    lines = [
        {"doc_id": 0, "program": right[0]},
        {"doc_id": 1, "program": "#" * (PROGRAM_CHARACTERS + 1)},
        {"doc_id": 1, "program": right[1]},
    ]
    lines.append({"doc_id": 0, "program": f"x = '{chr(0x2028)}'\n{right[0]}"})
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    result = grade_file(suite, file, output)
    assert [json.loads(line)["grading"] for line in output.read_text().split("\n")[:-1]] == [
        "passed",
        "failed",
        "passed",
        "passed",
    ]
    assert (result.graded, result.correct) == (4, 3)


@jailed
def test_grades_so_far_survive_an_end_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite("nano-code")
    doc = suite.docs(limit=1)[0][1]
    program = doc["prompt"] + doc["response"]
    lines = [
        json.dumps({"doc_id": 0, "program": program if number < 60 else "stop"}) + "\n"
        for number in range(80)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(lines))
    verdict_of = CodeScorer.verdict

    def interrupted(
        self: CodeScorer, doc: dict[str, Any], program: str, jail: Jail | None = None
    ) -> Judgement:
        if program == "stop":
            raise KeyboardInterrupt
        return verdict_of(self, doc, program, jail)

    monkeypatch.setattr(CodeScorer, "verdict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grade_file(suite, tmp_path / "answers.jsonl", tmp_path / "graded.jsonl")
    assert len((tmp_path / "graded.jsonl").read_text().splitlines()) == 60
