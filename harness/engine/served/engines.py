"""The contract of an engine: a server of its own that answers whole prompts, which the harness can only clock
and grade.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from harness.errors import UserError


class EngineError(UserError, ValueError):
    """An engine that is unknown, not installed, or cannot do what a flag asks for."""


@dataclass(frozen=True)
class Question:
    """One prompt as text and as the harness' ids; ``seed``: the random stream of its row."""

    text: str
    ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Reply:
    """What an engine says of one answer: its ids, and of how many tokens it took the prompt to be."""

    ids: list[int]
    prompt_tokens: int | None


@dataclass(frozen=True)
class Server:
    """An engine that runs: ``answer(questions, new_tokens)`` gives a Reply to each, in order."""

    answer: Callable[[Sequence[Question], int], list[Reply]]
    close: Callable[[], None]


class Engine:
    """What the harness must know of one engine. Its published Python interface and nothing else is used.

    ``dtypes``: the precisions it takes. ``decode`` is never called: there is no canvas to fill.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    install: ClassVar[str]
    Config: ClassVar[type[Any]]
    requires: ClassVar[frozenset[str]] = frozenset()
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16", "float16")

    def module(self) -> ModuleType:
        """The engine's package; EngineError where it is not installed."""
        try:
            return importlib.import_module(self.name)
        except ImportError as error:
            raise EngineError(
                f"--engine {self.name} needs its package ({error}): {self.install}, or leave --engine out"
            ) from None

    @property
    def version(self) -> str:
        return str(getattr(self.module(), "__version__", "of unknown version"))

    def start(self, model: str, config: Any, dtype: str, rows: int, seed: int) -> Server:
        """Load ``model`` (folder or hub id) for ``rows`` prompts at a time."""
        raise NotImplementedError

    def decode(self, backbone: Any, canvas: Any, config: Any) -> None:
        raise EngineError(f"{self.name} answers whole prompts: run it with --engine {self.name}")
