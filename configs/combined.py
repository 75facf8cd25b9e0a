"""Settings of several labelled data sets as one reference."""

from __future__ import annotations

from typing import Literal

from lavise.configs.base import Settings


class CombinedSettings(Settings):
    """What a combined reference has besides its sources."""

    kind: Literal["combined"]
    merge_by: Literal["name", "lemma", "synset"] = "name"
    """Which categories of two sources are one. name: they are called the same, but for case, `_`, `-` and spaces.
    lemma: or have the same lemma (dogs, dog). synset: or the same commonest sense as a noun in WordNet (sofa, couch).
    Lemmas and senses are English. Two categories of one source stay two."""
