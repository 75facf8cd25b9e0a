from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.schema import ImageFolderReference, ImageFolderTarget
from lavise.storage.datasets.image_folder import load_image_folder_reference, load_image_folder_target


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
    with pytest.raises(UserError, match=r"^target\.root: no pictures below .*; allowed: \.bmp, \.gif, \.jpeg, \.jpg, "):
        load_image_folder_target(ImageFolderTarget(root=tmp_path))
