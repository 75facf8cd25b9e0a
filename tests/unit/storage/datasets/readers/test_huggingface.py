from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import ipc
from pycocotools import mask as coco_mask

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation, Reference
from lavise.storage.images.images import open_image
from tests.unit.storage.datasets.readers.containers import (
    IMAGE,
    encode_image,
    make_table,
    read_reference,
    read_target,
    save_to_disk,
    write_parquet,
)

NAMES = {"names": ["dog", "traffic_light"], "_type": "ClassLabel"}
FEATURES = {"image": {"_type": "Image"}, "label": NAMES}
COLUMNS = {"image": IMAGE, "label": pyarrow.int64()}


def make_rows(*labels: Any) -> list[dict[str, Any]]:
    return [{"image": {"bytes": encode_image(9 * i), "path": "x.png"}, "label": v} for i, v in enumerate(labels)]


def labels_of(both: Reference) -> dict[str, tuple[Annotation, ...]]:
    return {r.key: r.annotations for part in (both.train, both.evaluation) for r in part.records}


def read(root: Path, **settings: Any) -> Reference:
    return read_reference(kind="huggingface", root=root, **settings)


def test_a_saved_data_set(tmp_path: Path) -> None:
    table = make_table(COLUMNS, make_rows(0, 1, -1, None, 1), FEATURES)
    save_to_disk(tmp_path, table.slice(0, 3), table.slice(3))
    both = read(tmp_path)
    assert both.train.concepts == both.evaluation.concepts == ("dog", "traffic light")
    assert labels_of(both) == {
        "train/000000": (Annotation("dog"),),
        "train/000001": (Annotation("traffic light"),),
        "train/000002": (),
        "train/000003": (),
        "train/000004": (Annotation("traffic light"),),
    }
    assert both.train.skipped == {"picture without a label": 2}
    target = read_target(kind="huggingface", root=tmp_path)
    assert [open_image(r.path).getpixel((0, 0)) for r in target.records] == [(9 * i, 90, 120) for i in range(5)]
    assert len(read(tmp_path, max_images=3).train.records) == 2


def test_splits_of_a_dictionary(tmp_path: Path) -> None:
    for split, labels in (("train", (0, 1)), ("test", (1,))):
        save_to_disk(tmp_path / split, make_table(COLUMNS, make_rows(*labels), FEATURES))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    both = read(tmp_path, evaluation_split="test")
    assert [r.key for r in both.evaluation.records] == ["test/000000"]
    assert len(both.train.records) == 2
    assert [r.key for r in read_target(kind="huggingface", root=tmp_path, split="test").records] == ["test/000000"]
    with pytest.raises(UserError, match=r"^target\.split: found several splits; allowed: one of 'train', 'test'; set"):
        read_target(kind="huggingface", root=tmp_path)
    with pytest.raises(UserError, match=r"^reference\.evaluation_split: found 'val'; allowed: one of 'train', 'test'"):
        read(tmp_path, evaluation_split="val")
    with pytest.raises(UserError, match=r"^reference\.evaluation_split: found 'train', which is the training split"):
        read(tmp_path, evaluation_split="train")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["../other"]}')
    with pytest.raises(UserError, match="leads out of"):
        read(tmp_path)


@pytest.mark.parametrize("layout", ["data/{split}-0000{i}-of-00002.parquet", "{split}/000{i}.parquet"])
@pytest.mark.parametrize("is_relative", [False, True])
def test_parquet_as_on_the_hub(tmp_path: Path, layout: str, is_relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split, shift in (("train", 0), ("validation", 1)):
        for i in range(2):
            table = make_table(COLUMNS, make_rows((i + shift) % 2, shift), FEATURES)
            write_parquet(tmp_path / layout.format(split=split, i=i), table)
    both = read(Path() if is_relative else tmp_path, evaluation_split="validation")
    assert [r.annotations[0].concept for r in both.train.records] == ["dog", "dog", "traffic light", "dog"]
    assert [r.key for r in both.evaluation.records] == [f"validation/{i:06d}" for i in range(4)]


def test_several_configurations(tmp_path: Path) -> None:
    for name in ("small", "large"):
        write_parquet(tmp_path / name / "train-00000-of-00001.parquet", make_table(COLUMNS, make_rows(0, 1), FEATURES))
    with pytest.raises(
        UserError, match=r"split 'train' lies in several folders of .* \(large, small\); .*set reference"
    ):
        read(tmp_path)
    assert len(read(tmp_path / "small").train.records) == 1


def test_a_snapshot_of_the_hub_has_links_to_its_own_cache_only(tmp_path: Path) -> None:
    cache = tmp_path / "datasets--me--mine"
    write_parquet(cache / "blobs" / "abc", make_table(COLUMNS, make_rows(0, 1), FEATURES))
    write_parquet(tmp_path / "other", make_table(COLUMNS, make_rows(0, 1), FEATURES))
    snapshot = cache / "snapshots" / "1f2e" / "data"
    snapshot.mkdir(parents=True)
    link = snapshot / "train-00000-of-00001.parquet"
    link.symlink_to(cache / "blobs" / "abc")
    assert len(read(snapshot.parent).train.records) == len(read(snapshot).train.records) == 1
    link.unlink()
    link.symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="leads out of"):
        read(snapshot.parent)


def test_names_of_pictures_from_a_column(tmp_path: Path) -> None:
    rows = [{**row, "file": name} for row, name in zip(make_rows(0, 1), ("a/1.png", "b/1.png"), strict=True)]
    save_to_disk(tmp_path, make_table({**COLUMNS, "file": pyarrow.string()}, rows, FEATURES))
    assert set(labels_of(read(tmp_path, key="file"))) == {"a/1.png", "b/1.png"}


BOX = pyarrow.list_(pyarrow.float32())
OBJECT = {"bbox": {"feature": {"dtype": "float32"}, "_type": "Sequence"}, "category": NAMES}


@pytest.mark.parametrize(
    ("kind", "feature", "values"),
    [
        (  # datasets 4 and later
            pyarrow.list_(pyarrow.struct([("bbox", BOX), ("category", pyarrow.int64())])),
            {"feature": OBJECT, "_type": "List"},
            [[{"bbox": [1, 2, 3, 4], "category": 1}, {"bbox": [5, 6, 7, 8], "category": 0}], []],
        ),
        (  # before: a sequence of mappings is a mapping of lists
            pyarrow.struct([("bbox", pyarrow.list_(BOX)), ("category", pyarrow.list_(pyarrow.int64()))]),
            {"feature": OBJECT, "_type": "Sequence"},
            [{"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "category": [1, 0]}, {"bbox": [], "category": []}],
        ),
        (
            pyarrow.list_(pyarrow.struct([("bbox", BOX), ("category", pyarrow.int64())])),
            [OBJECT],
            [[{"bbox": [1, 2, 3, 4], "category": 1}, {"bbox": [5, 6, 7, 8], "category": 0}], None],
        ),
    ],
)
def test_boxes(tmp_path: Path, kind: Any, feature: Any, values: list[Any]) -> None:
    rows = [{"image": row["image"], "objects": v} for row, v in zip(make_rows(0, 0), values, strict=True)]
    features = {"image": {"_type": "Image"}, "objects": feature}
    save_to_disk(tmp_path, make_table({"image": IMAGE, "objects": kind}, rows, features))
    both = read(tmp_path, objects="objects")
    assert labels_of(both) == {
        "train/000000": (
            Annotation("traffic light", boxes=((1.0, 2.0, 3.0, 4.0),)),
            Annotation("dog", boxes=((5.0, 6.0, 7.0, 8.0),)),
        ),
        "train/000001": (),
    }


def test_masks(tmp_path: Path) -> None:
    def encode(values: Any, mode: str | None = None) -> dict[str, Any]:
        buffer = io.BytesIO()
        picture = Image.fromarray(np.asarray(values, np.uint8))
        (picture.convert(mode) if mode else picture).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    values = np.zeros((20, 30), np.uint8)
    values[2:5, 3:9], values[10:, :] = 1, 255
    rows = [{"image": r["image"], "mask": encode(values)} for r in make_rows(0, 0)]
    rows[1]["mask"] = encode(values, "RGB")
    save_to_disk(tmp_path, make_table({"image": IMAGE, "mask": IMAGE}, rows))
    both = read(tmp_path, mask="mask", classes=["sky", "dog"])
    found = labels_of(both)
    sky, dog = found["train/000000"]
    assert (sky.concept, dog.concept, found["train/000001"]) == ("sky", "dog", ())
    np.testing.assert_array_equal(sky.make_mask(20, 30), values == 0)
    np.testing.assert_array_equal(dog.make_mask(20, 30), values == 1)
    assert both.train.skipped == {"labels of a picture that cannot be read": 1, "picture without a label": 1}
    assert [
        a.concept
        for a in labels_of(read(tmp_path, mask="mask", classes=["sky", "dog"], mask_ignored=[0, 255]))["train/000000"]
    ] == ["dog"]
    with pytest.raises(UserError, match=r"row 0, mask: found value 255 in a mask; allowed: 0 to 1; set reference\.cla"):
        read(tmp_path, mask="mask", classes=["sky", "dog"], mask_ignored=[])
    with pytest.raises(UserError, match=r"^reference\.classes: missing; a mask needs the names of its values"):
        read(tmp_path, mask="mask")


def test_labels_that_make_no_sense(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "a", make_table(COLUMNS, make_rows(0, 2), FEATURES))
    with pytest.raises(
        UserError, match=r"data-00000-of-00001\.arrow, row 1, label: found class 2; allowed: 0 to 1, or"
    ):
        read(tmp_path / "a")
    with pytest.raises(UserError, match=r"^reference: .*\.arrow has no column 'kind'; allowed: image, label$"):
        read(tmp_path / "a", label="kind")
    save_to_disk(tmp_path / "b", make_table(COLUMNS, make_rows(0, 2)))
    with pytest.raises(
        UserError, match=r"found class 0, but the data set has no names of classes; set reference\.class"
    ):
        read(tmp_path / "b")
    assert read(tmp_path / "b", classes=["a", "b", "c"]).train.concepts == ("a", "b", "c")
    save_to_disk(tmp_path / "c", make_table(COLUMNS, make_rows(-1, None), FEATURES))
    with pytest.raises(
        UserError, match=r"^reference: no row of .* has a label \(2 picture without a label\); set refer"
    ):
        read(tmp_path / "c")
    other = {**FEATURES, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    save_to_disk(tmp_path / "d", make_table(COLUMNS, make_rows(0), FEATURES), make_table(COLUMNS, make_rows(0), other))
    with pytest.raises(
        UserError, match=r"^reference: files of 'train' in .* have other classes; set reference\.classes"
    ):
        read(tmp_path / "d")


def test_files_that_are_damaged(tmp_path: Path) -> None:
    save_to_disk(tmp_path, make_table(COLUMNS, make_rows(0, 1, 0, 1, 0), FEATURES))
    path = tmp_path / "data-00000-of-00001.arrow"
    whole = path.read_bytes()
    with ipc.open_stream(path) as stream:
        last = len(whole) - 8
        assert sum(batch.num_rows for batch in stream) == 5
    for content in (
        whole[:last],
        whole[: last - 100],
        whole[: len(whole) // 2],
        whole[:20],
        b"",
        b"ARROW1\0\0" + whole,
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"\.arrow: cannot be read \(.*\); allowed: a whole file; write or copy it"):
            read(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"\.arrow: cannot be read"):
        read(tmp_path)


def test_offsets_that_lead_out_of_a_batch(tmp_path: Path) -> None:
    """They are checked before anything is read through them."""
    content = encode_image(7)
    save_to_disk(tmp_path, make_table({"image": IMAGE}, [{"image": {"bytes": content, "path": None}}] * 2))
    path = tmp_path / "data-00000-of-00001.arrow"
    offsets = np.array([0, len(content), 2 * len(content)], np.int32).tobytes()
    whole = path.read_bytes()
    assert whole.count(offsets) == 1
    for wrong, message in (
        ([0, 2**30, 2 * len(content)], r"row 0: cannot read 'image' \(.*\.arrow: "),
        ([0, len(content), 2**30], r"\.arrow: cannot be read \("),
    ):
        path.write_bytes(whole.replace(offsets, np.array(wrong, np.int32).tobytes()))
        with pytest.raises(UserError, match=message):
            read_target(kind="huggingface", root=tmp_path)


def test_compressed_batches_are_refused(tmp_path: Path) -> None:
    table = make_table(COLUMNS, make_rows(0, 1), FEATURES)
    save_to_disk(tmp_path, table)
    path = tmp_path / "data-00000-of-00001.arrow"
    for codec in ("zstd", "lz4"):
        with ipc.new_stream(path, table.schema, options=ipc.IpcWriteOptions(compression=codec)) as stream:
            stream.write_table(table)
        with pytest.raises(UserError, match=r"\.arrow: compressed, or with dictionaries; allowed: arrow streams as"):
            read(tmp_path)


def test_notes_that_make_no_sense(tmp_path: Path) -> None:
    table = make_table(COLUMNS, make_rows(0, 1))
    for note in ("[]", "{", '{"info": {"features": []}}', "[" * 100_000):
        save_to_disk(tmp_path, table.replace_schema_metadata({"huggingface": note}))
        with pytest.raises(UserError, match="the note of `datasets` in its schema has no features"):
            read(tmp_path)
    for state in ("{", "[]", "{}", '{"_data_files": [3]}', '{"_data_files": 3}'):
        (tmp_path / "state.json").write_text(state)
        with pytest.raises(UserError, match=r"state\.json: .*as save_to_disk writes it"):
            read(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../x.arrow"}]}))
    with pytest.raises(UserError, match="leads out of"):
        read(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [], "_indices_data_files": [{"filename": "i"}]}))
    with pytest.raises(UserError, match="rows are chosen by a table of indices"):
        read(tmp_path)


def test_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit('was run')")
    with pytest.raises(
        UserError, match=r"^reference\.root: found no data set in .*; allowed: a folder of save_to_disk"
    ):
        read(tmp_path)


@pytest.mark.parametrize("as_lists", [True, False])
def test_polygons_and_run_lengths_of_objects(tmp_path: Path, as_lists: bool) -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:7, 3:11] = True
    counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    for name, segmentation, kind in (
        ("polygons", [[3.0, 2.0, 11.0, 2.0, 11.0, 7.0, 3.0, 7.0]], pyarrow.list_(pyarrow.list_(pyarrow.float64()))),
        (
            "rle",
            {"size": [20, 30], "counts": counts},
            pyarrow.struct([("size", pyarrow.list_(pyarrow.int64())), ("counts", pyarrow.binary())]),
        ),
    ):
        fields = {"category": pyarrow.int64(), "segmentation": kind}
        entry = {"category": 1, "segmentation": segmentation}
        if as_lists:
            column = pyarrow.struct([(key, pyarrow.list_(value)) for key, value in fields.items()])
            objects: Any = {key: [value] for key, value in entry.items()}
        else:
            column, objects = pyarrow.list_(pyarrow.struct(list(fields.items()))), [entry]
        rows = [{"image": r["image"], "annotations": objects} for r in make_rows(0, 0)]
        save_to_disk(tmp_path / name, make_table({"image": IMAGE, "annotations": column}, rows))
        both = read(
            tmp_path / name,
            objects="annotations",
            object_fields={"segmentation": "segmentation"},
            classes=["sky", "dog"],
        )
        for (found,) in labels_of(both).values():
            assert found.concept == "dog"
            np.testing.assert_array_equal(found.make_mask(20, 30), mask)
        assert both.train.skipped == {}
