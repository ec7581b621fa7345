"""A Markdown table of finished GRPO runs, from the files in their work folders, and its place in a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.records.files import around
from methods.training.grpo.work import SummaryError, read_card, read_evaluation, read_finished

BEGIN, END = "<!-- grpo:begin -->", "<!-- grpo:end -->"
COLUMNS = (
    "run", "rewards", "steps", "solved, first tenth", "last tenth", "held-out pass@1", "difference (95%)",
    "p", "forwards", "KL", "minutes",
)  # fmt: skip


def row(folder: Path) -> str:
    """One line: share solved in the first and last tenth of the steps, held-out pass@1 and forwards before
    and after, last tenth's KL.
    """
    card, log = read_card(folder), pd.DataFrame(read_finished(folder))
    tenth = max(1, len(log) // 10)
    cells = [
        f"`{folder.name}`", "shuffled" if card.settings.shuffle_rewards else "true", str(len(log)),
        f"{log['solved'].head(tenth).mean():.3f}", f"{log['solved'].tail(tenth).mean():.3f}",
    ]  # fmt: skip
    if (found := read_evaluation(folder)) is not None:
        cells += [
            f"{found.before:.3f} → {found.after:.3f}",
            f"{100 * found.difference:+.1f} pp [{100 * found.low:+.1f}, {100 * found.high:+.1f}]",
            f"{found.p_value:.1g}", f"{found.scores.before.nfe:.2f} → {found.scores.after.nfe:.2f}",
        ]  # fmt: skip
    else:
        cells += ["not evaluated", "", "", ""]
    cells += [f"{log['kl'].tail(tenth).mean():.3f}" if "kl" in log else "", f"{card.seconds / 60:.1f}"]
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
