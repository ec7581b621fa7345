"""One look for all plots: colours and markers for the colour-blind and for grey print, texts that fit."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from harness.records.printable import printable

MARK = "dllm-bench table"

# Okabe and Ito's palette, black for the baseline's method.
BASELINE_COLOUR = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b6b6b"
FAINT = "#bdbdbd"
DPI = 160

_SETTINGS: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "dllm-bench",
    "svg.fonttype": "path",
}


def figure(width: float = 7.6, height: float = 4.6) -> tuple[Figure, Axes]:
    """An empty figure in the common style (inches)."""
    look: Any = {**sns.axes_style("whitegrid"), **_SETTINGS, "grid.color": "#e6e6e6"}
    with rc_context(look):
        drawn = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(drawn)
        return drawn, drawn.subplots()


def looks(methods: Iterable[str], baseline: str) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each method; the same whatever the order of rows."""
    others = sorted(set(methods) - {baseline})
    assigned = {baseline: (BASELINE_COLOUR, MARKERS[0])}
    for place, method in enumerate(others):
        assigned[method] = (
            COLOURS[place % len(COLOURS)],
            MARKERS[1 + (place + place // len(COLOURS)) % (len(MARKERS) - 1)],
        )
    return assigned


def title(axes: Axes, text: str, below: str = "") -> None:
    """Headline at the left edge of the axes, and a grey line below it."""
    shown = fit(text, 390, 11, weight="bold")
    axes.set_title(shown, loc="left", fontsize=11, fontweight="bold", pad=20 if below else 6)
    if below:
        axes.text(
            0, 1.015, fit(below, 390, 8.5), transform=axes.transAxes, va="bottom", fontsize=8.5, color=GREY
        )


def fit(text: str, width: float, size: float = 8.0, lines: int = 1, weight: str = "normal") -> str:
    """At most so many lines of so many points (1/72 inch) at a font size, the rest an ellipsis.

    What would start a formula is shown as it is. Lines end behind words; a word too long for a line breaks
    behind its underscores, or anywhere if it has none.
    """
    font = FontProperties(size=size, weight=weight)

    def wide(part: str) -> bool:
        return text_to_path.get_text_width_height_descent(part, font, False)[0] > width

    words = printable(text).split()
    # A blank behind an underscore is where textwrap may break; lines lose it again.
    broken = " ".join(word.replace("_", "_ ") if wide(word) else word for word in words)
    for plain, whole in ((broken, True), (" ".join(words), False)):
        for characters in range(max(2, int(3 * width / size)), 1, -1):
            found = textwrap.wrap(
                plain, characters, max_lines=lines, placeholder="\u2026", break_long_words=not whole
            )
            parts = [part.replace("_ ", "_") if whole else part for part in found]
            if not any(map(wide, parts)):
                return "\n".join(parts).replace(r"\$", "$").replace("$", r"\$")
    return "\u2026"


def log_ticks(axes: Axes, side: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    (axes.set_xscale if side == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(drawn: Figure, stem: Path, mark: str = "") -> list[Path]:
    """Write ``stem``.png and ``stem``.svg, the same bytes for the same figure; the PNG carries ``mark``."""
    files = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    files[0].write_bytes(encode(drawn, "png", mark))
    files[1].write_bytes(encode(drawn, "svg"))
    return files


def encode(drawn: Figure, form: str, mark: str = "") -> bytes:
    """The figure as PNG (with ``mark`` as its text MARK) or SVG bytes without a date."""
    buffer = io.BytesIO()
    with rc_context(_SETTINGS):
        drawn.savefig(
            buffer,
            format=form,
            dpi=DPI,
            metadata={"Date": None} if form == "svg" else {"Software": None},
            facecolor="white",
        )
    if form == "svg":
        return buffer.getvalue()
    notes, packed = PngInfo(), io.BytesIO()
    notes.add_text(MARK, mark)
    # A quarter of the size, and nothing that an eye finds: plots have few colours.
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        packed, "png", optimize=True, pnginfo=notes
    )
    return packed.getvalue()
