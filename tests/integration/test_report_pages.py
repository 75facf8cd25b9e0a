"""Reports of real audits in a real browser; any others by LAVISE_TEST_REPORTS=PATH:PATH."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import HOW_TO_GET_ONE, drive_report, find_browser, open_browser

GIVEN = [path for path in os.environ.get("LAVISE_TEST_REPORTS", "").split(os.pathsep) if path]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_browser() is None, reason=HOW_TO_GET_ONE)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


@pytest.mark.parametrize("path", GIVEN)
def test_given_reports(browser: Any, path: str) -> None:
    drive_report(browser, Path(path).absolute().as_uri())
