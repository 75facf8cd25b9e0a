"""`lavise init` on real files: what it finds, what it writes, and what it asks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision.models as models
from safetensors.torch import save_file
from torchvision.datasets import ImageFolder

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


def write_class_folders(root: Path, *names: str) -> None:
    for number, name in enumerate(names * 3):
        (root / name).mkdir(parents=True, exist_ok=True)
        write_image(root / name / f"{number}.png", 30, 30, number)


def test_the_target_teaches_no_words_where_there_are_labels(folder: Path, tmp_path: Path) -> None:
    """Its folders are days, and its name comes first in the alphabet."""
    shutil.rmtree(folder / "labelled")
    (folder / "pictures").rename(folder / "images")
    write_class_folders(folder / "images", "monday", "tuesday")
    write_class_folders(folder / "labelled", "dog", "grass")
    config = write_first_config(Named(folder), tmp_path / "a.yaml", force=False)
    assert (config.reference.root, config.target.root) == (folder / "labelled", folder / "images")  # type: ignore[union-attr]


def test_labels_that_cannot_be_read_are_not_passed_over(folder: Path, tmp_path: Path) -> None:
    """For a folder of pictures by day, or for the folders of the project itself."""
    write_class_folders(folder / "pictures", "monday", "tuesday")
    file = folder / "labelled" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text("utf-8"))
    del content["categories"]
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match=r"^--labels: found no labelled pictures in .*as coco: .*categories"):
        write_first_config(Named(folder), tmp_path / "a.yaml", force=False)
    assert not (tmp_path / "a.yaml").exists()


def test_one_folder_for_both_says_so(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "labelled")
    write_class_folders(folder / "pictures", "dog", "grass")
    out = tmp_path / "a.yaml"
    config = write_first_config(Named(folder), out, force=False)
    assert config.reference.root == config.target.root == folder / "pictures"  # type: ignore[union-attr]
    assert "the same folder as the target" in out.read_text("utf-8")


def test_a_relative_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    near = write_first_config(Named(Path()), tmp_path / "a.yaml", force=False)
    far = write_first_config(Named(folder), tmp_path / "b.yaml", force=False)
    assert near == far


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("n01440764", "n01443537", "n01484850"), ("tench", "goldfish", "great white shark")),
        (("cup_big", "cup2", "dog"), ("cup2", "cup big", "dog")),
    ],
)
def test_names_of_classes_are_in_the_order_of_the_folders(
    folder: Path, tmp_path: Path, folders: tuple[str, ...], names: tuple[str, ...]
) -> None:
    """As torchvision's ImageFolder numbers them, not in that of what they are called."""
    write_class_folders(tmp_path / "classes", *folders)
    assert ImageFolder(tmp_path / "classes").classes == sorted(folders)
    out = tmp_path / "a.yaml"
    write_first_config(Named(folder, labels=str(tmp_path / "classes")), out, force=False)
    out.write_text(out.read_text("utf-8").replace("# class_names:", "class_names:"), "utf-8")
    assert load_config(str(out)).model.class_names == names


def test_two_folders_of_one_name_are_no_names_of_classes(folder: Path, tmp_path: Path) -> None:
    """Both are cranes, and the network has an output for each."""
    write_class_folders(tmp_path / "classes", "n02012849", "n03126707", "dog")
    out = tmp_path / "a.yaml"
    write_first_config(Named(folder, labels=str(tmp_path / "classes")), out, force=False)
    assert "# class_names: [NAME, ...]" in out.read_text("utf-8")


def test_a_checkpoint_in_shards(folder: Path, tmp_path: Path) -> None:
    weights = torch.load(folder / "best.pth", weights_only=True)["state_dict"]
    (folder / "best.pth").unlink()
    shards, own = folder / "checkpoint-9", sorted(weights)
    place: dict[str, str] = {}
    shards.mkdir()
    for number, names in enumerate((own[:60], own[60:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in names}, shards / file)
        place |= dict.fromkeys(names, file)
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}), "utf-8")
    config = write_first_config(Named(folder), tmp_path / "a.yaml", force=False)
    assert (config.model.arch, config.model.weights) == ("torchvision:resnet18", str(index))
    with pytest.raises(UserError, match=r"^--weights: found 'model-00001-of-00002\.safetensors', one part of a check"):
        write_first_config(Named(folder, weights=str(shards / file.replace("2-of", "1-of"))), tmp_path / "b", False)
