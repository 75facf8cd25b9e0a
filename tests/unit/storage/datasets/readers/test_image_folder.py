from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lavise.configs.errors import UserError
from lavise.configs.schema import ImageFolderReference, ImageFolderTarget
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.formats import find_format, find_target_format
from lavise.storage.datasets.readers.image_folder import load_image_folder_reference, load_image_folder_target
from lavise.storage.images.picture_files import SYSTEM


def make_images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 5), (number % 256, 0, 0)).save(root / name)


def reference(root: Path, share: float = 0.2) -> ImageFolderReference:
    return ImageFolderReference(kind="image_folder", root=root, evaluation_share=share)


def test_folders_are_classes_and_the_mask_is_the_whole_picture(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    make_images(root, "dog/1.jpg", "dog/deep/er/2.png", "hot_dog/3.jpg", "cat/4.webp", "loose.jpg")
    (root / "dog" / "notes.txt").write_text("no picture")
    both = load_image_folder_reference(reference(root), seed=0)
    assert both.train.concepts == both.evaluation.concepts == ("cat", "dog", "hot dog")
    assert (both.train.name, both.evaluation.name) == ("pets/train", "pets/evaluation")
    found = {r.key: r.annotations[0].concept for part in (both.train, both.evaluation) for r in part.records}
    assert found == {"cat/4.webp": "cat", "dog/1.jpg": "dog", "dog/deep/er/2.png": "dog", "hot_dog/3.jpg": "hot dog"}
    for record in both.train.records:
        (only,) = record.annotations
        np.testing.assert_array_equal(only.make_mask(5, 9), np.ones((5, 9), dtype=bool))


def test_split_is_by_picture_and_follows_the_seed(tmp_path: Path) -> None:
    make_images(tmp_path, *(f"{c}/{i}.png" for c in ("a", "b") for i in range(10)))
    one, again, other = (load_image_folder_reference(reference(tmp_path, 0.25), seed) for seed in (1, 1, 2))
    train, evaluation = ([r.key for r in part.records] for part in (one.train, one.evaluation))
    assert len(train) == 15
    assert sorted([*train, *evaluation]) == sorted(f"{c}/{i}.png" for c in ("a", "b") for i in range(10))
    assert one == again
    assert one != other


def test_class_of_evaluation_pictures_only_is_still_a_concept(tmp_path: Path) -> None:
    make_images(tmp_path, "a/1.png", "b/2.png")
    both = load_image_folder_reference(reference(tmp_path, 0.5), 0)
    assert len(both.train.records) == len(both.evaluation.records) == 1
    assert both.train.concepts == both.evaluation.concepts == ("a", "b")


def test_reference_without_class_folders(tmp_path: Path) -> None:
    make_images(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(
        UserError, match=r"^reference\.root: no pictures in class folders below .*; allowed: ROOT/CLASS/pic"
    ):
        load_image_folder_reference(reference(tmp_path), 0)


def test_reference_of_one_picture(tmp_path: Path) -> None:
    make_images(tmp_path, "a/1.jpg")
    with pytest.raises(UserError, match=r"^reference: found 1 pictures; a split by picture needs at least 2$"):
        load_image_folder_reference(reference(tmp_path), 0)


@pytest.mark.parametrize("name", ["none", "file"])
def test_root_that_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=rf"^reference\.root: found '.*{name}', which is no folder"):
        load_image_folder_reference(reference(tmp_path / name), 0)
    with pytest.raises(
        UserError, match=rf"^target\.root: found '.*{name}', which is no folder; set it, .*target\.root=PA"
    ):
        load_image_folder_target(ImageFolderTarget(root=tmp_path / name))


def test_target_has_no_labels(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    make_images(root, "b/2.jpg", "a/1.png", "0.jpg")
    (root / "labels.csv").write_text("file,label\n0.jpg,dog\n")
    target = load_image_folder_target(ImageFolderTarget(root=root))
    assert target.name == "photos"
    assert [r.key for r in target.records] == ["0.jpg", "a/1.png", "b/2.jpg"]
    assert all(r.annotations == () and r.path == root / r.key for r in target.records)
    assert target.concepts == ()
    digest = target.compute_digest()
    (root / "labels.csv").write_text("file,label\n0.jpg,cat\n")
    assert load_image_folder_target(ImageFolderTarget(root=root)).compute_digest() == digest


def test_target_of_the_first_pictures(tmp_path: Path) -> None:
    make_images(tmp_path, *(f"{i}.png" for i in range(5)))
    target = load_image_folder_target(ImageFolderTarget(root=tmp_path, max_images=2))
    assert [r.key for r in target.records] == ["0.png", "1.png"]


def test_target_keeps_broken_pictures_for_whoever_decodes_them(tmp_path: Path) -> None:
    make_images(tmp_path, "0.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    assert len(load_image_folder_target(ImageFolderTarget(root=tmp_path)).records) == 2


def test_links_that_leave_the_folder_are_left_out(tmp_path: Path) -> None:
    make_images(tmp_path, "outside/secret.png", "root/a/1.png", "root/b/2.png")
    (tmp_path / "root" / "a" / "leak.png").symlink_to(tmp_path / "outside" / "secret.png")
    (tmp_path / "root" / "c").symlink_to(tmp_path / "outside")
    target = load_image_folder_target(ImageFolderTarget(root=tmp_path / "root"))
    assert [r.key for r in target.records] == ["a/1.png", "b/2.png"]
    assert load_image_folder_reference(reference(tmp_path / "root"), 0).train.concepts == ("a", "b")


def test_empty_target(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(
        UserError, match=r"^target\.root: no pictures below .* \(1 x file with the ending \.txt\); allowed: \.apng, "
    ):
        load_image_folder_target(ImageFolderTarget(root=tmp_path))


# Folders as people have them


def classes(both: Reference) -> dict[str, str]:
    return {r.key: r.annotations[0].concept for part in (both.train, both.evaluation) for r in part.records}


@pytest.mark.parametrize(
    ("train", "other"), [("train", "val"), ("Train", "VALID"), ("train", "validation"), ("train", "test")]
)
def test_folders_of_parts_are_the_parts(tmp_path: Path, train: str, other: str) -> None:
    make_images(tmp_path, *(f"{train}/{c}/{i}.png" for c in ("dog", "cat") for i in range(4)), f"{other}/dog/9.png")
    both = load_image_folder_reference(reference(tmp_path, 0.5), 0)
    assert both.train.concepts == both.evaluation.concepts == ("cat", "dog")
    assert [r.key for r in both.evaluation.records] == [f"{other}/dog/9.png"]
    assert len(both.train.records) == 8
    assert any("the parts are the folders of root: train to train on" in note for note in both.train.notes)


def test_of_three_parts_the_one_for_validation_is_evaluated_on(tmp_path: Path) -> None:
    make_images(tmp_path, "train/dog/1.png", "val/dog/2.png", "test/dog/3.png", "test/4.png", "5.png")
    both = load_image_folder_reference(reference(tmp_path), 0)
    assert classes(both) == {"train/dog/1.png": "dog", "val/dog/2.png": "dog"}
    assert both.train.left_out == {
        "picture in no class folder": 2,
        "picture of the folder test, beside one for validation": 1,
    }


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_single_part_is_split(tmp_path: Path, part: str) -> None:
    make_images(tmp_path, *(f"{part}/{c}/{i}.png" for c in ("dog", "cat") for i in range(5)))
    both = load_image_folder_reference(reference(tmp_path, 0.2), 0)
    assert set(classes(both).values()) == {"dog", "cat"}
    assert (len(both.train.records), len(both.evaluation.records)) == (8, 2)


def test_classes_that_are_called_like_parts(tmp_path: Path) -> None:
    """Beside other folders, or alone with pictures in it, `train` is a class of vehicles."""
    make_images(tmp_path, "many/train/1.png", "many/bus/2.png", "one/train/1.png", "one/train/2.png")
    assert set(classes(load_image_folder_reference(reference(tmp_path / "many"), 0)).values()) == {"train", "bus"}
    assert set(classes(load_image_folder_reference(reference(tmp_path / "one"), 0)).values()) == {"train"}


def test_parts_without_class_folders(tmp_path: Path) -> None:
    make_images(tmp_path, "train/1.png", "val/2.png")
    with pytest.raises(UserError, match=r"^reference\.root: no pictures in class folders below the folders train, val"):
        load_image_folder_reference(reference(tmp_path), 0)


def test_a_file_in_both_parts(tmp_path: Path) -> None:
    make_images(tmp_path, "train/dog/1.png", "train/dog/2.png", "val/dog/3.png")
    (tmp_path / "val" / "dog" / "again.png").symlink_to(tmp_path / "train" / "dog" / "1.png")
    with pytest.raises(
        UserError, match=r"1 pictures are in both parts, for example train/dog/1\.png and val/dog/again"
    ):
        load_image_folder_reference(reference(tmp_path), 0)


def test_nested_folders(tmp_path: Path) -> None:
    make_images(tmp_path, "animal/dog/1.png", "animal/big_cat/2.png", "plant/3.png")

    def read(class_from: Literal["first", "last", "path"] | None) -> tuple[set[str], tuple[str, ...]]:
        settings = ImageFolderReference(kind="image_folder", root=tmp_path, class_from=class_from)
        both = load_image_folder_reference(settings, 0)
        return set(classes(both).values()), both.train.notes

    assert read("first") == ({"animal", "plant"}, ())
    assert read("last") == ({"dog", "big cat", "plant"}, ())
    assert read("path") == ({"animal dog", "animal big cat", "plant"}, ())
    found, (note,) = read(None)
    assert found == {"animal", "plant"}
    assert note.startswith(
        "2 of 3 pictures lie deeper than one folder: the class is the first ('animal', not 'big_cat')"
    )
    assert "reference.class_from" in note


def test_numbers_of_imagenet_get_names(tmp_path: Path) -> None:
    """Two classes called crane, a bird and a machine, are one category: a category is a word."""
    make_images(
        tmp_path,
        *("train/n01440764/1.png", "train/n02012849/2.png", "train/n03126707/3.png", "train/n99999999/4.png"),
        *("train/n0144076/5.png", "val/n01484850/6.png"),
    )
    both = load_image_folder_reference(reference(tmp_path), 0)
    assert both.train.concepts == ("crane", "great white shark", "n0144076", "n99999999", "tench")
    named, shared, unknown, parts = both.train.notes
    assert named == "4 folders are ImageNet's numbers and got WordNet's names: n01440764 is 'tench'"
    assert shared.startswith("1 categories are several of ImageNet's classes that have one name")
    assert shared.endswith(": n02012849 and n03126707 are 'crane'")
    assert unknown.startswith(
        "1 folders look like ImageNet's numbers, but WordNet 3.0 has no such noun, for example n999"
    )
    assert parts.startswith("the parts are")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    make_images(tmp_path, "dog/1.jpg", "dog/2.jpg", "__MACOSX/dog/._1.jpg", "dog/.ipynb_checkpoints/3.png", "loose.jpg")
    (tmp_path / "dog" / "a.heic").write_bytes(b"x")
    both = load_image_folder_reference(reference(tmp_path), 0)
    assert both.train.left_out == {SYSTEM: 2, "file with the ending .heic": 1, "picture in no class folder": 1}
    assert load_image_folder_target(ImageFolderTarget(root=tmp_path)).left_out == {
        SYSTEM: 2,
        "file with the ending .heic": 1,
    }


def test_nothing_but_links_that_lead_out(tmp_path: Path) -> None:
    make_images(tmp_path, "store/1.png", "store/2.png")
    root = tmp_path / "root"
    (root / "dog").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        (root / "dog" / name).symlink_to(tmp_path / "store" / name)
    with pytest.raises(UserError, match=r"2 x link that leads out of .*; set target\.follow_links=true"):
        load_image_folder_target(ImageFolderTarget(root=root))
    with pytest.raises(UserError, match=r"2 x link that leads out of .*; set reference\.follow_links=true"):
        load_image_folder_reference(reference(root), 0)
    followed = ImageFolderReference(kind="image_folder", root=root, follow_links=True)
    assert classes(load_image_folder_reference(followed, 0)) == {"dog/1.png": "dog", "dog/2.png": "dog"}
    target = load_image_folder_target(ImageFolderTarget(root=root, follow_links=True))
    assert [r.key for r in target.records] == ["dog/1.png", "dog/2.png"]


def test_range_of_values_is_part_of_the_pictures_digest(tmp_path: Path) -> None:
    make_images(tmp_path, "dog/1.png", "dog/2.png")
    plain, ranged = (
        find_target_format("image_folder").read(ImageFolderTarget(root=tmp_path, value_range=r))
        for r in (None, (0, 4095))
    )
    assert {r.value_range for r in ranged.records} == {(0.0, 4095.0)}
    assert plain.digest_images() != ranged.digest_images()
    settings = ImageFolderReference(kind="image_folder", root=tmp_path, value_range=(0, 4095))
    train = find_format("image_folder").read(settings, 0).train
    assert {r.value_range for r in train.without_labels().records} == {(0, 4095)}


@pytest.mark.parametrize("value_range", [(5, 5), (9, 1), (0, float("inf")), (float("nan"), 1), (1,)])
def test_ranges_that_are_none(value_range: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        ImageFolderTarget(root=Path("x"), value_range=value_range)
