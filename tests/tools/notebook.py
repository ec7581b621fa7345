"""docs/tour.ipynb with its outputs anew: ``python -m tests.tools.notebook``.

Runs the code cells in order in one namespace, as Jupyter would, without needing it: what is printed is one
output, every figure that pyplot holds at a cell's end another.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "docs" / "tour.ipynb"
DPI = 80


def execute(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each code cell and what it puts out, as nbformat 4 has it."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.parse("".join(cell["source"])), f"{PATH.name}, cell {number}", "exec"), names)
        outputs = [{"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(True)}]
        outputs = outputs if printed.getvalue() else []
        yield cell, [*outputs, *(_picture(plt.figure(figure)) for figure in plt.get_fignums())]
        plt.close("all")


def _picture(figure: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": ["<Figure>"]}
    return {"data": data, "metadata": {}, "output_type": "display_data"}


def main() -> None:
    """Run every cell and write the notebook with what they put out."""
    notebook = json.loads(PATH.read_text())
    for number, (cell, outputs) in enumerate(execute(notebook), 1):
        cell |= {"execution_count": number, "outputs": outputs}
    PATH.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    print(f"{PATH}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
