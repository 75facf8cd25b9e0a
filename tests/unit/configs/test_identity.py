"""What makes two audits comparable, also under the names that settings had before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.configs.loading import RENAMED, describe_identity, dump_config, load_config
from lavise.configs.schema import BiasSettings, CauseSettings, ClassSettings, ExpectSettings
from tests.unit.configs.yaml_files import write

_SMALL_CONFIG = """
name: small
model: {arch: "timm:resnet18", layers: [a], num_classes: 5, preprocessing: {size_px: 64, mean: [0.1, 0.2, 0.3]}}
reference: {kind: coco, root: r}
target: {kind: image_folder, root: t, max_images: 9}
"""
_WITHOUT_INFLUENCE = (
    "name",
    "model.weights",
    "extract.decode_threads",
    "extract.shard_bytes",
    "extract.scheduler",
    "extract.compression",
    "statistics.scheduler",
    "statistics.num_workers",
    "diff.same_at",
    "diff.related_at",
    "diff.bootstrap_samples",
    *("bias." + key for key in BiasSettings.model_fields),
    *("classes." + key for key in ClassSettings.model_fields),
    *("causes." + key for key in CauseSettings.model_fields),
    *("expect." + key for key in ExpectSettings.model_fields),
    "report.images_per_filter",
    "report.thumbnail_px",
    "report.max_size_mb",
    "report.bands",
    "tracking.enabled",
    "tracking.uri",
    "tracking.experiment",
    "tracking.system_metrics",
    "tracking.pack_network",
    "tracking.register_model",
    "storage.root",
)


def leaves_of(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    return {k: v for key, part in data.items() for k, v in leaves_of(part, f"{prefix}.{key}".strip(".")).items()}


# Settings that came later: at their defaults, an audit is what it was before there were any.
_AT_DEFAULT = (
    *("model.weights_key", "model.weights_prefix", "model.precision", "model.head", "model.head_threshold"),
    *("words.language", "train.max_steps", "extract.precision"),
    *("reference.masks", "reference.crowd_marks", "reference.evaluation_share"),
    *("target.follow_links", "target.value_range", "reference.value_range"),
)


def test_identity_holds_every_setting_that_results_depend_on(tmp_path: Path) -> None:
    """All of them, but for those of this list; a new setting has to be put on one side or the other."""
    config = load_config(write(tmp_path, _SMALL_CONFIG))
    every, kept = leaves_of(config.model_dump(mode="json")), leaves_of(describe_identity(config))
    first_names = {".".join(new): ".".join(old) for old, new in RENAMED.items()}
    left_out = {*_WITHOUT_INFLUENCE, *_AT_DEFAULT}
    assert kept == {first_names.get(k, k): value for k, value in every.items() if k not in left_out}
    asked = load_config(write(tmp_path, _SMALL_CONFIG), ["model.weights_key=ema", "model.weights_prefix=net"])
    added = {"model.weights_key": ["ema"], "model.weights_prefix": "net"}
    assert leaves_of(describe_identity(asked)) == {**kept, **added}
    assert set(_WITHOUT_INFLUENCE) <= every.keys()
    assert {"seed", "device", "target.root", "model.arch", "statistics.quantile", "words.vectors"} <= kept.keys()


@pytest.mark.parametrize(
    "item",
    [
        "name=other",
        "model.weights=other.pth",
        "extract.decode_threads=7",
        "extract.shard_bytes=1000000",
        "statistics.scheduler=tcp://host:1",
        "statistics.num_workers=7",
        "diff.same_at=0.8",
        "report.thumbnail_px=64",
        "bias.groups=folder",
        "classes.enabled=false",
        "causes.fill=zero",
        "tracking.uri=http://host:5000",
        "storage.root=/else/where",
    ],
)
def test_audits_that_differ_in_this_are_comparable(item: str) -> None:
    assert describe_identity(load_config("demo", [item])) == describe_identity(load_config("demo"))


@pytest.mark.parametrize(
    "item",
    ["seed=1", "device=cpu", "model.layers=x", "model.preprocessing.fit=center_crop", "target.scenes=5",
     "reference.train_scenes=5", "words.vocabulary_size=50", "train.margin=2",
     "words.vocabulary=visual", "model.class_names=none", "model.head=sigmoid", "explain.top_images=3",
     "explainer.kind=learned", "explainer.open_share=0.5", "explain.ranking=frequency",
     "explain.false_discovery_rate=0.1", "explain.max_meanings=1", "evaluate.panel_at=[3]",
     "evaluate.baselines=[random_words]", "evaluate.baseline_images=50",
     "evaluate.min_iou=0.1", "statistics.quantile=0.99", "transfer.method=renormalise", "extract.batch_size=16",
     "extract.precision=bfloat16"],
)  # fmt: skip
def test_audits_that_differ_in_this_are_not(item: str) -> None:
    assert describe_identity(load_config("demo", [item])) != describe_identity(load_config("demo"))


def test_identity_leaves_the_config_as_it_is() -> None:
    config = load_config("demo")
    describe_identity(config)
    assert config == load_config("demo")


# ---------------------------------------------------------------- keys of before


def test_a_key_that_has_another_name_now_is_read_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = dump_config(load_config("demo")).replace("early_stopping_share: 0.1", "held_out_share: 0.3")
    (tmp_path / "old.yaml").write_text(text, "utf-8")
    logging.getLogger("lavise").propagate = True
    with caplog.at_level(logging.WARNING, "lavise"):
        found = load_config(tmp_path / "old.yaml")
    assert found == load_config("demo", ["train.early_stopping_share=0.3"])
    expected = "train.held_out_share is called train.early_stopping_share now; it is read all the same"
    assert [record.message.endswith(expected) for record in caplog.records] == [True]


def test_another_name_makes_no_audit_another_one() -> None:
    """Or re-audits would take every checkpoint for a new one."""
    found = describe_identity(load_config("demo", ["train.early_stopping_share=0.3"]))
    assert found["train"]["held_out_share"] == 0.3
    assert "early_stopping_share" not in found["train"]


def test_under_both_names_the_old_one_is_unknown() -> None:
    with pytest.raises(UserError, match=r"train\.held_out_share: unknown key"):
        load_config("demo", ["train.held_out_share=0.2", "train.early_stopping_share=0.3"])
