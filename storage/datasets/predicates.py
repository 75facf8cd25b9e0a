"""Predicates on what is annotated in a picture: `person and not "hot dog"`, `car >= 2 or (bus and truck)`.

A category's name stands for "at least one of it". `not` binds tightest, then `and`, then `or`. In a name without quotes
`_` may stand for a space, and case does not matter where only one category fits.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyparsing

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import ImageRecord

Predicate = Callable[[ImageRecord], bool | None]
"""None: not known, since what it hangs on was not looked for on the picture (`ImageRecord.looked_for`)."""
_Test = Callable[[Mapping[str, int], frozenset[str] | None], bool | None]
_MAX_CHARACTERS = 2000
_MAX_DEPTH = 50
_SHOWN_CHARACTERS = 80
_GRAMMAR = "category names (in quotes where they have spaces), counts as in car >= 2, and, or, not, parentheses"
_COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}


@dataclass(frozen=True)
class _Atom:
    """How often a category has to be there."""

    name: str
    quoted: bool
    comparison: str = ">="
    number: int = 1


@dataclass(frozen=True)
class _Junction:
    """`not` of one, `and` or `or` of several."""

    word: str
    parts: tuple[_Atom | _Junction, ...]


def parse_predicate(text: str, concepts: Sequence[str], field: str) -> Predicate:
    """A function that tells whether the annotations of a picture fulfil the predicate.

    Args:
        concepts: the categories that there are.
        field: setting that the text comes from; opens the lines of an error.

    Raises:
        UserError: no predicate (with the position), nested too deeply, or a category that there is not.
    """
    shown = repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
    if len(text) > _MAX_CHARACTERS:
        raise UserError(f"{field}: found a predicate of {len(text)} characters; allowed: at most {_MAX_CHARACTERS}")
    try:
        tree = _make_grammar().parse_string(text, parse_all=True)[0]
        unknown: dict[str, str] = {}
        test = _build(tree, _Categories(concepts, unknown, field))
    except pyparsing.ParseBaseException as err:
        raise UserError(
            f"{field}: cannot read {shown} from character {err.column} on, {text[err.loc : err.loc + 20]!r}; "
            f"allowed: {_GRAMMAR}"
        ) from None
    except RecursionError:
        raise UserError(f"{field}: {shown} is nested too deeply; write it with fewer parentheses and nots") from None
    if unknown:
        raise UserError("\n".join(unknown.values()))
    return lambda record: test(Counter(a.concept for a in record.annotations), record.looked_for)


@lru_cache(maxsize=1)
def _make_grammar() -> pyparsing.ParserElement:
    # Without its cache the parser's time doubles with every parenthesis.
    pyparsing.ParserElement.enable_packrat()
    word_not, word_and, word_or = (
        pyparsing.Regex(rf"{word}(?![\w-])", re.IGNORECASE).suppress() for word in ("not", "and", "or")
    )
    quoted = pyparsing.QuotedString('"', esc_char="\\") | pyparsing.QuotedString("'", esc_char="\\")
    quoted = quoted.set_parse_action(lambda found: _Atom(found[0], True))
    bare = ~(word_not | word_and | word_or) + pyparsing.Regex(r"[\w-]+")
    name = quoted | bare.set_parse_action(lambda found: _Atom(found[0], False))
    count = name + pyparsing.one_of(list(_COMPARISONS)) + pyparsing.Regex(r"[0-9]+(?![\w-])")
    count = count.set_parse_action(lambda found: _Atom(found[0].name, found[0].quoted, found[1], int(found[2])))
    return pyparsing.infix_notation(
        count | name,
        [
            (word_not, 1, pyparsing.OpAssoc.RIGHT, _join("not")),
            (word_and, 2, pyparsing.OpAssoc.LEFT, _join("and")),
            (word_or, 2, pyparsing.OpAssoc.LEFT, _join("or")),
        ],
    )


def _join(word: str) -> Callable[[Any], _Junction]:
    return lambda found: _Junction(word, tuple(found[0]))


class _Categories:
    """Finds categories by name, and collects a line for each name that is none."""

    def __init__(self, concepts: Sequence[str], unknown: dict[str, str], field: str) -> None:
        self._concepts, self._unknown, self._field = concepts, unknown, field
        self._by_plain: dict[str, list[str]] = defaultdict(list)
        for concept in concepts:
            self._by_plain[_simplify(concept)].append(concept)

    def find(self, atom: _Atom) -> str:
        if atom.name in self._concepts:
            return atom.name
        plain = _simplify(atom.name if atom.quoted else atom.name.replace("_", " "))
        fitting = self._by_plain.get(plain) or self._by_plain.get(_simplify(atom.name), [])
        if len(fitting) != 1:
            close = fitting or [c for p in difflib.get_close_matches(plain, self._by_plain) for c in self._by_plain[p]]
            hint = f"did you mean {', '.join(map(repr, close[:3]))}?" if close else "check the spelling"
            self._unknown[atom.name] = (
                f"{self._field}: found {atom.name!r}; allowed: one of the {len(self._concepts)} annotated categories, "
                f"as it is written there; {hint}"
            )
            return atom.name
        return fitting[0]


def _simplify(name: str) -> str:
    return " ".join(name.casefold().split())


def _build(tree: _Atom | _Junction, categories: _Categories, depth: int = 0) -> _Test:
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(tree, _Atom):
        concept, number, compare = categories.find(tree), tree.number, _COMPARISONS[tree.comparison]

        def compare_count(counts: Mapping[str, int], looked_for: frozenset[str] | None) -> bool | None:
            if looked_for is not None and concept not in looked_for and concept not in counts:
                return None
            return compare(counts.get(concept, 0), number)

        return compare_count
    parts = [_build(part, categories, depth + 1) for part in tree.parts]
    if tree.word == "not":
        return lambda counts, looked_for: None if (found := parts[0](counts, looked_for)) is None else not found
    # One that settles it is enough; else what is not known leaves it open (Kleene's logic).
    settles = tree.word == "or"

    def join(counts: Mapping[str, int], looked_for: frozenset[str] | None) -> bool | None:
        found = {part(counts, looked_for) for part in parts}
        return settles if settles in found else None if None in found else not settles

    return join
