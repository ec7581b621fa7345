"""What the page needs of a stored sample: which forward pass wrote which token, how sure it was, and what
became of the answer.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from harness.records.schema import Sample
from harness.statistics.blocks import names_of

SPECIAL = re.compile(r"<\|[^|]*\|>")
"""Pieces of special tokens, such as an end-of-text, are shown as one sign."""


END = "\u220e"


def visible(piece: str) -> str:
    """A piece with special tokens as a tombstone, so that filler does not bury the answer."""
    return SPECIAL.sub(END, piece)


def replay(sample: Sample) -> dict[str, Any]:
    """What a replay needs of a sample, without the positions behind the last written one.

    ``pieces``: strings as shown (ids in angle brackets where none were recorded); ``steps``: writing forward
    per position, -1: none; ``confidence``: percent or -1; ``late``: whether a position lies behind its text's
    end; ``blocks``: [name, first position, length] of each text of a divided answer, empty for one text;
    ``forwards``: [query, cached, stored, how many in a row]; ``text``, ``program``, ``answer``, ``error``,
    ``grading``: as stored, null: not stored.
    """
    end = max((place + 1 for place, step in enumerate(sample.step_map) if step >= 0), default=0)
    pieces = [visible(piece) for piece in sample.pieces[:end]] or [
        f"⟨{token}⟩" for token in sample.output_ids[:end]
    ]
    confidence = [-1 if value is None else round(100 * value) for value in sample.confidence[:end]]
    return {
        "doc": sample.doc_id,
        "repeat": sample.repeat,
        "pieces": pieces,
        "steps": sample.step_map[:end],
        "confidence": confidence or [-1] * end,
        "late": late(sample, pieces),
        "blocks": [
            [name, start, stop - start]
            for name, (start, stop) in zip(names_of(sample.blocks), sample.blocks, strict=True)
        ],
        "unwritten": len(sample.step_map) - end,
        "useful": sample.useful,
        "nfe": sample.nfe,
        "seconds": sample.time_s,
        "correct": sample.correct,
        "status": sample.status,
        "grading": sample.grading,
        "text": sample.text,
        "program": sample.program,
        "answer": sample.answer,
        "error": sample.error,
        "forwards": [[*key, len(list(group))] for key, group in groupby(sample.forwards)],
    }


def late(sample: Sample, pieces: list[str]) -> list[int]:
    """1 per position that does not count as useful, else 0.

    One text: everything from the first position that is not useful. In a divided answer each text ends at its
    own first special token.
    """
    if not sample.blocks:
        return [int(sample.useful is not None and place >= sample.useful) for place in range(len(pieces))]
    marks = [0] * len(pieces)
    for start, stop in sample.blocks:
        texts = range(start, min(stop, len(pieces)))
        end = next((place for place in texts if pieces[place] == END), stop)
        for place in range(end, texts.stop):
            marks[place] = 1
    return marks
