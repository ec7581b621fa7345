"""The trusted side of a check: runs the suite's test code or comparison; the program is reachable only
through the data socket.

The report `["passed", calls]` is sent after the last statement of the test code returned, by a process whose
memory no untrusted code has ever touched. Assertions run here, on decoded plain values, with this
interpreter's own builtins.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import random
import socket
from collections.abc import Callable
from typing import Any

import compare
import wire

CHUNK = 1000
BATCH = 64


class CandidateGone(BaseException):
    """The candidate's process ended, broke the protocol or could not load; not an Exception, so that test
    code cannot swallow it.
    """


class Candidate:
    """The data socket, as calls."""

    def __init__(self, data: socket.socket, reply_limit: int) -> None:
        self.data, self.reply_limit, self.calls = data, reply_limit, 0

    def ask(self, *message: Any) -> list[Any]:
        self.calls += 1
        try:
            wire.send(self.data, list(message))
            reply = wire.receive(self.data, self.reply_limit)
        except wire.WireError as error:
            raise CandidateGone(["broken", str(error)]) from None
        except OSError:
            reply = None
        if reply is None:
            raise CandidateGone(["gone", ""])
        if type(reply) is not list or len(reply) < 2 or reply[0] not in ("value", "raise"):
            raise CandidateGone(reply if type(reply) is list else ["broken", ""])
        if reply[0] == "raise":
            raise _exception(str(reply[1]), str(reply[2]) if len(reply) > 2 else "")
        return reply[1:]

    def value(self, data: Any) -> Any:
        if type(data) is list and data and data[0] == "h":
            return Remote(self, data[1], str(data[2]))
        try:
            return wire.decode(data)
        except wire.WireError as error:
            raise CandidateGone(["broken", str(error)]) from None


class Function:
    """A candidate function as the test code sees it; arguments cross as plain values, changes made to lists
    and dicts come back.
    """

    def __init__(self, candidate: Candidate, name: str) -> None:
        self._candidate, self.__name__ = candidate, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        reply = self._candidate.ask("call", self.__name__, wire.encode(list(args)), wire.encode(kwargs))
        if len(reply) > 1 and reply[1] is not None:
            after = self._candidate.value(reply[1])
            for old, new in zip(
                [*args, *kwargs.values()], after if type(after) is list else [], strict=False
            ):
                _copy_back(old, new)
        return self._candidate.value(reply[0])


class Remote:
    """An iterator that lives in the candidate's process; iterating fetches plain values."""

    def __init__(self, candidate: Candidate, ident: int, kind: str) -> None:
        self._candidate, self._ident, self._kind = candidate, ident, kind
        self._ready: list[Any] = []

    def __iter__(self) -> Remote:
        return self

    def __next__(self) -> Any:
        if not self._ready:
            chunk = self._candidate.value(self._candidate.ask("next", self._ident, CHUNK)[0])
            if type(chunk) is not list or not chunk:
                raise StopIteration
            self._ready = chunk[::-1]
        return self._ready.pop()


def _copy_back(old: Any, new: Any) -> None:
    if type(old) is not type(new):
        return
    if type(old) is list:
        old[:] = new
    elif type(old) in (dict, set):
        old.clear()
        old.update(new)


def _exception(name: str, text: str) -> BaseException:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(Exception):
            return kind(text)
    return CandidateError(f"{name}: {text}")


class CandidateError(Exception):
    """An exception of a type that is not builtin, raised by the candidate."""


def main(request: dict[str, Any], data: socket.socket, report: socket.socket) -> None:
    """Judge one program and report.

    `request`: names (candidate functions) and either setup, tests and remote (names bound by the fixtures),
    or cases (inputs, expected, atol, and oracle: source text of `same(given, output, expected, atol)`, empty
    for EvalPlus' rule).
    """
    random.seed(0)
    candidate = Candidate(data, request["limits"]["output_kb"] << 10)
    try:
        failure = _run_values(request, candidate) if "cases" in request else _run_tests(request, candidate)
    except CandidateGone as error:
        failure = ["gone", *error.args[0]]
    except BaseException as error:
        failure = ["failed", type(error).__name__, str(error)[:300]]
    if failure is None and not candidate.calls:
        failure = ["failed", "NoCall", "the tests never called the program"]
    wire.send(report, failure or ["passed", candidate.calls])


def _run_tests(request: dict[str, Any], candidate: Candidate) -> None:
    space: dict[str, Any] = {}
    exec(compile(request["setup"], "<setup>", "exec"), space)
    space.update({name: Function(candidate, name) for name in request["names"]})
    tree = ast.parse(request["tests"])
    if request["remote"]:
        _RemoteArguments(request["names"], request["remote"]).visit(tree)
        space["__candidate_eval__"] = lambda source: candidate.value(candidate.ask("eval", source)[0])
    exec(compile(ast.fix_missing_locations(tree), "<tests>", "exec"), space)


def _run_values(request: dict[str, Any], candidate: Candidate) -> list[Any] | None:
    cases = request["cases"]
    inputs, expected, atol, oracle = cases["inputs"], cases["expected"], cases["atol"], cases["oracle"]
    same = _oracle(oracle)
    start = 0
    while start < len(inputs):
        outputs, error = candidate.ask("batch", request["names"][0], inputs[start : start + BATCH])
        for index, output in enumerate(outputs[: len(inputs) - start], start):
            # Equal data are equal values under every rule but an oracle's; this spares decoding, which costs
            # more than comparing.
            if (oracle or output != expected[index]) and not _agree(
                same, inputs[index], output, expected[index], atol
            ):
                return ["failed", "", f"output {index} is wrong"]
        if error is not None or not outputs:
            return ["failed", *(str(word) for word in error or ["no output"])]
        start += len(outputs)
    return None


def _agree(
    same: Callable[[Any, Any, Any, float], bool], given: Any, output: Any, wanted: Any, atol: float
) -> bool:
    return same(wire.decode(given), wire.decode(output), wire.decode(wanted), atol)


def _oracle(source: str) -> Callable[[Any, Any, Any, float], bool]:
    if not source:
        return compare.same
    space: dict[str, Any] = {"close": compare.close, "is_floats": compare.is_floats}
    exec(compile(source, "<oracle>", "exec"), space)
    return space["same"]


class _RemoteArguments(ast.NodeTransformer):
    """Calls whose arguments name fixtures are evaluated, as text, where those objects live: beside the
    program.
    """

    def __init__(self, names: list[str], fixtures: list[str]) -> None:
        self.names, self.fixtures = set(names), set(fixtures)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in self.names:
            used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            if used & self.fixtures:
                source = ast.Constant(ast.unparse(node))
                return ast.Call(ast.Name("__candidate_eval__", ast.Load()), [source], [])
        self.generic_visit(node)
        return node
