"""The report in a real browser: it opens without complaint, draws everything, fits a phone and follows the reader's scheme."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Page, browse, chromium

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here (Debian's package chromium)")

# As a reader does: every figure comes into view.
SCROLL = """(async () => {
  for (const chart of document.querySelectorAll('.chart')) {
    chart.scrollIntoView({behavior: 'instant'});
    await new Promise((done) => setTimeout(done, 10));
  }
})()"""
DRAWN = "[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)"
SHOWN = "[...document.querySelectorAll('.card')].map((card) => card.querySelector('img:not([hidden])').dataset.step).join()"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browse() as page:
        yield page


@pytest.fixture(autouse=True)
def _silence(tab: Page) -> Iterator[None]:
    """Check after each test that the page logged no error and requested nothing but itself."""
    tab.errors.clear()
    tab.requests.clear()
    yield
    assert tab.errors == []
    assert len(tab.requests) <= 1 and all(url.startswith("file:") for url in tab.requests), tab.requests


def read_through(tab: Page) -> None:
    tab.run(SCROLL)
    tab.wait(DRAWN)


@pytest.mark.long
def test_every_figure_is_drawn_when_it_comes_into_view(tab: Page, page: Path) -> None:
    tab.open(page.as_uri())
    tab.wait("typeof Plotly !== 'undefined' && document.querySelector('.chart[data-drawn]') !== null")
    assert not tab.run(DRAWN)  # the page does not wait for figures further down
    read_through(tab)
    assert tab.run("document.querySelectorAll('.chart .main-svg').length") > 20
    assert tab.run("[...document.querySelectorAll('.chart')].every((chart) => chart.data.length > 0)")
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.long
def test_a_phone_never_scrolls_sideways_in_the_dark(tab: Page, page: Path) -> None:
    tab.open(page.as_uri(), width=390, height=844, phone=True, dark=True)
    read_through(tab)
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert tab.run("document.documentElement.scrollWidth") == 390 == tab.run("innerWidth")
    assert (
        tab.run("Math.max(...[...document.querySelectorAll('.grid > *')].map((one) => one.getBoundingClientRect().right))")
        <= 390
    )


def test_the_scheme_is_the_readers_and_may_change(tab: Page, page: Path) -> None:
    tab.open(page.as_uri(), dark=True)
    red, green, blue = eval(str(tab.run(BACKGROUND)).removeprefix("rgb"))
    assert max(red, green, blue) < 60
    tab.wait("document.querySelector('.chart[data-drawn]') !== null")
    ink = "document.querySelector('.chart[data-drawn]').layout.font.color"
    dark = tab.run(ink)
    tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    tab.wait(f"{ink} !== '{dark}'")
    assert tab.run(BACKGROUND) == "rgb(255, 255, 255)"


def test_the_slider_goes_through_training(tab: Page, page: Path) -> None:
    tab.open(page.as_uri())
    last = tab.run("[...document.querySelectorAll('.card')].map((card) => card.dataset.last).join()")
    assert tab.run(SHOWN) == last
    early = sum(step != "12" for step in last.split(","))
    assert tab.run("document.querySelectorAll('.card.ended').length") == early > 0
    tab.run("(() => { const s = document.getElementById('step'); s.value = 0; s.dispatchEvent(new Event('input')); })()")
    assert set(tab.run(SHOWN).split(",")) == {"3"}
    assert tab.run("document.querySelector('.gallery output').textContent") == "step 3"
    assert tab.run("document.querySelectorAll('.card.ended').length") == 0


def test_highlighting_another_trial(tab: Page, page: Path) -> None:
    tab.open(page.as_uri())
    tab.run("document.getElementById('training').scrollIntoView({behavior: 'instant'})")
    bold = "document.querySelector('#training .chart[data-drawn]')?.data?.at(-1).name"
    tab.wait(f"Boolean({bold})")
    before = tab.run(bold)
    other = 0 if before != "trial 0" else 1
    picker = "document.getElementById('highlight')"
    tab.run(f"{picker}.value = {other}; {picker}.dispatchEvent(new Event('change'));")
    tab.wait(f"{bold} === 'trial {other}'")


def test_a_table_is_sorted_by_a_click(tab: Page, page: Path) -> None:
    tab.open(page.as_uri())
    column = "[...document.querySelectorAll('#trials tbody tr')].map((row) => Number(row.cells[0].textContent)).join()"
    tab.run("document.querySelector('#trials th button').click()")
    assert tab.run(column) == "10,9,8,7,6,5,4,3,2,1,0"
    tab.run("document.querySelector('#trials th button').click()")
    assert tab.run(column) == "0,1,2,3,4,5,6,7,8,9,10"
