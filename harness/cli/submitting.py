"""What ``bench submit`` and ``bench verify`` do: check, print a line per check, write."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import typer

from harness.errors import UserError
from harness.measuring.environment import git_user
from harness.records.files import digest
from harness.records.printable import printable
from harness.records.schema import find_runs
from harness.records.submission import Submission, machine, refuse_existing, row_of, write_folder
from harness.runs.publishing import publishable, without_paths
from harness.runs.reanswer import against_grades, against_ids, against_suite
from harness.runs.recheck import Check, Skipped, Stored, checked, recheck
from harness.runs.submitted import against_manifest, ordinary
from harness.runs.suite import FEWSHOT_SEED, Rendering
from harness.sandbox import open_jail
from reports.load import find_run
from reports.table import BASELINE_METHOD
from suites.grading import grade_lines
from suites.suite import Suite, load_suite

HOME = Path("results") / "submissions"
MARKS = {True: "ok", False: "REFUSED", None: "skipped"}


class PublishError(UserError, ValueError):
    """An argument of ``bench submit`` or ``bench verify`` that cannot be followed."""


def submit(runs: Sequence[str], output: Path | None, by: str | None, note: str | None, root: Path) -> bool:
    """Check runs and write them to a folder if all is well; whether it was."""
    folders = [folder for name in runs for folder in find_runs(find_run(name, root))]
    if not folders:
        raise PublishError(f"no run below {runs[0]}: give the folder that `bench run --output_path` wrote to")
    if output is not None:
        refuse_existing(output)
    host = platform.node()
    passed, found = True, list[Stored]()
    for folder in folders:
        stored, unread = _read(folder)
        if stored is not None:
            found.append(stored)
            stored.run.command = without_paths(stored.run.command)
        checks = [unread] if stored is None else _checks(stored, host=host if len(host) > 3 else None)
        passed = _show(str(folder), checks) and passed
    if len({digest(machine(stored.run)) for stored in found}) > 1:
        text = "the runs are of several machines: submit those of each by themselves"
        passed = _show("all runs", [Check("machine", False, text)])
    for suite in _without_baseline(found):
        _show(suite, [Check("baseline", None, "no vanilla row: its table will have no speed-up")])
    if not passed:
        typer.echo("nothing was written")
        return False
    rows = {row_of(stored.run).folder: stored for stored in found}
    target = output or HOME / f"{found[0].run.plan.device_name}-{digest(sorted(rows))[:8]}"
    made = Submission(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        by=by or git_user(),
        note=note,
        machine=machine(found[0].run),
        rows=[row_of(stored.run) for stored in found],
        files={},
    )
    made = write_folder(target, made, {place: (one.folder, one.run) for place, one in rows.items()})
    typer.echo(f"{len(rows)} rows by {made.by or 'nobody named (--by)'} written to {target}")
    typer.echo(f"check it as the pull request will: bench verify {target}")
    return True


def _without_baseline(found: Iterable[Stored]) -> list[str]:
    """Suites of which no row can be the baseline of a table."""
    methods: dict[str, set[str]] = {}
    for stored in found:
        methods.setdefault(stored.run.plan.suite, set()).add(stored.run.plan.method)
    return [suite for suite, names in methods.items() if BASELINE_METHOD not in names]


def verify(folders: Sequence[Path], *, grade: bool, manifest: bool) -> bool:
    """Check folders and what is in them; whether nothing was refused."""
    passed = True
    for folder in folders:
        if not folder.is_dir():
            raise PublishError(f"{folder} is no folder: give one that `bench submit` wrote")
        for title, checks in _verified(folder, grade, manifest):
            passed = _show(title, checks) and passed
    return passed


def _verified(folder: Path, grade: bool, manifest: bool) -> Iterator[tuple[str, list[Check]]]:
    """(title, checks) of the folder itself and then of every run in it."""
    whole = [checked("files", partial(ordinary, folder))]
    if whole[0].passed and manifest:
        whole += against_manifest(folder)
    runs = list(find_runs(folder)) if whole[0].passed else []
    if whole[0].passed and not runs:
        whole.append(Check("runs", False, "there is no run in the folder"))
    yield str(folder), whole
    for place in runs:
        stored, unread = _read(place)
        told = [unread] if stored is None else _checks(stored, grade, sealed=manifest)
        yield str(place), told


def _read(folder: Path) -> tuple[Stored | None, Check]:
    found: list[Stored] = []

    def read() -> str:
        found.append(Stored.read(folder))
        return "run.json and samples.jsonl"

    check = checked("readable", read)
    return (found[0] if found else None), check


def _checks(stored: Stored, grade: bool = True, sealed: bool = True, host: str | None = None) -> list[Check]:
    checks = [*recheck(stored), *publishable(stored, sealed, host)]
    found: list[Suite] = []

    def suite() -> Suite:
        """The suite, if its documents are here."""
        if not found:
            plan = stored.run.plan
            rendering = Rendering(plan.template, plan.num_fewshot, plan.fewshot_seed or FEWSHOT_SEED)
            found.append(load_suite(plan.suite, None, rendering))
        if not found[0].embedded:
            raise Skipped(f"the documents of {found[0].name} do not ship with this package")
        return found[0]

    works = {
        "prompts": lambda: against_suite(stored, suite()),
        "texts": lambda: against_ids(stored, suite()),
        "grades": lambda: against_grades(stored, partial(_grades, stored, suite())),
    }
    if not grade:
        works.pop("grades")
    return checks + [checked(name, work) for name, work in works.items()]


def _grades(stored: Stored, suite: Suite) -> Iterable[tuple[bool | None, str]]:
    lines = [{"doc_id": one.doc_id, "text": one.text} for one in stored.samples if one.text is not None]
    if not suite.needs_code:
        return [(grade.correct, grade.detail) for grade in grade_lines(suite, lines, stored=True)]
    with open_jail() as jail:
        return [(grade.correct, grade.detail) for grade in grade_lines(suite, lines, jail, stored=True)]


def _show(title: str, checks: Iterable[Check]) -> bool:
    """Print the table of one run or folder; whether nothing in it was refused."""
    typer.echo(printable(title))
    passed = True
    for check in checks:
        typer.echo(f"  {MARKS[check.passed]:<8}{check.name:<14}{check.detail}")
        passed = passed and check.passed is not False
    return passed
