"""One look for all plots: colours and markers that survive colour blindness and grey print, labels beside the
points.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from harness.records.printable import printable

Point = tuple[float, float]
MARK = "dllm-bench table"

# Okabe and Ito's palette, black for the baseline's method.
BASELINE_COLOUR = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b6b6b"
LONGEST_LABEL = 160

# Directions a label may lie from its point, nearest first, in points.
_PLACES = [
    (dx * reach, dy * reach, align, side)
    for reach in (1.0, 1.9, 3.0, 4.4, 6.5, 9.0)
    for dx, dy, align, side in (
        (8, 0, "left", "center"),
        (6, 7, "left", "bottom"),
        (6, -7, "left", "top"),
        (-8, 0, "right", "center"),
        (-6, 7, "right", "bottom"),
        (-6, -7, "right", "top"),
        (0, 9, "center", "bottom"),
        (0, -9, "center", "top"),
    )
]

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
        drawn = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        return drawn, drawn.subplots()


def looks(methods: Iterable[str], baseline: str) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each method; the same whatever the order of rows."""
    others = sorted(set(methods) - {baseline})
    assigned = {baseline: (BASELINE_COLOUR, MARKERS[0])}
    for place, method in enumerate(others):
        assigned[method] = (COLOURS[place % len(COLOURS)], MARKERS[1 + place % (len(MARKERS) - 1)])
    return assigned


def caption(text: str) -> str:
    """A text from a run file as matplotlib draws it: in one line of some length, and no formula between
    dollars.
    """
    shown = printable(text)
    shown = shown if len(shown) <= LONGEST_LABEL else f"{shown[:LONGEST_LABEL]}..."
    return shown.replace("\\$", "$").replace("$", "\\$")


def title(axes: Axes, text: str) -> None:
    """Headline at the left edge of the axes."""
    axes.set_title(caption(text), loc="left", fontsize=11, fontweight="bold")


def log_ticks(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def label_points(
    axes: Axes,
    points: Sequence[Point],
    texts: Sequence[str],
    colours: Sequence[str],
    lines: Sequence[Sequence[Point]],
) -> None:
    """Write each text beside its (x, y) point where it covers neither a point, a label nor one of the drawn
    ``lines``.
    """
    drawn = axes.figure
    assert isinstance(drawn, Figure)
    canvas = FigureCanvasAgg(drawn)
    # Constrained layout moves the axes while drawing, so places are only known after a first pass.
    canvas.draw()
    frame, pixel = axes.get_window_extent(), drawn.dpi / 72
    labels = [_square(axes.transData.transform(point), 9) for point in points]
    obstacles = np.array(
        [_square(place, 3).extents for line in lines for place in _along(axes.transData.transform(line))]
    ).reshape(-1, 4)
    for point, text, colour in zip(points, texts, colours, strict=True):
        note = _note(axes, point, text, colour, *_PLACES[0])
        size = Text.get_window_extent(note, canvas.get_renderer())
        note.remove()
        best, least = _PLACES[0], float("inf")
        for place in _PLACES:
            box = _box(axes.transData.transform(point), size, place, pixel)
            cost = _overlap(box, obstacles) + 5 * _overlap(box, np.array([label.extents for label in labels]))
            cost += 4 * _outside(box, frame) + 5 * (abs(place[0]) + abs(place[1]))
            if cost < least:
                best, least = place, cost
        labels.append(_box(axes.transData.transform(point), size, best, pixel))
        _note(axes, point, text, colour, *best)


def _box(centre: Any, size: Bbox, place: tuple[float, float, str, str], pixel: float) -> Bbox:
    """Pixels that a text of the given size covers at a place beside its point."""
    dx, dy, align, side = place
    left = centre[0] + dx * pixel - size.width * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
    low = centre[1] + dy * pixel - size.height * {"bottom": 0.0, "center": 0.5, "top": 1.0}[side]
    return Bbox.from_bounds(left, low, size.width, size.height)


def _note(
    axes: Axes, point: Point, text: str, colour: str, dx: float, dy: float, align: Any, side: Any
) -> Annotation:
    """A label with a white halo, and a thin line to its point once it lies away from it."""
    far = abs(dx) + abs(dy) > 20
    leader = (
        {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkB": 4} if far else None
    )
    halo = [withStroke(linewidth=2.5, foreground="white")]
    return axes.annotate(
        text,
        point,
        (dx, dy),
        textcoords="offset points",
        ha=align,
        va=side,
        color=colour,
        fontsize=8,
        linespacing=1.05,
        arrowprops=leader,
        path_effects=halo,
        zorder=6,
    )


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
            dpi=160,
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


def _square(centre: Any, half: float) -> Bbox:
    return Bbox.from_bounds(centre[0] - half, centre[1] - half, 2 * half, 2 * half)


def _along(corners: Any, spacing: float = 8.0) -> list[Any]:
    """Points every few pixels along a polyline."""
    places = []
    for start, stop in pairwise(np.asarray(corners)):
        steps = max(1, int(np.hypot(*(stop - start)) / spacing))
        places += [start + (stop - start) * k / steps for k in range(steps + 1)]
    return places


def _overlap(box: Bbox, others: NDArray[np.float64]) -> float:
    """Area in square pixels shared with [n, (x0, y0, x1, y1)] boxes, with a fixed price for touching one at
    all.
    """
    width = np.minimum(box.x1, others[:, 2]) - np.maximum(box.x0, others[:, 0])
    height = np.minimum(box.y1, others[:, 3]) - np.maximum(box.y0, others[:, 1])
    touching = (width > 0) & (height > 0)
    return float((width * height * touching).sum() + 30 * touching.sum())


def _outside(box: Bbox, frame: Bbox) -> float:
    shared = Bbox.intersection(box, frame)
    return box.width * box.height - (0.0 if shared is None else shared.width * shared.height)
