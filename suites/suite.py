"""Suites: one lm-eval task YAML each, graded the same way by `bench run`, `bench grade` and lm-eval itself.

suite = load_suite("humaneval")
for doc_id, doc in suite.docs(limit=2):
    print(suite.prompt(doc), suite.grade(doc, "    return None"))
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from copy import deepcopy
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError
from harness.runs.suite import Doc, Grade, Rendering
from harness.sandbox import Jail
from suites.code import CodeScorer
from suites.sources import EMBEDDED

FOLDER = Path(__file__).parent
ID_FIELDS = ("task_id", "unique_id", "id")


class SuiteError(UserError, ValueError):
    """There is no such suite."""


class Suite:
    """One evaluation suite. The lm-eval task (and so the data) is loaded at first use.

    name, title: as in the YAML. headline: (metric, filter) of the score to quote. stop: strings that end an
    answer. canvas: default number of new tokens. blocks: tokens of reasoning and of answer if the canvas is
    divided into them, else empty. needs_code: whether answers are programs that have to be run. repairs:
    where grading departs from the stock task. frozen: the fingerprint that this version of the suite was
    published with. templates: other ways to write its prompts, frozen too.
    """

    def __init__(self, path: Path, data_dir: str | None = None, rendering: Rendering | None = None) -> None:
        self.path, self.data_dir, self.rendering = path, data_dir, rendering or Rendering()
        self.config = _plain_yaml(path)
        self.name: str = self.config.get("group") or self.config["task"]
        self.settings: dict[str, Any] = self.config["metadata"]["suite"]
        self.title: str = self.settings["title"]
        self.frozen: dict[str, Any] = self.settings.get("frozen", {})
        self.templates: dict[str, dict[str, str]] = self.settings.get("templates", {})
        if self.rendering.template in self.templates:
            self.frozen = {
                **self.frozen,
                "prompts_sha256": self.templates[self.rendering.template]["prompts_sha256"],
            }
        elif self.rendering.template != "default":
            names = ", ".join(("default", *self.templates))
            raise SuiteError(
                f"{self.name} has no template {self.rendering.template!r}: use --template with one of {names}"
            )
        self.repairs: list[str] = list(self.settings.get("repairs", []))
        metric, _, filter_name = self.settings["headline"].partition(",")
        self.headline: tuple[str, str] = (metric, filter_name)
        if "group" in self.config:
            self.config["generation_kwargs"] = _plain_yaml(_files()[self.config["task"][0]])[
                "generation_kwargs"
            ]
        self.needs_code = bool(self.config.get("unsafe_code", False))
        generation = self.config.get("generation_kwargs", {})
        self.stop: list[str] = list(generation.get("until", []))
        self.blocks: tuple[int, ...] = tuple(generation.get("blocks", {}).values())
        self.canvas: int = int(self.settings.get("canvas", generation.get("max_gen_toks", 256)))

    @cached_property
    def task(self) -> Any:
        """The lm-eval task object. Raises SuiteDataError when its data cannot be had."""
        task: Any = _task_manager(self.data_dir).load([self.name])["tasks"][self.name]
        if self.rendering.template != "default":
            task.config.doc_to_text = task.fewshot_cfg.doc_to_text = self.templates[self.rendering.template][
                "text"
            ]
        if self.rendering.num_fewshot is not None:
            task.config.num_fewshot = self.rendering.num_fewshot
        return task

    @property
    def embedded(self) -> bool:
        """Whether the documents ship with this package, so that stored runs may repeat their prompts."""
        return (EMBEDDED / f"{self.path.stem.removesuffix('_ra')}_test.jsonl").is_file()

    @property
    def scorer(self) -> CodeScorer | None:
        """How programs are checked; None for suites whose answers are not programs."""
        hook = self.task.config.process_results
        return hook if isinstance(hook, CodeScorer) else None

    @cached_property
    def _rows(self) -> list[Doc]:
        return list(self.task.eval_docs)

    def docs(self, limit: int | None = None) -> list[tuple[int, Doc]]:
        """(doc_id, document) in the order of the data, at most `limit` of them."""
        return list(enumerate(self._rows[:limit]))

    @cached_property
    def _position(self) -> dict[str, int]:
        return {_digest(doc): index for index, doc in enumerate(self._rows)}

    @cached_property
    def _prompts(self) -> list[str]:
        self.task.set_fewshot_seed(self.rendering.fewshot_seed)
        return []

    def _render(self, doc: Doc) -> str:
        chat: dict[str, Any] = {}
        if self.rendering.chat is not None:
            multiturn = self.rendering.multiturn
            chat = {
                "apply_chat_template": True,
                "fewshot_as_multiturn": multiturn,
                "chat_template": self.rendering.chat,
            }
        shots, prefix = self.task.config.num_fewshot or 0, self.task.doc_to_prefix(doc)
        context = self.task.fewshot_context(doc, num_fewshot=shots, gen_prefix=prefix, **chat)
        return self.task.construct_requests(doc=doc, ctx=context, metadata=(self.name, 0, 1)).args[0]

    def prompt(self, doc: Doc) -> str:
        """The exact text the model gets, as lm-eval renders it."""
        # Few-shot examples are drawn document after document from one seeded generator, so prompts can only
        # be rendered in order.
        position = self._position[_digest(doc)]
        for row in self._rows[len(self._prompts) : position + 1]:
            self._prompts.append(self._render(row))
        return self._prompts[position]

    def reference(self, doc: Doc) -> str:
        """What an answer is held against, as lm-eval states it: a solution, or the tests."""
        return str(self.task.doc_to_target(doc))

    def fingerprint(self) -> dict[str, Any]:
        """Number of documents, sha256 of their ids, and sha256 over the sha256 hex digests of all prompts, in
        order.

        Equal to `frozen` unless the data, the prompt or lm-eval changed; a run stores it, so that changed
        prompts are never compared.
        """
        digests = [hashlib.sha256(self.prompt(doc).encode()).hexdigest() for _, doc in self.docs()]
        ids = [
            next((str(doc[field]) for field in ID_FIELDS if field in doc), str(doc_id))
            for doc_id, doc in self.docs()
        ]
        prompts = hashlib.sha256("".join(digests).encode()).hexdigest()
        return {
            "docs": len(digests),
            "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
            "prompts_sha256": prompts,
        }

    def filtered(self, doc: Doc, text: str) -> Any:
        """The text after the headline's filter: a program, an extracted answer."""
        pipeline = next(
            (item for item in self.task._filters if item.name == self.headline[1]), self.task._filters[0]
        )
        resps: Any = [[text]]
        for part in pipeline.filters:
            resps = part().apply(resps, [doc])
        return next(iter(resps))

    def grade(self, doc: Doc, text: str, jail: Jail | None = None) -> Grade:
        """Grade one answer, already cut at the stop strings. Same code as lm-eval's scoring; `jail` defaults
        to the process-wide one.
        """
        result = self.filtered(doc, text)
        if self.scorer is not None:
            return self.grade_program(doc, result if isinstance(result, str) else result[0], jail)
        scores = self.task.process_results(doc, [result])
        correct = bool(
            scores[self.headline[0]] == 1
        )  # exact_match gives a bool of numpy, which JSON does not know
        answer = str(result if isinstance(result, str) else result[0])
        return Grade(
            correct,
            "passed" if correct else "failed",
            answer=answer,
            detail=", ".join(f"{k} {v:g}" for k, v in scores.items()),
        )

    def grade_program(self, doc: Doc, program: str, jail: Jail | None = None) -> Grade:
        """Grade a finished program. Raises SuiteError for suites whose answers are not programs."""
        if self.scorer is None:
            raise SuiteError(f"the answers of {self.name} are not programs")
        verdict = self.scorer.verdict(doc, program, jail)
        return Grade(
            None if verdict.grading == "not_run" else verdict.passed,
            verdict.grading,
            program,
            detail=verdict.detail,
        )

    def cut(self, text: str) -> str:
        """The text up to the first stop string, as a generator hands it over."""
        ends = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text


class GroupSuite(Suite):
    """Several suites as one: their documents one after the other, each prompted and graded by its own
    suite.
    """

    @cached_property
    def members(self) -> list[Suite]:
        """The suites of the group, in order."""
        return [load_suite(name, self.data_dir, self.rendering) for name in self.config["task"]]

    @cached_property
    def task(self) -> Any:
        """The first member's task, whose generation settings all members share."""
        return self.members[0].task

    @cached_property
    def _rows(self) -> list[Doc]:
        return [doc for member in self.members for _, doc in member.docs()]

    def docs(self, limit: int | None = None) -> list[tuple[int, Doc]]:
        """(doc_id, document), member after member; `limit` is per member, as lm-eval counts it."""
        found: list[tuple[int, Doc]] = []
        start = 0
        for member in self.members:
            found += [(start + doc_id, doc) for doc_id, doc in member.docs(limit)]
            start += len(member.docs())
        return found

    @cached_property
    def _owner(self) -> dict[str, Suite]:
        return {_digest(doc): member for member in self.members for _, doc in member.docs()}

    def prompt(self, doc: Doc) -> str:
        """The member's prompt."""
        return self._owner[_digest(doc)].prompt(doc)

    def reference(self, doc: Doc) -> str:
        """The member's reference."""
        return self._owner[_digest(doc)].reference(doc)

    def grade(self, doc: Doc, text: str, jail: Jail | None = None) -> Grade:
        """The member's grade."""
        return self._owner[_digest(doc)].grade(doc, text, jail)


def _digest(doc: Doc) -> str:
    return hashlib.sha256(json.dumps(doc, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _task_manager(data_dir: str | None) -> Any:
    """lm-eval's index of the task files here, which it reads all; every task that it loads is a new one."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval.api.task").addFilter(
        lambda record: "Custom kwargs can be passed" not in record.getMessage()
    )
    metadata: dict[str, Any] = {"data_dir": data_dir} if data_dir else {}
    return TaskManager(include_defaults=False, include_path=str(FOLDER), metadata=metadata)


class _PlainLoader(yaml.SafeLoader):
    """Reads a task file without importing what it refers to."""


_PlainLoader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


def _plain_yaml(path: Path) -> dict[str, Any]:
    """A task file with what it includes; the caller's own copy."""
    values = deepcopy(_parsed(path))
    if "include" not in values:
        return values
    base = _plain_yaml(path.parent / values.pop("include"))
    return {**base, **values}


@cache
def _parsed(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)


def _files() -> dict[str, Path]:
    found = {path: _plain_yaml(path) for path in sorted(FOLDER.glob("*.yaml"))}
    return {values.get("group") or values["task"]: path for path, values in found.items()}


def list_suites() -> list[str]:
    """Names of all suites."""
    return sorted(_files())


def suite_file(name: str) -> Path:
    """The YAML file that defines a suite of the list."""
    return _files()[name]


def load_suite(name: str, data_dir: str | None = None, rendering: Rendering | None = None) -> Suite:
    """The suite called `name`. Raises SuiteError for a name (with close matches) or a template that does not
    exist.
    """
    files = _files()
    if name not in files:
        close = difflib.get_close_matches(name, files, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(sorted(files))}"
        raise SuiteError(f"no suite called {name!r}; {hint}")
    kind = GroupSuite if "group" in _plain_yaml(files[name]) else Suite
    return kind(files[name], data_dir, rendering)
