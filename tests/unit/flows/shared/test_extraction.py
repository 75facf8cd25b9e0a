"""Stores of several layers from one pass over real pictures: made once, and without what cannot be read."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.roles import Role
from lavise.configs.schema import ExtractSettings
from lavise.flows.shared.extraction import extract_layers
from lavise.storage.activations import INDEX_FILE, ActivationStore
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.images.images import num_decoded
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.tasks.classifiers import break_image, load_images
from tests.unit.tasks.helpers import TinyNetwork, make_model, write_image

SETTINGS = ExtractSettings(batch_size=2, shard_images=4, max_broken_share=0.4)
TITLE = "extract target"


def make_data(folder: Path, num: int = 6) -> Dataset:
    paths = [write_image(folder / f"{i}.png", 24 + i, 40 - i, seed=i) for i in range(num)]
    return Dataset("photos", tuple(ImageRecord(path.name, path) for path in paths))


def extract(
    root: Path,
    data: Dataset,
    layers: Sequence[str],
    model: TargetModel | None = None,
    settings: ExtractSettings = SETTINGS,
    subject: str = "",
) -> tuple[tuple[Handle, ...], StageRunner]:
    runner = StageRunner(ArtefactStore(root))
    pictures = Given(data, data.digest_images())
    inputs = ExtractionInputs(model or make_model(), tuple(layers), pictures, settings, "cpu")
    return extract_layers(runner, TITLE, inputs, role=Role.TARGET, subject=subject), runner


def test_two_layers_are_what_the_network_computes(tmp_path: Path) -> None:
    data, model = make_data(tmp_path / "photos"), make_model()
    handles, _ = extract(tmp_path, data, ("tail", "body.1"), model)
    network = model.network
    assert isinstance(network, TinyNetwork)
    with torch.inference_mode():
        body = network.body(network.stem(load_images(model, data.records)).relu())
        expected = (network.tail(body), body)
    assert [h.settings["layer"] for h in handles] == ["tail", "body.1"]
    for handle, maps in zip(handles, expected, strict=True):
        store = ActivationStore(handle.folder)
        assert list(store.keys) == [r.key for r in data.records]
        np.testing.assert_allclose(store.read_images(range(6)), maps.numpy(), atol=2e-3)


def test_all_layers_cost_one_look_at_each_picture(tmp_path: Path) -> None:
    data = make_data(tmp_path / "photos")
    before = num_decoded()
    extract(tmp_path, data, ("stem", "body", "tail"))
    assert num_decoded() - before == 6


def test_the_second_time_nothing_is_decoded(tmp_path: Path) -> None:
    data = make_data(tmp_path / "photos")
    first, runner = extract(tmp_path, data, ("body", "tail"))
    assert runner.outcomes[TITLE].cached is False
    before = num_decoded()
    again, runner = extract(tmp_path, data, ("body", "tail"))
    assert num_decoded() == before
    assert runner.outcomes[TITLE].cached is True
    assert again == first


def test_a_layer_more_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    data = make_data(tmp_path / "photos")
    (tail,), _ = extract(tmp_path, data, ("tail",))
    written = tail.path("shard-000000.h5").stat().st_mtime_ns
    (body, again), runner = extract(tmp_path, data, ("body", "tail"))
    assert runner.outcomes[TITLE].cached is False
    assert (again, again.path("shard-000000.h5").stat().st_mtime_ns) == (tail, written)
    assert ActivationStore(body.folder).shape == (6, 8, 8, 8)


@pytest.mark.parametrize("changed", ["weights", "preprocessing", "pictures", "batch size"])
def test_whatever_changes_the_maps_makes_another_store(tmp_path: Path, changed: str) -> None:
    data, model, settings = make_data(tmp_path / "photos"), make_model(), SETTINGS
    (first,), _ = extract(tmp_path, data, ("tail",), model)
    if changed == "weights":
        model = make_model(seed=1)
    elif changed == "preprocessing":
        model = replace(model, mean=(0.0, 0.0, 0.0))
    elif changed == "pictures":
        write_image(data.records[0].file, 24, 40, seed=99)
    else:
        settings = ExtractSettings(batch_size=1, shard_images=4, max_broken_share=0.4)
    (second,), runner = extract(tmp_path, data, ("tail",), model, settings)
    assert second.digest != first.digest
    assert runner.outcomes[TITLE].cached is False


def test_the_outcome_says_what_was_read_and_for_whom(tmp_path: Path) -> None:
    _, runner = extract(tmp_path, make_data(tmp_path / "photos"), ("tail",), subject="random network")
    outcome = runner.outcomes[TITLE]
    assert (outcome.stage, outcome.role, outcome.subject) == ("extract", "target", "random network")


def test_a_broken_picture_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also when the store is there already."""
    data = make_data(tmp_path / "photos")
    break_image(data.records[3])
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lavise"):
            (body, tail), _ = extract(tmp_path, data, ("body", "tail"))
        (record,) = caplog.records
        assert record.getMessage() == "  skipped picture '3.png': not readable: no picture of a known format"
    kept = ["0.png", "1.png", "2.png", "4.png", "5.png"]
    assert [list(ActivationStore(h.folder).keys) for h in (body, tail)] == [kept, kept]


def test_pictures_that_are_nearly_of_one_shade_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Twelve bits in sixteen come out black; they are kept, and each run says so."""
    data = make_data(tmp_path / "photos")
    noise = np.random.default_rng(0).integers(0, 2700, (30, 30), dtype=np.uint16)
    for i in (1, 5):
        Image.fromarray(noise).save(data.records[i].file)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lavise"):
            (handle,), _ = extract(tmp_path, data, ("tail",))
        (record,) = caplog.records
        assert record.getMessage().startswith("  2 of 6 pictures of photos use under 5 % of the range ")
        assert "(as '1.png')" in record.getMessage()
        assert "set target.value_range" in record.getMessage()
    assert handle.info["num_flat"] == 2
    assert json.loads(handle.path(INDEX_FILE).read_text("utf-8"))["flat"] == ["1.png", "5.png"]
    assert "flat" not in ActivationStore(handle.folder).read_provenance()
    caplog.clear()
    ranged = Dataset("photos", tuple(replace(r, value_range=(0.0, 2699.0)) for r in data.records))
    with caplog.at_level(logging.WARNING, "lavise"):
        (other,), _ = extract(tmp_path, ranged, ("tail",))
    assert other.digest != handle.digest
    assert not caplog.records
    assert "num_flat" not in other.info


def test_too_many_broken_pictures_stop(tmp_path: Path) -> None:
    data = make_data(tmp_path / "photos")
    for record in data.records[::2]:
        break_image(record)
    with pytest.raises(UserError, match=r"data set photos: 3 of 6 pictures cannot be read \(0\.png: not readable"):
        extract(tmp_path, data, ("tail",))


def test_a_stricter_limit_holds_for_a_store_that_is_there(tmp_path: Path) -> None:
    data = make_data(tmp_path / "photos")
    break_image(data.records[5])
    extract(tmp_path, data, ("tail",))
    strict = SETTINGS.model_copy(update={"max_broken_share": 0.1})
    with pytest.raises(UserError, match="1 of 6 pictures cannot be read"):
        extract(tmp_path, data, ("tail",), settings=strict)
