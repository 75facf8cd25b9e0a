"""Every kind of reference has a reader; another one is added beside its own code."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.drawn_pictures import Drawn
from lavise.configs.schema import CocoReference, CombinedReference, ReferenceSettings, TargetSettings
from lavise.storage.datasets import formats
from lavise.storage.datasets.base import Dataset, ImageRecord, Reference
from lavise.storage.datasets.formats import Format, find_format, find_target_format, register_format
from lavise.storage.datasets.input_images import load_input
from lavise.storage.images.geometry import Geometry


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


@pytest.mark.parametrize("settings", [ReferenceSettings, TargetSettings])
def test_range_of_grey_values_can_be_set_for_all_that_is_not_drawn(settings: Any) -> None:
    union, *_ = typing.get_args(settings)
    lacking = {m for m in typing.get_args(union) if "value_range" not in m.model_fields}
    assert lacking == {m for m in typing.get_args(union) if m in (*typing.get_args(Drawn), CombinedReference)}


def test_range_of_grey_values_is_every_pictures_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_FORMATS", dict(formats._FORMATS))
    part = Dataset("toy", (ImageRecord("1.png", Path("1.png")), ImageRecord("2.png", Path("2.png"))))
    register_format("toy", Format(lambda settings, seed: Reference(part, part)))
    read = find_format("toy").read
    assert read(SimpleNamespace(value_range=None), 0).train is part
    ranged = read(SimpleNamespace(value_range=(0.0, 4095.0)), 0).evaluation
    assert [(r.key, r.value_range) for r in ranged.records] == [(name, (0.0, 4095.0)) for name in ("1.png", "2.png")]
    assert ranged.name == "toy"


def test_pictures_of_twelve_bits_with_labels_in_coco_form(tmp_path: Path) -> None:
    for number in range(4):
        Image.fromarray(np.full((8, 8), 1000 * number, dtype=np.uint16)).save(tmp_path / f"{number}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(4)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4]} for i in range(4)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    settings = CocoReference(
        kind="coco",
        root=tmp_path,
        train_images=".",
        train_annotations="labels.json",
        evaluation_share=0.5,
        value_range=(0, 3000),
    )
    read = find_format("coco").read(settings, 0)
    seen = {r.key: int(load_input(r, Geometry(4))[0, 0, 0]) for p in (read.train, read.evaluation) for r in p.records}
    assert seen == {"0.png": 0, "1.png": 85, "2.png": 170, "3.png": 255}
