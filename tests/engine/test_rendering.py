"""Prompts as asked for: chat template, the suite's frozen templates, few-shot examples by seed; each is a
table of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from harness.model.catalog import location
from harness.model.load import resolve
from harness.model.spec import CheckpointError
from harness.model.text import chat_text
from harness.model.tokenizer import load_tokenizer
from harness.records.schema import find_runs, read_run, read_samples
from harness.runs.suite import Rendering
from suites.suite import SuiteError, load_suite
from tests.commands import bench

NANO = ("nano-gsm", "nano-code")
MODEL = Path(__file__).parents[2] / "methods" / "models" / "nano"


def chat_of(model: str) -> Callable[..., str]:
    return partial(chat_text, load_tokenizer(resolve(location(model))))


def first(suite: str, rendering: Rendering) -> str:
    chosen = load_suite(suite, None, rendering)
    return chosen.prompt(chosen.docs(1)[0][1])


@pytest.mark.parametrize("name", NANO)
def test_every_template_is_frozen_and_asks_the_same(name: str) -> None:
    templates = load_suite(name).templates
    assert len(templates) >= 3
    seen = set()
    for template in ("default", *templates):
        suite = load_suite(name, None, Rendering(template))
        assert suite.fingerprint() == suite.frozen
        seen.add(suite.frozen["prompts_sha256"])
        question = suite.docs(1)[0][1]["prompt"].removeprefix("Q: ").removesuffix("\nA:")
        assert question in suite.prompt(suite.docs(1)[0][1])
    assert len(seen) == 1 + len(templates)


def test_an_unknown_template_names_those_there_are() -> None:
    with pytest.raises(SuiteError, match="use --template with one of default, instruction, framed, spaced"):
        load_suite("nano-gsm", None, Rendering("chatty"))


def test_few_shot_examples_depend_on_the_seed_alone() -> None:
    plain = first("nano-gsm", Rendering())
    one, again, other = (first("nano-gsm", Rendering(num_fewshot=2, fewshot_seed=seed)) for seed in (1, 1, 2))
    assert one == again != other
    for prompt in (one, other):
        assert prompt.endswith(f"\n\n{plain}")
        assert prompt.count("####") == 2
    questions = {doc["prompt"] for _, doc in load_suite("nano-gsm").docs()}
    shots = [part[: part.index("A:") + 2] for part in one.split("\n\n")[:2]]
    assert not questions & set(shots), "examples come from the validation split"


def test_examples_follow_the_template() -> None:
    prompt = first("nano-gsm", Rendering("framed", num_fewshot=1))
    assert prompt.count("Question:") == prompt.count("Answer:") == 2
    assert "Q:" not in prompt


def test_the_chat_template_wraps_the_prompt_and_examples_become_turns() -> None:
    plain = first("nano-gsm", Rendering())
    chat = chat_of("nano")
    assert (
        first("nano-gsm", Rendering(chat=chat))
        == f"<|im_start|>user\n{plain}<|im_end|>\n<|im_start|>assistant\n"
    )
    shown = first("nano-gsm", Rendering(num_fewshot=2, chat=chat))
    assert shown.count("<|im_start|>user") == 3
    assert shown.count("<|im_start|>assistant") == 3
    whole = first("nano-gsm", Rendering(num_fewshot=2, chat=chat, multiturn=False))
    assert (whole.count("<|im_start|>user"), whole.count("####")) == (1, 2), (
        "examples and question in one turn"
    )
    opened = first("humaneval_instruct", Rendering(chat=chat))
    assert "<|im_start|>assistant\nHere is the completed function:" in opened
    assert not opened.endswith("<|im_start|>assistant\n"), "the answer's given beginning is left open"


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    settings = tmp_path / "base" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": None}))
    with pytest.raises(CheckpointError, match="--apply_chat_template: this checkpoint has no chat template"):
        first("nano-gsm", Rendering(chat=chat_of(str(tmp_path / "base"))))


def test_runs_of_other_prompts_are_other_tables_and_equal_lm_eval(tmp_path: Path) -> None:
    command = ("run", "--method", "ar", "--suite", "nano-gsm", "--limit", 2, "-o", tmp_path / "runs")
    for flags in (
        [],
        ["--apply_chat_template"],
        ["--template", "framed"],
        ["--num_fewshot", 2],
        ["--num_fewshot", 2, "--fewshot_seed", 5],
    ):
        done = bench(*command, *flags)
        assert done.returncode == 0, done.stderr
    runs = {folder: read_run(folder) for folder in find_runs(tmp_path / "runs")}
    assert (
        len(runs)
        == len({run.plan.prompts_hash for run in runs.values()})
        == len({run.comparability_key for run in runs.values()})
        == 5
    )
    assert sorted(str(run.comparability.get("template")) for run in runs.values()) == ["None"] * 4 + [
        "framed"
    ]
    assert sorted(str(run.comparability.get("fewshot_seed")) for run in runs.values()) == [
        "1234",
        "5",
        "None",
        "None",
        "None",
    ]
    chatted = next(folder for folder, run in runs.items() if run.plan.chat_template)
    arguments = [
        "--model",
        "dllm",
        "--model_args",
        "pretrained=nano,method=ar",
        "--tasks",
        "nano-gsm",
        "--limit",
        2,
        "--device",
        "cpu",
    ]
    done = bench(
        "lm-eval",
        "run",
        *arguments,
        "--apply_chat_template",
        "--log_samples",
        "--output_path",
        tmp_path / "lm",
    )
    assert done.returncode == 0, done.stderr
    logged = [
        json.loads(line)
        for path in (tmp_path / "lm").rglob("samples_*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert [line["resps"][0][0] for line in sorted(logged, key=lambda line: line["doc_id"])] == [
        s.text for s in read_samples(chatted)
    ]


def test_no_third_party_prompt_is_stored_and_score_grades_again(tmp_path: Path) -> None:
    done = bench("run", "--method", "ar", "--suite", "humaneval,nano-code", "--limit", 2, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    prompts = [doc["prompt"] for _, doc in load_suite("humaneval").docs(2)]
    for folder in find_runs(tmp_path):
        stored = (folder / "samples.jsonl").read_text()
        for prompt in prompts:
            assert json.dumps(prompt)[1:-1] not in stored
        programs = [sample.program for sample in read_samples(folder)]
        assert all(programs) if "nano-code" in folder.parts else programs == [None, None]
        again = bench("score", folder)
        assert again.returncode == 0, again.stderr
        assert "0 verdicts differ from the stored ones" in again.stdout
