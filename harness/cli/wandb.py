"""``bench run --wandb``: a run's plan, samples, summaries, plots and viewer page on Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.runs.cell import Cell
from harness.runs.wandb_log import package, start
from reports.boards import Board
from reports.load import read_stored
from reports.plots import draw
from reports.site import single
from reports.table import build

METRICS = (
    "correct",
    "useful",
    "committed",
    "nfe",
    "positions",
    "time_s",
    "latency_s",
    "first_block_s",
    "forward_s",
    "select_s",
)


class RunLog:
    """One W&B run per invocation of ``bench run``; each cell's metrics are named SUITE/LABEL/METRIC, over its
    samples in order.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.names = {id(cell): "/".join(cell.label.split(None, 1)) for cell in cells}
        config = {
            self.names[id(cell)]: cell.folder.run.model_dump(
                mode="json", include={"run_id", "plan", "environment"}
            )
            for cell in cells
        }
        self.run = start(cells[0].folder.run.command[:120], config)
        for name in self.names.values():
            self.run.define_metric(f"{name}/*", step_metric=f"{name}/sample")

    def samples(self, cell: Cell, count: int) -> None:
        """The ``count`` samples stored last."""
        name = self.names[id(cell)]
        for sample in list(cell.folder.samples.values())[-count:]:
            known = {metric: value for metric in METRICS if (value := getattr(sample, metric)) is not None}
            figures = {f"{name}/{metric}": float(value) for metric, value in known.items()}
            self.run.log({f"{name}/sample": sample.order, f"{name}/doc_id": sample.doc_id, **figures})

    def finish(self, cells: Sequence[Cell]) -> None:
        """Summaries, plots and the viewer page, from the stored runs."""

        wandb = package()
        for cell in cells:
            summary = cell.folder.run.summary
            self.run.summary[self.names[id(cell)]] = summary.model_dump(mode="json") if summary else None
        stored = [read_stored(cell.folder.path) for cell in cells]
        tables = build(stored)
        shown: dict[str, Any] = {"viewer": wandb.Html(single([Board("run", stored, tables)]))}
        for table in tables:
            shown |= {
                f"plots/{table.suite}/{name}": wandb.Image(figure) for name, figure in draw(table).items()
            }
        self.run.log(shown)
        self.run.finish()
