"""The teacher's answers: stored with their order, resumed line by line, refused where they would leak; dry
runs of the 7B presets.
"""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from typer.testing import CliRunner

from harness.cli import app
from harness.model.adapter import Adapter
from harness.model.load import load_transformer
from harness.model.spec import ModelSpec
from methods.training import export, nano, options
from methods.training.data import answers
from methods.training.data import sources as data
from methods.training.data.overlap import OverlapError
from methods.training.students import d3llm, estimate, student
from methods.training.students.trainers import TRAINERS
from suites.generators import frozen
from tests.commands import started
from tests.helpers import wait_until

DISTILLERS = ("d2f", "sdtt", "dcd", "cfd", "d3llm", "dimo")
TINY = ModelSpec("qwen2", 1024, 32, 64, 2, 2, 1, 16, qkv_bias=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in Dream's layout with two layers and nano's tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    export.save_model(
        folder,
        nano.new_model(TINY, 0),
        Tokenizer.from_file("methods/models/nano/tokenizer.json"),
        diffusion=True,
    )
    return folder


@pytest.fixture(scope="module")
def answered(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answers.generate_answers(asked(base, tmp_path_factory.mktemp("answers") / "a.jsonl"))


def asked(base: Path, output: Path) -> answers.AnswerOptions:
    return answers.AnswerOptions(
        output, str(base), settings={"max_new_tokens": 16, "tokens_per_step": 2}, count=7, batch_size=3
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_carry_ids_order_and_card(answered: Path) -> None:
    rows, card = rows_of(answered), json.loads(answers.card_path(answered).read_text())
    assert [row["index"] for row in rows] == list(range(7))
    for row in rows:
        assert len(row["output_ids"]) == len(row["step_map"]) <= 16
        assert row["nfe"] == 8 or 0 in row["output_ids"]
        assert row["correct"] is False
    assert card["sha256"] == answers.file_hash(answered)
    assert (card["rows"], card["checked"], card["settings"]["tokens_per_step"], card["method"]) == (
        7,
        7,
        2,
        "vanilla",
    )
    assert card["tokens"] == sum(len(row["output_ids"]) for row in rows)


def test_missing_lines_alone_are_made_again(base: Path, answered: Path, tmp_path: Path) -> None:
    cut = asked(base, tmp_path / "a.jsonl")
    whole = answered.read_bytes()
    made = {
        key: value
        for key, value in json.loads(answers.card_path(answered).read_text()).items()
        if key != "sha256"
    }
    answers.card_path(cut.output).write_text(json.dumps(made))
    lines = whole.splitlines(keepends=True)
    cut.output.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    answers.generate_answers(cut)
    assert cut.output.read_bytes() == whole
    before = cut.output.stat().st_mtime_ns
    answers.generate_answers(cut)
    assert cut.output.read_bytes() == whole
    assert cut.output.stat().st_mtime_ns >= before
    with pytest.raises(answers.AnswerError, match="another settings"):
        answers.generate_answers(replace(cut, settings={"max_new_tokens": 16}))


def test_a_killed_generation_ends_at_the_same_bytes(base: Path, answered: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    flags = ["--set", "max_new_tokens=16", "--set", "tokens_per_step=2", "--count", "7", "--batch-size", "3"]
    process = started("generate-data", "--model", base, "--output", path, *flags)
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") > 0, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    answers.generate_answers(asked(base, path))
    assert path.read_bytes() == answered.read_bytes()


def test_test_problems_and_unreadable_prompts_are_refused(base: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    wanted = replace(asked(base, tmp_path / "b.jsonl"), prompts=prompts)
    item = frozen.load("code", "test")[3]
    prompts.write_text(
        json.dumps({"prompt": "Q: 1+1\nA:"}) + "\n" + json.dumps({"prompt": item["prompt"]}) + "\n"
    )
    with pytest.raises(OverlapError, match=r"1 of 2 problems .* first problem 2 = nano-code document 3"):
        answers.generate_answers(wanted)
    prompts.write_text('{"question": "?"}\n')
    with pytest.raises(answers.AnswerError, match="line 1"):
        answers.generate_answers(wanted)
    prompts.write_text(json.dumps({"prompt_ids": [1, 30, 31], "response": "x"}) + "\n")
    assert rows_of(answers.generate_answers(wanted))[0]["prompt_ids"] == [1, 30, 31]


def test_a_generator_that_leaks_a_frozen_problem_is_stopped(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = frozen.load("gsm", "validation")[5]
    monkeypatch.setattr(
        answers, "items", lambda *_: iter([("Q: 1+1\nA:", " 2"), (leaked["prompt"], leaked["response"])])
    )
    with pytest.raises(answers.AnswerError, match=f"generated prompt 2 is {leaked['id']} of a frozen set"):
        answers.generate_answers(asked(base, tmp_path / "b.jsonl"))


def test_answers_agree_by_number_or_text() -> None:
    assert answers.matches(" 1+2=3\n#### 3", " 2+1=3\n#### 3")
    assert not answers.matches(" 1+2=4\n#### 4", " 1+2=3\n#### 3")
    assert answers.matches("    return x\n", "    return x")


def test_rows_to_learn_from(base: Path, tmp_path: Path) -> None:
    path, spec = tmp_path / "rows.jsonl", load_transformer(base, torch.float32, torch.device("cpu")).spec
    chosen = options.StudentOptions(tmp_path, tmp_path, str(base))
    right = {"prompt_ids": [1, 5], "output_ids": [7, 8, 9, 0], "step_map": [2, 0, 2, 1], "correct": True}
    text = {"prompt": "Q: 1+1\nA:", "response": " 1+1=2"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (right, {**right, "correct": False}, text)))
    found = data.read_answers(path, base, spec, chosen)
    assert (len(found.pool), found.facts["left_out"]) == (2, 1)
    assert found.orders[:6].tolist() == [-1, -1, 2, 0, 3, 1]
    assert found.pool.row(1)[0][-1] == spec.eos_ids[0]
    assert (found.orders[6:] == -1).all()
    for wrong in ('{"prompt_ids": [1]}\n', "not json\n"):
        path.write_text(json.dumps(right) + "\n" + wrong)
        with pytest.raises(options.TrainingError, match="line 2"):
            data.read_answers(path, base, spec, chosen)
    path.write_text("")
    with pytest.raises(options.TrainingError, match="no answers"):
        data.read_answers(path, base, spec, chosen)


def test_trajectory_student_needs_the_order(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Q: 1+1\nA:", "response": " 1+1=2"}) + "\n")
    places = {"output": tmp_path / "o", "work": tmp_path / "w", "model": str(base), "data": path}
    with pytest.raises(options.TrainingError, match="step_map"):
        TRAINERS["d3llm"].train(options.preset(d3llm.D3LLMOptions, "d3llm", "smoke", places))


def test_trajectory_windows_follow_each_row(base: Path, answered: Path, tmp_path: Path) -> None:
    places = {"output": tmp_path / "o", "work": tmp_path / "w", "model": str(base), "data": answered}
    made = student.Student(options.preset(d3llm.D3LLMOptions, "d3llm", "smoke", places), "d3llm")
    rows = made.rows(0)
    orders = d3llm.orders_of(made, rows)
    assert torch.equal(orders >= 0, rows.region)
    stored = rows_of(answered)
    for row, place in enumerate(rows.places):
        prompt, size = int(rows.prompts[row]), int(rows.region[row].sum())
        assert sorted(orders[row, prompt : prompt + size].tolist()) == list(range(size))
        steps, inside = stored[place]["step_map"][:size], orders[row, prompt:].tolist()
        assert all(
            inside[i] < inside[j] for i in range(len(steps)) for j in range(len(steps)) if steps[i] < steps[j]
        )


@pytest.mark.parametrize("method", DISTILLERS)
def test_7b_presets_run_dry_on_two_layers_of_dreams_layout(
    method: str, base: Path, answered: Path, tmp_path: Path
) -> None:
    places = [
        "--model",
        str(base),
        "--data",
        str(answered),
        "--output",
        str(tmp_path / "out"),
        "--work",
        str(tmp_path / "work"),
    ]
    small = [
        "--set",
        "tokens=700",
        "--set",
        "accumulate=2",
        "--set",
        "keep=all",
        "--set",
        "canvas=32",
        "--steps",
        "1",
    ]
    result = CliRunner().invoke(app, ["train", method, "--preset", "dream7b", *places, *small])
    assert result.exit_code == 0, result.output
    assert f"{method}: dream model of 2 layers" in result.output
    assert result.output.index("memory, estimated") < result.output.index(f"{method}: 1/")
    model = load_transformer(base, torch.float32, torch.device("cpu"))
    Adapter(tmp_path / "out").merge(model)
    if method == "cfd":
        flags = [
            "--method",
            "fast_dllm:threshold=0.5,block_length=8",
            "--suite",
            "nano-gsm",
            "--limit",
            "1",
            "-o",
            str(tmp_path / "runs"),
        ]
        ran = CliRunner().invoke(
            app, ["run", "--model", str(base), "--adapter", str(tmp_path / "out"), *flags]
        )
        assert ran.exit_code == 0, ran.output


def test_memory_estimate_agrees_with_what_a_backward_pass_keeps(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "".join(
            json.dumps({"prompt": f"Q: {i}+{i}\nA:", "response": f" {i}+{i}={2 * i}"}) + "\n"
            for i in range(40)
        )
    )
    places = {"output": tmp_path / "o", "work": tmp_path / "w", "model": "nano", "data": texts}
    made = student.Student(
        options.preset(TRAINERS["cfd"].options, "cfd", "nano", {**places, "rank": 8, "muon_lr": 0.0}), "cfd"
    )
    made.model.matmul_attention = False
    rows, kept = made.rows(0), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in made.model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (
            tensor.dim() > 2 or tensor.shape[0] >= rows.ids.numel()
        ):  # weights cast to bfloat16 belong to the base
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), made.accelerator.autocast():
        made.model.hidden(rows.ids, mask=rows.visible)
    measured = sum(size for place, size in kept.items() if place not in weights)
    run = replace(estimate.run_of(made), cpu=False)  # the fused attention keeps no scores
    need = estimate.memory(run)
    assert measured == pytest.approx(need.activations * rows.ids.numel() / made.options.tokens, rel=0.1)
    assert need.copies == 0
    need = estimate.memory(replace(run, cpu=True))
    assert need.base == sum(p.numel() * 4 for p in made.model.parameters() if not p.requires_grad)
    assert need.trained == 24 * sum(p.numel() for p in made.rounds.student)


def test_7b_without_data_says_what_is_missing(tmp_path: Path) -> None:
    places = {"output": tmp_path, "work": tmp_path, "model": "tests/golden/dream_tiny"}
    with pytest.raises(options.TrainingError, match="--data FILE"):
        TRAINERS["cfd"].train(options.preset(TRAINERS["cfd"].options, "cfd", "dream7b", places))
