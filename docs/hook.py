"""Hook of mkdocs: README, CONTRIBUTING and the notebook are pages of the site too, and what pages show or
name from outside docs/ comes along.

The site's root is the repository's root laid over docs/, so a link loses its ``docs/`` or ``../`` and nothing
else.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")
NOTEBOOK = "tour.ipynb"
_LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]+)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the root, and every file of the repository that a page links to."""
    sources = [ROOT / name for name in PAGES]
    outside = {path for page in [*sources, *Path(config.docs_dir).glob("*.md")] for path in linked(page)}
    for path in [*sources, *sorted(outside - {*sources})]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for name, content in from_notebook(json.loads((ROOT / "docs" / NOTEBOOK).read_text())).items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page as they read from the site's root."""
    shown = markdown.replace(NOTEBOOK, "tour.md")
    return _LINK.sub(lambda link: link[1].removeprefix("../").removeprefix("docs/"), shown)


def linked(page: Path) -> set[Path]:
    """Files of the repository, outside docs/, that a Markdown page links to."""
    found = ((page.parent / link).resolve() for link in _LINK.findall(page.read_text()))
    return {
        path
        for path in found
        if path.is_file() and path.is_relative_to(ROOT) and path.parent != ROOT / "docs"
    }


def from_notebook(notebook: dict[str, Any]) -> dict[str, str | bytes]:
    """``tour.md`` and the pictures in it: every cell in its order, what it put out below it."""
    files: dict[str, str | bytes] = {}
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if "text" in output:
                parts.append("```text\n" + "".join(output["text"]).rstrip() + "\n```")
            else:
                name = f"tour-{len(files)}.png"
                files[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![what the cell above draws]({name})")
    return {**files, "tour.md": "\n\n".join(parts) + "\n"}
