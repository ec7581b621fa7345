"""The jail: right programs pass, hostile ones are contained, and the run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from harness.sandbox import Cases, Check, Jail, JailError, Limits, backends, launch, open_jail
from tests.hostile.programs import ESCAPES, TRICKS

LIMITS = Limits(seconds=1.5, memory_mb=512)
TESTS = "assert solve(1, 2) == 3\nassert solve(2, 2) == 4"
GOOD = "def solve(a, b):\n    return a + b\n"
AVAILABLE, REASONS = launch.probe()

pytestmark = pytest.mark.skipif(AVAILABLE == "none", reason=f"nothing isolates here: {REASONS}")


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with open_jail(LIMITS, workers=2) as opened:
        yield opened


def check(program: str, **changes: object) -> Check:
    values: dict[str, object] = {"names": ("solve",), "tests": TESTS, **changes}
    return Check(program, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "name", "program", "allowed"), TRICKS, ids=[f"{row[0]}: {row[1]}" for row in TRICKS]
)
def test_trick_does_not_pass(
    jail: Jail, kind: str, name: str, program: str, allowed: tuple[str, ...]
) -> None:
    begin = time.monotonic()
    verdict = jail.run(check(program))
    assert verdict.grading in allowed, verdict
    assert time.monotonic() - begin < LIMITS.seconds + 2.5, "the program held the run up beyond its limit"
    assert jail.run(check(GOOD)).passed, "the run does not continue"


@pytest.mark.parametrize(
    ("kind", "name", "program", "allowed"), TRICKS, ids=[f"{row[0]}: {row[1]}" for row in TRICKS]
)
def test_trick_does_not_pass_value_checks(
    jail: Jail, kind: str, name: str, program: str, allowed: tuple[str, ...]
) -> None:
    if "timeout" in allowed:
        pytest.skip("the time limit works the same way for both kinds of check")
    cases = Cases([[1, 2], [2, 2]], [3, 4])
    assert jail.run(Check(program, ("solve",), cases=cases)).grading in (
        "failed",
        "crashed",
        "memory",
        "timeout",
    )


@pytest.mark.parametrize(("kind", "name", "program"), ESCAPES, ids=[f"{row[0]}: {row[1]}" for row in ESCAPES])
def test_escape_is_blocked(jail: Jail, kind: str, name: str, program: str) -> None:
    verdict = jail.run(
        check(
            program,
            tests="answer = solve(1, 2)\nassert answer[0] != 'done', answer[1]\n",
            limits=Limits(seconds=8),
        )
    )
    assert verdict.grading in ("failed", "crashed"), verdict
    assert not verdict.detail.startswith("AssertionError"), f"the attempt worked: {verdict.detail}"
    assert jail.run(check(GOOD)).passed


def test_nothing_of_one_program_reaches_the_next(jail: Jail) -> None:
    plant = (
        "import builtins, sys, os\nbuiltins.planted = 1\nsys.planted = 1\nopen('planted', "
        "'w').write('x')\ndef solve(a, b): return a + b\n"
    )
    look = (
        "import builtins, sys, os\ndef solve(a, b): return [hasattr(builtins, 'planted'), hasattr(sys, "
        "'planted'), os.listdir('.')]\n"
    )
    with open_jail(LIMITS, workers=1) as single:
        assert single.run(check(plant)).passed
        assert single.run(check(look, tests="assert solve(1, 2) == [False, False, []]")).passed


def test_values_of_many_types_cross_unchanged(jail: Jail) -> None:
    program = textwrap.dedent("""
        from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
        from decimal import Decimal
        from fractions import Fraction
        P = namedtuple("P", "x y")
        def solve(kind):
            return {
                "big": 10**5000, "set": {1, (2, 3)}, "frozen": frozenset("ab"), "bytes": b"\\x00\\xff",
                "complex": 1 + 2j, "none": None,
                "nested": [(1, [2.5, {"k": {"a"}}])], "counter": Counter("aab"), "tuple": P(1, 2),
                "deque": deque([1]), "range": range(3),
                "decimal": Decimal("1.10"), "fraction": Fraction(1, 3), "inf": [float("inf"), -0.0],
                "ordered": OrderedDict(a=1), "keys": {"a": 1}.keys(),
                "default": defaultdict(int, a=1), "text": "\\ud83d\\ude00\\x00",
            }[kind]
    """)
    tests = textwrap.dedent("""
        from collections import Counter, deque
        from decimal import Decimal
        from fractions import Fraction
        wanted = {
            "big": 10**5000, "set": {1, (2, 3)}, "frozen": frozenset("ab"), "bytes": b"\\x00\\xff",
            "complex": 1 + 2j, "none": None,
            "nested": [(1, [2.5, {"k": {"a"}}])], "counter": Counter("aab"), "tuple": (1, 2),
            "deque": deque([1]), "range": range(3),
            "decimal": Decimal("1.10"), "fraction": Fraction(1, 3), "inf": [float("inf"), -0.0],
            "ordered": {"a": 1}, "keys": {"a"},
            "default": {"a": 1}, "text": "\\ud83d\\ude00\\x00",
        }
        for kind, value in wanted.items():
            answer = solve(kind)
            assert answer == value and isinstance(answer, type(value)), kind
        assert solve("counter").most_common(1) == [("a", 2)]
    """)
    verdict = jail.run(check(program, tests=tests))
    assert verdict.passed, verdict


def test_tests_see_changed_arguments_generators_and_exceptions(jail: Jail) -> None:
    program = (
        "def solve(x):\n    x.append(1)\n    return (i * i for i in range(3000))\ndef fail(): raise "
        "KeyError('k')\n"
    )
    tests = textwrap.dedent("""
        values = [0]
        assert sum(solve(values)) == sum(i * i for i in range(3000))
        assert values == [0, 1]
        try:
            fail()
        except KeyError:
            pass
        else:
            raise AssertionError("no exception")
    """)
    verdict = jail.run(Check(program, ("solve", "fail"), tests=tests))
    assert verdict.passed, verdict


def test_passed_needs_a_call() -> None:
    with open_jail(LIMITS, workers=1) as single:
        assert single.run(check(GOOD, tests="assert True")).grading == "failed"


def test_value_checks_follow_tolerance_and_oracle(jail: Jail) -> None:
    program = "def solve(x):\n    return x * 3 / 3 + 1e-9\n"
    assert jail.run(Check(program, ("solve",), cases=Cases([[0.1], [2.5]], [0.1, 2.5]))).passed
    assert not jail.run(Check(program, ("solve",), cases=Cases([[0.1]], [0.2]))).passed
    oracle = "def same(given, output, expected, atol):\n    return abs(output - given[0]) < 1\n"
    assert jail.run(Check(program, ("solve",), cases=Cases([[5.0]], [None], oracle=oracle))).passed


def test_jail_that_dies_is_recorded_and_started_again() -> None:
    with open_jail(LIMITS, workers=1) as single:
        assert single.run(check(GOOD)).passed
        cell = single._workers[0].candidates[False]
        assert cell.running is not None
        os.killpg(cell.running.process.pid, signal.SIGKILL)
        cell.running.process.wait()
        assert single.run(check(GOOD)).passed
        assert single.restarts >= 1


def test_jail_killed_in_the_middle_of_a_check_is_a_crash() -> None:
    import threading

    with open_jail(Limits(seconds=5), workers=1) as single:
        assert single.run(check(GOOD)).passed
        cell = single._workers[0].candidates[False]
        assert cell.running is not None
        threading.Timer(0.4, os.killpg, (cell.running.process.pid, signal.SIGKILL)).start()
        verdict = single.run(check("import time\ndef solve(a, b):\n    time.sleep(4)\n    return a + b\n"))
        assert verdict.grading == "crashed"
        assert verdict.seconds < 3
        assert single.run(check(GOOD)).passed


@pytest.mark.parametrize(
    "first",
    ["", "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"],
    ids=["plain", "signal ignored"],
)
def test_processor_time_ends_a_loop_before_the_wall_clock_does(jail: Jail, first: str) -> None:
    limits = Limits(seconds=120, cpu_seconds=1)
    verdict = jail.run(check(first + "def solve(a, b):\n    while True: pass\n", limits=limits))
    assert verdict.grading == "timeout"
    assert verdict.seconds < 60
    assert jail.run(
        check("import time\ndef solve(a, b):\n    time.sleep(1.2)\n    return a + b\n", limits=limits)
    ).passed


def test_many_checks_keep_their_order(jail: Jail) -> None:
    programs = [GOOD if number % 3 else GOOD.replace("+", "-") for number in range(30)]
    verdicts = jail.run_many([check(program) for program in programs])
    assert [verdict.passed for verdict in verdicts] == [bool(number % 3) for number in range(30)]


def test_refuses_without_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "probe", lambda: ("none", {"bubblewrap": "not installed"}))
    with pytest.raises(JailError, match="--allow-unsafe-code"):
        open_jail()
    with open_jail(LIMITS, workers=1, allow_unsafe=True) as unsafe:
        assert unsafe.backend == "none"
        assert unsafe.run(check(GOOD)).passed


def test_probe_falls_through_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "bubblewrap_binary", lambda: None)
    launch.probe.cache_clear()
    try:
        found, failures = launch.probe()
        assert found != "bubblewrap"
        assert "bubblewrap is not installed" in failures["bubblewrap"]
    finally:
        launch.probe.cache_clear()


SCRIPT = """
from harness.sandbox import Check, open_jail
with open_jail(workers=1) as jail:
    check = Check("import os\\ndef solve(a, b): return a + b", ("solve",), tests="assert solve(1, 2) == 3")
    print(jail.backend, jail.run(check).grading)
"""


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv",
)
def test_works_as_an_ordinary_user(tmp_path: object) -> None:
    user = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "env",
        "HOME=/nonexistent",
        f"PYTHONPATH={os.getcwd()}",
    ]
    readable = (
        subprocess.run(
            [*user, sys.executable, "-c", "import harness"], capture_output=True, check=False
        ).returncode
        == 0
    )
    if not readable:
        pytest.skip("this Python cannot be read by an ordinary user")
    result = subprocess.run(
        [*user, sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=900
    )
    assert result.stdout.split() == [AVAILABLE, "passed"], result.stderr


def test_nothing_survives_a_killed_supervisor() -> None:
    script = SCRIPT.replace("print(jail.backend, ", "print('ready', flush=True); (").replace(
        "def solve(a, b): return a + b", "def solve(a, b):\\n while True: pass"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        time.sleep(1.0)
        before = _descendants(process.pid)
        process.kill()
        process.wait()
    deadline = time.monotonic() + 5
    while (left := [pid for pid in before if _alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert before
    assert not left


def test_a_program_ends_with_its_killed_runner_even_without_a_namespace() -> None:
    script = (
        "from harness.sandbox import Check, open_jail\n"
        "with open_jail(workers=1, backend='landlock+seccomp') as jail:\n"
        "    print('ready', flush=True)\n"
        "    jail.run(Check('import time\\ndef solve(a, b): time.sleep(60)', ('solve',), tests='solve(1, "
        "2)'))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            pytest.skip("Landlock is not available here")
        deadline = time.monotonic() + 30
        while (
            not (runners := [pid for pid in _descendants(process.pid) if _descendants(pid)])
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        before = _descendants(process.pid)
        for pid in runners:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while (left := [pid for pid in before if _alive(pid)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert len(before) >= 2
    assert not left


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found, queue = [], [root]
    while queue:
        current = queue.pop()
        children = [pid for pid, parent in parents.items() if parent == current]
        found += children
        queue += children
    return found


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
