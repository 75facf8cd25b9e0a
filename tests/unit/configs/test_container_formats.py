from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lavise.configs.loading import load_config, make_absolute
from lavise.configs.schema import Config
from tests.unit.configs.test_loading import fault_lines
from tests.unit.configs.yaml_files import MINIMAL, write


def set_reference(text: str) -> str:
    return MINIMAL.replace("reference: {kind: openmoji}", f"reference: {{{text}}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: webdataset, root: r, shards: ../*.tar", "reference.shards: must be names below root, found '../*.tar'"),
        ("kind: webdataset, root: r, shards: /a.tar", "reference.shards: must be names below root, found '/a.tar'"),
        ("kind: webdataset, root: r, labels: jpg", "reference: labels must end in cls, txt, json or png, found 'jpg'"),
        (
            "kind: webdataset, root: r, json_objects: o",
            "reference: json_objects needs labels that end in json, found 'cls'",
        ),
        (
            "kind: webdataset, root: r, classes: [a, '']",
            "reference.classes: classes must be a list of names or a text file, found ['a', '']",
        ),
        ("kind: huggingface, root: r, objects: o, mask: m", "reference: objects and mask must not both be given"),
        ("kind: huggingface, root: r, label: null", "reference: one of label, objects and mask must be given"),
        (
            "kind: huggingface, root: r, object_fields: {box_format: yolo}",
            "reference.object_fields.box_format: found 'yolo'; allowed: 'xywh', 'xyxy', 'relative_xywh', "
            "'relative_xyxy' or 'relative_centre'",
        ),
    ],
)
def test_faults(tmp_path: Path, text: str, message: str) -> None:
    assert fault_lines(tmp_path, set_reference(text)) == [message]


def test_a_file_of_classes_is_a_path_and_a_list_is_none(tmp_path: Path) -> None:
    def load(text: str) -> Any:
        config: Config = make_absolute(load_config(write(tmp_path, set_reference(text))))
        return config.reference

    assert load("kind: webdataset, root: r, classes: names.txt").classes == Path("names.txt").absolute()
    assert load("kind: huggingface, root: r, classes: [a, b]").classes == ("a", "b")
