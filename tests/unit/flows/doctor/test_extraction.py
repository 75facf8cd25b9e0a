"""What the doctor says of an extraction before it is begun."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from lavise.configs.roles import Role
from lavise.configs.schema import Config, ExtractSettings, ModelSettings
from lavise.flows.doctor import Check, extraction
from lavise.flows.doctor.extraction import check_extraction
from lavise.flows.doctor.machine import find_free_memory
from lavise.flows.shared.extraction import extract_layers
from lavise.flows.shared.room import measure_network, measure_part, reckon_room
from lavise.storage.datasets.formats import find_format, find_target_format
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.environment import choose_device
from lavise.storage.state.free_space import format_bytes
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.flows.doctor.helpers import look_all, make_config
from tests.unit.flows.helpers import make_config as make_tiny_config
from tests.unit.tasks.helpers import write_image


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Six pictures of the reference, five of the target, of the tiny network."""
    for name, number in (("reference/cat", 3), ("reference/dog", 3), ("target", 5)):
        for i in range(number):
            write_image(tmp_path / name / f"{i}.png", 20, 24, i)
    return make_tiny_config(tmp_path, evaluate={"baselines": ["random_words"]}, reference={"evaluation_share": 0.4})


def look(config: Config) -> dict[str, Check]:
    return look_all(partial(check_extraction, config))


def test_what_is_not_there_yet_is_told_by_role_and_layer(config: Config, tmp_path: Path) -> None:
    found = look(config)
    assert list(found) == [
        *("maps train", "maps evaluation", "maps target"),
        *("room", "memory of extraction", "time of extraction", "bfloat16"),
    ]
    assert {c.status for c in found.values()} == {"ok"}
    assert re.fullmatch(r"5 pictures; tail \(\d+ x \d+ x \d+\): 0\.\d MB", found["maps target"].found)
    model = load_target_model(config.model, config.seed)
    both = find_format("image_folder").read(config.reference, config.seed)
    target = find_target_format("image_folder").read(config.target)
    parts = dict(zip(Role, map(measure_part, (both.train, both.evaluation, target)), strict=True))
    layers = model.select_layers(config.model.layers)
    room = reckon_room(config, layers, {"": parts}, measure_network(model))
    assert found["room"].found.startswith(f"needs {format_bytes(room.num_needed_bytes)}, ")
    assert "by rule: regions " in found["room"].found
    times = found["time of extraction"].found
    assert re.match(r"about \d+ s to \d+ s for 11 pictures that are not there yet \(", times)
    assert "measured on 8" in times
    assert re.match(r"torch\.autocast takes \d+\.\d\d of the time on cpu", found["bfloat16"].found)
    assert not (tmp_path / "artefacts").exists(), "the doctor only looks"


def test_maps_that_are_there_are_found(config: Config, tmp_path: Path) -> None:
    model, target = load_target_model(config.model, config.seed), find_target_format("image_folder").read(config.target)
    layers = tuple(layer.name for layer in model.select_layers(config.model.layers))
    inputs = ExtractionInputs(
        *(model, layers, Given(target, target.digest_images()), config.extract, choose_device(config.device))
    )
    extract_layers(StageRunner(ArtefactStore(tmp_path)), "extract target", inputs, role=Role.TARGET)
    found = look(config)
    assert found["maps target"].found.endswith(": there already")
    assert "there already" not in found["maps train"].found
    assert "for 6 pictures that are not there yet" in found["time of extraction"].found


def test_a_disk_that_is_too_small_fails(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavise.flows.shared.room.measure_free_bytes", lambda folder: 5_000_000)
    found = look(config)["room"]
    assert found.status == "failed"
    assert found.advice.startswith("set storage.root to another disk")


def test_a_shard_that_the_memory_cannot_hold_fails(config: Config) -> None:
    pictures = find_free_memory() // 100
    scenes = make_config(
        extract=ExtractSettings(batch_size=1, shard_images=pictures, shard_bytes=1 << 62),
        model=ModelSettings(arch="torchvision:squeezenet1_1"),
    )
    scenes = scenes.model_copy(update={"target": scenes.target.model_copy(update={"scenes": pictures})})
    found = look(scenes)
    assert found["memory of extraction"].status == "failed"
    assert found["memory of extraction"].advice.startswith("lower extract.shard_bytes")
    assert found["room"].status == "failed"


def test_scenes_are_counted_and_not_drawn(tmp_path: Path) -> None:
    found = look(make_config())
    assert found["maps train"].found.startswith("1,200 pictures; ")
    assert found["time of extraction"].found == "not measured: the pictures are drawn by the run"
    assert list(tmp_path.iterdir()) == []


def test_what_others_say_already_is_not_said_again(config: Config, tmp_path: Path) -> None:
    (tmp_path / "target").rename(tmp_path / "away")
    assert look(config) == {}
    (tmp_path / "away").rename(tmp_path / "target")
    model = config.model.model_copy(update={"layers": ("no such layer",)})
    assert look(config.model_copy(update={"model": model})) == {}


def test_a_baseline_is_shown_at_most_so_many(config: Config) -> None:
    evaluate = config.evaluate.model_copy(update={"baselines": ("random_network",), "baseline_images": 10})
    checks = list(extraction.check_extraction(config.model_copy(update={"evaluate": evaluate})))
    texts = [c.found for c in checks if c.name.endswith("maps target")]
    assert [t.partition(" pictures")[0] for t in texts] == ["5", "5"]
    few = config.evaluate.model_copy(update={"baselines": ("random_network",), "baseline_images": 2})
    checks = list(extraction.check_extraction(config.model_copy(update={"evaluate": few})))
    texts = [c.found for c in checks if c.name.endswith("maps target")]
    assert [t.partition(" pictures")[0] for t in texts] == ["5", "2"]


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_for_people(seconds: float, text: str) -> None:
    assert extraction._describe_time(seconds) == text
