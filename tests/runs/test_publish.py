"""``bench submit`` and ``bench verify`` on a good, a tampered and an incomplete run of nano."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.records.evidence import sealed
from harness.records.files import content_of, digest, pack
from harness.records.schema import Audit, AuditCheck, Sample, find_runs, read_run, write_run
from harness.records.submission import MANIFEST, hashed
from harness.runs.publishing import publishable, without_paths
from harness.runs.recheck import Stored
from harness.statistics.summary import summarise
from tests.commands import bench
from tests.synthetic_runs import Fake, fake_run, fake_samples

Told = dict[str, Any]
Change = Callable[[Told], Any]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents of each nano suite, as if from a clean commit."""
    root = tmp_path_factory.mktemp("runs")
    words = ("--method", "vanilla:tokens_per_step=8", "--limit", 2, "--threads", 1)
    done = bench("run", *words, "--suite", "nano-gsm,nano-code", "-o", root)
    assert done.returncode == 0, done.stderr
    for folder in find_runs(root):
        run = read_run(folder)
        run.environment["git"] = {"commit": "0123456789abcdef" * 3, "dirty": False}
        write_run(folder, run)
    return root


@pytest.fixture(scope="module")
def good(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "submission"
    done = bench("submit", stored, "--by", "A. Nother", "--note", "as published", "-o", folder)
    assert (done.returncode, "REFUSED" in done.stdout) == (0, False), done.stdout + done.stderr
    return folder


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "submission"))


def run_of(folder: Path, suite: str = "nano-gsm") -> Path:
    return next(place for place in find_runs(folder) if place.parent.name == suite)


def verified(folder: Path, *flags: str) -> tuple[int, str]:
    done = bench("verify", folder, *flags)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def rewrite(folder: Path, change: Callable[[list[Told]], Any], seal: bool = True) -> None:
    """Change the samples of a run of a submission and make whatever else fits: seals, and the manifest."""
    place = run_of(folder)
    path = place / "samples.jsonl"
    lines = [json.loads(line) for line in content_of(path).splitlines()]
    change(lines)
    texts = [sealed(Sample.model_validate(line)) if seal else _compact(line) for line in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    pack(path)
    refit(folder)


def _compact(line: Told) -> bytes:
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode()


def refit(folder: Path) -> None:
    """Give the manifest the hashes and figures of the files as they are now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashed(folder / name).model_dump()
    for row in manifest["rows"]:
        summary = read_run(folder / row["folder"]).summary
        assert summary is not None
        row |= {"tps": summary.tps, "pass_at_1": summary.pass_at_1, "samples": summary.samples}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_good_run_is_written_and_verified(stored: Path, good: Path) -> None:
    names = sorted(path.name for path in good.rglob("*") if path.is_file())
    assert names == ["run.json", "run.json", "samples.jsonl.xz", "samples.jsonl.xz", MANIFEST]
    for folder in find_runs(good):
        assert content_of(folder / "samples.jsonl") == content_of(
            stored / folder.relative_to(good) / "samples.jsonl"
        )
        assert "-o " + stored.name in read_run(folder).command, "without the folders above"
    manifest = json.loads((good / MANIFEST).read_text())
    assert (manifest["by"], manifest["note"], len(manifest["rows"])) == ("A. Nother", "as published", 2)
    assert {row["commit"] for row in manifest["rows"]} == {"0123456789abcdef" * 3}
    text = "".join(path.read_text() for path in good.rglob("*.json"))
    assert str(stored.parent) not in text
    status, output = verified(good)
    assert status == 0, output
    assert "REFUSED" not in output
    assert output.count("2 answers graded again") == 2
    assert output.count("text and useful tokens of 2 answers made again from their ids") == 2


def test_a_second_submission_does_not_write_over_the_first(stored: Path, good: Path) -> None:
    done = bench("submit", stored, "-o", good)
    assert done.returncode == 2
    assert "is there already: remove it, or choose another folder with --output" in done.stderr


def halved(line: Told) -> None:
    for name in ("time_s", "latency_s", "first_block_s", "forward_s", "select_s"):
        line[name] /= 2


def other_id(line: Told) -> None:
    line["output_ids"][0] += 1
    line["output_hash"] = digest(line["output_ids"])


def flipped(line: Told) -> None:
    line["correct"] = not line["correct"]
    line["grading"] = "passed" if line["correct"] else "failed"


EDITS: list[tuple[Change, str, str]] = [
    (halved, "summary", "run.json: summary.tps stored "),
    (other_id, "texts", "samples.jsonl document 1, repeat 0: text stored "),
    (flipped, "grades", "samples.jsonl document 1, repeat 0: correct stored "),
    (lambda line: line.update(text=line["text"] + " 1"), "texts", "document 1, repeat 0: text stored "),
    (lambda line: line.update(useful=line["useful"] - 1), "texts", "document 1, repeat 0: useful stored "),
    (
        lambda line: line.update(prompt_hash="0" * 16),
        "prompts",
        "document 1, repeat 0: prompt_hash stored '000",
    ),
]


@pytest.mark.parametrize(("change", "name", "told"), EDITS)
def test_an_edit_that_every_hash_was_made_to_fit(copy: Path, change: Change, name: str, told: str) -> None:
    """Seals and manifest agree with the edited line; what it says of itself does not."""
    rewrite(copy, lambda lines: change(lines[1]))
    status, output = verified(copy, *([] if name == "grades" else ["--no-grade"]))
    refused = [line.split(maxsplit=2) for line in output.splitlines() if line.startswith("  REFUSED")]
    assert status == 1
    assert any(line[1] == name and told in line[2] and "recomputed" in line[2] for line in refused), output
    assert "  ok      hashes" in output


@pytest.mark.parametrize("change", [halved, other_id, flipped])
def test_a_verdict_in_step_with_its_summary_is_found_by_its_seal(copy: Path, change: Change) -> None:
    def edit(lines: list[Told]) -> None:
        change(lines[1])
        run = read_run(run_of(copy))
        run.summary = summarise([Sample.model_validate(line) for line in lines])
        write_run(run_of(copy), run)

    rewrite(copy, edit, seal=False)
    status, output = verified(copy, "--no-grade")
    assert status == 1
    where = "samples.jsonl line 2: seal does not fit the line: a value was changed (document 1, repeat 0)"
    assert f"REFUSED samples       {run_of(copy) / ''}" in output.replace("//", "/")
    assert where in output


def test_an_edited_file_is_named_with_both_hashes(copy: Path) -> None:
    path = run_of(copy) / "run.json"
    path.write_text(path.read_text().replace('"status": "complete"', '"status": "Complete"'))
    status, output = verified(copy, "--no-grade")
    assert status == 1
    assert f"submission.json: {path.relative_to(copy)}: sha256 stored " in output
    assert ", recomputed " in output
    assert "REFUSED readable" in output


@pytest.mark.parametrize("name", ["tps", "pass_at_1", "nfe", "latency_p90", "roof_share", "forward_share"])
def test_an_edited_summary_figure(copy: Path, name: str) -> None:
    run = read_run(run_of(copy))
    assert run.summary is not None
    value = getattr(run.summary, name)
    setattr(run.summary, name, value + 0.001)
    write_run(run_of(copy), run)
    refit(copy)
    status, output = verified(copy, "--no-grade")
    assert status == 1
    assert (
        f"REFUSED summary       run.json: summary.{name} stored {value + 0.001!r}, recomputed {value!r}"
        in output
    )
    assert output.count("REFUSED") == 1


@pytest.mark.parametrize(("which", "told"), [(0, "document 0, repeat 0"), (1, "document 1, repeat 0")])
def test_a_removed_sample(copy: Path, which: int, told: str) -> None:
    def remove(lines: list[Told]) -> None:
        del lines[which]
        run = read_run(run_of(copy))
        run.expected, run.summary = 1, summarise([Sample.model_validate(line) for line in lines])
        write_run(run_of(copy), run)

    rewrite(copy, remove)
    status, output = verified(copy, "--no-grade")
    assert status == 1
    assert "REFUSED prompts" in output
    assert f"the first lacking is {told}" in output


def test_a_removed_sample_against_the_expected_number(copy: Path) -> None:
    rewrite(copy, lambda lines: lines.pop())
    status, output = verified(copy, "--no-grade")
    assert status == 1
    assert "REFUSED complete      samples.jsonl holds 1 of 2 samples" in output
    assert "summary.samples stored 2, recomputed 1" in output


MANIFESTS: list[tuple[Change, str]] = [
    (lambda told: told["files"].popitem(), "is in the folder and not in the manifest"),
    (
        lambda told: told["files"].update({"../x": {"sha256": "", "bytes": 1}}),
        "../x is in the manifest and not",
    ),
    (lambda told: told["rows"].pop(), "rows and runs differ at"),
    (lambda told: told["rows"].append(told["rows"][0]), "rows and runs differ at"),
    (lambda told: told["rows"][0].update(tps=1e6), "tps stored 1000000.0, recomputed "),
    (lambda told: told["rows"][0].update(commit="f" * 40), "commit stored 'ffff"),
    (lambda told: told["machine"].update(cpu="another"), "machine of row "),
    (lambda told: told.update(rows=[]), "is no manifest (rows: "),
    (lambda told: told.update(schema_version=2), "has schema_version 2, not 1"),
    (lambda told: told.clear(), "is no manifest (created: "),
]


@pytest.mark.parametrize(("change", "told"), MANIFESTS)
def test_a_manifest_that_is_not_the_folders(copy: Path, change: Change, told: str) -> None:
    path = copy / MANIFEST
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    status, output = verified(copy, "--no-grade")
    assert (status, told in output) == (1, True), output


def test_folders_that_are_no_submission(copy: Path, tmp_path: Path) -> None:
    (copy / MANIFEST).rename(tmp_path / MANIFEST)
    assert verified(copy, "--no-grade")[0] == 1, "without its manifest"
    assert verified(copy, "--no-grade", "--no-manifest")[0] == 0
    (copy / MANIFEST).symlink_to(tmp_path / MANIFEST)
    status, output = verified(copy, "--no-grade")
    assert (status, "submission.json is a symbolic link" in output) == (1, True)
    (copy / MANIFEST).unlink()
    shutil.move(tmp_path / MANIFEST, copy / MANIFEST)
    shutil.move(run_of(copy), tmp_path / "outside")
    (copy / "cpu").symlink_to(tmp_path)
    status, output = verified(copy, "--no-grade")
    assert (status, "cpu is a symbolic link" in output) == (1, True)
    assert "outside" not in output, "it was not followed"
    (tmp_path / "empty").mkdir()
    assert verified(tmp_path / "empty")[0] == 1
    assert bench("verify", tmp_path / "nowhere").returncode == 2


def test_an_incomplete_run_is_refused_and_nothing_is_written(stored: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(stored, tmp_path / "runs"))
    path = run_of(root) / "samples.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    done = bench("submit", run_of(root), "-o", tmp_path / "made")
    assert done.returncode == 1
    told = (
        "REFUSED complete      samples.jsonl holds 1 of 2 samples: give its command again, which continues it"
    )
    assert told in done.stdout
    assert done.stdout.endswith("nothing was written\n")
    run = read_run(run_of(root))
    run.status, run.audit, run.summary = "running", None, None
    write_run(run_of(root), run)
    done = bench("submit", run_of(root), "-o", tmp_path / "made")
    assert "status is running, 1 of 2 samples are there" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def of_fake(**changes: Any) -> Stored:
    fake = Fake(documents=4)
    run = fake_run(fake)
    run.environment["git"] = {"commit": "a" * 40, "dirty": False}
    for name, value in changes.items():
        target = run.plan if hasattr(run.plan, name) else run
        setattr(target, name, value)
    return Stored(Path("nowhere"), run, fake_samples(fake, run.run_id))


STRANGER = {"method": "mine", "method_source": "sha256:0123456789abcdef"}
GLASS = {"jail": "bubblewrap", "weaknesses": []}
REFUSED: list[tuple[Told, str, str]] = [
    ({"environment": {}}, "commit", "commit is None: run from a clone"),
    (
        {"environment": {"git": {"commit": "a" * 40, "dirty": True}}},
        "commit",
        "dirty is True: commit your changes",
    ),
    (
        {**STRANGER, "isolated": False},
        "isolation",
        "isolated is False for mine (sha256:0123456789abcdef): run it",
    ),
    (
        {**STRANGER, "method_source": "their-package", "isolated": None},
        "isolation",
        "for mine (their-package)",
    ),
    ({**STRANGER, "isolated": True}, "isolation", "says nothing of the jail"),
    ({**STRANGER, "isolated": True, "isolation": GLASS}, "isolation", "audit lacks weights_unchanged"),
    ({"engine": "sglang 0.5.9"}, "isolation", "what an engine computes is not audited"),
    (
        {"family_source": "sha256:0123456789abcdef"},
        "isolation",
        "where figures can be forged; run a model of",
    ),
    ({"method": "mine"}, "isolation", "'mine' is none of the project's own decoders"),
    ({"model": "/home/me/models/dream"}, "private", "plan.model holds the path '/home/me/models/dream'"),
    (
        {"settings": {"counts": "~/counts.json"}},
        "private",
        "plan.settings.counts holds the path '~/counts.json'",
    ),
    ({"preset": {"source": "C:\\runs"}}, "private", "preset.source holds the path"),
    ({"command": "bench run at myhost"}, "private", "command holds this machine's name"),
    ({}, "seals", "document 0, repeat 0 has no seal"),
]


@pytest.mark.parametrize(("changes", "name", "told"), REFUSED)
def test_what_keeps_a_row_from_being_published(changes: Told, name: str, told: str) -> None:
    check = next(one for one in publishable(of_fake(**changes), host="myhost") if one.name == name)
    assert (check.passed, told in check.detail) == (False, True), check.detail


def test_a_strangers_decoder_behind_glass_may_be_published() -> None:
    checks = [AuditCheck(name="weights_unchanged", passed=True)]
    stored = of_fake(**STRANGER, isolated=True, isolation=GLASS, audit=Audit(passed=True, checks=checks))
    found = {check.name: check for check in publishable(stored, sealed=False)}
    assert (found["isolation"].passed, found["isolation"].detail) == (True, "behind glass ('bubblewrap')")


def test_rows_of_two_machines_are_no_submission(stored: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(stored, tmp_path / "runs"))
    run = read_run(run_of(root))
    run.environment["cores"] = 999
    write_run(run_of(root), run)
    done = bench("submit", root, "-o", tmp_path / "made")
    assert done.returncode == 1
    assert "REFUSED machine       the runs are of several machines" in done.stdout
    assert not (tmp_path / "made").exists()


def test_what_is_no_path() -> None:
    shown = {
        "source": "https://a.b/c",
        "command": "bench run --method ./mine.py -o results/x --set a=1/2",
        "n": "</s>",
    }
    checks = publishable(of_fake(preset=shown), sealed=False, host="myhost")
    assert [check.passed for check in checks] == [True, True, True], checks
    command = "bench run --method /home/me/mine.py -o ~/runs --set a=/tmp/b.json --model org/name"
    assert without_paths(command) == "bench run --method mine.py -o runs --set a=b.json --model org/name"
    assert without_paths("bench run '") == "bench run '"
