"""What is a word of a language: which scripts it is written in, how short a word can be, which letters are large.

English keeps its own rule (see storage.words.word_vectors.WORD_RULE). For other languages no list of stop words is at
hand, so that frequent little words stay in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import lru_cache

_LATIN = ("LATIN",)
_SCRIPTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys("be bg kk ky mk mn ru tg uk".split(), ("CYRILLIC",)),
    **dict.fromkeys("sr hbs".split(), ("LATIN", "CYRILLIC")),
    **dict.fromkeys("el grc".split(), ("GREEK",)),
    **dict.fromkeys("ar fa ur ps ckb".split(), ("ARABIC",)),
    **dict.fromkeys("he yi".split(), ("HEBREW",)),
    **dict.fromkeys("hi mr ne sa".split(), ("DEVANAGARI",)),
    **dict.fromkeys("bn as".split(), ("BENGALI",)),
    "ta": ("TAMIL",),
    "te": ("TELUGU",),
    "ml": ("MALAYALAM",),
    "kn": ("KANNADA",),
    "gu": ("GUJARATI",),
    "pa": ("GURMUKHI",),
    "si": ("SINHALA",),
    "th": ("THAI",),
    "lo": ("LAO",),
    "my": ("MYANMAR",),
    "km": ("KHMER",),
    "am": ("ETHIOPIC",),
    "hy": ("ARMENIAN",),
    "ka": ("GEORGIAN",),
    "ko": ("HANGUL",),
    "zh": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
}
_MIN_LETTERS: Mapping[str, int] = {"LATIN": 3, "CYRILLIC": 3, "GREEK": 3, "ARMENIAN": 3, "GEORGIAN": 3, "CJK": 1}
_OTHER_MIN_LETTERS = 2
_LARGE_FIRST = frozenset({"de", "lb"})
"""Languages that write every noun with a large first letter."""


def list_scripts(language: str) -> tuple[str, ...]:
    """Scripts of a language, as Unicode names them; Latin where it is not listed."""
    return _SCRIPTS.get(language, _LATIN)


def describe_rule(language: str) -> str:
    """The rule in short, for digests and documents."""
    scripts = list_scripts(language)
    case = "a large first letter or none" if language in _LARGE_FIRST else "lower case where there is case"
    return (
        f"{language}: letters and their marks of {'/'.join(scripts)}, {_find_min(scripts)} or more, {case}; no stop "
        "words are left out; in the file's order of frequency; 1"
    )


def is_word(word: str, language: str) -> bool:
    """Whether a token is a word of a language (any but English)."""
    scripts = list_scripts(language)
    letters = 0
    for character in word:
        kind = _classify(character, scripts)
        if kind is None:
            return False
        letters += kind
    plain = word[:1].lower() + word[1:] if language in _LARGE_FIRST else word
    return letters >= _find_min(scripts) and plain == plain.lower()


@lru_cache(maxsize=1 << 16)
def _classify(character: str, scripts: tuple[str, ...]) -> int | None:
    """1 for a letter of the scripts, 0 for a mark that goes with one, None for anything else."""
    category = unicodedata.category(character)
    script = unicodedata.name(character, "").split(" ")[0]
    if category.startswith("L"):
        return 1 if script in scripts else None
    return 0 if category.startswith("M") and script in (*scripts, "COMBINING") else None


def _find_min(scripts: tuple[str, ...]) -> int:
    return _MIN_LETTERS.get(scripts[0], _OTHER_MIN_LETTERS)
