"""Predicates on annotations, against Python's own and, or, not."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation, ImageRecord
from lavise.storage.datasets.predicates import parse_predicate

CONCEPTS = ("person", "hot dog", "Car", "and", "t-shirt", "<img src=x>", "3d", "été")


def picture(*concepts: str) -> ImageRecord:
    return ImageRecord("a.png", Path("a.png"), tuple(Annotation(c) for c in concepts))


def holds(text: str, *concepts: str) -> bool | None:
    return parse_predicate(text, CONCEPTS, "bias.groups")(picture(*concepts))


@pytest.mark.parametrize(
    ("text", "fulfils", "fails"),
    [
        ("person", ["person"], ["Car"]),
        ("person and not 'hot dog'", ["person"], ["person", "hot dog"]),
        ('"hot dog"', ["hot dog"], []),
        ("hot_dog", ["hot dog"], ["person"]),
        ("HOT_DOG AND Not car", ["hot dog"], ["hot dog", "Car"]),
        ("car >= 2", ["Car", "Car"], ["Car"]),
        ("car>1 and car<3", ["Car", "Car"], ["Car"] * 3),
        ("car <= 1", [], ["Car", "Car"]),
        ("car = 0", ["person"], ["Car"]),
        ("hot_dog == 2", ["hot dog"] * 2, ["hot dog"] * 3),
        ('"and" and t-shirt', ["and", "t-shirt"], ["t-shirt"]),
        ('"<img src=x>"', ["<img src=x>"], []),
        ("3d or été", ["été"], ["person"]),
        ("not person and not car", ["3d"], ["Car"]),
        ("not (person and car)", ["Car"], ["Car", "person"]),
        ("person or car and 3d", ["person"], ["Car"]),
        ("(person or car) and 3d", ["Car", "3d"], ["person"]),
    ],
)
def test_predicate(text: str, fulfils: Sequence[str], fails: Sequence[str]) -> None:
    assert holds(text, *fulfils)
    assert not holds(text, *fails)


def test_vs_python() -> None:
    """Random expressions mean what they mean in Python, on every combination of three categories and two cars."""
    drawn = random.Random(0)

    def write(depth: int) -> str:
        kind = drawn.choice(["atom", "not", "and", "or", "("] if depth else ["atom"])
        if kind == "atom":
            return drawn.choice(["person", "car", "t", "car >= 2"])
        if kind in ("not", "("):
            return f"not {write(depth - 1)}" if kind == "not" else f"({write(depth - 1)})"
        return f"{write(depth - 1)} {kind} {write(depth - 1)}"

    both = set()
    for _ in range(60):
        text = write(4)
        fulfils = parse_predicate(text, ("person", "car", "t"), "f")
        for person, cars, t in itertools.product(range(2), range(3), range(2)):
            present = Counter(person=person, car=cars, t=t)
            expected = bool(eval(re.sub(r"car(?! >)", "(car > 0)", text), {}, dict(present)))
            assert fulfils(picture(*present.elements())) == expected, text
            both.add(expected)
    assert both == {True, False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("persn", "^bias.groups: found 'persn'; allowed: one of the 8 .*; did you mean 'person'"),
        ("zebra", "^bias.groups: found 'zebra'; .*check the spelling"),
        ("persn and pers0n", "(?s)'persn'.*\nbias.groups: found 'pers0n'"),
        ("car person", "from character 5 on, 'person'; allowed: category names"),
        ("(person", "from character 8 on, ''"),
        ("person)", "from character 7 on, '\\)'"),
        ("car >= many", "from character 5 on"),
        ("car >= -1", "from character 5 on"),
        ("and", "from character 1 on"),
        ("", "from character 1 on"),
        ("hot dog", "from character 5 on"),
        ('"hot dog', "from character 1 on"),
        ("not " * 499 + "car", "nested too deeply"),
        ("not (" * 80 + "car" + ")" * 80, "nested too deeply"),
        ("x" * 3000, "found a predicate of 3000 characters; allowed: at most 2000"),
        ("car >= " + "9" * 5000, "allowed: at most 2000"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_predicate(text, CONCEPTS, "bias.groups")
    assert all(line.startswith("bias.groups: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize("depth", [1, 30, 400])
def test_parentheses_cost_little(depth: int) -> None:
    """Without a cache the parser's time would double with each of them."""
    text = "(" * depth + "person" + ")" * depth
    try:
        assert holds(text, "person")
    except UserError as err:
        assert depth == 400 and "nested too deeply" in str(err)  # noqa: PT017, PT018


def test_case_counts_where_two_categories_fit() -> None:
    concepts = ("Car", "car", "CAR")
    assert parse_predicate("Car", concepts, "f")(picture("Car"))
    assert not parse_predicate("Car", concepts, "f")(picture("car"))
    with pytest.raises(UserError, match="did you mean 'Car', 'car', 'CAR'"):
        parse_predicate("cAr", concepts, "f")


def test_name_with_an_underscore() -> None:
    assert parse_predicate("hot_dog", ("hot_dog", "cat"), "f")(picture("hot_dog"))
    assert parse_predicate("Hot_Dog", ("hot_dog", "cat"), "f")(picture("hot_dog"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("person", True),
        ("car", False),
        ("'hot dog'", None),
        ("not 'hot dog'", None),
        ("'hot dog' = 0", None),
        ("t-shirt", True),  # labelled, though it was not looked for
        ("person or 'hot dog'", True),
        ("car and 'hot dog'", False),
        ("person and 'hot dog'", None),
        ("car or 'hot dog'", None),
        ("not (car and 'hot dog')", True),
    ],
)
def test_what_was_not_looked_for_is_not_known(text: str, expected: bool | None) -> None:
    record = replace(picture("person", "t-shirt"), looked_for=frozenset({"person", "Car"}))
    assert parse_predicate(text, CONCEPTS, "bias.groups")(record) is expected
