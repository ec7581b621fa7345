"""The hostile corpus on every backend, as this user and, when this is root, as an ordinary one: nothing
reached, nothing spoilt.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.sandbox import backends
from tests.hostile.programs import ESCAPES, TRICKS
from tests.hostile.reaching import REACHES

ROOT = Path(__file__).parents[2]
ORDINARY = 65534
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the backends need Linux")


def interpreter_for(user: int | None) -> str:
    """A Python that the user can run and that can import the jail."""
    if user is None:
        return sys.executable
    for python in filter(None, (sys.executable, "/usr/bin/python3", shutil.which("python3"))):
        code = (
            f"import os, subprocess; os.setgroups([]); os.setresgid({user},{user},{user}); "
            f"os.setresuid({user},{user},{user}); "
        )
        code += f"subprocess.run([{python!r}, '-c', 'import harness.sandbox'], check=True)"
        if (
            subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
            ).returncode
            == 0
        ):
            return python
    pytest.skip("an ordinary user can run no Python 3.10 here, or cannot read this checkout")


@pytest.mark.parametrize("user", [None, ORDINARY], ids=["this user", "ordinary user"])
@pytest.mark.parametrize("backend", ["bubblewrap", "unshare", "landlock+seccomp"])
def test_hostile_programs_reach_nothing_and_spoil_nothing(backend: str, user: int | None) -> None:
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root can become an ordinary user; this run is one")
    python = interpreter_for(user)
    bundled = backends.bubblewrap_binary()
    path = os.pathsep.join([*([str(Path(bundled).parent)] if bundled else []), os.environ.get("PATH", "")])
    command = [
        python,
        "-m",
        "tests.hostile.run",
        "--backend",
        backend,
        *(["--user", str(user)] if user is not None else []),
    ]
    environment = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode == 3:
        pytest.skip(f"{backend} does not start here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["programs"] >= 200


def test_corpus_is_large_enough_and_covers_the_classes() -> None:
    rows = [(row[0], row[1]) for row in (*TRICKS, *ESCAPES, *REACHES)]
    wanted = {
        "network",
        "files",
        "home",
        "processes",
        "memory",
        "output",
        "swallow",
        "equality",
        "frames",
        "grader",
        "exit",
        "forgery",
    }
    assert wanted | {"metadata", "machine", "sockets", "next"} <= {kind for kind, _ in rows}
    assert len(set(rows)) == len(rows) >= 200
