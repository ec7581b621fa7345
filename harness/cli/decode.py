"""``bench decode``: prompts in, ids and counts out; no suite, no grading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.decoding.settings import parse_pairs, setting_names
from harness.engine.flags import (
    Adapter,
    Attention,
    BatchSize,
    Compile,
    Device,
    Dtype,
    Family,
    Isolate,
    Model,
    NoMerge,
    Seed,
    Settings,
    StopRuleOption,
    stop_rule_of,
)
from harness.engine.isolation.finding import find_method
from harness.errors import UserError
from harness.records.outside import brief, parse_json, read_text


class PromptError(UserError, ValueError):
    """A prompts file that cannot be read, with its line."""


def decode_command(
    prompts: Annotated[
        Path, typer.Option("--prompts", help='JSONL, one {"prompt": [ids]} or {"text": "..."} per line.')
    ],
    output: Annotated[Path, typer.Option("--output", help="JSONL to write, one line per prompt.")],
    method: Annotated[str, typer.Option("--method", help="Method name or ./file.py.")] = "vanilla",
    model: Model = "nano",
    adapter: Adapter = None,
    family: Family = None,
    no_merge: NoMerge = False,
    settings: Settings = None,
    stop_rule: StopRuleOption = "harness",
    batch_size: BatchSize = 1,
    device: Device = None,
    dtype: Dtype = "auto",
    attention: Attention = "auto",
    compiled: Compile = False,
    seed: Seed = 0,
    isolate: Isolate = None,
) -> None:
    """Decode prompts with one method and write ids, counts and the step map of each.

    Output lines have **output** (ids of the whole generation region), **text** (if there is a tokenizer),
    **nfe**, **positions**, **forwards** ([query length, cached length, stored length] each), **queries**
    (positions fed by each, as half-open spans) and **step_map** (per id, the forward that wrote it). `--set
    key=none` means null.
    """
    from harness.engine.generator import Request  # both import torch
    from harness.engine.opening import Weights, open_engine

    entry = find_method(method, isolate)
    pairs = {
        key: value
        for key, value in parse_pairs(settings or []).items()
        if not _inert(entry.decoder, key, value)
    }
    generator = open_engine(
        entry,
        Weights(model, adapter, not no_merge, dtype, device, family, attention, compiled),
        pairs,
        seed=seed,
        stop_rule=stop_rule_of(stop_rule),
    ).generator
    canvas, words = generator.canvas(), generator.loaded.spec.vocab_size
    requests = [Request(prompt, canvas) for prompt in read_prompts(prompts, words)]
    if not requests:
        raise PromptError(
            f'--prompts {prompts} holds no prompt: write one {{"prompt": [ids]}} or {{"text": "..."}} '
            f"per line"
        )
    try:
        file = output.open("w")
    except OSError as error:
        raise PromptError(f"cannot write --output {output}: {error.strerror}") from None
    with file:
        for batch in generator.run(requests, batch_size):
            for item in batch:
                if item.decoded is None:
                    raise PromptError(f"{prompts}: {item.error}")
                file.write(json.dumps(_line(item)) + "\n")
                file.flush()


def _inert(decoder: Any, key: str, value: str) -> bool:
    """A null (or cache=none) for a setting the method does not have says nothing."""
    return key not in setting_names(decoder.Config) and value.lower() in ("none", "null")


def _line(item: Any) -> dict[str, Any]:
    row = item.decoded
    line = {
        "output": row.output,
        "nfe": row.nfe,
        "positions": row.positions,
        "forwards": [list(entry) for entry in row.forwards],
        "queries": row.queries,
        "step_map": row.step_map,
        "status": item.status,
    }
    if item.text is not None:
        line["text"] = item.text
    if item.error is not None:
        line["error"] = item.error
    return line


def read_prompts(path: Path, words: int) -> Iterator[str | list[int]]:
    """The prompts of a file, for a vocabulary of ``words``; PromptError names the line that is none."""
    text = read_text(path, PromptError, "change --prompts")
    for number, line in enumerate(text.split("\n"), 1):  # a string in JSON may hold the other ends of lines
        if not line.strip():
            continue
        where, advice = f"{path} line {number}", 'expected {"prompt": [ids]} or {"text": "..."}'
        entry = parse_json(line, where, PromptError, advice=advice)
        value = entry.get("prompt", entry.get("text"))
        if isinstance(value, list) and value:
            wrong = [token for token in value if not _is_id(token, words)]
            if wrong:
                raise PromptError(f"{where}: {brief(wrong[0])} is no id from 0 to {words - 1} of this model")
        elif not isinstance(value, str):
            raise PromptError(f"{where}: prompt must be a non-empty list of ids, text a string: {advice}")
        yield value


def _is_id(token: object, words: int) -> bool:
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < words
