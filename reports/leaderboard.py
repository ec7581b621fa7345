"""The Markdown leaderboard: one table per suite and comparability key, with the whole configuration below
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from harness.decoding.settings import setting_text
from harness.records.printable import as_code, in_markdown
from harness.statistics.verdict import NEAR_ZERO
from reports import aup, sensitivity
from reports.cells import UNKNOWN, columns, time_shares
from reports.load import StoredRun, left_out
from reports.published import Published
from reports.published import markdown as published_markdown
from reports.table import Table, TableRow, build

LEGEND = (
    "TPS: useful tokens per second. TPF: useful tokens per forward pass. NFE: forward passes per answer. "
    "Work: query positions computed per useful token. Intervals are 95%."
)
SHARES = (
    "Forward, select, harness: shares of decode time inside the model, in the method's own choice of tokens, "
    "and in the harness (masks, "
    "cache, batching, writing, stop rule)."
)


def leaderboard(
    runs: Sequence[StoredRun],
    heading: str = "##",
    published: Published | None = None,
    tables: Sequence[Table] | None = None,
    pictures: Mapping[str, str] | None = None,
) -> str:
    """Markdown of all tables, the runs left out with the reason, and published figures apart; ends with a
    newline.

    ``tables`` are ``build(runs)`` if they have been built already; ``pictures`` are shown above the table of
    their comparability key.
    """
    tables, pictures = build(runs) if tables is None else tables, pictures or {}
    parts = [section(table, heading, pictures.get(table.key)) for table in tables] or [
        "No run may be shown in a table yet.\n"
    ]
    parts += [sensitivity.markdown(one, heading) for one in sensitivity.find(tables)]
    parts += excluded(left_out(runs), heading)
    return "\n".join(parts if published is None else [*parts, published_markdown(published, heading)])


def section(table: Table, heading: str = "##", picture: str | None = None) -> str:
    """Heading, table, notes and configuration of one comparability key."""
    model, place = in_markdown(table.rows[0].stored.run.plan.model), in_markdown(device(table))
    title = f"{heading} {in_markdown(table.heading)}, {table.documents} problems, {model} on {place}\n"
    shown = [f"![{in_markdown(table.suite)}: quality against speed]({_link(picture)})\n"] if picture else []
    said = (f"{note}\n" for note in notes(table, in_markdown))
    return "\n".join([title, *shown, markdown(table), *said, configuration(table)])


def markdown(table: Table) -> str:
    """The bare table; the baseline row is bold."""
    shown = columns(table.rows)
    lines = [
        _line(column.heading for column in shown),
        _line("---" if column.value is None else "--:" for column in shown),
    ]
    for row in table.rows:
        cells = [_cell(column.heading, column.text(row)) for column in shown]
        cells[0] = _name(row)
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def notes(table: Table, shown: Callable[[str], str] = str) -> list[str]:
    """What a reader must know before believing the table, each a sentence or two; ``shown`` writes the labels
    of rows.
    """
    found = [f"{LEGEND} {SHARES}" if any(time_shares(row.stored.summary) for row in table.rows) else LEGEND]
    if table.baseline is None:
        found.append("There is no vanilla run under this configuration, so there is no speed-up.")
    else:
        found.append(
            "Baseline: the vanilla run with the most forwards. Speed-up: paired per problem, bootstrap "
            "interval; "
            "claims are corrected for the number of methods (Holm)."
        )
    if table.near_zero:
        found.append(
            f"**pass@1 is near 0 (below {NEAR_ZERO:.0%}) in every row:** this model cannot solve this suite, "
            "so the accuracy column says "
            "nothing about the decoders; read the speeds only."
        )
    if engine := table.rows[0].stored.run.plan.engine:
        found.append(f"{shown(engine)} decodes by itself: NFE, TPF and work are not measured, nor audited.")
    errors = [
        f"{shown(row.label)}: {row.stored.summary.errors} of {row.stored.summary.samples}"
        for row in table.rows
        if row.stored.summary.errors
    ]
    if errors:
        found.append(
            f"Samples that ended in an error (counted as unsolved, their time as spent): {'; '.join(errors)}."
        )
    strangers = {
        shown(row.label): row.stored.run for row in table.rows if row.stored.run.plan.isolated is not None
    }
    if loose := [label for label, run in strangers.items() if not run.plan.isolated]:
        found.append(
            "**Not isolated** (the decoder ran in the harness' own process, where its figures can be "
            f"forged): {', '.join(loose)}."
        )
    told = {
        label: (run.isolation or {}).get("share") for label, run in strangers.items() if run.plan.isolated
    }
    if told:
        costs = [f"{label} {'unknown' if share is None else f'{share:.1%}'}" for label, share in told.items()]
        found.append(
            "Decoded behind glass, with the most that its requests cost of the time shown: "
            f"{', '.join(costs)}."
        )
    return found


def configuration(table: Table) -> str:
    """Everything the rows share and what each was run with, folded away below the table."""
    lines = [f"- {in_markdown(name)}: {in_markdown(value)}" for name, value in facts(table).items()]
    figure = aup.sentence(table)
    lines += [f"- {in_markdown(figure)}"] if figure else []
    lines += [f"- command: {as_code(command)}" for command in commands(table)]
    body = "\n".join(
        [*lines, "", "Settings of each row:", "", *(f"- {_settings_line(row)}" for row in table.rows)]
    )
    return f"<details><summary>Configuration</summary>\n\n{body}\n\n</details>\n"


def facts(table: Table) -> dict[str, str]:
    """What all rows share, then versions, commit and machine; several values where runs differ."""
    shared = {name.replace("_", " "): value for name, value in table.comparability.items()}
    return {
        name: _plain(value)
        for name, value in {**shared, **_environment(table.rows), "comparability key": table.key}.items()
    }


def settings_line(row: TableRow) -> str:
    """A row's label, and all settings of it."""
    settings = (
        ", ".join(setting_text(name, value) for name, value in row.stored.run.plan.settings.items())
        or "no settings"
    )
    return f"{row.label}: {settings}"


def _settings_line(row: TableRow) -> str:
    settings = settings_line(row).removeprefix(f"{row.label}: ")
    return f"{as_code(row.label)}: {in_markdown(settings)}"


def commands(table: Table) -> list[str]:
    """The commands that ran the rows, each once."""
    return list(dict.fromkeys(row.stored.run.command for row in table.rows))


def excluded(runs: Iterable[StoredRun], heading: str = "##") -> list[str]:
    """A list of the runs that are stored but kept out of tables; empty if there are none."""
    lines = [
        f"- {as_code(stored.run.run_id)} ({in_markdown(stored.run.plan.method)} on "
        f"{in_markdown(stored.run.plan.suite)}): {in_markdown(stored.reason_left_out)}"
        for stored in runs
    ]
    return [f"{heading} Not in any table\n", "\n".join(lines) + "\n"] if lines else []


def device(table: Table) -> str:
    """The device as its environment names it, else its slug."""
    run = table.rows[0].stored.run
    return str(run.environment.get("gpu") or run.environment.get("cpu") or run.plan.device_name)


def _object(value: Any) -> dict[str, Any]:
    """A part of an environment, which a run file may hold anything in."""
    return value if isinstance(value, dict) else {}


def _environment(rows: Sequence[TableRow]) -> dict[str, Any]:
    """Versions, commit and seeds; several values where runs differ."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        environment = row.stored.run.environment
        git, versions = (_object(environment.get(name)) for name in ("git", "versions"))
        commit = git.get("commit")
        values = {f"{name} version": version for name, version in versions.items()}
        values |= {
            name: environment.get(name)
            for name in ("python", "platform", "gpu_driver", "cuda", "cores", "affinity")
        }
        values["commit"] = (
            None if commit is None else str(commit)[:12] + (" with local changes" if git.get("dirty") else "")
        )
        values["seed"] = row.stored.run.plan.seed
        for name, value in values.items():
            if value is not None and value not in found.setdefault(name, []):
                found[name].append(value)
    return {
        name.replace("_", " "): values[0] if len(values) == 1 else ", ".join(map(str, values))
        for name, values in found.items()
        if values
    }


def _name(row: TableRow) -> str:
    settings = " ".join(setting_text(name, value) for name, value in row.settings.items())
    method = row.stored.run.plan.method
    name = f"**{in_markdown(method)}**" if row.is_baseline else in_markdown(method)
    return f"{name} {as_code(settings, cell=True)}" if settings else name


def _cell(heading: str, text: str) -> str:
    return as_code(text, cell=True) if heading == "run" else in_markdown(text)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _link(path: str) -> str:
    """A path as the target of a link, which a space or a bracket would end."""
    return quote(path, safe="/.-_~")


def _plain(value: Any) -> str:
    return UNKNOWN if value is None else str(value).lower() if isinstance(value, bool) else str(value)
