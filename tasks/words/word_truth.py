"""What the evaluation part says about words, read from what its stages made."""

from __future__ import annotations

from lavise.storage.state.artefacts import Handle
from lavise.tasks.explainer.validation import MAX_P_VALUE
from lavise.tasks.masks.detection import load_detection
from lavise.tasks.words.ranking import WordTruth

WHAT_HELPS = (
    "this layer does not tell the reference's categories apart: is model.preprocessing what the network was trained "
    "with? Take labelled pictures of the kind that the network knows, more of them, or another layer; then train.*"
)
"""Where the explainer is no better than chance, the likeliest first."""


def load_word_truth(detection: Handle, validated: Handle, concepts: tuple[str, ...]) -> WordTruth:
    """The verdict on words.

    Args:
        concepts: of the evaluation part.
    """
    found = load_detection(detection.folder)
    invalid = ""
    if not validated.info["is_valid"]:
        invalid = (
            "the explainer names held-out regions no better than chance "
            f"(p = {find_worst_p_value(validated):.3f}; needed: {MAX_P_VALUE:g} at most)"
        )
    return WordTruth(concepts, found.right, found.num_images > 0, invalid)


def find_worst_p_value(validated: Handle) -> float:
    """The larger of the two tests' that an explainer has to pass."""
    return float(max(validated.info["p_value"], validated.info.get("p_value_categories") or 0.0))
