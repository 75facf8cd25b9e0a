from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from lavise.configs.base import Settings, UserPath
from lavise.configs.loading import load_config
from lavise.configs.schema import ModelSettings, WordSettings
from lavise.flows.doctor import inputs
from lavise.flows.shared.inputs import open_target
from lavise.storage.datasets import formats
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.progress import no_progress
from lavise.tasks.engine.stage import StageRunner
from tests.unit.flows.doctor.helpers import look, look_all, make_config, states


def test_word_vectors(tmp_path: Path) -> None:
    file = tmp_path / "small.txt"
    file.write_text("dog 1 2 3\ncat 4 5 6\n")
    (tmp_path / "list.txt").write_text("dog\n")
    good = WordSettings(vectors=str(file), format="glove_text", vocabulary_file=tmp_path / "list.txt")
    check = look(partial(inputs.check_word_vectors, good))
    assert (check.status, check.found) == ("ok", f"{file}: 2 words of 3 numbers, first 'dog'; 1 words listed")
    file.write_text("<!DOCTYPE html>\n")
    assert look(partial(inputs.check_word_vectors, good)).status == "failed"
    absent = look(partial(inputs.check_word_vectors, WordSettings(vectors=str(tmp_path / "absent.kv"))))
    assert (absent.status, "which is no file" in absent.found) == ("failed", True)


def test_large_word_vectors_are_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "large.txt"
    with file.open("wb") as sparse:
        sparse.truncate(600 * 10**6)
    check = look(partial(inputs.check_word_vectors, WordSettings(vectors=str(file))))
    assert (check.status, check.found) == ("ok", f"{file}: 600 MB, not read through")


def test_demo_without_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a scene was drawn" in look(inputs.check_demo).found
    monkeypatch.setattr(inputs, "DEMO_WEIGHTS", "package:no-such-package-of-anyone")
    check = look(inputs.check_demo)
    assert (check.status, "is not installed" in check.found) == ("failed", True)


def test_target_model_and_layers() -> None:
    config = make_config(model=ModelSettings(arch="torchvision:squeezenet1_1", layers=("features.3", "features.12")))
    check = look(partial(inputs.check_model, config))
    assert check.status == "ok"
    assert check.found.startswith("torchvision:squeezenet1_1, weights random; features.3: 128 filters of ")
    assert "; features.12: 512 filters of 13 x 13; input 224 x 224 px, squashed, mean 0.485, 0.456, " in check.found


def test_pretrained_weights_are_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    config = make_config(model=ModelSettings(arch="torchvision:squeezenet1_1", weights="pretrained"))
    assert "fetched by the run" in look(partial(inputs.check_model, config)).found
    assert not (tmp_path / "hub").exists()


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    weights = str(tmp_path / "absent.pth")
    config = make_config(model=ModelSettings(arch="torchvision:squeezenet1_1", weights=weights))
    check = look(partial(inputs.check_model, config))
    assert (check.status, check.found) == ("failed", f"model.weights: found {weights!r}, which is no file")


def test_data_of_a_missing_root_is_one_fault(tmp_path: Path) -> None:
    config = load_config("coco-mini", [f"reference.root={tmp_path / 'absent'}", f"target.root={tmp_path}"])
    checks = look_all(partial(inputs.check_data, config))
    assert states(checks) == {"reference": "failed", "target": "failed"}
    assert checks["reference"].found == f"reference.root: '{tmp_path / 'absent'}' is no folder"
    assert checks["target"].found == f"target.root: no pictures below '{tmp_path}'"


def test_data_in_the_coco_layout(tmp_path: Path) -> None:
    for name in ("train2017", "val2017", "annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "val2017" / "a.PNG")
    config = load_config("coco-mini", [f"reference.root={tmp_path}", f"target.root={tmp_path / 'val2017'}"])
    checks = look_all(partial(inputs.check_data, config))
    assert states(checks) == {"reference": "failed", "target": "ok"}
    absent = tmp_path / "annotations" / "instances_val2017.json"
    assert checks["reference"].found == f"reference.evaluation_annotations: {absent} not there"
    assert checks["reference"].advice.endswith("`--set reference.evaluation_annotations=PATH`")
    absent.write_text("{}")
    assert states(look_all(partial(inputs.check_data, config))) == {"reference": "ok", "target": "ok"}


def test_data_in_archives_and_tables(tmp_path: Path) -> None:
    config = load_config(
        "demo",
        [
            f"reference={{kind: huggingface, root: {tmp_path}}}",
            f"target={{kind: webdataset, root: {tmp_path}, shards: 'a-{{0..1}}.tar'}}",
        ],
    )
    (tmp_path / "a-0.tar").touch()
    checks = look_all(partial(inputs.check_data, config))
    assert states(checks) == {"reference": "failed", "target": "failed"}
    assert checks["reference"].found == f"reference.root: {tmp_path / 'state.json'} not there"
    assert checks["target"].found == f"target.shards: {tmp_path / 'a-{0..1}.tar'} not there"
    (tmp_path / "a-1.tar").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").touch()
    assert states(look_all(partial(inputs.check_data, config))) == {"reference": "ok", "target": "ok"}


def test_data_in_the_visual_genome_layout(tmp_path: Path) -> None:
    config = load_config("vg-resnet50", [f"reference.root={tmp_path}"])
    (tmp_path / "VG_100K").mkdir()
    found = look_all(partial(inputs.check_data, config))["reference"].found
    assert found == (
        f"reference.objects: {tmp_path}/objects.json not there; reference.image_folders: {tmp_path}/VG_100K_2 not there"
    )


class ListTarget(Settings):
    """Pictures that a file names."""

    kind: Literal["list"] = "list"
    root: UserPath
    file: str = "list.txt"


def read_list(settings: ListTarget) -> Dataset:
    names = (settings.root / settings.file).read_text("utf-8").split()
    return Dataset("list", tuple(ImageRecord(name, settings.root / name) for name in names), ())


def test_a_target_format_is_one_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides its settings: it is read by the audit, and its files are looked for."""
    monkeypatch.setattr(formats, "_TARGET_FORMATS", dict(formats._TARGET_FORMATS))
    formats.register_target_format("list", formats.TargetFormat(read_list, lambda settings: {"file": [settings.file]}))
    config = make_config().model_copy(update={"target": ListTarget(root=tmp_path)})
    check = look_all(partial(inputs.check_data, config))["target"]
    assert (check.status, check.found) == ("failed", f"target.file: {tmp_path / 'list.txt'} not there")
    (tmp_path / "list.txt").write_text("b.png a.png")
    assert look_all(partial(inputs.check_data, config))["target"].status == "ok"
    runner = StageRunner(ArtefactStore(tmp_path / "state"))
    assert [r.key for r in open_target(config, runner, no_progress).records] == ["b.png", "a.png"]


def test_patterns_are_drawn_by_the_run() -> None:
    checks = look_all(partial(inputs.check_data, load_config("low-layers")))
    assert {name: check.found for name, check in checks.items()} == dict.fromkeys(
        ("reference", "target"), "patterns, drawn by the run"
    )
