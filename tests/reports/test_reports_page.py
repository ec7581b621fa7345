"""What the page is made of, and how its files are served; animations frame by frame."""

from __future__ import annotations

import re
import threading
from http.client import HTTPConnection
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from harness.records.schema import read_samples
from reports.boards import Board, boards
from reports.load import ReportError, load
from reports.published import read_published
from reports.replay import replay
from reports.serve import Server
from reports.site import single, site
from reports.trace import animate
from tests.synthetic_runs import Fake, fake_samples, write_fake, write_table

PUBLISHED = Path(__file__).parents[2] / "results" / "published.yaml"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Board]:
    """Two boards: four rows on one suite and one on another; two rows."""
    root = tmp_path_factory.mktemp("runs")
    write_table(root / "leaderboard", 12)
    write_fake(root / "leaderboard", Fake("ar", suite="nano-code", documents=4))
    write_fake(root / "students", Fake(documents=3))
    write_fake(root / "students", Fake("d2f", documents=3, accuracy=0.2))
    return boards(root, load(root))


def test_nothing_is_loaded_from_elsewhere(found: list[Board]) -> None:
    files = site(found, read_published(PUBLISHED))
    text = files["index.html"]().decode()
    loaded = set(re.findall(r"""(?:src|href)=["']?([^"'>]{0,90})""", text)) - {"#/"}
    assert loaded == {name for name in files if name.startswith("plots/")}
    assert "default-src 'none'" in text
    assert "script-src 'self' 'sha256-" in text
    assert "@import" not in text
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    write_fake(tmp_path, Fake(documents=3))
    first, second = (single(boards(tmp_path, load(tmp_path)), plots=False) for _ in range(2))
    assert first == second


def test_boards_are_the_folders_that_hold_runs(found: list[Board], tmp_path: Path) -> None:
    assert [(board.name, len(board.runs)) for board in found] == [("leaderboard", 5), ("students", 2)]
    folder = write_fake(tmp_path, Fake(documents=3))
    assert [board.name for board in boards(tmp_path, load(tmp_path))] == [tmp_path.name]
    assert [board.name for board in boards(folder, load(folder))] == [folder.name]


def test_published_rows_are_no_rows_of_a_measured_table(found: list[Board]) -> None:
    text = site(found, read_published(PUBLISHED))["index.html"]().decode()
    tables = re.findall(r"<table class=sortable.*?</table>", text, re.S)
    assert len(tables) == 3
    assert not any("Dream-Base" in table or "131.7" in table for table in tables)
    assert "131.7" in text


def test_pages_of_many_rows_stay_small(tmp_path: Path) -> None:
    for place in range(40):
        write_fake(tmp_path, Fake(f"method_{place}", {"threshold": place / 40}, documents=2))
    files = site(boards(tmp_path, load(tmp_path)))
    page = files["index.html"]()
    assert len(page) < 300_000
    assert b"receive(" not in page.split(b"<script>")[0], "samples are files of their own"
    assert sum(name.startswith("samples/") for name in files) == 40


def test_answers_cannot_inject_markup(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake(documents=2, method="<b>bad</b>"))
    evil = "</script><script>alert(1)</script>"
    update = {"text": evil, "program": evil, "answer": evil, "error": evil}
    lines = [
        sample.model_copy(update={"pieces": [evil] * len(sample.output_ids), **update}).model_dump_json()
        for sample in read_samples(folder)
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    files = site(boards(tmp_path, load(tmp_path)), ask=lambda _: {"problem": evil, "documents": {}})
    made = b"".join(make() for name, make in files.items() if not name.startswith("plots/"))
    assert b"alert(1)" not in made
    assert b"<b>bad" not in made


def test_only_named_files_are_served_and_only_to_this_machine(found: list[Board]) -> None:
    with Server(site(found)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            name = next(name for name in server.files if name.startswith("samples/"))
            for path, host, status in (
                ("", "localhost:1", 200),
                (name, "127.0.0.1:1", 200),
                ("../pyproject.toml", "localhost:1", 404),
                ("", "evil.example:80", 403),
            ):
                link = HTTPConnection(*server.server_address[:2])  # pyright: ignore[reportArgumentType]
                link.request("GET", f"/{path}", headers={"Host": host})
                answer = link.getresponse()
                assert answer.status == status, path
                if status == 200:
                    assert answer.read() == server.content(path or "index.html")
                link.close()
        finally:
            server.shutdown()
            thread.join()


def test_a_replay_ends_behind_the_last_written_token() -> None:
    sample = fake_samples(Fake(documents=1))[0]
    length = len(sample.step_map)
    padded = sample.model_copy(
        update={
            "step_map": [*sample.step_map, -1, -1],
            "output_ids": [*sample.output_ids, 1, 1],
            "pieces": [*sample.pieces, "", ""],
            "confidence": [],
        }
    )
    data = replay(padded)
    assert len(data["pieces"]) == len(data["steps"]) == len(data["confidence"]) == length
    assert data["unwritten"] == 2
    assert data["forwards"] == [[96, 0, 0, sample.nfe]]
    special = sample.model_copy(update={"pieces": ["<|endoftext|>", "a <| b", *sample.pieces[2:]]})
    assert replay(special)["pieces"][:2] == ["\u220e", "a <| b"]
    assert replay(sample.model_copy(update={"pieces": []}))["pieces"][0] == "⟨10⟩"


def test_what_lies_behind_an_answer_is_marked() -> None:
    sample = fake_samples(Fake(documents=1))[0]
    length = len(sample.step_map)
    assert replay(sample)["late"] == [0] * length
    assert replay(sample.model_copy(update={"useful": length - 2}))["late"] == [0] * (length - 2) + [1, 1]


def test_each_text_of_a_divided_answer_ends_on_its_own() -> None:
    sample = fake_samples(Fake(documents=1))[0]
    pieces = ["a", "b", "<|endoftext|>", "<|endoftext|>", "c", "<|endoftext|>", "x", *sample.pieces[7:]]
    data = replay(sample.model_copy(update={"pieces": pieces, "blocks": [(0, 4), (4, 6), (6, len(pieces))]}))
    assert data["late"][:7] == [0, 0, 1, 1, 0, 1, 0]
    assert data["blocks"] == [["1", 0, 4], ["2", 4, 2], ["3", 6, len(pieces) - 6]]


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_an_animation_has_a_frame_per_forward(tmp_path: Path, ending: str) -> None:
    sample = fake_samples(Fake(documents=1, tokens_per_forward=3))[0]
    assert sample.nfe is not None
    file = tmp_path / f"trace.{ending}"
    assert animate(sample, file) == sample.nfe + 1
    with Image.open(file) as image:
        frames = [frame.convert("L").tobytes() for frame in ImageSequence.Iterator(image)]
    assert len(frames) == sample.nfe + 1
    assert frames[0] != frames[-1]


def test_animations_name_what_is_wrong(tmp_path: Path) -> None:
    sample = fake_samples(Fake(documents=1))[0]
    with pytest.raises(ReportError, match=r"must end in \.gif or \.webp"):
        animate(sample, tmp_path / "trace.mp4")
    with pytest.raises(ReportError, match="has no step map"):
        animate(
            sample.model_copy(update={"step_map": [], "output_ids": [], "pieces": []}), tmp_path / "trace.gif"
        )
    with pytest.raises(ReportError, match="cannot write --output"):
        animate(sample, tmp_path / "nowhere" / "trace.gif")
