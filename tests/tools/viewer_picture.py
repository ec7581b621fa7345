"""docs/lockstep-viewer.png anew, in Chromium: ``python -m tests.tools.viewer_picture``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from harness.cli.view import questions
from reports.boards import boards
from reports.load import load
from reports.site import site, write
from tests.browser import Browser

ROOT = Path(__file__).parents[2]
SUITE, LEFT, RIGHT = "nano-gsm-ra", "lockstep mode=gauss_seidel tau_r=0.6", "lockstep a_after_r=1"
SHARE = 0.62
"""Of the way through the answers."""
CHOOSE = """
(() => {
  const fits = (run, label) => Data.tables[run.table].suite === SUITE && run.label.startsWith(label);
  const named = (label) => Data.runs.find((run) => fits(run, label));
  location.hash = Route.sample(named(LEFT), "0", { with: named(RIGHT).run });
})()
"""
MOVE = """
(() => {
  const at = document.getElementById('v-at');
  at.value = Math.round(SHARE * at.max);
  at.dispatchEvent(new Event('input'));
})()
"""


def main() -> None:
    """Two stored answers beside each other, more than half written."""
    root, names = (
        ROOT / "results" / "lockstep",
        {"SUITE": SUITE, "LEFT": LEFT, "RIGHT": RIGHT, "SHARE": SHARE},
    )
    choose, move = CHOOSE, MOVE
    for name, value in names.items():
        choose, move = choose.replace(name, repr(value)), move.replace(name, repr(value))
    with tempfile.TemporaryDirectory() as folder, Browser(1280, 900) as browser:
        write(site(boards(root, load(root)), ask=questions), Path(folder), ("plots/",))
        browser.open(Path(folder) / "index.html")
        browser.evaluate(choose)
        browser.wait(
            "document.body.dataset.at === location.hash && document.getElementById('v-panel-1') !== null"
        )
        browser.evaluate(move)
        path = ROOT / "docs" / "lockstep-viewer.png"
        browser.screenshot(path)
        print(browser.problems or path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
