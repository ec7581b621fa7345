"""Documents that shared decode calls: the unit of everything that a clock says.

Rows of a batch share one clock, so a slow call makes all of them slow at once: sixteen rows are one
observation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records.schema import Sample


def clusters(runs: Sequence[Iterable[Sample]], documents: Sequence[int]) -> list[list[int]]:
    """``documents`` in groups that no batch of any of the runs crosses, in the order of their first members.

    A sample without a batch number was decoded alone.
    """
    parent = {document: document for document in documents}

    def root(document: int) -> int:
        while parent[document] != document:
            parent[document] = document = parent[parent[document]]
        return document

    for run in runs:
        first: dict[int, int] = {}
        for sample in run:
            if sample.batch is not None and sample.doc_id in parent:
                parent[root(sample.doc_id)] = root(first.setdefault(sample.batch, sample.doc_id))
    groups: dict[int, list[int]] = {}
    for document in documents:
        groups.setdefault(root(document), []).append(document)
    return list(groups.values())
