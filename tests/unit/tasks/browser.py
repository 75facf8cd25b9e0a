"""The browser that pages are tested in: Chromium, where the machine has one."""

from __future__ import annotations

import os
import shutil

HOW_TO_GET_ONE = "no Chromium: install one (apt install chromium), or set LAVISE_TEST_BROWSER to its path"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Its path; None where there is none."""
    own = os.environ.get("LAVISE_TEST_BROWSER")
    return own or next((path for name in _NAMES if (path := shutil.which(name))), None)
