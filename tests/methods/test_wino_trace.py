"""WINO's trace against the reference: what the shadow stands for, and every token written or taken back by
each forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from harness.decoding.backbone import Backbone
from harness.decoding.forward import Forward
from harness.decoding.row import Row
from tests.methods.test_golden_more import all_cases, decode

CASES = [case for case in all_cases() if case["method"] == "wino"]


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_windows_writes_and_steps(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[list[int]] = []
    writes: dict[int, dict[int, int]] = defaultdict(dict)
    plain = {name: getattr(Row, name) for name in ("commit", "revise")}
    run = Backbone.forward_rows

    def forward_rows(self: Backbone, canvas: Any, requests: Mapping[int, Forward], cache: Any = None) -> Any:
        shadow = requests[0].shadow
        assert shadow is not None
        windows.append([shadow.at[0], shadow.at[-1] + 1])
        return run(self, canvas, requests, cache)

    def noting(name: str) -> Any:
        def write(row: Row, at: Sequence[int], ids: Any, confidence: Any = None) -> None:
            tokens = ids if isinstance(ids, list) else list(ids)
            writes[row.nfe - 1].update(
                {position - row.prompt_length: token for position, token in zip(at, tokens, strict=True)}
            )
            plain[name](row, at, ids, confidence)

        return write

    monkeypatch.setattr(Backbone, "forward_rows", forward_rows)
    for name in plain:
        monkeypatch.setattr(Row, name, noting(name))
    row = decode([case])[0]
    assert windows == case["windows"]
    assert [sorted(map(list, writes[step].items())) for step in range(row.nfe)] == case["writes"]
    last = {place: step for step in range(row.nfe) for place in writes[step]}
    # A place that stays a mask is named by the forward that took its token back.
    assert [last.get(place, -1) for place in range(len(row.output))] == case["steps"]
