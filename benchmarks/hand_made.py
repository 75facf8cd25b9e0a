"""Filters made by hand: are they named as what they are, with patterns and with OpenMoji scenes as the reference?

    python -m benchmarks.hand_made [--state FOLDER]

The network (benchmarks/hand_made_network.py) has detectors of eleven colours, of stripes of three widths and eight
directions, and of a few textures; which words are right for each was written down before. Both references are tried on
two targets: OpenMoji scenes and patterns. Counted are filters that are explained, those whose first word is right, and
the same of the best guesses of the others.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import save_result
from benchmarks.hand_made_network import RIGHT
from lavise.flows.notebook import run

REFERENCES = ("patterns", "openmoji")
TARGETS = ("openmoji", "patterns")
SETTINGS = (
    "model.arch=benchmarks.hand_made_network:make_network",
    "model.weights=random",
    "model.layers=maps",
    "model.preprocessing={size_px: 224, mean: [0, 0, 0], std: [1, 1, 1]}",
    "evaluate.baselines=[random_words, dealt_words, most_frequent_words]",
    "classes.enabled=false",
    "causes.enabled=false",
    "tracking.enabled=false",
)


def judge(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many filters are explained and rightly named, for all and for colours and textures alone.

    Args:
        rows: of filters.parquet, in the order of `RIGHT`.

    Raises:
        ValueError: not a row for each filter.
    """
    if len(rows) != len(RIGHT):
        raise ValueError(f"expected a row for each of {len(RIGHT)} filters, found {len(rows)}")
    judged = []
    for (name, right), row in zip(RIGHT, rows, strict=True):
        word = row["words"][0] if row["explained"] else None
        judged.append({"name": name, "word": word, "right": word in right, "guess": row["guess"]})
        judged[-1]["guess_right"] = not row["explained"] and row["guess"] in right
    groups = {
        "all": judged,
        "colours": [f for f in judged if f["name"].startswith("colour")],
        "textures": [f for f in judged if not f["name"].startswith("colour")],
    }
    counts = {
        group: {
            "num": len(own),
            "explained": sum(f["word"] is not None for f in own),
            "right": sum(f["right"] for f in own),
            "guesses_right": sum(f["guess_right"] for f in own),
        }
        for group, own in groups.items()
    }
    return {**counts, "filters": judged}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, help="folder to keep the artefacts in; a temporary one unless given")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.state or Path(temporary)
        for reference in REFERENCES:
            for target in TARGETS:
                kinds = (f"reference={{kind: {reference}}}", f"target={{kind: {target}}}", f"storage.root={root}")
                audit = run("low-layers", *SETTINGS, *kinds)
                rows = audit.filters.sort_values("filter").to_dict("records")
                found[f"{reference} on {target}"] = judge(rows)
    save_result("hand-made", found)


if __name__ == "__main__":
    main()
