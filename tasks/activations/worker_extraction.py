"""Extraction by the workers of a Dask cluster: whichever is free takes the next block of pictures.

A worker gets what a block is made of (paths, the network's settings) and writes its shards into the store by itself;
over the network comes only which pictures could not be read. So pictures, checkpoint and state folder have to be at the
same paths for all. A worker that dies loses the shards that it was at; another one makes them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from lavise.configs.errors import UserError
from lavise.configs.schema import ExtractSettings, ModelSettings
from lavise.storage.activations import has_shard
from lavise.storage.datasets.input_images import load_input
from lavise.storage.images.images import BrokenImageError, count_decoded, num_decoded
from lavise.storage.models.target_model import TargetModel, load_target_model
from lavise.storage.state.digest import short
from lavise.storage.state.memory import freed_memory_kept
from lavise.tasks.activations.extract import Block, ExtractionInputs, describe_device, extract_blocks
from lavise.tasks.engine.cluster import StatisticsCluster

GPU = "GPU"
"""The resource that workers with a GPU offer, one for each: `dask worker ADDRESS --resources GPU=1`."""
_SHOWN_SECONDS, _LOOK_SECONDS = 90.0, 0.5
_MODELS = 2  # the audited network and the one with random weights
# Taps are hooks on the network, which the threads of a worker share.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class WorkerBlock:
    """A block, and what a worker needs to make it.

    Attributes:
        model, seed: what the network is loaded from.
        expected: what it has to be there, and what it is computed with: weights, code, versions.
    """

    model: ModelSettings
    seed: int
    expected: Mapping[str, str]
    block: Block
    settings: ExtractSettings
    device: str


@dataclass(frozen=True)
class MadeBlock:
    """What a worker says of a block: its address, the pictures that cannot be read there, key -> reason, and how many
    it has decoded."""

    worker: str
    broken: dict[str, str]
    num_decoded: int = 0


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
    if not blocks:
        return
    on_gpu = inputs.device == "cuda"
    if on_gpu:
        cluster.require_resource(GPU, "extract.scheduler")
    shared = (model.settings, model.seed, _describe(model, inputs.device))
    items = [WorkerBlock(*shared, block, inputs.settings, inputs.device) for block in blocks]
    made = cluster.stream("extract", make_block, items, resources={GPU: 1} if on_gpu else None, shown=False)
    for block, found in zip(blocks, made, strict=True):
        _check_broken_there(found, block, model)
        _wait_for_shards(block)
        count_decoded(found.num_decoded)
        advance(block.num_open)
        yield found.broken


def _describe(model: TargetModel, device: str) -> dict[str, str]:
    """What maps depend on besides the pictures, as far as it can differ between machines."""
    return {"weights": model.digest, "code": model.code, **describe_device(device)}


def make_block(item: WorkerBlock) -> MadeBlock:
    """Write the shards of a block; runs in a worker."""
    import torch
    from distributed import get_worker

    worker = get_worker()
    _check_folders(item, worker.address)
    with _one_at_a_time, freed_memory_kept():
        if item.device == "cpu":
            torch.set_num_threads(worker.state.nthreads)
        model = _load(item.model.model_dump_json(), item.seed, item.expected["weights"])
        own = _describe(model, item.device)
        if other := [name for name, value in item.expected.items() if own.get(name) != value]:
            raise UserError(
                f"extract.scheduler: the worker {worker.address} has another {other[0]} "
                f"({short(own.get(other[0], ''))}, here {short(item.expected[other[0]])}) for {item.model.arch} with "
                f"{item.model.weights}; give all machines the same files and versions and start the workers anew, or "
                "set extract.scheduler to here"
            )
        before, broken = num_decoded(), dict[str, str]()
        for found in extract_blocks(model, [_leave_out_made(item.block)], item.settings, item.device):
            broken |= found
        return MadeBlock(worker.address, broken, num_decoded() - before)


@lru_cache(maxsize=_MODELS)
def _load(settings: str, seed: int, digest: str) -> TargetModel:
    """Anew where the weights are to be other ones: a file may have been written over."""
    return load_target_model(ModelSettings.model_validate_json(settings), seed)


def _leave_out_made(block: Block) -> Block:
    """Without shards that are there by now: a block may be given out twice where a worker was thought lost."""
    shards = [replace(s, numbers=frozenset(n for n in s.numbers if not has_shard(s.folder, n))) for s in block.shards]
    return replace(block, shards=tuple(shards))


def _wait_for_shards(block: Block) -> None:
    """A shared file system may show what another machine has written only after a while."""
    end = time.monotonic() + _SHOWN_SECONDS
    for shards in block.shards:
        for number in sorted(shards.numbers):
            while not has_shard(shards.folder, number) and time.monotonic() < end:
                list(shards.folder.iterdir())  # has names looked up anew
                time.sleep(_LOOK_SECONDS)


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
