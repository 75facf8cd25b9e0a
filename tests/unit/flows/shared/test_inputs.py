"""The first pictures of each part, for baselines; what pictures of bands may come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.shared.inputs import Inputs, check_bands, take_images
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.state.progress import no_progress
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


def make_config(**overrides: str) -> Config:
    base = ["reference={kind: coco, root: r}", "target={kind: image_folder, root: t}"]
    return load_config("demo", base + [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()])


def test_scenes_in_colours_are_refused_for_a_network_of_bands() -> None:
    check_bands(make_config(), 5)
    check_bands(load_config("demo"), 3)
    with pytest.raises(UserError, match=r"^target\.kind: found openmoji, .*; the network takes 5 bands; allowed: "):
        check_bands(make_config(target="{kind: openmoji}"), 5)
    with pytest.raises(UserError, match=r"^reference\.kind: found openmoji"):
        check_bands(make_config(reference="{kind: openmoji}"), 2)


def test_bands_that_there_are_not_cannot_be_shown() -> None:
    check_bands(make_config(report__bands="[5, 1, 1]"), 5)
    with pytest.raises(UserError, match=r"^report\.bands: found \[6\]; the network takes bands 1 to 5; "):
        check_bands(make_config(report__bands="[6]"), 5)
    with pytest.raises(UserError, match=r"^report\.bands: found \[1, 2, 3\]; the network takes pictures in colours; "):
        check_bands(make_config(report__bands="[1, 2, 3]"), 3)
