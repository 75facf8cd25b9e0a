"""Extraction by the workers of a Dask cluster: whichever is free takes the next block of pictures.

A worker gets what a block is made of (paths, the network's settings) and writes its shards into the store by itself;
over the network comes only which pictures could not be read. So pictures, checkpoint and state folder have to be at the
same paths for all. A worker that dies loses the shards that it was at; another one makes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lavise.configs.errors import UserError
from lavise.configs.schema import ExtractSettings, ModelSettings
from lavise.storage.datasets.input_images import load_input
from lavise.storage.images.images import BrokenImageError
from lavise.storage.models.target_model import TargetModel, load_target_model
from lavise.storage.state.digest import short
from lavise.tasks.activations.extract import Block, ExtractionInputs, extract_blocks
from lavise.tasks.engine.cluster import StatisticsCluster

GPU = "GPU"
"""The resource that workers with a GPU offer, one for each: `dask worker ADDRESS --resources GPU=1`."""
_MODELS = 2  # the audited network and the one with random weights
# Taps are hooks on the network, which the threads of a worker share.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class WorkerBlock:
    """A block, and what a worker needs to make it.

    Attributes:
        model, seed, digest: what the network is loaded from, and what its weights have to be.
    """

    model: ModelSettings
    seed: int
    digest: str
    block: Block
    settings: ExtractSettings
    device: str


@dataclass(frozen=True)
class MadeBlock:
    """What a worker says of a block: its address, and the pictures that cannot be read there, key -> reason."""

    worker: str
    broken: dict[str, str]


def extract_on_workers(
    cluster: StatisticsCluster, inputs: ExtractionInputs, blocks: Sequence[Block], advance: Callable[[int], None]
) -> Generator[dict[str, str]]:
    """Have blocks made by a cluster.

    Args:
        advance: told of the pictures of each block that is done.

    Yields:
        of each block, the pictures that cannot be read: key -> reason.

    Raises:
        UserError: a worker loads other weights, does not see the pictures or the state folder, or none has a GPU where
            one is asked for.
    """
    model = inputs.model
    if model.settings is None:
        raise ValueError(f"the network {model.arch} was not loaded from settings, so that no worker can load it")
    on_gpu = inputs.device == "cuda"
    if on_gpu:
        cluster.require_resource(GPU, "extract.scheduler")
    shared = (model.settings, model.seed, model.digest)
    items = [WorkerBlock(*shared, block, inputs.settings, inputs.device) for block in blocks]
    made = cluster.stream("extract", make_block, items, resources={GPU: 1} if on_gpu else None, shown=False)
    for block, found in zip(blocks, made, strict=True):
        _check_broken_there(found, block, model)
        advance(block.num_open)
        yield found.broken


def make_block(item: WorkerBlock) -> MadeBlock:
    """Write the shards of a block; runs in a worker."""
    import torch
    from distributed import get_worker

    worker = get_worker()
    _check_folders(item, worker.address)
    with _one_at_a_time:
        if item.device == "cpu":
            torch.set_num_threads(worker.state.nthreads)
        model = _load(item.model.model_dump_json(), item.seed)
        if model.digest != item.digest:
            raise UserError(
                f"model.weights: the worker {worker.address} loads other weights from {item.model.weights} (sha256 "
                f"{short(model.digest)}, here {short(item.digest)}); give all machines the same file, or set "
                "extract.scheduler to here"
            )
        broken: dict[str, str] = {}
        for found in extract_blocks(model, [item.block], item.settings, item.device):
            broken |= found
    return MadeBlock(worker.address, broken)


@lru_cache(maxsize=_MODELS)
def _load(settings: str, seed: int) -> TargetModel:
    return load_target_model(ModelSettings.model_validate_json(settings), seed)


def _check_folders(item: WorkerBlock, worker: str) -> None:
    for shards in item.block.shards:
        if not shards.folder.is_dir():
            raise UserError(
                f"storage.root: the worker {worker} does not see {shards.folder}; give it the state folder at the same "
                "path (a shared file system), or set extract.scheduler to here"
            )


def _check_broken_there(found: MadeBlock, block: Block, model: TargetModel) -> None:
    """A picture that can be read here, but not there, is no broken picture."""
    record_of = {record.key: record for record in block.records}
    for key, reason in found.broken.items():
        try:
            load_input(record_of[key], model.geometry, model.channels)
        except BrokenImageError:
            continue
        raise UserError(
            f"extract.scheduler: the worker {found.worker} cannot read {record_of[key].file} ({reason}), which can be "
            "read here; give it the pictures at the same path (a shared file system), or set extract.scheduler to here"
        )
