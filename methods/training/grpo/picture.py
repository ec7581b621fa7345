"""rewards.png: mean reward, solved share, entropy and KL over the steps of one run or of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

PANELS = ("reward", "solved", "entropy", "kl")
SMOOTH = 0.1


def curves(folders: Sequence[Path]) -> pd.DataFrame:
    """One row per run, step and figure; ``value`` is a running mean over about a tenth of the run."""
    frames = []
    for folder in folders:
        card = json.loads((folder / "card.json").read_text())["settings"]
        rows = pd.DataFrame([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()])
        window = max(1, round(SMOOTH * len(rows)))
        kind = "shuffled rewards (control)" if card["shuffle_rewards"] else "trained"
        for name in (panel for panel in PANELS if panel in rows):
            value = rows[name].rolling(window, min_periods=max(1, window // 2)).mean()
            frames.append(
                pd.DataFrame(
                    {
                        "step": rows["step"],
                        "value": value,
                        "figure": name,
                        "run": folder.name,
                        "rewards": kind,
                        "suite": card["suite"],
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def draw(folders: Sequence[Path], path: Path) -> None:
    """Write the picture of the runs whose work folders are given, one column per suite."""
    import matplotlib as mpl

    mpl.use("Agg")
    import seaborn as sns

    data = curves(folders)
    grid = sns.relplot(
        data=data, x="step", y="value", row="figure", col="suite", hue="rewards", units="run", estimator=None,
        kind="line", height=2.2, aspect=2.0,
        facet_kws={"sharex": "col", "sharey": False, "margin_titles": True},
    )  # fmt: skip
    grid.set_titles(row_template="{row_name}", col_template="{col_name}")
    grid.set_axis_labels("step", "")
    grid.savefig(path, dpi=120)
