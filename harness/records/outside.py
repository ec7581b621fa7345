"""Files from outside, JSON and YAML: whatever is wrong with one is a single line that names it and what to
change.

No content makes these functions raise anything but the error type they were given, or keeps them busy:
nesting without end, numbers of a million digits and YAML aliases that multiply are refused.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from harness.errors import UserError

ADVICE = "mend or replace this file"
MOST_YAML = 1 << 20
"""Bytes of a YAML file: far beyond any that people write, and read in seconds."""
MOST_NESTED = 100
"""Open brackets of a YAML file, each of which costs the scanner as much as all around it."""
MOST_NODES = 1_000_000
"""Values of a YAML file with its aliases written out."""
_LONGEST_NUMBER = 100
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {dict: "an object", list: "a list", str: "a string"}


def read_text(path: Path, error: type[UserError], advice: str = ADVICE) -> str:
    """The text of a regular file in UTF-8."""
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path} is no regular file: {advice}")
        return path.read_bytes().decode()
    except (OSError, ValueError) as fault:
        raise error(f"{path} cannot be read ({reason(fault)}): {advice}") from None


def read_json(path: Path, error: type[UserError], kind: type = dict, advice: str = ADVICE) -> Any:
    """The JSON value of a file, of the ``kind`` wanted (dict, list or object for any)."""
    return parse_json(read_text(path, error, advice), path, error, kind, advice)


def parse_json(
    text: str | bytes,
    where: object,
    error: type[UserError],
    kind: type = dict,
    advice: str = ADVICE,
    finite: bool = True,
) -> Any:
    """The value of a JSON text that stands at ``where`` (a file, or a file and a line); ``finite``: NaN and
    Infinity are refused.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        value = json.loads(text, parse_constant=_no_number if finite else float)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        fault = "a string holds half a character, a lone surrogate such as \\ud800"
        raise error(f"{where} is no valid JSON ({fault}): {advice}") from None
    except (ValueError, RecursionError) as fault:
        raise error(f"{where} is no valid JSON ({reason(fault)}): {advice}") from None
    if not isinstance(value, kind):
        raise error(
            f"{where} holds {brief(value)} where {_KINDS.get(kind, kind.__name__)} is wanted: {advice}"
        )
    return value


def read_yaml(path: Path, error: type[UserError], advice: str = ADVICE) -> Any:
    """The value of a YAML file, without any tag that builds Python objects."""
    return parse_yaml(read_text(path, error, advice), path, error, advice)


def parse_yaml(text: str, where: object, error: type[UserError], advice: str = ADVICE) -> Any:
    """The value of a YAML text that stands at ``where``."""
    if len(text) > MOST_YAML:
        raise error(f"{where} has {len(text):,} characters, and at most {MOST_YAML:,} are read: {advice}")
    try:
        if _depth(text) > MOST_NESTED:
            raise RecursionError
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (size := _written_out(node, {})) > MOST_NODES:
            raise ValueError(f"its aliases stand for {size:,} values, and at most {MOST_NODES:,} are read")
        value = loader.construct_document(node)
        json.dumps(value, ensure_ascii=False, default=str).encode()
        return value
    except UnicodeEncodeError:
        raise error(f"{where} is no valid YAML (a string holds half a character): {advice}") from None
    # Scalars with a tag that does not fit them end PyYAML in errors of every kind.
    except (
        yaml.YAMLError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as fault:
        raise error(f"{where} is no valid YAML ({reason(fault)}): {advice}") from None


def reason(fault: BaseException) -> str:
    """What an exception says, short and in one line."""
    if isinstance(fault, ValidationError):
        first = fault.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'file'}: {one_line(first['msg'])}"
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    if isinstance(fault, RecursionError):
        return "it is nested too deeply"
    if isinstance(fault, yaml.MarkedYAMLError) and fault.problem:
        mark = fault.problem_mark
        return one_line(fault.problem) + (f", line {mark.line + 1} column {mark.column + 1}" if mark else "")
    if isinstance(fault, KeyError):
        return f"no {fault}"
    return one_line(str(fault)) or type(fault).__name__


def one_line(text: str, most: int = 200) -> str:
    """The beginning of a text in one line."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."


def brief(value: Any) -> str:
    """A value as messages quote it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return one_line(text, 60)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _depth(text: str) -> int:
    """Most brackets that are open at one place; those inside of strings count too."""
    steps = (1 if found[0] in "[{" else -1 for found in re.finditer(r"[\[\]{}]", text))
    return max(accumulate(steps), default=0)


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes a document has once aliases are replaced by what they stand for; ValueError for a
    cycle.
    """
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > _LONGEST_NUMBER and node.tag.endswith((":int", ":float")):
            raise ValueError(f"a number of {len(node.value):,} digits")
        return 1
    if (found := known.get(id(node))) is not None:
        if not found:
            raise ValueError("an alias stands for what it is part of")
        return found
    known[id(node)] = 0
    parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    known[id(node)] = total = 1 + sum(_written_out(part, known) for part in parts)
    return total
