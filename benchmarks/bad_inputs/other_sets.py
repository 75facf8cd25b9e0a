"""Data sets in other layouts, with one fault each; what is whole is kept, or the line says why not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bad_inputs.answers import COUNTED, REFUSED, Case
from benchmarks.bad_inputs.changes import (
    ANY,
    COUNT,
    FINE,
    INF,
    LINE,
    LONG,
    NAN,
    NESTED,
    Change,
    Row,
    add_lines,
    break_picture,
    cut,
    in_turn,
    make_cases,
    put_link,
    remove,
    resize,
    set_json,
    set_lines,
    set_text,
)
from benchmarks.bad_inputs.good_sets import (
    OPEN_BOXES,
    VOC_OBJECT,
    H,
    W,
    encode_picture,
    make_voc,
    write_colours,
    write_labels,
    write_picture,
    write_tar,
)


def list_cases() -> Iterator[Case]:
    """All of them."""
    return make_cases(_TABLES)


_X = "Annotations/p2.xml"
_VOC: tuple[Row, ...] = (
    ("no byte", set_text(_X, b""), LINE),
    ("cut in the middle", cut(_X), LINE),
    ("HTML", set_text(_X, "<html><body><br></body></html>"), LINE),
    (
        "a document type with entities",
        set_text(_X, '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'),
        LINE,
    ),
    (
        "a document type of a file",
        set_text(_X, '<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation/>'),
        LINE,
    ),
    (
        "an encoding that is not known",
        set_text(_X, b'<?xml version="1.0" encoding="no-such"?><annotation/>'),
        LINE,
    ),
    ("bytes that are no UTF-8", set_text(_X, b"<annotation>\xff\xfe</annotation>"), LINE),
    ("100,000 elements in each other", set_text(_X, "<a>" * 100_000), LINE),
    ("another root", set_text(_X, "<other/>"), ANY),
    ("no objects", set_text(_X, make_voc("<pose/>")), FINE),
    ("an object without a name", set_text(_X, make_voc(VOC_OBJECT.replace("<name>dog</name>", ""))), ANY),
    ("an object without a box", set_text(_X, make_voc("<object><name>dog</name></object>")), ANY),
    ("a box of texts", set_text(_X, make_voc(VOC_OBJECT.replace("<xmin>2", "<xmin>left"))), ANY),
    ("a box with NaN", set_text(_X, make_voc(VOC_OBJECT.replace("<xmin>2", "<xmin>nan"))), ANY),
    (
        "a box of 1e308",
        set_text(_X, make_voc(VOC_OBJECT.replace("<xmin>2", "<xmin>-1e308").replace("<xmax>12", "<xmax>1e308"))),
        ANY,
    ),
    ("a box turned inside out", set_text(_X, make_voc(VOC_OBJECT.replace("<xmin>2", "<xmin>20"))), ANY),
    (
        "a polygon of two corners",
        set_text(
            _X,
            make_voc(
                VOC_OBJECT.replace("</name>", "</name><polygon><x1>1</x1><y1>1</y1><x2>5</x2><y2>5</y2></polygon>")
            ),
        ),
        ANY,
    ),
    ("another size than the picture", set_text(_X, make_voc().replace(f"<width>{W}", "<width>999")), COUNT),
    ("no XML file", remove(_X), COUNT),
    ("a list that leads out", add_lines("ImageSets/Main/train.txt", "../../etc/passwd"), LINE),
    ("a list with a name of 5,000 characters", add_lines("ImageSets/Main/train.txt", LONG), LINE),
    ("a list with a name that is not there", add_lines("ImageSets/Main/train.txt", "nobody"), COUNT),
    ("a list in UTF-16", set_text("ImageSets/Main/train.txt", "p0\n".encode("utf-16")), LINE),
    ("a list that is empty", set_text("ImageSets/Main/train.txt", b""), LINE),
    ("a picture in both lists", add_lines("ImageSets/Main/val.txt", "p0"), LINE),
    ("a PNG of classes, cut", cut("SegmentationClass/p0.png"), LINE),
    ("a PNG of objects that leads out by a link", put_link("SegmentationObject/p0.png", "/etc/hostname"), LINE),
    ("a class that has no name", lambda root: write_labels(root / "SegmentationClass/p0.png", 77, 77), COUNT),
    ("a PNG of another size", resize("SegmentationClass/p0.png"), COUNT),
    ("labelmap.txt without colours", set_lines("labelmap.txt", "dog"), LINE),
    ("labelmap.txt with a colour of 999", set_lines("labelmap.txt", "dog:999,0,0::"), LINE),
)
_T = "labels/train/p0.txt"
_YOLO: tuple[Row, ...] = (
    ("data.yaml without a byte", set_text("data.yaml", b""), LINE),
    ("data.yaml that is no YAML", set_text("data.yaml", "names: [dog"), LINE),
    ("data.yaml with a zero byte", set_text("data.yaml", b"names: [do\0g]"), LINE),
    ("data.yaml with a tag of Python", set_text("data.yaml", "names: !!python/name:os.getcwd ''"), LINE),
    ("data.yaml with a date that is none", set_text("data.yaml", "names: 2020-13-45"), LINE),
    ("data.yaml with an alias of itself", set_text("data.yaml", "names: &a [*a]"), LINE),
    (
        "data.yaml of aliases of aliases",
        set_text(
            "data.yaml",
            "\n".join(
                ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]"]
                + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 8)]
                + ["names: *a7"]
            ),
        ),
        LINE,
    ),
    ("names a number", set_text("data.yaml", "train: images/train\nval: images/val\nnames: 5"), LINE),
    ("names with an empty one", set_text("data.yaml", "train: images/train\nnames: ['', cup]"), LINE),
    (
        "names with a number of 5,000 digits",
        set_text("data.yaml", f"train: images/train\nnames: {{'{LONG}': dog}}"),
        LINE,
    ),
    ("train that leads out", set_text("data.yaml", "train: ../../../etc\nnames: [dog, cup]"), LINE),
    ("train that is not there", set_text("data.yaml", "train: nowhere\nnames: [dog, cup]"), LINE),
    ("train a mapping", set_text("data.yaml", "train: {a: 1}\nnames: [dog, cup]"), LINE),
    (
        "kpt_shape of texts",
        set_text("data.yaml", "train: images/train\nnames: [dog, cup]\nkpt_shape: [a, b]"),
        LINE,
    ),
    ("path a list", set_text("data.yaml", "path: []\ntrain: images/train\nnames: [dog, cup]\nval: [1]"), LINE),
    ("a row of text", set_lines(_T, "dog 0.5 0.5 0.1 0.1"), LINE),
    ("a row of three numbers", set_lines(_T, "0 0.5 0.5"), LINE),
    ("a row with NaN", set_lines(_T, "0 nan 0.5 0.1 0.1"), LINE),
    ("a row with infinity", set_lines(_T, "0 inf 0.5 0.1 0.1"), LINE),
    ("a class of 1e308", set_lines(_T, "1e308 0.5 0.5 0.1 0.1"), LINE),
    ("a class that has no name", set_lines(_T, "7 0.5 0.5 0.1 0.1"), LINE),
    ("a class of a half", set_lines(_T, "0.5 0.5 0.5 0.1 0.1"), LINE),
    ("pixels instead of shares", set_lines(_T, "0 15 12 8 12"), COUNT),
    ("a box of 1e308", set_lines(_T, "0 0.5 0.5 1e308 1e308"), ANY),
    ("a box without area", set_lines(_T, "0 0.5 0.5 0 0.5"), COUNT),
    ("a polygon without a pixel", set_lines(_T, "0 0.1 0.1 0.1 0.1 0.1 0.1"), COUNT),
    ("a row twice", add_lines(_T, "0 0.5 0.5 0.25 0.5"), COUNT),
    ("labels in UTF-16", set_text(_T, "0 0.5 0.5 0.1 0.1".encode("utf-16")), LINE),
    ("a file of labels without a picture", set_lines("labels/train/nobody.txt", "0 0.5 0.5 0.1 0.1"), COUNT),
    ("labels that lead out by a link", put_link(_T, "/etc/hostname"), LINE),
    ("a broken picture", break_picture("images/train/p0.jpg"), COUNT),
)
_B = "train-boxes.csv"
_OPEN: tuple[Row, ...] = (
    ("boxes without a byte", set_text(_B, b""), LINE),
    ("boxes without a column", set_lines(_B, "ImageID,LabelName", "p0,/m/1"), LINE),
    ("a short line", add_lines(_B, "p0,xclick,/m/1"), LINE),
    ("a box of text", add_lines(_B, "p0,xclick,/m/1,1,a,b,c,d,0,0,0,0,0"), LINE),
    ("a box with NaN", add_lines(_B, "p0,xclick,/m/1,1,nan,1,0,1,0,0,0,0,0"), LINE),
    ("a box in pixels", add_lines(_B, "p0,xclick,/m/1,1,10,20,0,30,0,0,0,0,0"), LINE),
    ("a box without area", add_lines(_B, "p0,xclick,/m/1,1,0.5,0.5,0,1,0,0,0,0,0"), COUNT),
    ("a picture that is not there", add_lines(_B, "nobody,xclick,/m/1,1,0,1,0,1,0,0,0,0,0"), COUNT),
    ("a label without a name", add_lines(_B, "p0,xclick,/m/99,1,0,1,0,1,0,0,0,0,0"), COUNT),
    ("a group", add_lines(_B, "p0,xclick,/m/1,1,0,1,0,1,0,0,1,0,0"), COUNT),
    ("a zero byte", set_text(_B, f"{OPEN_BOXES}\np0,\0,/m/1,1,0,1,0,1,0,0,0,0,0\n"), ANY),
    ("a cell of 200,000 characters", add_lines(_B, f"p0,{LONG * 40},/m/1,1,0,1,0,1,0,0,0,0,0"), LINE),
    ("classes of one column", set_lines("classes.csv", "LabelName", "/m/1"), LINE),
    ("classes in UTF-16", set_text("classes.csv", "/m/1,Dog".encode("utf-16")), LINE),
    ("a confidence of text", add_lines("labels.csv", "p1,v,/m/3,sure"), LINE),
    ("a confidence of NaN", add_lines("labels.csv", "p1,v,/m/3,nan"), COUNT),
    ("a mask without a file", add_lines("masks.csv", "no.png,p0,/m/1,2f,,,,,,"), COUNT),
    ("a mask's name that leads out", add_lines("masks.csv", "../../etc/passwd,p0,/m/1,2f,,,,,,"), COUNT),
    ("a mask, cut", cut("masks/0/p0.png"), LINE),
    ("a mask without a pixel", lambda root: write_labels(root / "masks" / "0" / "p0.png", 0), COUNT),
    ("the hierarchy a list", set_text("hierarchy.json", "[]"), LINE),
    ("the hierarchy of 100,000 brackets", set_text("hierarchy.json", NESTED), LINE),
)
_D = "images/training/p0"
_ADE: tuple[Row, ...] = (
    ("description cut", cut(f"{_D}.json"), LINE),
    ("description without annotation", set_text(f"{_D}.json", "{}"), LINE),
    ("name_ndx infinite", set_json(f"{_D}.json", "annotation", "object", 0, "name_ndx", value=INF), LINE),
    ("an object that is a number", set_json(f"{_D}.json", "annotation", "object", 0, value=4), LINE),
    ("a class without a name", set_json(f"{_D}.json", "annotation", "object", 0, "name", value=""), COUNT),
    ("no description", remove(f"{_D}.json"), LINE),
    ("_seg.png cut", cut(f"{_D}_seg.png"), LINE),
    ("_seg.png grey", lambda root: write_labels(root / f"{_D}_seg.png", 1), LINE),
    ("_seg.png missing", remove(f"{_D}_seg.png"), COUNT),
    ("_seg.png of another size", resize(f"{_D}_seg.png"), COUNT),
    ("_seg.png that leads out by a link", put_link(f"{_D}_seg.png", "/etc/hostname"), LINE),
    ("_atr.txt without #", set_lines("images/validation/p5_atr.txt", "1 0 0 dog"), LINE),
    (
        "_atr.txt with a number of 5,000 digits",
        set_lines("images/validation/p5_atr.txt", f'{LONG} # 0 # 0 # dog # dog # ""'),
        LINE,
    ),
    (
        "an index that is no MATLAB file",
        in_turn(set_text("index.mat", "MATLAB"), remove(f"{_D}.json")),
        LINE,
    ),
    ("a broken picture", break_picture(f"{_D}.jpg"), COUNT),
)
_SCENES: tuple[Row, ...] = (
    ("objectInfo150.txt with commas", set_lines("objectInfo150.txt", "Idx,Ratio,Name", "1,0.1,dog"), LINE),
    (
        "objectInfo150.txt with a number that is none",
        set_lines("objectInfo150.txt", "Idx\tRatio\tName", "one\t0.1\tdog"),
        LINE,
    ),
    ("objectInfo150.txt empty", set_text("objectInfo150.txt", b""), LINE),
    ("a PNG in colours", lambda root: write_picture(root / "annotations/training/p0.png"), LINE),
    ("a PNG missing", remove("annotations/training/p0.png"), COUNT),
    ("a class without a name", lambda root: write_labels(root / "annotations/training/p0.png", 99), COUNT),
)
_BRODEN: tuple[Row, ...] = (
    ("index.csv without columns", set_lines("index.csv", "a,b", "1,2"), LINE),
    (
        "index.csv with a picture that leads out",
        add_lines("index.csv", f"../../../etc/hostname,train,{H},{W},{H},{W},,8,"),
        LINE,
    ),
    (
        "index.csv with a PNG that leads out",
        add_lines("index.csv", f"ade/p0.jpg,other,{H},{W},{H},{W},,../../../x.png,"),
        (REFUSED, COUNTED),
    ),
    (
        "index.csv with a PNG of control characters",
        set_text(
            "index.csv",
            "image,split,object,part\nade/p0.jpg,train,\x1b[31m.png,\nade/p1.jpg,train,8,\nade/p2.jpg,val,8,\n",
        ),
        LINE,
    ),
    (
        "index.csv with a number of 5,000 digits",
        add_lines("index.csv", f"ade/p9.jpg,train,{H},{W},{H},{W},,{LONG},"),
        COUNT,
    ),
    ("a picture that is not there", add_lines("index.csv", f"ade/no.jpg,train,{H},{W},{H},{W},,8,"), COUNT),
    ("a picture twice", add_lines("index.csv", f"ade/p0.jpg,train,{H},{W},{H},{W},,8,"), LINE),
    ("label.csv with a number of 5,000 digits", add_lines("label.csv", f"{LONG},x,y"), LINE),
    ("c_object.csv with a number that is not in label.csv", add_lines("c_object.csv", "3,77,x"), LINE),
    ("c_object.csv missing", remove("c_object.csv"), LINE),
    ("a PNG, cut", cut("images/ade/p0.png"), LINE),
    ("a PNG, grey", lambda root: write_labels(root / "images/ade/p0.png", 1), LINE),
    (
        "a PNG with a label without a name",
        lambda root: write_colours(root / "images/ade/p0.png", (99, 9, 0)),
        COUNT,
    ),
)
_FOLDERS: tuple[Row, ...] = (
    ("one class without pictures", lambda root: (root / "empty").mkdir(), FINE),
    ("a broken picture", break_picture("cup/p0.png"), COUNT),
    ("files that are no pictures", set_lines("cup/notes.txt", "hello"), COUNT),
    ("a link that leads out", put_link("cup/out.png", "/etc/hostname"), COUNT),
    ("a link that leads nowhere", put_link("cup/lost.png", "nowhere.png"), COUNT),
    ("a link that leads to itself", put_link("cup/me.png", "me.png"), COUNT),
    ("a folder that leads to the root", put_link("cup/loop", ".."), COUNT),
    ("a class called by HTML", lambda root: write_picture(root / "<b>x" / "a.png"), FINE),
    ("a class of control characters", lambda root: write_picture(root / "\x1b[31mred" / "a.png"), FINE),
    ("a class that is no UTF-8", lambda root: write_picture(root / "\udcff" / "a.png"), ANY),
    ("a class of one picture", lambda root: write_picture(root / "one" / "a.png"), FINE),
    ("a picture that is a pipe", lambda root: os.mkfifo(root / "cup" / "pipe.png"), COUNT),
)
_CSV: tuple[Row, ...] = (
    ("no byte", set_text("labels.csv", b""), LINE),
    ("a header alone", set_lines("labels.csv", "image,label"), LINE),
    ("separated by semicolons", set_lines("labels.csv", "image;label", "p0.jpg;dog"), LINE),
    ("a column that is not there", set_lines("labels.csv", "image,class", "p0.jpg,dog"), LINE),
    ("a column twice", set_lines("labels.csv", "image,label,label", "p0.jpg,dog,cup"), LINE),
    ("more cells than the header", add_lines("labels.csv", "p0.jpg,dog,cup"), LINE),
    ("a quote that is not closed", add_lines("labels.csv", 'p0.jpg,"dog'), LINE),
    ("a cell of 200,000 characters", add_lines("labels.csv", f"p0.jpg,{LONG * 40}"), LINE),
    ("UTF-16", set_text("labels.csv", "image,label\np0.jpg,dog\n".encode("utf-16")), LINE),
    ("Latin-1", set_text("labels.csv", "image,label\np0.jpg,café\n".encode("latin-1")), LINE),
    ("a zero byte", set_text("labels.csv", b"image,label\np0.jpg,d\0og\np1.jpg,cup\n"), ANY),
    ("lines that end in \\r alone", set_text("labels.csv", b"image,label\rp0.jpg,dog\rp1.jpg,cup\r"), ANY),
    ("a name that leads out", add_lines("labels.csv", "../../etc/passwd,dog"), COUNT),
    ("a name that is not there", add_lines("labels.csv", "nobody.jpg,dog"), COUNT),
    ("no label at all", set_lines("labels.csv", "image,label", "p0.jpg,", "p1.jpg,"), LINE),
    ("a label of HTML", add_lines("labels.csv", "p0.jpg,<script>alert(1)</script>"), FINE),
    ("a label of control characters", add_lines("labels.csv", "p0.jpg,\x1b[31mred\x1b[0m"), FINE),
    ("a label that a spreadsheet would compute", add_lines("labels.csv", 'p0.jpg,"=1+1"'), FINE),
)


def _members(*members: tuple[str, bytes]) -> Change:
    good = json.dumps({"objects": [{"bbox": [2, 2, 10, 8], "category": "dog"}]}).encode()
    kept = [m for n in range(4) for m in ((f"g{n}.png", encode_picture(n)), (f"g{n}.json", good))]
    return lambda root: write_tar(root / "000.tar", [*kept, *members])


def _without_end(root: Path) -> None:
    content = (root / "000.tar").read_bytes().rstrip(b"\0")
    (root / "000.tar").write_bytes(content + bytes(-len(content) % 512))


def _objects(content: Any) -> Change:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return _members(("bad.png", encode_picture(7)), ("bad.json", text))


def _box(*numbers: float) -> Change:
    return _objects({"objects": [{"bbox": numbers, "category": "dog"}]})


_TAR: tuple[Row, ...] = (
    ("no byte", set_text("000.tar", b""), LINE),
    ("noise", set_text("000.tar", bytes(range(256)) * 40), LINE),
    ("cut in the middle", cut("000.tar"), LINE),
    ("without its end", _without_end, LINE),
    ("compressed", set_text("000.tar", b"\x1f\x8b\x08" + bytes(1000)), LINE),
    ("a name that leads out", _members(("../../bad.png", encode_picture(7))), COUNT),
    ("a name that is absolute", _members(("/etc/bad.png", encode_picture(7))), COUNT),
    ("a picture of no byte", _members(("bad.png", b"")), COUNT),
    ("a picture without labels", _members(("bad.png", encode_picture(7))), COUNT),
    ("labels without a picture", _members(("bad.json", b"{}")), COUNT),
    ("labels that are no JSON", _objects(b"{"), LINE),
    ("labels of 100,000 brackets", _objects(NESTED.encode()), LINE),
    ("labels that are no UTF-8", _objects(b"\xff\xfe"), LINE),
    ("labels without objects", _objects({"label": "dog"}), LINE),
    ("objects a number", _objects({"objects": 5}), LINE),
    ("a box of text", _objects({"objects": [{"bbox": "1 2 3 4", "category": "dog"}]}), LINE),
    ("a box with NaN", _box(NAN, 1, 2, 3), LINE),
    ("a box of 400 digits", _objects({"objects": [{"bbox": [10**400, 1, 2, 3], "category": "dog"}]}), LINE),
    ("a box of 1e308", _box(1e308, 1, 1e308, 3), FINE),
    ("a box without area", _box(1, 1, 0, 3), COUNT),
    ("a category that is a list", _objects({"objects": [{"bbox": [1, 1, 2, 2], "category": ["dog"]}]}), LINE),
    (
        "a category by a number that has no name",
        _objects({"objects": [{"bbox": [1, 1, 2, 2], "category": 3}]}),
        LINE,
    ),
)
_P = "data/train-00000-of-00001.parquet"
_TABLE: tuple[Row, ...] = (
    ("no byte", set_text(_P, b""), LINE),
    ("text", set_text(_P, "hello"), LINE),
    ("cut in the middle", cut(_P), LINE),
    ("its first half alone, with its mark", set_text(_P, b"PAR1" + bytes(100) + b"PAR1"), LINE),
    ("an empty folder", remove(_P), LINE),
    ("a script beside it", set_lines("script.py", "raise SystemExit"), ANY),
    ("dataset_info.json that is none", set_text("dataset_info.json", "{"), ANY),
)
_TABLES: dict[str, tuple[Row, ...]] = {
    "pascal_voc": _VOC,
    "yolo": _YOLO,
    "open_images": _OPEN,
    "ade20k": _ADE,
    "scene_parse": _SCENES,
    "broden": _BRODEN,
    "image_folder": _FOLDERS,
    "csv_labels": _CSV,
    "webdataset": _TAR,
    "huggingface": _TABLE,
}
