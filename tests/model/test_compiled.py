"""Compiled layers: the eager ones' tokens, every forward pass still counted, and a clear refusal. Traced
without a compiler; ``python -m tests.tools.compiled`` compiles in earnest.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.decoding.backbone import Backbone
from harness.decoding.registry import load_method
from harness.decoding.settings import build_config
from harness.measuring.clock import decode
from harness.model import compiled
from harness.model.compiled import CompileError, check_compiler, compile_layers
from harness.model.load import load_transformer
from tests.conftest import GOLDEN
from tests.helpers import CPU, golden_cases

ADAPTED = [case for case in golden_cases() if case["adapter"] is None and case["model"] == "dream_tiny"]
CASES = [next(case for case in ADAPTED if case["method"] == method) for method in ("vanilla", "fast_dllm")]


@pytest.fixture(scope="module")
def traced() -> Backbone:
    model = load_transformer(GOLDEN / "dream_tiny", torch.float32, CPU)
    compile_layers(model, CPU, backend="eager")
    return Backbone(model, CPU, torch.float32)


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_compiled_layers_give_the_references_tokens_and_count_every_pass(
    case: dict[str, Any], traced: Backbone
) -> None:
    method = load_method(case["method"]).decoder
    fields = method.Config.__dataclass_fields__
    settings = {
        key: value for key, value in case["settings"].items() if key in fields or value not in (None, "none")
    }
    config = build_config(method.name, method.Config, settings)
    (row,) = decode(traced, method, config, [case["prompt"]], config.max_new_tokens, stop_rule="reference")
    assert (row.output, row.nfe) == (case["output"], case["nfe"])
    assert [list(entry) for entry in row.forwards] == case["forwards"]
    assert row.audit_passed, row.checks


def test_training_passes_compiled_layers_by(traced: Backbone) -> None:
    model: Any = traced._model
    weight = model.model.layers[-1].self_attn.q_proj.weight.requires_grad_()
    try:
        model(torch.arange(6).unsqueeze(0)).sum().backward()
        assert weight.grad is not None
    finally:
        weight.requires_grad_(False).grad = None


def test_without_a_compiler_the_flag_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(CompileError, match=r"--compile needs a C\+\+ compiler.*leave --compile out"):
        check_compiler(CPU)
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompileError, match="Triton"):
        check_compiler(torch.device("cuda"))
