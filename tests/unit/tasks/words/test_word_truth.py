"""The verdict of the evaluation part on words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.tasks.masks.detection import Detection, save_detection
from lavise.tasks.words.word_truth import load_word_truth
from tests.unit.tasks.helpers import publish

CONCEPTS = ("cat", "hot dog", "sky")


@pytest.mark.parametrize("is_valid", [True, False])
def test_judgement(tmp_path: Path, is_valid: bool) -> None:
    right = np.arange(12).reshape(4, 3) % 2 == 0
    zeros = np.zeros((4, 3), np.float32)
    detected = Detection(zeros, zeros, right, np.array([3, 0, 1]))
    detection = publish(tmp_path, "detect", lambda folder: save_detection(detected, folder))
    validated = publish(tmp_path, "validate", lambda _: {"is_valid": is_valid, "p_value": 0.25})
    found = load_word_truth(detection, validated, CONCEPTS)
    assert found.concepts == CONCEPTS
    assert found.present_K.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.right, right)
    reason = "the explainer names held-out regions no better than chance (p = 0.250; needed: 0.01 at most)"
    assert found.invalid == ("" if is_valid else reason)
