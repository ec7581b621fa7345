"""Tables, leaderboard, README block and console of synthetic runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.records.schema import Audit, AuditCheck, RecordError, read_run, write_run
from reports.console import render
from reports.drift import drift
from reports.front import Front, front_table, read_front
from reports.leaderboard import leaderboard
from reports.load import ReportError, load
from reports.published import read_published
from reports.readme import BEGIN, END, check, updated
from reports.table import build
from tests.synthetic_runs import Fake, write_fake, write_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_table(root)
    return root


def test_a_table_never_mixes_two_keys(tmp_path: Path) -> None:
    write_table(tmp_path)
    write_fake(tmp_path, Fake("d2f", dtype="bfloat16"))
    write_fake(tmp_path, Fake("d2f", suite="nano-code"))
    tables = build(load(tmp_path))
    assert sorted((table.suite, len(table.rows)) for table in tables) == [
        ("nano-code", 1),
        ("nano-gsm", 1),
        ("nano-gsm", 4),
    ]
    for table in tables:
        assert len({row.stored.run.comparability_key for row in table.rows}) == 1


def test_the_baseline_is_the_vanilla_run_with_the_most_forwards(runs_folder: Path) -> None:
    (table,) = build(load(runs_folder))
    assert table.baseline is not None
    assert table.baseline.label == "vanilla tokens_per_step=1"
    assert [row.is_baseline for row in table.rows] == [True, False, False, False]
    assert [row.label for row in table.rows] == [
        "vanilla tokens_per_step=1",
        "fast_dllm",
        "vanilla tokens_per_step=2",
        "d2f",
    ]


def test_the_frame_holds_the_figures_of_the_samples(runs_folder: Path) -> None:
    (table,) = build(load(runs_folder))
    row = next(row for row in table.frame.to_dict("records") if row["method"] == "d2f")
    stored = next(row.stored for row in table.rows if row.stored.run.plan.method == "d2f")
    assert row["tps"] == pytest.approx(
        sum(s.useful or 0 for s in stored.samples) / sum(s.time_s or 0 for s in stored.samples)
    )
    assert float(row["speedup_low"]) < 4 < float(row["speedup_high"])
    assert row["non_inferior"] == "no"
    assert str(row["verdict"]).startswith("4.0x [4.0, 4.0]; accuracy non-inferior at 3 pp: no (worse by ")


def test_without_a_vanilla_row_there_is_no_speedup(tmp_path: Path) -> None:
    write_fake(tmp_path, Fake("d2f"))
    (table,) = build(load(tmp_path))
    assert table.frame["speedup"].isna().to_list() == [True]
    assert "There is no vanilla run under this configuration" in leaderboard(load(tmp_path))


def test_settings_changed_from_their_default_are_named(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake("d2f", {"block_size": 8, "threshold": 0.9, "eos_early_stop": True}))
    run = read_run(folder)
    write_run(folder, run.model_copy(update={"changed": {"block_size": 8}}))
    (table,) = build(load(tmp_path))
    assert table.rows[0].label == "d2f block_size=8"


def test_failed_and_incomplete_runs_are_listed_apart(tmp_path: Path) -> None:
    folders = write_table(tmp_path)
    cheat, broken = (read_run(folder) for folder in folders[2:])
    failed = Audit(passed=False, checks=[AuditCheck(name="counts", passed=False, detail="nfe 3, hook 9")])
    write_run(folders[2], cheat.model_copy(update={"audit": failed}))
    write_run(folders[3], broken.model_copy(update={"status": "running"}))
    text = leaderboard(load(tmp_path))
    tables, apart = text.split("## Not in any table")
    assert cheat.run_id not in tables
    assert broken.run_id not in tables
    assert f"`{cheat.run_id}` (fast_dllm on nano-gsm): audit failed: counts (nfe 3, hook 9)" in apart
    assert f"`{broken.run_id}` (d2f on nano-gsm): incomplete: 32 samples so far" in apart


def test_the_leaderboard_tells_its_whole_configuration(runs_folder: Path) -> None:
    text = leaderboard(load(runs_folder))
    facts = (
        "dtype: float32",
        "threads: 2",
        "max new tokens: 96",
        "batch size: 1",
        "prompts hash: bbbbbbbbbbbbbbbb",
        "torch version: 2.13.0",
        "commit: 0123456789ab with local changes",
        "weights hash",
        "comparability key",
        "bench run --method d2f",
    )
    for fact in facts:
        assert fact in text
    assert "**vanilla** `tokens_per_step=1`" in text
    assert "pass@1 is near 0" not in text


def test_the_share_of_the_roof_is_a_column_only_where_it_was_measured(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake())
    assert " roof |" not in leaderboard(load(tmp_path))
    run = read_run(folder)
    assert run.summary is not None
    write_run(
        folder, run.model_copy(update={"summary": run.summary.model_copy(update={"roof_share": 0.273})})
    )
    assert " roof |" in leaderboard(load(tmp_path))
    assert " 27% |" in leaderboard(load(tmp_path))


def test_a_suite_beyond_the_model_is_called_so(tmp_path: Path) -> None:
    write_fake(tmp_path, Fake(accuracy=0.01, suite="humaneval"))
    assert "**pass@1 is near 0 (below 5%) in every row:**" in leaderboard(load(tmp_path))


def test_summaries_come_from_the_samples_not_from_the_run_file(runs_folder: Path, tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake())
    run = read_run(folder)
    assert run.summary is not None
    write_run(folder, run.model_copy(update={"summary": run.summary.model_copy(update={"tps": 1e6})}))
    assert build(load(tmp_path))[0].frame["tps"].tolist() == pytest.approx([100], rel=0.05)


def test_load_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="does not exist: give the folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ReportError, match="no runs below"):
        load(tmp_path)
    folder = write_fake(tmp_path, Fake())
    (folder / "run.json").write_text("{")
    with pytest.raises(RecordError, match=r"run\.json is damaged"):
        load(tmp_path)


def test_the_console_shows_tables_verdicts_and_what_was_left_out(tmp_path: Path) -> None:
    folders = write_table(tmp_path)
    write_run(folders[2], read_run(folders[2]).model_copy(update={"audit": None}))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(folders))
    text = console.export_text()
    assert "nano-gsm: 32 problems, nano on test" in text
    assert "d2f: 4.0x [4.0, 4.0]; accuracy non-inferior at 3 pp: no" in text
    assert "is in no table: not audited" in text


def test_readme_block_is_replaced_and_drift_is_found(runs_folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nRest.\n")
    runs = load(runs_folder)
    assert "-old" in check(readme, runs)
    readme.write_text(updated(readme, runs))
    assert check(readme, runs) == ""
    assert readme.read_text().startswith("# Title\n")
    assert readme.read_text().endswith("\nRest.\n")
    readme.write_text(readme.read_text().replace(" 100 |", " 999 |").replace("| 401 |", "| 402 |"))
    assert "402" in check(readme, runs)


@pytest.mark.parametrize("text", ["", f"{BEGIN}", f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_its_markers_is_refused(runs_folder: Path, tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ReportError, match=r"--readme .* needs one line <!-- leaderboard:begin -->"):
        updated(readme, load(runs_folder))


@pytest.mark.parametrize(
    ("board", "page", "published"),
    [
        ("leaderboard", "docs/leaderboard.md", "published.yaml"),
        ("students", "docs/students.md", "none"),
        ("lockstep", "docs/lockstep.md", "none"),
        ("decoders", "docs/decoders.md", "none"),
        ("batches", "docs/batches.md", "none"),
    ],
)
def test_the_repository_agrees_with_its_results(board: str, page: str, published: str) -> None:
    folder = ROOT / "results" / board
    if not any(folder.rglob("run.json")):
        pytest.skip("no committed runs yet; drift detection itself is tested on synthetic runs")
    runs = load(folder)
    tables, plots = build(runs), folder / "report" / "plots"
    assert check(ROOT / page, runs, plots, tables=tables) == ""
    if board == "leaderboard":
        front = read_front(ROOT / "results" / "front.yaml")
        assert check(ROOT / "README.md", runs, plots, front, tables) == ""
    assert drift(folder / "report", runs, read_published(ROOT / "results" / published), tables) == ""


def test_tables_of_other_batch_sizes_are_told_apart_and_in_order() -> None:
    found = [table.heading for table in build(load(ROOT / "results" / "batches"))]
    batches = ("", ", batch 4", ", batch 16")
    assert found == [suite + batch for suite in ("nano-code", "nano-gsm") for batch in batches]


FRONT = Front(suites=["nano-gsm"], picture="nano-gsm", rows=["vanilla tokens_per_step=1", "d2f"])


def test_front_shows_chosen_rows_alone(runs_folder: Path) -> None:
    text = front_table(FRONT, build(load(runs_folder)), {})
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| method | nano-gsm: TPS | speed-up | pass@1 (%) |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| vanilla `tokens_per_step=1`", "| d2f"]
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert "4.0x [4.0, 4.0]" in lines[3]


@pytest.mark.parametrize(
    ("front", "message"),
    [
        (FRONT.model_copy(update={"rows": ["d2f block_size=1"]}), "which no rows of nano-gsm are called"),
        (FRONT.model_copy(update={"suites": ["mbpp"]}), "names the suite mbpp, which the board lacks"),
    ],
)
def test_front_names_what_the_board_lacks(runs_folder: Path, front: Front, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        front_table(front, build(load(runs_folder)))


def test_a_damaged_list_of_rows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "front.yaml"
    with pytest.raises(ReportError, match="cannot read --rows"):
        read_front(file)
    file.write_text("suites: [a]\npicture: a\nrows: []\n")
    with pytest.raises(ReportError, match=r"--rows .* is damaged: .*rows"):
        read_front(file)


def test_the_front_page_fits_a_screen() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    table = [line for line in lines[lines.index(BEGIN) : lines.index(END)] if line.startswith("|")]
    assert len(lines) < 60
    assert 3 <= len(table) <= 2 + 8
    assert {line.count("|") - 1 for line in table} == {6}
