"""Implementations of attention: the same answers from each, flash's calls against a plain stand-in, and clear
refusals.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.decoding.backbone import Backbone
from harness.decoding.cache import KVCache
from harness.decoding.forward import Forward, Shadow
from harness.decoding.kernels import AttentionError, Flash, Flex, Implementation, Sdpa, implementation
from harness.decoding.masks import CAUSAL, FULL, LEAVE_ONE_OUT, BlockCausal, Mask, reaches
from harness.decoding.registry import load_method
from harness.decoding.settings import build_config
from harness.decoding.varlen import PAGE
from harness.model.transformer import attention, repeated
from tests.helpers import CPU, backbone, canvas, golden_cases

PROMPTS = [[5, 6, 7, 9, 11], [8, 8], [3, 4, 5, 6, 7, 8, 9]]


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    block_table: Tensor | None = None,
) -> Tensor:
    """What flash_attn_varlen_func computes, sequence by sequence; queries [total, heads, head_dim], keys
    packed alike or in pages [pages, size, kv_heads, head_dim].
    """
    assert query_ends.dtype == key_ends.dtype == torch.int32
    found = []
    for index in range(len(query_ends) - 1):
        rows, count = query[query_ends[index] : query_ends[index + 1]], int(key_ends.diff()[index])
        assert 0 < len(rows) <= longest_query
        assert 0 < count <= longest_key
        if block_table is not None:
            assert key.shape[1] % PAGE == 0
            page = int(block_table[index, 0])
            keys, values = key[page, :count], value[page, :count]
        else:
            keys, values = (part[key_ends[index] : key_ends[index + 1]] for part in (key, value))
        mixed = attention(*(part.transpose(0, 1)[None] for part in (rows, keys, values)))
        found.append(mixed[0].transpose(0, 1))
    return torch.cat(found)


def with_kernel(model: Backbone, kernel: Implementation) -> Backbone:
    return Backbone(model._model, CPU, model.dtype, kernel)


def decoded(case: dict[str, Any], kernel: Implementation, rows: int = 2) -> list[tuple[list[int], int]]:
    """Ids and NFE of a golden case's prompt and its first half, in one batch, in float64."""
    method = load_method(case["method"]).decoder
    fields = method.Config.__dataclass_fields__
    settings = {
        key: value for key, value in case["settings"].items() if key in fields or value not in (None, "none")
    }
    config = build_config(method.name, method.Config, settings)
    model = with_kernel(backbone(case["model"], case["adapter"], dtype=torch.float64), kernel)
    prompts = [case["prompt"], case["prompt"][: len(case["prompt"]) // 2 + 1]][:rows]
    page = canvas(model, prompts, config.max_new_tokens)
    method.decode(model, page, config)
    assert page.meter.kernels == {kernel.name}
    return [(row.output, row.nfe) for row in page.rows]


def one_case(method: str, **settings: Any) -> dict[str, Any]:
    return next(
        case
        for case in golden_cases()
        if case["method"] == method and settings.items() <= case["settings"].items()
    )


CASES = [
    one_case("vanilla"),
    one_case("fast_dllm", cache="prefix"),
    one_case("fast_dllm", cache="dual"),
    one_case("d2f"),
    one_case("lopa"),
]


@pytest.mark.parametrize("case", CASES, ids=[json.dumps(case["case"]) for case in CASES])
@pytest.mark.parametrize("kernel", [Flex(compiled=False), Flash(varlen)], ids=["flex", "flash"])
def test_every_implementation_gives_the_same_ids(case: dict[str, Any], kernel: Implementation) -> None:
    assert decoded(case, kernel) == decoded(case, Sdpa())


@pytest.mark.parametrize("mask", [FULL, CAUSAL, BlockCausal(4), BlockCausal(4, origin=2)], ids=str)
def test_the_reach_of_a_mask_is_what_it_allows(mask: Mask) -> None:
    places, ends = torch.arange(20), reaches(mask, range(20), 5)
    assert ends is not None
    for query, end in enumerate(ends):
        allowed = mask.allowed(torch.tensor(query), places, 5)
        assert torch.equal(allowed, places < (len(places) if end < 0 else end))
    assert reaches(LEAVE_ONE_OUT, [3], 5) is None


def _passes(model: Backbone, masks: list[Mask]) -> list[Tensor]:
    """A refresh, then rows at places of their own: behind their prefix, with holes, and without the store."""
    page = canvas(model, PROMPTS, 8)
    cache = model.new_cache(page)
    first = {row: Forward((0, len(PROMPTS[row]) + 8), [8], keep=(0, 4 + row)) for row in range(3)}
    later = {
        0: Forward((4, 12), [8], mask=masks[0]),
        1: Forward([6, 7, 9], [7], see=[0, 1, 3], mask=masks[1]),
        2: Forward((0, 9), [8], cached=False, mask=masks[2]),
    }
    found = [model.forward_rows(page, requests, cache) for requests in (first, later, {0: later[0]})]
    return [logits for rows in found for logits in rows.values()]


@pytest.mark.parametrize(
    "masks", [[FULL] * 3, [BlockCausal(3)] * 3, [CAUSAL, FULL, BlockCausal(2, origin=0)]], ids=range(3)
)
@pytest.mark.parametrize("kernel", [Flex(compiled=False), Flash(varlen)], ids=["flex", "flash"])
def test_rows_at_places_of_their_own(kernel: Implementation, masks: list[Mask]) -> None:
    model = backbone("dream_tiny", dtype=torch.float64)
    for one, other in zip(_passes(with_kernel(model, kernel), masks), _passes(model, masks), strict=True):
        torch.testing.assert_close(one, other)


def test_flash_reads_the_store_in_place() -> None:
    given: list[tuple[int, bool]] = []

    def watched(query: Tensor, key: Tensor, *others: Any, block_table: Tensor | None) -> Tensor:
        given.append((key.data_ptr(), block_table is not None))
        return varlen(query, key, *others, block_table=block_table)

    model = with_kernel(backbone("dream_tiny"), Flash(watched))
    page = canvas(model, PROMPTS, 8)
    cache: KVCache = model.new_cache(page)
    model.forward_rows(page, {row: Forward((0, 10), [8], keep=(0, 6)) for row in range(2)}, cache)
    assert given == [(keys.data_ptr(), True) for keys in cache.keys]


def test_flash_says_what_it_has_no_kernel_for() -> None:
    request = Forward((0, 13), [6], shadow=Shadow([6]))
    alone = with_kernel(backbone("dream_tiny"), Flash(varlen))
    with pytest.raises(AttentionError, match=r"no kernel for this method's mask.*sdpa or flex"):
        alone.forward(canvas(alone, PROMPTS[:1], 8), request)
    helped = with_kernel(backbone("dream_tiny"), Flash(varlen, Sdpa()))
    page = canvas(helped, PROMPTS[:1], 8)
    helped.forward(page, request)
    helped.forward(page, Forward((0, 13), [6]))
    assert page.meter.kernels == {"flash", "sdpa"}


def test_choices_that_cannot_be_had() -> None:
    cuda = torch.device("cuda")
    assert isinstance(implementation("auto", CPU, torch.float32), Sdpa)
    # Without flash-attn, auto on a GPU is sdpa too.
    assert isinstance(implementation("auto", cuda, torch.bfloat16), Sdpa)
    with pytest.raises(AttentionError, match="--attention fast is unknown; use auto, sdpa, flash, flex"):
        implementation("fast", CPU, torch.float32)
    with pytest.raises(AttentionError, match=r"runs on CUDA in bfloat16.*not on cpu in float32"):
        implementation("flash", CPU, torch.float32)
    with pytest.raises(AttentionError, match=r"dllm-bench\[gpu\]"):
        implementation("flash", cuda, torch.bfloat16)


def test_repeated_heads_compute_what_grouped_ones_do() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, 5, 8, generator=generator, dtype=torch.float64) for heads in (6, 2, 2)
    )
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(
        attention(query, key, value, mask), attention(query, repeated(key, 6), repeated(value, 6), mask)
    )
