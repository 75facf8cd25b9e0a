"""What the page says of why a filter has its word and not another: pictures for and against it, and what words lack."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lavise.storage.state import file_names
from lavise.tasks.report.short_numbers import shorten

_SILENT_SHOWN = 4
"""Pictures with the word on which a filter is silent; only those that the page has anyway."""


def read_limits(explained: Path) -> Mapping[str, float]:
    """What a word needs: confidence and q_value; nothing where an older artefact does not say."""
    content = json.loads((explained / file_names.CALIBRATION).read_text("utf-8"))
    limits: Mapping[str, float] = content.get("limits", {})
    return limits


def describe_lack(word: Mapping[str, Any], reason: str, limits: Mapping[str, float]) -> str:
    """Why a word near a filter is none of its words; empty for those that are, and where the limits are not known.

    Args:
        reason: why the filter is unexplained; empty where it is explained.
    """
    if word["significant"] or not limits:
        return ""
    if word["confidence"] < limits["confidence"]:
        return f"confidence below {limits['confidence']:g}"
    if word["q_value"] > limits["q_value"]:
        return f"q above {limits['q_value']:g}"
    if reason:
        return "the filter is unexplained" if word["rank"] > 1 else "see the reason above"
    return "too few of the top pictures have it"


def describe_why(row: Mapping[str, Any], num_shown: int, find_number: Callable[[str], int | None]) -> list[Any] | None:
    """[word, 1 or 0 for each picture shown, top pictures that have it, top pictures, pictures that have it, of these
    above the threshold, [[picture, peak] of silent ones]]; None where there is no word or guess.

    The numbers of pictures that have it are None where the rule looked at top pictures only.

    Args:
        row: of filters.parquet.
        num_shown: top pictures that are shown.
        find_number: of a picture by its key; None for those that the page has not.
    """
    has_word = list(row["top_has_word"] or [])
    word = row["words"][0] if row["words"] else row["guess"]
    if not word or not has_word:
        return None
    silent = [
        [number, shorten(peak, 3)]
        for key, peak in zip(row["silent_images"] or [], row["silent_peaks"] or [], strict=True)
        if (number := find_number(key)) is not None
    ]
    return [
        word,
        [int(own) for own in has_word[:num_shown]],
        sum(has_word),
        len(has_word),
        row["num_with_word"],
        row["num_with_word_above"],
        silent[:_SILENT_SHOWN],
    ]
