from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from lavise.configs import schema
from lavise.configs.base import Settings
from lavise.configs.loading import load_config
from lavise.configs.preprocessing import PreprocessingSettings
from lavise.configs.schema import (
    Config,
    DiffSettings,
    EvaluateSettings,
    ExplainerSettings,
    ExplainSettings,
    ExtractSettings,
    ModelSettings,
    StatisticsSettings,
    TrainSettings,
    TransferSettings,
    VisualGenomeReference,
)

SECTIONS = [
    thing
    for thing in vars(schema).values()
    if isinstance(thing, type) and issubclass(thing, Settings) and thing is not Settings
]
SMALL: dict[str, Any] = {
    "name": "x",
    "model": {"arch": "a"},
    "reference": {"kind": "openmoji"},
    "target": {"kind": "openmoji"},
}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_every_section_is_frozen_and_forbids_unknown_keys(section: type[BaseModel]) -> None:
    assert section.model_config.get("frozen") is True
    assert section.model_config.get("extra") == "forbid"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_every_section_says_what_it_is(section: type[BaseModel]) -> None:
    assert section.__doc__
    assert section.__doc__ != Settings.__doc__


def test_a_config_cannot_be_changed() -> None:
    config = load_config("demo")
    with pytest.raises(ValidationError, match="frozen"):
        config.train.margin = 2.0  # type: ignore[misc]
    assert config.train.margin == 1.0


def test_fields_carry_their_documentation() -> None:
    assert "1 - quantile" in str(StatisticsSettings.model_fields["quantile"].description)


def test_published_values_are_the_defaults() -> None:
    config = Config.model_validate(SMALL)
    assert config.statistics.quantile == 0.995
    assert config.evaluate.min_iou == 0.04
    assert config.evaluate.recall_at == (5, 10, 20)
    assert config.explain.method == "filter_attention"
    assert config.train.dropout == 0.1
    assert config.train.margin == 1.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [("auto", "auto"), ("layer4", ("layer4",)), (["a", "b"], ("a", "b")), (("a",), ("a",))],
)
def test_layers_may_be_one_name(given: object, expected: object) -> None:
    assert ModelSettings.model_validate({"arch": "a", "layers": given}).layers == expected


@pytest.mark.parametrize("layers", [[], ["a", "a"], ["a", 3], 3, None])
def test_layers_that_are_refused(layers: object) -> None:
    with pytest.raises(ValidationError, match="layers"):
        ModelSettings.model_validate({"arch": "a", "layers": layers})


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "a b", "x\n", "-x", "ü"])
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        Config.model_validate({**SMALL, "name": name})


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_seed_at_its_ends(seed: int) -> None:
    assert Config.model_validate({**SMALL, "seed": seed}).seed == seed


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_seed_out_of_range(seed: float) -> None:
    with pytest.raises(ValidationError, match="seed"):
        Config.model_validate({**SMALL, "seed": seed})


@pytest.mark.parametrize(
    ("section", "field", "values"),
    [
        (StatisticsSettings, "quantile", [0.005, 0.5, 1, 1.5, float("nan")]),
        (StatisticsSettings, "num_workers", [0]),
        (ExtractSettings, "max_broken_share", [-0.1, 1.1]),
        (ExtractSettings, "batch_size", [0]),
        (TrainSettings, "dropout", [-0.1, 1]),
        (TrainSettings, "supervised_share", [0, 1.1]),
        (TrainSettings, "early_stopping_share", [0, 1]),
        (TrainSettings, "temperature", [0]),
        (TrainSettings, "learning_rate", [0, -1, float("nan")]),
        (TrainSettings, "region_feature", ["L2"]),
        (EvaluateSettings, "min_iou", [-0.1, 1]),
        (EvaluateSettings, "methods", [[], ["nope"]]),
        (EvaluateSettings, "recall_at", [[], [0], [5, -1]]),
        (EvaluateSettings, "panel_at", [[], [0], [5, -1]]),
        (EvaluateSettings, "baselines", [["nope"]]),
        (EvaluateSettings, "baseline_images", [0, 9]),
        (ExplainerSettings, "kind", ["both"]),
        (ExplainerSettings, "open_share", [0, 1, -0.1, float("nan")]),
        (ExplainSettings, "ranking", ["votes"]),
        (ExplainSettings, "false_discovery_rate", [0, 1, -0.1, float("nan")]),
        (ExplainSettings, "max_meanings", [0, 11]),
        (TransferSettings, "method", ["align"]),
        (DiffSettings, "same_at", [0, -0.5, 1.1, float("nan")]),
        (DiffSettings, "related_at", [-0.1, 1.1, float("nan")]),
        (DiffSettings, "bootstrap_samples", [0, 99]),
        (PreprocessingSettings, "crop_share", [0, 1.1]),
        (PreprocessingSettings, "mean", [[0.5], [0.5, 0.5, 0.5, 0.5], []]),
        (PreprocessingSettings, "interpolation", ["nearest"]),
    ],
)
def test_values_out_of_range(section: type[BaseModel], field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ValidationError, match=field):
            section.model_validate({field: value})


def test_no_baseline_is_a_choice() -> None:
    assert EvaluateSettings.model_validate({"baselines": []}).baselines == ()
    assert len(EvaluateSettings().baselines) == 5


@pytest.mark.parametrize("std", [[0, 0.2, 0.2], [0.2, -0.1, 0.2]])
def test_a_standard_deviation_that_one_cannot_divide_by(std: list[float]) -> None:
    with pytest.raises(ValidationError, match="std"):
        PreprocessingSettings.model_validate({"std": std})


@pytest.mark.parametrize(("batch", "shard"), [(5, 128), (64, 32)])
def test_a_shard_holds_whole_batches(batch: int, shard: int) -> None:
    with pytest.raises(ValidationError, match=f"multiple of batch_size, found {shard} and {batch}"):
        ExtractSettings(batch_size=batch, shard_images=shard)
    assert ExtractSettings(batch_size=batch, shard_images=3 * batch).shard_images == 3 * batch


def test_a_threshold_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"head_threshold is read with head: sigmoid alone, found 0\.3"):
        ModelSettings(arch="a", head_threshold=0.3)
    assert ModelSettings(arch="a", head="sigmoid", head_threshold=0.3).head_threshold == 0.3
    for value in (0, 1, float("nan")):
        with pytest.raises(ValidationError, match="head_threshold"):
            ModelSettings(arch="a", head="sigmoid", head_threshold=value)


def test_a_multi_label_head_names_no_regions() -> None:
    data = {**SMALL, "model": {**SMALL["model"], "head": "sigmoid"}}
    with pytest.raises(ValidationError, match=r"explainer\.kind: found 'head' with model\.head: sigmoid"):
        Config.model_validate({**data, "explainer": {"kind": "head"}})
    assert Config.model_validate(data).explainer.kind == "fused"


def test_what_is_the_same_is_related() -> None:
    with pytest.raises(ValidationError, match=r"related_at must not be above same_at, found 0\.6 and 0\.5"):
        DiffSettings(same_at=0.5, related_at=0.6)
    assert DiffSettings(same_at=0.5, related_at=0.5).related_at == 0.5
    assert DiffSettings(same_at=1, related_at=0).same_at == 1


def test_comparison_by_default() -> None:
    settings = Config.model_validate(SMALL).diff
    assert (settings.same_at, settings.related_at, settings.bootstrap_samples) == (0.9, 0.5, 1000)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"kind": "coco", "root": "r"}, "CocoReference"),
        ({"kind": "visual_genome", "root": "r"}, "VisualGenomeReference"),
        ({"kind": "image_folder", "root": "r"}, "ImageFolderReference"),
        ({"kind": "openmoji"}, "OpenMojiReference"),
        ({"kind": "pascal_voc", "root": "r"}, "PascalVocReference"),
        ({"kind": "yolo", "root": "r"}, "YoloReference"),
        ({"kind": "open_images", "root": "r"}, "OpenImagesReference"),
        ({"kind": "ade20k", "root": "r"}, "Ade20kReference"),
        ({"kind": "broden", "root": "r"}, "BrodenReference"),
        ({"kind": "patterns"}, "PatternsReference"),
    ],
)
def test_kind_chooses_the_reference(given: dict[str, str], kind: str) -> None:
    assert type(Config.model_validate({**SMALL, "reference": given}).reference).__name__ == kind


def test_visual_genome_defaults_are_the_true_layout() -> None:
    settings = VisualGenomeReference(kind="visual_genome", root=Path("vg"))
    assert settings.objects == "objects.json"
    assert settings.image_folders == ("VG_100K", "VG_100K_2")
    assert settings.min_images == 100
