"""A stored sample as an animation: one frame per forward pass, GIF or WebP by the file's ending."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from harness.records.schema import Sample
from reports.load import ReportError
from reports.replay import replay

COLUMNS = 72
LINE, MARGIN, FONT_SIZE = 22, 16, 15
LONGEST = 480
"""Frames at most; beyond, forward passes are skipped evenly."""

FILL = 120
"""Width of a block's bar in pixels."""

INK, SOFT, FAINT, HIDDEN, NEW, ACCENT = "#1d2129", "#5d6470", "#9aa1ab", "#e9ecef", "#f6b26b", "#0072b2"
EARLY, LATE = (253, 231, 160), (133, 178, 232)

Cell = tuple[int, int, str]
Pen = ImageDraw.ImageDraw


def animate(sample: Sample, path: Path, *, seconds: float = 6.0, title: str = "") -> int:
    """Write the animation of ``sample`` lasting about ``seconds`` (the last frame stays longer); returns the
    number of frames.

    ReportError if the sample has no step map or ``path`` ends in neither .gif nor .webp.
    """
    if path.suffix not in (".gif", ".webp"):
        raise ReportError(f"--output {path} must end in .gif or .webp")
    data = replay(sample)
    if not data["pieces"]:
        raise ReportError(
            f"document {sample.doc_id} of {sample.run_id} has no step map: it was stored without a trace"
        )
    total = max(sample.nfe or 0, max(data["steps"]) + 1)
    frames = [
        _frame(data, done, total, title or f"{sample.method} on {sample.suite} #{sample.doc_id}")
        for done in _moments(total)
    ]
    pause = max(20, int(1000 * seconds / len(frames)))
    durations = [pause] * (len(frames) - 1) + [max(2000, pause)]
    try:
        if path.suffix == ".gif":
            # One palette for all frames, taken from the last (it has every colour); otherwise colours
            # flicker.
            palette = frames[len(frames) // 2].quantize(128)
            frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
            frames[0].save(
                path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False
            )
        else:
            frames[0].save(
                path, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=85
            )
    except OSError as error:
        raise ReportError(f"cannot write --output {path}: {error.strerror or error}") from None
    return len(frames)


def _moments(total: int) -> list[int]:
    """How many forward passes are done at each frame, from none to all."""
    if total <= LONGEST:
        return list(range(total + 1))
    return [round(place * total / LONGEST) for place in range(LONGEST + 1)]


def _frame(data: dict[str, Any], done: int, total: int, title: str) -> Image.Image:
    cells = _layout(data["pieces"], {start for _, start, _ in data["blocks"]})
    lines = max(line for token in cells for line, _, _ in token) + 1
    font = _font("DejaVuSansMono.ttf", FONT_SIZE)
    wide = font.getlength("M")
    image = Image.new("RGB", (int(2 * MARGIN + COLUMNS * wide), 2 * MARGIN + 52 + LINE * lines), "white")
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN - 4), title, INK, _font("DejaVuSans-Bold.ttf", 15))
    written = sum(0 <= step < done for step in data["steps"])
    pen.text(
        (MARGIN, MARGIN + 17),
        f"forward {done} of {total}, {written} of {len(data['steps'])} tokens written",
        SOFT,
        _font("DejaVuSans.ttf", 13),
    )
    for token, step, late in zip(cells, data["steps"], data["late"], strict=True):
        on = 0 <= step < done
        fill = (
            HIDDEN
            if not on
            else NEW
            if step == done - 1 and done < total
            else _tint(step / max(total - 1, 1))
        )
        for line, column, text in token:
            left, top = MARGIN + column * wide, MARGIN + 44 + line * LINE
            pen.rounded_rectangle((left + 0.5, top, left + len(text) * wide - 1, top + LINE - 3), 3, fill)
            if on:
                pen.text((left, top + 1), text, FAINT if late else INK, font)
    for block in data["blocks"]:
        _heading(pen, data, cells, done, *block)
    _progress(pen, image, done / total if total else 1.0)
    return image


def _heading(
    pen: Pen, data: dict[str, Any], cells: list[list[Cell]], done: int, name: str, start: int, length: int
) -> None:
    """Above a block: its name, how much of it is written, and the mean confidence of that."""
    if start >= len(cells):
        return
    known = [
        data["confidence"][place]
        for place in range(start, min(start + length, len(cells)))
        if 0 <= data["steps"][place] < done
    ]
    top, font = MARGIN + 44 + (cells[start][0][0] - 1) * LINE, _font("DejaVuSans.ttf", 13)
    sure = [value for value in known if value >= 0]
    text = f"{len(known)} of {length}" + (f", confidence {sum(sure) / len(sure):.0f}%" if sure else "")
    pen.text((MARGIN, top + 2), name, INK, _font("DejaVuSans-Bold.ttf", 14))
    pen.rounded_rectangle((MARGIN + 20, top + 7, MARGIN + 20 + FILL, top + 13), 3, HIDDEN)
    if known:
        pen.rounded_rectangle(
            (MARGIN + 20, top + 7, MARGIN + 20 + FILL * len(known) / length, top + 13), 3, ACCENT
        )
    pen.text((MARGIN + 30 + FILL, top + 2), text, SOFT, font)


def _layout(pieces: list[str], starts: Container[int]) -> list[list[Cell]]:
    """Per token: (line, column, text) of each stretch it covers; tokens wrap at COLUMNS and break at
    newlines.

    Each of ``starts`` begins a new line with room for a heading above it.
    """
    line = column = 0
    placed: list[list[Cell]] = []
    for position, piece in enumerate(pieces):
        if position in starts:
            line, column = (line + 2 if position else 1), 0
        token: list[Cell] = []
        parts = piece.split("\n")
        for place, part in enumerate(parts):
            text = part + ("\u21b5" if place < len(parts) - 1 else "")
            while text:
                if column >= COLUMNS:
                    line, column = line + 1, 0
                token.append((line, column, text[: COLUMNS - column]))
                column, text = column + len(token[-1][2]), text[COLUMNS - column :]
            if place < len(parts) - 1:
                line, column = line + 1, 0
        placed.append(token or [(line, min(column, COLUMNS - 1), "")])
    return placed


def _progress(pen: Pen, image: Image.Image, share: float) -> None:
    bottom = image.height - 6
    pen.rectangle((MARGIN, bottom - 3, image.width - MARGIN, bottom), HIDDEN)
    if share > 0:
        pen.rectangle((MARGIN, bottom - 3, MARGIN + share * (image.width - 2 * MARGIN), bottom), ACCENT)


def _tint(share: float) -> tuple[int, int, int]:
    red, green, blue = (
        round(early + (late - early) * share) for early, late in zip(EARLY, LATE, strict=True)
    )
    return red, green, blue


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that matplotlib ships, so that frames look the same on every machine."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
