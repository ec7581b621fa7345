"""Training on canvases of reasoning and answer: rows as the suites lay them out, noise of every kind,
students that run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from harness.decoding.canvas import Canvas
from harness.model.spec import ModelSpec
from methods.training import export, nano
from methods.training.data import block_rows, corpus
from methods.training.loop.loop import generator_for
from methods.training.options import TrainingError, preset
from methods.training.students.lockstep import LockstepOptions, corrupt
from methods.training.students.student import Rows, Student
from methods.training.students.trainers import TRAINERS
from suites.generators import frozen, split_of

TINY = ModelSpec("qwen2", 768, 32, 64, 2, 2, 1, 16, qkv_bias=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "nano"
    tokenizer = corpus.train_tokenizer(3, count=2000, vocab=768)
    export.save_model(folder, nano.new_model(TINY, 2), tokenizer, diffusion=True)
    return folder


def options(name: str, base: Path, folder: Path, **given: Any) -> Any:
    places = {"model": str(base), "output": folder / "out", "work": folder / "work", "blocks": True}
    return preset(TRAINERS[name].options, name, "smoke", {**places, **given})


@pytest.fixture(scope="module")
def student(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Student[LockstepOptions]:
    return Student(
        options("lockstep", base, tmp_path_factory.mktemp("rows"), tokens=2048, pool_items=300), "lockstep"
    )


def batches(student: Student[LockstepOptions], count: int = 12) -> list[Rows]:
    return [student.rows(batch) for batch in range(count)]


def test_rows_are_two_texts_padded_to_the_suites_blocks(student: Student[LockstepOptions]) -> None:
    eos = student.model.spec.eos_ids[0]
    seen = set()
    for rows in batches(student):
        for ids, prompt, end in zip(
            rows.ids.tolist(), rows.prompts.tolist(), rows.ends.tolist(), strict=True
        ):
            suite, (r, a) = next(
                entry for entry in block_rows.suite_blocks().items() if sum(entry[1]) == end - prompt
            )
            seen.add(suite)
            for start, stop in ((prompt, prompt + r), (prompt + r, prompt + r + a)):
                text = ids[start:stop]
                first = text.index(eos)
                assert first > 0
                assert set(text[first:]) == {eos}
    assert seen == {"gsm", "code"}


def test_rows_read_as_a_canvas_of_the_suite(student: Student[LockstepOptions], base: Path) -> None:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    pool, drawn = student.data.pool, list(block_rows.items(student.options.seed + 1, 20, 0.6))
    for index, (suite, prompt, r, a) in enumerate(drawn):
        ids, length = pool.row(index)
        blocks = block_rows.suite_blocks()[suite]
        page = Canvas(
            [ids[:length].tolist()], sum(blocks), vocab_size=768, mask_id=2, eos_ids=[0], blocks=blocks
        )
        page.meter.record(0, (1, 0, 0), 1)
        row = page.rows[0]
        row.commit(range(length, len(ids)), ids[length:].tolist())
        assert tokenizer.decode(ids[:length].tolist()) == prompt
        assert [tokenizer.decode(ids[start:stop].tolist()) for start, stop in row.finals] == [r, a]


def test_training_problems_are_training_problems() -> None:
    drawn = list(block_rows.items(0, 200, 0.5))
    assert drawn == list(block_rows.items(0, 200, 0.5))
    for suite, _, r, a in drawn:
        if suite == "code":
            assert r.startswith("    # ")
            assert "#" not in a
        else:
            last = r.splitlines()[-1].split("=")[1]
            assert a == f"\n#### {last}"
    held_out = {row["prompt"] for suite in ("gsm", "code") for row in frozen.load(suite, "test")}
    assert not held_out & {prompt for _, prompt, _, _ in drawn}
    assert split_of("gsm:4-2;2*7") in ("train", "test", "validation")


def levels(student: Student[LockstepOptions], **shares: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mask rates of R and of A per row, over many batches."""
    found = []
    chosen = LockstepOptions(Path(), Path(), **shares)
    for batch, rows in enumerate(batches(student, 40)):
        noisy = corrupt(rows, generator_for(0, batch), student.mask_id, student.model.spec.eos_ids[0], chosen)
        assert torch.equal(noisy.ids == student.mask_id, noisy.masked)
        assert torch.equal(noisy.ids[~noisy.masked], rows.ids[~noisy.masked])
        assert not (noisy.masked & ~rows.region).any()
        assert noisy.masked.any(1).all()
        seam = rows.prompts + torch.from_numpy(block_rows.seams((rows.ends - rows.prompts).numpy()))
        for row in range(len(rows.ids)):
            masked = noisy.masked[row].float()
            prompt, border, end = (int(value[row]) for value in (rows.prompts, seam, rows.ends))
            found.append((float(masked[prompt:border].mean()), float(masked[border:end].mean())))
    r, a = np.array(found).T
    return r, a


def test_blocks_have_levels_of_their_own(student: Student[LockstepOptions]) -> None:
    r, a = levels(student, block_wise=0.0, prefix=0.0, waiting=0.0)
    assert abs(float(np.corrcoef(r, a)[0, 1])) < 0.1
    assert r.std() > 0.15
    assert a.std() > 0.15


def test_answers_wait_while_reasoning_is_half_written(student: Student[LockstepOptions]) -> None:
    r, a = levels(student, block_wise=0.0, prefix=1.0, waiting=0.5)
    assert 0.4 < float((a == 1).mean()) < 0.65
    assert float(((a == 1) & (r < 0.5)).mean()) > 0.1


def test_block_wise_noise_is_clean_before_and_masked_behind(student: Student[LockstepOptions]) -> None:
    r, a = levels(student, block_wise=1.0)
    assert ((r < 0.05) | (a == 1)).all()  # a row without any mask gets one at the start of R
    assert (r == 0).any()


@pytest.mark.parametrize("name", ["lockstep", "d2f", "sdtt", "dcd", "cfd", "dimo"])
def test_every_student_trains_on_blocks(name: str, base: Path, tmp_path: Path) -> None:
    chosen = options(name, base, tmp_path, validation_items=2)
    folder = TRAINERS[name].train(chosen)
    assert (folder / "adapter_model.safetensors").exists()
    card = (folder / "README.md").read_text()
    assert ("| d2f |" if name == "d2f" else "| lockstep-gs |") in card


def test_blocks_exclude_files_of_answers(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--set blocks=false"):
        Student(options("sdtt", base, tmp_path, data=tmp_path / "answers.jsonl"), "sdtt")
