"""Flags of the commands that show stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PublishedFigures = Annotated[
    Path | None,
    typer.Option(
        "--published",
        help="Figures from papers, shown apart; default PATH/published.yaml if it is there.",
    ),
]
