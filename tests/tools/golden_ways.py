"""All golden cases alone, packed, continuous, with each implementation of attention and with traced layers:
``python -m tests.tools.golden_ways [--way NAME]... [--every N]``.

A case whose answer is another one is named; ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

import torch

from tests.ways import WAYS, different, goldens


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", action="append", choices=list(WAYS))
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    equal, other, started = Counter[str](), Counter[str](), time.process_time()
    cases = goldens()[:: asked.every]
    for number, case in enumerate(cases, 1):
        found = different(case, asked.way or tuple(WAYS))
        equal.update(way for way, differs in found.items() if differs is False)
        other.update(way for way, differs in found.items() if differs)
        if any(found.values()):
            print(
                f"{case['case']}: {', '.join(way for way, differs in found.items() if differs)}", flush=True
            )
        if number % 50 == 0:
            took = time.process_time() - started
            print(f"{number} of {len(cases)}, {took:.0f} s of processor time", file=sys.stderr, flush=True)
    print("| way | equal | different |\n|---|--:|--:|")
    for way in ("eager", *(asked.way or WAYS)):
        print(f"| {way} | {equal[way]} | {other[way]} |")
    return bool(other)


if __name__ == "__main__":
    sys.exit(main())
