"""Registries: names of this version, names that are added, and names that nobody knows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.registry import ATTENTION, OBJECTIVES, RANKINGS, TRANSFERS, Registry
from lavise.configs.schema import ExplainSettings, TrainSettings, TransferSettings

ALL = [ATTENTION, OBJECTIVES, RANKINGS, TRANSFERS]


@pytest.fixture
def toys() -> Iterator[None]:
    """Whatever a test registers is gone afterwards."""
    before = [dict(registry._entries) for registry in ALL]
    yield
    for registry, entries in zip(ALL, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.mark.parametrize("registry", ALL, ids=lambda r: r.setting)
def test_the_names_of_this_version_are_those_that_register(registry: Registry[Any]) -> None:
    registry.list_names()
    assert set(registry._entries) == set(registry._names) - {"none"}


@pytest.mark.parametrize("registry", ALL, ids=lambda r: r.setting)
def test_what_nobody_registered_is_answered_with_what_there_is(registry: Registry[Any]) -> None:
    with pytest.raises(ValueError, match=f"{registry.setting}: found 'nothing'; allowed: '{registry._names[0]}', "):
        registry.get("nothing")


def test_the_command_line_names_what_is_allowed() -> None:
    with pytest.raises(UserError) as error:
        load_config("demo", ["train.objective=hing", "explain.method=x", "evaluate.methods=[original,y]"])
    assert str(error.value).splitlines() == [
        "demo: train.objective: found 'hing'; allowed: 'hinge', 'cosine' or 'softmax'",
        "demo: explain.method: found 'x'; allowed: 'original', 'image_masking', 'activation_masking', "
        "'filter_attention' or 'filter_attention_unnormalised'",
        "demo: evaluate.methods.1: found 'y'; allowed: 'original', 'image_masking', 'activation_masking', "
        "'filter_attention' or 'filter_attention_unnormalised'",
    ]


def test_settings_accept_what_is_registered(toys: None) -> None:
    with pytest.raises(ValidationError):
        ExplainSettings(method="mine")
    ATTENTION.register("mine")(lambda maps, filters, thresholds: maps)
    OBJECTIVES.register("mine")(lambda objective, output, words: output)
    RANKINGS.register("mine")(object())
    TRANSFERS.register("mine")(object())
    assert ExplainSettings(method="mine", ranking="mine").ranking == "mine"
    assert TrainSettings(objective="mine").objective == "mine"
    assert TransferSettings(method="mine").method == "mine"
    assert ATTENTION.list_names()[-1] == "mine"


def test_a_name_is_registered_once(toys: None) -> None:
    ATTENTION.register("mine")(len)
    ATTENTION.register("mine")(len)
    with pytest.raises(ValueError, match="'mine' is registered twice"):
        ATTENTION.register("mine")(max)


def test_known_names_are_checked_without_heavy_imports() -> None:
    code = (
        "import sys, json; from lavise.configs.loading import load_config; "
        "load_config('demo', ['explain.method=original']); "
        "print(json.dumps([m for m in ('torch', 'mlflow', 'prefect') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_form_offers_the_names_of_this_version() -> None:
    schema = TrainSettings.model_json_schema()["properties"]["objective"]
    assert (schema["enum"], schema["type"]) == (["hinge", "cosine", "softmax"], "string")


def test_a_revision_is_stated_where_the_name_is_used_and_nowhere_else() -> None:
    registry: Registry[int] = Registry("a.setting", (), ("old", "mended"), revisions={"mended": 2})
    assert registry.describe_code("old") == {}
    assert registry.describe_code("old", "mended") == {"code of a.setting": {"mended": "2"}}
    registry.register("mended")(1)
    assert registry.describe_code("mended") == {"code of a.setting": {"mended": "2"}}
    assert ATTENTION.describe_code("filter_attention", "original") == {}
    assert ATTENTION.describe_code("image_masking") == {"code of explain.method": {"image_masking": "2"}}
