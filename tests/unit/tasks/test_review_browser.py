"""Notes on filters, similar filters and two filters side by side, in a real browser."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from lavise.tasks.history import review_notes
from tests.browser import HOW_TO_GET_ONE, Watched, find_browser, open_browser, open_context, wait_opened
from tests.unit.tasks.report_fixtures import MARKUP, RICH_LAYER, write_rich_report

pytestmark = pytest.mark.skipif(find_browser() is None, reason=HOW_TO_GET_ONE)

ANCHOR = "#filter-features%22%3E%3Cb%3E.0-"
FORMULA = '=HYPERLINK("x")'
NOTE = ".review-box textarea"
HEADER = "layer,filter,word,verdict,note,reviewer\r\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rich_report(tmp_path_factory.mktemp("report"), extras=False).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Watched]:
    """The page in a browser that has no notes; at the end it has complained of nothing."""
    for watched in open_context(browser):
        watched.goto(address)
        yield watched


def open_filter(page: Watched, number: int) -> None:
    page.evaluate(f"location.hash = '{ANCHOR}{number}'")
    wait_opened(page, f"Filter {number}")


def leave(page: Watched) -> None:
    page.evaluate("location.hash = ''")
    page.wait_until("() => !document.querySelector('dialog[open]')")


def verdict(page: Watched) -> str:
    return str(page.evaluate("document.querySelector('.review-box input:checked')?.value ?? ''"))


def save_notes(page: Watched) -> str:
    page.evaluate("document.getElementById('review').open = true")
    with page.expect_download() as waiting:
        page.click("#save-notes")
    assert waiting.value.suggested_filename == "notes.csv"
    return Path(waiting.value.path()).read_bytes().decode("utf-8")


def read_notes(page: Watched, content: str) -> str:
    """Have the page read a file; what it says."""
    page.evaluate("document.getElementById('review').open = true")
    page.evaluate("document.getElementById('review-says').textContent = ''")
    page.set_input_files("#load-notes", {"name": "a.csv", "mimeType": "text/csv", "buffer": content.encode("utf-8")})
    page.wait_until("document.getElementById('review-says').textContent !== ''")
    return str(page.inner_text("#review-says"))


# ---------------------------------------------------------------- notes


def test_a_verdict_is_given_by_key_by_mouse_and_taken_back(page: Watched) -> None:
    open_filter(page, 3)
    assert page.inner_text("#asked") == "Does =1+1 fit?"
    for key, found in (("1", "fits"), ("3", "no"), ("2", "partly"), ("0", "")):
        page.keyboard.press(key)
        assert verdict(page) == found
    page.get_by_role("group", name="Your verdict").get_by_label("no", exact=True).check()
    assert verdict(page) == "no"
    page.keyboard.press("ArrowLeft")  # among the radio buttons, not to the filter before
    assert (verdict(page), page.opened().split("\n")[0]) == ("partly", "Filter 3")
    page.get_by_role("textbox", name="Note", exact=True).fill("3 of 10, see 1")
    assert verdict(page) == "partly"
    page.get_by_role("button", name="Clear the verdict").click()
    assert (verdict(page), page.evaluate("document.activeElement.value")) == ("", "fits")
    page.keyboard.press("1")
    page.keyboard.press("j")  # the focus stays, so that one can go on
    wait_opened(page, "Filter")
    assert page.evaluate("document.activeElement.name") == "verdict"
    open_filter(page, 4)
    assert page.inner_text("#asked") == "Does the guess @SUM(A1) fit?"
    assert (verdict(page), page.locator(NOTE).input_value()) == ("", "")


def test_notes_are_on_the_cards_and_in_the_search_and_stay(browser: Any, page: Watched, address: str) -> None:
    for number, key in ((2, "1"), (5, "3"), (6, "1")):
        open_filter(page, number)
        page.keyboard.press(key)
    page.locator(NOTE).fill(MARKUP)
    leave(page)
    assert page.inner_text("#num-reviewed") == "3 of 36 filters: 2 fits, 0 partly, 1 no"
    card = page.locator("#cards .card", has=page.locator("text=your verdict: fits")).last
    assert MARKUP in card.text_content()
    for kind, count in (("reviewed", 3), ("open", 33), ("fits", 2), ("partly", 0), ("no", 1), ("all", 36)):
        page.select_option("#reviewed", kind)
        assert page.count() == count, kind
    page.select_option("#reviewed", "fits")
    assert page.url.endswith("#view?reviewed=fits")
    page.reload()
    assert (page.count(), sorted(page.numbers())) == (2, [2, 6])
    assert "stay in this browser" in page.text_content("#kept")
    assert not page.is_visible("#notes-text")
    # Another window of the same browser has them at once; another browser has none.
    other = page.page.context.new_page()
    other.goto(address)
    assert other.inner_text("#num-reviewed").startswith("3 of 36")
    open_filter(page, 8)
    page.keyboard.press("2")
    other.wait_for_selector("text=4 of 36")
    for apart in open_context(browser):
        apart.goto(address)
        assert apart.inner_text("#num-reviewed") == "0 of 36 filters"


def test_what_is_saved_can_be_read_again_and_holds_no_formulas(
    browser: Any, page: Watched, address: str, tmp_path: Path
) -> None:
    written = {3: FORMULA, 0: '+1, "two"\nlines', 8: "'=kept", 10: "plain"}
    for number, note in written.items():
        open_filter(page, number)
        page.locator(NOTE).fill(note)
        page.keyboard.press("Escape")
        if number != 10:
            open_filter(page, number)
            page.keyboard.press("2")
    leave(page)
    page.evaluate("document.getElementById('review').open = true")
    page.fill("#reviewer", "@ann")
    content = save_notes(page)
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [int(r["filter"]) for r in rows] == [0, 3, 8, 10]
    assert {r["layer"] for r in rows} == {RICH_LAYER}
    assert [r["verdict"] for r in rows] == ["partly", "partly", "partly", ""]
    assert [r["word"] for r in rows[:2]] == [MARKUP, "'=1+1"]
    assert {r["reviewer"] for r in rows} == {"'@ann"}
    assert [r["note"] for r in rows] == ["'" + written[0], "'" + FORMULA, "''=kept", "plain"]
    # The command line reads the same of it, and writes the same.
    path = tmp_path / "notes.csv"
    path.write_bytes(content.encode("utf-8"))
    explained = Path(address.removeprefix("file://")).parent / "first" / "explained" / "filters.parquet"
    notes = review_notes.read_notes([path], parquet.read_table(explained).to_pylist())
    assert [note.note for note in notes] == [written[number] for number in sorted(written)]
    assert list(csv.DictReader(io.StringIO(review_notes.write_notes(notes), newline=""))) == rows
    for apart in open_context(browser):
        apart.goto(address)
        assert read_notes(apart, "\ufeff" + content) == "4 notes read."
        assert apart.input_value("#reviewer") == "@ann"
        assert save_notes(apart) == content


WRONG = {
    "L,3,=1+1,good,,": 'row 2: the verdict is "good"; allowed: fits, partly, no',
    "L,3,=1+1,,,": "row 2: the verdict is empty, and so is the note",
    "L,3,=1+1,no,,\r\nL,99,dog,no,,": "row 3: this page has no filter 99",
    "<b>,3,=1+1,no,,": "row 2: this page has no filter 3 of layer <b>",
    "L,3,=1+1,no,,\r\nL,3,=1+1,fits,,": "row 3: filter 3 of layer",
    'L,3,=1+1,no,"half,': "a quote is not closed",
    "L,3,=1+1,no,a,b,c": "row 2 has 7 cells",
    "L,3,=1+1,no,,ann\r\nL,0,x,no,,bob": "notes of several reviewers",
}


def test_a_file_that_is_wrong_changes_nothing(page: Watched) -> None:
    layer = '"' + RICH_LAYER.replace('"', '""') + '"'
    for rows, wrong in WRONG.items():
        said = read_notes(page, HEADER + rows.replace("L,", f"{layer},") + "\r\n")
        assert said.startswith("Nothing was read. a.csv: ")
        assert wrong in said
    assert page.inner_text("#num-reviewed") == "0 of 36 filters"


def test_notes_about_other_words_are_left_out(page: Watched) -> None:
    layer = '"' + RICH_LAYER.replace('"', '""') + '"'
    said = read_notes(page, HEADER + f"{layer},3,'=1+1,no,,\n{layer},5,other word,no,,\n")
    assert said.startswith("1 notes read; 1 left out")
    assert page.inner_text("#num-reviewed") == "1 of 36 filters: 0 fits, 0 partly, 1 no"
    assert "the column layer is missing" in read_notes(page, "layer;filter\r\n")


def test_without_storage_notes_last_until_the_page_is_closed(browser: Any, address: str, tmp_path: Path) -> None:
    """As in MLflow, which shows the page in a frame that may run scripts and nothing else."""
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe sandbox="allow-scripts" width="1200" height="800" src="{address}"></iframe>')
    for page in open_context(browser):
        page.goto(frame.as_uri())
        inner = page.page.frames[1]
        inner.locator("#cards a.open").first.click()
        inner.wait_for_selector("#sheet .similar")
        inner.locator("#sheet").press("1")
        inner.locator(NOTE).fill("seen in a frame")
        inner.get_by_role("button", name="Compare", exact=True).click()
        inner.get_by_role("search").get_by_role("searchbox").last.press("Enter")
        inner.wait_for_selector(".versus .tables")
        inner.locator("#sheet").press("Escape")
        inner.locator("#review summary").click()
        assert "only until this page is closed" in inner.locator("#kept").inner_text()
        assert inner.locator("#num-reviewed").inner_text() == "1 of 36 filters: 1 fits, 0 partly, 0 no"
        (row,) = csv.DictReader(io.StringIO(inner.get_by_label("to copy").input_value(), newline=""))
        assert (row["verdict"], row["note"]) == ("fits", "seen in a frame")


# ---------------------------------------------------------------- similar filters, two side by side


def test_similar_filters_lead_to_each_other(page: Watched, address: str) -> None:
    page.locator("#cards a.open").first.click()
    wait_opened(page, "Filter 0")
    similar = page.locator("#sheet .similar li")
    figures = [float(text) for text in similar.locator("small").all_text_contents()]
    assert figures == sorted(figures, reverse=True)
    assert 1 <= len(figures) <= 5
    first = similar.first.locator("a").first
    name = first.text_content()
    first.press("Enter")
    wait_opened(page, name)
    assert page.evaluate("document.activeElement.id") == "sheet"
    page.keyboard.press("Escape")
    page.wait_until("() => !document.querySelector('dialog[open]')")
    assert page.url == address


def wait_compared(page: Watched, title: str) -> None:
    page.wait_until(
        "(title) => document.getElementById('opened-title').textContent.startsWith(title) "
        "&& document.querySelector('.versus .tables')",
        title,
    )


def test_two_filters_side_by_side_by_keyboard_and_by_address(browser: Any, page: Watched, address: str) -> None:
    open_filter(page, 3)
    page.keyboard.press("2")
    page.get_by_role("button", name="Compare", exact=True).press("Enter")
    field = page.get_by_label("Compare with: ")
    assert page.evaluate("document.activeElement.type") == "search"
    assert page.locator(".picker li").count() == page.locator("#sheet .similar li").count()
    field.fill("dog")
    assert "found" in page.inner_text(".picker output")
    field.fill("body.1 7")
    assert page.locator(".picker li").count() == 1
    page.keyboard.press("Enter")
    wait_compared(page, "Filters 3 and 7")
    assert page.evaluate("document.activeElement.id") == "sheet"
    assert page.url.endswith("#compare?a=features%22%3E%3Cb%3E.0-3&b=body.1-7")
    assert page.locator(".versus .shots").count() == 2
    rows = page.locator(".versus .tables tr").all_inner_texts()
    assert "Confidence\t0.97\t0.93" in rows
    assert "Your verdict\tpartly\t" in rows
    assert any(row.startswith("=1+1\t90 %, confidence 0.97\t") for row in rows)
    assert page.is_hidden(".review-box")
    assert page.get_by_label("Next filter").count() == 0 or page.get_by_label("Next filter").is_hidden()
    page.keyboard.press("j")
    page.keyboard.press("1")  # neither filter is meant
    page.locator(".versus input[value=heatmap]").check()
    assert page.locator(".versus canvas").count() == page.locator(".versus .item").count() > 10
    for other in open_context(browser, viewport={"width": 360, "height": 740}):
        other.goto(page.url)
        wait_compared(other, "Filters 3 and 7")
        assert other.evaluate("document.getElementById('sheet').scrollWidth") <= 360
        assert "top pictures are in both" in other.inner_text(".versus .summary")
        other.evaluate("location.hash = '#compare?a=body.1-1&b=body.1-99'")
        other.wait_until("() => !document.querySelector('dialog[open]')")
    page.locator(".versus h3 a").first.click()
    wait_opened(page, "Filter 3")
    assert verdict(page) == "partly"
    page.get_by_role("button", name="Compare", exact=True).click()
    page.keyboard.press("Escape")  # leaves the field, not the filter
    assert page.opened().startswith("Filter 3")
    assert page.evaluate("document.activeElement.textContent") == "Compare"


def test_similar_filters_can_be_compared_with_a_click(page: Watched) -> None:
    open_filter(page, 0)
    shown = page.locator("#sheet .similar li").first
    figure = shown.locator("small").text_content()
    shown.get_by_role("link", name="Compare with filter").click()
    wait_compared(page, "Filters 0 and ")
    assert f"a correlation of {figure}" in page.inner_text(".versus .summary")
    page.get_by_label("Close").click()
    page.wait_until("() => !document.querySelector('dialog[open]')")
    assert "#compare" not in page.url
