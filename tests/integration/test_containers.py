"""An audit of which no picture is a file of its own: the reference in tables, the target in archives."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from lavise.storage.datasets.readers.openmoji import write_scenes
from tests.integration.tiny import digest_artefacts, make_arguments, run_here
from tests.unit.storage.datasets.readers.containers import IMAGE, make_table, write_parquet, write_tar

pytestmark = pytest.mark.slow


def lay_out(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Scenes with their first object as the class, and scenes as the target: as files, and inside others."""
    path = folder / "drawn"
    path.mkdir()
    write_scenes(path, "train", 60, 64, seed=0)
    content = json.loads((path / "annotations" / "instances_train.json").read_text("utf-8"))
    first = {a["image_id"]: a["category_id"] for a in reversed(content["annotations"])}
    names = {c["id"]: c["name"] for c in content["categories"]}
    files = {i["id"]: (path / "train" / i["file_name"]).read_bytes() for i in content["images"]}
    ids = sorted(files)
    concepts = sorted({names[first[i]] for i in ids[:40]})
    keys = sorted(f"{names[first[i]]}/{i:03d}.png" for i in ids[:40])
    for key in keys:
        (folder / "reference" / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / "reference" / key).write_bytes(files[int(Path(key).stem)])
    labels = {"names": concepts, "_type": "ClassLabel"}
    rows = [
        {"image": {"bytes": files[int(Path(k).stem)], "path": None}, "key": k, "label": concepts.index(k.split("/")[0])}
        for k in keys
    ]
    columns = {"image": IMAGE, "key": pyarrow.string(), "label": pyarrow.int64()}
    table = make_table(columns, rows, {"label": labels})
    write_parquet(folder / "tables" / "train-00000-of-00001.parquet", table, rows=7)
    members = sorted((f"{'day' if i % 2 else 'night'}/{i:03d}.png", files[i]) for i in ids[40:])
    for name, picture in members:
        (folder / "target" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "target" / name).write_bytes(picture)
    write_tar(folder / "archives" / "0.tar", members[:12])
    write_tar(folder / "archives" / "1.tar", members[12:])
    return (
        {
            "reference": f"{{kind: image_folder, root: {folder / 'reference'}}}",
            "target": f"{{kind: image_folder, root: {folder / 'target'}}}",
        },
        {
            "reference": f"{{kind: huggingface, root: {folder / 'tables'}, key: key}}",
            "target": f"{{kind: webdataset, root: {folder / 'archives'}, shards: '{{0..1}}.tar'}}",
        },
    )


def test_same_bits_as_from_files_and_all_that_follows_works(tmp_path: Path) -> None:
    plain, inside = lay_out(tmp_path)
    found = {}
    for name, data in (("plain", plain), ("inside", inside)):
        home = tmp_path / name
        home.mkdir()
        arguments = make_arguments(**data, report__max_size_mb=5, bias__min_images=2)
        done = run_here(home, "bias", "demo", "--groups", "folder", "--json", *drop_scenes(arguments))
        assert done.code == 0, done.stderr
        found[name] = done.result
    own = digest_artefacts(tmp_path / "plain")
    same = {k: v for k, v in digest_artefacts(tmp_path / "inside").items() if not k.startswith("report/")}
    assert same == {k: v for k, v in own.items() if not k.startswith("report/")}
    folders = {name: Path(result["run_dir"]) for name, result in found.items()}
    rows = [parquet.read_table(f / "filters.parquet").to_pylist() for f in folders.values()]
    assert rows[0] == rows[1]
    assert (folders["inside"] / "overview.png").read_bytes() == (folders["plain"] / "overview.png").read_bytes()
    pages = [(f / "report.html").read_text("utf-8") for f in folders.values()]
    assert [page.count('"UklGR') for page in pages] == [20, 20]  # all pictures of the target; WebP in base64
    assert {g["name"] for g in json.loads((folders["inside"] / "bias.json").read_text("utf-8"))["groups"]} == {
        "day",
        "night",
    }
    home = tmp_path / "inside"
    again = run_here(home, "rerun", str(folders["inside"]))
    assert again.code == 0, again.stdout + again.stderr
    compared = run_here(home, "diff", str(folders["inside"]), str(folders["inside"]), "--json")
    assert compared.code == 0, compared.stdout + compared.stderr


def drop_scenes(arguments: list[str]) -> list[str]:
    """Without the settings of scenes, which other data do not have."""
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return [part for pair in pairs if not pair[1].startswith(("reference.", "target.")) for part in pair]
