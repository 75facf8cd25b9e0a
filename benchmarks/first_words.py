"""Are the words right? A finished audit's first words, held against labels of its target that the audit never read.

    python -m benchmarks.first_words RUN_FOLDER --scenes
    python -m benchmarks.first_words RUN_FOLDER --labels LABELS.csv

A filter's first word is right if the filter detects it: AUROC of its peaks of at least 0.75 between the target's
pictures with and without the thing. With `--scenes` the truth is the annotations of the pictures that the run drew as
its target (scenes or patterns). With
`--labels` it is a CSV (columns file and label) with one kind for each picture; which words are right for a kind is a
table made from WordNet before any word is looked at: the kind's lemmas, their head nouns, and what it is a kind of, as
far as that is true of at most an eighth of ImageNet's classes. A word that is right for no kind cannot be judged.

Printed: how many filters are explained, how many first words can be judged and are right, the same by confidence, and
for the best guesses of unexplained filters.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from benchmarks.common import save_result
from lavise.configs.errors import UserError
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.words.class_taxonomy import find_hypernyms, find_synset
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.storage.words.wordnet import load_wordnet
from lavise.tasks.inputs.pattern_pictures import load_patterns
from lavise.tasks.inputs.scenes import load_scenes
from lavise.tasks.masks.detection import MIN_AUROC
from lavise.tasks.words.naming_precision import find_truth
from lavise.tasks.words.preference import Ranked, contrast

BINS = 10


def list_right_words(kind: str) -> frozenset[str]:
    """Words that are right for a kind of picture.

    Raises:
        UserError: WordNet does not know the kind.
    """
    synset = find_synset([kind])
    if synset is None:
        raise UserError(f"labels: found {kind!r}, which WordNet has not as a noun")
    lemmas = {lemma.lower() for lemma in load_wordnet().synsets[synset].lemmas}
    heads = {lemma.split()[-1] for lemma in lemmas}
    return frozenset(lemmas | heads | find_hypernyms(synset))


def read_kinds(path: Path, keys: Sequence[str]) -> tuple[list[str], BoolArray]:
    """Names of the kinds, and bool [N, kinds], which picture is of which."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        label_of = {row["file"]: row["label"].strip() for row in csv.DictReader(file)}
    kinds = sorted(set(label_of.values()))
    return kinds, np.array([[label_of[key] == kind for kind in kinds] for key in keys])


def judge_words(
    words: Sequence[str], index: Mapping[str, Sequence[int]], peaks: Any, truth_NT: BoolArray
) -> DoubleArray:
    """AUROC of each filter for its word's pictures; NaN where the word cannot be judged: float64 [C]."""
    ranked = Ranked.of(peaks)
    out = np.full(len(words), np.nan)
    for word in sorted(set(words)):
        columns = list(index.get(word, ()))
        if columns:
            has_word = np.asarray(truth_NT[:, columns].any(axis=1), np.float64)
            units = [unit for unit, own in enumerate(words) if own == word]
            out[units] = contrast(ranked, has_word[:, None]).auroc[units, 0]
    return out


def summarise(auroc_C: DoubleArray, confidence_C: DoubleArray, chosen_C: BoolArray) -> dict[str, Any]:
    """Share right of the chosen filters that can be judged, and by tenths of the confidence."""
    judged = chosen_C & ~np.isnan(auroc_C)
    right = auroc_C >= MIN_AUROC
    place = np.minimum((confidence_C * BINS).astype(int), BINS - 1)
    bins = [
        {
            "from": n / BINS,
            "num": int(own.sum()),
            "confidence": float(confidence_C[own].mean()),
            "right": float(right[own].mean()),
        }
        for n in range(BINS)
        if (own := judged & (place == n)).any()
    ]
    num = int(judged.sum())
    return {
        "num": int(chosen_C.sum()),
        "num_judged": num,
        "right": float(right[judged].mean()) if num else None,
        "right_at_0.70": float((auroc_C[judged] >= 0.70).mean()) if num else None,
        "bins": bins,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of an audit of one layer, in its state folder")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--labels", type=Path, help="CSV with the columns file and label")
    how.add_argument("--scenes", action="store_true", help="by the annotations of a target that was drawn")
    parser.add_argument("--save", metavar="NAME", help="also write benchmarks/results/NAME-DATE.json")
    arguments = parser.parse_args()
    run: Path = arguments.run
    artefacts = ArtefactStore(run.resolve().parents[1])
    stages = json.loads((run / file_names.ARTEFACTS).read_text("utf-8"))["stages"]

    def find(title: str) -> Handle:
        entry = stages[title][0]
        handle = artefacts.find(entry["stage"], entry["digest"])
        if handle is None:
            raise UserError(f"run: the artefact {title!r} of {run} is gone")
        return handle

    store = ActivationStore(find("extract target").folder)
    rows = parquet.read_table(run / file_names.FILTERS).to_pylist()
    peaks = store.read_peaks()
    if arguments.scenes:
        is_patterns = "patterns target" in stages
        data = (
            load_patterns(find("patterns target"), "target")
            if is_patterns
            else load_scenes(find("scenes target"), "target")
        )
        names, truth = list(data.concepts), find_truth(store, data)
        forms = index_categories(names)
        said = {r["words"][0] for r in rows if r["words"]} | {r["guess"] for r in rows if r["guess"]}
        index = {w: [c] for w in said if (c := find_category(w, forms)) is not None}
    else:
        names, truth = read_kinds(arguments.labels, store.keys)
        index = {}
        for number, kind in enumerate(names):
            for word in list_right_words(kind):
                index.setdefault(word, []).append(number)
    auroc = contrast(Ranked.of(peaks), truth.astype(np.float64)).auroc
    explained = np.array([r["explained"] for r in rows])
    first = [r["words"][0] if r["words"] else r["guess"] for r in rows]
    confidence = np.array([r["confidence"] for r in rows])
    found = judge_words(first, index, peaks, truth)
    counts = Counter(word for word, is_explained in zip(first, explained, strict=True) if is_explained)
    content = {
        "run": run.name,
        "num_filters": len(rows),
        "num_detecting_some_kind": int((auroc.max(axis=1) >= MIN_AUROC).sum()),
        "explained": summarise(found, confidence, explained),
        "guesses": summarise(found, confidence, ~explained & np.array([bool(r["guess"]) for r in rows])),
        "words": [
            {"word": word, "filters": num, "right": _share_right(found, first, explained, word)}
            for word, num in counts.most_common(40)
        ],
    }
    if arguments.save:
        save_result(arguments.save, content)
    else:
        print(json.dumps(content, indent=1))


def _share_right(auroc_C: DoubleArray, first: Sequence[str], explained_C: BoolArray, word: str) -> float | None:
    own = explained_C & np.array([w == word for w in first]) & ~np.isnan(auroc_C)
    return float((auroc_C[own] >= MIN_AUROC).mean()) if own.any() else None


if __name__ == "__main__":
    main()
