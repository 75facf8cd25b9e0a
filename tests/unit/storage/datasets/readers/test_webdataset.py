from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.groups import FolderGroups
from lavise.storage.datasets.base import Annotation
from lavise.storage.datasets.groups import make_grouping
from lavise.storage.images.images import open_image
from tests.unit.storage.datasets.readers.containers import encode_image, read_reference, read_target, write_tar

CLASSES = ["dog", "traffic_light"]


def sample(key: str, shade: int = 0, **labels: bytes) -> list[tuple[str, bytes]]:
    endings = {ending.replace("__", "."): content for ending, content in labels.items()}
    return [(f"{key}.jpg", encode_image(shade, form="JPEG")), *((f"{key}.{e}", c) for e, c in endings.items())]


def read(root: Path, **settings: Any) -> dict[str, tuple[Annotation, ...]]:
    both = read_reference(kind="webdataset", root=root, **settings)
    return {r.key: r.annotations for part in (both.train, both.evaluation) for r in part.records}


def test_indices_of_classes(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar", [*sample("one/a", cls=b"1"), *sample("two/b.v", cls=b" 0\n")[1:], *sample("c", cls=b"-1")]
    )
    write_tar(tmp_path / "1.tar", [*sample("two/b", cls=b"0"), ("two/b.json", b"{}")])
    both = read_reference(kind="webdataset", root=tmp_path, classes=CLASSES)
    assert both.train.concepts == both.evaluation.concepts == ("dog", "traffic light")
    found = {r.key: r.annotations for part in (both.train, both.evaluation) for r in part.records}
    assert found == {
        "one/a.jpg": (Annotation("traffic light"),),
        "c.jpg": (),
        "two/b.jpg": (Annotation("dog"),),
    }
    # b.v.cls has the ending v.cls.
    assert both.train.skipped == {"member without an ending that is read": 2, "picture without a label": 1}
    assert both.evaluation.skipped == {}
    (tmp_path / "names.txt").write_text("dog\ntraffic_light\n")
    assert read(tmp_path, classes=tmp_path / "names.txt") == found


def test_order_is_that_of_archives_and_members(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        write_tar(tmp_path / f"part-{i:03d}.tar", [*sample(f"z{i}"), *sample(f"a{i}")])
    target = read_target(kind="webdataset", root=tmp_path, shards="part-{000..002}.tar")
    assert [r.key for r in target.records] == ["z0.jpg", "a0.jpg", "z1.jpg", "a1.jpg", "z2.jpg", "a2.jpg"]
    assert read_target(kind="webdataset", root=tmp_path).records == target.records
    assert len(read_target(kind="webdataset", root=tmp_path, max_images=3).records) == 3
    assert [r.key for r in read_target(kind="webdataset", root=tmp_path, shards="part-{002..001}.tar").records] == [
        "z2.jpg",
        "a2.jpg",
        "z1.jpg",
        "a1.jpg",
    ]


def test_archives_of_the_evaluation_part(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", sample("a", cls=b"0"))
    write_tar(tmp_path / "val-0.tar", sample("a", cls=b"1"))
    settings = {"kind": "webdataset", "root": tmp_path, "shards": "train-*.tar", "classes": CLASSES}
    both = read_reference(**settings, evaluation_shards="val-{0..0}.tar")
    assert [r.annotations[0].concept for r in (*both.train.records, *both.evaluation.records)] == [
        "dog",
        "traffic light",
    ]
    with pytest.raises(UserError, match=r"^reference\.evaluation_shards: train-0\.tar is in reference\.shards, too"):
        read_reference(**settings, evaluation_shards="*.tar")


def test_names_and_groups_by_folders_of_keys(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [*sample("night/x", txt=b"dog\n"), *sample("day/x", txt="caf\u00e9".encode()), *sample("day/y", txt=b"")],
    )
    both = read_reference(kind="webdataset", root=tmp_path, labels="txt", evaluation_share=0.5)
    assert both.train.concepts == ("café", "dog")
    target = read_target(kind="webdataset", root=tmp_path)
    assert all(r.annotations == () for r in target.records)
    grouping = make_grouping(FolderGroups(kind="folder"), "bias.groups", target, [r.key for r in target.records])
    assert (grouping.names, grouping.num_images) == (("day", "night"), (2, 1))


def test_classes_and_boxes_in_json(tmp_path: Path) -> None:
    def dump(value: Any) -> bytes:
        return json.dumps(value).encode()

    boxes = [{"bbox": [3, 4, 5, 6], "category": "dog"}, {"bbox": [1, 1, 0, 9], "category": "dog"}]
    write_tar(
        tmp_path / "a.tar",
        [
            *sample("x", json=dump({"what": {"labels": [1, "dog"]}, "objects": boxes})),
            *sample("y", json=dump({"what": {"labels": "dog"}, "objects": {"bbox": [[0, 0, 2, 2]], "category": [1]}})),
        ],
    )
    settings = {"labels": "json", "classes": CLASSES}
    assert read(tmp_path, **settings, json_label="what.labels") == {
        "x.jpg": (Annotation("traffic light"), Annotation("dog")),
        "y.jpg": (Annotation("dog"),),
    }
    assert read(tmp_path, **settings, json_objects="objects") == {
        "x.jpg": (Annotation("dog", boxes=((3.0, 4.0, 5.0, 6.0),)),),
        "y.jpg": (Annotation("traffic light", boxes=((0.0, 0.0, 2.0, 2.0),)),),
    }
    both = read_reference(kind="webdataset", root=tmp_path, **settings, json_objects="objects")
    assert both.train.skipped == {"box without area": 1}
    with pytest.raises(UserError, match=r"'x\.jpg', \.json: found no 'labels'; allowed: 'what', 'objects'; set ref"):
        read(tmp_path, **settings, json_label="labels")


def test_labels_that_make_no_sense(tmp_path: Path) -> None:
    for content, message in (
        (b"2", r"a\.tar: 'x\.jpg', \.cls: found class 2; allowed: 0 to 1, or a name \('dog', 'traffic light'\)"),
        (b"-2", r"found class -2; allowed: 0 to 1"),
        (b"dog", r"found 'dog'; allowed: the index of a class; set reference\.labels=txt for names"),
        (b"\xff", r"'x\.jpg', \.cls: cannot be read"),
    ):
        write_tar(tmp_path / "a.tar", [*sample("x", cls=content), *sample("y", cls=b"0")])
        with pytest.raises(UserError, match=message):
            read(tmp_path, classes=CLASSES)
    write_tar(tmp_path / "a.tar", [*sample("x", cls=b"0"), *sample("y", cls=b"0")])
    with pytest.raises(
        UserError, match=r"found class 0, but the data set has no names of classes; set reference\.classes"
    ):
        read(tmp_path)
    with pytest.raises(
        UserError,
        match=r"^reference\.labels: no picture of .* has a label \.json \(2 member .*, 2 picture without a label\)",
    ):
        read(tmp_path, labels="json", classes=CLASSES)
    write_tar(tmp_path / "a.tar", [*sample("x", json=b"[" * 100_000), *sample("y", json=b"{")])
    with pytest.raises(UserError, match=r"'x\.jpg', \.json: no JSON"):
        read(tmp_path, labels="json")


def test_what_is_no_plain_member_is_counted_and_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(encode_image(9, form="JPEG"))
    path = tmp_path / "in" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for name, kind in (("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE), ("d.jpg", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        content = encode_image(1)
        for name in ("/etc/x.png", "a/../../x.png", "./ok.PNG", "noending", ".hidden.png", "__meta__/x.png", "ok.cls"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        member = tarfile.TarInfo("\udcff.png")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    target = read_target(kind="webdataset", root=path.parent)
    assert [r.key for r in target.records] == ["ok.PNG"]
    assert open_image(target.records[0].path).size == (30, 20)
    assert target.skipped == {
        "member that is no plain file": 3,
        "member whose name leads out of the archive": 2,
        "member whose name is not UTF-8": 1,
        "member without an ending that is read": 4,
    }


def test_names_that_stand_twice(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*sample("x", 1), *sample("x", 2), ("x.png", encode_image(3)), ("only.cls", b"0")])
    target = read_target(kind="webdataset", root=tmp_path)
    assert [r.key for r in target.records] == ["x.jpg"]
    assert target.skipped == {
        "name twice in an archive": 1,
        "further picture of a sample": 1,
        "member without an ending that is read": 1,
    }
    write_tar(tmp_path / "b.tar", [*sample("x", 4), *sample("y", 5)])
    keys = [r.key for r in read_target(kind="webdataset", root=tmp_path).records]
    assert keys == ["a.tar/x.jpg", "b.tar/x.jpg", "b.tar/y.jpg"]


def test_labels_apart_from_their_picture(tmp_path: Path) -> None:
    pictures = [sample(key, cls=b"1") for key in ("x", "y")]
    write_tar(tmp_path / "a.tar", [*(s[0] for s in pictures), *(s[1] for s in pictures), ("z.cls", b"0")])
    both = read_reference(kind="webdataset", root=tmp_path, classes=CLASSES)
    assert all(r.annotations == (Annotation("traffic light"),) for r in (*both.train.records, *both.evaluation.records))
    assert both.train.skipped == {"labels without a picture": 1}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_archive_that_is_cut_off(tmp_path: Path, share: float) -> None:
    path = write_tar(tmp_path / "a.tar", [m for i in range(9) for m in sample(f"{i}")])
    whole = path.read_bytes()
    members = whole[: len(whole) - len(whole) % 512].rstrip(b"\0")
    path.write_bytes(members[: int(share * len(members))])
    with pytest.raises(UserError, match=r"a\.tar: (no whole tar archive|cut off or damaged at byte)"):
        read_target(kind="webdataset", root=tmp_path)


def test_archive_that_ends_after_a_whole_member(tmp_path: Path) -> None:
    """tarfile takes that for the end."""
    path = write_tar(tmp_path / "a.tar", [m for i in range(3) for m in sample(f"{i}")])
    with tarfile.open(path) as archive:
        last = archive.getmembers()[2].offset
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(UserError, match=rf"a\.tar: cut off or damaged at byte {last}; allowed: a whole archive"):
        read_target(kind="webdataset", root=tmp_path)


def test_archive_with_a_damaged_header(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [m for i in range(3) for m in sample(f"{i}")])
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1].offset
    content = bytearray(path.read_bytes())
    content[second : second + 8] = b"damaged!"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.tar: cut off or damaged at byte {second}"):
        read_target(kind="webdataset", root=tmp_path)


def test_archive_whose_member_goes_on_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    header = tarfile.TarInfo("x.jpg")
    header.size = 10**12
    path.write_bytes(header.tobuf() + bytes(1024))
    with pytest.raises(UserError, match=r"a\.tar: (no whole tar archive|cut off or damaged)"):
        read_target(kind="webdataset", root=tmp_path)


def test_what_is_no_plain_archive(tmp_path: Path) -> None:
    for content, message in (
        (gzip.compress(bytes(2048)), r"compressed \(gzip\), so that no picture can be read by itself; allowed: plain"),
        (b"BZh9" + bytes(99), r"compressed \(bzip2\)"),
        (b"no archive at all" * 100, "no whole tar archive"),
        (b"", "no whole tar archive"),
    ):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.tar: {message}"):
            read_target(kind="webdataset", root=tmp_path)


def test_no_archives_and_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^target\.shards: found no file '\*\.tar' below"):
        read_target(kind="webdataset", root=tmp_path)
    write_tar(tmp_path / "a.tar", [("x.cls", b"0")])
    with pytest.raises(UserError, match=r"^target\.shards: no pictures in 1 archives of .*; allowed: \.jpg, \.jpeg"):
        read_target(kind="webdataset", root=tmp_path)
    with pytest.raises(UserError, match=r"^target\.shards: found no file 'b1\.tar'"):
        read_target(kind="webdataset", root=tmp_path, shards="{a,b1}.tar")


def encode_mask(values: Any, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        picture.putpalette(list(range(255, -1, -1)) * 3)
    elif mode is not None:
        picture = picture.convert(mode)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", [None, "P"])
def test_masks_beside_the_pictures(tmp_path: Path, mode: str | None) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[2:5, 3:9], values[10:, :] = 1, 255
    members = [
        *sample("a", seg__png=encode_mask(values, mode)),
        *sample("n/b.x", seg__png=encode_mask(values, mode))[:1],
        *sample("c", seg__png=encode_mask(values, "RGB")),
        *sample("d", seg__png=b"no picture"),
        *sample("e"),
        ("f.seg.png", encode_mask(values)),
    ]
    write_tar(tmp_path / "0.tar", members)
    (tmp_path / "names.json").write_text('["sky", "dog", "cat"]')
    settings = {"kind": "webdataset", "root": tmp_path, "labels": "seg.png", "classes": tmp_path / "names.json"}
    both = read_reference(**settings)
    found = {r.key: r.annotations for part in (both.train, both.evaluation) for r in part.records}
    sky, dog = found["a.jpg"]
    assert (sky.concept, dog.concept) == ("sky", "dog")
    np.testing.assert_array_equal(sky.make_mask(20, 30), values == 0)
    np.testing.assert_array_equal(dog.make_mask(20, 30), values == 1)
    assert both.train.concepts == ("sky", "dog", "cat")
    assert [found[key] for key in ("c.jpg", "d.jpg", "e.jpg")] == [()] * 3
    assert both.train.skipped == {
        "mask that cannot be read": 2,
        "labels without a picture": 1,
        "picture without a label": 3,
        "member without an ending that is read": 1,
    }
    without = read_reference(**settings, mask_ignored=(0, 255)).train
    assert {a.concept for r in without.records for a in r.annotations} <= {"dog"}
    with pytest.raises(UserError, match=r"0\.tar: 'a\.jpg', \.seg\.png: found value 255 in a mask; allowed: 0 to 2"):
        read_reference(**settings, mask_ignored=())


def test_settings_of_masks(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [*sample("a", png=encode_mask(np.ones((20, 30)))), *sample("b")])
    with pytest.raises(UserError, match=r"^reference\.classes: missing; a mask needs the names of its values"):
        read_reference(kind="webdataset", root=tmp_path, labels="mask.png")
    with pytest.raises(ValueError, match="labels 'png' must not be among images"):
        read_reference(kind="webdataset", root=tmp_path, labels="png", classes=("sky",))
    found = read(tmp_path, labels="png", images=("jpg",), classes=("sky", "dog"))
    assert [a.concept for a in found["a.jpg"]] == ["dog"]
