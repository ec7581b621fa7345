"""One tuned setting per decoder on nano's validation sets, and the run that compares all of them with their
defaults.

    python -m tests.tools.tuning -o results/tuning/nano.json             # the search; goes on where it was
    python -m tests.tools.tuning -o results/tuning/nano.json --commands  # the run's two command lines
    python -m tests.tools.tuning -o results/tuning/nano.json --estimate  # the same with each method's time

Every candidate of tuning.yaml decodes the first ``--first`` problems of both validation sets. Of a method's
candidates that lose at most ``SLACK`` of the accuracy of blocks with threshold .9 (``PLAIN``, from nano's
README: the first 64 problems of each set) the cheapest is chosen, else the most accurate; when all methods
have been searched it is measured again on ``--items`` problems. Cost is a model of one core's time,
COST_FORWARD per forward pass and COST_POSITION per position, fitted to three rows of the leaderboard: the
machine need not be quiet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from harness.decoding.registry import load_method
from harness.decoding.settings import build_config
from harness.engine.generator import Request
from harness.engine.opening import Opened, open_engine
from harness.sandbox import Jail, open_jail
from methods.training.validation import CANVAS, JUDGES
from suites.generators import frozen

COST_FORWARD, COST_POSITION = 3.7e-3, 8.7e-5
SLACK = 0.03
PLAIN = {"gsm": 0.906, "code": 1.0}
RUN_ANSWERS = 256 + 2 * 32
GRIDS = Path(__file__).with_name("tuning.yaml")


def candidates(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of a grid's values."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def evaluate(engine: Opened, suite: str, count: int, batch: int, jail: Jail) -> dict[str, float]:
    """pass@1, forwards and positions per answer on the first ``count`` validation problems."""
    items, judge = frozen.load(suite, "validation")[:count], JUDGES[suite]
    engine.generator.canvas(CANVAS)
    order = sorted(range(len(items)), key=lambda index: len(items[index]["prompt"]))
    requests = [Request(items[index]["prompt"], CANVAS) for index in order]
    done = [answer for group in engine.generator.run(requests, batch) for answer in group]
    right = [
        one.status == "ok" and judge(items[index], one.text or "", jail)
        for index, one in zip(order, done, strict=True)
    ]
    rows = [one.decoded for one in done if one.decoded is not None]
    forwards, positions = (
        sum(getattr(row, name) for row in rows) / max(len(rows), 1) for name in ("nfe", "positions")
    )
    cost = COST_FORWARD * forwards + COST_POSITION * positions
    return {
        "accuracy": sum(right) / len(right),
        "nfe": round(forwards, 2),
        "positions": round(positions, 1),
        "cost_s": round(cost, 4),
    }


def chosen(tried: Sequence[dict[str, Any]], floor: float) -> dict[str, Any]:
    """The cheapest candidate that reaches ``floor``, else the most accurate one."""
    good = [one for one in tried if one["accuracy"] >= floor]
    return (
        min(good, key=lambda one: one["cost_s"])
        if good
        else max(tried, key=lambda one: (one["accuracy"], -one["cost_s"]))
    )


def measured(
    method: str, settings: Mapping[str, Any], count: int, options: argparse.Namespace, jail: Jail
) -> dict[str, Any]:
    """Settings with their figures per suite and the suites' means."""
    engine = open_engine(method, "nano", {key: str(value).lower() for key, value in settings.items()})
    suites = [
        name
        for name in JUDGES
        if name != "code" or not getattr(engine.method.decoder, "needs_answer_position", False)
    ]
    figures = {suite: evaluate(engine, suite, count, options.batch, jail) for suite in suites}
    means = {
        name: round(sum(one[name] for one in figures.values()) / len(figures), 4)
        for name in ("accuracy", "cost_s")
    }
    found = {"settings": dict(settings), "items": count, **means, **figures}
    print(method, json.dumps(found), flush=True)
    return found


def search(
    method: str, grids: Sequence[Mapping[str, Any]], options: argparse.Namespace, jail: Jail
) -> dict[str, Any]:
    """The candidates tried and the one chosen."""
    tried = [
        measured(method, one, options.first, options, jail) for grid in grids for one in candidates(grid)
    ]
    shared = [suite for suite in JUDGES if tried and suite in tried[0]]
    floor = sum(PLAIN[suite] for suite in shared) / max(len(shared), 1) - SLACK
    return {"tuned": chosen(tried, floor)["settings"] if tried else {}, "tried": tried}


def wishes(grids: Mapping[str, Any], methods: Mapping[str, Any]) -> list[str]:
    """Every method at its default, and at its tuned settings where the search has found some."""
    found = []
    for name in grids:
        tuned = methods.get(name, {}).get("tuned", {})
        schema = load_method(name).decoder.Config
        if build_config(name, schema, tuned) == build_config(name, schema, {}):
            tuned = {}
        text = ",".join(f"{key}={str(value).lower()}" for key, value in tuned.items())
        found += [name, f"{name}:{text}"] if text else [name]
    return found


def show(wanted: Sequence[str], options: argparse.Namespace) -> None:
    """Print the run's command lines, or the seconds that its parts take by the cost model."""
    for suite in JUDGES:
        fitting = [wish for wish in wanted if suite != "code" or not wish.startswith("prophet")]
        if options.commands:
            flags = " ".join(f"--method {wish}" for wish in fitting)
            print(
                f"bench run --threads 1 --protocol standard --suite nano-{suite} -o results/decoders {flags}"
            )
            continue
        total = 0.0
        with open_jail() as jail:
            for wish in fitting:
                cost = evaluate(open_engine(wish, "nano"), suite, 4, 4, jail)["cost_s"]
                total += RUN_ANSWERS * cost
                print(f"{suite} {wish}: {cost:.3f} s per answer, {RUN_ANSWERS * cost:.0f} s", flush=True)
        print(f"{suite}: {total / 60:.1f} minutes in all", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--first", type=int, default=16)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument(
        "--methods", help="comma-separated; default: all of tuning.yaml that the file does not hold yet"
    )
    options = parser.parse_args(argv)
    grids: dict[str, list[dict[str, Any]]] = yaml.safe_load(GRIDS.read_text())
    record: dict[str, Any] = (
        json.loads(options.output.read_text())
        if options.output.is_file()
        else {"slack": SLACK, "methods": {}}
    )
    if options.commands or options.estimate:
        show(wishes(grids, record["methods"]), options)
        return
    wanted, methods = options.methods.split(",") if options.methods else list(grids), record["methods"]
    with open_jail() as jail:
        for method in [name for name in wanted if name not in methods]:
            methods[method] = search(method, grids[method], options, jail)
            store(options.output, record)
        for method in [
            name for name in wanted if methods[name]["tuned"] and "confirmed" not in methods[name]
        ]:
            methods[method]["confirmed"] = measured(
                method, methods[method]["tuned"], options.items, options, jail
            )
            store(options.output, record)


def store(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
