"""In the jail: the script of the server for decoders, started by
``harness.sandbox.launch.start_guest(server=True)``.

Its argument is JSON: control (descriptor), search (folders of packages), shown (names in them that can be
read), preload (modules), capability (of the processor, as torch names it).
"""

from __future__ import annotations

import importlib
import importlib.abc
import json
import os
import sys
from typing import Any

PLAN = json.loads(sys.argv[1])


class _Unseen(importlib.abc.MetaPathFinder):
    """Packages that are installed but not shown do not exist: a jail that keeps the machine's root can list,
    but not read them.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        top = fullname.partition(".")[0]
        if path is None and top not in PLAN["shown"]:
            for folder in PLAN["search"]:
                if os.path.exists(f"{folder}/{top}") or os.path.exists(f"{folder}/{top}.py"):
                    raise ModuleNotFoundError(f"No module named {fullname!r} (behind glass)", name=fullname)


sys.meta_path.insert(0, _Unseen())
# Without /proc torch does not find out which vector instructions there are, and then sums in another order
# than the judge would.
os.environ["ATEN_CPU_CAPABILITY"] = PLAN["capability"]
importlib.import_module("harness.engine.isolation.serving").serve(
    PLAN, globals()["work"], globals()["confine"]
)
