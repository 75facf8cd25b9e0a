"""Filters made by hand answer to what they are called, and are judged by the words that are right for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.hand_made import judge
from benchmarks.hand_made_network import RIGHT, HandMade
from lavise.storage.datasets.readers.patterns import fill
from lavise.storage.datasets.readers.textures import COLOURS, TEXTURES

NAMES = [name for name, _ in RIGHT]


def measure(texture: str, terms: tuple[str, str], key: int = 3) -> np.ndarray:
    """Mean activation of each filter on a filling."""
    pixels = torch.from_numpy(fill((key,), texture, terms, 224)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        maps: np.ndarray = HandMade().eval()(pixels).numpy()[0]
    assert maps.shape == (len(RIGHT), 28, 28)
    assert maps.min() >= 0
    return maps.mean(axis=(1, 2))


@pytest.mark.parametrize("term", COLOURS)
def test_detectors_of_colours_answer_to_theirs(term: str) -> None:
    found = np.mean([measure("smooth", (term, term), key) for key in range(8)], axis=0)
    assert NAMES[int(found[: len(COLOURS)].argmax())] == f"colour {term}"


def test_detectors_of_textures_answer_to_theirs() -> None:
    def mean(texture: str) -> np.ndarray:
        return np.mean([measure(texture, ("blue", "white"), key) for key in range(6)], axis=0)

    found = {texture: mean(texture) for texture in TEXTURES}
    for name in ("one direction", "high frequencies", "nothing but one tone", "blobs"):
        number = NAMES.index(name)
        assert max(found, key=lambda texture, n=number: found[texture][n]) in RIGHT[number][1]  # type: ignore[misc]


def make_row(words: list[str], guess: str | None = None) -> dict[str, object]:
    return {"words": words, "explained": bool(words), "guess": guess}


def test_only_right_first_words_of_explained_filters_count() -> None:
    rows = [make_row([min(right)]) for _, right in RIGHT]
    assert judge(rows)["all"] == {"num": 39, "explained": 39, "right": 39, "guesses_right": 0}
    rows[0], rows[1] = make_row([], "black"), make_row(["moon", "white"])
    rows[-1] = make_row([], "brick")
    found = judge(rows)
    assert found["colours"] == {"num": 11, "explained": 10, "right": 9, "guesses_right": 1}
    assert found["textures"] == {"num": 28, "explained": 27, "right": 27, "guesses_right": 0}
    with pytest.raises(ValueError, match="expected a row for each of 39 filters, found 1"):
        judge(rows[:1])
