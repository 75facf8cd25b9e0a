"""The form of the deployment `lavise/full`: what is filled in becomes settings, and runs have names."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from lavise.configs.errors import UserError
from lavise.configs.groups import AnnotationGroups
from lavise.configs.loading import load_config
from lavise.configs.schema import Config
from lavise.flows.orchestration.audit_flow import _as_overrides, audit, name_run
from lavise.flows.orchestration.prefect_runs import name_model

EMPTY: dict[str, Any] = {"model.weights": "", "model.layers": [], "seed": None, "device": ""}


def load(register_model: bool = False, **chosen: Any) -> Config:
    """The demo's settings with what was filled in; `model__weights` stands for model.weights."""
    given = {key.replace("__", "."): value for key, value in chosen.items()}
    return load_config("demo", _as_overrides({**EMPTY, **given}, register_model))


def test_an_empty_form_is_the_config() -> None:
    assert _as_overrides(EMPTY, register_model=False) == []
    assert load() == load_config("demo")


def test_what_is_filled_in_counts() -> None:
    found = load(model__weights="/data/a.pth", model__layers=["blocks.1", "bn2"], seed=3, device="cpu")
    assert (found.model.weights, found.model.layers) == ("/data/a.pth", ("blocks.1", "bn2"))
    assert (found.seed, found.device) == (3, "cpu")
    assert found.tracking.register_model is False
    assert load(register_model=True).tracking.register_model is True


def test_zero_is_a_seed() -> None:
    assert _as_overrides({**EMPTY, "seed": 0}, register_model=False) != []
    assert load_config("demo", ["seed=5", *_as_overrides({**EMPTY, "seed": 0}, register_model=False)]).seed == 0


@pytest.mark.parametrize(
    "text",
    [
        "/a b/c: d #e.pth",
        "/[1, 2]/{a: b}.pth",
        "~/x=y.pth",
        "null",
        "1e3",
        "0x10",
        "yes",
        "2026-11-23",
        "- a",
        "*a",
        "'\"",
        "a\nb\tc",
        " a ",
        "ä\N{GRINNING FACE}\N{LINE SEPARATOR}.pth",
        "\x7f\x85",
        "a long name " * 30,
    ],
)
def test_any_text_arrives_as_it_is(text: str) -> None:
    found = load(model__weights=text, model__layers=[text, "bn2"])
    assert found.model.weights == text
    assert found.model.layers == (text, "bn2")


@pytest.mark.parametrize("predicate", ["cat and not dog", "cat: dog", "'hot dog' >= 2"])
def test_groups_arrive_in_their_short_form(predicate: str) -> None:
    assert load().bias.groups is None
    found = load(bias__groups=f"annotations:{predicate}").bias.groups
    assert isinstance(found, AnnotationGroups)
    assert found.predicate == predicate


def test_a_wrong_value_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"layers must be .* different module names"):
        load(model__layers=["bn2", "bn2"])


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"device": "tpu"}, {"layers": "bn2"}, {"overrides": [["seed", 1]]}])
def test_what_the_form_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError):
        audit.validate_parameters(wrong)


def test_every_field_of_the_form_is_described() -> None:
    schema = parameter_schema(audit.fn)
    assert list(schema.properties) == [
        "config",
        "weights",
        "layers",
        "seed",
        "device",
        "groups",
        "policy",
        "register_model",
        "overrides",
    ]
    assert all(field.get("description") for field in schema.properties.values())
    # What is shown at first is valid as it is.
    defaults = {name: field["default"] for name, field in schema.properties.items()}
    assert audit.validate_parameters(defaults) == defaults


@pytest.mark.parametrize(
    ("config", "weights", "name"),
    [
        ("demo", None, "demo"),
        ("demo", "", "demo"),
        ("/data/configs/my.yaml", None, "my"),
        ("configs/my.v2.yml", "/data/epoch3.pth", "my.v2 epoch3.pth"),
        ("demo", "pretrained", "demo pretrained"),
    ],
)
def test_names_of_runs(config: str, weights: str | None, name: str) -> None:
    assert name_model(config, weights) == name


def test_a_run_of_nothing_given_is_the_demos() -> None:
    assert name_run() == "demo"
