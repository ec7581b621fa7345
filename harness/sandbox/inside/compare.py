"""Comparison of an output with the expected output as EvalPlus 0.3.1 does it, on plain values, without
numpy.
"""

from __future__ import annotations

import cmath
from typing import Any

FLOAT_TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 1e-7


def is_floats(value: Any) -> bool:
    """Whether EvalPlus compares this expected value with a tolerance of its own: a float, or a non-empty list
    or tuple of floats.
    """
    if isinstance(value, float):
        return True
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, float) for item in value)


def same(given: Any, output: Any, expected: Any, atol: float) -> bool:
    """EvalPlus' rule: equal, or (expected floats, or a task with `atol`) of the same type and length and
    numerically close.

    given: the input, unused here; the argument order is that of every oracle.
    """
    if output == expected:
        return True
    if atol == 0 and is_floats(expected):
        atol = FLOAT_TOLERANCE
    if atol == 0 or type(output) is not type(expected):
        return False
    if isinstance(expected, (list, tuple)) and len(output) != len(expected):
        return False
    return close(output, expected, atol)


def close(output: Any, expected: Any, atol: float) -> bool:
    """`numpy.allclose(output, expected, rtol=1e-7, atol=atol)` for numbers and for nested lists and tuples of
    one shape; else false.
    """
    if isinstance(expected, (list, tuple)):
        if not isinstance(output, (list, tuple)) or len(output) != len(expected):
            return False
        return all(close(left, right, atol) for left, right in zip(output, expected, strict=True))
    if not all(isinstance(item, (int, float, complex)) for item in (output, expected)):
        return False
    # Infinities are close to themselves only, and the tolerance must not become infinite with them.
    return output == expected or (
        cmath.isfinite(expected) and abs(output - expected) <= atol + RELATIVE_TOLERANCE * abs(expected)
    )
