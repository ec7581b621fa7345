"""EvalPlus problems in their published form: inputs, expected outputs and special comparisons out of the
`test` column.

The column is a test program with numpy; run as it is, it costs seconds per problem and compares without
EvalPlus' type rule. Here its parts become a value check (inputs, expected outputs, tolerance, oracle), which
EvalPlus 0.3.1 itself applies to the same problems.
"""

from __future__ import annotations

import ast
import math
from functools import lru_cache
from typing import Any

from harness.sandbox import Cases

RULE = """
def rule(output, expected, exact, atol):
    if exact:
        return True
    if atol == 0 and is_floats(expected):
        atol = 1e-6
    if atol == 0 or type(output) is not type(expected):
        return False
    if isinstance(expected, (list, tuple)) and len(output) != len(expected):
        return False
    return close(output, expected, atol)
"""
SET_TASKS = {
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"),
    *("larg_nnum", "intersection_array", "find_dissimilar", "Diff"),
}
NOT_NONE_TASKS = {"check_str", "text_match_three", "text_starta_endb"}
ORACLES = {
    "set": "def same(given, output, expected, atol):\n    return rule(output, expected, set(output) == "
    "set(expected), atol)\n",
    "not_none": (
        "def same(given, output, expected, atol):\n"
        "    return rule(output, expected, output == expected if isinstance(output, bool) else expected == "
        "(output is not None), atol)\n"
    ),
    "are_equivalent": "def same(given, output, expected, atol):\n    return True\n",
    "sum_div": "def same(given, output, expected, atol):\n    return rule(output, expected, output == "
    "expected or output == 0, atol)\n",
    "surface_Area": (
        "def same(given, output, expected, atol):\n"
        "    base, height = given\n"
        "    other = round(base**2 + 2 * base * ((base / 2) ** 2 + height**2) ** 0.5)\n"
        "    return rule(output, expected, output == expected or abs(output - other) <= atol, atol)\n"
    ),
    "digit_distance_nums": (
        "def same(given, output, expected, atol):\n"
        "    one, two = map(str, given)\n"
        "    width = max(len(one), len(two))\n"
        "    other = sum(abs(int(a) - int(b)) for a, b in zip(one.zfill(width), two.zfill(width)))\n"
        "    return rule(output, expected, output == expected or output == other, atol)\n"
    ),
    "find_zero": (
        "def same(given, output, expected, atol):\n"
        "    return abs(sum(factor * output**power for power, factor in enumerate(given[0]))) <= atol\n"
    ),
}
FIND_ZERO_TOLERANCE = 1e-4
LARGEST_ANSWER = 2_000_000
# Problems whose reference solutions take seconds: the usual limit would fail correct programs on a loaded
# machine.
PLUS_SLOW = {
    *("special_factorial", "tri", "string_sequence", "sum_average", "get_max_sum", "even_Power_Sum"),
    *("amicable_numbers_sum", "combinations_colors", "get_ludic", "get_coordinates"),
}


@lru_cache(maxsize=1024)
def plus_problem(test: str, entry_point: str) -> Cases:
    """Read one problem's `test` column. Raises ValueError when it is not of the published form."""
    tree = ast.parse(test)
    body = next(
        (node.body for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"),
        tree.body,
    )
    lists = {
        node.targets[0].id: node.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    if "inputs" not in lists:
        raise ValueError("the test column has no list of inputs")
    inputs = [item for item in map(list, _value(lists["inputs"])) if _answerable(entry_point, item)]
    if entry_point == "find_zero":
        return Cases(inputs, [None] * len(inputs), FIND_ZERO_TOLERANCE, ORACLES["find_zero"])
    oracle = _oracle(entry_point)
    if "results" in lists:
        return Cases(inputs, _value(lists["results"]), _tolerance(body), oracle)
    reference = _reference(tree)
    computed = "def same(given, output, expected, atol):\n"
    computed += (
        "    expected = ref_func(*given)\n    return rule(output, expected, output == expected, atol)\n"
    )
    return Cases(inputs, [None] * len(inputs), _tolerance(body), f"{RULE}\n{reference}\n{computed}")


def _answerable(entry_point: str, given: list[Any]) -> bool:
    """False for the inputs of Mbpp/255 (combinations with repetition) whose answer alone fills a gigabyte; no
    other problem has such.
    """
    if entry_point != "combinations_colors" or not given[0]:
        return True
    return math.comb(len(given[0]) + given[1] - 1, given[1]) * given[1] <= LARGEST_ANSWER


def _oracle(entry_point: str) -> str:
    kind = "set" if entry_point in SET_TASKS else "not_none" if entry_point in NOT_NONE_TASKS else entry_point
    return f"{RULE}\n{ORACLES[kind]}" if kind in ORACLES else ""


def _reference(tree: ast.Module) -> str:
    """The reference solution that the column carries instead of long outputs, with its imports and
    helpers.
    """
    skipped = {"assertion", "is_floats", "check", ""}
    parts = [
        node
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) or getattr(node, "name", "") not in skipped
    ]
    kept = [
        ast.unparse(node)
        for node in parts
        if not any(alias.name == "numpy" for alias in getattr(node, "names", []))
    ]
    if not any("def ref_func" in part for part in kept):
        raise ValueError("the test column has neither expected outputs nor a reference function")
    return "\n".join(kept)


def _tolerance(body: list[ast.stmt]) -> float:
    loop = next((node for node in body if isinstance(node, ast.For)), None)
    call = loop.body[0].value if loop and isinstance(loop.body[0], ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.args[-1], ast.Constant):
        return float(call.args[-1].value)  # type: ignore[arg-type]
    raise ValueError("the test column does not end in a loop over assertion(..., tolerance)")


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _evaluate(node)


def _evaluate(node: ast.expr) -> Any:
    """Literals plus inf, nan, float('...'), set(), complex arithmetic of constants; nothing else. KeyError or
    ValueError otherwise.
    """
    if isinstance(node, ast.Name):
        return {"inf": math.inf, "nan": math.nan}[node.id]
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](
            _evaluate(item) for item in node.elts
        )
    if isinstance(node, ast.Dict):
        return {
            _evaluate(key): _evaluate(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return {"float": float, "set": set, "complex": complex, "frozenset": frozenset}[node.func.id](
            *map(_evaluate, node.args)
        )
    return ast.literal_eval(node)
