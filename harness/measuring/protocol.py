"""How carefully a run is timed: warm-up, timing passes, repeats (section "protocol" of docs and --help).

quick     one unrecorded answer, then every document once.
standard  warm-up per shape until times are steady, every document once, and a frozen slice of 32 documents
timed three times in
          all, methods interleaved A B B A.
publish   as standard, with every document timed three times.

Pure functions; the engine decodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from harness.errors import UserError
from harness.records.schema import Sample

STEADY_RUNS = 5


class ProtocolError(UserError, ValueError):
    """A protocol that does not exist, with those that do."""


@dataclass(frozen=True)
class Protocol:
    """``cv``: coefficient of variation of the last runs at which a shape counts as warm; null: ``warmup_min``
    runs are enough.

    ``passes``: times that a document of the timing slice is decoded in all; ``timing_slice``: its size, null:
    all documents.
    """

    name: str
    warmup_min: int
    warmup_max: int
    cv: float | None
    passes: int
    timing_slice: int | None

    def warm(self, times: Sequence[float]) -> bool:
        """Whether warm-up of one shape may end after runs of these times (seconds, in order)."""
        if len(times) >= self.warmup_max:
            return True
        if len(times) < self.warmup_min:
            return False
        return self.cv is None or variation(times[-STEADY_RUNS:]) < self.cv

    def keys(self, documents: Sequence[int], repeats: int = 1, batch_size: int = 1) -> list[tuple[int, int]]:
        """Every (document, repeat) of a run in the order of decoding: ``repeats`` of all, then the slice's
        further passes.
        """
        chosen = timing_slice(documents, self.timing_slice, batch_size)
        first = [(document, repeat) for repeat in range(repeats) for document in documents]
        return first + [(document, repeat) for repeat in range(repeats, self.passes) for document in chosen]


PROTOCOLS = {
    "quick": Protocol("quick", 1, 1, None, 1, 0),
    "standard": Protocol("standard", 3, 20, 0.02, 3, 32),
    "publish": Protocol("publish", 3, 20, 0.02, 3, None),
}


def protocol(name: str) -> Protocol:
    """ProtocolError for an unknown name."""
    if name not in PROTOCOLS:
        raise ProtocolError(f"--protocol {name!r} is unknown; use {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def variation(times: Sequence[float]) -> float:
    """Coefficient of variation (sample standard deviation over mean); infinite below two times."""
    return stdev(times) / fmean(times) if len(times) > 1 else float("inf")


def timing_slice(documents: Sequence[int], size: int | None, batch_size: int = 1) -> list[int]:
    """``size`` documents evenly spaced over the suite (all if null), in whole batches: fixed by suite, limit
    and batch size alone.
    """
    if size is None or size >= len(documents):
        return list(documents)
    groups = [documents[start : start + batch_size] for start in range(0, len(documents), batch_size)]
    count = -(-size // batch_size)
    return [document for k in range(count) for document in groups[k * len(groups) // count]]


def bucket(prompt_tokens: int) -> int:
    """Shapes are warmed up by prompt length, rounded up to a power of two."""
    return 1 << max(prompt_tokens - 1, 0).bit_length()


def interleaved(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(place, turn) over queues of these lengths in A B B A order, so that a slow minute hits every queue
    alike.
    """
    for turn in range(max(lengths, default=0)):
        places = range(len(lengths)) if turn % 2 == 0 else reversed(range(len(lengths)))
        yield from ((place, turn) for place in places if turn < lengths[place])


def determinism(samples: Iterable[Sample]) -> float | None:
    """Share of repeated documents whose repeats all gave the same ids by as many forwards; None: nothing was
    repeated.

    Meaningful at temperature 0; a sampling decoder draws anew in every repeat.
    """
    answers: dict[int, list[tuple[str, int | None]]] = defaultdict(list)
    for sample in samples:
        answers[sample.doc_id].append((sample.output_hash, sample.nfe))
    repeated = [entries for entries in answers.values() if len(entries) > 1]
    return sum(len(set(entries)) == 1 for entries in repeated) / len(repeated) if repeated else None
