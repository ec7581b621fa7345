"""A Markdown table of finished GRPO runs, from the files in their work folders, and its place in a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import UserError
from harness.records.files import around

BEGIN, END = "<!-- grpo:begin -->", "<!-- grpo:end -->"
COLUMNS = (
    "run", "rewards", "steps", "solved, first tenth", "last tenth", "held-out pass@1", "difference (95%)",
    "p", "forwards", "KL", "minutes",
)  # fmt: skip


class SummaryError(UserError, ValueError):
    """A folder that is no finished run, or a page without the place for the table."""


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise SummaryError(
            f"{path}: {error.strerror}; name work folders of finished runs of bench train grpo"
        ) from None


def row(folder: Path) -> str:
    """One line: share solved in the first and last tenth of the steps, held-out pass@1 and forwards before
    and after, last tenth's KL.
    """
    card, steps = (
        _json(folder / "card.json"),
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()],
    )
    settings, log = card["settings"], pd.DataFrame(steps)
    tenth = max(1, len(log) // 10)
    cells = [
        f"`{folder.name}`", "shuffled" if settings["shuffle_rewards"] else "true", str(len(log)),
        f"{log['solved'].head(tenth).mean():.3f}", f"{log['solved'].tail(tenth).mean():.3f}",
    ]  # fmt: skip
    if (folder / "evaluation.json").exists():
        found = _json(folder / "evaluation.json")
        before, after = (found["scores"][side]["nfe"] for side in ("before", "after"))
        cells += [
            f"{found['before']:.3f} → {found['after']:.3f}",
            f"{100 * found['difference']:+.1f} pp [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]",
            f"{found['p_value']:.1g}", f"{before:.2f} → {after:.2f}",
        ]  # fmt: skip
    else:
        cells += ["not evaluated", "", "", ""]
    cells += [f"{log['kl'].tail(tenth).mean():.3f}" if "kl" in log else "", f"{card['seconds'] / 60:.1f}"]
    return f"| {' | '.join(cells)} |"


def table(folders: Sequence[Path]) -> str:
    """All runs, in the order given. SummaryError for a folder that holds none."""
    head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
    return "\n".join([head, *(row(folder) for folder in folders)])


def updated(page: Path, folders: Sequence[Path]) -> str:
    """The page's text with the table between its markers renewed. SummaryError without exactly one pair of
    them.
    """
    above, below = around(page, "--page", BEGIN, END, SummaryError)
    return f"{above}\n\n{table(folders)}\n\n{below}"
