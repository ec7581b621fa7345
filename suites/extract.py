"""From a model's text to a program: the stock rule first, then what a base or an instruct model may have
meant.

The first form that compiles and defines the entry point wins. The stock form comes first, so a text that
stock lm-eval can run is run exactly as stock runs it; the other forms only reach texts that stock grades as
syntax errors.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
LONGEST = 100_000


def defines(program: str, name: str) -> bool:
    """Whether the text is valid Python that binds `name` at its top level; never runs it."""
    if len(program) > LONGEST:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(program)
            compile(
                tree, "<program>", "exec"
            )  # some errors, such as a return outside a function, are only found here
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(getattr(node, "name", None) == name or _assigns(node, name) for node in tree.body)


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(
        isinstance(part, ast.Name) and part.id == name for target in targets for part in ast.walk(target)
    )


def completion_program(prompt: str, text: str, entry_point: str, stock: str) -> str:
    """The program for a prompt that is the head of a function.

    stock: the program as stock lm-eval builds it, returned when no form fits, so that the sample shows what
    would have been run.
    """
    return _first_fitting([stock, *_completion_forms(prompt, text)], entry_point) or stock


def _completion_forms(prompt: str, text: str) -> Iterator[str]:
    head = prompt[: prompt.rfind("def ")] if "def " in prompt else ""
    blocks = [match.group(1) for match in FENCE.finditer(text)]
    for block in [*blocks, text.split("```", maxsplit=1)[0], text]:
        yield head + "\n" + block
        yield prompt + block
        yield prompt + _indented(block)


def _indented(block: str) -> str:
    return "\n".join("    " + line if line.strip() else line for line in block.splitlines()) + "\n"


def whole_program(text: str, entry_point: str, stock: str) -> str:
    """The program for a prompt that asks for a whole function."""
    blocks = [match.group(1) for match in FENCE.finditer(text)]
    return _first_fitting([stock, *blocks, text.split("```", maxsplit=1)[0], text], entry_point) or stock


def _first_fitting(forms: list[str], entry_point: str) -> str | None:
    # A completion's prompt already binds the entry point, with a docstring as its whole body: such a form has
    # to add something.
    return next((form for form in forms if defines(form, entry_point)), None)
