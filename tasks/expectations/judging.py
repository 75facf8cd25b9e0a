"""Whether an expected word matters to a network, as far as an audit can tell, and why.

A word matters where a filter is explained by it, by one of its relatives, or, with `by: causes`, where moreover the
answers rest on these filters more than on random ones. That no filter says a word means something only where one could
have: the explainer is better than chance, enough pictures have the word, no filter has it as its best guess, and none
detects it by the masks. In every other case it cannot be told, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from lavise.configs.expectations import BY_CAUSES, MUST, MUST_NOT, ExpectSettings
from lavise.storage.table_rows import Int32
from lavise.storage.words.word_relatives import ExpectedWord
from lavise.tasks.expectations.evidence import Detected, Evidence

Outcome = Literal["met", "broken", "unclear"]
MET: Final = "met"
BROKEN: Final = "broken"
UNCLEAR: Final = "unclear"
OUTCOMES: tuple[Outcome, ...] = (MET, BROKEN, UNCLEAR)
IN_WORDS = {MET: "met", BROKEN: "broken", UNCLEAR: "cannot be told"}
_SHOWN = 3


@dataclass(frozen=True)
class SayingFilter:
    """A filter that says an expected word (expectations_filters.parquet).

    Attributes:
        expected: `must` or `must_not`; word: the one that is expected.
        says: the filter's own word, of that rank among its words; how: same, synonym or kind.
        confidence, auroc: of that word; auroc is None where it is not measured.
        classes: names of those that lean on the filter most, with contribution; of the classes' tables.
    """

    layer: str
    expected: str
    word: str
    filter: Int32
    says: str
    how: str
    rank: Int32
    confidence: float
    auroc: float | None
    classes: Sequence[str]
    contributions: Sequence[float]


@dataclass(frozen=True)
class JudgedWord:
    """An expected word and what became of it (expectations.parquet).

    Attributes:
        expected: `must` or `must_not`.
        outcome: met, broken or unclear (it cannot be told); why: in words.
        says: what filters call it, the commonest first; num_filters: those that do; confidence: of the surest.
        num_guesses: unexplained filters that have it as their best guess.
        classes: names of those that lean on these filters, the most filters first; num_classes: all of them.
        used: whether the answers rest on them; None where that was not measured. own_logit, random_own_logit, q_value:
            of the word whose filters lower the own logit most, and of random sets.
        in_vocabulary: whether some word of the vocabulary says it; None where the vocabulary is not at hand.
        num_evaluation: evaluation pictures that have it by their labels (of the most frequent category that says it).
        num_target: pictures of the target that have it by the explainer (of the most frequent word that says it).
        num_detectors: filters that detect it by the masks; best_auroc: of the best of them.
    """

    layer: str
    expected: str
    word: str
    outcome: str
    why: str
    says: Sequence[str]
    filters: Sequence[int]
    num_filters: Int32
    confidence: float | None
    num_guesses: Int32
    classes: Sequence[str]
    num_classes: Int32
    used: bool | None
    own_logit: float | None
    random_own_logit: float | None
    q_value: float | None
    in_vocabulary: bool | None
    num_evaluation: int | None
    num_target: int | None
    num_detectors: int | None
    best_auroc: float | None


@dataclass(frozen=True)
class _Absence:
    """How much it means that no filter says a word."""

    is_valid: bool
    in_vocabulary: bool | None
    num_guesses: int
    detected: Detected | None
    num_target: int | None

    def explain(self, min_images: int) -> tuple[bool, str]:
        """Whether it means something, and why (not)."""
        if not self.is_valid:
            return False, "no filter says it, but the explainer names held-out regions no better than chance"
        if self.num_guesses:
            return False, f"no filter is explained by it, but it is the best guess of {_count(self.num_guesses)}"
        labelled = self.detected.num_images if self.detected else 0
        seen = self.num_target or 0
        if self.detected and self.detected.filters:
            best = f"filter {self.detected.filters[0]}, AUROC {self.detected.auroc:.2f}"
            num = _count(len(self.detected.filters), "detects", "detect")
            return False, f"no filter says it, but by the masks {num} it (the best: {best})"
        if max(labelled, seen) >= min_images:
            where = []
            if labelled:
                where.append(f"{_count(labelled, noun='evaluation picture')} by the labels")
            if seen:
                where.append(f"about {_count(seen, noun='target picture')} by the explainer")
            return True, f"no filter says it, though it is on {' and on '.join(where)}"
        if self.in_vocabulary is False:
            return False, "no word of the vocabulary says it, so that no filter could be explained by it"
        if self.detected is None and self.in_vocabulary is None:
            return False, "no filter says it, and what the pictures have is not at hand any more"
        return False, (
            f"no filter says it, but too few pictures are known to have it ({labelled} of the evaluation by labels, "
            f"{seen} of the target by the explainer; {min_images} are needed)"
        )


def judge_layer(evidence: Evidence, settings: ExpectSettings) -> tuple[list[JudgedWord], list[SayingFilter]]:
    """What became of every expected word in one layer, and the filters that say it.

    Returns:
        words in the order of the settings; filters by word, the most confident first.
    """
    judged, saying = [], []
    for expected, word in settings.words:
        own = _find_saying(evidence, expected, ExpectedWord(word, settings.relatives, evidence.language))
        judged.append(_judge_word(evidence, settings, expected, word, own))
        saying += own
    return judged, saying


def join_layers(judged: Iterable[JudgedWord]) -> list[JudgedWord]:
    """Of each word, the layer that says most: a word that must matter is met where it is met in some layer, one that
    must not is broken where it is broken in some."""
    order = {MUST: (MET, UNCLEAR, BROKEN), MUST_NOT: (BROKEN, UNCLEAR, MET)}
    best: dict[tuple[str, str], JudgedWord] = {}
    for row in judged:
        known = best.setdefault((row.expected, row.word), row)
        ranks = order[row.expected]
        if ranks.index(row.outcome) < ranks.index(known.outcome):
            best[row.expected, row.word] = row
    return list(best.values())


def count_outcomes(judged: Iterable[JudgedWord]) -> dict[str, int]:
    """num_words, and how many are met, broken and unclear: metrics of the analysis."""
    counts = Counter(row.outcome for row in judged)
    return {"num_words": counts.total(), **{f"num_{outcome}": counts[outcome] for outcome in OUTCOMES}}


def _find_saying(evidence: Evidence, expected: str, word: ExpectedWord) -> list[SayingFilter]:
    """The filters that are explained by a word, the most confident first; of each, its best such word."""
    stated = {(row["filter"], row["word"]): row for row in evidence.words}
    leans = _group_classes(evidence)
    relation = _Relations(word)
    found = []
    for row in evidence.filters:
        if not row["explained"]:
            continue
        for rank, said in enumerate(row["words"], start=1):
            if how := relation.find(said):
                unit = row["filter"]
                own = stated.get((unit, said), {})
                confidence = own.get("confidence", row["confidence"])
                classes = leans.get(unit, [])
                found.append(
                    SayingFilter(
                        layer=evidence.layer,
                        expected=expected,
                        word=word.word,
                        filter=unit,
                        says=said,
                        how=how,
                        rank=rank,
                        confidence=float(confidence),
                        auroc=own.get("auroc"),
                        classes=[name for name, _ in classes],
                        contributions=[value for _, value in classes],
                    )
                )
                break
    return sorted(found, key=lambda own: (-own.confidence, own.filter))


class _Relations:
    """How words mean an expected one, each asked once."""

    def __init__(self, word: ExpectedWord) -> None:
        self._word, self._known = word, dict[str, str | None]()

    def find(self, said: str) -> str | None:
        if said not in self._known:
            self._known[said] = self._word.relate(said)
        return self._known[said]


def _group_classes(evidence: Evidence) -> dict[int, list[tuple[str, float]]]:
    """Of each filter, the classes among whose first filters it is with a contribution above 0, the highest first."""
    leans: dict[int, list[tuple[str, float]]] = {}
    for row in evidence.classes or ():
        if row["contribution"] > 0:
            leans.setdefault(row["filter"], []).append((row["class_name"], float(row["contribution"])))
    return {unit: sorted(own, key=lambda lean: (-lean[1], lean[0])) for unit, own in leans.items()}


def _judge_word(
    evidence: Evidence, settings: ExpectSettings, expected: str, word: str, saying: Sequence[SayingFilter]
) -> JudgedWord:
    relation = _Relations(ExpectedWord(word, settings.relatives, evidence.language))
    says = [said for said, _ in sorted(Counter(own.says for own in saying).items(), key=lambda c: (-c[1], c[0]))]
    categories = evidence.categories
    positions = [k for k, name in enumerate(categories or ()) if relation.find(name)]
    absence = _Absence(
        is_valid=evidence.is_valid,
        in_vocabulary=True if saying else _is_in_vocabulary(evidence, relation, word),
        num_guesses=sum(1 for row in evidence.filters if row.get("guess") and relation.find(row["guess"])),
        detected=evidence.detect(positions) if categories is not None else None,
        num_target=_count_target(evidence, relation),
    )
    effects = [row for row in evidence.causes or () if row["word"] in says and row["own_logit"] is not None]
    strongest = min(effects, key=lambda row: (not row["used"], _read_effect(row), row["word"]), default=None)
    used = _find_use(says, effects)
    matters, why = _find_whether_it_matters(settings, saying, says, used, absence)
    by_class = Counter(name for own in saying for name in dict.fromkeys(own.classes))
    classes = [name for name, _ in sorted(by_class.items(), key=lambda c: (-c[1], c[0]))]
    return JudgedWord(
        layer=evidence.layer,
        expected=expected,
        word=word,
        outcome=UNCLEAR if matters is None else (MET if matters == (expected == MUST) else BROKEN),
        why=why,
        says=says,
        filters=[own.filter for own in saying],
        num_filters=len(saying),
        confidence=saying[0].confidence if saying else None,
        num_guesses=absence.num_guesses,
        classes=classes,
        num_classes=len(classes),
        used=used,
        own_logit=None if strongest is None else _read_effect(strongest),
        random_own_logit=None if strongest is None else strongest["random_own_logit"],
        q_value=None if strongest is None else strongest["q_value"],
        in_vocabulary=absence.in_vocabulary,
        num_evaluation=absence.detected.num_images if absence.detected else None,
        num_target=absence.num_target,
        num_detectors=len(absence.detected.filters) if absence.detected else None,
        best_auroc=absence.detected.auroc if absence.detected else None,
    )


def _find_use(says: Sequence[str], effects: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether the answers rest on the filters of some word that says it; None where that was not measured of all."""
    if any(row["used"] for row in effects):
        return True
    return False if says and {row["word"] for row in effects} >= set(says) else None


def _find_whether_it_matters(
    settings: ExpectSettings,
    saying: Sequence[SayingFilter],
    says: Sequence[str],
    used: bool | None,
    absence: _Absence,
) -> tuple[bool | None, str]:
    """True, False, or None where it cannot be told; and why."""
    if not saying:
        means_something, why = absence.explain(settings.min_images)
        return (False if means_something else None), why
    said = (
        f"{_count(len(saying), 'says', 'say')} it ({', '.join(says[:_SHOWN])}{', ...' if len(says) > _SHOWN else ''})"
    )
    if used is None:
        why = f"{said}; whether the answers rest on them was not measured, or not of all"
    else:
        why = f"{said}; the answers rest on them {'more' if used else 'no more'} than on random filters"
    return (used if settings.by == BY_CAUSES else True), why


def _read_effect(row: Mapping[str, Any]) -> float:
    """Change of the own logit: on pictures with the word where there are some, else on all."""
    value = row["own_logit"] if row.get("own_logit_with") is None else row["own_logit_with"]
    return float(value)


def _is_in_vocabulary(evidence: Evidence, relation: _Relations, word: str) -> bool | None:
    if evidence.vocabulary is None:
        return None
    words = evidence.vocabulary.words
    return word in words or any(relation.find(candidate) for candidate in words)


def _count_target(evidence: Evidence, relation: _Relations) -> int | None:
    """Pictures of the target that have the word by the explainer; None where no filter was compared on it.

    Where words go by votes, `background` is no share of pictures: nothing is known then.
    """
    if evidence.num_target is None:
        return None
    rows = [row for row in evidence.words if relation.find(row["word"]) and row.get("auroc") is not None]
    shares = [row["background"] for row in rows]
    return round(max(shares) * evidence.num_target) if shares else None


def _count(number: int, one: str = "", many: str = "", noun: str = "filter") -> str:
    """`3 filters say`."""
    verb = one if number == 1 else many
    return f"{number:,} {noun}{'' if number == 1 else 's'}{' ' + verb if verb else ''}"
