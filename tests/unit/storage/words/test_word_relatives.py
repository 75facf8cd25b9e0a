"""What means an expected word: its forms, what WordNet has in the same sense, and kinds of it."""

from __future__ import annotations

import pytest

from lavise.storage.words.word_relatives import ExpectedWord


@pytest.mark.parametrize(
    ("expected", "word", "how"),
    [
        ("dog", "dog", "same"),
        ("dog", "Dogs", "same"),
        ("hot dog", "hotdogs", "same"),
        ("person", "people", "same"),
        ("car", "automobile", "synonym"),
        ("dog", "poodle", "kind"),
        ("vehicle", "truck", "kind"),
        ("person", "woman", "kind"),
        ("animal", "chicken", "kind"),
        ("animal", "whale", "kind"),
        ("dog", "hot dog", None),
        ("dog", "cat", None),
        ("face", "surface", None),
        ("poodle", "dog", None),
        # WordNet lists an astrologer's person, a giant and a flirt first, or among the others.
        ("person", "scorpion", None),
        ("person", "whale", None),
        ("person", "doll", None),
        ("qwxyz", "dog", None),
        ("dog", "qwxyz", None),
    ],
)
def test_how_a_word_means_another(expected: str, word: str, how: str | None) -> None:
    assert ExpectedWord(expected).relate(word) == how


def test_how_far_relatives_may_be() -> None:
    for reach, found in {"forms": (None, None), "synonyms": ("synonym", None), "kinds": ("synonym", "kind")}.items():
        expected = ExpectedWord("car", reach)  # type: ignore[arg-type]
        assert (expected.relate("automobile"), expected.relate("jeep")) == found
        assert expected.relate("cars") == "same"


def test_other_languages_have_forms_alone() -> None:
    assert ExpectedWord("Hund", language="de").relate("Hunde") == "same"
    assert ExpectedWord("gift", language="de").relate("present") is None
