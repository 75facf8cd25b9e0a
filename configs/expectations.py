"""What is expected of a network: words that must matter to it, and words that must not."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lavise.configs.base import Settings

MUST, MUST_NOT = "must", "must_not"
BY_WORDS, BY_CAUSES = "words", "causes"


def _list_words(value: object) -> object:
    """A single word stands for a list of one."""
    return (value,) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_list_words)]


class ExpectSettings(Settings):
    """Which words must matter to the network, and which must not (audit against expectation)."""

    must: Words = ()
    """Words or phrases that must matter, as `dog` or `traffic light`; none and no must_not: no such analysis."""
    must_not: Words = ()
    """Words or phrases that must not matter, as `watermark`."""
    by: Literal["words", "causes"] = "words"
    """When a word matters. words: where a filter is explained by it. causes: where, moreover, the network's answers
    change more without these filters than without random ones."""
    relatives: Literal["forms", "synonyms", "kinds"] = "kinds"
    """What says a word, besides itself. forms: its plural and other spellings (`hot dogs`, `hotdog`). synonyms: also
    what WordNet has in the same sense. kinds: also whatever is a kind of it (`poodle` of dog). WordNet is English."""
    min_images: int = Field(default=10, ge=1)
    """That no filter says a word means something where at least so many pictures have it: of the evaluation pictures
    by their labels, or of the target by the explainer."""

    @field_validator("must", "must_not")
    @classmethod
    def _are_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Without spaces around; each once."""
        words = tuple(dict.fromkeys(" ".join(word.split()) for word in value))
        bad = [w for w in words if not w or any(unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") for c in w)]
        if bad:
            raise ValueError(f"found {bad[0]!r}; allowed: words or phrases, in one line each")
        return words

    @model_validator(mode="after")
    def _are_not_both(self) -> ExpectSettings:
        if both := sorted({w.casefold() for w in self.must} & {w.casefold() for w in self.must_not}):
            raise ValueError(f"found {both[0]!r} in must and in must_not; leave it out of one")
        return self

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """Each word after its rule, `must` or `must_not`, in the order in which they were given."""
        return (*((MUST, word) for word in self.must), *((MUST_NOT, word) for word in self.must_not))
