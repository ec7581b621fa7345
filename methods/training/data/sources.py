"""What students learn from: files of answers, the teacher's own answers, or the generated corpus."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from harness.model.checkpoint import adds_bos
from harness.model.spec import ModelSpec
from harness.model.text import decode_text, encode
from harness.model.tokenizer import load_tokenizer, tokenizer_hash
from harness.records.outside import read_json
from methods.training.data.answers import AnswerOptions, card_path, file_hash, generate_answers, shared_path
from methods.training.data.block_rows import block_pool, suite_blocks
from methods.training.data.corpus import BOS, Mix, Pool, cached_pool
from methods.training.data.overlap import refuse_overlap
from methods.training.data.tables import table_rows
from methods.training.options import StudentOptions, TrainingError

CORPUS = Mix(gsm=0.34, drills=0.06)
UNKNOWN = -1
COLUMNS = ("prompt_ids", "output_ids", "step_map", "correct", "prompt", "response")
"""What is read of a row."""


@dataclass(frozen=True)
class Data:
    """Rows to learn from.

    ``orders`` [tokens of the pool]: for each answer token its place (0-based) in the order in which the
    teacher wrote the answer; -1 in prompts and where no order is known. ``facts`` go into the student's card.
    """

    pool: Pool
    orders: np.ndarray
    facts: dict[str, Any]


def training_data(options: StudentOptions, folder: Path, spec: ModelSpec, first: bool = True) -> Data:
    """The data of a student of the model in ``folder``; generated into the work folder first where the
    options say so.

    Not ``first``: another process has just generated and checked them.
    """
    if options.blocks:
        return _blocks(options, folder)
    if options.data is not None:
        data = read_answers(options.data, folder, spec, options)
        if not first:
            return data
        content = f"{data.facts['sha256']} {tokenizer_hash(folder)}"
        missing = refuse_overlap(lambda: _prompts(data.pool, folder), options.data, content)
        return replace(data, facts={**data.facts, "not_compared_with": missing})
    if options.answers or options.prompts is not None:
        asked = AnswerOptions(
            output=options.work,
            model=options.model,
            method=options.teacher,
            settings=options.teacher_settings,
            prompts=options.prompts,
            count=options.answers,
            seed=options.seed + 1,
            device=options.device,
            dtype="bfloat16" if options.precision == "bf16" else "auto",
        )
        path = shared_path(asked, options.work)
        return read_answers(
            generate_answers(replace(asked, output=path)) if first else path, folder, spec, options
        )
    return _corpus(options, folder)


def _prompts(pool: Pool, folder: Path) -> list[str]:
    tokenizer = load_tokenizer(folder)
    starts = zip(pool.starts[:-1].tolist(), pool.prompts.tolist(), strict=True)
    return [decode_text(tokenizer, pool.ids[start : start + length].tolist()) for start, length in starts]


def _corpus(options: StudentOptions, folder: Path) -> Data:
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.exists() else None
    if tokenizer is None or tokenizer.token_to_id(BOS) is None:
        raise TrainingError(
            f"the built-in corpus is nano's: give {options.model} its own --data FILE, or --prompts FILE "
            "to answer"
        )
    pool = cached_pool(options.work, tokenizer, options.seed + 1, options.pool_items, CORPUS)
    return _generated(pool, "corpus", {"mix": vars(CORPUS)}, options)


def _blocks(options: StudentOptions, folder: Path) -> Data:
    path = folder / "tokenizer.json"
    if options.data is not None or options.prompts is not None or not path.exists():
        raise TrainingError(
            "blocks=true draws its own rows with nano's tokenizer: leave out --data and --prompts, or --set "
            "blocks=false"
        )
    pool = block_pool(Tokenizer.from_file(str(path)), options.seed + 1, options.pool_items)
    return _generated(pool, "corpus in blocks", {"blocks": suite_blocks()}, options)


def _generated(pool: Pool, source: str, made: dict[str, Any], options: StudentOptions) -> Data:
    return Data(
        pool,
        np.full(len(pool.ids), UNKNOWN),
        {"source": source, **made, "seed": options.seed + 1, "rows": len(pool)},
    )


def read_answers(path: Path, folder: Path, spec: ModelSpec, options: StudentOptions) -> Data:
    """Rows with ids (``prompt_ids``, ``output_ids``) or texts (``prompt``, ``response``) from JSON lines,
    Parquet, or a folder of such files or of a saved Hugging Face dataset, read a few at a time.

    Rows without an answer are left out, and with keep=correct those marked wrong. Raises TrainingError
    naming the row that is none of this, or a file with nothing to learn from.
    """
    tokenizer = load_tokenizer(folder)
    add_bos = adds_bos(options.model, folder)
    rows, skipped = _Rows(), 0
    for where, row in table_rows(path, COLUMNS, TrainingError):
        try:
            if "output_ids" in row:
                prompt, answer = ids_of_row(row, "prompt_ids"), ids_of_row(row, "output_ids")
            else:
                prompt, answer = (
                    encode(tokenizer, row["prompt"], add_bos),
                    [*encode(tokenizer, row["response"], False), spec.eos_ids[0]],
                )
        except (KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{where} is no answer: give prompt_ids and output_ids, or texts ({error!r})"
            ) from None
        if not answer or (options.keep == "correct" and row.get("correct") is False):
            skipped += 1
        else:
            steps = row.get("step_map")
            if steps is not None and not (_integers(steps) and len(steps) == len(answer)):
                raise TrainingError(
                    f"{where}: step_map is no list of {len(answer)} steps, one per answer token: leave it "
                    "out, or give all of them"
                )
            rows.add(prompt, answer, steps)
    if not len(rows):
        raise TrainingError(
            f"{path} holds no answers to learn from ({skipped} left out): generate some, or --set keep=all"
        )
    return Data(*rows.joined(), _facts(path, len(rows), skipped))


def ids_of_row(row: dict[str, Any], key: str) -> list[int]:
    """The ids under a key; TypeError for anything else."""
    ids = row[key]
    if not _integers(ids) or not all(one >= 0 for one in ids):
        raise TypeError(f"{key} is no list of ids")
    return ids


def _integers(values: Any) -> bool:
    return isinstance(values, list) and all(type(one) is int and abs(one) < 1 << 31 for one in values)


class _Rows:
    """Rows as they come, in 4 bytes per token and order."""

    def __init__(self) -> None:
        self.ids, self.orders = array("i"), array("i")
        self.starts, self.prompts = array("q", [0]), array("q")

    def __len__(self) -> int:
        return len(self.prompts)

    def add(self, prompt: list[int], answer: list[int], steps: list[int] | None) -> None:
        self.ids.extend(prompt)
        self.ids.extend(answer)
        self.orders.extend([UNKNOWN] * len(prompt))
        self.orders.extend(decoding_order(answer, steps).tolist())
        self.starts.append(len(self.ids))
        self.prompts.append(len(prompt))

    def joined(self) -> tuple[Pool, np.ndarray]:
        ids, starts, prompts, orders = (
            np.array(part) for part in (self.ids, self.starts, self.prompts, self.orders)
        )
        return Pool(ids, starts, prompts), orders


def decoding_order(answer: Sequence[int], steps: Sequence[int] | None) -> np.ndarray:
    """Place of each answer token in the teacher's order, ties from left to right; -1 throughout without a
    step map.
    """
    if steps is None:
        return np.full(len(answer), UNKNOWN)
    return np.argsort(np.argsort(np.asarray(steps), kind="stable"), kind="stable")


def _facts(path: Path, rows: int, skipped: int) -> dict[str, Any]:
    card = card_path(path)
    made = read_json(card, TrainingError) if card.exists() else None
    return {"source": path.name, "sha256": file_hash(path), "rows": rows, "left_out": skipped, "made": made}
