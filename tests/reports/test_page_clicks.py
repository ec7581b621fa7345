"""The page in a real browser, by clicks and keys: one Chromium, one page that opens from its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.records.schema import read_samples
from reports.boards import boards
from reports.load import load
from reports.site import site, write
from reports.table import Table
from tests.browser import Browser, find_chromium
from tests.synthetic_runs import Fake, fake_samples, write_fake, write_table

PROGRAM = "def solve():\n    return '</script><b id=evil>'"
OVERFULL = (
    "[...document.querySelectorAll('.sortable td')].filter(c => c.scrollWidth > c.clientWidth)"
    ".map(c => c.textContent)"
)
LOADED = "JSON.stringify(Store.loaded().filter(name => name.startsWith('samples')))"


def ask(table: Table) -> dict[str, Any]:
    if table.suite == "nano-code":
        return {"problem": "its data is not here", "documents": {}}
    asked = {
        str(number): {"prompt": f"Question {number}<i>", "reference": f"#### {number}"}
        for number in range(12)
    }
    return {"problem": None, "documents": asked}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    root, folder = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("page")
    write_table(root / "leaderboard", 12)
    code = write_fake(root / "leaderboard", Fake("ar", suite="nano-code", documents=4))
    lines = [one.model_copy(update={"program": PROGRAM}).model_dump_json() for one in read_samples(code)]
    (code / "samples.jsonl").write_text("\n".join(lines) + "\n")
    write_fake(root / "students", Fake("d2f", documents=3))
    write(site(boards(root, load(root)), ask=ask), folder, ("plots/",))
    index = folder / "index.html"
    # Pictures have their own tests; a page that drew all of them here would only be slow.
    index.write_text(index.read_text().replace('src="plots/', 'data-src="plots/'))
    with Browser() as opened:
        opened.open(index)
        opened.wait("document.body.dataset.at === location.hash")
        yield opened


def settle(browser: Browser) -> None:
    browser.wait("document.body.dataset.at === location.hash")


def click(browser: Browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({selector!r}).click()")
    settle(browser)


def choose(browser: Browser, name: str, label: str) -> None:
    """Choose the option whose text starts with ``label``."""
    browser.evaluate(
        f"(() => {{ const s = document.getElementById({name!r});"
        f"s.value = [...s.options].find(o => o.text.startsWith({label!r})).value; s.dispatchEvent(new "
        f"Event('change')); }})()"
    )
    settle(browser)


def press(browser: Browser, key: str) -> None:
    browser.evaluate(
        f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: {key!r}, bubbles: true}}))"
    )
    settle(browser)


def go(browser: Browser, *labels: str, query: str = "") -> None:
    """To the first board's nano-gsm table, a row by its label and a problem."""
    browser.evaluate(
        f"(() => {{ const run = Data.runs.find(r => Data.tables[r.table].suite === 'nano-gsm' && "
        f"r.label.startsWith({labels[0]!r})); location.hash = Route.sample(run, "
        f"{labels[1] if len(labels) > 1 else ''!r}).replace(/\\/$/, '') + {query!r}; }})()"
    )
    settle(browser)


def shown(browser: Browser, column: int) -> list[str]:
    """Texts of a column of the nano-gsm table, rows that are shown alone."""
    return browser.evaluate(
        "[...document.querySelectorAll('section[data-table]')].filter(s => !s.hidden).flatMap(s => "
        "[...s.querySelector('table.sortable').tBodies[0].rows]).filter(row => !row.hidden).map(row => "
        f"row.cells[{column}].textContent)"
    )


def move(browser: Browser, to: int) -> None:
    browser.evaluate(
        f"(() => {{ const s = document.getElementById('v-at'); s.value = {to}; s.dispatchEvent(new "
        f"Event('input')); }})()"
    )


def written(browser: Browser, panel: int) -> int:
    return int(browser.evaluate(f"document.getElementById('v-panel-{panel}').dataset.written"))


def test_boards_filters_and_order_have_addresses(browser: Browser) -> None:
    assert len(shown(browser, 0)) == 6
    assert browser.evaluate(LOADED) == "[]", "no samples before a row is asked for"
    click(browser, "#boards a:nth-child(2)")
    choose(browser, "f-suite", "nano-gsm")
    assert browser.evaluate("document.getElementById('f-count').textContent") == "4 of 5 rows"
    click(browser, "section:not([hidden]) thead th:nth-child(2) button")
    speeds = [float(value) for value in shown(browser, 1)]
    assert speeds == sorted(speeds, reverse=True)
    click(browser, "section:not([hidden]) thead th:nth-child(2) button")
    assert [float(value) for value in shown(browser, 1)] == speeds[::-1]
    choose(browser, "f-method", "vanilla")
    assert shown(browser, 0) == ["vanilla tokens_per_step=1", "vanilla tokens_per_step=2"]
    assert browser.evaluate("location.hash").startswith(
        "#/leaderboard?suite=nano-gsm&sort=TPS&order=ascending"
    )
    address = browser.evaluate("location.hash")
    click(browser, "#f-clear")
    assert len(shown(browser, 0)) == 5
    browser.evaluate(f"location.hash = {address!r}")
    settle(browser)
    assert shown(browser, 0) == ["vanilla tokens_per_step=1", "vanilla tokens_per_step=2"]


def test_verdicts_have_colours(browser: Browser) -> None:
    browser.evaluate("location.hash = '#/leaderboard'")
    settle(browser)
    kinds = browser.evaluate(
        "[...document.querySelectorAll('td.verdict-cell')].map(c => [c.textContent, getComputedStyle("
        "c).backgroundColor])"
    )
    assert len({colour for _, colour in kinds}) >= 2
    assert {colour for text, colour in kinds if "pp: no" in text and "not" not in text} == {
        "rgb(251, 228, 225)"
    }


def test_a_row_lists_its_samples_and_where_two_methods_disagree(browser: Browser) -> None:
    browser.evaluate("location.hash = '#/leaderboard'")
    settle(browser)
    browser.evaluate(
        "[...document.querySelectorAll('.sortable a')].find(a => a.textContent === 'd2f').click()"
    )
    settle(browser)
    mine = fake_samples(Fake("d2f", documents=12, accuracy=0.4))
    other = fake_samples(Fake("vanilla", documents=12))
    apart = [a.doc_id for a, b in zip(mine, other, strict=True) if a.correct != b.correct]
    assert apart
    assert browser.evaluate("document.querySelectorAll('#s-list tbody tr').length") == 12
    click(browser, ".chips a[data-kind=disagree]")
    listed = browser.evaluate(
        "[...document.querySelectorAll('#s-list tbody tr')].map(r => Number(r.dataset.doc))"
    )
    assert listed == apart
    assert browser.evaluate("document.querySelector('.chips a[data-kind=disagree] b').textContent") == str(
        len(apart)
    )
    choose(browser, "s-with", "no other row")
    assert browser.evaluate("document.querySelector('.chips a[data-kind=disagree]')") is None
    choose(browser, "s-with", "vanilla tokens_per_step=1")
    click(browser, "#s-list a")
    assert browser.evaluate("document.querySelector('#s-head h2').textContent") == f"Problem {apart[0]}"
    if len(apart) > 1:
        press(browser, "n")
        assert browser.evaluate("document.querySelector('#s-head h2').textContent") == f"Problem {apart[1]}"
        press(browser, "p")
    assert browser.evaluate("location.hash").split("?")[0].endswith(f"/{apart[0]}")
    loaded = browser.evaluate(LOADED)
    assert loaded.count("samples/") == 2, "two rows were looked at"


def test_a_sample_shows_what_was_asked_and_what_came_out(browser: Browser) -> None:
    go(browser, "d2f", "3")
    texts = browser.evaluate("document.getElementById('s-texts').textContent")
    assert "Question 3<i>" in texts
    assert "#### 3" in texts
    browser.evaluate("location.hash = Route.sample(Data.runs.find(r => r.method === 'ar'), '1')")
    settle(browser)
    texts = browser.evaluate("document.getElementById('s-texts').textContent")
    assert PROGRAM in texts
    assert "its data is not here" in texts
    assert browser.evaluate("document.getElementById('evil')") is None
    assert browser.evaluate("document.getElementById('v-panel-1').hidden"), "no other row to compare with"


def test_stepping_writes_what_the_step_map_says(browser: Browser) -> None:
    go(browser, "d2f", "3")
    choose(browser, "v-sync", "forward")
    samples = {
        method: fake_samples(Fake(method, documents=4, tokens_per_forward=rate))[3]
        for method, rate in (("d2f", 3.5), ("vanilla", 1))
    }
    for done in (0, 1, 5, 1000):
        move(browser, done)
        expected = [sum(step < done for step in samples[method].step_map) for method in ("d2f", "vanilla")]
        assert [written(browser, 0), written(browser, 1)] == expected
    choose(browser, "v-sync", "the clock")
    move(browser, 80)
    assert written(browser, 0) > written(browser, 1) > 0, "the faster method is ahead"
    assert browser.evaluate("document.getElementById('v-panel-0').classList.contains('finished')")


def test_space_plays_to_the_end_and_stops(browser: Browser) -> None:
    go(browser, "d2f", "3")
    move(browser, 0)
    at = "Number(document.getElementById('v-at').value)"
    press(browser, " ")
    browser.wait(f"{at} > 2")
    press(browser, " ")
    stopped = browser.evaluate(at)
    assert browser.evaluate("document.getElementById('v-play').textContent") == "play"
    press(browser, "ArrowRight")
    assert browser.evaluate(at) == stopped + 1
    move(browser, 238)
    browser.evaluate("document.getElementById('v-play').click()")
    browser.wait(f"{at} === Number(document.getElementById('v-at').max)")
    assert browser.evaluate("document.getElementById('v-play').textContent") == "play"


def test_lost_addresses_are_answered(browser: Browser) -> None:
    browser.evaluate("location.hash = '#/leaderboard/nano-gsm/nothing'")
    settle(browser)
    assert "no row nothing" in browser.evaluate("document.getElementById('lost').textContent")
    go(browser, "d2f", "77")
    assert "holds no problem 77" in browser.evaluate("document.getElementById('s-head').textContent")


def test_a_phone_shows_all_without_sideways_scrolling(browser: Browser) -> None:
    browser.size(390, 800)
    for place in ("#/", "#/leaderboard"):
        browser.evaluate(f"location.hash = {place!r}")
        settle(browser)
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        assert browser.evaluate(OVERFULL) == []
    for labels in (("d2f",), ("d2f", "3")):
        go(browser, *labels)
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
    browser.size(1300, 1000)


def test_the_page_draws_something_and_complains_of_nothing(browser: Browser, tmp_path: Path) -> None:
    go(browser, "d2f", "3")
    browser.screenshot(tmp_path / "page.png")
    image = Image.open(tmp_path / "page.png").convert("RGB")
    assert image.width >= 1280
    assert len(image.resize((160, 160)).getcolors(160 * 160) or []) > 100
    assert browser.problems == []
