"""Log-likelihood requests: the head runs on target positions only, requests share batches, settings that do
nothing are refused.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.lm_eval import likelihood
from harness.lm_eval.model import DiffusionLM, LmEvalError
from tests.conftest import GOLDEN
from tests.helpers import backbone

PAIRS = [([5, 6, 7, 8, 9, 10, 11], [9, 20]), ([5], [9, 20, 21, 22]), ([5, 6, 7], [30])]


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions that the head multiplied, call by call."""
    seen: list[int] = []
    for name in ("dream_tiny", "llada_tiny"):
        model = backbone(name)._model
        real = model.head

        def head(hidden: torch.Tensor, real: Any = real) -> torch.Tensor:
            seen.append(hidden.shape[:-1].numel())
            return real(hidden)

        monkeypatch.setattr(model, "head", head)
    return seen


@pytest.mark.parametrize("name", ["dream_tiny", "llada_tiny"])
def test_the_head_sees_target_positions_only(name: str, heads: list[int]) -> None:
    likelihood.masked(backbone(name), list(range(100)), [9, 20], draws=8, batch=4, seed=0)
    assert sum(heads) <= 8 * 2
    heads.clear()
    likelihood.causal(backbone(name), list(range(100)), [9, 20])
    assert sum(heads) == 2


@pytest.mark.parametrize("name", ["dream_tiny", "llada_tiny"])
def test_batched_requests_give_what_single_ones_give(name: str) -> None:
    model = backbone(name)
    alone = [likelihood.causal(model, *pair) for pair in PAIRS]
    for one, other in zip(alone, likelihood.causal_batch(model, PAIRS, 3), strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-4)
    drawn = [likelihood.masked(model, *pair, draws=6, batch=2, seed=3) for pair in PAIRS]
    for one, other in zip(
        drawn, likelihood.masked_batch(model, PAIRS, draws=6, batch=16, seed=3), strict=True
    ):
        assert one[0] == pytest.approx(other[0], abs=1e-4)


def requests() -> list[Any]:
    return [(("", ""), prefix, target) for prefix, target in PAIRS]


def test_requests_share_forward_passes() -> None:
    model = DiffusionLM(str(GOLDEN / "llada_tiny"), "vanilla", mc_num=4, mc_batch_size=12, dtype="float32")
    with model.generator.loaded.backbone.watch() as seen:
        found = model._loglikelihood_tokens(requests(), disable_tqdm=True)
    assert (seen.calls, len(found)) == (1, 3)


def test_decoder_settings_are_refused_with_the_reason() -> None:
    model = DiffusionLM(str(GOLDEN / "llada_tiny"), "fast_dllm", threshold=0.5, mc_num=2)
    with pytest.raises(LmEvalError, match=r"threshold.*no decoder runs"):
        model._loglikelihood_tokens(requests(), disable_tqdm=True)
