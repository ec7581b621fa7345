"""The teacher's own answers as training data: ``bench generate-data``.

One JSON line per prompt: ids of prompt and answer, the step at which the teacher wrote each token, and
whether the answer is right where that can be told. A card beside the file holds the settings and hashes.
Killed at any moment, the same call goes on with exactly the missing lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.decoding.registry import Method
from harness.decoding.settings import settings_of
from harness.engine.generator import Generation, Generator, Request
from harness.engine.loader import Loaded
from harness.engine.opening import Weights, open_engine
from harness.errors import UserError
from harness.model.text import decode_text
from harness.records.files import LineFile, digest, whole_lines, write_atomic
from harness.records.outside import parse_json, read_json
from methods.training.data.corpus import Mix, items
from methods.training.data.overlap import refuse_overlap
from methods.training.data.tables import hash_files, table_files, table_rows
from methods.training.loop.loop import progress
from suites.generators import frozen, gsm

PROMPTS = Mix(gsm=0.5, drills=0.0)


class AnswerError(UserError, ValueError):
    """Prompts that may not or cannot be answered, or a file of other answers."""


@dataclass(frozen=True)
class AnswerOptions:
    """``prompts``: JSON lines with ``prompt`` (text) or ``prompt_ids``, optionally the right ``response``;
    None draws ``count`` training problems of the embedded suites. ``settings`` are the decoder's.
    """

    output: Path
    model: str = "nano"
    adapter: str | None = None
    method: str = "vanilla"
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompts: Path | None = None
    count: int = 4000
    seed: int = 0
    batch_size: int = 32
    device: str | None = None
    dtype: str = "auto"


@dataclass(frozen=True)
class Question:
    """A prompt as text or ids, and the right response if it is known."""

    prompt: str | list[int]
    response: str | None = None


def card_path(path: Path) -> Path:
    """The card of a file of answers."""
    return path.with_name(f"{path.stem}.card.json")


def file_hash(path: Path) -> str:
    """sha256 of a file, or of all files of a training set in a folder, 16 hex digits."""
    return hash_files(table_files(path, AnswerError), path if path.is_dir() else None)


def generate_answers(options: AnswerOptions) -> Path:
    """Answer all prompts and write them with their card; returns the file.

    Raises OverlapError for a file with a prompt of a test suite, AnswerError if the generator ever gives one
    of the frozen sets, for an unreadable prompt, or a file that holds answers made otherwise.
    """
    weights = Weights(options.model, options.adapter, dtype=options.dtype, device=options.device)
    engine = open_engine(options.method, weights, options.settings, seed=options.seed)
    generator, loaded = engine.generator, engine.loaded
    made = _identity(options, engine.method, generator)
    questions = list(_questions(options))
    if options.prompts is None:
        _refuse_frozen(questions)
    else:
        refuse_overlap(
            lambda: [_text(question, loaded) for question in questions],
            options.prompts,
            f"{file_hash(options.prompts)} {loaded.tokenizer_hash}",
        )
    done = _resume(options.output, made)
    with (
        closing(LineFile(options.output)) as file,
        progress(options.output.name, len(questions), done) as report,
    ):
        for index, line in _lines(generator, questions, made["max_new_tokens"], options.batch_size, done):
            file.append(json.dumps(line).encode())
            report(index + 1, None)
    rows = [
        parse_json(line, f"{options.output} line {number}", AnswerError)
        for number, line in whole_lines(options.output)
    ]
    write_atomic(
        card_path(options.output),
        json.dumps({**made, **_totals(rows), "sha256": file_hash(options.output)}, indent=1) + "\n",
    )
    return options.output


def _identity(options: AnswerOptions, entry: Method, generator: Generator) -> dict[str, Any]:
    """Everything that decides the answers, as JSON values."""
    loaded = generator.loaded
    source = (
        {"generators": vars(PROMPTS)}
        if options.prompts is None
        else {"file": options.prompts.name, "sha256": file_hash(options.prompts)}
    )
    made = {
        "model": loaded.checkpoint,
        "weights_hash": loaded.weights_hash,
        "tokenizer_hash": loaded.tokenizer_hash,
        "adapter": loaded.adapter,
        "adapter_hash": loaded.adapter_hash,
        "method": entry.name,
        "method_source": entry.source,
        "settings": settings_of(generator.config),
        "max_new_tokens": generator.canvas(),
        "dtype": str(loaded.backbone.dtype).removeprefix("torch."),
        "prompts": source,
        "seed": options.seed,
    }
    return json.loads(json.dumps(made, default=str))


def _questions(options: AnswerOptions) -> Iterator[Question]:
    if options.prompts is None:
        yield from (
            Question(prompt, response) for prompt, response in items(options.seed, options.count, PROMPTS)
        )
        return
    for place, row in table_rows(options.prompts, ("prompt_ids", "prompt", "response"), AnswerError):
        where = f"--prompts {place}"
        prompt: Any = row.get("prompt_ids", row.get("prompt"))
        response: Any = row.get("response")
        ids = isinstance(prompt, list) and prompt and all(isinstance(one, int) and one >= 0 for one in prompt)
        if not (ids or isinstance(prompt, str)) or not isinstance(response, str | None):
            raise AnswerError(f"{where} has neither prompt (a text) nor prompt_ids (a list of ids)")
        yield Question(prompt, response)


def _refuse_frozen(questions: Sequence[Question]) -> None:
    held_out = {row["prompt"]: row["id"] for suite, split in frozen.SETS for row in frozen.load(suite, split)}
    for number, question in enumerate(questions, 1):
        if isinstance(question.prompt, str) and (name := held_out.get(question.prompt)):
            raise AnswerError(
                f"generated prompt {number} is {name} of a frozen set: nothing may be trained on it"
            )


def _text(question: Question, loaded: Loaded) -> str:
    if isinstance(question.prompt, str):
        return question.prompt
    return decode_text(loaded.tokenizer, question.prompt) if loaded.tokenizer else ""


def _resume(path: Path, made: Mapping[str, Any]) -> int:
    """Number of finished lines; drops a line cut short. AnswerError if the file holds answers made with other
    settings.
    """
    card = card_path(path)
    if not path.exists() or not card.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        write_atomic(card, json.dumps(made, indent=1) + "\n")
        return 0
    before = read_json(card, AnswerError)
    if other := [key for key in made if before.get(key) != made[key]]:
        raise AnswerError(
            f"{path} holds answers made with another {other[0]}: give another --output, or delete it"
        )
    return sum(1 for _ in whole_lines(path))


def _lines(
    generator: Generator, questions: Sequence[Question], canvas: int, batch_size: int, done: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, line) of every missing answer; a batch that was cut is decoded whole again, so that its shapes
    are the same.
    """
    if done == len(questions):
        return
    first = done - done % batch_size
    requests = [Request(question.prompt, canvas) for question in questions[first:]]
    index = first
    for batch in generator.run(requests, batch_size):
        for item in batch:
            if index >= done:
                yield index, _line(index, questions[index], item, generator.loaded.spec.eos_ids)
            index += 1


def _line(index: int, question: Question, item: Generation, eos_ids: Sequence[int]) -> dict[str, Any]:
    text = question.prompt if isinstance(question.prompt, str) else None
    shared = {"index": index, "prompt": text, "prompt_ids": item.prompt_ids}
    row = item.decoded
    if row is None or item.status != "ok":
        return {
            **shared,
            "output_ids": [],
            "step_map": [],
            "text": None,
            "correct": None,
            "error": item.error,
        }
    ends = [place + 1 for place, token in enumerate(row.output) if token in eos_ids]
    end = ends[0] if ends else len(row.output)
    correct = (
        None if question.response is None or item.text is None else matches(item.text, question.response)
    )
    answer = {
        "output_ids": row.output[:end],
        "step_map": row.step_map[:end],
        "text": item.text,
        "correct": correct,
    }
    return {**shared, **answer, "nfe": row.nfe}


def matches(text: str, response: str) -> bool:
    """Whether an answer agrees with the known response: its number behind ``####``, else its text."""
    _, found, answer = response.rpartition("#### ")
    return gsm.is_correct(text, answer.strip()) if found else text.strip() == response.strip()


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    checked = [row["correct"] for row in rows if row["correct"] is not None]
    return {
        "rows": len(rows),
        "errors": sum(not row["output_ids"] for row in rows),
        "checked": len(checked),
        "correct": sum(checked),
        "tokens": sum(len(row["output_ids"]) for row in rows),
        "forwards": sum(row.get("nfe", 0) for row in rows),
    }


def shared_path(options: AnswerOptions, work: Path) -> Path:
    """Where the answers of these options stand in the work folder; students share them."""
    key = {
        key: value for key, value in vars(options).items() if key not in ("output", "batch_size", "device")
    }
    return work / f"answers-{digest({name: str(value) for name, value in key.items()})[:10]}.jsonl"
