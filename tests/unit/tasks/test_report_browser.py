"""The report's page in a real browser: nothing is loaded, nothing fails, and everything can be reached by keyboard."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from typer.testing import CliRunner

from lavise.flows.command_line.commands import app
from lavise.flows.command_line.printed_report import cut_page
from tests.browser import HOW_TO_GET_ONE, Watched, find_browser, open_browser, open_context, wait_opened
from tests.unit.tasks.report_fixtures import MARKUP, RICH_LAYER, RIGHT_TO_LEFT, STRANGE, write_rich_report

pytestmark = pytest.mark.skipif(find_browser() is None, reason=HOW_TO_GET_ONE)

FILTERS = 60 + 30  # of both layers
CLIPPED = (
    "[...document.querySelectorAll('#sheet .scroll')].filter((box) => box.scrollWidth > box.clientWidth)"
    ".map((box) => box.textContent)"
)
ANCHOR = "#filter-features%22%3E%3Cb%3E.0-"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rich_report(tmp_path_factory.mktemp("report"), num_filters=60).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Watched]:
    """The page; at the end it has complained of nothing, and asked nobody for anything."""
    for watched in open_context(browser):
        watched.goto(address)
        yield watched


# ---------------------------------------------------------------- lavise report --pdf


def test_what_is_printed_has_the_first_filters_with_their_pictures(browser: Any, address: str, tmp_path: Path) -> None:
    """And the page's policy finds nothing wrong with it."""
    report = Path(unquote(urlsplit(address).path)).read_text("utf-8")
    (tmp_path / "cut.html").write_text(cut_page(report, 5, with_sections=False), "utf-8")
    for page in open_context(browser):
        page.goto((tmp_path / "cut.html").as_uri())
        page.emulate_media(media="print")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        shown = [card for card in page.locator("#cards .card").all() if card.is_visible()]
        assert len(shown) == 5
        assert all(card.locator("img").count() for card in shown)
        sections = page.locator("main > section").all()
        assert [s.get_attribute("id") for s in sections if s.is_visible()] == ["filters"]
        assert page.is_visible("h1")


def test_a_report_is_printed_by_the_browser_itself(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAVISE_BROWSER", str(find_browser()))
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path))
    folder, out = tmp_path / "runs" / ("d" * 32), tmp_path / "on paper.pdf"
    folder.mkdir(parents=True)
    shutil.copyfile(unquote(urlsplit(address).path), folder / "report.html")
    runner = CliRunner()
    assert runner.invoke(app, ["report", "d" * 32]).stdout.strip() == str(folder / "report.html")
    done = runner.invoke(app, ["report", "d" * 32, "--pdf", "--out", str(out), "--filters", "5"])
    assert (done.exit_code, done.stdout.strip()) == (0, str(out)), done.stderr
    content = out.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Subtype /Image") >= 5
    assert [path.name for path in folder.iterdir()] == ["report.html"]


# ---------------------------------------------------------------- gallery


def test_search_by_word_and_by_number(page: Watched) -> None:
    assert page.count() == FILTERS
    page.fill("#query", "KETTLE")
    found = page.count()
    assert 0 < found < FILTERS
    for card in page.locator("#cards .card").all():
        assert "kettle" in card.text_content()
    page.fill("#query", "17")
    assert set(page.numbers()) == {17}
    page.fill("#query", "no such word")
    assert page.count() == 0
    assert page.is_visible("#empty")
    page.click("#reset")
    assert page.count() == FILTERS


def test_sort(page: Watched) -> None:
    data = json.loads(page.evaluate("document.getElementById('data').textContent"))
    entries = data["filters"]
    for name, key in (("confidence", "c"), ("threshold", "t"), ("images", "n"), ("recall", "j"), ("f1", "d")):
        page.select_option("#sort", name)
        values = sorted((e[key] for e in entries if e[key] is not None), reverse=True)
        by_place = {(e["l"], e["f"]): e[key] for e in entries}
        layers = page.locator("#cards .layer").all_text_contents()
        places = zip((data["layers"].index(n) for n in layers), page.numbers(), strict=True)
        shown = [v for place in places if (v := by_place[place]) is not None]
        assert shown == values[: len(shown)], name
        assert len(shown) > 10
    page.select_option("#sort", "filter")
    assert page.numbers()[:5] == [0, 1, 2, 3, 4]
    page.select_option("#sort", "word")
    first = page.locator("#cards .card .chip:first-child span").all_text_contents()
    assert len(set(first[:20])) > 3


def test_filters_by_kind_and_layer(page: Watched) -> None:
    counts = {}
    for kind in ("explained", "unexplained", "novel", "several"):
        page.select_option("#show", kind)
        counts[kind] = page.count()
        assert 0 < counts[kind] < FILTERS
    assert counts["explained"] + counts["unexplained"] == FILTERS
    assert counts["unexplained"] == 12 + 6
    page.select_option("#show", "several")
    assert all("meanings" in card.text_content() for card in page.locator("#cards .card").all())
    page.select_option("#show", "all")
    page.select_option("#layer", label="body.1")
    assert page.count() == 30
    assert set(page.locator("#cards .layer").all_text_contents()) == {"body.1"}


def test_cards_are_drawn_as_one_scrolls(page: Watched) -> None:
    assert page.locator("#cards .card").count() < FILTERS
    for _ in range(60):
        page.mouse.wheel(0, 300)
        page.wait_for_timeout(30)
    assert page.locator("#cards .card").count() == FILTERS
    assert not page.is_visible("#more")


def test_nothing_moves_below_the_gallery_until_more_is_asked_for(page: Watched) -> None:
    page.click("nav a[href='#concepts']")
    page.wait_for_timeout(200)
    drawn = page.locator("#cards .card").count()
    assert drawn < FILTERS
    page.evaluate("document.getElementById('more').scrollIntoView({ block: 'center' })")
    page.wait_for_timeout(200)
    assert page.locator("#cards .card").count() == drawn
    page.focus("#more")
    page.keyboard.press("Enter")
    page.wait_until(f"document.querySelectorAll('#cards .card').length > {drawn}")
    number = page.locator("#cards .card").nth(drawn).locator(".number").text_content()
    page.keyboard.press("Enter")
    wait_opened(page, f"Filter {number}")


def test_pictures_are_decoded_and_outlined(page: Watched) -> None:
    page.locator("#cards .card").first.scroll_into_view_if_needed()
    page.wait_until("document.querySelector('#cards img').naturalWidth === 64")
    shot = page.locator("#cards .shot").first
    assert shot.locator("path.line").get_attribute("d").startswith("M")
    assert shot.locator("img").get_attribute("alt").endswith(".png")
    page.locator("#bias [data-picture]").first.scroll_into_view_if_needed()
    page.wait_until("document.querySelector('#bias [data-picture] img')?.naturalWidth === 64")


# ---------------------------------------------------------------- an opened filter


def test_deep_link_opens_when_the_page_loads(browser: Any, address: str) -> None:
    for page in open_context(browser):
        page.goto(address + ANCHOR + "3")
        wait_opened(page, "Filter 3")
        assert RICH_LAYER in page.opened()
        page.evaluate(f"location.hash = '{ANCHOR}7'")
        wait_opened(page, "Filter 7")
        page.evaluate("location.hash = '#filter-nothing-1'")
        page.wait_for_selector("dialog[open]", state="detached")
        page.evaluate("location.hash = '#filter-%E0%A4%A-1'")
        assert page.opened() == ""


def test_back_and_closing_leave_the_address_as_it_was(page: Watched, address: str) -> None:
    page.select_option("#sort", "filter")
    view = f"{address}#view?sort=filter"
    assert page.url == view
    page.locator("#cards a.open").nth(1).click()
    wait_opened(page, "Filter 1")
    assert page.url == address + ANCHOR + "1"
    page.get_by_label("Next filter").click()
    wait_opened(page, "Filter 2")
    assert page.url.endswith("-2")
    page.go_back()
    page.wait_for_selector("dialog[open]", state="detached")
    assert page.url == view
    page.locator("#cards a.open").nth(1).click()
    wait_opened(page, "Filter 1")
    page.get_by_label("Close").click()
    page.wait_for_selector("dialog[open]", state="detached")
    page.wait_for_url(view)
    page.click("#reset", force=True) if page.is_visible("#reset") else page.select_option("#sort", "confidence")
    assert page.url == address


def test_a_view_can_be_sent(browser: Any, page: Watched, address: str) -> None:
    page.fill("#query", 'kettle "dog"')
    page.select_option("#show", "explained")
    page.select_option("#layer", "1")
    found, url = page.numbers(), page.url
    assert "#view?" in url
    for other in open_context(browser):
        other.goto(url)
        assert other.input_value("#query") == 'kettle "dog"'
        assert other.numbers() == found
        assert 0 <= other.evaluate("document.querySelector('#controls').getBoundingClientRect().top") < 400
        assert [other.input_value(f"#{name}") for name in ("sort", "show", "layer")] == ["confidence", "explained", "1"]
        other.goto(address + "#view?sort=nonsense&layer=7&query=%3Cb%3E")
        other.wait_until("document.querySelector('#query').value === '<b>'")
        assert other.input_value("#sort") == "confidence"


def test_the_link_to_the_view_is_offered(page: Watched) -> None:
    page.fill("#query", "dog")
    page.click("#link")
    page.wait_until(
        "document.querySelector('#link').textContent === 'Copied' "
        "|| document.querySelector('[aria-label=\"Address to copy\"]')?.value.endsWith('#view?query=dog')"
    )


def test_several_words_in_any_order(page: Watched) -> None:
    page.fill("#query", "dog window")
    both = page.numbers()
    assert both
    for card in page.locator("#cards .card").all():
        said = (card.text_content() or "").lower()
        assert "dog" in said
        assert "window" in said
    page.fill("#query", "window dog")
    assert page.numbers() == both
    page.fill("#query", "body.1 1")
    assert page.numbers() == [1]
    page.fill("#query", '"wind"')
    assert page.count() == 0


def test_the_index_of_words(page: Watched) -> None:
    entries = json.loads(page.evaluate("document.getElementById('data').textContent"))["filters"]
    firsts = [e["w"][0][0] for e in entries if not e["r"] and e["w"]]
    labels = page.locator("#words .chip").all_text_contents()
    assert sorted(labels) == sorted(f"{word}{firsts.count(word)}" for word in set(firsts))
    page.locator("#words .chip", has_text="sea").first.click()
    assert page.input_value("#query") == '"sea"'
    expected = [e["f"] for e in entries if not e["r"] and any(w[0] == "sea" for w in e["w"])]
    assert set(page.numbers()) <= set(expected)
    assert page.count() == len(expected)
    assert page.evaluate("document.querySelector('#words ul').scrollHeight") == page.evaluate(
        "document.querySelector('#words ul').clientHeight"
    )  # no row is cut


def test_who_says_a_word_stands_before_whom_it_is_only_near(page: Watched) -> None:
    entries = json.loads(page.evaluate("document.getElementById('data').textContent"))["filters"]
    page.fill("#query", '"sea"')
    having = [e for e in entries if any(w[0] == "sea" for w in e["w"])]
    said = [e["f"] for e in having if not e["r"] and any(w[0] == "sea" and w[4] for w in e["w"])]
    guessed = [e["f"] for e in having if e["r"] and e["g"] == "sea"]
    rest = len(having) - len(said) - len(guessed)
    ways = [(len(said), "a word of theirs"), (len(guessed), "their best guess"), (rest, "a near word only")]
    split = ", ".join(f"{count} by {way}" for count, way in ways if count)
    assert page.inner_text("#count") == f"{len(having)} of {FILTERS} filters: {split}"
    first = page.numbers()[: len(said)]
    assert set(first) <= set(said)
    page.select_option("#sort", "filter")
    places = [e["f"] for e in sorted(having, key=lambda e: (e["l"], e["f"]))]
    assert page.numbers() == places[: len(page.numbers())]


def test_keyboard(page: Watched) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#filters")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("a/b")
    assert page.input_value("#query") == "a/b"
    page.fill("#query", "")
    page.select_option("#sort", "filter")
    page.locator("#cards a.open").first.focus()
    page.keyboard.press("Enter")
    wait_opened(page, "Filter 0")
    for key, number in (("ArrowRight", 1), ("j", 2), ("ArrowLeft", 1), ("k", 0), ("k", 0), ("j", 1)):
        page.keyboard.press(key)
        wait_opened(page, f"Filter {number}")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    assert page.evaluate("document.activeElement.className") == "open"
    outline = "getComputedStyle(document.activeElement, '::after').outlineStyle"
    assert page.evaluate(outline) == "solid"


def test_an_opened_filter_shows_all_there_is(page: Watched, address: str) -> None:
    page.goto(address + ANCHOR + "3")
    page.reload()
    wait_opened(page, "Filter 3")
    text = page.inner_text("#sheet")
    headings = page.locator("#sheet section h3").all_text_contents()
    why = "Why \u201c\u2068=1+1\u2069\u201d"
    assert headings == [
        *("Meanings", why, "Similar filters", "Words", "Near words"),
        *("Activations", "Classes that it serves", "Without it"),
    ]
    assert page.locator("#sheet .shots .shot").count() == 10
    assert page.locator("#sheet .meanings > li").count() == 2
    assert "=1+1" in text
    own, near = (page.locator("#sheet table.words").nth(n).locator("tbody tr").all_text_contents() for n in (0, 1))
    # Word, confidence, AUROC, top pictures that have it, all pictures, p and q; and what a near one lacks.
    assert own[0] == "=1+10.970.900.85 to 0.9590 % (9)70 % to 95 %3.0 %1.0e-9q 1.0e-7"
    assert [row.endswith("q above 1e-05") for row in near] == [True]
    assert "3.0 % of the answers change" in text
    assert page.locator("#sheet .histogram .threshold").count() == 1
    assert page.locator("#sheet .histogram .bar-above").count() > 0
    page.evaluate(f"location.hash = '{ANCHOR}0'")
    wait_opened(page, "Filter 0")
    headings = page.locator("#sheet section h3").all_text_contents()
    assert headings[-2:] == ["Groups in which it differs", "Against masks"]
    page.evaluate(f"location.hash = '{ANCHOR}59'")
    wait_opened(page, "Filter 59")
    assert "No picture rises above the threshold." in page.inner_text("#sheet")


def test_pictures_that_carry_a_word_and_those_against_it(page: Watched, address: str) -> None:
    page.goto(address + ANCHOR + "3")
    page.reload()
    wait_opened(page, "Filter 3")
    why = page.locator("#why")
    assert "what the explainer says of the whole picture" in (why.text_content() or "")
    heads = [head.split(":")[0] for head in why.locator("h4").all_text_contents()]
    assert heads == ["For it", "Against it", "Against it"]
    # Of the ten that are shown every third has it not; of three silent ones the page has two.
    assert [strip.locator(".shot").count() for strip in why.locator(".reasons").all()] == [7, 3, 2]
    assert why.locator(".reasons").nth(2).locator("small").all_text_contents() == ["0.125", "0.25"]
    page.evaluate(f"location.hash = '{ANCHOR}1'")
    wait_opened(page, "Filter 1")
    assert "of the filter's region" in (page.locator("#why").text_content() or "")
    assert page.locator("#why .reasons").count() == 2


def test_a_class_is_found_from_its_filter(page: Watched, address: str) -> None:
    page.goto(address + ANCHOR + "3")
    page.reload()
    wait_opened(page, "Filter 3")
    page.locator("#sheet .jumps button", has_text="Classes that it serves").click()
    assert page.evaluate("document.activeElement.textContent") == "Classes that it serves"
    link = page.locator('#sheet a[href^="#class-"]').first
    name, anchor = link.text_content(), link.get_attribute("href")
    link.click()
    page.wait_until("() => !document.querySelector('dialog[open]')")
    assert page.evaluate("document.activeElement.id") == anchor[1:]
    assert page.evaluate("document.activeElement.querySelector('h3 bdi').textContent") == name
    page.wait_until("document.activeElement.querySelectorAll('.strip img').length === 4")
    page.locator(f'[id="{anchor[1:]}"] .lead a').first.click()
    page.wait_until("() => document.querySelector('dialog[open]')")


def test_a_concept_shows_its_filters(page: Watched, address: str) -> None:
    link = page.locator("#concepts .concepts a").first
    word = link.text_content()
    number = sum(int(n) for n in link.locator("xpath=..").locator(".amount").all_text_contents())
    link.press("Enter")  # a click would miss it where cards that are still drawn above push it down
    assert page.input_value("#query") in (word, f'"{word}"')
    assert page.input_value("#show") == "explained"
    assert page.count() >= number > 0
    assert page.url.startswith(address + "#view?")
    assert page.evaluate("document.activeElement.id") == "query"


def test_unexplained_filters_show_their_best_guess(page: Watched, address: str) -> None:
    page.goto(address)
    page.select_option("#show", "unexplained")
    cards = page.locator("#cards .card")
    assert cards.locator(".guess").count() == cards.count()
    assert (cards.locator(".guess").first.text_content() or "").startswith("best guess: ")
    # The surest guess first.
    numbers = [int(n) for n in cards.locator("h3 .number").all_text_contents()]
    assert numbers == sorted(numbers, reverse=True)
    page.goto(address + ANCHOR + "4")
    page.reload()
    wait_opened(page, "Filter 4")
    assert STRANGE[4] in page.inner_text("#sheet .guess")
    assert page.inner_text("#why h3").startswith("What speaks for and against the guess")
    assert page.locator("#sheet table.words").count() == page.locator("#sheet table.near").count() == 1


def test_saturated_filters_say_so(page: Watched, address: str) -> None:
    page.goto(address)
    for number in (6, 12, 8, 9):
        page.fill("#query", str(number))
        assert set(page.locator("#cards .card h3 .number").all_text_contents()) == {str(number)}
        texts = page.locator("#cards .card").all_text_contents()
        assert any("saturated" in text for text in texts) == (number % 6 == 0)


def test_views_of_a_region(page: Watched, address: str) -> None:
    page.goto(address + ANCHOR + "3")
    page.reload()
    wait_opened(page, "Filter 3")
    grid = page.locator("#sheet .shots")

    def is_shown(selector: str) -> bool:
        return bool(grid.locator(selector).first.is_visible())

    assert is_shown(".outline")
    page.locator("#sheet input[value=heatmap]").check()
    assert (is_shown("canvas"), is_shown(".outline")) == (True, False)
    assert grid.locator("canvas").count() == 10
    # The brightest place of the strongest picture is where its map is highest, in the ramp's last colour.
    lightest = page.evaluate(
        "() => { const c = document.querySelector('#sheet canvas'); "
        "const p = c.getContext('2d').getImageData(0, 0, 64, 64).data; let best = 0; "
        "for (let i = 0; i < p.length; i += 4) best = Math.max(best, p[i] + p[i + 1] + p[i + 2]); return best; }"
    )
    assert lightest > 600
    page.keyboard.press("j")
    wait_opened(page, "Filter")
    page.wait_for_selector("#sheet .shots.view-heatmap canvas")
    page.locator("#sheet input[value=plain]").check()
    assert (is_shown("canvas"), is_shown(".outline"), is_shown("img")) == (False, False, True)


# ---------------------------------------------------------------- downloads


def test_downloads_hold_what_is_shown_and_no_formulas(page: Watched) -> None:
    page.select_option("#layer", label=RICH_LAYER)
    page.select_option("#show", "explained")
    page.select_option("#sort", "filter")
    with page.expect_download() as waiting:
        page.click("#csv")
    assert waiting.value.suggested_filename == "filters.csv"
    content = Path(waiting.value.path()).read_bytes().decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert len(rows) == page.count() == 48
    assert [int(r["filter"]) for r in rows[:5]] == [0, 1, 2, 3, 5]
    words = [r["words"].split("; ")[0] for r in rows]
    assert words[0] == MARKUP
    assert words[3] == "'=1+1"
    assert rows[7 - 1]["words"].startswith("{{ 7*7 }} ${x}")
    assert rows[8 - 1]["words"].startswith('\'-2;"a",\tb')
    assert not [c for row in csv.reader(io.StringIO(content, newline="")) for c in row if re.match(r"[=+@\t\r]|-\D", c)]
    with page.expect_download() as waiting:
        page.click("#json")
    found = json.loads(Path(waiting.value.path()).read_text("utf-8"))
    assert len(found["filters"]) == 48
    assert found["filters"][3]["words"][0] == {"word": "=1+1", "share": 0.9, "confidence": 0.97, "novel": False}
    assert found["filters"][0]["layer"] == RICH_LAYER


# ---------------------------------------------------------------- hostile text


def test_hostile_text_is_shown_as_text(page: Watched, address: str) -> None:
    page.fill("#query", "onerror")
    chips = page.locator("#cards .chip span").all_text_contents()
    assert MARKUP in chips
    page.goto(address + ANCHOR + "0")
    page.reload()
    wait_opened(page, "Filter 0")
    assert MARKUP in page.inner_text("#sheet")
    for details in page.locator("details").all():
        details.evaluate("(d) => { d.open = true; }")
    text = page.inner_text("body")
    for section in ("bias", "classes", "causes", "diff"):
        assert MARKUP in page.inner_text(f"#{section}"), section
    assert STRANGE[1] in text
    assert RIGHT_TO_LEFT in text
    assert page.locator("img[src=x], main b b, [onerror]").count() == 0
    assert page.evaluate("document.querySelectorAll('script').length") == page.evaluate(
        "document.querySelectorAll('script[id]').length + 1"
    )


# ---------------------------------------------------------------- widths, schemes, paper


@pytest.mark.parametrize("width", [360, 768, 1150, 1280, 1920])
def test_page_is_not_wider_than_the_screen_and_nothing_is_cut(browser: Any, address: str, width: int) -> None:
    for page in open_context(browser, viewport={"width": width, "height": 740}):
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.evaluate(f"location.hash = '{ANCHOR}3'")
        wait_opened(page, "Filter 3")
        assert page.evaluate("document.getElementById('sheet').scrollWidth") <= width
        assert page.evaluate(CLIPPED) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_dark_and_light(browser: Any, address: str) -> None:
    grounds, charts = {}, {}
    for scheme in ("light", "dark"):
        for page in open_context(browser, color_scheme=scheme):
            page.goto(address)
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            grounds[scheme] = sum(int(n) for n in re.findall(r"\d+", colour)[:3])
            charts[scheme] = page.evaluate("document.querySelector('.chart').currentSrc")
            assert page.evaluate("document.querySelector('.chart').naturalWidth") > 100
    assert grounds["light"] == 3 * 255
    assert grounds["dark"] < 120
    assert charts["light"] != charts["dark"]


def test_paper(browser: Any, address: str) -> None:
    """In light colours, with as many filters as are shown, and without what one can only click."""
    for page in open_context(browser, color_scheme="dark"):
        page.goto(address)
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("#cards .card").count() == FILTERS
        assert page.is_hidden("#controls")
        assert page.is_hidden("nav")
        assert page.is_hidden("#more")
        assert (
            page.evaluate(
                "[...document.querySelectorAll('[data-picture]')].map((p) => p.querySelectorAll('img').length)"
            )
            == [1] * page.locator("[data-picture]").count()
            != []
        )
        assert page.is_visible("#print-note")
        assert f"all {FILTERS} filters" in page.inner_text("#print-note")
        assert page.is_hidden(".guide")
        page.emulate_media(media="screen")
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.locator("#cards .card").count() < FILTERS
        assert len(page.pdf()) > 100_000
