"""The vocabulary as an artefact: what is written comes back, and its description follows what it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavise.configs.schema import WordSettings
from lavise.storage.words.word_vectors import PhraseMatch, build_vocabulary, load_word_vectors
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.inputs.vocabulary import VocabularyInputs, load_vocabulary, make_vocabulary, read_vocabulary
from tests.unit.tasks.helpers import publish

CATEGORIES = ("hot dog", "traffic light", "cat", "zyzzyva", "<b>bold</b>")
WORDS = (
    "the", "cat", "dog", "hot", "light", "traffic", "of", "tree", "house", "a1", "river", "hot_dog", "mountain",
    "cloud", "boat",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> WordSettings:
    """Vectors in GloVe's text format."""
    rng = np.random.default_rng(0)
    lines = [" ".join([w, *(f"{v:.6f}" for v in rng.normal(size=4) * 3)]) for w in WORDS]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return WordSettings(vectors=str(tmp_path / "glove.txt"), vocabulary_size=10)


def inputs_of(settings: WordSettings, categories: tuple[str, ...]) -> VocabularyInputs:
    return VocabularyInputs(settings, categories, Given(lambda: load_word_vectors(settings), "v" * 64))


def describe(settings: WordSettings, categories: tuple[str, ...]) -> Mapping[str, Any]:
    """What the artefact depends on besides the vectors."""
    request = inputs_of(settings, categories).request()
    assert request.inputs == {"vectors": "v" * 64}
    return request.settings


def test_round_trip(tmp_path: Path, settings: WordSettings) -> None:
    handle = publish(tmp_path, "vocabulary", lambda folder: make_vocabulary(inputs_of(settings, CATEGORIES), folder))
    found = load_vocabulary(handle)
    expected = build_vocabulary(load_word_vectors(settings), 10, CATEGORIES)
    assert (found.words, found.num_words, found.matches) == (expected.words, expected.num_words, expected.matches)
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    assert found.matrix.dtype == np.float32


def test_content_by_hand(tmp_path: Path, settings: WordSettings) -> None:
    handle = publish(tmp_path, "vocabulary", lambda folder: make_vocabulary(inputs_of(settings, CATEGORIES), folder))
    found = load_vocabulary(handle)
    plain = ["cat", "dog", "hot", "light", "traffic", "tree", "house", "river", "mountain", "cloud"]
    assert list(found.words) == [*plain, "hot dog", "traffic light"]
    assert {m.name: m.how for m in found.matches} == {
        "hot dog": "joined",
        "traffic light": "mean",
        "cat": "exact",
        "zyzzyva": "missing",
        "<b>bold</b>": "missing",
    }
    raw = {
        line.split()[0]: np.array(line.split()[1:], float) for line in Path(settings.vectors).read_text().splitlines()
    }
    unit = {w: v / np.linalg.norm(v) for w, v in raw.items()}
    both = unit["traffic"] + unit["light"]
    rows = [*(unit[w] for w in plain), unit["hot_dog"], both / np.linalg.norm(both)]
    np.testing.assert_allclose(found.matrix, rows, atol=1e-6)
    assert handle.info == {
        "num_words": 10,
        "num_all": 12,
        "dimensions": 4,
        "categories": {"joined": 1, "mean": 1, "exact": 1, "missing": 2},
    }


def test_readings_rows_and_language_come_back(tmp_path: Path, settings: WordSettings) -> None:
    path = Path(settings.vectors)
    path.write_text(path.read_text() + "cat 1 2 3 4\nnothing 0 0 0 0\n")
    chosen = settings.model_copy(update={"language": "fr"})
    handle = publish(
        tmp_path, "vocabulary", lambda folder: make_vocabulary(inputs_of(chosen, ("cat_(tail)", "zyzzyva")), folder)
    )
    found = load_vocabulary(handle)
    assert found.matches[0] == PhraseMatch("cat_(tail)", "exact", ("cat",), "cat")
    assert found.language == "fr"
    assert found.left_out == {
        "word that stands twice; the first is kept": 1,
        "vector of zeros, which has no direction": 1,
    }
    content = json.loads((handle.folder / "vocabulary.json").read_text())
    for name in ("left_out", "language"):
        del content[name]
    content["matches"][0].pop()  # as it was written before there were readings
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocabulary.json").write_text(json.dumps(content))
    np.save(tmp_path / "old" / "matrix.npy", found.matrix)
    old = read_vocabulary(tmp_path / "old")
    assert (old.left_out, old.language, old.matches[0].read_as) == ({}, "en", "")


def test_description_follows_the_language(settings: WordSettings) -> None:
    base = describe(settings, CATEGORIES)
    assert "language" not in base
    german = describe(settings.model_copy(update={"language": "de"}), CATEGORIES)
    assert german["language"] == "de"
    assert german["rule"] != base["rule"]


def test_description_follows_size_and_categories(settings: WordSettings) -> None:
    base = describe(settings, CATEGORIES)
    assert base == describe(settings, CATEGORIES)
    assert base != describe(settings.model_copy(update={"vocabulary_size": 11}), CATEGORIES)
    assert base != describe(settings, CATEGORIES[:-1])
    assert base != describe(settings, CATEGORIES[::-1])


def test_description_follows_the_content_of_the_word_list(tmp_path: Path, settings: WordSettings) -> None:
    listed = tmp_path / "words.txt"
    described = []
    for content, size in (("cat\ndog\n", 10), ("cat\ndog\n", 20), ("cat\nboat\n", 10)):
        listed.write_text(content, "utf-8")
        chosen = settings.model_copy(update={"vocabulary_file": listed, "vocabulary_size": size})
        described.append(describe(chosen, CATEGORIES))
    assert described[0] == described[1] != described[2]


def test_word_list_replaces_the_frequent_words(tmp_path: Path, settings: WordSettings) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text("boat\nhot dog\n# comment\nnothing\nboat\n", "utf-8")
    chosen = settings.model_copy(update={"vocabulary_file": listed})
    handle = publish(tmp_path, "vocabulary", lambda folder: make_vocabulary(inputs_of(chosen, ("cat",)), folder))
    assert load_vocabulary(handle).words == ("boat", "hot dog", "cat")
    assert load_vocabulary(handle).num_words == 2


def test_visual_words(tmp_path: Path, settings: WordSettings) -> None:
    chosen = settings.model_copy(update={"vocabulary": "visual"})
    handle = publish(tmp_path, "vocabulary", lambda folder: make_vocabulary(inputs_of(chosen, CATEGORIES), folder))
    found = load_vocabulary(handle)
    # So few vectors say nothing about visualness: the uses in WordNet decide. `light` is mostly an adjective, `cloud`
    # a cloud of something, and ImageNet has no `river`.
    assert found.words == ("cat", "dog", "tree", "house", "mountain", "boat", *CATEGORIES[:2])
    assert found.num_words == 6
    fewer = chosen.model_copy(update={"vocabulary_size": 3})
    cut = publish(tmp_path / "cut", "vocabulary", lambda folder: make_vocabulary(inputs_of(fewer, CATEGORIES), folder))
    assert load_vocabulary(cut).words == ("cat", "dog", "tree", *CATEGORIES[:2])


def test_a_folder_is_read_as_its_artefact_is(tmp_path: Path, settings: WordSettings) -> None:
    handle = publish(tmp_path, "vocabulary", lambda folder: make_vocabulary(inputs_of(settings, CATEGORIES), folder))
    found, expected = read_vocabulary(handle.folder), load_vocabulary(handle)
    assert (found.words, found.num_words, found.matches) == (expected.words, expected.num_words, expected.matches)
    np.testing.assert_array_equal(found.matrix, expected.matrix)


def test_description_follows_the_rule_and_a_word_list_goes_before_it(tmp_path: Path, settings: WordSettings) -> None:
    visual = settings.model_copy(update={"vocabulary": "visual"})
    described = describe(visual, CATEGORIES)
    assert described != describe(settings, CATEGORIES)
    assert described != describe(visual.model_copy(update={"vocabulary_size": 3}), CATEGORIES)
    assert f"timm {metadata.version('timm')}" in described["rule"]
    listed = tmp_path / "words.txt"
    listed.write_text("boat\ncat\n", "utf-8")
    given = [s.model_copy(update={"vocabulary_file": listed}) for s in (settings, visual)]
    assert describe(given[0], CATEGORIES) == describe(given[1], CATEGORIES)
    handle = publish(tmp_path, "vocabulary", lambda folder: make_vocabulary(inputs_of(given[1], ("dog",)), folder))
    assert load_vocabulary(handle).words == ("boat", "cat", "dog")
