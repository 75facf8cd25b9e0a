"""Every kind of reference has a reader; another one is added beside its own code."""

from __future__ import annotations

import typing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lavise.configs.drawn_pictures import Drawn
from lavise.configs.schema import ReferenceSettings, TargetSettings
from lavise.storage.datasets import formats
from lavise.storage.datasets.base import Dataset, Reference
from lavise.storage.datasets.formats import Format, find_format, find_target_format, register_format


@pytest.mark.parametrize(("settings", "find"), [(ReferenceSettings, find_format), (TargetSettings, find_target_format)])
def test_all_kinds_of_the_settings_can_be_read(settings: Any, find: Callable[[str], Any]) -> None:
    union, *_ = typing.get_args(settings)
    members = [m for m in typing.get_args(union) if m not in typing.get_args(Drawn)]
    kinds = [typing.get_args(m.model_fields["kind"].annotation)[0] for m in members]
    assert len(members) < len(typing.get_args(union))
    assert kinds
    assert all(find(kind) for kind in kinds)


def test_a_format_is_one_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_FORMATS", dict(formats._FORMATS))
    part = Dataset("toy", (), ("cat",))
    register_format("toy", Format(lambda settings, seed: Reference(part, part)))
    found = find_format("toy")
    assert found.read(SimpleNamespace(), 0).train is part
    assert found.list_files(SimpleNamespace()) == {}


def test_a_kind_that_nobody_reads() -> None:
    with pytest.raises(KeyError, match="parchment"):
        find_format("parchment")
    with pytest.raises(KeyError, match="coco"):
        find_target_format("coco")
