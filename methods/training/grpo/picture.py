"""rewards.png: mean reward, solved share, entropy and KL over the steps of one run or of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from methods.training.grpo.work import read_card, read_finished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "reward": "mean reward\nper answer",
    "solved": "share of answers\nsolved",
    "entropy": "entropy\n(nats per token)",
    "kl": "KL to the first policy\n(nats per token)",
}
SMOOTH = 0.1
TRAINED, CONTROL = "trained", "shuffled rewards (control)"
COLOURS = {TRAINED: "#0072B2", CONTROL: "#D55E00"}


def curves(folders: Sequence[Path]) -> pd.DataFrame:
    """One row per run, step and figure; ``value`` is the mean over the ``window`` steps up to this one (a
    tenth of the run), fewer at its start.
    """
    frames = []
    for folder in folders:
        card, rows = read_card(folder).settings, pd.DataFrame(read_finished(folder))
        window = max(1, round(SMOOTH * len(rows)))
        kind = CONTROL if card.shuffle_rewards else TRAINED
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
                        "suite": card.suite,
                        "window": window,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def figure(data: pd.DataFrame) -> Figure:
    """A panel per figure and suite, a line per run; axes, smoothing and colours are named."""
    from matplotlib.figure import Figure

    suites, panels = (
        list(dict.fromkeys(data["suite"])),
        [name for name in PANELS if name in set(data["figure"])],
    )
    drawn = Figure(figsize=(1.2 + 3.9 * len(suites), 0.9 + 1.7 * len(panels)), layout="constrained")
    grid = drawn.subplots(len(panels), len(suites), squeeze=False, sharex="col")
    for line, name in enumerate(panels):
        for column, suite in enumerate(suites):
            axes, shown = grid[line][column], data[(data["figure"] == name) & (data["suite"] == suite)]
            for name_of_run in dict.fromkeys(shown["run"]):
                run = shown[shown["run"] == name_of_run]
                kind = str(next(iter(run["rewards"])))
                axes.plot(run["step"], run["value"], color=COLOURS[kind], linewidth=1.1, label=kind)
            axes.grid(color="#e6e6e6")
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
            axes.set_ylabel(PANELS[name] if column == 0 else "")
    for column, suite in enumerate(suites):
        windows = sorted(set(data[data["suite"] == suite]["window"]))
        grid[0][column].set_title(suite.replace("$", r"\$"), loc="left", fontweight="bold", fontsize=10)
        steps = " or ".join(map(str, windows))
        grid[-1][column].set_xlabel(f"training step\n(each value: mean of the last {steps} steps)")
    handles = {
        label: line
        for axes in grid.flat
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(
        handles.values(), handles, loc="outside upper right", ncols=2, frameon=False, fontsize=9,
        title="a line per run",
    )  # fmt: skip
    return drawn


def draw(folders: Sequence[Path], path: Path) -> None:
    """Write the picture of the runs whose work folders are given, one column per suite."""
    figure(curves(folders)).savefig(path, dpi=120)
