"""The answers of committed runs, decoded again by today's code: every id and every count of forwards must be
the stored one.

python -m tests.tools.committed_answers [RESULTS] [--limit 8] [--batch-size 1]

One line per run; exit status 1 if any answer differs. Runs whose weights are not shipped are named and left
out. At a batch size above 1 the same answers must come out of rows decoded together. Ties within a float's
last bits may fall otherwise on another processor.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from harness.decoding.registry import load_method
from harness.decoding.settings import setting_names
from harness.engine.generator import Request
from harness.engine.opening import Weights, Wish, open_engine
from harness.model.spec import CheckpointError
from harness.records.schema import Run, Sample, find_runs, read_run, read_samples
from harness.runs.cell import measured
from suites.suite import SuiteError, load_suite


def again(run: Run, samples: list[Sample], limit: int, batch_size: int) -> list[tuple[Sample, bool]]:
    """The first ``limit`` documents of the run's first pass, each with whether ids and forwards are equal."""
    plan = run.plan
    known = setting_names(load_method(plan.method).decoder.Config)
    if unknown := set(plan.settings) - set(known):
        raise ValueError(f"settings no longer known: {', '.join(sorted(unknown))}")
    weights = Weights(plan.model, plan.adapter, plan.merged is not False, plan.dtype, "cpu")
    generator = open_engine(
        Wish(plan.method, dict(plan.settings)), weights, seed=plan.seed, stop_rule=plan.stop_rule
    ).generator
    suite = load_suite(plan.suite)
    docs = dict(suite.docs(plan.limit))
    stored = list(
        islice((sample for sample in samples if sample.repeat == 0 and sample.output_ids is not None), limit)
    )
    requests = [
        Request(
            suite.prompt(docs[sample.doc_id]),
            plan.max_new_tokens,
            tuple(suite.stop),
            blocks=tuple(plan.blocks),
        )
        for sample in stored
    ]
    rows = [generation.decoded for batch in generator.run(requests, batch_size) for generation in batch]
    return [
        (
            sample,
            row is not None
            and measured(row, generator.loaded.tokenizer)["output_ids"] == sample.output_ids
            and row.nfe == sample.nfe,
        )
        for sample, row in zip(stored, rows, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=1)
    options = parser.parse_args()
    equal = total = left = 0
    for folder in sorted(find_runs(options.results)):
        run = read_run(folder)
        try:
            found = again(run, read_samples(folder), options.limit, options.batch_size)
        except (CheckpointError, SuiteError) as error:
            left += 1
            print(f"left out   {folder}: {str(error).split(' and could')[0]}", flush=True)
            continue
        different = [sample.doc_id for sample, same in found if not same]
        equal, total = equal + len(found) - len(different), total + len(found)
        print(
            f"{len(found) - len(different):3d} of {len(found):3d}  {folder}"
            + (f": not {different}" if different else ""),
            flush=True,
        )
    print(f"{equal} of {total} answers equal; {left} runs left out")
    raise SystemExit(equal != total)


if __name__ == "__main__":
    main()
