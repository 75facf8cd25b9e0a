"""What sections share: links to filters, and charts for light and dark."""

from __future__ import annotations

import base64
from urllib.parse import quote

from lavise.tasks.charts.figures import (
    darken,
)

SAFE = "!*'()"  # what encodeURIComponent in the page's script leaves as it is


def make_anchor(layer: str, unit: int) -> str:
    """Where a filter opens: the link that the page's script understands."""
    return f"#filter-{quote(layer, safe=SAFE)}-{unit}"


def make_chart(drawing: bytes, alt: str) -> dict[str, str]:
    """A chart (SVG) of the page, for light and dark: {light, dark, alt}, the first two as data: URIs."""
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii")
        for content in (drawing, darken(drawing))
    )
    return {"light": light, "dark": dark, "alt": alt}
