"""Several data sets as one: categories, keys, pictures in two parts, faults of a source."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.schema import CombinedReference
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord, Reference, mark_looked_for
from lavise.storage.datasets.readers.combined import (
    LEAKED,
    Source,
    find_shared_pictures,
    load_combined_reference,
    merge_categories,
)
from lavise.storage.datasets.readers.image_folder import load_image_folder_reference


def make_picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def make_folders(root: Path, classes: list[str], num: int = 2, seed: int = 0) -> dict[str, Any]:
    """ROOT/train/CLASS and ROOT/val/CLASS, `num` pictures each."""
    numbers = iter(range(seed, seed + 1000))
    for part in ("train", "val"):
        for name in classes:
            for i in range(num):
                make_picture(root / part / name / f"{i}.png", next(numbers))
    return {"kind": "image_folder", "root": root}


def make_table(root: Path, lines: list[str], seed: int = 5000) -> dict[str, Any]:
    for n, line in enumerate(lines):
        make_picture(root / line.split(",")[0], seed + n)
    (root / "labels.csv").write_text("\n".join(["image,label", *lines]), "utf-8")
    return {
        "kind": "csv_labels",
        "root": root,
        "file": root / "labels.csv",
        "label_column": "label",
        "evaluation_share": 0.5,
    }


def load(sources: list[dict[str, Any]], merge_by: str = "name") -> Reference:
    settings = {"kind": "combined", "sources": sources, "merge_by": merge_by}
    return load_combined_reference(CombinedReference.model_validate(settings), 0)


def read_labels(part: Dataset) -> dict[str, list[str]]:
    return {r.key: [a.concept for a in r.annotations] for r in part.records}


# ---------------------------------------------------------------- categories


@pytest.mark.parametrize(
    ("merge_by", "second", "expected"),
    [
        ("name", ["hot_dog", "Hot-Dog"], ["hot dog", "Hot-Dog"]),
        ("name", ["dogs", "sofa", "crane"], ["dogs", "sofa", "crane"]),
        ("lemma", ["dogs", "sofa", "Hot Dogs"], ["dog", "sofa", "hot dog"]),
        ("synset", ["dogs", "sofa", "HOT DOG"], ["dog", "couch", "hot dog"]),
        # The closest go together, whatever comes first; two of one source stay two.
        ("lemma", ["dogs", "dog"], ["dogs", "dog"]),
        ("synset", ["sofa", "couch", "lounge"], ["sofa", "couch", "lounge"]),
        # Not by its sense, since `glasses` is no plural of glass.
        ("lemma", ["glasses"], ["glasses"]),
        # WordNet has no such word: by lemma.
        ("synset", ["qqzx_things"], ["qqzx thing"]),
    ],
)
def test_which_categories_are_one(merge_by: str, second: list[str], expected: list[str]) -> None:
    first = ["dog", "couch", "hot dog", "glass", "qqzx thing"]
    names = merge_categories([first, second], merge_by)
    assert names[0] == {name: name for name in first}
    assert list(names[1].values()) == expected
    assert list(names[1]) == second


def test_names_of_three_sources_go_by_the_first() -> None:
    names = merge_categories([["Tree"], ["bush", "tree"], ["BUSH", "TREE", "moss"]], "name")
    assert names == [
        {"Tree": "Tree"},
        {"bush": "bush", "tree": "Tree"},
        {"BUSH": "bush", "TREE": "Tree", "moss": "moss"},
    ]


def test_names_are_never_lost_or_made_one_in_a_source() -> None:
    """Whatever the names: of a source as many after merging as before, and none that is nobody's."""
    rng = np.random.default_rng(0)
    pool = ["dog", "Dog", "dogs", "dog_", "sofa", "sofas", "couch", "hot dog", "hot-dog", "hotdogs", "", "-", "été"]
    for _ in range(100):
        sources = [rng.permutation(pool)[: rng.integers(1, 8)].tolist() for _ in range(3)]
        for merge_by in ("name", "lemma", "synset"):
            for own, names in zip(sources, merge_categories(sources, merge_by), strict=True):
                assert list(names) == own
                assert len(set(names.values())) == len(own)
                assert set(names.values()) <= set(chain.from_iterable(sources))


# ---------------------------------------------------------------- pictures


def test_parts_are_joined_and_what_was_looked_for_is_kept(tmp_path: Path) -> None:
    first = make_folders(tmp_path / "a", ["dog", "tree"])
    second = make_folders(tmp_path / "b", ["Dog", "sea"], seed=100)
    both = load([first, second])
    assert both.train.name == "a/train + b/train"
    assert both.train.concepts == both.evaluation.concepts == ("dog", "tree", "sea")
    for part, folder in ((both.train, "train"), (both.evaluation, "val")):
        labels = read_labels(part)
        assert len(labels) == len(part.records) == 8
        assert labels[f"0-image_folder/{folder}/tree/1.png"] == ["tree"]
        assert labels[f"1-image_folder/{folder}/Dog/0.png"] == ["dog"]
        for record in part.records:
            own = {"dog", "tree"} if record.key.startswith("0-") else {"dog", "sea"}
            assert record.looked_for == own
            assert isinstance(record.path, Path)
            assert record.path.is_file()
    notes = "\n".join(both.train.notes)
    assert "0-image_folder is a/train: 4 pictures, 4 labels, 2 categories" in notes
    assert "1 of 3 categories are of several sources" in notes
    assert "'dog' is 'Dog' of 1-image_folder" in notes
    known = mark_looked_for(both.train.records, both.train.concepts)
    assert known is not None
    assert known.sum(axis=0).tolist() == [8, 4, 4]


def test_the_first_so_many_are_of_all_sources(tmp_path: Path) -> None:
    both = load([make_folders(tmp_path / "a", ["x"], 6), make_folders(tmp_path / "b", ["y"], 2, seed=50)])
    assert [r.key[0] for r in both.train.records] == list("00100010")
    again = load([make_folders(tmp_path / "a", ["x"], 6), make_folders(tmp_path / "b", ["y"], 2, seed=50)])
    assert again.train.records == both.train.records


def test_same_categories_everywhere_leave_nothing_unknown(tmp_path: Path) -> None:
    both = load([make_folders(tmp_path / "a", ["x", "y"]), make_folders(tmp_path / "b", ["Y", "x"], seed=50)])
    assert {r.looked_for for r in both.train.records} == {None}
    assert not any("not looked for" in note for note in both.train.notes)


def test_keys_and_digests_do_not_hang_on_the_place(tmp_path: Path) -> None:
    sources = [make_folders(tmp_path / "a", ["x"]), make_folders(tmp_path / "b", ["y"], seed=50)]
    digest = load(sources).train.compute_digest()
    shutil.copytree(tmp_path / "a", tmp_path / "else" / "c")
    moved = load([{**sources[0], "root": tmp_path / "else" / "c"}, sources[1]])
    assert moved.train.compute_digest() == digest
    assert load(sources[::-1]).train.compute_digest() != digest


def test_what_was_looked_for_is_part_of_the_digest(tmp_path: Path) -> None:
    record = ImageRecord("a", make_picture(tmp_path / "a.png", 0), (Annotation("cat"),))
    plain = Dataset("x", (record,), ("cat", "dog"))
    asked = [
        Dataset("x", (ImageRecord("a", record.path, record.annotations, looked_for=frozenset(own)),), ("cat", "dog"))
        for own in (("cat",), ("cat", "dog"))
    ]
    assert len({part.compute_digest() for part in (plain, *asked)}) == 3
    assert asked[0].without_labels().records[0].looked_for is None
    # That of a data set of one source is what it was before there was `looked_for`.
    from lavise.storage.state.digest import digest_of

    pairs = digest_of([["a", [["cat", None, []]]]])
    before = {"pictures": plain.digest_images(), "pairs": pairs, "concepts": ["cat", "dog"]}
    assert plain.compute_digest() == digest_of(before)


def test_what_is_labelled_is_known_whether_it_was_looked_for_or_not() -> None:
    records = [
        ImageRecord("a", Path("a"), (Annotation("dog"),), looked_for=frozenset({"cat"})),
        ImageRecord("b", Path("b"), looked_for=frozenset()),
        ImageRecord("c", Path("c")),
    ]
    known = mark_looked_for(records, ("cat", "dog", "fox"))
    assert known is not None
    assert known.astype(int).tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert mark_looked_for(records[2:], ("cat",)) is None


# ---------------------------------------------------------------- leaks


@pytest.mark.parametrize("how", ["copy", "link", "same file"])
def test_a_picture_that_another_source_evaluates_on_is_not_trained_on(tmp_path: Path, how: str) -> None:
    first = make_folders(tmp_path / "a", ["x"])
    second = make_folders(tmp_path / "b", ["y"], seed=50)
    source, place = tmp_path / "a" / "val" / "x" / "1.png", tmp_path / "b" / "train" / "y" / "9.png"
    if how == "copy":
        shutil.copyfile(source, place)
    else:
        place.symlink_to(source)
        second["follow_links"] = True
    if how == "same file":
        source.write_bytes(b"")  # a picture that cannot be read has no content to go by
    both = load([first, second])
    assert "1-image_folder/train/y/9.png" not in read_labels(both.train)
    assert "0-image_folder/val/x/1.png" in read_labels(both.evaluation)
    assert both.train.left_out == {f"1-image_folder: {LEAKED}": 1}
    assert len(both.train.records) == 4


def test_a_picture_that_is_not_there_goes_by_its_path() -> None:
    """Labels may name pictures that are away; nothing of them can be compared but the path."""
    own, other, same = (ImageRecord(name, Path("/none") / name) for name in ("own.png", "other.png", "same.png"))
    first = Source("0-coco", Dataset("a", (own, same)), Dataset("a", (other,)))
    second = Source("1-coco", Dataset("b", (other,)), Dataset("b", (replace(same, path=Path("/none/x/../same.png")),)))
    found = find_shared_pictures([first, second])
    assert found.leaked == (frozenset({1}), frozenset({0}))
    assert found.num_twice == (0, 0)


def test_files_of_one_size_and_end_are_told_apart(tmp_path: Path) -> None:
    """Only the first byte differs, far before the end that is read first."""
    first, second = make_folders(tmp_path / "a", ["x"]), make_folders(tmp_path / "b", ["y"], seed=50)
    tail = bytes(9000)
    (tmp_path / "a" / "val" / "x" / "1.png").write_bytes(b"a" + tail)
    (tmp_path / "b" / "train" / "y" / "1.png").write_bytes(b"b" + tail)
    assert load([first, second]).train.left_out == {}
    (tmp_path / "b" / "train" / "y" / "1.png").write_bytes(b"a" + tail)
    assert load([first, second]).train.left_out == {f"1-image_folder: {LEAKED}": 1}


def test_pictures_that_two_sources_train_on_are_counted(tmp_path: Path) -> None:
    first, second = make_folders(tmp_path / "a", ["x"]), make_folders(tmp_path / "b", ["y"], seed=50)
    shutil.copyfile(tmp_path / "a" / "train" / "x" / "0.png", tmp_path / "b" / "train" / "y" / "0.png")
    both = load([first, second])
    said = "1 pictures are in this part of several sources"
    assert any(said in note for note in both.train.notes)
    assert not any(said in note for note in both.evaluation.notes)
    assert len(both.train.records) == 4


def test_nothing_to_train_on_is_left(tmp_path: Path) -> None:
    first = make_folders(tmp_path / "a", ["x"])
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "train").rename(tmp_path / "b" / "val")
    shutil.copytree(tmp_path / "a" / "val", tmp_path / "b" / "train")
    shutil.copytree(tmp_path / "b" / "val", tmp_path / "a" / "train")
    with pytest.raises(UserError, match=r"^reference\.sources: all pictures to train on are in the evaluation part of"):
        load([first, {"kind": "image_folder", "root": tmp_path / "b"}])


# ---------------------------------------------------------------- faults, counts


def test_a_fault_names_the_setting_of_its_source(tmp_path: Path) -> None:
    first = make_folders(tmp_path / "reference: x", ["x"])
    with pytest.raises(UserError) as caught:
        load([first, {"kind": "image_folder", "root": tmp_path / "none"}])
    assert str(caught.value) == (
        f"reference.sources.1.root: found '{tmp_path / 'none'}', which is no folder; set it, for example with --set "
        "reference.sources.1.root=PATH"
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "bad.json").write_text("[]")
    coco = {"kind": "coco", "root": tmp_path / "c", "train_images": ".", "train_annotations": "bad.json"}
    with pytest.raises(UserError, match=r"^reference\.sources\.0: .*bad\.json: not COCO instances"):
        load([{**coco, "evaluation_annotations": None}, first])


def test_notes_and_counts_name_their_source(tmp_path: Path) -> None:
    first = make_folders(tmp_path / "a", ["x"])
    table = make_table(tmp_path / "b", ["1.png,sea", "2.png,sea", "3.png,x", "4.png,x"])
    make_picture(tmp_path / "b" / "none.png", 99)
    both = load([first, table])
    assert both.train.left_out["1-csv_labels: picture that no line of labels.csv names"] == 1
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 4, "height": 4} for i in range(3)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 2, 2], "iscrowd": int(not i), "area": 4}
            for i in range(3)
        ],
        "categories": [{"id": 1, "name": "x"}],
    }
    for i in range(3):
        make_picture(tmp_path / "c" / f"{i}.png", 70 + i)
    (tmp_path / "c" / "x.json").write_text(json.dumps(content))
    coco = {"kind": "coco", "root": tmp_path / "c", "train_images": ".", "train_annotations": "x.json"}
    both = load([first, {**coco, "evaluation_annotations": None, "crowd_marks": "believe"}])
    assert both.train.skipped == {"1-coco: crowd": 1}
    assert both.train.list_left_out() == [], "the note below tells it"
    assert any(
        note.startswith("1-coco: 1 annotations are marked") and "reference.sources.1.crowds=use" in note
        for note in both.train.notes
    )


def test_one_source_of_the_same_categories_has_the_labels_that_it_has_alone(tmp_path: Path) -> None:
    first, second = make_folders(tmp_path / "a", ["x", "y"]), make_folders(tmp_path / "b", ["x", "y"], seed=50)
    both = load([first, second])
    settings = CombinedReference.model_validate({"kind": "combined", "sources": [first, second]}).sources[0]
    alone = load_image_folder_reference(settings, 0)  # type: ignore[arg-type]
    for part, own in ((both.train, alone.train), (both.evaluation, alone.evaluation)):
        taken = [r for r in part.records if r.key.startswith("0-")]
        assert [(r.path, r.annotations, r.looked_for) for r in taken] == [
            (r.path, r.annotations, None) for r in own.records
        ]
