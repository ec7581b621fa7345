"""Which sub-commands ``bench`` has."""

from __future__ import annotations

import sys

import typer

from harness.cli.check import check_command
from harness.cli.decode import decode_command
from harness.cli.generate import generate_command
from harness.cli.listing import list_command
from harness.cli.run import run_command
from harness.cli.sweep import sweep_command
from reports.cli.project import project_command

_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def mount(app: typer.Typer) -> None:
    """Attach every sub-command to ``app``."""
    app.command("run")(run_command)
    app.command("list")(list_command)
    app.command("decode")(decode_command)
    app.command("generate")(generate_command)
    app.command("check")(check_command)
    app.command("project")(project_command)
    app.command("sweep")(sweep_command)
    app.command("lm-eval", context_settings=_PASS_THROUGH, help="lm-eval's own command line with model `dllm` registered.")(lm_eval_command)
    _mount_suites(app)
    _mount_reports(app)
    _mount_training(app)


def _mount_suites(app: typer.Typer) -> None:
    from suites.cli import grade_command, score_command, suite_app

    app.add_typer(suite_app, name="suite")
    app.command("grade")(grade_command)
    app.command("score")(score_command)


def _mount_reports(app: typer.Typer) -> None:
    from reports.cli.report import compare_command, report_command, trace_command

    app.command("report")(report_command)
    app.command("compare")(compare_command)
    app.command("trace")(trace_command)


def _mount_training(app: typer.Typer) -> None:
    from methods.training.cli import app as training
    from methods.training.cli.data import generate_data_command

    app.command("generate-data")(generate_data_command)
    app.add_typer(training, name="train", help="Train nano and distil students.")


def lm_eval_command(context: typer.Context) -> None:
    """Hand the rest of the command line to lm-eval."""
    from harness.lm_eval.command import run_lm_eval

    sys.exit(run_lm_eval(context.args))
