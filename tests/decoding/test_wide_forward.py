"""The wide waists: scattered feed and keep, see, masks as functions, shadow rows, soft inputs, policies
beside a decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from harness.decoding.candidates import Candidates, Want, greedy
from harness.decoding.forward import Forward, Places, Shadow, Soft, positions_of, spans_of
from harness.decoding.masks import CAUSAL, FULL, LEAVE_ONE_OUT, BlockCausal, Mask, flex
from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row
from methods.block_loop import block_loop
from methods.rules import RULES
from methods.semi_ar import Config
from tests.helpers import backbone, canvas

PROMPT, NEW = [5, 6, 7, 9, 11], 8
LENGTH = len(PROMPT) + NEW
NAMES = ["dream_tiny", "llada_tiny"]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("places", "positions"),
    [
        ((2, 5), [2, 3, 4]),
        (range(1, 3), [1, 2]),
        ([0, 3, 4], [0, 3, 4]),
        ([(0, 2), (5, 7)], [0, 1, 5, 6]),
        ([2, 3], [2, 3]),
    ],
)
def test_places_are_spans_or_positions(places: Places, positions: list[int]) -> None:
    assert list(positions_of(places)) == positions
    assert [position for start, stop in spans_of(positions) for position in range(start, stop)] == positions


def test_places_must_ascend() -> None:
    with pytest.raises(ValueError, match="must ascend"):
        positions_of([3, 1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scattered", [[4, 6, 7, 11], [(0, 2), (8, 12)], [0, 12]])
def test_scattered_rows_over_a_whole_store_equal_a_full_pass(name: str, scattered: Places) -> None:
    model = backbone(name)
    page = canvas(model, [PROMPT], NEW)
    cache, whole = model.new_cache(page), (0, LENGTH)
    shift = int(model.spec.shift)
    at = [
        position + shift for position in positions_of(scattered) if len(PROMPT) <= position + shift < LENGTH
    ]
    full = model.forward(page, Forward(whole, at, keep=whole), cache)
    close(model.forward(page, Forward(scattered, at, keep=scattered), cache), full)
    assert page.meter.rows[0].queries[-1] == spans_of(list(positions_of(scattered)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_anywhere_need_not_be_fed_again(name: str) -> None:
    model = backbone(name)
    page = canvas(model, [PROMPT], NEW)
    cache, kept = model.new_cache(page), [0, 1, 4, 7, 9]
    rest = [position for position in range(LENGTH) if position not in kept]
    at = [11, 12]
    full = model.forward(page, Forward((0, LENGTH), at, keep=kept), cache)
    close(model.forward(page, Forward(rest, at), cache), full)
    assert page.meter.rows[0].forwards == [(LENGTH, 0, 5), (LENGTH - 5, 5, 0)]


def test_rows_with_places_of_their_own_share_a_pass_without_padding() -> None:
    model = backbone("llada_tiny")
    prompts = [PROMPT, [8, 8], [3, 4, 5, 6, 7, 8, 9]]
    page = canvas(model, prompts, NEW)
    cache = model.new_cache(page)
    requests = {
        0: Forward((0, 13), [6], keep=(0, 13)),
        1: Forward((0, 10), [3, 4], keep=[0, 5]),
        2: Forward((0, 15), [8], keep=(0, 7)),
    }
    model.forward_rows(page, requests, cache)
    later = {
        0: Forward([5, 9], [5], keep=[5, 9]),
        1: Forward([1, 2, 3, 4, 6, 7, 8, 9], [3]),
        2: Forward((7, 15), [8]),
    }
    together = model.forward_rows(page, later, cache)
    assert page.meter.calls == 2
    for row, prompt in enumerate(prompts):
        alone = canvas(model, [prompt], NEW)
        own = model.new_cache(alone)
        model.forward(alone, requests[row], own)
        close(together[row], model.forward(alone, later[row], own))


def test_see_hides_what_is_stored() -> None:
    model = backbone("llada_tiny")
    page = canvas(model, [PROMPT], NEW)
    cache = model.new_cache(page)
    model.forward(page, Forward((0, LENGTH), [6], keep=(0, LENGTH)), cache)
    seen = model.forward(page, Forward((5, 9), [6], keep=(5, 9), see=(0, 5)), cache)
    fresh = model.new_cache(page)
    # Without fresh keys of the suffix the first five rows differ in nothing: they are what the whole pass
    # stored.
    model.forward(page, Forward((0, LENGTH), [6], keep=(0, 5)), fresh)
    close(seen, model.forward(page, Forward((5, 9), [6]), fresh))
    with pytest.raises(ValueError, match="neither fed nor stored"):
        model.forward(page, Forward((7, 9), [8]), fresh)


@pytest.mark.parametrize(
    "mask", [FULL, CAUSAL, BlockCausal(4), BlockCausal(4, origin=0), LEAVE_ONE_OUT], ids=str
)
def test_one_definition_serves_dense_masks_and_flex_attention(mask: Mask) -> None:
    place = torch.arange(LENGTH)
    dense = mask.allowed(place.unsqueeze(1), place.unsqueeze(0), len(PROMPT))
    assert torch.equal(
        create_mask(flex(mask, len(PROMPT)), None, None, LENGTH, LENGTH, device="cpu")[0, 0], dense
    )
    for first in range(LENGTH):
        for last in range(first, LENGTH):
            if mask.trivial((first, last), (0, last), len(PROMPT)):
                assert bool(dense[first : last + 1, : last + 1].all())


@pytest.mark.parametrize("name", NAMES)
def test_absolute_blocks_cached_one_by_one_equal_one_pass(name: str) -> None:
    model, mask = backbone(name), BlockCausal(4, origin=0)
    page = canvas(model, [PROMPT], NEW)
    cache = model.new_cache(page)
    at = [8, 9, 11]
    whole = model.forward(page, Forward((0, 12), at, mask=mask, cached=False), cache)
    for start in (0, 4):
        model.forward(page, Forward((start, start + 4), [], keep=(start, start + 4), mask=mask), cache)
    close(model.forward(page, Forward((8, 12), at, mask=mask), cache), whole)
    prompt_as_block = model.forward(page, Forward((0, 12), at, mask=BlockCausal(4), cached=False), cache)
    assert (prompt_as_block - whole).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cached", [False, True])
def test_shadow_rows_stand_beside_the_canvas(name: str, cached: bool) -> None:
    model = backbone(name)
    page = canvas(model, [PROMPT], NEW)
    page.meter.record(0, (1, 0, 0), 1)
    page.rows[0].commit([5, 6], [20, 30])
    cache, whole = model.new_cache(page), (0, LENGTH)
    shadow = Shadow([5, 6, 7])
    plain = model.forward(page, Forward(whole, [6, 8], cached=False))
    keep = whole if cached else None
    got = model.forward(
        page,
        Forward(whole, [6, 8, LENGTH, LENGTH + 1, LENGTH + 2], keep=keep, cached=cached, shadow=shadow),
        cache,
    )
    close(got[:2], plain)
    extended = torch.cat([page.ids, torch.full((1, 3), page.rules.fill_id)], 1)
    mask = torch.ones(LENGTH + 3, LENGTH + 3, dtype=torch.bool)
    mask[:LENGTH, LENGTH:] = False
    for k, position in enumerate(shadow.at):
        mask[LENGTH + k, position] = False
    places = torch.tensor([[*range(LENGTH), *shadow.at]])
    raw = model._model.head(model._model.hidden(extended, places, mask))[0]
    close(got[2:], raw[LENGTH - model.spec.shift : LENGTH + 3 - model.spec.shift])
    assert page.meter.rows[0].forwards[-1] == (LENGTH + 3, 0, LENGTH if cached else 0)


def test_a_soft_input_of_one_token_is_that_token() -> None:
    model = backbone("llada_tiny")
    page = canvas(model, [PROMPT], NEW)
    sure = Soft(torch.tensor([20, 30]), torch.tensor([1.0, 0.0]))
    token = model.forward(page, Forward((0, LENGTH), [8], assume={6: 20}))
    close(model.forward(page, Forward((0, LENGTH), [8], soft={6: sure})), token)
    half = Soft(torch.tensor([20, 30]), torch.tensor([0.5, 0.5]))
    assert (model.forward(page, Forward((0, LENGTH), [8], soft={6: half})) - token).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Forward((0, 8), [6], soft={2: Soft(torch.tensor([1]), torch.ones(1))}), "behind the prompt"),
        (Forward((0, 8), [6], shadow=Shadow([40])), "shadow rows stand for positions"),
        (Forward((0, 8), [6], layers=object(), mask=CAUSAL), "works on the canvas as it is"),
        (Forward((0, 8), [6], keep=[1, 3], trial=True), "keep must be a span"),
        (Forward((0, 8), [6], keep=(0, 3), cached=False), "need a store"),
    ],
)
def test_what_does_not_go_together_is_refused(request_: Forward, text: str) -> None:
    model = backbone("llada_tiny")
    page = canvas(model, [PROMPT], NEW)
    with pytest.raises(ValueError, match=text):
        model.forward(page, request_, model.new_cache(page))


@dataclass
class EveryFourth(CachePolicy):
    """A policy in a few lines: everything is fed and kept every fourth step, in between the open block
    alone.
    """

    cached = True
    shift: int = 0
    steps: int = 0

    def request(self, row: Row, step: Step) -> Forward:
        whole, due = (0, row.length), self.steps % 4 == 0
        self.steps += 1
        feed = whole if due or step.first else (step.block[0] - self.shift, step.block[1] - self.shift)
        return Forward(feed=feed, at=step.at, keep=feed, fresh=feed == whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_of_ones_own_composes_with_a_rule(name: str) -> None:
    model = backbone(name)
    page, config = canvas(model, [PROMPT], NEW), Config(block_length=8)
    cache, row = model.new_cache(page), page.rows[0]
    rule = RULES["confidence"](row, model.spec, config)
    program = block_loop(row, model.spec, config, rule, EveryFourth(int(model.spec.shift)))
    request = next(program)
    while True:
        try:
            request = program.send(model.forward(page, request, cache))
        except StopIteration:
            break
    assert not row.masked()
    assert [entry[0] for entry in page.meter.rows[0].forwards] == [13, 8, 8, 8, 13, 8, 8, 8]


def test_buffers_keep_their_addresses() -> None:
    model = backbone("llada_tiny")
    first = model.new_cache(canvas(model, [PROMPT], NEW))
    address = first.keys[0].data_ptr()
    other = model.new_cache(canvas(model, [PROMPT], NEW))
    assert other.keys[0].data_ptr() != address
    del first, other
    assert model.new_cache(canvas(model, [[5, 6]], NEW)).keys[0].data_ptr() == address


@pytest.mark.parametrize("want", [Want(), Want("margin"), Want("neg_entropy"), Want(double=True)], ids=str)
def test_candidates_of_a_batch_equal_those_of_each_row(want: Want) -> None:
    model, prompts = backbone("dream_tiny"), [PROMPT, [8, 8], [3, 4, 5, 6]]
    page = canvas(model, prompts, NEW)
    places = {row: range(len(prompt), len(prompt) + 3 + row) for row, prompt in enumerate(prompts)}
    requests = {
        row: Forward((0, len(prompts[row]) + NEW), at, want=want if row != 1 else None)
        for row, at in places.items()
    }
    found = model.answer_rows(page, requests)
    logits = model.forward_rows(
        page, {row: Forward((0, len(prompts[row]) + NEW), at) for row, at in places.items()}
    )
    assert isinstance(found[1], Tensor)
    close(found[1], logits[1])
    for row in (0, 2):
        answer, mine = found[row], greedy(logits[row], model.spec.mask_id, want)
        assert isinstance(answer, Candidates)
        assert torch.equal(answer.ids, mine.ids)
        close(answer.probability, mine.probability)
        close(answer.score, mine.score)
        assert answer.probability.dtype == (torch.float64 if want.double else torch.float32)
