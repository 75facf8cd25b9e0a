"""What an audit will write, against what it wrote; what is there already; what is said where there is no room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from lavise.configs.errors import NoRoomError, UserError
from lavise.configs.roles import Role
from lavise.configs.schema import Config, ExtractSettings
from lavise.flows.shared.extraction import extract_layers
from lavise.flows.shared.room import (
    Room,
    check_room,
    choose_some,
    describe_lack,
    look_into,
    look_nowhere,
    measure_network,
    measure_part,
    reckon_room,
)
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.images import num_decoded
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.progress import Bar
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.activations.extraction_probe import measure_stored_shares, probe_extraction
from lavise.tasks.engine.stage import StageRunner, describe_artefacts
from lavise.tasks.engine.stage_inputs import Given
from tests.file_limits import limit_files
from tests.unit.flows.helpers import make_config
from tests.unit.tasks.helpers import make_model, write_image

LAYERS = ("body.1", "tail")
SETTINGS = ExtractSettings(batch_size=2, shard_images=4)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    paths = [write_image(tmp_path / "photos" / f"{i}.png", 24 + i, 40 - i, seed=i) for i in range(11)]
    records = (ImageRecord(path.name, path, (Annotation("cat"), Annotation("dog"))) for path in paths)
    return Dataset("photos", tuple(records), ("cat", "dog"))


def declare(data: Dataset, settings: ExtractSettings = SETTINGS) -> ExtractionInputs:
    return ExtractionInputs(make_model(), LAYERS, Given(data, data.digest_images()), settings, "cpu")


def reckon(config: Config, data: Dataset, store: ArtefactStore | None = None) -> Room:
    inputs = declare(data, config.extract)
    layers = [inputs.model.find_layer(name) for name in LAYERS]
    subjects = {"": {role: measure_part(data) for role in Role}}
    look = look_into(store, {("", role): inputs for role in Role}) if store else look_nowhere
    return reckon_room(config, layers, subjects, measure_network(inputs.model), look)


def config_of(root: Path, **extract: object) -> Config:
    return make_config(root, extract={**SETTINGS.model_dump(), **extract})


def run(root: Path, inputs: ExtractionInputs) -> StageRunner:
    runner = StageRunner(ArtefactStore(root))
    extract_layers(runner, "extract target", inputs, role=Role.TARGET)
    return runner


# What is reckoned


def test_maps_are_no_more_than_reckoned_and_then_nothing_is_missing(tmp_path: Path, data: Dataset) -> None:
    config, store = config_of(tmp_path), ArtefactStore(tmp_path)
    before = reckon(config, data, store)
    assert [(s.role, s.layer) for s in before.stores_by_role()] == [(role, name) for role in Role for name in LAYERS]
    assert before.num_images == 33
    run(tmp_path, declare(data))
    for layer in LAYERS:
        (reckoned,) = [s for s in before.stores if s.layer == layer and s.role == Role.TARGET]
        own = [f for f in (tmp_path / "artefacts" / "extract").glob("*/shard-*.h5") if layer in str(f.read_bytes())]
        assert (
            sum(f.stat().st_size for f in own) <= reckoned.num_missing_bytes <= 8 * sum(f.stat().st_size for f in own)
        )
    after = reckon(config, data, store)
    assert all(s.is_there for s in after.stores)
    assert (after.num_needed_bytes, after.num_images, after.list_sizes(Role.TARGET)) == (0, 0, [])
    assert sum(after.others.values()) == after.passing == 0


def test_shards_of_an_attempt_that_was_stopped_count_as_written(tmp_path: Path, data: Dataset) -> None:
    config, store = config_of(tmp_path), ArtefactStore(tmp_path)
    folder = store.partial_folder("extract", _digest(data, LAYERS[0]), keep=False)
    (folder / "shard-000000.h5").write_bytes(bytes(10_000))
    before, now = reckon(config, data), reckon(config, data, store)
    less = [a.num_missing_bytes - b.num_missing_bytes for a, b in zip(before.stores, now.stores, strict=True)]
    assert less == [10_000] * 3 + [0] * 3  # the three roles are one data set here


def _digest(data: Dataset, layer: str) -> str:
    from lavise.tasks.activations.extract import STAGE

    return STAGE.find_digest(declare(data).list_requests()[LAYERS.index(layer)])


def test_what_is_needed_is_all_of_it_and_a_margin(tmp_path: Path, data: Dataset) -> None:
    room = reckon(config_of(tmp_path), data)
    maps = sum(s.size.num_bytes for s in room.stores)
    assert room.num_map_bytes == maps
    assert room.num_needed_bytes == int((maps + sum(room.others.values()) + room.passing) * 1.05)
    half = room.with_shares({"body.1": 0.5, "tail": 1.0})
    for before, after in zip(room.stores, half.stores, strict=True):
        channels, height, width = before.size.shape
        less = before.num_missing_bytes - after.num_missing_bytes
        assert (less >= channels * height * width * 11) is (before.layer == "body.1")
        assert less <= before.num_missing_bytes / 2
    assert half.num_needed_bytes < room.num_needed_bytes
    assert set(room.others) == {"regions", "agreement and overlaps", "all else"}
    assert all(room.others.values())
    packed = make_config(tmp_path, extract=SETTINGS.model_dump(), tracking={"pack_network": True})
    weights = measure_network(make_model())
    assert reckon(packed, data).others["all else"] - room.others["all else"] == 2 * weights > 0


# What is said


def test_a_disk_that_is_too_small(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    room = reckon(config_of(tmp_path), data)
    check_room(room, tmp_path / "not there yet")
    monkeypatch.setattr("lavise.flows.shared.room.measure_free_bytes", lambda folder: room.num_needed_bytes - 1)
    with pytest.raises(NoRoomError) as raised:
        check_room(room, tmp_path)
    said = str(raised.value)
    assert said.startswith("storage.root: needs ")
    for part in ("to spare", f"free at {tmp_path}", "model.layers", "set extract.compression", "lavise gc"):
        assert part in said
    assert "\n" not in said
    monkeypatch.setattr("lavise.flows.shared.room.measure_free_bytes", lambda folder: 0)
    packed = describe_lack(room.with_shares(dict.fromkeys(LAYERS, 0.25)), tmp_path)
    assert packed is not None
    assert "compressed as on the pictures that were tried" in packed
    assert "set extract.compression" not in packed


def test_a_limit_of_files_that_is_too_small(tmp_path: Path, data: Dataset) -> None:
    room = reckon(config_of(tmp_path), data)
    with (
        limit_files(10_000),
        pytest.raises(NoRoomError, match=r"largest file needs .*`ulimit -f`.*extract\.shard_images"),
    ):
        check_room(room, tmp_path)


def test_a_few_at_even_distances() -> None:
    records = [ImageRecord(str(i), Path(str(i))) for i in range(80)]
    assert [r.key for r in choose_some(records)] == ["0", "10", "20", "30", "40", "50", "60", "70"]
    assert [r.key for r in choose_some(records[:3])] == ["0", "1", "2"]
    assert choose_some([]) == []


# While it is written


def test_a_disk_that_fills_up_is_one_line_and_the_next_run_goes_on(tmp_path: Path, data: Dataset) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 1, "shard_images": 1})
    calm = run(tmp_path / "calm", declare(data, settings)).outcomes["extract target"].handles
    inputs = declare(data, settings)
    limits = []

    class FillsUp:
        """A bar that knows of the fifth picture."""

        def __init__(self) -> None:
            self.count = 0

        def advance(self, steps: int = 1) -> None:
            self.count += steps
            if self.count == 5:
                limits.append(limit_files(2_000))
                limits[-1].__enter__()

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Bar]:
        bar: Bar = FillsUp()
        yield bar

    try:
        with pytest.raises(
            UserError, match=r"storage\.root: the file is larger.* while extract was written to .*again"
        ):
            run(tmp_path / "full", replace(inputs, progress=progress))
    finally:
        for limit in limits:
            limit.__exit__(None, None, None)
    left = sorted(f.name for f in (tmp_path / "full" / "artefacts" / "extract").glob("*.partial/*"))
    assert set(left) >= {f"shard-{i:06d}.h5" for i in range(3)}
    assert not [name for name in left if name.endswith(".tmp") or name == "index.json"]
    before = num_decoded()
    resumed = run(tmp_path / "full", inputs).outcomes["extract target"].handles
    assert num_decoded() - before < len(data.records)
    assert [h.files for h in resumed] == [h.files for h in calm]


# Compression


def test_an_artefact_is_described_alike_however_it_is_kept(tmp_path: Path, data: Dataset) -> None:
    described = {}
    for compression in ("none", "gzip"):
        settings = SETTINGS.model_copy(update={"compression": compression})
        runner = run(tmp_path / compression, declare(data, settings))
        described[compression] = describe_artefacts(runner.outcomes)
        handles = runner.outcomes["extract target"].handles
        assert [bool(h.info.get("plain_files")) for h in handles] == [compression == "gzip"] * 2
    assert described["gzip"] == described["none"]
    plain, packed = (
        sorted(f for f in (tmp_path / c / "artefacts" / "extract").glob("*/shard-*.h5")) for c in ("none", "gzip")
    )
    assert [f.relative_to(tmp_path / "none") for f in plain] == [f.relative_to(tmp_path / "gzip") for f in packed]
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(plain, packed, strict=True))
    for a, b in zip(plain, packed, strict=True):
        own, other = ActivationStore(a.parent), ActivationStore(b.parent)
        assert own.read_images(range(11)).tobytes() == other.read_images(range(11)).tobytes()


def test_other_maps_are_described_otherwise(tmp_path: Path, data: Dataset) -> None:
    settings = SETTINGS.model_copy(update={"compression": "gzip"})
    first = describe_artefacts(run(tmp_path / "a", declare(data, settings)).outcomes)
    write_image(tmp_path / "photos" / "3.png", 27, 37, seed=99)
    second = describe_artefacts(run(tmp_path / "b", declare(data, settings)).outcomes)
    one, two = (d["stages"]["extract target"][0]["files"] for d in (first, second))
    assert [n for n in one if one[n] != two[n]] == ["shard-000000.h5"]


def test_what_is_in_the_cache_is_taken_whatever_the_setting(tmp_path: Path, data: Dataset) -> None:
    run(tmp_path, declare(data))
    again = run(tmp_path, declare(data, SETTINGS.model_copy(update={"compression": "gzip"})))
    assert again.outcomes["extract target"].cached


# What is tried out


def test_probe_of_a_few_pictures(tmp_path: Path, data: Dataset) -> None:
    (tmp_path / "photos" / "2.png").write_bytes(b"broken")
    model = make_model()
    probe = probe_extraction(data.records, model, "cpu", max_seconds=60)
    assert probe is not None
    assert probe.num_images == 10
    assert min(probe.decode, probe.forward, probe.forward_bfloat16 or 0) > 0
    low, high = probe.estimate_seconds(100, decode_threads=2)
    assert low == pytest.approx(100 * max(probe.decode / 2, probe.forward))
    assert high == pytest.approx(100 * (probe.decode / 2 + probe.forward))
    hurried = probe_extraction(data.records, model, "cpu", max_seconds=0)
    assert hurried is not None
    assert hurried.forward_bfloat16 is None
    assert probe_extraction([data.records[2]], model, "cpu", max_seconds=60) is None


def test_share_that_compression_leaves_is_that_of_the_files(tmp_path: Path, data: Dataset) -> None:
    model = make_model()
    layers = [model.find_layer(name) for name in LAYERS]
    shares = measure_stored_shares(data.records, model, layers, "cpu", "gzip")
    assert measure_stored_shares(data.records, model, layers, "cpu", "none") == dict.fromkeys(LAYERS, 1.0)
    runner = run(tmp_path, declare(data, SETTINGS.model_copy(update={"compression": "gzip"})))
    for layer, handle in zip(LAYERS, runner.outcomes["extract target"].handles, strict=True):
        stored = total = 0
        for name in (n for n in handle.files if n.startswith("shard")):
            with h5py.File(handle.path(name), "r") as file:
                stored += file["maps"].id.get_storage_size()
                total += 2 * file["maps"].size
        assert shares[layer] == pytest.approx(stored / total, rel=0.02)
