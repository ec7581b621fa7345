"""Reference cases of the further decoders through ``bench decode``: setting names, source, frequency file,
queries beside forwards.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GOLDEN
from tests.methods.test_golden_more import MORE, all_cases
from tests.tools.golden_decode import arguments, differences, run_case

NAMES = (
    "semi_ar-dream_tiny-n32-b8-t0.5-p5",
    "pc_sampler-llada_tiny-n48-b16-a10-t2.5-p5",
    "klass-dream_tiny-n48-b16-t0.3-kl6-h1-p5",
    "wino-llada_eos_tiny-n64-b16-wi0.4-no0.6-untileos-block-p70",
    "multi_block_official-dream_eos_tiny-n64-b16-p5-et1-ba0.1-dt0.5-es",
    "prophet_official-llada_tiny-n64-b32-st64-p5-as50-ge2.5",
    "dkv_cache-dream_tiny-prefill-entropy-n32-st16-cs0-p5",
)
FIRST_OF = ("d2cache", "dllm_cache")
CASES = [case for case in all_cases() if case["case"] in NAMES]
CASES += [next(case for case in all_cases() if case["settings"].get("cache") == cache) for cache in FIRST_OF]


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_command_equals_reference(case: dict[str, Any], tmp_path: Path) -> None:
    line = run_case(case, GOLDEN, MORE / "token_freq.json", tmp_path)
    assert differences(case, line) == []


def test_settings_reach_the_command_by_their_names(tmp_path: Path) -> None:
    assert len(CASES) == len(NAMES) + len(FIRST_OF)
    case = next(case for case in CASES if case["method"] == "pc_sampler")
    text = " ".join(arguments(case, GOLDEN, MORE / "token_freq.json", tmp_path))
    assert "--method pc_sampler" in text
    assert "--set source=" in text
    assert f"--set token_freq={MORE / 'token_freq.json'}" in text
    assert json.loads((tmp_path / "prompts.jsonl").read_text()) == {"prompt": case["prompt"]}
