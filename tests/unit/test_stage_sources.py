"""No stage's code changes without its version, or without somebody having said that its results are the same."""

from __future__ import annotations

import pytest

from tests.stage_sources import find_libraries, hash_sources, list_changes, list_stages, read_known


def test_every_stage_is_known_by_its_version_and_sources() -> None:
    changes = [f"{name}: {', '.join(changed)}" for name, _, changed in list_changes(read_known())]
    assert changes == [], "run `make stages`: it says which versions to raise"
    versions = {name: entry["version"] for name, entry in read_known().items()}
    assert versions == {name: stage.version for name, (_, stage) in list_stages().items()}


def test_a_change_without_a_version_is_seen() -> None:
    known = read_known()
    known["train"] = {**known["train"], "sources": {**known["train"]["sources"], "lavise.tasks.gone": "0"}}
    known["detect"] = {**known["detect"], "version": known["detect"]["version"] - 1, "sources": {}}
    assert [(name, changed) for name, _, changed in list_changes(known)] == [("train", ["lavise.tasks.gone"])]


def test_what_a_stage_rests_on_is_followed_through_imports() -> None:
    found = hash_sources("lavise.tasks.masks.detection")
    assert {"lavise.tasks.masks.detection", "lavise.tasks.numerics.mann_whitney", "lavise.storage.activations"} <= set(
        found
    )
    assert not [name for name in found if name.startswith("lavise.storage.state")]


def test_what_registers_itself_is_followed_too() -> None:
    assert "lavise.tasks.words.preferred_words" in hash_sources("lavise.tasks.words.explain")
    assert "lavise.tasks.report.sections.bias" in hash_sources("lavise.tasks.report.page")


@pytest.mark.parametrize("name", list(list_stages()))
def test_declared_libraries_are_used(name: str) -> None:
    module, stage = list_stages()[name]
    assert set(stage.libraries) <= find_libraries(hash_sources(module))


def test_whatever_tests_hypotheses_or_folds_words_says_so() -> None:
    declared = {name: set(stage.libraries) for name, (_, stage) in list_stages().items()}
    assert {name for name, own in declared.items() if "scipy" in own} == {
        "bias",
        "detect",
        "diff",
        "explain",
        "precision",
        "validate",
    }
    assert {n for n, own in declared.items() if "simplemma" in own} >= {"vocabulary", "explain", "explainer", "causes"}
    assert "pillow" in declared["extract"]
