"""Plain ``lm_eval --model dllm``, lm-eval's warnings, and the example of docs/lm-eval.md."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli import stock_lm_eval as script
from harness.lm_eval import command
from harness.lm_eval.tasks import SUITES, quiet

PAGE = Path(__file__).parents[2] / "docs" / "lm-eval.md"


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--model", "dllm", "--tasks", "nano-gsm"], True),
        (["run", "--model=dllm"], True),
        (["-M", "dllm"], True),
        (["--model", "hf", "--tasks", "dllm"], False),
        (["--help"], False),
    ],
)
def test_other_models_are_lm_evals_own(
    arguments: list[str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    monkeypatch.setattr("harness.cli.main", lambda: called.append(list(sys.argv)))
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: called.append(["upstream"]))
    script.main()
    assert called == [["bench", "lm-eval", *arguments] if asked else ["upstream"]]


def test_only_our_suites_stand_for_stock_tasks_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    log, text = logging.getLogger("lm_eval.tasks._index"), "Task '%s' from %s overrides existing task from %s"
    with quiet():
        log.warning(text, "gsm8k", Path(SUITES) / "gsm8k.yaml", "stock.yaml")
        log.warning(text, "gsm8k", "elsewhere.yaml", "stock.yaml")
    log.warning(text, "gsm8k", Path(SUITES) / "gsm8k.yaml", "stock.yaml")
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == [
        "elsewhere.yaml",
        Path(SUITES) / "gsm8k.yaml",
    ]


@pytest.mark.parametrize(
    ("words", "cuda", "device"),
    [
        ([], False, "cpu"),
        ([], True, "cuda:0"),
        (["--device", "cuda:1"], True, "cuda:1"),
        (["--device=cpu"], True, ""),
    ],
)
def test_a_device_is_chosen_where_none_is_named(
    words: list[str], cuda: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parsed(Exception):
        pass

    def parse(_: object) -> None:
        raise Parsed

    monkeypatch.setattr(command.HarnessCLI, "parse_args", parse)
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(Parsed):
        command.run_lm_eval(["run", "--model", "dllm", *words])
    at = [place for place, word in enumerate(sys.argv) if word == "--device"]
    assert [sys.argv[place + 1] for place in at] == ([device] if device else [])


def test_the_example_of_the_page_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(example, str(PAGE), "exec"), names)
    assert names["results"]["config"]["throughput"]["samples"] == 2
    assert all(sample["dllm_bench"]["nfe"] > 0 for sample in names["results"]["samples"]["nano-gsm"])
