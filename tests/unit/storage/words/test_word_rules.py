"""Words and lemmas of other languages than English."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from lavise.configs.loading import describe_identity, load_config
from lavise.configs.schema import WordSettings
from lavise.storage.words.lemmas import (
    covers,
    find_category,
    index_categories,
    is_novel,
    lemmatise,
    list_lemma_languages,
)
from lavise.storage.words.word_rules import describe_rule, is_word, list_scripts
from lavise.storage.words.word_vectors import WORD_RULE, build_vocabulary, find_word_rule
from tests.unit.storage.words.some_vectors import vectors_of


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("fr", "été chien garçon œuf cœur naïve"),
        ("de", "Hund hund Straße Äpfel größe"),
        ("es", "niño perro árbol"),
        ("vi", "chuột người"),
        ("tr", "ağaç köpek ışık"),
        ("pl", "łódź pies"),
        ("ru", "собака ёлка кошка"),
        ("el", "σκύλος γάτα"),
        ("zh", "狗 猫 大象"),
        ("ja", "犬 ねこ カメラ コーヒー 食べ物"),
        ("ko", "고양이 나무"),
        ("ar", "كلب قطة شجرة"),
        ("fa", "سگ گربه"),
        ("he", "כלב עץ"),
        ("hi", "कुत्ता बिल्ली पेड़"),
        ("th", "แมว ต้นไม้"),
        ("bn", "বিড়াল"),
        ("ta", "பூனை"),
        ("hbs", "pas mačka пас"),
        ("xx", "chien"),
    ],
)
def test_words(language: str, words: str) -> None:
    assert [w for w in words.split() if not is_word(w, language)] == []


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("fr", "Paris ÉTÉ le x chien2 собака chien-loup chien_loup l'eau ' 狗"),
        ("de", "HUND hunD er Hund-Katze собака"),
        ("ru", "dog Москва он собакa кот2"),
        ("zh", "dog 狗2 ねこ 。 狗a ，"),
        ("ja", "dog ｡ 고양이"),
        ("ar", "dog ٣ و"),
        ("hi", "dog १२ ।"),
    ],
)
def test_no_words(language: str, words: str) -> None:
    assert [w for w in words.split() if is_word(w, language)] == []
    assert not is_word("", language)
    assert not is_word("́", language)


def test_a_letter_with_a_combining_accent_is_one() -> None:
    assert is_word("e\u0301te\u0301", "fr")
    assert not is_word("e\u0301t", "fr")


def test_rule_of_english_stays() -> None:
    assert find_word_rule("en") == WORD_RULE
    assert find_word_rule("de") == describe_rule("de") != describe_rule("fr")
    assert list_scripts("xx") == ("LATIN",)


def test_vocabulary_of_another_language() -> None:
    vectors = vectors_of("und Hund hund Katze Haus dog2 кошка Baum".split())
    german = build_vocabulary(vectors, 4, ["Katze", "Baumhaus (klein)"], language="de")
    assert german.words == ("und", "Hund", "hund", "Katze")
    assert (german.language, german.matches[1].how) == ("de", "missing")
    assert build_vocabulary(vectors, 10, [], language="ru").words == ("кошка",)
    assert build_vocabulary(vectors, 10, []).words == ("und", "hund")


@pytest.mark.parametrize(
    ("language", "word", "lemma"),
    [
        ("de", "Hunde", "hund"),
        ("de", "Häuser", "haus"),
        ("fr", "chevaux", "cheval"),
        ("es", "perros", "perro"),
        ("ru", "собаки", "собака"),
        ("it", "gatti", "gatto"),
        ("xx", "Hunde", "hunde"),
        ("zh", "狗", "狗"),
        ("en", "dogs", "dog"),
    ],
)
def test_lemmas(language: str, word: str, lemma: str) -> None:
    assert lemmatise(word, language) == lemma
    assert find_category(word, index_categories([lemma], language), language) == 0
    assert not is_novel(word, covers([lemma], language), language)


def test_english_corrections_are_for_english_alone() -> None:
    assert lemmatise("people", "en") == "person"
    assert lemmatise("people", "fr") != "person"
    assert {"en", "de", "fr", "ru", "hi", "ar"} <= list_lemma_languages()
    # `the` is no content word in English; elsewhere there is no list of such.
    assert is_novel("the", covers(["the dog"]))
    assert not is_novel("der", covers(["der hund"], "de"), "de")


def test_the_visual_vocabulary_is_english() -> None:
    with pytest.raises(
        ValidationError, match=r"vocabulary is visual, which is by WordNet and English alone, and langu"
    ):
        WordSettings(vocabulary="visual", language="de")
    assert WordSettings(vocabulary="visual").language == "en"
    with pytest.raises(ValidationError):
        WordSettings(language="German")


def test_identity_of_english_stays_as_it_was() -> None:
    config = load_config("demo")
    assert "language" not in describe_identity(config)["words"]
    german = load_config("demo", ["words.vocabulary=frequent", "words.language=de"])
    assert describe_identity(german)["words"]["language"] == "de"


def test_zero_vectors_stay_out_in_other_languages() -> None:
    vectors = vectors_of(["Hund", "Katze"], np.array([[0, 0], [1, 2]]))
    assert build_vocabulary(vectors, 10, [], language="de").words == ("Katze",)
