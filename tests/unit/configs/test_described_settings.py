"""Every setting can be looked up, and what is said of it is what the schema takes."""

from __future__ import annotations

import json

import pytest

from lavise.configs.described_settings import find_settings, list_keys, list_sections
from lavise.configs.errors import UserError
from lavise.configs.schema import Config
from lavise.flows.command_line.settings import render_settings_page
from tests.settings_page import PAGE

ENTRIES = [(s, e) for s in list_sections() for e in s.entries]


def test_all_fields_of_the_schema_are_there() -> None:
    keys = set(list_keys())
    for name, field in Config.model_fields.items():
        assert name in keys
        nested = getattr(field.annotation, "model_fields", {})
        assert {f"{name}.{own}" for own in nested} <= keys


def test_defaults_are_those_of_the_schema() -> None:
    config = Config.model_validate(
        {"name": "a", "model": {"arch": "resnet18"}, "reference": {"kind": "openmoji"}, "target": {"kind": "openmoji"}}
    ).model_dump(mode="json")
    compared = 0
    for section, entry in ENTRIES:
        if section.kind or entry.default is None:
            continue
        value = config
        for part in entry.key.split("."):
            value = value[part]
        assert value == json.loads(entry.default), entry.key
        compared += 1
    assert compared > 80


def test_limits_and_choices_in_words() -> None:
    allowed = {e.key: e.allowed for s, e in ENTRIES if not s.kind}
    assert allowed["explain.ranking"] == "auroc, evidence, frequency, peak_weighted"
    assert allowed["statistics.quantile"] == "number above 0.5, below 1"
    assert allowed["seed"] == "whole number at least 0, below 4294967296"
    assert allowed["explain.min_confidence"] == "number at least 0, below 1; or null"
    assert allowed["model.layers"] == "list, each: text; or auto"
    assert allowed["bias.groups"] == "null, or one of the kinds folder, csv, annotations"


def test_what_has_no_default_must_be_given() -> None:
    missing = {e.key for s, e in ENTRIES if e.default is None and not s.kind}
    assert missing == {"name", "model.arch"}


def test_a_kind_of_data_set_can_be_asked_for() -> None:
    assert [s.kind for s in find_settings("reference.coco")] == ["coco"]
    one = find_settings("reference.coco.masks")
    assert [(s.kind, [e.key for e in s.entries]) for s in one] == [("coco", ["reference.masks"])]
    assert {"coco", "yolo"} < {s.kind for s in find_settings("reference.masks")}
    assert len(find_settings("reference")) > 10


@pytest.mark.parametrize(
    ("key", "hint"),
    [("objective", "did you mean train.objective?"), ("trian", "did you mean train"), ("model.archs", "model.arch")],
)
def test_a_key_that_is_none(key: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"key: found '{key}'; allowed: a section") as caught:
        find_settings(key)
    assert hint in str(caught.value)


def test_the_page_is_that_of_the_schema() -> None:
    """`make settings` writes it anew."""
    assert PAGE.read_text("utf-8") == render_settings_page()


def test_every_setting_says_what_it_is() -> None:
    assert [(s.kind, e.key) for s, e in ENTRIES if not e.text] == []
    assert [(s.kind, s.key) for s in list_sections() if not s.text] == []
