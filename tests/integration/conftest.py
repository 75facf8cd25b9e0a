"""Files that take longest come first, so that two workers end at about the same time."""

from __future__ import annotations

import pytest

_LONGEST = ("test_reaudit.py", "test_audit.py", "test_operate.py", "test_up.py", "test_planted.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(_LONGEST)))
