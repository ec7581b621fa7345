"""The page in a real browser, and what it is made of; animations frame by frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from harness.records.schema import read_samples
from reports.load import ReportError, load
from reports.page import page
from reports.published import read_published
from reports.replay import replay
from reports.trace import animate
from tests.browser import Browser, find_chromium
from tests.synthetic_runs import Fake, fake_samples, write_fake, write_table

PUBLISHED = Path(__file__).parents[2] / "results" / "published.yaml"
TEXT = (
    "[...document.querySelector('table.sortable').tBodies[0].rows].map(row => "
    "row.cells[{column}].textContent)"
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("runs")
    write_table(root, 12)
    write_fake(root, Fake("ar", suite="nano-code", documents=4))
    return page(load(root), read_published(PUBLISHED))


@pytest.fixture(scope="module")
def browser(text: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(text)
    with Browser() as opened:
        opened.open(file)
        opened.wait("document.querySelector('#v-panel-1 .tokens span') !== null")
        yield opened


def choose(browser: Browser, name: str, label: str) -> None:
    """Choose the option whose text starts with ``label``."""
    browser.evaluate(
        f"(() => {{ const s = document.getElementById('v-{name}');"
        f"s.value = [...s.options].find(o => o.text.startsWith({label!r})).value; s.dispatchEvent(new "
        f"Event('change')); }})()"
    )


def move(browser: Browser, to: int) -> None:
    browser.evaluate(
        f"(() => {{ const s = document.getElementById('v-at'); s.value = {to}; s.dispatchEvent(new "
        f"Event('input')); }})()"
    )


def written(browser: Browser, panel: int) -> int:
    return int(browser.evaluate(f"document.getElementById('v-panel-{panel}').dataset.written"))


def test_nothing_is_loaded_from_elsewhere(text: str) -> None:
    loaded = re.findall(r"""(?:src|href)=["']?([^"'>]{0,30})""", text)
    assert loaded
    assert all(source.startswith("data:") for source in loaded)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    write_fake(tmp_path, Fake(documents=3))
    assert page(load(tmp_path)) == page(load(tmp_path))


def test_published_rows_are_no_rows_of_a_measured_table(text: str) -> None:
    tables = re.findall(r"<table class=sortable.*?</table>", text, re.S)
    assert len(tables) == 2
    assert not any("Dream-Base" in table or "131.7" in table for table in tables)
    assert "131.7" in text


def test_answers_cannot_inject_markup(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake(documents=2, method="<b>bad</b>"))
    evil = ["</script><script>alert(1)</script>"]
    lines = [
        sample.model_copy(update={"pieces": evil * len(sample.output_ids)}).model_dump_json()
        for sample in read_samples(folder)
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    made = page(load(tmp_path))
    assert "alert(1)" not in made
    assert "<b>bad" not in made


def test_columns_sort_both_ways(browser: Browser) -> None:
    click = "document.querySelector('table.sortable thead th:nth-child({})').querySelector('button').click()"
    browser.evaluate(click.format(2))
    speeds = [float(value) for value in browser.evaluate(TEXT.format(column=1))]
    assert speeds == sorted(speeds, reverse=True)
    browser.evaluate(click.format(2))
    assert [float(value) for value in browser.evaluate(TEXT.format(column=1))] == speeds[::-1]
    browser.evaluate(click.format(1))
    names = browser.evaluate(TEXT.format(column=0))
    assert names == sorted(names)


def test_stepping_writes_what_the_step_map_says(browser: Browser) -> None:
    choose(browser, "table", "nano-gsm")
    browser.wait("document.getElementById('v-doc').options.length === 12")
    choose(browser, "left", "vanilla tokens_per_step=1")
    choose(browser, "right", "d2f")
    browser.wait("document.querySelector('#v-panel-1 h3').textContent.startsWith('d2f')")
    choose(browser, "doc", "#3")
    choose(browser, "sync", "forward")
    samples = {
        method: fake_samples(Fake(method, documents=4, tokens_per_forward=rate))[3]
        for method, rate in (("vanilla", 1), ("d2f", 3.5))
    }
    for done in (0, 1, 5, 1000):
        move(browser, done)
        expected = [sum(step < done for step in samples[method].step_map) for method in ("vanilla", "d2f")]
        assert [written(browser, 0), written(browser, 1)] == expected


def test_the_clock_shows_the_faster_method_ahead(browser: Browser) -> None:
    choose(browser, "table", "nano-gsm")
    browser.wait("document.getElementById('v-doc').options.length === 12")
    choose(browser, "right", "d2f")
    browser.wait("document.querySelector('#v-panel-1 h3').textContent.startsWith('d2f')")
    choose(browser, "sync", "the clock")
    move(browser, 80)
    assert written(browser, 1) > written(browser, 0) > 0
    assert browser.evaluate("document.getElementById('v-panel-1').classList.contains('finished')")


def test_play_runs_to_the_end_and_pause_stops(browser: Browser) -> None:
    move(browser, 0)
    at = "Number(document.getElementById('v-at').value)"
    browser.evaluate("document.getElementById('v-play').click()")
    browser.wait(f"{at} > 2")
    browser.evaluate("document.getElementById('v-play').click()")
    stopped = browser.evaluate(at)
    assert browser.evaluate(f"new Promise(done => setTimeout(() => done({at}), 200))") == stopped
    browser.evaluate("document.getElementById('v-next').click()")
    assert browser.evaluate(at) == stopped + 1
    move(browser, 238)
    browser.evaluate("document.getElementById('v-play').click()")
    browser.wait(f"{at} === Number(document.getElementById('v-at').max)")
    assert browser.evaluate("document.getElementById('v-play').textContent") == "play"


def test_every_suite_can_be_chosen(browser: Browser) -> None:
    choose(browser, "table", "nano-code")
    browser.wait("document.getElementById('v-doc').options.length === 4")
    browser.wait("document.querySelector('#v-panel-0 h3').textContent.startsWith('ar')")


def test_the_page_draws_something_and_complains_of_nothing(browser: Browser, tmp_path: Path) -> None:
    browser.screenshot(tmp_path / "page.png")
    image = Image.open(tmp_path / "page.png").convert("RGB")
    assert image.width >= 1280
    assert len(image.resize((160, 160)).getcolors(160 * 160) or []) > 100
    assert browser.problems == []


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
