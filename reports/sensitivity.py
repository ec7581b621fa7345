"""How much the order of methods depends on the prompt: one table over the renderings (templates, examples) of
a suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harness.decoding.settings import setting_text
from harness.records.printable import in_markdown
from reports.table import Table, TableRow

PROMPT = frozenset({"prompts_hash", "template", "num_fewshot", "fewshot_seed", "chat_template"})
MEANING = (
    "pass@1 in % and, in brackets, the rank under the same prompts. tau: Kendall's tau-b of pass@1 with the "
    "first column's order, "
    "1: the same order. Reversed: pairs of methods in the opposite order, of those that differ in both. "
    "Small differences reverse by "
    "chance: see the intervals in the tables."
)


@dataclass(frozen=True)
class Sensitivity:
    """Tables that differ in their prompts alone, the suite's own first, and the methods that all of them
    have.
    """

    tables: Sequence[Table]
    labels: Sequence[str]

    def rates(self, table: Table) -> list[float]:
        """pass@1 of ``labels`` under one rendering."""
        found = {_label(row): row.stored.summary.pass_at_1 for row in table.rows}
        return [rate for label in self.labels if (rate := found[label]) is not None]

    def grid(self) -> list[list[str]]:
        """Text cells: heading, a line per method, then tau and reversed pairs per rendering."""
        columns = [self.rates(table) for table in self.tables]
        lines = [["method", *(table.prompt or "suite's own" for table in self.tables), "range (pp)"]]
        for place, label in enumerate(self.labels):
            values = [rates[place] for rates in columns]
            cells = [f"{100 * rates[place]:.1f} ({rank(rates)[place]})" for rates in columns]
            lines.append([label, *cells, f"{100 * (max(values) - min(values)):.1f}"])
        lines.append(["tau", *(_number(tau(columns[0], rates)) for rates in columns), ""])
        lines.append(
            ["reversed", *("{} of {}".format(*reversed_pairs(columns[0], rates)) for rates in columns), ""]
        )
        return lines


def find(tables: Sequence[Table]) -> list[Sensitivity]:
    """Groups of at least two tables that differ in their prompts alone and share at least two graded
    methods.
    """
    groups: dict[str, list[Table]] = {}
    for table in tables:
        shared = sorted(
            (name, str(value)) for name, value in table.comparability.items() if name not in PROMPT
        )
        conditions = table.rows[0].stored.conditions
        groups.setdefault(f"{shared}{conditions}{table.documents}", []).append(table)
    found = []
    for group in groups.values():
        ordered = sorted(group, key=lambda table: (bool(table.prompt), table.prompt))
        graded = [
            {_label(row) for row in table.rows if row.stored.summary.pass_at_1 is not None}
            for table in ordered
        ]
        labels = [_label(row) for row in ordered[0].rows if all(_label(row) in names for names in graded)]
        if len(group) > 1 and len(labels) > 1:
            found.append(Sensitivity(ordered, labels))
    return found


def markdown(one: Sensitivity, heading: str = "##") -> str:
    """A section of its own."""
    head, *lines = ([in_markdown(cell) for cell in line] for line in one.grid())
    rows = [head, ["---", *["--:"] * (len(head) - 1)], *lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{heading} {in_markdown(title(one))}\n\n{table}\n\n{MEANING}\n"


def title(one: Sensitivity) -> str:
    return f"{one.tables[0].suite}: does the order of methods depend on the prompt?"


def rank(rates: Sequence[float]) -> list[int]:
    """1 for the best; equal rates share the better rank."""
    return [1 + sum(other > rate for other in rates) for rate in rates]


def tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b; None where one side has no order at all."""
    from scipy.stats import kendalltau

    value = float(kendalltau(one, other)[0])  # pyright: ignore[reportArgumentType]
    return None if np.isnan(value) else value


def reversed_pairs(one: Sequence[float], other: Sequence[float]) -> tuple[int, int]:
    """(pairs in opposite order, pairs that differ on both sides)."""
    signs = [(one[j] - one[i]) * (other[j] - other[i]) for i, j in combinations(range(len(one)), 2)]
    return sum(sign < 0 for sign in signs), sum(sign != 0 for sign in signs)


def _label(row: TableRow) -> str:
    """Method with all of its settings that are named in any table; tables name settings by what sets their
    own rows apart.
    """
    changed = row.stored.run.changed or row.settings
    return " ".join(
        [row.stored.run.plan.method, *(setting_text(name, value) for name, value in changed.items())]
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
