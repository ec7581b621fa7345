"""Every checkpoint's prompts are written and cut into ids by its own tokenizer and chat template, also within
one run.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.cells import Asked, Prompting, plan_cells
from harness.engine.opening import Weights
from harness.model import catalog
from harness.model.catalog import Entry
from harness.runs.cell import Options
from harness.runs.turns import run_cells
from tests.tokenizers_tiny import with_tokenizer

TEMPLATE = (
    "{% for m in messages %}OPEN{{ m.content }}CLOSE{% endfor %}{% if add_generation_prompt "
    "%}REPLY{% "
    "endif %}"
)


def checkpoint(folder: Path, base: str, mark: str) -> Path:
    """A tiny model with a template of its own and, for the first of its words, another id than the other
    model has.
    """
    made = with_tokenizer(
        folder,
        {190: "<|endoftext|>"},
        base,
        chat_template=TEMPLATE.replace("OPEN", mark),
        eos_token="<|endoftext|>",
    )
    tokenizer = json.loads((made / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words[mark] = words.pop(chr(0x100 + (60 if mark == "A" else 61)))
    (made / "tokenizer.json").write_text(json.dumps(tokenizer))
    return made


def test_two_templates_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusion, causal = (
        checkpoint(tmp_path / name, base, mark)
        for name, base, mark in (("d", "dream_tiny", "A"), ("c", "qwen3_tiny", "B"))
    )
    entries = {
        "own": Entry(path=str(diffusion), companions={"causal_lm": "parent"}),
        "parent": Entry(path=str(causal)),
    }
    monkeypatch.setattr(catalog, "catalog", lambda: entries)
    asked = Asked(
        ["vanilla", "ar"], ["nano-gsm"], ["max_new_tokens=4"], Weights("own"), prompting=Prompting(chat=True)
    )
    cells = list(plan_cells(asked, Options(tmp_path / "runs", limit=2), lambda _: None))
    run_cells(cells, None, lambda *_: None)
    for cell, mark, token, name in zip(cells, "AB", (60, 61), ("own", "parent"), strict=True):
        prompt = cell.items[0].prompt
        assert prompt.startswith(mark)
        assert prompt.endswith("CLOSEREPLY")
        assert cell.generator.prompt_ids(prompt)[0] == token
        run = cell.folder.run
        assert run.status == "complete"
        told = run.prompting or {}
        assert (told["checkpoint"], told["fewshot_as_multiturn"]) == (name, True)
        assert told["tokenizer_hash"] == cell.generator.loaded.tokenizer_hash
        cell.folder.close()
    first, second = (cell.folder.run for cell in cells)
    assert (first.prompting or {})["chat_template"] != (second.prompting or {})["chat_template"]
    assert first.plan.prompts_hash != second.plan.prompts_hash
    assert first.comparability_key != second.comparability_key, "other prompts, other table"


def test_without_a_template_the_prompts_are_shared(tmp_path: Path) -> None:
    cells = list(
        plan_cells(
            Asked(["vanilla", "ar"], ["nano-gsm"], [], Weights("nano")),
            Options(tmp_path, limit=1),
            lambda _: None,
        )
    )
    assert cells[0].items is cells[1].items
    assert {(cell.folder.run.prompting or {})["chat_template"] for cell in cells} == {None}
    for cell in cells:
        cell.folder.close()
