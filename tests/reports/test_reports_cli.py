"""``bench report`` and ``bench compare`` as a user meets them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from reports.cli.report import compare_command, report_command, trace_command
from reports.readme import BEGIN, END
from tests.synthetic_runs import Fake, write_fake, write_table

app = typer.Typer()
app.command("report")(report_command)
app.command("compare")(compare_command)
app.command("trace")(trace_command)


def bench(*arguments: object) -> tuple[int, str]:
    """(exit status, output or the error's text) of one command line."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 2, str(result.exception)
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_table(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def root(folders: list[Path]) -> Path:
    return folders[0].parents[2]


def test_report_writes_below_the_runs_by_default(root: Path) -> None:
    status, output = bench("report", root, "--format", "markdown", "--format", "csv")
    assert status == 0
    assert (root / "report" / "leaderboard.md").read_text().startswith("## nano-gsm, 32 problems")
    assert (root / "report" / "leaderboard.csv").read_text().startswith("method,settings,")
    assert "leaderboard.md" in output


def test_report_without_flags_writes_everything(root: Path, tmp_path: Path) -> None:
    status, output = bench("report", root, "-o", tmp_path, "--viewer-samples", 2)
    assert status == 0
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"leaderboard.md", "leaderboard.csv", "index.html"} < names
    assert sum(name.endswith(".png") for name in names) == sum(name.endswith(".svg") for name in names) == 5
    samples = [name for name in names if name.endswith(".js")]
    assert len(samples) == 4
    assert len(output.splitlines()) == len(names) - len(samples) + 1
    assert "the answers of 4 rows" in output


def test_trace_writes_an_animation_or_says_which_documents_there_are(
    folders: list[Path], root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "trace.gif"
    status, output = bench("trace", folders[3].name, "--runs", root, "--doc", 2, "-o", file, "--seconds", 1)
    assert status == 0
    assert output.endswith(" frames\n")
    assert file.read_bytes().startswith(b"GIF89a")
    assert (
        "has no document 99 repeat 0: choose --doc from 0-31"
        in bench("trace", folders[3], "--doc", 99, "-o", file)[1]
    )


def test_check_finds_drift(root: Path, tmp_path: Path) -> None:
    assert bench("report", root, "-o", tmp_path, "--check")[0] == 1
    bench("report", root, "-o", tmp_path, "--format", "markdown")
    assert bench("report", root, "-o", tmp_path, "--check") == (0, f"{tmp_path} agrees with 4 runs\n")
    board = tmp_path / "leaderboard.md"
    board.write_text(board.read_text().replace("| 401 |", "| 501 |"))
    status, output = bench("report", root, "-o", tmp_path, "--check")
    assert status == 1
    assert "-| d2f | 501 |" in output
    assert "+| d2f | 401 |" in output


def test_drift_is_found_in_every_file_of_a_report(tmp_path: Path) -> None:
    write_table(tmp_path / "runs", 8)
    report = tmp_path / "report"
    assert bench("report", tmp_path / "runs", "-o", report)[0] == 0
    assert bench("report", tmp_path / "runs", "-o", report, "--check")[0] == 0
    table, page, plot = (
        report / "leaderboard.csv",
        report / "index.html",
        next((report / "plots").glob("*quality-speed.png")),
    )
    for file, spoil in ((table, (b"vanilla", b"chocolate")), (page, (b"<td>vanilla", b"<td>chocolate"))):
        before = file.read_bytes()
        file.write_bytes(before.replace(*spoil))
        status, output = bench("report", tmp_path / "runs", "-o", report, "--check")
        assert status == 1
        assert str(file) in output
        file.write_bytes(before)
    write_fake(tmp_path / "runs", Fake("ar", documents=8))
    output = bench("report", tmp_path / "runs", "-o", report, "--check")[1]
    assert all(f"{file}" in output for file in (report / "leaderboard.md", table, page, plot))


def test_readme_shows_the_pictures_that_were_drawn(tmp_path: Path) -> None:
    write_table(tmp_path / "runs", 8)
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    bench("report", tmp_path / "runs", "--format", "plots", "--readme", readme)
    (shown,) = re.findall(r"!\[nano-gsm: quality against speed\]\((.*)\)", readme.read_text())
    assert shown.startswith("runs/report/plots/nano-gsm-")
    assert (tmp_path / shown).read_bytes().startswith(b"\x89PNG")
    assert bench("report", tmp_path / "runs", "--readme", readme, "--check")[0] == 0


def test_readme_is_written_and_checked(root: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"Top\n{BEGIN}\n{END}\n")
    assert bench("report", root, "--readme", readme, "--check")[0] == 1
    assert bench("report", root, "--readme", readme)[0] == 0
    assert "### nano-gsm" in readme.read_text()
    assert bench("report", root, "--readme", readme, "--check")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["report", "nowhere"],
            "nowhere does not exist: give the folder that `bench run --output_path` wrote to as PATH",
        ),
        (["report", "{root}", "--format", "pdf"], "--format pdf is unknown; use markdown, csv, plots, html"),
        (["report", "{root}", "--readme", "{root}/none.md"], "cannot read --readme"),
        (
            ["report", "{root}", "--output", "/proc/report", "--format", "csv"],
            "choose another folder with --output",
        ),
        (["compare", "{first}"], "compare needs at least two runs"),
        (
            ["compare", "{first}", "other"],
            "no run folder of that name below runs; give the folder's path, or where runs are with --runs",
        ),
        (["compare", "{first}", "{first}", "--margin", "0"], "--margin 0 must lie between 0 and 100"),
    ],
)
def test_mistakes_are_answered_with_what_to_change(
    folders: list[Path], root: Path, arguments: list[str], message: str
) -> None:
    status, output = bench(*(argument.format(root=root, first=folders[0]) for argument in arguments))
    assert status == 2
    assert message in output


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake())
    lines = (folder / "samples.jsonl").read_text().splitlines()
    (folder / "samples.jsonl").write_text("\n".join([*lines[:3], "{broken", *lines[3:]]))
    status, output = bench("report", tmp_path)
    assert status == 2
    assert "samples.jsonl line 4 is damaged" in output


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    assert "first, or give another folder as PATH" in bench("report", tmp_path)[1]


def test_compare_prints_every_statistic(folders: list[Path], root: Path) -> None:
    status, output = bench("compare", *[folder.name for folder in folders], "--runs", root)
    assert status == 0
    for fact in (
        "speed-up [95%]",
        "exact McNemar p (Holm)",
        "difference (pp) [95% bootstrap]",
        "problems that would decide",
        "non-inferior at 3 pp",
    ):
        assert fact in output


def test_compare_of_a_run_with_itself_finds_nothing(folders: list[Path]) -> None:
    status, output = bench("compare", folders[0], folders[0])
    assert status == 0
    assert (
        "1.00x [1.00, 1.00] no difference; accuracy non-inferior at 3 pp: not enough samples (32 "
        "documents; about " in output
    )


def test_compare_refuses_other_configurations_unless_told(folders: list[Path], tmp_path: Path) -> None:
    other = write_fake(tmp_path, Fake("d2f", dtype="bfloat16"))
    status, output = bench("compare", folders[0], other)
    assert status == 2
    assert "dtype (float32 / bfloat16); add --across" in output
    assert bench("compare", folders[0], other, "--across")[0] == 0


def test_compare_refuses_other_prompts(folders: list[Path], tmp_path: Path) -> None:
    status, output = bench("compare", folders[0], write_fake(tmp_path, Fake(suite="nano-code")), "--across")
    assert status == 2
    assert "have no prompt in common" in output


@pytest.mark.parametrize("command", ["report", "compare"])
def test_help_teaches(command: str) -> None:
    status, output = bench(command, "--help")
    assert status == 0
    assert {"report": "drift", "compare": "the first is the baseline"}[command] in " ".join(
        output.replace("│", " ").split()
    )
