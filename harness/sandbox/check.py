"""What the jail is asked (`Check`), within which limits (`Limits`), and what it says (`Judgement`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from harness.errors import UserError
from harness.sandbox.inside import wire

Grading = Literal["passed", "failed", "timeout", "memory", "crashed", "not_run"]


class JailError(UserError, RuntimeError):
    """No isolation is available, or a jail cannot be started."""


@dataclass(frozen=True)
class Limits:
    """Limits of one check.

    seconds: wall clock. cpu_seconds: processor time of the program (default: as `seconds`); with a longer
    wall clock, a busy machine fails no correct program while an endless loop still ends early. memory_mb:
    address space of each process. processes: children the program may start (0: fork and exec are refused).
    threads: at the same time (1: the first alone). files: open files. file_mb: size of one file, and of the
    work folder. output_kb: size of one message out of the jail.
    """

    seconds: float = 10.0
    cpu_seconds: float | None = None
    memory_mb: int = 1024
    processes: int = 0
    threads: int = 64
    files: int = 32
    file_mb: int = 16
    output_kb: int = 4096


@dataclass(frozen=True, eq=False)
class Cases:
    """Inputs and expected outputs of one problem; reuse the object for every program of the problem, it keeps
    its encoded form.

    inputs: argument lists. expected: one output per input. atol: tolerance of EvalPlus' comparison rule.
    oracle: trusted source text that defines `same(given, output, expected, atol) -> bool`, with `close` and
    `is_floats` at hand, to be used instead of that rule.
    """

    inputs: Sequence[Any]
    expected: Sequence[Any]
    atol: float = 0.0
    oracle: str = ""

    def __post_init__(self) -> None:
        if not self.inputs or len(self.inputs) != len(self.expected):
            raise ValueError("cases need at least one input and one expected output per input")

    @cached_property
    def encoded(self) -> str:
        """The cases as JSON text. Raises WireError for values that cannot cross into a jail."""
        values = {
            "inputs": [wire.encode(list(item)) for item in self.inputs],
            "expected": [wire.encode(item) for item in self.expected],
        }
        return wire.to_text({**values, "atol": self.atol, "oracle": self.oracle})


@dataclass(frozen=True)
class Check:
    """One program to judge, by a test program (`tests`) or by inputs and expected outputs (`cases`).

    program: untrusted source text. names: the functions (or other names) of the program that the tests use;
    cases call the first. tests: trusted source text with assertions; it runs in a jail that the program never
    enters. setup: trusted source text run before the tests, in the tests' jail only (helpers of the prompt).
    fixtures: trusted source text run after the program, in its jail; the tests may pass names it binds to the
    program's functions. limits: overrides the jail's limits (but for the size of the work folder). numpy: let
    the program import numpy, read-only.
    """

    program: str
    names: tuple[str, ...] = ()
    tests: str = ""
    setup: str = ""
    fixtures: str = ""
    cases: Cases | None = None
    limits: Limits | None = None
    numpy: bool = False

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a check needs the name of the function under test")
        if (self.cases is None) == (not self.tests.strip()):
            raise ValueError("a check needs either a test program or inputs with expected outputs")


@dataclass(frozen=True)
class Judgement:
    """The result of a check. detail: one line for people. seconds: wall-clock time. calls: uses of the
    program that the tests made.
    """

    grading: Grading
    detail: str = ""
    seconds: float = 0.0
    calls: int = 0

    @property
    def passed(self) -> bool:
        return self.grading == "passed"
