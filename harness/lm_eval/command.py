"""``bench lm-eval``: lm-eval's own command line, our model and suites registered, counts in the samples."""

from __future__ import annotations

import sys
from typing import Any

import torch
import typer
from lm_eval._cli import HarnessCLI
from lm_eval.loggers import EvaluationTracker
from lm_eval.utils import setup_logging

from harness.lm_eval.model import LATEST, merge_counts
from harness.lm_eval.tasks import SUITES, quiet

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval_command(context: typer.Context) -> None:
    """lm-eval's own command line with model `dllm` registered."""
    sys.exit(run_lm_eval(context.args))


def run_lm_eval(arguments: list[str]) -> int:
    """Run ``lm-eval`` with ``arguments``; our suites are found unless --include_path says otherwise."""

    save = EvaluationTracker.save_results_samples

    def save_with_counts(self: Any, task_name: str, samples: Any) -> Any:
        for model in LATEST:
            merge_counts(model, task_name, samples)
        return save(self, task_name, samples)

    EvaluationTracker.save_results_samples = save_with_counts  # pyright: ignore[reportAttributeAccessIssue]
    helping = not arguments or "-h" in arguments or "--help" in arguments
    if not helping and not any(argument.split("=")[0] == "--include_path" for argument in arguments):
        arguments = [*arguments, "--include_path", SUITES]
    if not helping and not any(argument.split("=")[0] == "--device" for argument in arguments):
        # lm-eval's default is cuda:0, also where there is none.
        arguments = [*arguments, "--device", "cuda:0" if torch.cuda.is_available() else "cpu"]
    setup_logging()
    sys.argv = ["lm-eval", *arguments]
    cli = HarnessCLI()
    with quiet():
        cli.execute(cli.parse_args())
    for model in LATEST:
        model.leave_ranks()
    return 0
