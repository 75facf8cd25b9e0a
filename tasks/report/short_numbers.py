"""Numbers as the page's data has them."""

from __future__ import annotations

import math
from typing import Any


def shorten(value: Any, digits: int = 4) -> Any:
    """A number of so many significant digits; None for None and for what JSON lacks."""
    if value is None or not math.isfinite(value):
        return None
    if isinstance(value, int):
        return value
    rounded = float(f"{float(value):.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**31 else rounded
