"""A kind of analysis as a record: the audit, the run folder, MLflow, the report, the terminal and notebooks go through
the list of these records and know no kind by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol

from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import AnswerRule, LinearHead
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.analyses import kinds
from lavise.tasks.classifier.audited_classifier import AuditedClassifier
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Info, Read, Stage
from lavise.tasks.engine.stage_inputs import Given

Rows = list[dict[str, Any]]


class ExplainedLayer(Protocol):
    """What an analysis may read: a layer whose filters have words. Whatever is costly is made when it is asked for."""

    @property
    def config(self) -> Config: ...
    @property
    def layer(self) -> str: ...
    @property
    def model(self) -> TargetModel: ...
    @property
    def computing(self) -> Computing: ...
    @property
    def words(self) -> list[list[str]]:
        """Of each filter, the words that are believed; none where it is unexplained."""

    @property
    def class_names(self) -> ClassNames | None: ...
    @property
    def head(self) -> tuple[LinearHead | None, str]:
        """The classifier head that the layer feeds directly, or None and the reason."""

    def data(self, role: Role) -> Given[Dataset]:
        """By the digest of everything in it."""

    def pictures(self, role: Role) -> Given[Dataset]:
        """The same by the digest of the pictures alone, for whatever reads no labels."""

    def activations(self, role: Role) -> Handle: ...
    def thresholds(self, role: Role) -> Handle: ...
    @property
    def vocabulary(self) -> Given[Vocabulary]: ...
    def made(self, stage: Stage) -> Handle | None:
        """What a stage made of this layer, an analysis before this one (by its place) among them; None where it has not
        run."""


def classifier_of(layer: ExplainedLayer) -> AuditedClassifier:
    """The network as a classifier, for analyses of its answers."""
    settings = layer.config.model
    return AuditedClassifier(
        layer.model,
        layer.layer,
        *layer.head,
        layer.class_names,
        layer.config.extract.batch_size,
        AnswerRule(settings.head, settings.head_threshold),
    )


@dataclass(frozen=True)
class TextTable:
    """A table for a terminal, as plain text.

    Attributes:
        right: positions of the columns that are set to the right.
    """

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Table:
    """A parquet file of the stage; in the run folder it holds the rows of all layers.

    Attributes:
        attribute: name of the table in a notebook; empty for none.
        order: columns that it is sorted by there.
        found_only: rows are of interest where their column `found` is true.
        in_browser: logged as JSON too, for the MLflow UI.
        needs: the setting without which the stage does not write it; empty where it always does.
    """

    file: str
    attribute: str = ""
    order: tuple[str, ...] = ()
    found_only: bool = False
    in_browser: bool = True
    needs: str = ""


def _nothing_to_check(*_: Any) -> None:
    return None


def _no_images(_: Config) -> Role | None:
    return None


@dataclass(frozen=True)
class Analysis(Generic[Read]):
    """One kind of analysis.

    Attributes:
        place: among the others, from the left.
        setting: what switches it on, for messages.
        is_wanted: by the settings.
        inputs: what is read of a layer; the artefact depends on it. Must be cheap: it is asked for each time.
        compute: fills the artefact's folder from that and returns facts, whose numbers are metrics under the stage's
            name.
        facts_file: a JSON file of the artefact.
        show: the rows of its tables, by file, as tables for a terminal.
        shows_images: the data set whose pictures its section of the report shows.
        check_settings: raises UserError before any data set is opened.
        check_data: the same when the data sets are there, before anything long is begun.
    """

    stage: Stage
    place: int
    setting: str
    is_wanted: Callable[[Config], bool]
    inputs: Callable[[ExplainedLayer], Read]
    compute: Callable[[Read, Path], Info]
    facts_file: str
    tables: tuple[Table, ...]
    show: Callable[[Mapping[str, Rows]], Iterator[TextTable]]
    shows_images: Callable[[Config], Role | None] = _no_images
    check_settings: Callable[[Config], None] = _nothing_to_check
    check_data: Callable[[Config, Callable[[Role], Dataset]], None] = _nothing_to_check

    @property
    def name(self) -> str:
        """Also of its metrics, its section and its files."""
        return self.stage.name


def list_analyses() -> list[Analysis[Any]]:
    """All kinds, in their order: the records of the modules in tasks/analyses/kinds."""
    names = sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))
    found: list[Analysis[Any]] = [importlib.import_module(f"{kinds.__name__}.{name}").ANALYSIS for name in names]
    return sorted(found, key=lambda analysis: analysis.place)
