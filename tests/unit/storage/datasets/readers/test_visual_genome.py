"""Real Visual Genome folders: objects.json and the pictures in VG_100K and VG_100K_2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.schema import VisualGenomeReference
from lavise.storage.datasets.base import ImageRecord
from lavise.storage.datasets.readers.visual_genome import load_visual_genome_reference

H, W = 12, 18


def thing(synset: str | None, box: tuple[float, float, float, float] = (1, 2, 5, 4), number: int = 0) -> dict[str, Any]:
    """One object as in objects.json."""
    x, y, w, h = box
    name = synset.split(".")[0] if synset else "stuff"
    synsets = [synset] if synset else []
    return {
        "object_id": number,
        "x": x,
        "y": y,
        "w": w,
        "h": h,
        "names": [name],
        "synsets": synsets,
        "merged_object_ids": [],
    }


def write(root: Path, objects: dict[int, list[Any]], without_image: tuple[int, ...] = ()) -> None:
    """Pictures with odd ids in VG_100K, with even ids in VG_100K_2."""
    for folder in ("VG_100K", "VG_100K_2"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in objects:
        if number not in without_image:
            Image.new("RGB", (W, H)).save(root / ("VG_100K" if number % 2 else "VG_100K_2") / f"{number}.jpg")
    entries = [{"image_id": n, "image_url": f"https://x/{n}.jpg", "objects": things} for n, things in objects.items()]
    (root / "objects.json").write_text(json.dumps(entries))


def settings(root: Path, **changes: Any) -> VisualGenomeReference:
    return VisualGenomeReference.model_validate({"kind": "visual_genome", "root": root, "min_images": 1, **changes})


def load_all(root: Path, **changes: Any) -> dict[str, ImageRecord]:
    """All pictures of both parts, by key."""
    both = load_visual_genome_reference(settings(root, **changes), seed=0)
    return {r.key: r for part in (both.train, both.evaluation) for r in part.records}


def test_boxes_categories_and_folders(tmp_path: Path) -> None:
    everywhere = [thing("tree.n.01", (0, 0, 3, 2)), thing("fire_hydrant.n.01", (4, 5, 2, 3))]
    write(tmp_path, dict.fromkeys(range(1, 7), everywhere))
    records = load_all(tmp_path)
    assert sorted(records) == [f"VG_100K/{n}.jpg" for n in (1, 3, 5)] + [f"VG_100K_2/{n}.jpg" for n in (2, 4, 6)]
    for record in records.values():
        assert record.file.is_file()
        hydrant, tree = record.annotations
        assert (hydrant.concept, tree.concept) == ("fire hydrant", "tree")
        expected = np.zeros((H, W), dtype=bool)
        expected[5:8, 4:6] = True
        np.testing.assert_array_equal(hydrant.make_mask(H, W), expected)


def test_one_category_in_one_picture_is_one_mask(tmp_path: Path) -> None:
    """Two boxes of one synset, and one of another synset with the same lemma."""
    things = [thing("bat.n.01", (0, 0, 2, 2)), thing("bat.n.01", (1, 1, 3, 3)), thing("bat.n.05", (10, 8, 4, 4))]
    write(tmp_path, {1: things, 2: things})
    for record in load_all(tmp_path).values():
        (bat,) = record.annotations
        expected = np.zeros((H, W), dtype=bool)
        for x, y, w, h in ((0, 0, 2, 2), (1, 1, 3, 3), (10, 8, 4, 4)):
            expected[y : y + h, x : x + w] = True
        np.testing.assert_array_equal(bat.make_mask(H, W), expected)


def test_boxes_beyond_the_border_are_cut(tmp_path: Path) -> None:
    things = [thing("sky.n.01", (-3, -2, 10, 5)), thing("sea.n.01", (12, 9, 100, 100))]
    write(tmp_path, {1: things, 2: things})
    for record in load_all(tmp_path).values():
        sea, sky = (a.make_mask(H, W) for a in record.annotations)
        assert sky.sum() == 7 * 3
        assert sea.sum() == (W - 12) * (H - 9)


@pytest.mark.parametrize(
    ("synset", "name"),
    [("tree.n.01", "tree"), ("fire_hydrant.n.01", "fire hydrant"), ("st._bernard.n.01", "st. bernard"), ("a", "a")],
)
def test_name_of_a_synset(tmp_path: Path, synset: str, name: str) -> None:
    write(tmp_path, {1: [thing(synset)], 2: [thing(synset)]})
    both = load_visual_genome_reference(settings(tmp_path), 0)
    assert both.train.concepts == both.evaluation.concepts == (name,)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    things = [thing("tree.n.01"), thing(None), thing("dot.n.01", (3, 3, 0, 5)), thing("line.n.01", (3, 3, 5, 0.5))]
    write(tmp_path, {1: things, 2: things, 3: things}, without_image=(3,))
    both = load_visual_genome_reference(settings(tmp_path), 0)
    assert both.train.concepts == ("tree",)
    assert both.train.skipped == {
        "object without a synset": 3,
        "object with an empty box": 6,
        "image without a file": 1,
    }


def test_rare_categories_are_counted_in_training_pictures_only(tmp_path: Path) -> None:
    """Vs. a slow count: a category stays if at least so many training pictures have it, once each."""
    rng = np.random.default_rng(0)
    names = [f"w{i}.n.01" for i in range(6)]
    objects = {
        n: [thing(name) for i, name in enumerate(names) for _ in range(2) if rng.random() < (i + 1) / 8]
        for n in range(1, 41)
    }
    write(tmp_path, objects)
    min_images = 10
    both = load_visual_genome_reference(settings(tmp_path, min_images=min_images, evaluation_share=0.25), 3)
    assert (len(both.train.records), len(both.evaluation.records)) == (30, 10)

    def images_with(name: str) -> int:
        train_ids = [int(Path(r.key).stem) for r in both.train.records]
        return sum(any(t["synsets"] == [name] for t in objects[n]) for n in train_ids)

    expected = [name.split(".")[0] for name in names if images_with(name) >= min_images]
    assert 0 < len(expected) < 6
    assert list(both.train.concepts) == list(both.evaluation.concepts) == sorted(expected)
    for part in (both.train, both.evaluation):
        assert {a.concept for r in part.records for a in r.annotations} <= set(expected)
    rare = [t for things in objects.values() for t in things if t["synsets"][0].split(".")[0] not in expected]
    assert both.train.skipped == {"object of a rare category": len(rare)}


def test_split_is_by_picture_and_follows_the_seed(tmp_path: Path) -> None:
    write(tmp_path, {n: [thing("tree.n.01"), thing("dog.n.01")] for n in range(1, 31)})
    one, again, other = (load_visual_genome_reference(settings(tmp_path), seed) for seed in (1, 1, 2))
    train, evaluation = ({r.key for r in part.records} for part in (one.train, one.evaluation))
    assert not train & evaluation
    assert len(train) == 27
    assert len(evaluation) == 3
    assert one == again
    assert one != other


def test_first_pictures_only_in_the_order_of_their_ids(tmp_path: Path) -> None:
    write(tmp_path, {n: [thing("tree.n.01")] for n in (10, 9, 2, 1)})
    assert sorted(load_all(tmp_path, max_images=3)) == ["VG_100K/1.jpg", "VG_100K/9.jpg", "VG_100K_2/2.jpg"]


def test_category_that_is_too_rare(tmp_path: Path) -> None:
    write(tmp_path, {n: [thing("tree.n.01")] for n in range(1, 11)})
    with pytest.raises(
        UserError,
        match=r"^reference\.min_images: found 100; no category is in so many of the 9 training pictures; "
        r"allowed here: at most 9$",
    ):
        load_visual_genome_reference(settings(tmp_path, min_images=100), 0)


def test_pictures_that_are_all_missing(tmp_path: Path) -> None:
    write(tmp_path, {1: [thing("tree.n.01")], 2: [thing("tree.n.01")]}, without_image=(1, 2))
    with pytest.raises(UserError, match=r"^reference: found 0 pictures; a split by picture needs at least 2$"):
        load_visual_genome_reference(settings(tmp_path), 0)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("objects.json", r"^reference\.objects: found '.*objects\.json', which is no file"),
        ("VG_100K_2", r"^reference\.image_folders: found '.*VG_100K_2', which is no folder"),
    ],
)
def test_missing_parts_are_named(tmp_path: Path, remove: str, message: str) -> None:
    write(tmp_path, {1: [thing("tree.n.01")], 3: [thing("tree.n.01")]})
    path = tmp_path / remove
    path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=message):
        load_visual_genome_reference(settings(tmp_path), 0)


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^reference\.root: found '.*none', which is no folder"):
        load_visual_genome_reference(settings(tmp_path / "none"), 0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "5", '{"a": 1}', "[5]", '[{"image_id": 1}]', '[{"image_id": "x", "objects": []}]',
     '[{"image_id": 1, "objects": 5}]', '[{"objects": []}]'],
)  # fmt: skip
def test_file_that_is_not_visual_genome(tmp_path: Path, text: str) -> None:
    write(tmp_path, {1: [], 2: []})
    (tmp_path / "objects.json").write_text(text)
    with pytest.raises(
        UserError, match=r"objects\.json: not Visual Genome objects \(.*\); allowed: a list of image_id and"
    ):
        load_visual_genome_reference(settings(tmp_path), 0)


@pytest.mark.parametrize(
    "broken",
    [
        {"synsets": ["a.n.01"], "y": 0, "w": 2, "h": 2},
        {"synsets": ["a.n.01"], "x": None, "y": 0, "w": 2, "h": 2},
        {"synsets": ["a.n.01"], "x": "left", "y": 0, "w": 2, "h": 2},
        5,
        None,
    ],
    ids=["no x", "x is null", "x is text", "number", "null"],
)
def test_object_that_is_none_is_a_fault_of_the_file(tmp_path: Path, broken: Any) -> None:
    write(tmp_path, {1: [thing("tree.n.01")], 2: [broken]})
    with pytest.raises(UserError, match="Visual Genome"):
        load_visual_genome_reference(settings(tmp_path), 0)


def test_picture_that_stands_twice(tmp_path: Path) -> None:
    write(tmp_path, {1: [thing("tree.n.01")], 2: [thing("tree.n.01")]})
    entries = json.loads((tmp_path / "objects.json").read_text())
    (tmp_path / "objects.json").write_text(json.dumps([*entries, entries[0]]))
    with pytest.raises(UserError, match=r"objects\.json: an image_id stands twice"):
        load_visual_genome_reference(settings(tmp_path), 0)


@pytest.mark.parametrize("number", ["../secret", "/etc/passwd"])
def test_hostile_image_ids_are_refused(tmp_path: Path, number: str) -> None:
    write(tmp_path, {1: [thing("tree.n.01")], 2: [thing("tree.n.01")]})
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    entries = [{"image_id": number, "objects": []}]
    (tmp_path / "objects.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match="not Visual Genome objects"):
        load_visual_genome_reference(settings(tmp_path), 0)


def write_json(root: Path, name: str, content: Any) -> None:
    (root / name).write_text(json.dumps(content), "utf-8")


def test_first_version_with_ids_of_another_name_single_names_and_synsets_as_objects(tmp_path: Path) -> None:
    write(tmp_path, {1: [], 2: []})
    box = {"x": 1, "y": 2, "width": 5, "height": 4}
    synset = {"synset_name": "fire_hydrant.n.01", "entity_name": "hydrant", "entity_idx_start": 0, "entity_idx_end": 7}
    things = [{**box, "name": "hydrant", "synsets": [synset]}, {**box, "name": " Old  Sign. ", "synsets": []}, box]
    text = json.dumps([{"id": number, "objects": things} for number in (1, 2)])
    (tmp_path / "objects.json").write_text(text, "utf-8-sig")
    both = load_visual_genome_reference(settings(tmp_path), 0)
    assert both.train.concepts == ("fire hydrant",)
    assert both.train.skipped == {"object without a synset": 4}
    named = load_visual_genome_reference(settings(tmp_path, without_synset="name"), 0)
    assert named.train.concepts == ("fire hydrant", "old sign")
    assert named.train.skipped == {"object without a synset": 2}
    assert named.train.records[0].annotations[1].boxes == ((1.0, 2.0, 5.0, 4.0),)


def test_file_without_any_synset_says_what_to_set(tmp_path: Path) -> None:
    write(tmp_path, {1: [thing(None)], 2: [thing(None)]})
    with pytest.raises(
        UserError,
        match=r"objects\.json: none of 2 objects has a synset; set reference\.without_synset=name to take their names$",
    ):
        load_visual_genome_reference(settings(tmp_path), 0)
    assert load_visual_genome_reference(settings(tmp_path, without_synset="name"), 0).train.concepts == ("stuff",)


def test_attributes_and_relationships_are_further_words(tmp_path: Path) -> None:
    write(tmp_path, {1: [thing("dog.n.01", (0, 0, 4, 4))], 2: [thing("dog.n.01", (0, 0, 4, 4))]})
    striped = {**thing("dog.n.01", (0, 0, 4, 4)), "attributes": ["Striped", "striped", "small"]}
    plain = thing("cat.n.01")  # some have none at all
    write_json(
        tmp_path,
        "attributes.json",
        [{"image_id": n, "attributes": [striped, plain, {**plain, "attributes": None}]} for n in (1, 2, 9)],
    )
    ends = {"subject": thing("dog.n.01", (0, 0, 4, 4)), "object": {"x": 6, "y": 6, "w": 3, "h": 2, "name": "ball"}}
    write_json(tmp_path, "relationships.json", [{"image_id": 1, "relationships": [{"predicate": "CHASING", **ends}]}])
    changes = {"attributes": "attributes.json", "relationships": "relationships.json"}
    records = load_all(tmp_path, **changes, min_images=1)
    both = load_visual_genome_reference(settings(tmp_path, **changes), 0)
    in_training = {Path(record.key).stem for record in both.train.records}
    more = ["chasing"] if "1" in in_training else []
    assert list(both.train.concepts) == [*more, "dog", "small", "striped"]
    for record in records.values():
        found = {a.concept: a.boxes for a in record.annotations}
        assert found["striped"] == found["small"] == found["dog"] == ((0.0, 0.0, 4.0, 4.0),)
        if record.key == "VG_100K/1.jpg" and more:
            assert found["chasing"] == ((0.0, 0.0, 4.0, 4.0), (6.0, 6.0, 3.0, 2.0))
    assert all(a.concept == "dog" for record in load_all(tmp_path).values() for a in record.annotations)


def test_sizes_of_pictures_show_boxes_outside_and_other_pictures(tmp_path: Path) -> None:
    things = [thing("sea.n.01", (0, 0, 5, 5)), thing("sea.n.01", (W, 0, 5, 5)), thing("sky.n.01", (0, -9, 5, 9))]
    write(tmp_path, {1: things, 2: things})
    sizes = [{"image_id": n, "width": W, "height": H, "url": "x", "coco_id": None} for n in (1, 2)]
    write_json(tmp_path, "image_data.json", sizes)
    both = load_visual_genome_reference(settings(tmp_path, image_data="image_data.json"), 0)
    assert both.train.concepts == ("sea",)
    assert both.train.skipped == {"box outside its picture": 4}
    assert both.train.records[0].annotations[0].boxes == ((0.0, 0.0, 5.0, 5.0),)
    write_json(tmp_path, "image_data.json", [{**sizes[0], "width": 2 * W, "height": 2 * H}, sizes[1]])
    with pytest.raises(UserError, match=r"1\.jpg: found 18 x 12 pixels, but the boxes are for 36 x 24; allowed: "):
        load_visual_genome_reference(settings(tmp_path, image_data="image_data.json"), 0)


@pytest.mark.parametrize(
    ("setting", "content", "message"),
    [
        ("attributes", [{"image_id": 1}], r"more\.json: not Visual Genome attributes \('attributes'\)"),
        (
            "attributes",
            [{"image_id": 1, "attributes": [{"attributes": [5], "x": 0, "y": 0, "w": 1, "h": 1}]}],
            r"more\.json: not Visual Genome attributes: image_id 1: attribute without usable .*\(5 is no text\)",
        ),
        (
            "relationships",
            [{"image_id": 1, "relationships": [{"predicate": "on", "subject": {}, "object": {}}]}],
            r"more\.json: not Visual Genome relationships: image_id 1: relationship without usable",
        ),
        ("image_data", [{"image_id": 1}], r"more\.json: not Visual Genome image data \('height'\)"),
    ],
)
def test_further_files_that_are_none(tmp_path: Path, setting: str, content: Any, message: str) -> None:
    write(tmp_path, {1: [thing("tree.n.01")], 2: [thing("tree.n.01")]})
    write_json(tmp_path, "more.json", content)
    with pytest.raises(UserError, match=message):
        load_visual_genome_reference(settings(tmp_path, **{setting: "more.json"}), 0)
