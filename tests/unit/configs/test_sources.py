from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from lavise.configs import sources
from lavise.configs.base import Settings
from lavise.configs.sources import CheckpointSource, FolderSource, RegisteredModelSource, make_source_type

SOURCES = [FolderSource, RegisteredModelSource]
ADAPTER: TypeAdapter[Any] = TypeAdapter(make_source_type())


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.__name__)
def test_every_source_is_frozen_and_forbids_unknown_keys(source: type[BaseModel]) -> None:
    assert source.model_config.get("frozen") is True
    assert source.model_config.get("extra") == "forbid"


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.__name__)
def test_web_form_has_text_for_every_field(source: type[BaseModel]) -> None:
    schema = source.model_json_schema()
    assert schema["description"] == source.__doc__
    assert schema["title"] != source.__name__
    assert source.__doc__ != Settings.__doc__
    for name, field in schema["properties"].items():
        assert field["title"]
        assert name == "kind" or field["description"].endswith("."), name
        assert name in schema.get("required", []) or "default" in field
    json.dumps(schema, allow_nan=False)


def test_only_what_has_no_good_default_is_required() -> None:
    assert FolderSource.model_json_schema()["required"] == ["folder"]
    assert RegisteredModelSource.model_json_schema()["required"] == ["model"]


def test_kind_chooses_the_source() -> None:
    folder = ADAPTER.validate_python({"kind": "folder", "folder": "/data/run"})
    assert folder == FolderSource(folder=Path("/data/run"), pattern="**/*", stable_seconds=30)
    model = ADAPTER.validate_python({"kind": "registered_model", "model": "cnn"})
    assert model == RegisteredModelSource(model="cnn", select="all", aliases=(), file=None)
    with pytest.raises(ValidationError, match=r"kind\n  Input should be 'folder'"):
        ADAPTER.validate_python({"kind": "bucket", "folder": "/data/run"})


@pytest.mark.parametrize(
    "source",
    [
        FolderSource(folder=Path("/data/run"), pattern="*.pt", stable_seconds=0),
        RegisteredModelSource(model="cnn", select="aliases", aliases=("champion",), file="a/b.pt"),
    ],
    ids=lambda s: s.kind,
)
def test_json_and_back(source: Settings) -> None:
    assert ADAPTER.validate_json(source.model_dump_json()) == source


def test_tilde_is_the_home_folder() -> None:
    assert FolderSource(folder=Path("~/runs")).folder == Path.home() / "runs"


@pytest.mark.parametrize("pattern", ["*.pt", "run-*/last.safetensors", "**", "./last.pt", "a..b/*.pt"])
def test_patterns_below_the_folder(pattern: str) -> None:
    assert FolderSource(folder=Path("x"), pattern=pattern).pattern == pattern


@pytest.mark.parametrize("pattern", ["/data/*.pt", "../*.pt", "a/../../*.pt", "a/..", "", ".", "a\0b"])
def test_patterns_that_leave_the_folder(pattern: str) -> None:
    with pytest.raises(ValidationError, match="pattern must be relative"):
        FolderSource(folder=Path("x"), pattern=pattern)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_stable_seconds_are_a_length_of_time(seconds: float) -> None:
    with pytest.raises(ValidationError, match="stable_seconds"):
        FolderSource(folder=Path("x"), stable_seconds=seconds)


@pytest.mark.parametrize("model", ["models:/cnn", "cnn/3", "", " "])
def test_a_model_is_named_without_its_version(model: str) -> None:
    with pytest.raises(ValidationError, match="model"):
        RegisteredModelSource(model=model)


@pytest.mark.parametrize("aliases", [(), ("",), ("a", "a")], ids=str)
def test_selecting_by_alias_needs_aliases(aliases: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="needs one or more different aliases"):
        RegisteredModelSource(model="cnn", select="aliases", aliases=aliases)


@pytest.mark.parametrize("select", ["all", "latest"])
def test_aliases_that_would_not_be_read_are_a_fault(select: Any) -> None:
    with pytest.raises(ValidationError, match="aliases are read only with"):
        RegisteredModelSource(model="cnn", select=select, aliases=("champion",))


@pytest.mark.parametrize("file", ["/etc/weights.pt", "../last.pt", "a/../../last.pt", ""])
def test_files_outside_of_the_artifacts(file: str) -> None:
    with pytest.raises(ValidationError, match="file must be relative"):
        RegisteredModelSource(model="cnn", file=file)


def test_the_form_offers_every_kind() -> None:
    schema = ADAPTER.json_schema()
    assert [entry["$ref"].rpartition("/")[2] for entry in schema["anyOf"]] == [s.__name__ for s in SOURCES]
    assert "oneOf" not in schema  # which Prefect's form does not know


def test_a_kind_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SOURCES", dict(sources._SOURCES))

    @sources.register_source
    class Toy(CheckpointSource):
        kind: Literal["toy"] = "toy"
        place: str

    assert list(sources.list_sources()) == ["folder", "registered_model", "toy"]
    assert TypeAdapter(make_source_type()).validate_python({"kind": "toy", "place": "x"}) == Toy(place="x")
    assert Toy(place="x").describe() == "toy"

    class Other(CheckpointSource):
        kind: Literal["toy"] = "toy"

    with pytest.raises(ValueError, match=r"source\.kind: 'toy' is registered twice"):
        sources.register_source(Other)
