"""The analysis `expect`: whether words that must, or must not, matter do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lavise.configs.expectations import ExpectSettings
from lavise.configs.roles import Role
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import write_json
from lavise.storage.table_rows import write_rows
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.analyses.analysis import Analysis, ExplainedLayer, Rows, Table, TextTable
from lavise.tasks.classifier import ablation, attribution
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, StageInputs, Stated
from lavise.tasks.expectations.evidence import Evidence, read_detection, read_rows
from lavise.tasks.expectations.judging import IN_WORDS, JudgedWord, SayingFilter, count_outcomes, judge_layer
from lavise.tasks.explainer import validation
from lavise.tasks.masks.detection import DETECTION
from lavise.tasks.words import explain

STAGE = Stage("expect", version=2, libraries=("simplemma",))
TABLE_FILE, FILTERS_FILE, FACTS_FILE = "expectations.parquet", "expectations_filters.parquet", "expect.json"
_SHOWN = 3


@dataclass(frozen=True)
class ExpectInputs(StageInputs):
    """What expected words are judged by.

    Attributes:
        words: of each filter; explained: with their confidence.
        activations: of the target, for the number of its pictures.
        classes, causes: None where the audit is without.
        language: of the words.
    """

    layer: str
    words: Annotated[Sequence[Sequence[str]], Stated(by=digest_of)]
    explained: Handle
    activations: Handle
    validation: Handle
    detection: Handle
    vocabulary: Given[Vocabulary]
    classes: Handle | None
    causes: Handle | None
    settings: ExpectSettings
    language: str


def _need(layer: ExplainedLayer, stage: Stage) -> Handle:
    made = layer.made(stage)
    assert made is not None, f"{stage.name} runs before analyses"
    return made


def _read(layer: ExplainedLayer) -> ExpectInputs:
    return ExpectInputs(
        layer=layer.layer,
        words=layer.words,
        explained=_need(layer, explain.STAGE),
        activations=layer.activations(Role.TARGET),
        validation=_need(layer, validation.STAGE),
        detection=_need(layer, DETECTION),
        vocabulary=layer.vocabulary,
        classes=layer.made(attribution.STAGE),
        causes=layer.made(ablation.STAGE),
        settings=layer.config.expect,
        language=layer.config.words.language,
    )


def _compute(inputs: ExpectInputs, folder: Path) -> Info:
    """Write expectations.parquet, expectations_filters.parquet and expect.json.

    Returns:
        facts: num_words, num_met, num_broken, num_unclear.
    """
    layer, words = inputs.layer, inputs.explained.folder
    evidence = Evidence(
        layer=layer,
        filters=read_rows(words / file_names.FILTERS, layer) or (),
        words=read_rows(words / file_names.EXPLANATIONS, layer) or (),
        classes=read_rows(inputs.classes.folder / attribution.TABLE_FILE, layer) if inputs.classes else None,
        causes=read_rows(inputs.causes.folder / ablation.WORDS_FILE, layer) if inputs.causes else None,
        vocabulary=inputs.vocabulary.value,
        detection=read_detection(inputs.detection),
        num_target=inputs.activations.info.get("num_images"),
        is_valid=bool(inputs.validation.info["is_valid"]),
        language=inputs.language,
    )
    judged, saying = judge_layer(evidence, inputs.settings)
    write_rows(JudgedWord, judged, folder / TABLE_FILE)
    write_rows(SayingFilter, saying, folder / FILTERS_FILE)
    counts = count_outcomes(judged)
    settings = inputs.settings
    asked = {"by": settings.by, "relatives": settings.relatives, "min_images": settings.min_images}
    write_json(folder / FACTS_FILE, {**counts, **asked})
    return dict(counts)


def show_expectations(rows_of: Mapping[str, Rows]) -> Iterator[TextTable]:
    """The rows of its tables, by file, as a table for a terminal."""
    rows = rows_of[TABLE_FILE]
    if not rows:
        return
    counts = count_outcomes(JudgedWord(**row) for row in rows)
    told = ", ".join(f"{counts[f'num_{outcome}']} {text}" for outcome, text in IN_WORDS.items())
    several = len({row["layer"] for row in rows}) > 1
    layer = ("layer",) if several else ()
    yield TextTable(
        f"expected words: {told}",
        (*layer, "expected", "outcome", "filters", "confidence", "classes that lean on them", "why"),
        [(*((row["layer"],) if several else ()), *_show_row(row)) for row in rows],
        frozenset(place + several for place in (2, 3)),
    )


def _show_row(row: Mapping[str, object]) -> tuple[str, ...]:
    judged = JudgedWord(**row)  # type: ignore[arg-type]
    more = f", ... ({judged.num_classes})" if judged.num_classes > _SHOWN else ""
    return (
        f"{judged.expected.replace('_', ' ')}: {judged.word}",
        IN_WORDS[judged.outcome],
        str(judged.num_filters),
        "" if judged.confidence is None else f"{judged.confidence:.2f}",
        ", ".join(judged.classes[:_SHOWN]) + more,
        judged.why,
    )


ANALYSIS = Analysis(
    stage=STAGE,
    place=4,
    setting="expect.must",
    is_wanted=lambda config: bool(config.expect.words),
    inputs=_read,
    compute=_compute,
    facts_file=FACTS_FILE,
    tables=(Table(TABLE_FILE, "expectations"), Table(FILTERS_FILE, "expected_filters")),
    show=show_expectations,
)
