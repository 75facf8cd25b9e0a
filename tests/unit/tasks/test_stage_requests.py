"""What every stage's artefact depends on, entry by entry: as it was when the artefacts that users keep were made.

A key or a value that changes here makes all of them worthless. Where a stage is to depend on something else, its
version goes up with it (CONTRIBUTING.md, versions of stages).
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pytest
import torch

import lavise.tasks
from lavise.configs.registry import ATTENTION, OBJECTIVES, RANKINGS, TRANSFERS, Registry
from lavise.configs.schema import (
    BiasSettings,
    CauseSettings,
    ClassSettings,
    DiffSettings,
    EvaluateSettings,
    ExpectSettings,
    ExplainerSettings,
    ExplainSettings,
    ExtractSettings,
    ReportSettings,
    TrainSettings,
    WordSettings,
)
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.groups import Grouping
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.state.artefacts import Handle, compute_stage_digest
from lavise.storage.state.digest import digest_file, digest_of, digest_tensors
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.activations.layer_maps import MappedNetwork
from lavise.tasks.activations.thresholds import THRESHOLDS, ThresholdInputs
from lavise.tasks.analyses.kinds.expectations import ExpectInputs
from lavise.tasks.classifier.ablation import CauseInputs
from lavise.tasks.classifier.attribution import ContributionInputs
from lavise.tasks.classifier.audited_classifier import AuditedClassifier
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Stage
from lavise.tasks.engine.stage_inputs import Given, Request, StageInputs, take_part
from lavise.tasks.evaluation.layer_panel import PanelInputs, PanelSettings
from lavise.tasks.evaluation.panel_layer import LayerArtefacts
from lavise.tasks.evaluation.recall import RecallInputs, RecallSettings
from lavise.tasks.explainer.naming import AssemblyInputs
from lavise.tasks.explainer.training import TrainingInputs
from lavise.tasks.explainer.transfer import TransferInputs
from lavise.tasks.explainer.validation import ValidationInputs
from lavise.tasks.group_bias.analysis import BiasInputs
from lavise.tasks.history.filter_matching import AuditedLayer, DiffInputs
from lavise.tasks.inputs.pattern_pictures import PatternInputs
from lavise.tasks.inputs.scenes import SceneInputs
from lavise.tasks.inputs.vocabulary import VocabularyInputs
from lavise.tasks.masks.agreement import AGREEMENT
from lavise.tasks.masks.detection import DetectionInputs
from lavise.tasks.masks.mask_inputs import MaskedRegionInputs, MaskInputs
from lavise.tasks.masks.overlaps import OVERLAPS
from lavise.tasks.masks.region_pooling import REGIONS
from lavise.tasks.report.report_inputs import ReportedLayer, ReportInputs, ShownImages, digest_templates
from lavise.tasks.words.explain import ExplainInputs
from lavise.tasks.words.naming_check import NamingInputs, NamingRule
from tests.unit.tasks.helpers import make_model

ARITHMETIC = {"seed": 3, "device": "cpu", "torch": torch.__version__}
COMPUTING = Computing(3)
CONCEPTS = ("cat", "dog")
WORDS = [["cat"], []]
MODEL = make_model()
DATA = Given(Dataset("d", (), CONCEPTS), "data")
IMAGES = Given(Dataset("d", (), CONCEPTS), "pictures")
VOCABULARY: Given[Vocabulary] = Given(Vocabulary(("cat",), np.ones((1, 2), np.float32), 1, ()), "vocabulary")
NETWORK = MappedNetwork(MODEL, "tail", 8)
CLASSES = ClassNames((("tench",), ("goldfish",)), "settings")
HEAD = LinearHead(torch.ones(2, 3), torch.zeros(2))
CLASSIFIER = AuditedClassifier(MODEL, "tail", HEAD, "", CLASSES, 8)
GROUPING = Grouping("folder", ("a", "b"), np.array([0, 1, 1]))
CLUSTER: Any = SimpleNamespace()
GEOMETRY = MODEL.geometry


def handle(digest: str) -> Handle:
    return Handle(
        stage="s", version=1, digest=digest, folder=Path("/nowhere"), settings={}, inputs={}, files={}, info={}
    )


def artefacts(name: str = "") -> LayerArtefacts:
    parts = ("explained", "activations", "thresholds", "agreement", "overlaps", "detection")
    return LayerArtefacts(*(handle(f"{name}{part}") for part in parts))


def audited_layer(name: str) -> AuditedLayer:
    row = {"filter": 0, "explained": True, "words": ["cat"]}
    return AuditedLayer(name, "timm:net", handle(f"maps of {name}"), [row])


CLASSIFIER_SETTINGS = {
    "arch": MODEL.arch,
    "code": MODEL.code,
    "checkpoint": MODEL.digest,
    "layer": "tail",
    "preprocessing": MODEL.describe_preprocessing(),
    "classes": digest_of((("tench",), ("goldfish",))),
    "batch_size": 8,
    **ARITHMETIC,
}
MASKS = {"activations": handle("a"), "data": DATA, "geometry": GEOMETRY, "cluster": CLUSTER}
DIFF_WORDS = digest_of(["timm:net", [[0, True, ["cat"]]]])
TRANSFER = TransferInputs(
    method="renormalise",
    explainer=handle("e"),
    activations=handle("a"),
    regions=handle("r"),
    vocabulary=VOCABULARY.value,
    training=TrainSettings(),
    computing=COMPUTING,
    shuffled_labels=True,
)
POOLED = handle("r").model_copy(update={"info": {"num_images_with_regions": 100}})
TRAINING = TrainingInputs(POOLED, CONCEPTS, VOCABULARY, TrainSettings(), COMPUTING)
EXPLAIN = ExplainInputs(
    network=NETWORK,
    activations=handle("a"),
    thresholds=handle("t"),
    pictures=DATA.value,
    explainer=handle("e"),
    vocabulary=VOCABULARY,
    detection=handle("d"),
    validation=handle("v"),
    concepts=CONCEPTS,
    naming=None,
    settings=ExplainSettings(),
    computing=COMPUTING,
)
EXPLAIN_SETTINGS = {
    **ExplainSettings().model_dump(mode="json"),
    "layer": "tail",
    "concepts": digest_of(["cat", "dog"]),
    **ARITHMETIC,
}
EXPLAIN_INPUTS = {
    "activations": "a",
    "thresholds": "t",
    "explainer": "e",
    "detection": "d",
    "validation": "v",
    "vocabulary": "vocabulary",
}
REPORT = ReportInputs(
    settings=ReportSettings(),
    facts={"Audit": "x"},
    preprocessing=MODEL.describe_preprocessing(),
    geometry=GEOMETRY,
    pictures=IMAGES,
    shown={"bias": ShownImages("train", Given(DATA.value, "train pictures"))},
    layers=[
        ReportedLayer(
            layer="tail",
            shape=(5, 8, 8),
            explained=handle("x"),
            evaluated=handle("r"),
            panel=handle("p"),
            validated=handle("v"),
            activations=handle("a"),
            thresholds=handle("t"),
            explainer=handle("e"),
            analyses={"bias": handle("b")},
        )
    ],
    diff=None,
)
REPORT_SETTINGS = {
    **ReportSettings().model_dump(mode="json"),
    "facts": {"Audit": "x"},
    "preprocessing": MODEL.describe_preprocessing(),
}
REPORT_INPUTS = {
    "templates": digest_templates(),
    "pictures": "pictures",
    "explained tail": "x",
    "evaluated tail": "r",
    "panel tail": "p",
    "validated tail": "v",
    "bias tail": "b",
    "bias pictures": "train pictures",
}

NAMING = NamingInputs(
    train=handle("tr"),
    train_data=Given(DATA.value, "train data"),
    evaluation=handle("ev"),
    evaluation_data=Given(DATA.value, "evaluation data"),
    thresholds=handle("t"),
    explainer=handle("e"),
    vocabulary=VOCABULARY,
    network=NETWORK,
    rule=take_part(ExplainSettings(), NamingRule),
    computing=COMPUTING,
)
RECALL = RecallInputs(
    activations=handle("a"),
    thresholds=handle("t"),
    overlaps=handle("o"),
    explainer=handle("e"),
    vocabulary=VOCABULARY,
    pictures=DATA.value,
    network=NETWORK,
    concepts=CONCEPTS,
    concept_counts={"dog": 2, "cat": 1},
    settings=take_part(EvaluateSettings(), RecallSettings, top_images=25),
    computing=COMPUTING,
)

KNOWN: list[tuple[StageInputs, dict[str, Any], dict[str, str]]] = [
    (ThresholdInputs(handle("a"), 0.995, CLUSTER), {"quantile": 0.995}, {"activations": "a"}),
    (MaskInputs(**MASKS), {}, {"activations": "a", "data": "data"}),
    (
        MaskedRegionInputs(**MASKS, thresholds=handle("t")),
        {},
        {"activations": "a", "thresholds": "t", "data": "data"},
    ),
    (DetectionInputs(handle("a"), handle("g")), {}, {"activations": "a", "agreement": "g"}),
    (
        TRAINING,
        {**TrainSettings().model_dump(mode="json"), **ARITHMETIC},
        {"regions": "r", "vocabulary": "vocabulary"},
    ),
    (
        replace(TRAINING, shuffled_labels=True),
        {**TrainSettings().model_dump(mode="json"), **ARITHMETIC, "shuffled_labels": True},
        {"regions": "r", "vocabulary": "vocabulary"},
    ),
    (
        replace(TRAINING, settings=TrainSettings(max_steps=4)),
        {**TrainSettings(max_steps=4).model_dump(mode="json"), **ARITHMETIC, "step_images": 25},
        {"regions": "r", "vocabulary": "vocabulary"},
    ),
    (
        AssemblyInputs(
            trained=handle("t"),
            settings=ExplainerSettings(),
            head=HEAD,
            no_head="",
            classes=CLASSES,
            scale=1.5,
            vectors=Given(lambda: None, "vectors"),  # type: ignore[arg-type,return-value]
            vocabulary=VOCABULARY,
        ),
        {
            **ExplainerSettings().model_dump(mode="json"),
            "no_head": "",
            "classes": digest_of((("tench",), ("goldfish",))),
            "head": digest_tensors({"weight": HEAD.weight, "bias": HEAD.bias}),
            "scale": 1.5,
        },
        {"trained": "t", "vocabulary": "vocabulary", "vectors": "vectors"},
    ),
    (
        TRANSFER,
        {"method": "renormalise", **ARITHMETIC},
        {"explainer": "e", "activations": "a", "regions": "r"},
    ),
    (
        replace(TRANSFER, method="distil_head"),
        {"method": "distil_head", **ARITHMETIC, "temperature": 0.05, "batch_images": TrainSettings().batch_images},
        {"explainer": "e", "activations": "a", "regions": "r"},
    ),
    (
        ValidationInputs(handle("r"), CONCEPTS, handle("e"), VOCABULARY, (5, 10), 200, COMPUTING),
        {"recall_at": [5, 10], "bootstrap_samples": 200, **ARITHMETIC},
        {"regions": "r", "explainer": "e", "vocabulary": "vocabulary"},
    ),
    (
        NAMING,
        {"method": "filter_attention", "top_images": 25, "min_share": 0.3, **ARITHMETIC},
        {
            "train": "tr",
            "evaluation": "ev",
            "train data": "train data",
            "evaluation data": "evaluation data",
            "thresholds": "t",
            "explainer": "e",
            "vocabulary": "vocabulary",
        },
    ),
    (EXPLAIN, EXPLAIN_SETTINGS, EXPLAIN_INPUTS),
    (replace(EXPLAIN, naming=handle("n")), EXPLAIN_SETTINGS, {**EXPLAIN_INPUTS, "naming": "n"}),
    (
        RECALL,
        {
            **EvaluateSettings().model_dump(mode="json", exclude={"panel_at", "baselines", "baseline_images"}),
            "top_images": 25,
            "concept_counts": digest_of({"cat": 1, "dog": 2}),
            "code of explain.method": {"image_masking": "2"},
            **ARITHMETIC,
        },
        {"activations": "a", "thresholds": "t", "overlaps": "o", "explainer": "e", "vocabulary": "vocabulary"},
    ),
    (
        PanelInputs(
            own=artefacts(),
            audited={"random_network": artefacts("other ")},
            concepts=CONCEPTS,
            concept_counts={"dog": 2, "cat": 1},
            num_words=10,
            settings=PanelSettings(
                at=(1, 5), baselines=("random_network",), bootstrap_samples=200, min_iou=0.04, top_images=25
            ),
            seed=3,
        ),
        {
            "at": [1, 5],
            "baselines": ["random_network"],
            "bootstrap_samples": 200,
            "min_iou": 0.04,
            "top_images": 25,
            "seed": 3,
            "concept_counts": digest_of({"cat": 1, "dog": 2}),
        },
        {
            "activations": "activations",
            "agreement": "agreement",
            "overlaps": "overlaps",
            "explained": "explained",
            "detection": "detection",
            "random_network explained": "other explained",
            "random_network agreement": "other agreement",
        },
    ),
    (
        BiasInputs("tail", handle("a"), handle("t"), GROUPING, None, WORDS, BiasSettings(), 3),
        {
            **BiasSettings().model_dump(mode="json", exclude={"groups", "stratify_by"}),
            "groups": {"title": "folder", "names": ["a", "b"], "of_image": digest_of([0, 1, 1])},
            "strata": None,
            "words": digest_of([["cat"], []]),
            "layer": "tail",
            "seed": 3,
        },
        {"activations": "a", "thresholds": "t"},
    ),
    (
        ContributionInputs(CLASSIFIER, IMAGES, WORDS, ClassSettings(), COMPUTING),
        {**ClassSettings().model_dump(mode="json"), "words": digest_of([["cat"], []]), **CLASSIFIER_SETTINGS},
        {"pictures": "pictures"},
    ),
    (
        CauseInputs(CLASSIFIER, DATA, handle("a"), WORDS, CauseSettings(), COMPUTING),
        {**CauseSettings().model_dump(mode="json"), "words": digest_of([["cat"], []]), **CLASSIFIER_SETTINGS},
        {"data": "data", "activations": "a"},
    ),
    (
        CauseInputs(CLASSIFIER, DATA, handle("a"), WORDS, CauseSettings(), COMPUTING, "de"),
        {
            **CauseSettings().model_dump(mode="json"),
            "words": digest_of([["cat"], []]),
            "language": "de",
            **CLASSIFIER_SETTINGS,
        },
        {"data": "data", "activations": "a"},
    ),
    (
        ExpectInputs(
            "tail",
            WORDS,
            handle("e"),
            handle("a"),
            handle("v"),
            handle("d"),
            VOCABULARY,
            None,
            handle("c"),
            ExpectSettings(must=("dog",)),
            "en",
        ),
        {
            **ExpectSettings(must=("dog",)).model_dump(mode="json"),
            "words": digest_of([["cat"], []]),
            "layer": "tail",
            "language": "en",
        },
        {
            "explained": "e",
            "activations": "a",
            "validation": "v",
            "detection": "d",
            "vocabulary": "vocabulary",
            "causes": "c",
        },
    ),
    (
        DiffInputs(audited_layer("old"), audited_layer("new"), DiffSettings(), 3, CLUSTER),
        {**DiffSettings().model_dump(mode="json"), "seed": 3, "old_layer": "old", "new_layer": "new"},
        {
            "old_activations": "maps of old",
            "new_activations": "maps of new",
            "old_words": DIFF_WORDS,
            "new_words": DIFF_WORDS,
        },
    ),
    (REPORT, REPORT_SETTINGS, REPORT_INPUTS),
    (replace(REPORT, diff=Given(None, "diff")), REPORT_SETTINGS, {**REPORT_INPUTS, "diff": "diff"}),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("inputs", "settings", "digests"), KNOWN, ids=lambda value: type(value).__name__)
def test_the_request_of_a_stage(inputs: StageInputs, settings: dict[str, Any], digests: dict[str, str]) -> None:
    assert inputs.request() == Request(settings, digests)


def test_the_requests_of_an_extraction() -> None:
    inputs = ExtractionInputs(MODEL, ("stem", "tail"), IMAGES, ExtractSettings(batch_size=4, shard_images=8), "cpu")
    settings = {
        "arch": MODEL.arch,
        "code": MODEL.code,
        "preprocessing": MODEL.describe_preprocessing(),
        "batch_size": 4,
        "shard_images": 8,
        "torch": torch.__version__,
        "pillow": PIL.__version__,
        "device": "cpu",
    }
    read = {"checkpoint": MODEL.digest, "pictures": "pictures"}
    assert inputs.list_requests() == [Request({**settings, "layer": layer}, read) for layer in ("stem", "tail")]


def test_the_request_of_scenes_and_of_a_vocabulary() -> None:
    """Their rules are texts with versions in them, which no digest may lose."""
    for drawn in (SceneInputs, PatternInputs):
        pictures = drawn({"train": 4, "evaluation": 3}, 64, 3).request()
        assert pictures.inputs == {}
        assert {k: v for k, v in pictures.settings.items() if k != "sources"} == {
            "splits": {"train": 4, "evaluation": 3},
            "size_px": 64,
            "seed": 3,
        }
        assert pictures.settings["sources"]
    settings = WordSettings(vectors="glove.txt", vocabulary_size=10)
    given: Given[Any] = Given(None, "vectors")
    words = VocabularyInputs(settings, CONCEPTS, given).request()
    assert words.inputs == {"vectors": "vectors"}
    assert {k: v for k, v in words.settings.items() if k != "rule"} == {
        "format": settings.format,
        "suffix": ".txt",
        "size": 10,
        "word_list": None,
        "categories": ["cat", "dog"],
    }
    assert "gensim" in words.settings["rule"]


def test_a_layer_that_lies_otherwise_says_so() -> None:
    model = make_model()
    settings = ExtractSettings(batch_size=4, shard_images=8)
    plain = ExtractionInputs(model, ("tail",), IMAGES, settings, "cpu").list_requests()
    layer = replace(model.find_layer("tail"), layout="NTC", num_prefix_tokens=1)
    vars(model)["survey"] = replace(model.survey, layers=(layer,))
    (tokens,) = ExtractionInputs(model, ("tail",), IMAGES, settings, "cpu").list_requests()
    assert tokens == Request({**plain[0].settings, "layout": "NTC, 1 prefix token"}, plain[0].inputs)


@pytest.mark.parametrize(
    ("inputs", "registries"),
    [
        (replace(TRAINING, settings=TrainSettings().model_copy(update={"objective": "mine"})), [OBJECTIVES]),
        (replace(TRANSFER, method="mine"), [TRANSFERS]),
        (replace(NAMING, rule=NAMING.rule.model_copy(update={"method": "mine"})), [ATTENTION]),
        (
            replace(EXPLAIN, settings=EXPLAIN.settings.model_copy(update={"method": "mine", "ranking": "mine"})),
            [ATTENTION, RANKINGS],
        ),
        (replace(RECALL, settings=RECALL.settings.model_copy(update={"methods": ("original", "mine")})), [ATTENTION]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_code_behind_a_name_from_elsewhere_is_stated(
    inputs: StageInputs, registries: list[Registry[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for registry in registries:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_code", dict(registry._code))
        registry.register("mine")(SimpleNamespace(needs_head=False))
    code = digest_file(Path(__file__))
    found = {key: value for key, value in inputs.request().settings.items() if key.startswith("code of")}
    assert found == {f"code of {registry.setting}": {"mine": code} for registry in registries}


# By the code before stages declared their inputs.
DIGESTS = {
    "thresholds": "350e598743653242d99b994950d8ed2448416599ac613e04722957740c0fa1e0",
    "regions": "707dfdd9ce978545309ff7acfd706905e8a5a1ee1c8f07c75697744498b9893b",
    "overlaps": "36ed620287b23be64bef06030bc51b85b5ff8a87e9a32ae3c79e427d6d5292d2",
    "agreement": "f572944ad798dbac78c8ca68b80e0947fc4746a76ca7fdcc624273ce4d70b9af",
}


@pytest.mark.parametrize(
    ("stage", "inputs"),
    [
        (THRESHOLDS, ThresholdInputs(handle("a"), 0.995, CLUSTER)),
        (REGIONS, MaskInputs(**MASKS)),
        (OVERLAPS, MaskedRegionInputs(**MASKS, thresholds=handle("t"))),
        (AGREEMENT, MaskedRegionInputs(**MASKS, thresholds=handle("t"))),
    ],
    ids=DIGESTS,
)
def test_digests_that_no_version_of_a_library_is_in(stage: Stage, inputs: StageInputs) -> None:
    request = inputs.request()
    settings = stage.complete(request.settings)
    assert compute_stage_digest(stage.name, stage.version, settings, request.inputs) == DIGESTS[stage.name]


def test_no_declaration_is_forgotten() -> None:
    declared = set()
    for module in pkgutil.walk_packages(lavise.tasks.__path__, "lavise.tasks."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, StageInputs) and value is not StageInputs:
                declared.add(value)
    elsewhere = {ExtractionInputs, PatternInputs, SceneInputs, VocabularyInputs}
    assert declared == {type(inputs) for inputs, _, _ in KNOWN} | elsewhere
