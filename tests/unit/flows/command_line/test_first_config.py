"""`lavise init` on real files: what it finds, what it writes, and what it asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision.models as models

from lavise.configs.errors import CheckpointError, UserError
from lavise.configs.loading import load_config
from lavise.flows.command_line.first_config import Named, write_first_config
from tests.unit.storage.datasets.test_recognised_layouts import write_classes, write_coco, write_devkit
from tests.unit.tasks.helpers import write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, labelled pictures and others, as they may lie in a project's folder."""
    root = tmp_path / "my project"
    (root / "pictures").mkdir(parents=True)
    write_image(root / "pictures" / "a.png", 30, 30)
    write_coco(root / "labelled")
    state = models.resnet18(num_classes=3).state_dict()
    torch.save({"arch": "resnet18", "state_dict": state, "epoch": 1}, root / "best.pth")
    return root


def test_all_is_found(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "lavise.yaml"
    config = write_first_config(Named(folder), out, force=False)
    assert load_config(str(out)) == config
    assert config.name == "my-project"
    assert (config.model.arch, config.model.num_classes) == ("torchvision:resnet18", 3)
    assert config.model.weights == str(folder / "best.pth")
    assert config.reference.kind == "coco"
    assert config.reference.root == folder / "labelled"
    assert config.target.kind == "image_folder"
    assert config.target.root == folder / "pictures"
    text = out.read_text("utf-8")
    assert "recognised by its tensors" in text
    assert "fits timm:resnet18 as well" in text
    assert "1 pictures to train on, 1 to evaluate on" in text


def test_what_a_file_of_weights_does_not_say_can_be_filled_in(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "lavise.yaml"
    written = write_first_config(Named(folder), out, force=False)
    filled = (
        out.read_text("utf-8")
        .replace("# preprocessing: {size_px: 224", "preprocessing: {size_px: 96")
        .replace("# class_names: [NAME, ...]  # of its 3 outputs", "class_names: [cat, dog, cow]  # of its 3 outputs")
    )
    out.write_text(filled, "utf-8")
    model = load_config(str(out)).model
    assert (model.preprocessing.size_px, model.class_names) == (96, ("cat", "dog", "cow"))
    assert (model.preprocessing.mean, model.preprocessing.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert written.model.preprocessing.mean is None


def test_folders_as_many_as_the_network_has_classes_may_be_its_own(folder: Path, tmp_path: Path) -> None:
    write_classes(tmp_path / "classes")
    names = sorted(path.name for path in (tmp_path / "classes").iterdir())
    torch.save(models.resnet18(num_classes=len(names)).state_dict(), folder / "best.pth")
    out = tmp_path / "a.yaml"
    write_first_config(Named(folder, labels=str(tmp_path / "classes")), out, force=False)
    out.write_text(out.read_text("utf-8").replace("# class_names:", "class_names:"), "utf-8")
    assert load_config(str(out)).model.class_names == tuple(names)


def test_what_is_named_is_taken(folder: Path, tmp_path: Path) -> None:
    write_classes(tmp_path / "classes")
    named = Named(folder, "random", "resnet18", str(tmp_path / "classes"), folder / "labelled" / "train2017", "night")
    config = write_first_config(named, tmp_path / "a.yaml", force=False)
    assert (config.name, config.model.arch, config.model.weights) == ("night", "resnet18", "random")
    assert config.reference.kind == "image_folder"
    assert config.target.kind == "image_folder"
    assert config.target.root == folder / "labelled" / "train2017"


def test_a_devkit_below_the_folder_that_is_named(folder: Path, tmp_path: Path) -> None:
    write_devkit(tmp_path / "sets")
    out = tmp_path / "a.yaml"
    config = write_first_config(Named(folder, labels=str(tmp_path / "sets")), out, force=False)
    assert config.reference.kind == "pascal_voc"
    assert config.reference.root == tmp_path / "sets" / "VOCdevkit" / "VOC2012"


def test_a_checkpoint_with_a_name_like_markup(folder: Path, tmp_path: Path) -> None:
    odd = folder / "a[red][b].pth"
    (folder / "best.pth").rename(odd)
    config = write_first_config(Named(folder, labels="openmoji"), tmp_path / "a.yaml", force=False)
    assert config.model.weights == str(odd)


def test_drawn_scenes_instead_of_labels(folder: Path, tmp_path: Path) -> None:
    config = write_first_config(Named(folder, labels="openmoji"), tmp_path / "a.yaml", force=False)
    assert config.reference.kind == "openmoji"


def test_a_file_that_is_there_stays(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.yaml"
    out.write_text("mine", "utf-8")
    with pytest.raises(UserError, match="is there already; name another file, or write over it with --force"):
        write_first_config(Named(folder), out, force=False)
    assert out.read_text("utf-8") == "mine"
    write_first_config(Named(folder, labels="openmoji"), out, force=True)
    assert load_config(str(out)).name == "my-project"


def test_several_checkpoints(folder: Path, tmp_path: Path) -> None:
    (folder / "last.pth").write_bytes((folder / "best.pth").read_bytes())
    out = tmp_path / "a.yaml"
    with pytest.raises(UserError, match=r"--weights: found 2 checkpoints in .* \(best.pth, last.pth\); name the file"):
        write_first_config(Named(folder), out, force=False)
    assert not out.exists()


@pytest.mark.slow
def test_an_unknown_network(folder: Path, tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(3, 4, 3).state_dict(), folder / "best.pth")
    with pytest.raises(UserError, match=r"--arch: the tensors of .* are those of none of the architectures"):
        write_first_config(Named(folder), tmp_path / "a.yaml", force=False)


def test_no_checkpoint_at_all(folder: Path, tmp_path: Path) -> None:
    (folder / "best.pth").write_text("text", "utf-8")
    with pytest.raises(CheckpointError):
        write_first_config(Named(folder), tmp_path / "a.yaml", force=False)


def test_labels_that_cannot_be_read_say_why(folder: Path, tmp_path: Path) -> None:
    file = folder / "labelled" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text("utf-8"))
    del content["categories"]
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match=r"--labels: found no labelled pictures in .*as coco: .*categories"):
        write_first_config(Named(folder, labels=str(folder / "labelled")), tmp_path / "a.yaml", force=False)


def test_pictures_that_are_none(folder: Path, tmp_path: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"--pictures: found .*; allowed: a folder with pictures in it or below it"):
        write_first_config(Named(folder, pictures=folder / "empty"), tmp_path / "a.yaml", force=False)


def test_a_hostile_name_stays_in_its_line(folder: Path, tmp_path: Path) -> None:
    """A comment that ended would make the rest of a name settings."""
    odd = tmp_path / "a\nseed: 7"
    (folder / "labelled").rename(odd)
    out = tmp_path / "a.yaml"
    write_first_config(Named(folder, labels=str(odd)), out, force=False)
    assert load_config(str(out)).seed == 0
    assert load_config(str(out)).reference.root == odd  # type: ignore[union-attr]
