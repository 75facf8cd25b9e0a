"""What the stages of a layer share: settings and tools, the network with its pictures, and what is made so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property

from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.shared.inputs import Inputs
from lavise.storage.models.classifier_head import NO_SHARES, SOFTMAX, AnswerRule, LinearHead, find_linear_head
from lavise.storage.models.layers import Layer
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.progress import Progress
from lavise.storage.words.word_vectors import Vocabulary, WordVectors, load_word_vectors
from lavise.tasks.activations.thresholds import THRESHOLDS, ThresholdInputs, make_thresholds
from lavise.tasks.analyses.analysis import list_analyses
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Stage, StageRunner
from lavise.tasks.engine.stage_inputs import Given


@dataclass(frozen=True)
class Context:
    """What all layers and baselines of an audit share.

    Attributes:
        vectors_digest: of the word vectors' files, which are read whole for it.
    """

    config: Config
    device: str
    runner: StageRunner
    cluster: StatisticsCluster
    progress: Progress
    vocabulary: Given[Vocabulary]
    vectors_digest: str

    @property
    def computing(self) -> Computing:
        """How all stages compute."""
        return Computing(self.config.seed, self.device, self.progress)

    @property
    def rule(self) -> AnswerRule:
        """Which classes are a network's answers."""
        return AnswerRule(self.config.model.head, self.config.model.head_threshold)

    @cached_property
    def vectors(self) -> Given[Callable[[], WordVectors]]:
        """Read only where a stage has to be computed, and once."""
        return Given(cache(lambda: load_word_vectors(self.config.words)), self.vectors_digest)


@dataclass(frozen=True)
class Subject:
    """A network and the pictures that it is shown: the audit's own, or a baseline's.

    Attributes:
        title: of a baseline, put before the titles of its stages; empty for the audit itself.
        shuffled: labels of the reference and names of the classes are dealt out at random.
    """

    model: TargetModel
    inputs: Inputs
    title: str = ""
    shuffled: bool = False

    def name(self, stage: str) -> str:
        return f"{self.title}: {stage}" if self.title else stage


@dataclass
class LayerResult:
    """Handles of all that one layer's audit made.

    Attributes:
        made: what the stages made, by the stage's name.
        head: the classifier head that the layer feeds, or None and the reason; None before it was looked for.
    """

    layer: Layer
    activations: dict[Role, Handle]
    thresholds: dict[Role, Handle] = field(default_factory=dict)
    regions: dict[Role, Handle] = field(default_factory=dict)
    explainer: Handle | None = None
    made: dict[str, Handle] = field(default_factory=dict)
    head: tuple[LinearHead | None, str] | None = None

    def find_analyses(self) -> dict[str, Handle]:
        """What the audit added to the words, by the analysis' name."""
        return {a.name: self.made[a.name] for a in list_analyses() if a.name in self.made}

    @property
    def final_explainer(self) -> Handle:
        """The explainer that speaks about the target."""
        assert self.explainer is not None, "no explainer yet"
        return self.explainer

    def keep(self, handle: Handle) -> Handle:
        """Remember what a stage made for this layer."""
        self.made[handle.stage] = handle
        return handle

    def find(self, stage: Stage) -> Handle | None:
        """What a stage made; None where it has not run."""
        return self.made.get(stage.name)

    def of(self, stage: Stage) -> Handle:
        """What a stage made.

        Raises:
            KeyError: it has not run.
        """
        if stage.name not in self.made:
            raise KeyError(f"stage {stage.name} of layer {self.layer.name} has not run")
        return self.made[stage.name]


def find_head(subject: Subject, result: LayerResult, rule: AnswerRule = SOFTMAX) -> tuple[LinearHead | None, str]:
    """The classifier head that a layer feeds directly, or None and the reason; looked for once."""
    if result.head is None:
        model = subject.model
        result.head = find_linear_head(model.network, result.layer, model.geometry.size_px, model.channels, rule)
    return result.head


def find_naming_head(context: Context, subject: Subject, result: LayerResult) -> tuple[LinearHead | None, str]:
    """The head that names regions, or None and the reason: its words are shares of one answer, of a softmax."""
    if context.rule.is_multi_label:
        return None, NO_SHARES
    return find_head(subject, result, context.rule)


def find_thresholds(context: Context, subject: Subject, result: LayerResult, role: Role) -> Handle:
    """T_u of the filters on one part of the data; computed where the result has none yet."""
    if role not in result.thresholds:
        title = subject.name(f"thresholds {role} {result.layer.name}")
        inputs = ThresholdInputs(result.activations[role], context.config.statistics.quantile, context.cluster)
        result.thresholds[role] = context.runner.run_one(THRESHOLDS, title, inputs, make_thresholds)
    return result.thresholds[role]
