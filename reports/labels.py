"""Names beside points: inside the axes, never one upon another, off points and lines where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

Point = tuple[float, float]
Boxes = NDArray[np.float64]

GAP = 2.0
"""Points (1/72 inch) kept free around a name: another renderer draws the same text a little wider."""
DOT = 5.0
"""Points around the middle of a marker that it covers."""
_ROUNDS = 3
_REACHES = (1.0, 1.6, 2.4, 3.4, 4.6, 6.0, 8.0, 11.0, 15.0, 20.0, 27.0)
_DIRECTIONS = 16


@dataclass(frozen=True)
class Place:
    """Where a name lies: offset of its anchor from the point, in points of 1/72 inch, and the side of the
    text that the anchor holds.
    """

    dx: float
    dy: float
    align: str
    side: str

    @property
    def reach(self) -> float:
        return float(np.hypot(self.dx, self.dy))


def _places() -> list[Place]:
    found = []
    for reach in _REACHES:
        for turn in range(_DIRECTIONS):
            across, up = np.cos(angle := 2 * np.pi * turn / _DIRECTIONS), np.sin(angle)
            align = "left" if across > 0.3 else "right" if across < -0.3 else "center"
            side = "bottom" if up > 0.3 else "top" if up < -0.3 else "center"
            found.append(Place(float(8 * reach * across), float(9 * reach * up), align, side))
    return found


PLACES = _places()


def label_points(
    axes: Axes,
    points: Sequence[Point],
    texts: Sequence[str],
    colours: Sequence[str],
    lines: Sequence[Sequence[Point]],
    others: Sequence[Point] = (),
) -> list[int]:
    """Write each text beside its (x, y) point; earlier ones choose first. Returns the indices of those that
    found a place.

    A text lies wholly inside the axes, on no other text, on no other's line to its point and not on its own
    point; a text that cannot is left out. Among the places
    that are free, one that covers few of ``points``, ``others`` and drawn ``lines`` and is near wins. The
    figure's layout is frozen, since places hold for it alone.
    """
    drawn = axes.figure
    assert isinstance(drawn, Figure)
    canvas = FigureCanvasAgg(drawn)
    # Constrained layout moves the axes while drawing, so places are only known after a first pass.
    canvas.draw()
    drawn.set_layout_engine("none")
    pixel = drawn.dpi / 72
    centres = [axes.transData.transform(point) for point in points]
    dots = [_square(centre, DOT * pixel) for centre in [*centres, *map(axes.transData.transform, others)]]
    walls = [_square(at, 2 * pixel) for line in lines for at in _along(axes.transData.transform(line), 6)]
    field = _Field(axes.get_window_extent(), np.array([*dots, *walls]).reshape(-1, 4), len(dots), pixel)
    sizes = [_size(axes, canvas, text) for text in texts]
    chosen: dict[int, Place] = {}
    for _ in range(_ROUNDS):
        for number, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
            taken = [
                (centres[k], _box(centres[k], sizes[k], place, pixel))
                for k, place in chosen.items()
                if k != number
            ]
            chosen.pop(number, None)
            if (place := field.best(centre, size, taken)) is not None:
                chosen[number] = place
    for number, place in sorted(chosen.items()):
        box = _box(centres[number], sizes[number], place, pixel)
        note(axes, points[number], texts[number], colours[number], place, _edge(centres[number], box))
    return sorted(chosen)


@dataclass(frozen=True)
class _Field:
    """The axes in pixels: ``frame``, and [n, (x0, y0, x1, y1)] things that a name had better not cover, of
    which the first ``dots`` are points.
    """

    frame: Bbox
    things: Boxes
    dots: int
    pixel: float

    def best(self, centre: Any, size: Bbox, taken: Sequence[tuple[Any, Bbox]]) -> Place | None:
        """The cheapest free place of a text, None if there is none; ``taken``: point and box of other
        names.
        """
        boxes = np.array([box.extents for _, box in taken]).reshape(-1, 4)
        leaders = np.array([at for point, box in taken for at in _leader(point, box)]).reshape(-1, 2)
        own = np.array([_square(centre, DOT * self.pixel)])
        best, least = None, float("inf")
        for place in PLACES:
            box = _box(centre, size, place, self.pixel)
            wide = box.padded(GAP * self.pixel)
            if not _within(wide, self.frame) or _touching(wide, boxes).any() or _touching(box, own).any():
                continue
            leader = np.array(_leader(centre, box)).reshape(-1, 2)
            if _through(leader, boxes) or _through(leaders, np.array([box.extents])):
                continue
            cost = self._cost(centre, box, place)
            if cost < least:
                best, least = place, cost
        return best

    def _cost(self, centre: Any, box: Bbox, place: Place) -> float:
        touched = _touching(box, self.things)
        dots, at = self.things[: self.dots], np.array(_leader(centre, box)).reshape(-1, 1, 2)
        on = (dots[:, :2] <= at) & (at <= dots[:, 2:])
        own = (dots[:, :2] <= centre).all(1) & (centre <= dots[:, 2:]).all(1)
        crossed = int((on.all(2).any(0) & ~own).sum())
        covered = 900.0 * touched[: self.dots].sum() + 60.0 * touched[self.dots :].sum()
        return covered + 300.0 * crossed + 5.0 * place.reach


def note(
    axes: Axes, point: Point, text: str, colour: str, place: Place, edge: Point = (0.5, 0.5)
) -> Annotation:
    """A name with a white halo, and a thin line to its point once it lies away from it; the line begins at
    ``edge``, in shares of the text's box.
    """
    look = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
    leader = {**look, "relpos": edge} if place.reach > 18 else None
    made = axes.annotate(
        text,
        point,
        (place.dx, place.dy),
        textcoords="offset points",
        ha=place.align,  # pyright: ignore[reportArgumentType]
        va=place.side,  # pyright: ignore[reportArgumentType]
        color=colour,
        fontsize=8,
        linespacing=1.05,
        arrowprops=leader,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=6,
    )
    made.set_in_layout(False)
    return made


def _size(axes: Axes, canvas: FigureCanvasAgg, text: str) -> Bbox:
    trial = note(axes, (0, 0), text, "black", PLACES[0])
    size = Text.get_window_extent(trial, canvas.get_renderer())
    trial.remove()
    return size


def _box(centre: Any, size: Bbox, place: Place, pixel: float) -> Bbox:
    """Pixels that a text of the given size covers at a place beside its point."""
    left = centre[0] + place.dx * pixel - size.width * {"left": 0.0, "center": 0.5, "right": 1.0}[place.align]
    low = centre[1] + place.dy * pixel - size.height * {"bottom": 0.0, "center": 0.5, "top": 1.0}[place.side]
    return Bbox.from_bounds(left, low, size.width, size.height)


def _edge(point: Any, box: Bbox) -> Point:
    """Where the line from a point meets its name, in shares of the name's box."""
    x, y = np.clip(point, [box.x0, box.y0], [box.x1, box.y1])
    return float((x - box.x0) / box.width), float((y - box.y0) / box.height)


def _leader(point: Any, box: Bbox) -> list[Any]:
    """Pixels every few along the line from a point to the nearest edge of its name."""
    end = np.clip(point, [box.x0, box.y0], [box.x1, box.y1])
    return _along([point, end], 2)[1:-1]


def _square(centre: Any, half: float) -> tuple[float, float, float, float]:
    return centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half


def _along(corners: Any, spacing: float) -> list[Any]:
    """Points every few pixels along a polyline."""
    places: list[Any] = []
    for start, stop in pairwise(np.asarray(corners)):
        steps = max(1, int(np.hypot(*(stop - start)) / spacing))
        places += [start + (stop - start) * k / steps for k in range(steps + 1)]
    return places


def _touching(box: Bbox, others: Boxes) -> NDArray[np.bool_]:
    """Which of [n, (x0, y0, x1, y1)] boxes share area with a box."""
    width = np.minimum(box.x1, others[:, 2]) - np.maximum(box.x0, others[:, 0])
    height = np.minimum(box.y1, others[:, 3]) - np.maximum(box.y0, others[:, 1])
    return (width > 0) & (height > 0)


def _within(box: Bbox, frame: Bbox) -> bool:
    return box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1


def _through(spots: NDArray[np.float64], boxes: Boxes) -> bool:
    """Whether any of [n, 2] spots lies in any of [m, (x0, y0, x1, y1)] boxes."""
    inside = (boxes[None, :, :2] <= spots[:, None]) & (spots[:, None] <= boxes[None, :, 2:])
    return bool(inside.all(2).any())
