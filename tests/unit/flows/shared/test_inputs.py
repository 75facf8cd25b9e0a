"""The data of an audit: what is said as they are opened, the first pictures of each part, for baselines, and what
pictures of bands may come from.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.shared.inputs import Inputs, check_bands, describe_sources, open_inputs, take_images
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.progress import no_progress
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.report.summary import describe_audit
from tests.unit.flows.helpers import make_config
from tests.unit.tasks.helpers import write_image

SIZES = {Role.TRAIN: 5, Role.EVALUATION: 3, Role.TARGET: 4}


def digest(parts: dict[Role, Dataset]) -> Inputs:
    pictures = {role: data.digest_images() for role, data in parts.items()}
    digests = {role: data.compute_digest(pictures[role]) for role, data in parts.items()}
    return Inputs(parts[Role.TRAIN], parts[Role.EVALUATION], parts[Role.TARGET], digests, pictures)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    parts = {}
    for n, (role, size) in enumerate(SIZES.items()):
        paths = [write_image(tmp_path / role / f"{i}.png", 8, 8, seed=10 * n + i) for i in range(size)]
        # The last picture alone has the concept "sky".
        records = [ImageRecord(p.name, p, (Annotation("sky" if p is paths[-1] else "cat"),)) for p in paths]
        parts[role] = Dataset(role, tuple(records), ("cat", "sky"), {"broken": 1})
    return digest(parts)


def test_first_pictures_of_each_part(inputs: Inputs) -> None:
    found = take_images(inputs, 3, no_progress)
    for role in Role:
        before, after = inputs.of(role), found.of(role)
        assert after.records == before.records[:3]
        # Concepts keep their numbers, though a picture with one may be gone.
        assert (after.name, after.concepts) == (before.name, ("cat", "sky"))


def test_digests_are_those_of_what_is_left(inputs: Inputs) -> None:
    found = take_images(inputs, 3, no_progress)
    expected = digest({role: replace(inputs.of(role), records=found.of(role).records) for role in Role})
    assert (found.digests, found.image_digests) == (expected.digests, expected.image_digests)
    for digests, before in ((found.digests, inputs.digests), (found.image_digests, inputs.image_digests)):
        # A part that is small enough is the same data set, and its stages can be reused.
        assert [digests[role] == before[role] for role in Role] == [False, True, False]


@pytest.mark.parametrize("num", [5, 1000])
def test_enough_for_all_changes_nothing(inputs: Inputs, num: int) -> None:
    assert take_images(inputs, num, no_progress) is inputs


def test_given_inputs_stay_as_they_are(inputs: Inputs) -> None:
    before = {role: len(inputs.of(role).records) for role in Role}
    take_images(inputs, 1, no_progress)
    assert {role: len(inputs.of(role).records) for role in Role} == before == SIZES


def test_how_data_were_read_is_logged_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Boxes alone, in one file, whose categories begin with the data set's name."""
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.png", 8, 8, seed=number)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(4)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4]} for i in range(4)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    settings = ["train_images=images", "train_annotations=labels.json", "evaluation_share=0.5"]
    overrides = [f"reference.{s}" for s in settings]
    config = load_config("coco-mini", [*overrides, f"reference.root={tmp_path}", f"target.root={tmp_path / 'images'}"])
    with caplog.at_level(logging.INFO, logger="lavise"):
        found = open_inputs(config, cast(Any, None), no_progress)
    note = "4 of 4 masks are boxes"
    assert [r.getMessage() for r in caplog.records] == [f"  reference {tmp_path.name}/train: {note}"]
    assert found.collect_notes() == {Role.TRAIN: [note]}
    assert [facts.notes for facts in found.describe(dict.fromkeys(Role, ""))] == [(note,), (), ()]


def test_several_sources_are_named(tmp_path: Path) -> None:
    """For MLflow, in the report's heading, and to an analysis that takes the first so many."""
    for source, label in (("a", "cat"), ("b", "dog")):
        for number in range(4):
            seed = number + 10 * (source == "b")
            write_image(tmp_path / source / label / f"{number}.png", 8, 8, seed=seed)
    sources = [f"{{kind: image_folder, root: {tmp_path / name}, evaluation_share: 0.5}}" for name in "ab"]
    reference = f"reference={{kind: combined, sources: [{', '.join(sources)}]}}"
    config = load_config("coco-mini", [reference, f"target.root={tmp_path / 'a'}"])
    found = open_inputs(config, cast(Any, None), no_progress)
    places = describe_sources(config, cast(Any, None))
    assert places[Role.TRAIN] == places[Role.EVALUATION] == f"{tmp_path / 'a'}, {tmp_path / 'b'}"
    facts = found.describe(places)[0]
    assert facts.name == "a/train + b/train"
    assert any(note.startswith("1-image_folder is b/train: 2 pictures") for note in facts.notes)
    heading = describe_audit(config, "m", found.train, found.evaluation, found.target)
    assert heading["Reference"] == "a/train + b/train: 4 pictures to train, 4 to evaluate, 2 categories"
    assert "0 of 2 categories are of several sources" in heading["How data were read"]
    few = take_images(found, 2, no_progress).train
    assert [a.concept for r in few.records for a in r.annotations] == ["cat", "dog"]


def test_what_was_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By an audit as it opens its data: a target of which one file is no picture, a reference with nested folders."""
    for name in ("ref/train/n02012849/1.png", "ref/train/n03126707/2.png", "ref/val/n02012849/3.png", "target/1.png"):
        write_image(tmp_path / name, 8, 8, seed=1)
    (tmp_path / "target" / "2.heic").write_bytes(b"x")
    config = make_config(tmp_path, reference={"root": tmp_path / "ref"})
    with caplog.at_level(logging.WARNING, "lavise"):
        opened = open_inputs(config, StageRunner(ArtefactStore(tmp_path / "state")), no_progress)
    assert opened.train.concepts == ("crane",)
    messages = [record.getMessage() for record in caplog.records]
    assert [m.split(":")[0] for m in messages] == ["  reference ref/train"] * 3 + ["  target target"]
    assert "n02012849 and n03126707 are 'crane'" in messages[1]
    assert messages[3] == "  target target: left out 1 x file with the ending .heic"


def make_settings(**overrides: str) -> Config:
    base = ["reference={kind: coco, root: r}", "target={kind: image_folder, root: t}"]
    return load_config("demo", base + [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()])


def test_scenes_in_colours_are_refused_for_a_network_of_bands() -> None:
    check_bands(make_settings(), 5)
    check_bands(load_config("demo"), 3)
    with pytest.raises(UserError, match=r"^target\.kind: found openmoji, .*; the network takes 5 bands; allowed: "):
        check_bands(make_settings(target="{kind: openmoji}"), 5)
    with pytest.raises(UserError, match=r"^reference\.kind: found openmoji"):
        check_bands(make_settings(reference="{kind: openmoji}"), 2)


def test_bands_that_there_are_not_cannot_be_shown() -> None:
    check_bands(make_settings(report__bands="[5, 1, 1]"), 5)
    with pytest.raises(UserError, match=r"^report\.bands: found \[6\]; the network takes bands 1 to 5; "):
        check_bands(make_settings(report__bands="[6]"), 5)
    with pytest.raises(UserError, match=r"^report\.bands: found \[1, 2, 3\]; the network takes pictures in colours; "):
        check_bands(make_settings(report__bands="[1, 2, 3]"), 3)
