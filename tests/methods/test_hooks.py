"""Dream's hooks on every decoder without cache, and lockstep as a pair of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.decoding.settings import SettingError, build_config
from methods import fast_dllm, fewstep, lockstep, vanilla
from methods.base import RowDecoder
from methods.hooks import HookedDecoder
from methods.lockstep_hooks import LockstepHooks
from tests.helpers import backbone, canvas

PROMPTS = [[5, 6, 7], list(range(20, 43)), [9], [40] * 11]
NEW = 24

DECODERS: list[tuple[type[HookedDecoder], dict[str, Any]]] = [
    (vanilla.Vanilla, {"steps": 12}),
    (fast_dllm.FastDLLM, {"cache": "none", "block_length": 8}),
    (fast_dllm.FastDLLM, {"cache": "none", "block_length": None, "steps": 6}),
    (fewstep.FewStep, {"steps": 6}),
    (lockstep.Lockstep, {"steps": 6}),
    (lockstep.Lockstep, {"steps": 6, "mode": "gauss_seidel"}),
]
every_decoder = pytest.mark.parametrize(
    ("kind", "settings"), DECODERS, ids=lambda value: getattr(value, "name", None)
)


def output(
    decoder: RowDecoder, settings: dict[str, Any], prompt: list[int], name: str = "dream_tiny"
) -> tuple[list[int], int]:
    model = backbone(name)
    page = canvas(model, [prompt], NEW)
    decoder.decode(model, page, build_config(decoder.name, decoder.Config, settings))
    return page.rows[0].output, page.rows[0].nfe


@every_decoder
def test_hooks_that_change_nothing(kind: type[HookedDecoder], settings: dict[str, Any]) -> None:
    steps: list[int | None] = []

    def tokens_hook(step: int | None, x: Tensor, logits: Tensor | None) -> Tensor:
        steps.append(step)
        assert (step is None) == (logits is None)
        assert x.shape[1] == 3 + NEW
        return x

    plain, nfe = output(kind(), settings, PROMPTS[0])
    assert output(kind(lambda step, x, logits: logits, tokens_hook), settings, PROMPTS[0]) == (plain, nfe)
    assert steps == [None, *range(nfe)]


@every_decoder
def test_banned_token_is_not_written(kind: type[HookedDecoder], settings: dict[str, Any]) -> None:
    banned = output(kind(), settings, PROMPTS[0])[0][0]

    def ban(step: int, x: Tensor, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([banned]), -torch.inf)

    assert banned not in output(kind(ban), settings, PROMPTS[0])[0]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [DECODERS[k] for k in (0, 1, 3, 4, 5)],
    ids=lambda value: getattr(value, "name", None),
)
def test_tokens_hook_may_mask_again_and_rewrite(kind: type[HookedDecoder], settings: dict[str, Any]) -> None:
    """At step 0 everything that was just written is taken back; position 5 is rewritten at every step.

    Not for Fast-dLLM's decoder without blocks: its budget counts tokens written, whatever becomes of them.
    """
    fill = canvas(backbone("dream_tiny"), [PROMPTS[0]], NEW).rules.fill_id

    def hook(step: int | None, x: Tensor, logits: Tensor | None) -> Tensor:
        if step == 0:
            x[0, 3:] = fill
        if step is not None:
            x[0, 5] = 42
        return x

    ids, nfe = output(kind(tokens_hook=hook), settings, PROMPTS[0])
    assert ids[2] == 42
    assert fill not in ids
    assert nfe >= output(kind(), settings, PROMPTS[0])[1] - 1


def through(settings: dict[str, Any], prompt: list[int], name: str) -> list[int]:
    """Lockstep's tokens by way of Dream's own sampler with one step per token."""
    pair = LockstepHooks(build_config("lockstep", lockstep.Config, settings), backbone(name).spec)
    return output(
        vanilla.Vanilla(pair.generation_logits_hook_func, pair.generation_tokens_hook_func), {}, prompt, name
    )[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 6},
        {"steps": 6, "tau_r": 1.0, "tau_a": 1.0},
        {"steps": 5, "mode": "gauss_seidel"},
        {"mode": "gauss_seidel", "r_length": 16},
        {"a_after_r": 0.6, "tau_r": 0.5},
        {"mode": "gauss_seidel", "a_after_r": 0.6, "max_fill_frac": 0.2, "tau_a": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["dream_tiny", "llada_tiny"])
def test_pair_inside_vanilla_equals_the_decoder(settings: dict[str, Any], name: str) -> None:
    for prompt in PROMPTS[:3]:
        want, _ = output(lockstep.METHOD, settings, prompt, name)
        assert through(settings, prompt, name) == want


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"prompt_cache": True}, "prompt_cache=false"),
        ({"attention": "block_causal"}, "attention=full"),
        ({"stop_r_when_a_done": True}, "set it to false"),
        ({"r_length": 10, "a_length": 5}, "must fill the 24 masks"),
    ],
)
def test_pair_refuses_what_the_sampler_cannot_do(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        through(settings, PROMPTS[0], "dream_tiny")


def test_hooks_and_cache_exclude_each_other() -> None:
    with pytest.raises(SettingError, match="set cache=none"):
        output(
            fast_dllm.FastDLLM(lambda step, x, logits: logits),
            {"cache": "dual", "block_length": 8},
            PROMPTS[0],
        )
