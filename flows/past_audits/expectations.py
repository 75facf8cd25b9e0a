"""Expected words held against an audit that has ended, from its run folder and from what its state folder still has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import ValidationError

from lavise.configs.errors import UserError
from lavise.configs.expectations import ExpectSettings
from lavise.configs.loading import describe_faults
from lavise.configs.roles import Role
from lavise.flows.past_audits.past_runs import PastRun
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.tasks.activations import extract
from lavise.tasks.classifier import ablation, attribution
from lavise.tasks.engine.stage import Stage
from lavise.tasks.expectations.evidence import Evidence, read_detection, read_rows
from lavise.tasks.expectations.judging import (
    JudgedWord,
    SayingFilter,
    count_outcomes,
    join_layers,
    judge_layer,
)
from lavise.tasks.inputs import vocabulary
from lavise.tasks.masks.detection import DETECTION


@dataclass(frozen=True)
class ExpectResult:
    """What `lavise expect --json` prints.

    Attributes:
        words: in the order in which they were given, layer by layer; filters: those that say them.
    """

    run_id: str
    title: str
    words: tuple[JudgedWord, ...]
    filters: tuple[SayingFilter, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """num_words, num_met, num_broken, num_unclear; each word counts once, whatever the number of layers."""
        return count_outcomes(join_layers(self.words))

    def to_json(self) -> str:
        """One line."""
        words, filters = ([asdict(row) for row in rows] for rows in (self.words, self.filters))
        return json.dumps({**vars(self), **self.counts, "words": words, "filters": filters}, allow_nan=False)


def choose_expectations(
    own: ExpectSettings,
    must: Sequence[str] | None,
    must_not: Sequence[str] | None,
    by: str | None,
    relatives: str | None,
) -> ExpectSettings:
    """What is asked for; where no word is, the audit's own.

    Raises:
        UserError: a word that is none, or that must and must not matter.
    """
    given = {"must": must, "must_not": must_not} if must or must_not else {"must": own.must, "must_not": own.must_not}
    chosen = {**given, "by": by or own.by, "relatives": relatives or own.relatives, "min_images": own.min_images}
    try:
        return ExpectSettings.model_validate({k: v for k, v in chosen.items() if v is not None})
    except ValidationError as err:
        raise UserError(describe_faults(err, "expect", ExpectSettings, "on the command line")) from None


def judge_run(past: PastRun, settings: ExpectSettings) -> ExpectResult:
    """What became of expected words in every layer of an audit.

    Raises:
        UserError: no word is given.
    """
    if not settings.words:
        raise UserError(
            f"expect: run {past.run_id} has no expected words of its own; give some with --must and --must-not"
        )
    store = past.open_store()
    words: list[JudgedWord] = []
    filters: list[SayingFilter] = []
    for layer in past.layers:
        judged, saying = judge_layer(_gather(past, layer, store), settings)
        words += judged
        filters += saying
    return ExpectResult(past.run_id, past.title, tuple(words), tuple(filters))


def _gather(past: PastRun, layer: str, store: ArtefactStore | None) -> Evidence:
    """From the run folder; vocabulary, masks and the number of pictures from artefacts that are still there."""
    position, folder = past.layers.index(layer), past.folder

    def find(stage: Stage, role: str = "", place: int = 0) -> Handle | None:
        return past.find_artefact(store, stage, role, place) if store else None

    words, target = find(vocabulary.STAGE), find(extract.STAGE, Role.TARGET, position)
    return Evidence(
        layer=layer,
        filters=read_rows(folder / file_names.FILTERS, layer) or (),
        words=read_rows(folder / file_names.EXPLANATIONS, layer) or (),
        classes=read_rows(folder / attribution.TABLE_FILE, layer),
        causes=read_rows(folder / ablation.WORDS_FILE, layer),
        vocabulary=vocabulary.load_vocabulary(words) if words else None,
        detection=read_detection(_find_of_layer(past, store, layer)),
        num_target=target.info.get("num_images") if target else None,
        is_valid=bool(past.read_metrics()["layers"][layer].get("regions", {}).get("is_valid", True)),
        language=past.config.words.language,
    )


def _find_of_layer(past: PastRun, store: ArtefactStore | None, layer: str) -> Handle | None:
    """What masks said of a layer: the stage ran once for each, under a title with the layer's name."""
    entries: Sequence[Mapping[str, str]] = past.artefacts.get(f"{DETECTION.name} {layer}", ())
    return store.find(DETECTION.name, entries[0]["digest"]) if store and entries else None
