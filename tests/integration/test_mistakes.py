"""The user's mistakes: exit code 2, clear lines on standard error, no stack trace, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.tiny import run_here, run_lavise

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["run", "dmo"],
            "found 'dmo'; allowed: a preset (coco-mini, coco-resnet18, demo, low-layers, vg-resnet50) or a YAML file",
        ),
        (["run", "demo", "--set", "train.objective=best"], "train.objective: found 'best'; allowed: 'hinge', 'cosine'"),
        (
            ["run", "demo", "--set", "explain.topimages=3"],
            "explain.topimages: unknown key; allowed: method, top_im",
        ),
        (
            ["run", "demo", "--set", "model.layers=layer9"],
            "model.layers: found 'layer9'; allowed: conv_stem, bn1",
        ),
        (
            ["run", "demo", "--set", "model.arch=torchvision:resnet18"],
            "does not fit the architecture: 102 missing",
        ),
        (
            ["run", "coco-mini", "--set", "reference.root=/nowhere"],
            "reference.root: found '/nowhere', which is no",
        ),
        (["run", "demo", "--set", "words.vectors=no.txt"], "no.txt', which is no file; allowed: package:"),
        (
            ["run", "demo", "--set", "tracking.uri=http://127.0.0.1:9"],
            "tracking.uri: http://127.0.0.1:9 does not",
        ),
        (["bias", "demo", "--groups", "gender"], "bias.groups: groups must be 'folder', 'folder:LEVEL', 'csv:FILE"),
        (
            ["bias", "demo", "--groups", "csv:no.csv:gender"],
            "no.csv', which is no file; set it, for example with --set bias.groups.file=PATH",
        ),
        (["bias", "demo"], "Missing option '--groups'"),
        (["layers", "torchvision:resnet81"], "model.arch: torchvision has no 'resnet81'; did you mean resnet"),
        (["run"], "Missing argument"),
    ],
)
def test_answers_with_one_clear_line_and_2(tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = run_here(tmp_path, *arguments)
    assert done.code == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_process_ends_with_2_and_one_line(tmp_path: Path) -> None:
    done = run_lavise(tmp_path, "run", "demo", "--set", "explain.top_images=many")
    assert done.code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("lavise: demo: explain.top_images: found 'many'; allowed: ")


def test_too_many_broken_pictures_are_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(photos / f"good{number}.png")
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    target = f"target={{kind: image_folder, root: '{photos}'}}"
    small = ["--set", "reference.train_scenes=8", "--set", "reference.evaluation_scenes=4"]
    done = run_here(tmp_path, "run", "demo", "--set", target, *small, "--set", "tracking.enabled=false")
    assert done.code == 2
    assert "data set photos: 1 of 5 pictures cannot be read (bad.jpg: not readable" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['lavise', '--help']\n"
        "from lavise.flows.command_line.commands import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'mlflow', 'prefect', 'numpy', 'dask', 'gensim', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
