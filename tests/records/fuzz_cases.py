"""Every parser of files from outside: what is written where for it, and the call that reads it."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hypothesis import strategies as st
from rich.console import Console

from harness.cli.decode import read_prompts
from harness.cli.submitting import _verified
from harness.engine.tuned import parse_presets
from harness.measuring import roofline
from harness.model import catalog, frequencies
from harness.model.adapter import Adapter
from harness.model.checkpoint import adds_bos, check_adapter
from harness.model.load import load_transformer, stored_numbers, tensors, weights_hash
from harness.model.packaged import unpack
from harness.model.presets import parse_groups
from harness.model.recognise import read_spec
from harness.model.tokenizer import load_tokenizer, vocabulary_hash
from harness.records.schema import read_run, read_samples
from harness.runs.suite import Grade
from harness.runs.sweep import State, cells, number_of_cells, read_sweep
from methods.training.data.answers import AnswerOptions, _questions
from methods.training.data.sources import read_answers
from methods.training.grpo import picture, summary
from methods.training.grpo.reward_client import _reward
from methods.training.grpo.tasks import read_tasks
from methods.training.grpo.work import read_log, read_settings
from methods.training.loop.loop import LossLog
from methods.training.options import StudentOptions, preset
from reports.console import render
from reports.drift import csv
from reports.leaderboard import leaderboard
from reports.load import load
from reports.projection import project
from reports.published import markdown, read_published
from reports.site import pack, samples_of
from reports.speed import load_speed
from reports.speed import markdown as speed_markdown
from reports.speed_page import page as speed_page
from reports.table import build
from suites.grading import grade_lines, read_lines, run_suite_name, score
from suites.sources import _read
from tests.conftest import GOLDEN
from tests.fuzz import changed, cut, json_bytes, line_bytes, refused_or_read, yaml_bytes
from tests.helpers import CPU
from tests.model.test_gguf import METADATA, _value

ROOT = Path(__file__).parents[2]
_Strategy = Callable[[Path], "st.SearchStrategy[bytes]"]
Case = tuple[_Strategy, str, Callable[[Path], object]]
"""What to write where, below a folder that ``_prepared`` made, and who reads it."""


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _model_folder(root: Path) -> None:
    load_transformer(root / "model", torch.float32, CPU)


def _tokenizer(root: Path) -> None:
    folder = root / "model"
    for work in (read_spec, vocabulary_hash, load_tokenizer, lambda folder: adds_bos("unlisted", folder)):
        with refused_or_read():
            work(folder)


def _weights(root: Path) -> None:
    for work in (weights_hash, stored_numbers, lambda folder: list(tensors(folder)), _loaded):
        with refused_or_read():
            work(root / "model")


def _loaded(folder: Path) -> None:
    load_transformer(folder, torch.float32, CPU)


def _adapter(root: Path) -> None:
    for work in (
        Adapter,
        lambda folder: catalog.location(str(folder)),
        lambda folder: check_adapter(folder, "nano"),
    ):
        with refused_or_read():
            work(root / "adapter")


def _frequencies(root: Path) -> None:
    frequencies.read_frequencies.cache_clear()
    frequencies._frequencies.cache_clear()
    frequencies.token_frequencies(str(root / "frequencies.json"), read_spec(GOLDEN / "dream_tiny"))


def _models(root: Path) -> None:
    catalog.catalog.cache_clear()
    try:
        with mock.patch.dict(os.environ, {"BENCH_MODELS": str(root / "models.yaml")}):
            catalog.catalog()
    finally:
        catalog.catalog.cache_clear()


def _sweep(root: Path) -> None:
    sweep = read_sweep(root / "sweep.yaml")
    if number_of_cells(sweep) <= 1000:
        cells(sweep, root)


def _run(root: Path) -> None:
    folder = next((root / "runs").rglob("run.json")).parent
    for work in (run_suite_name, read_run, read_samples):
        with refused_or_read():
            work(folder)
    runs = load(root / "runs")
    tables = build(runs)
    leaderboard(runs, tables=tables).encode()
    Console(file=io.StringIO(), width=120).print(render(runs))
    for table in tables:
        csv([table])
        for row in table.rows:
            pack(samples_of(row, None))
    for stored in runs:
        with refused_or_read():
            project(stored.run, stored.samples, "h100", "dream-7b")


def _submission(root: Path) -> None:
    """Reading a submission raises nothing at all: whatever is wrong is a check that is refused."""
    for _, checks in _verified(root / "submitted", grade=False, manifest=True):
        assert not any("\n" in check.detail for check in checks)
    for part in (root / "submitted").rglob("run.json"):
        with refused_or_read():
            load(part.parent)


def _grpo(root: Path) -> None:
    def drawn(folder: Path) -> object:
        return picture.curves([folder])

    for read in (summary.row, drawn, lambda folder: read_log(folder / "log.jsonl")):
        with refused_or_read():
            read(root / "grpo")
    read_settings(root / "grpo")


def _published(root: Path) -> None:
    found = read_published(root / "published.yaml")
    assert found is not None
    markdown(found).encode()


class _Suite:
    """As much of a suite as grading asks for."""

    name, needs_code = "stub", False

    def docs(self, limit: int | None = None) -> list[tuple[int, dict[str, Any]]]:
        return list(enumerate([{}, {}, {}][:limit]))

    def cut(self, text: str) -> str:
        return text

    def grade(self, doc: Any, text: str, jail: Any = None) -> Grade:
        text.encode()
        return Grade(True, "passed")


def _graded(root: Path) -> None:
    lines = read_lines(root / "programs.jsonl")
    suite: Any = _Suite()
    grades = grade_lines(suite, lines)  # refuses lines without a doc_id
    score([line["doc_id"] for line in lines], grades)


def _answers(root: Path) -> None:
    spec = read_spec(GOLDEN / "dream_tiny")
    read_answers(root / "answers.jsonl", GOLDEN / "dream_tiny", spec, StudentOptions(output=root, work=root))


def _training(root: Path) -> None:
    preset(StudentOptions, "d2f", str(root / "preset.yaml"), {"output": root, "work": root})


def _gguf(root: Path) -> None:
    out = root / "unpacked"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    unpack(root / "tiny.gguf", out)


def _gguf_bytes(root: Path) -> st.SearchStrategy[bytes]:
    """Bytes of a valid file changed, or values of its metadata."""
    valid = (root / "valid.gguf").read_bytes()
    header = sum(8 + len(key) + len(_value(value)) for key, value in METADATA.items()) + 24
    places = st.integers(0, min(len(valid), 2 * header) - 1)
    bent = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)

    def with_bytes(pairs: list[tuple[int, int]]) -> bytes:
        data = bytearray(valid)
        for place, value in pairs:
            data[place] = value
        return bytes(data)

    return st.one_of(
        bent.map(with_bytes), cut(valid), st.binary(max_size=100).map(lambda tail: b"GGUF" + tail)
    )


def _safetensors_bytes(root: Path) -> st.SearchStrategy[bytes]:
    """Values of the header changed, or bytes."""
    valid = (root / "valid.safetensors").read_bytes()
    size = int.from_bytes(valid[:8], "little")
    header = json.loads(valid[8 : 8 + size])

    def packed(value: Any) -> bytes:
        text = json.dumps(value).encode()
        return len(text).to_bytes(8, "little") + text + valid[8 + size :]

    return st.one_of(changed(header).map(packed), cut(valid), cut(valid[: 8 + size + 64]))


FREQUENCIES = {"num_token": 10, "counts": {"1": 5, "2": 5}}
INDEX = {"metadata": {"total_size": 5}, "weight_map": {"lm_head.weight": "model.safetensors"}}
PROMPTS = [{"prompt": [1, 2, 3]}, {"text": "a text"}]
PROGRAMS = [
    {"doc_id": 0, "text": "5"},
    {"doc_id": 1, "program": "x = 1"},
    {"doc_id": 2, "text": "6", "correct": True},
]
ANSWERS = [{"prompt_ids": [1, 2], "output_ids": [3, 4], "step_map": [0, 1], "correct": True}] * 2
TASKS = [
    {"prompt": "1 + 1", "answer": "2"},
    {"prompt": "f", "tests": ["assert f() == 1"], "entry_point": "f"},
]
OUTCOME = {"key": "a", "label": "b", "status": "complete", "returncode": 0, "seconds": 1.5, "error": ""}
SWEEP = {
    "model": "nano", "suites": ["nano-gsm"], "limit": 4, "batch_sizes": [1, 2], "num_fewshot": [None, 2],
    "methods": [{"method": "vanilla", "settings": {"tokens_per_step": [1, 2], "eps": 0.1}}], "timeout_s": 5.0,
}  # fmt: skip
MODELS = {
    "a": {"path": "x", "canvas": 4, "companions": {"causal_lm": "b"}, "settings": {"d2f": {"block_size": 8}}},
    "b": None,
}
PRESETS = [
    {"by": "x", "source": "y", "models": ["m"], "method": "d2f", "suites": {"gsm8k": {"settings": {"a": 1}}}}
]
TUNED = {"d2f": {"a": {"source": "s", "settings": {"block_size": 8}}}}
PUBLISHED = {
    "sources": {"a": {"title": "t", "url": "https://x.y/z"}},
    "tables": [
        {"title": "t", "source": "a", "caveats": ["c"], "rows": [{"method": "m", "tps": 1.5, "suite": "s"}]}
    ],
}
TRAINING = {"d2f": {"pool_items": 200, "tokens": 512, "steps": 4, "every": 4}}


GRPO_CARD = {"settings": {"suite": "nano-gsm", "shuffle_rewards": False}, "seconds": 90.0}
GRPO_STEP = {"solved": 0.5, "kl": 0.02, "norm": 1.0, "statuses": {"passed": 2}}
GRPO_LOG = [{"step": step, **GRPO_STEP} for step in range(2)]
GRPO_FOUND = {
    "before": 0.5, "after": 0.6, "difference": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.01,
    "scores": {"before": {"nfe": 5.0}, "after": {"nfe": 6.25}},
}  # fmt: skip
REWARD = {"components": {"correct": 1.0}, "status": "passed"}


def _of_file(name: str) -> Callable[[Path], st.SearchStrategy[bytes]]:
    return lambda root: json_bytes(_json(root / "valid" / name))


def _run_bytes(root: Path) -> st.SearchStrategy[bytes]:
    return json_bytes(_json(next((root / "runs").rglob("run.json"))))


def _manifest_bytes(root: Path) -> st.SearchStrategy[bytes]:
    return json_bytes(_json(root / "submitted" / "submission.json"))


def _sample_lines(root: Path) -> list[Any]:
    path = next((root / "runs").rglob("samples.jsonl"))
    return [json.loads(line) for line in path.read_text().splitlines()]


def _speed(root: Path) -> None:
    tables = load_speed(root / "speed")
    speed_markdown(tables).encode()
    speed_page(tables, {}).encode()


def _speed_bytes(root: Path) -> st.SearchStrategy[bytes]:
    return json_bytes(_json(root / SPEED / "speed.json"))


def _timing_bytes(root: Path) -> st.SearchStrategy[bytes]:
    lines = (root / SPEED / "timings.jsonl").read_text().splitlines()
    return line_bytes([json.loads(line) for line in lines])


SPEED = "speed/cpu-intel-xeon-processor/nano-float32-replay-95cdb278"
STORED = "runs/test-cpu/nano-gsm/one"
PACKED = "packed/test-cpu/nano-gsm/one"


def _of(value: Any, kind: Callable[[Any], st.SearchStrategy[bytes]] = json_bytes) -> _Strategy:
    return lambda root: kind(value)


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


_LLADA = _json(GOLDEN / "llada_tiny" / "config.json")
_NANO = (ROOT / "suites" / "sweeps" / "nano.yaml").read_bytes()
_RATES = {"cpu": {"bandwidth": 1.0, "flops": 2.0}}
_TEACHER = [{"prompt": "a", "response": "b"}, {"prompt_ids": [1]}]
_CARD = {"model": "nano", "model_hash": "0" * 16}
_ZIPPED = gzip.compress(json.dumps(TASKS[0]).encode())

CASES: dict[str, Case] = {
    "config.json": (_of_file("config.json"), "model/config.json", _model_folder),
    "config.json of LLaDA": (_of(_LLADA), "model/config.json", lambda root: read_spec(root / "model")),
    "generation": (_of_file("generation_config.json"), "model/generation_config.json", _model_folder),
    "safetensors": (_safetensors_bytes, "model/model.safetensors", _weights),
    "index": (_of(INDEX), "model/model.safetensors.index.json", _weights),
    "tokenizer.json": (_of_file("tokenizer.json"), "model/tokenizer.json", _tokenizer),
    "tokenizer_config": (_of_file("tokenizer_config.json"), "model/tokenizer_config.json", _tokenizer),
    "added_tokens.json": (_of({"<|mask|>": 5, "a": 6}), "model/added_tokens.json", _tokenizer),
    "adapter_config.json": (_of_file("adapter_config.json"), "adapter/adapter_config.json", _adapter),
    "card.json": (_of(_CARD), "adapter/card.json", _adapter),
    "gguf": (_gguf_bytes, "tiny.gguf", _gguf),
    "frequencies": (_of(FREQUENCIES), "frequencies.json", _frequencies),
    "models": (_of(MODELS, yaml_bytes), "models.yaml", _models),
    "presets": (
        _of(PRESETS, yaml_bytes),
        "p.yaml",
        lambda root: parse_groups(_text(root / "p.yaml"), "p.yaml"),
    ),
    "tuned": (
        _of(TUNED, yaml_bytes),
        "t.yaml",
        lambda root: parse_presets(_text(root / "t.yaml"), "t.yaml"),
    ),
    "sweep": (lambda root: yaml_bytes(SWEEP, _NANO), "sweep.yaml", _sweep),
    "state": (_of([OUTCOME] * 2, line_bytes), "s/sweep.jsonl", lambda root: State(root / "s").close()),
    "run.json": (_run_bytes, f"{STORED}/run.json", _run),
    "samples.jsonl": (lambda root: line_bytes(_sample_lines(root)), f"{STORED}/samples.jsonl", _run),
    "samples.jsonl.xz": (
        lambda root: cut((root / "valid.xz").read_bytes()),
        f"{PACKED}/samples.jsonl.xz",
        lambda root: read_samples(root / PACKED),
    ),
    "published": (_of(PUBLISHED, yaml_bytes), "published.yaml", _published),
    "prompts": (_of(PROMPTS, line_bytes), "p.jsonl", lambda root: list(read_prompts(root / "p.jsonl", 256))),
    "programs": (_of(PROGRAMS, line_bytes), "programs.jsonl", _graded),
    "data": (_of(TASKS, line_bytes), "data.jsonl", lambda root: _read(root / "data.jsonl")),
    "data, packed": (_of(_ZIPPED, cut), "data.gz", lambda root: _read(root / "data.gz")),
    "training's preset": (_of(TRAINING, yaml_bytes), "preset.yaml", _training),
    "answers": (_of(ANSWERS, line_bytes), "answers.jsonl", _answers),
    "a teacher's prompts": (
        _of(_TEACHER, line_bytes),
        "teacher.jsonl",
        lambda root: list(_questions(AnswerOptions(root / "out", prompts=root / "teacher.jsonl"))),
    ),
    "problems": (_of(TASKS, line_bytes), "tasks.jsonl", lambda root: read_tasks(root / "tasks.jsonl")),
    "card of a GRPO run": (_of(GRPO_CARD), "grpo/card.json", _grpo),
    "log of a GRPO run": (_of(GRPO_LOG, line_bytes), "grpo/log.jsonl", _grpo),
    "evaluation of a GRPO run": (_of(GRPO_FOUND), "grpo/evaluation.json", _grpo),
    "log of losses": (_of(GRPO_LOG, line_bytes), "loss.jsonl", lambda root: LossLog(root / "loss.jsonl", 5)),
    "reward": (_of(REWARD), "reward.json", lambda root: _reward((root / "reward.json").read_bytes())),
    "submission.json": (_manifest_bytes, "submitted/submission.json", _submission),
    "run.json, submitted": (_run_bytes, f"submitted/{STORED.removeprefix('runs/')}/run.json", _submission),
    "samples.jsonl, submitted": (
        lambda root: line_bytes(_sample_lines(root)),
        f"submitted/{STORED.removeprefix('runs/')}/samples.jsonl",
        _submission,
    ),
    "speed.json": (_speed_bytes, f"{SPEED}/speed.json", _speed),
    "timings.jsonl": (_timing_bytes, f"{SPEED}/timings.jsonl", _speed),
    "rates": (_of(_RATES), "rates.json", lambda root: roofline._read(root / "rates.json")),
}
