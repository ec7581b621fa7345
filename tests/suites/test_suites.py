"""Suites: prompts equal the stock tasks', and missing data is an error that helps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.sandbox import JailError, launch
from suites.sources import SuiteDataError
from suites.suite import SuiteError, list_suites, load_suite

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "stock_prompts.json").read_text())["tasks"]
EMBEDDED = (
    "humaneval",
    "humaneval_instruct",
    "nano-gsm",
    "nano-code",
    "nano-long-gsm",
    "nano-long-code",
    "parallel",
    "parallel-copy",
)
STOCK = [name for name in list_suites() if name in GOLDEN]
DATA = os.environ.get("BENCH_DATA")
needs_jail = pytest.mark.skipif(launch.probe()[0] == "none", reason="nothing isolates here")
needs_data = pytest.mark.skipif(
    DATA is None, reason="BENCH_DATA is not set: the data of this suite is not in the repository"
)


def test_every_asked_for_suite_exists() -> None:
    subjects = (
        "algebra",
        "counting_and_prob",
        "geometry",
        "intermediate_algebra",
        "num_theory",
        "prealgebra",
        "precalc",
    )
    wanted = {
        "gsm8k",
        "gsm8k_cot",
        "mbpp",
        "mbpp_instruct",
        "mbpp_plus",
        "humaneval",
        "humaneval_instruct",
        "humaneval_plus",
    }
    wanted |= {"minerva_math", "minerva_math500", "nano-gsm", "nano-code"} | {
        f"minerva_math_{subject}" for subject in subjects
    }
    assert wanted <= set(list_suites())


def test_unknown_suite_suggests() -> None:
    with pytest.raises(SuiteError, match="humaneval"):
        load_suite("humanevl")


@pytest.mark.parametrize("name", STOCK)
def test_frozen_prompts_are_the_stock_tasks(name: str) -> None:
    suite, golden = load_suite(name), GOLDEN[name]
    assert suite.frozen["docs"] == golden["docs"]
    assert suite.frozen["prompts_sha256"] == golden["sha256_of_prompt_sha256s_in_doc_order"]
    assert suite.stop == golden["until"]
    settings = suite.config["generation_kwargs"]
    assert {key: settings[key] for key in golden["gen_kwargs"]} == golden["gen_kwargs"]
    assert set(settings) == set(golden["gen_kwargs"])


@pytest.mark.parametrize("name", [name for name in list_suites() if name in EMBEDDED])
def test_rendered_prompts_are_the_frozen_ones(name: str) -> None:
    suite = load_suite(name)
    assert suite.fingerprint() == suite.frozen


@needs_data
@pytest.mark.parametrize(
    "name", ["mbpp", "mbpp_instruct", "mbpp_plus", "humaneval_plus", "gsm8k", "minerva_math500"]
)
def test_rendered_prompts_of_data_suites_are_the_frozen_ones(name: str) -> None:
    suite = load_suite(name, DATA)
    assert suite.fingerprint() == suite.frozen


def test_changed_prompt_changes_the_fingerprint() -> None:
    suite = load_suite("nano-gsm")
    suite.task.config.doc_to_text = "Please answer. {{prompt}}"
    assert suite.fingerprint()["prompts_sha256"] != suite.frozen["prompts_sha256"]


def test_nano_prompts_are_rendered_as_they_are() -> None:
    for name in ("nano-gsm", "nano-code"):
        suite = load_suite(name)
        assert all(suite.prompt(doc) == doc["prompt"] for _, doc in suite.docs(limit=20))
        assert suite.stop == []
        assert suite.canvas == 48


def test_limit_takes_the_first_documents() -> None:
    assert [doc_id for doc_id, _ in load_suite("humaneval").docs(limit=3)] == [0, 1, 2]


def test_without_data_the_error_comes_at_once_and_names_the_ways(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BENCH_DATA", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "https://198.51.100.1")
    suite = load_suite("gsm8k")  # imports lm-eval
    begin = time.monotonic()
    with pytest.raises(SuiteDataError) as caught:
        suite.docs()
    assert time.monotonic() - begin < 2 + 2
    assert "--data-dir" in str(caught.value)
    assert "BENCH_DATA" in str(caught.value)
    assert "hub" in str(caught.value)


def test_wrong_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SuiteDataError, match="lacks gsm8k"):
        load_suite("gsm8k", str(tmp_path)).docs()
    with pytest.raises(SuiteDataError, match="does not exist"):
        load_suite("gsm8k", str(tmp_path / "nowhere")).docs()


def test_stock_metric_package_is_never_imported() -> None:
    code = (
        "import sys; from suites.suite import load_suite; load_suite('humaneval').docs(); assert "
        "'evaluate' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_programs_are_refused_where_nothing_isolates(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.sandbox import shared

    shared.close_shared()
    monkeypatch.setattr(launch, "probe", lambda: ("none", {"bubblewrap": "not installed"}))
    monkeypatch.delenv("BENCH_ALLOW_UNSAFE_CODE", raising=False)
    suite = load_suite("nano-code")
    doc = suite.docs(limit=1)[0][1]
    with pytest.raises(JailError, match="--allow-unsafe-code"):
        suite.grade(doc, doc["response"])
    monkeypatch.setenv("BENCH_ALLOW_UNSAFE_CODE", "1")
    assert suite.grade(doc, doc["response"]).correct
    shared.close_shared()


@needs_data
def test_group_is_its_members_one_after_the_other() -> None:
    group = load_suite("minerva_math", DATA)
    assert len(group.docs()) == 5000
    assert [doc_id for doc_id, _ in group.docs(limit=2)][:4] == [0, 1, 1187, 1188]
    assert all(doc == group.docs()[doc_id][1] for doc_id, doc in group.docs(limit=2))
    _, doc = group.docs()[-1]
    assert doc["solution"]
    assert group.prompt(group.docs()[0][1]) == load_suite("minerva_math_algebra", DATA).prompt(
        group.docs()[0][1]
    )
