"""What a run needs of a suite: documents, prompts, grades. The suites themselves are a package of their
own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Doc = dict[str, Any]
FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class Rendering:
    """How prompts are written, where that is not the suite's own way.

    template: one of the suite's templates. num_fewshot: solved examples in front (None: the suite's number),
    drawn with fewshot_seed from the split that the task names for it. chat: messages to text, with the
    model's chat template. multiturn: examples become turns of their own (one turn holds them and the question
    otherwise).
    """

    template: str = "default"
    num_fewshot: int | None = None
    fewshot_seed: int = FEWSHOT_SEED
    chat: Callable[..., str] | None = None
    multiturn: bool = True

    def told(self) -> dict[str, Any]:
        """Number of examples and prompt format, in the words of a preset."""
        return {
            "num_fewshot": self.num_fewshot,
            "chat": "none" if self.chat is None else "turns" if self.multiturn else "one_turn",
        }


@dataclass(frozen=True)
class Grade:
    """The verdict on one text.

    correct: None when it could not be graded. grading: passed, failed, timeout, memory, crashed or not_run.
    program: the program that was run (code suites). answer: the extracted answer (other suites). detail: one
    line for people.
    """

    correct: bool | None
    grading: str
    program: str | None = None
    answer: str | None = None
    detail: str = ""


class Suite(Protocol):
    """One evaluation suite.

    stop: strings that end an answer. canvas: default number of new tokens. blocks: tokens of reasoning and of
    answer if the canvas is divided into them, else empty. needs_code: whether answers are programs that have
    to be run in a jail. embedded: whether stored runs may repeat its prompts.
    """

    name: str
    stop: list[str]
    canvas: int
    blocks: tuple[int, ...]
    needs_code: bool
    rendering: Rendering

    @property
    def embedded(self) -> bool: ...

    def docs(self, limit: int | None = None) -> list[tuple[int, Doc]]:
        """(doc_id, document) in the order of the data, at most ``limit`` of them."""
        ...

    def prompt(self, doc: Doc) -> str:
        """The exact text the model gets."""
        ...

    def grade(self, doc: Doc, text: str, jail: Any = None) -> Grade:
        """Grade one answer, already cut at the stop strings."""
        ...
