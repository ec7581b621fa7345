"""Stop strings end a decode call under the harness' stop rule, for every method alike; the counted text stays
what it was.
"""

from __future__ import annotations

from typing import Any

import pytest

from harness.decoding.canvas import Canvas
from harness.engine.generator import Generation, Request
from harness.engine.opening import open_engine
from harness.model.text import StopStrings
from suites.suite import load_suite

SUITE = load_suite("nano-gsm")
PROMPTS = [SUITE.prompt(doc) for _, doc in SUITE.docs(4)]


def answers(
    method: str, stops: tuple[str, ...], stop_rule: Any = "harness", batch: int = 1, count: int = 1
) -> list[Generation]:
    generator = open_engine(method, "nano", stop_rule=stop_rule).generator
    requests = [Request(prompt, 48, stops) for prompt in PROMPTS[:count]]
    return [answer for batch in generator.run(requests, batch) for answer in batch]


def shape(answer: Generation) -> tuple[Any, ...]:
    assert answer.decoded is not None
    assert answer.status == "ok", answer.error
    return answer.text, answer.useful, answer.decoded.nfe, answer.decoded.output


@pytest.mark.parametrize("method", ["ar", "fast_dllm:block_length=8", "d2f:block_size=8"])
def test_a_stop_string_ends_the_decode_call(method: str) -> None:
    (plain,) = answers(method, ())
    assert plain.text is not None
    stop = plain.text[len(plain.text) // 3 :][:3]
    (ended,) = answers(method, (stop,))
    (cut,) = answers(method, (stop,), "reference")
    assert ended.text == cut.text == plain.text[: plain.text.index(stop)]
    assert ended.useful == cut.useful
    assert ended.decoded is not None
    assert plain.decoded is not None
    assert ended.status == "ok"
    assert ended.decoded.nfe < plain.decoded.nfe
    if method == "ar":
        assert ended.decoded.nfe == ended.decoded.committed <= (ended.useful or 0) + 3


def test_batches_end_alike() -> None:
    alone, together = (answers("ar", ("=",), batch=batch, count=4) for batch in (1, 4))
    assert [shape(answer) for answer in alone] == [shape(answer) for answer in together]


class Letters:
    """One letter per id; 26 is a special token."""

    added_tokens_decoder: dict[int, Any] = {26: type("Added", (), {"special": True, "content": "<x>"})}  # noqa: RUF012

    def decode(self, ids: list[int], skip_special_tokens: bool = True, **_: Any) -> str:
        return "".join(
            "" if skip_special_tokens and token == 26 else "<x>" if token == 26 else chr(97 + token)
            for token in ids
        )


def ids(text: str) -> list[int]:
    return [ord(letter) - 97 for letter in text]


def test_the_end_is_where_the_first_stop_string_is_whole() -> None:
    stops = StopStrings(Letters(), ["cd", "zz", "<x>", ""])
    assert stops.end(ids("abcdefzz")) == 4
    assert stops.end(ids("abc")) is None
    assert stops.end([*ids("abx"), 26, *ids("cd")]) == 4


def canvas(length: int, blocks: tuple[int, ...] = ()) -> Canvas:
    made = Canvas(
        [ids("cd")],
        length,
        vocab_size=30,
        mask_id=29,
        eos_ids=[28],
        stops=StopStrings(Letters(), ["cd"]),
        blocks=blocks,
    )
    made.meter.rows[0].forwards.append((1, 0, 0))
    return made


def test_a_row_stops_once_nothing_before_the_string_is_open() -> None:
    """The prompt's own text does not count, nor does a string behind a hole, nor one that was taken back."""
    row = canvas(6).rows[0]
    assert not row.stopped
    row.commit([4, 5], ids("cd"))
    assert not row.stopped
    row.commit([2, 3], ids("ab"))
    assert row.stopped
    assert row.finals == [(2, 6)]
    row.revise([5], ids("e"))
    assert not row.stopped
    row.revise([3, 4], [*ids("c"), 29])
    row.commit([4], ids("d"))
    assert row.stopped
    assert row.finals == [(2, 5)]


def test_each_block_ends_by_itself() -> None:
    row = canvas(8, (4, 4)).rows[0]
    row.commit([2, 3], ids("cd"))
    assert row.settled(0)
    assert not row.stopped
    row.commit([6, 7, 8], ids("acd"))
    assert row.stopped
    assert row.finals == [(2, 4), (6, 9)]
