"""The benchmark of the report writes a page of what the page is made of now."""

from pathlib import Path

import pytest

from benchmarks import report


def test_its_page_has_all_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "FILTERS", 6)
    paths = report.make_images(tmp_path, 30, [])
    page = report.write(tmp_path, paths).read_text("utf-8")
    described, _ = report.describe(paths)
    assert (len(described.entries), len(described.rest)) == (6, 6)
    assert all(word[0] in page for entry in described.entries for word in entry["w"])
