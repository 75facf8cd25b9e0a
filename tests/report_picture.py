"""Takes the picture of a report for the README: `make picture AUDIT=.lavise/runs/RUN_ID`, after `make demo`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.browser import HOW_TO_GET_ONE, find_browser, open_browser

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "report.webp"
_VIEW = {"width": 1180, "height": 1330}
_WIDTH_PX = 820
_SETTLE_MS = 3000


def take_picture(page: Path) -> None:
    """The page's first screen, as one sees it."""
    if find_browser() is None:
        raise SystemExit(HOW_TO_GET_ONE)
    with open_browser() as browser:
        opened = browser.new_page(viewport=_VIEW, color_scheme="light")
        opened.goto(page.resolve().as_uri())
        opened.wait_for_timeout(_SETTLE_MS)
        shot = Image.open(io.BytesIO(opened.screenshot()))
    height = round(shot.height * _WIDTH_PX / shot.width)
    PICTURE.parent.mkdir(exist_ok=True)
    shot.convert("RGB").resize((_WIDTH_PX, height), Image.Resampling.LANCZOS).save(PICTURE, quality=82, method=6)


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]) / "report.html")
