"""Extraction by workers: the bytes of this process, a worker that dies, and workers that see other files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from lavise.configs.errors import UserError
from lavise.configs.schema import Config, ExtractSettings, ModelSettings, StatisticsSettings
from lavise.flows.shared.extraction import open_workers
from lavise.storage.datasets.base import Dataset
from lavise.storage.images.images import num_decoded
from lavise.storage.models.target_model import TargetModel, load_target_model
from lavise.storage.state.progress import no_progress
from lavise.tasks.activations.extract import Block, ExtractionInputs, extract_activations, extract_here, plan_blocks
from lavise.tasks.activations.worker_extraction import GPU, MadeBlock, _check_broken_there, extract_on_workers
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.flows.helpers import make_config
from tests.unit.tasks.activations.test_extract import make_dataset

LAYERS = ("body.0", "tail")
NETWORK = ModelSettings.model_validate(
    {"arch": "tests.unit.tasks.helpers:TinyNetwork", "preprocessing": {"size_px": 32}}
)


@pytest.fixture(scope="module")
def model() -> TargetModel:
    return load_target_model(NETWORK, seed=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eleven pictures, of which one is broken."""
    made = make_dataset(tmp_path_factory.mktemp("pictures"))
    Path(str(made.records[5].path)).write_bytes(b"no picture")
    return made


def make_inputs(model: TargetModel, dataset: Dataset) -> ExtractionInputs:
    settings = ExtractSettings(batch_size=2, shard_images=2, max_broken_share=0.3)
    return ExtractionInputs(model, LAYERS, Given(dataset, "p"), settings, "cpu")


def make_folders(root: Path) -> dict[str, Path]:
    folders = {name: root / name for name in LAYERS}
    for folder in folders.values():
        folder.mkdir(parents=True)
    return folders


def read_bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def expected(model: TargetModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("here")
    infos = extract_activations(make_inputs(model, dataset), make_folders(root), extract_here)
    assert infos["tail"]["num_broken"] == 1
    return read_bytes(root)


def test_workers_write_the_bytes_of_this_process(
    model: TargetModel, dataset: Dataset, expected: dict[str, bytes], process_cluster: StatisticsCluster, tmp_path: Path
) -> None:
    inputs = make_inputs(model, dataset)
    infos = extract_activations(inputs, make_folders(tmp_path), partial(extract_on_workers, process_cluster))
    assert read_bytes(tmp_path) == expected
    assert [(i["num_images"], i["num_broken"]) for i in infos.values()] == [(10, 1)] * 2


def test_a_worker_that_dies_loses_only_what_it_was_at(
    model: TargetModel, dataset: Dataset, expected: dict[str, bytes], tmp_path: Path
) -> None:
    inputs, folders = make_inputs(model, dataset), make_folders(tmp_path)
    killed: list[int] = []

    def kill_one(steps: int) -> None:
        if not killed:
            killed.append(find_workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    with StatisticsCluster(StatisticsSettings(num_workers=2)) as cluster:
        blocks = plan_blocks(inputs, folders)
        with closing(extract_on_workers(cluster, inputs, blocks, kill_one)) as made:
            assert sum(len(found) for found in made) == 1
    assert killed
    extract_activations(inputs, folders, refuse)
    assert read_bytes(tmp_path) == expected


def find_workers() -> list[int]:
    """Processes of workers that belong to this process and can compute."""
    below = psutil.Process().children(recursive=True)
    return [p.pid for p in below if "spawn_main" in " ".join(p.cmdline()) and p.memory_info().rss > 50_000_000]


def refuse(
    inputs: ExtractionInputs, blocks: Sequence[Block], advance: Callable[[int], None]
) -> Generator[dict[str, str]]:
    """Nothing is left to be made."""
    assert list(blocks) == []
    yield from ()


def test_other_weights_are_told(
    model: TargetModel, dataset: Dataset, cluster: StatisticsCluster, tmp_path: Path
) -> None:
    other = replace(model, digest="0" * 64)
    with pytest.raises(
        UserError, match=r"extract\.scheduler: the worker .* has another weights .* with random"
    ) as caught:
        extract_activations(make_inputs(other, dataset), make_folders(tmp_path), partial(extract_on_workers, cluster))
    assert "extract.scheduler to here" in str(caught.value)


def test_a_state_folder_that_a_worker_does_not_see(
    model: TargetModel, dataset: Dataset, cluster: StatisticsCluster, tmp_path: Path
) -> None:
    inputs = make_inputs(model, dataset)
    folders = {name: tmp_path / "elsewhere" / name for name in LAYERS}
    with (
        closing(extract_on_workers(cluster, inputs, plan_blocks(inputs, folders), lambda _: None)) as made,
        pytest.raises(UserError, match=r"storage\.root: the worker .* does not see .*elsewhere"),
    ):
        next(made)


def test_a_picture_that_only_a_worker_cannot_read(model: TargetModel, dataset: Dataset, tmp_path: Path) -> None:
    block = plan_blocks(make_inputs(model, dataset), make_folders(tmp_path))[0]
    with pytest.raises(UserError, match=r"extract\.scheduler: the worker tcp://a:1 cannot read .*000\.png \(no file\)"):
        _check_broken_there(MadeBlock("tcp://a:1", {"000.png": "no file"}), block, model)
    broken = plan_blocks(make_inputs(model, dataset), make_folders(tmp_path / "again"))[2]
    _check_broken_there(MadeBlock("tcp://a:1", {"005.png": "no picture"}), broken, model)


def test_without_a_gpu_among_the_workers(cluster: StatisticsCluster) -> None:
    with pytest.raises(UserError, match=r"extract\.scheduler: device is cuda, and of 1 workers none offers .* GPU"):
        cluster.require_resource(GPU, "extract.scheduler")


def test_who_extracts(cluster: StatisticsCluster, scheduler_address: str, tmp_path: Path) -> None:
    def choose(chosen: str | None, shared: str | None) -> str:
        config: Config = make_config(
            tmp_path, extract={"scheduler": chosen}, statistics={"scheduler": shared, "num_workers": 1}
        )
        with open_workers(config, cluster, no_progress) as found:
            return "here" if found is None else "shared" if found is cluster else "own"

    assert choose(None, None) == choose("here", None) == choose("here", scheduler_address) == "here"
    assert choose(None, scheduler_address) == choose(scheduler_address, scheduler_address) == "shared"
    assert choose("local", None) == "shared"
    assert choose("tcp://other:1", scheduler_address) == "own"


def test_local_beside_a_scheduler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"extract\.scheduler: found 'local' with statistics\.scheduler 'tcp://a:1'"):
        make_config(tmp_path, extract={"scheduler": "local"}, statistics={"scheduler": "tcp://a:1"})


def test_other_code_is_told(model: TargetModel, dataset: Dataset, cluster: StatisticsCluster, tmp_path: Path) -> None:
    other = replace(model, code="other")
    with pytest.raises(UserError, match=r"extract\.scheduler: the worker .* has another code"):
        extract_activations(make_inputs(other, dataset), make_folders(tmp_path), partial(extract_on_workers, cluster))


def test_a_picture_that_can_be_read_again_is_read_again(model: TargetModel, dataset: Dataset, tmp_path: Path) -> None:
    """What only a worker, or only for a moment, could not be read must not stay out for good."""
    mended = Path(str(dataset.records[5].path))
    inputs, folders = make_inputs(model, dataset), make_folders(tmp_path)
    before = mended.read_bytes()
    for found in extract_here(inputs, plan_blocks(inputs, folders)[:4], lambda _: None):
        del found
    assert [block.start for block in plan_blocks(inputs, folders)] == [8, 10]
    try:
        mended.write_bytes(Path(str(dataset.records[4].path)).read_bytes())
        assert [block.start for block in plan_blocks(inputs, folders)] == [4, 8, 10]
    finally:
        mended.write_bytes(before)


def test_pictures_that_workers_decode_are_counted(
    model: TargetModel, dataset: Dataset, process_cluster: StatisticsCluster, tmp_path: Path
) -> None:
    before = num_decoded()
    extract_activations(
        make_inputs(model, dataset), make_folders(tmp_path), partial(extract_on_workers, process_cluster)
    )
    assert num_decoded() - before >= 10
