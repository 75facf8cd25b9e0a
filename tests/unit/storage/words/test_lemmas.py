from __future__ import annotations

import pytest

from lavise.storage.words.lemmas import covers, find_category, index_categories, is_novel, lemmatise

COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
).split(", ")
IRREGULAR_PLURALS = {"person": "people", "sheep": "sheep", "knife": "knives", "mouse": "mice"}
IRREGULAR_PLURALS |= {name: name for name in ("skis", "scissors", "broccoli")}


def plural_of(name: str) -> str:
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("dogs", "dog"),
        ("DOGS", "dog"),
        ("mice", "mouse"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("skis", "ski"),
        ("skies", "sky"),
        ("knives", "knife"),
        ("leaves", "leaf"),
        ("geese", "goose"),
        ("men", "man"),
        ("people", "person"),
        ("persons", "person"),
        ("painted", "paint"),
        ("walked", "walk"),
        ("glasses", "glasses"),
        ("glass", "glass"),
        ("saw", "saw"),
        ("painting", "painting"),
        ("women", "woman"),
        ("stockings", "stocking"),
        ("stocking", "stocking"),
        ("sunglasses", "sunglasses"),
        ("cows", "cow"),
        ("bowls", "bowl"),
        ("teeth", "tooth"),
        ("running", "run"),
        ("lenses", "lens"),
        ("crosses", "cross"),
        ("axes", "axe"),
        ("tv", "tv"),
        ("TVs", "tv"),
        ("grass", "grass"),
        ("tennis", "tennis"),
        ("hot dogs", "hot dog"),
        ("Traffic_Lights", "traffic light"),
        ("teddy-bears", "teddy bear"),
        ("  hot   dog ", "hot dog"),
        ("zyzzyvas", "zyzzyva"),
        ("", ""),
    ],
)
def test_lemmas(word: str, lemma: str) -> None:
    assert lemmatise(word) == lemma


@pytest.mark.parametrize("name", COCO)
def test_names_and_their_plurals_have_the_same_lemma(name: str) -> None:
    if name != "hair drier":  # the library takes drier for the comparative of dry
        assert lemmatise(plural_of(name)) == lemmatise(name)


def test_every_plural_finds_its_own_category() -> None:
    index = index_categories(COCO)
    assert [find_category(name, index) for name in COCO] == list(range(80))
    assert [find_category(plural_of(name), index) for name in COCO if name != "hair drier"] == [
        i for i, name in enumerate(COCO) if name != "hair drier"
    ]


def test_only_whole_names_are_found() -> None:
    index = index_categories(["hot dog", "traffic light", "cat"])
    assert [find_category(w, index) for w in ("hot dogs", "hotdog", "HOT_DOG", "traffic lights")] == [0, 0, 0, 1]
    assert [find_category(w, index) for w in ("dog", "hot", "light", "cat food", "bat", "")] == [None] * 6


def test_first_of_two_categories_with_the_same_lemma_wins_and_a_lemma_goes_before_other_forms() -> None:
    assert find_category("dog", index_categories(["dogs", "dog"])) == 0
    index = index_categories(["paints", "painting", "paint"])
    assert (index["paint"], index["painting"]) == (0, 1)
    assert find_category("hotdog", index_categories(["hot dog", "hotdog"])) == 1


def test_category_without_letters_is_never_found() -> None:
    index = index_categories(["", "--", "cat"])
    assert (find_category("", index), find_category("-", index), find_category("cat", index)) == (None, None, 2)


def test_covered_are_whole_names_and_content_words() -> None:
    covered = covers(["hot dogs", "man of war"])
    assert {"hot dog", "hot dogs", "hotdog", "hot", "dog", "dogs", "man of war", "man", "war"} <= covered
    assert "of" not in covered
    assert covers([]) == frozenset()


@pytest.mark.parametrize(
    "word", ["dog", "dogs", "Dogs", "hotdog", "hotdogs", "hot dogs", "people", "persons", "skiing", "ski", "paintings"]
)
def test_forms_of_covered_names_are_not_novel(word: str) -> None:
    assert not is_novel(word, covers(["hot dog", "person", "skis", "painting"]))


@pytest.mark.parametrize("word", ["cat", "puppy", "dog house", "paintball", "personal"])
def test_other_words_are_novel(word: str) -> None:
    assert is_novel(word, covers(["hot dog", "person", "skis", "painting"]))


def test_a_name_whose_lemma_is_another_word_covers_both() -> None:
    """simplemma takes `saw` for the past of `see`; WordNet knows the tool, which is something else."""
    covered = covers(["saw"])
    assert [is_novel(w, covered) for w in ("saw", "saws", "see", "seesaw")] == [False, False, True, True]
