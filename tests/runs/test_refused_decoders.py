"""Settings that a decoder, a cache or a suite cannot take: one clear error that names what to change, before
any folder is made.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.test_refusals import refused

REFUSED = {
    "a rule with a cache it cannot use": ("adablock:cache=d2cache", "cache=d2cache feeds no whole block"),
    "a schedule with a cache": (
        "pc_sampler:source=official,cache=dual",
        "source=official has no cache: set cache=none",
    ),
    "a setting of another cache": ("klass:cache=dual,keep_ratio=0.3", "keep_ratio belongs to cache=sparse"),
    "an even kernel": ("semi_ar:cache=sparse,kernel_size=2", "kernel_size 2 must be odd"),
    "a cache there is not": ("semi_ar:cache=paged", "--set cache=paged"),
    "a block longer than the canvas": (
        "wino:block_length=64",
        "block_length 64 must divide max_new_tokens 48",
    ),
    "streaming with such a block": ("streaming_dllm:block_length=64", "block_length 64 must divide"),
    "a frequency file there is not": ("pc_sampler:token_freq=/nowhere/freq.json", "/nowhere/freq.json"),
    "a negative decay": ("pc_sampler:lambda=-1", "--set lambda=-1"),
    "a prior without width": ("certainty_prior:sigma=0", "--set sigma=0"),
    "two ways of accepting": (
        "certainty_prior:threshold=0.9,factor=1",
        "threshold and factor exclude each other",
    ),
    "delimiters that are no ids": ("adablock:delimiters=a+b", "--set delimiters=a+b"),
    "a variant of another family": (
        "dkv_cache:variant=greedy",
        "variant=greedy is defined for models that predict in place",
    ),
    "an order that is too short": (
        "prophet:answer_start=48",
        "set answer_start to a place inside the 48 new tokens",
    ),
    "a refresh without a store": ("multi_block:refresh_interval=3", "set cache_delay_iter"),
    "speculation on samples": ("freedave:temperature=0.7", "set temperature=0"),
    "tuned settings there are not": ("klass:preset=gsm9k", "no preset=gsm9k: it has llada_gsm8k"),
    "tuned settings of a method without": ("vanilla:preset=gsm8k", "method vanilla has no preset=gsm8k"),
    "lockstep with a cache policy": ("lockstep:cache=dual", "method lockstep has no setting 'cache'"),
    "lockstep with a rule": ("lockstep:rule=klass", "method lockstep has no setting 'rule'"),
}


@pytest.mark.parametrize("method", REFUSED)
def test_refused_by_name(method: str, tmp_path: Path) -> None:
    wish, text = REFUSED[method]
    assert text in refused(
        "run", "--method", wish, "--suite", "nano-gsm", "--limit", 1, "-o", tmp_path / "runs"
    )
    assert not (tmp_path / "runs").exists()


def test_prophet_on_a_code_suite(tmp_path: Path) -> None:
    text = refused(
        "run", "--method", "prophet", "--suite", "nano-gsm,nano-code", "--limit", 1, "-o", tmp_path / "runs"
    )
    assert (
        "prophet watches the position of a short answer, and nano-code asks for code: change --method or "
        "--suite" in text
    )
    assert not (tmp_path / "runs").exists()


def test_a_model_without_tokenizer_names_no_line_breaks(tmp_path: Path, golden: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": [5]}\n')
    files = ["--prompts", tmp_path / "prompts.jsonl", "--output", tmp_path / "out.jsonl"]
    assert "set delimiters to their ids" in refused(
        "decode", "--model", golden / "dream_tiny", "--method", "adablock", *files
    )
    text = refused(
        "decode", "--model", golden / "sdar_tiny", "--method", "semi_ar", "--set", "cache=sparse", *files
    )
    assert "this model attends by blocks" in text
    assert not (tmp_path / "out.jsonl").exists()
