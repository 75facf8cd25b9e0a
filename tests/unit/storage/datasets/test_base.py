from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import (
    Annotation,
    Dataset,
    ImageRecord,
    require_file,
    require_folder,
    resolve_inside,
    split_by_image,
)


def encode(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    return dict(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))


def make_records(num: int) -> list[ImageRecord]:
    return [ImageRecord(f"{i}.jpg", Path(f"{i}.jpg")) for i in range(num)]


# Masks


def test_mask_of_run_lengths() -> None:
    mask = np.random.default_rng(0).random((5, 9)) < 0.4
    made = Annotation("cat", rle=encode(mask)).make_mask(5, 9)
    assert made.dtype == bool
    np.testing.assert_array_equal(made, mask)


def test_empty_mask_of_run_lengths() -> None:
    assert not Annotation("cat", rle=encode(np.zeros((5, 9), dtype=bool))).make_mask(5, 9).any()


def test_run_lengths_of_a_picture_of_another_size() -> None:
    annotation = Annotation("cat", rle=encode(np.ones((5, 9), dtype=bool)))
    with pytest.raises(ValueError, match=r"mask is for \(5, 9\), picture is \(9, 5\) \(height, width\)"):
        annotation.make_mask(9, 5)


def test_mask_of_boxes_by_hand() -> None:
    # x, y, width, height: columns 1 to 3 of rows 0 and 1; and one pixel below.
    made = Annotation("cat", boxes=((1, 0, 3, 2), (0, 3, 1, 1))).make_mask(4, 6)
    assert made.astype(int).tolist() == [
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
    ]


def test_boxes_are_united_vs_brute_force() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        boxes = [tuple(float(v) for v in rng.integers(-4, 9, 4)) for _ in range(3)]
        expected = [
            [any(x <= column < x + w and y <= row < y + h for x, y, w, h in boxes) for column in range(8)]
            for row in range(5)
        ]
        made = Annotation("cat", boxes=tuple(boxes)).make_mask(5, 8)  # type: ignore[arg-type]
        assert made.tolist() == expected


@pytest.mark.parametrize("box", [(-5, -5, 3, 3), (6, 0, 3, 3), (0, 4, 3, 3), (2, 2, 0, 3), (2, 2, -1, 3)])
def test_box_outside_of_the_picture_is_empty(box: tuple[float, float, float, float]) -> None:
    assert not Annotation("cat", boxes=(box,)).make_mask(4, 6).any()


@pytest.mark.parametrize("start", [0.0, 0.4, 0.5, 1.0, 1.5, 2.5, 3.5])
@pytest.mark.parametrize("side", [1.0, 2.0])
def test_box_of_whole_pixels_covers_as_many_wherever_it_lies(start: float, side: float) -> None:
    made = Annotation("cat", boxes=((start, start, side, side),)).make_mask(8, 8)
    assert made.sum() == side**2


def test_whole_picture() -> None:
    made = Annotation("cat").make_mask(3, 5)
    assert made.shape == (3, 5)
    assert made.all()


# Data sets


def dataset(folder: Path, **changes: Any) -> Dataset:
    for name in ("a.jpg", "b.jpg"):
        if not (folder / name).exists():
            (folder / name).write_bytes(name.encode())
    mask = np.eye(4, dtype=bool)
    records = (
        ImageRecord("a.jpg", folder / "a.jpg", (Annotation("cat", rle=encode(mask)), Annotation("cat"))),
        ImageRecord("b.jpg", folder / "b.jpg", (Annotation("cat"), Annotation("dog", boxes=((1, 2, 3, 4),)))),
    )
    return Dataset(**{"name": "x", "records": records, "concepts": ("cat", "dog", "fox"), **changes})


def test_counts_by_hand(tmp_path: Path) -> None:
    pets = dataset(tmp_path)
    assert pets.count_images_with() == {"cat": 2, "dog": 1}


def test_without_labels(tmp_path: Path) -> None:
    bare = dataset(tmp_path).without_labels()
    assert [r.key for r in bare.records] == ["a.jpg", "b.jpg"]
    assert all(r.annotations == () for r in bare.records)
    assert bare.concepts == ()
    assert bare.count_images_with() == {}


def test_digest_follows_pictures_and_pairs_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    base = dataset(tmp_path / "one")
    digest = base.compute_digest()
    assert dataset(tmp_path / "one", name="other").compute_digest() == digest
    assert dataset(tmp_path / "two").compute_digest() == digest
    first, second = base.records
    annotation = Annotation("dog", boxes=((1, 2, 3, 5),))
    changed = [
        dataset(tmp_path / "one", concepts=("cat", "dog")),
        dataset(tmp_path / "one", records=(second, first)),
        dataset(tmp_path / "one", records=(first,)),
        dataset(tmp_path / "one", records=(first, ImageRecord("b.jpg", second.path, (Annotation("cat"), annotation)))),
        dataset(tmp_path / "one", records=(first, ImageRecord("c.jpg", second.path, second.annotations))),
        base.without_labels(),
    ]
    assert len({digest, *(d.compute_digest() for d in changed)}) == 7
    (tmp_path / "one" / "b.jpg").write_bytes(b"B.jpg")
    assert base.compute_digest() != digest


def test_digest_does_not_depend_on_whether_run_lengths_are_text_or_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    rle = encode(np.eye(4, dtype=bool))
    digests = {
        Dataset(
            "x", (ImageRecord("a.jpg", tmp_path / "a.jpg", (Annotation("cat", rle={**rle, "counts": counts}),)),)
        ).compute_digest()
        for counts in (rle["counts"], rle["counts"].decode("ascii"))
    }
    assert len(digests) == 1


# Splits


@pytest.mark.parametrize(
    ("num", "share", "expected"), [(2, 0.5, 1), (2, 0.01, 1), (2, 0.99, 1), (10, 0.2, 2), (7, 0.5, 4), (100, 0.999, 99)]
)
def test_split_sizes(num: int, share: float, expected: int) -> None:
    rest, chosen = split_by_image(make_records(num), share, 0)
    assert (len(rest), len(chosen)) == (num - expected, expected)


def test_split_has_every_picture_once_in_the_given_order() -> None:
    records = make_records(50)
    rest, chosen = split_by_image(records, 0.3, 7)
    assert sorted(rest + chosen, key=records.index) == records
    assert not set(rest) & set(chosen)
    for part in (rest, chosen):
        assert part == sorted(part, key=records.index)


def test_split_follows_the_seed() -> None:
    records = make_records(50)
    assert split_by_image(records, 0.3, 7) == split_by_image(records, 0.3, 7)
    assert split_by_image(records, 0.3, 7) != split_by_image(records, 0.3, 8)


@pytest.mark.parametrize("num", [0, 1])
def test_too_few_pictures_to_split(num: int) -> None:
    with pytest.raises(UserError, match=rf"^reference: found {num} pictures; a split by picture needs at least 2$"):
        split_by_image(make_records(num), 0.5, 0)


# Names


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "./a.jpg", "sub/../a.jpg", "..a.jpg", "ü b.jpg", "inner/a.jpg"])
def test_names_below_the_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "inner").symlink_to(root / "sub")
    assert resolve_inside(root, name) == root / name


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg",
        "sub/../../secret.jpg",
        "/etc/passwd",
        "link.jpg",
        "linked/secret.jpg",
        "a\0.jpg",
        "../root2/a.jpg",
    ],
)
def test_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "linked").symlink_to(tmp_path)
    with pytest.raises(
        UserError, match=r"^data set: file name .* leads out of .*root; allowed: names below that folder$"
    ):
        resolve_inside(root, name)


def test_link_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(UserError, match=r"loop\.jpg"):
        resolve_inside(tmp_path, "loop.jpg")


def test_root_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert resolve_inside(tmp_path / "root", "a.jpg") == tmp_path / "root" / "a.jpg"


def test_required_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert require_folder(tmp_path, "a.b") == tmp_path
    assert require_file(tmp_path / "file", "a.b") == tmp_path / "file"
    with pytest.raises(
        UserError, match=r"^a\.b: found '.*file', which is no folder; set it, for example with --set a\.b=P"
    ):
        require_folder(tmp_path / "file", "a.b")
    with pytest.raises(
        UserError, match=r"^a\.b: found '.*none', which is no file; set it, for example with --set a\.b=PA"
    ):
        require_file(tmp_path / "none", "a.b")
