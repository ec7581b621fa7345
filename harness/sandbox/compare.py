"""Comparison of outputs with expected outputs, as EvalPlus 0.3.1 does it, on plain values outside the jail."""

from __future__ import annotations

from typing import Any

FLOAT_TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 1e-7


def is_floats(value: Any) -> bool:
    """Whether EvalPlus would compare this expected value with a tolerance: a float, or a non-empty list or tuple of floats."""
    if isinstance(value, float):
        return True
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, float) for item in value)


def same(output: Any, expected: Any, atol: float = 0.0) -> bool:
    """EvalPlus' rule: equal, or (floats, or a task with `atol`) of the same type and numerically close."""
    try:
        if bool(output == expected):
            return True
    except Exception:
        return False
    if atol == 0 and is_floats(expected):
        atol = FLOAT_TOLERANCE
    if atol == 0:
        return False
    if type(output) is not type(expected):
        return False
    if isinstance(expected, (list, tuple)) and len(output) != len(expected):
        return False
    return _close(output, expected, atol)


def _close(output: Any, expected: Any, atol: float) -> bool:
    import numpy

    try:
        return bool(numpy.allclose(output, expected, rtol=RELATIVE_TOLERANCE, atol=atol))
    except Exception:
        return False
