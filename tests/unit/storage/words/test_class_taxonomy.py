from __future__ import annotations

import pytest

from lavise.storage.words.class_taxonomy import count_classes, find_hypernyms, find_synset, read_imagenet_classes
from lavise.storage.words.wordnet import load_wordnet


def lemmas_of(offset: int | None) -> tuple[str, ...]:
    assert offset is not None
    return load_wordnet().synsets[offset].lemmas


@pytest.mark.parametrize(
    ("synonyms", "lemma"),
    [
        (("English springer", "English springer spaniel"), "English springer"),
        (("hen",), "hen"),
        (("kite",), "kite"),
        (("computer mouse", "mouse"), "mouse"),
        (("qwxyz", "gas pump"), "gas pump"),
        (("springer spaniel",), "springer spaniel"),
    ],
)
def test_a_class_is_found_by_its_synonyms(synonyms: tuple[str, ...], lemma: str) -> None:
    assert lemma in lemmas_of(find_synset(synonyms))


def test_lone_names_mean_what_a_picture_can_show() -> None:
    """WordNet's commonest hen is a hen, but its kite is a cheque, its cock a word for something else."""
    synsets = load_wordnet().synsets
    for name in ("kite", "cock", "hen", "scorpion", "tick"):
        found = find_synset([name])
        assert found is not None
        assert synsets[found].category == "noun.animal", name


def test_nearly_all_imagenet_classes_are_found_by_their_names() -> None:
    from lavise.configs.schema import ModelSettings
    from lavise.storage.models.class_names import load_class_names

    names = load_class_names(ModelSettings(arch="timm:resnet18"), 1000)
    assert names is not None
    expected = read_imagenet_classes()
    missed = [names.names[k][0] for k in range(1000) if find_synset(names.names[k]) != expected[k]]
    assert missed == ["crane", "maillot"]  # names of two classes each


def test_unknown_names_have_no_synset() -> None:
    assert find_synset(["qwxyz"]) is None
    assert find_synset([]) is None


def test_hypernyms_are_specific_and_mean_it() -> None:
    found = find_hypernyms(find_synset(["English springer", "English springer spaniel"]) or 0)
    assert {"spaniel", "dog", "hunting dog"} <= found
    assert not {"animal", "mammal", "carnivore", "organism", "entity"} & found
    horn = find_hypernyms(find_synset(["French horn", "horn"]) or 0)
    assert {"brass", "instrument", "musical instrument"} <= horn


def test_generality_is_counted_in_classes() -> None:
    dog = find_synset(["dog", "domestic dog", "Canis familiaris"])
    assert dog is not None
    assert count_classes()[dog] == 118
    assert find_hypernyms(find_synset(["beagle"]) or 0, 0.1).isdisjoint({"dog"})
    assert "dog" in find_hypernyms(find_synset(["beagle"]) or 0, 0.2)
