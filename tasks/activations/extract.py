"""Activation extraction: one pass over each picture, for all asked layers, into HDF5 shards.

A pipeline of three: threads decode, the network computes, a thread writes. Batches are cut by the pictures' positions
alone, however many of them make a shard, so a resumed extraction does the very same forward passes as an undisturbed
one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import PIL

from lavise.configs.errors import UserError
from lavise.configs.schema import Compression, ExtractSettings
from lavise.storage.activations import (
    ShardGrid,
    finish_store,
    has_shard,
    read_broken,
    read_plain_digests,
    shard_name,
)
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.datasets.input_images import load_input
from lavise.storage.images.images import BrokenImageError
from lavise.storage.models.layers import ActivationTap, Layer
from lavise.storage.models.target_model import TargetModel
from lavise.storage.packed_list import PackedList
from lavise.storage.state.digest import canonical_json
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.activations.decoding import decode_batches
from lavise.tasks.activations.forward import check_precision, normalise_images, run_network
from lavise.tasks.activations.shard_filling import LayerShards, ShardFiller, open_writer, plan_shards
from lavise.tasks.engine.computing import describe_arithmetic
from lavise.tasks.engine.stage import PLAIN_FILES, Info, Stage
from lavise.tasks.engine.stage_inputs import HOW, Given, Request, Spread, StageInputs, Unstated

STAGE = Stage("extract", version=2, resumable=True, uses_device=True, libraries=("pillow",))
_NUM_SHOWN = 5


def _describe_model(model: TargetModel) -> dict[str, Any]:
    return {"arch": model.arch, "code": model.code, "preprocessing": model.describe_preprocessing()}


def _describe_batches(settings: ExtractSettings) -> dict[str, int | str]:
    """The order of pictures in a batch can change the last bits; threads and what is allowed to be broken cannot."""
    batches: dict[str, int | str] = {"batch_size": settings.batch_size, "shard_images": settings.shard_images}
    return batches if settings.precision == "float32" else {**batches, "precision": settings.precision}


def describe_device(device: str) -> dict[str, str]:
    """A GPU adds up the means by itself."""
    summaries = {} if device == "cpu" else {"summaries": "by the device"}
    return {**describe_arithmetic(device), "pillow": PIL.__version__, **summaries}


@dataclass(frozen=True)
class ExtractionInputs(StageInputs):
    """What the maps of some layers are made from, in one pass over the pictures.

    Attributes:
        pictures: the data set, by the digest of its pictures alone.
    """

    model: Annotated[TargetModel, Spread(_describe_model, lambda model: {"checkpoint": model.digest})]
    layers: Annotated[tuple[str, ...], Unstated("an artefact is of one layer: see `list_requests`")]
    pictures: Given[Dataset]
    settings: Annotated[ExtractSettings, Spread(_describe_batches)]
    device: Annotated[str, Spread(describe_device)]
    progress: Annotated[Progress, HOW] = no_progress

    def list_requests(self) -> list[Request]:
        """One for each layer, in their order."""
        shared = self.request()
        return [
            Request({**shared.settings, "layer": layer, **self._describe_layer(layer)}, shared.inputs)
            for layer in self.layers
        ]

    def _describe_layer(self, name: str) -> dict[str, str | int]:
        """What is not as in most layers: how the output lies, and shards of fewer pictures than are allowed."""
        grid = plan_grid(self, self.model.find_layer(name))
        is_cut = grid.num_shards != ShardGrid(grid.num_images, self.settings.shard_images).num_shards
        cut = {"images_in_shard": grid.shard_images} if is_cut else {}
        return {**_describe_layout(self.model, name), **cut}


def _describe_layout(model: TargetModel, layer: str) -> dict[str, str]:
    """How the output lies, where it is not as in most networks."""
    found = model.find_layer(layer)
    return {} if found.layout == "NCHW" else {"layout": found.describe_layout()}


def describe_provenance(model: TargetModel, layer: str) -> dict[str, str]:
    """What a shard says of itself, beside the weights' digest."""
    preprocessing = canonical_json(model.describe_preprocessing())
    return {"arch": model.arch, "layer": layer, "preprocessing": preprocessing}


@dataclass(frozen=True)
class Block:
    """Pictures that follow each other, and the shards that are made of them: whole ones of every layer. Can be sent to
    another process and computed there.

    Attributes:
        start: position of the first picture in the data set.
        records: without their labels.
        shards: of each layer, those that are not there yet.
    """

    start: int
    records: Sequence[ImageRecord]
    shards: tuple[LayerShards, ...]
    batch_size: int

    def list_batches(self) -> list[tuple[int, Sequence[ImageRecord]]]:
        """Positions of the first pictures, and the pictures, of those batches that a shard needs."""
        batches = [
            (self.start + at, self.records[at : at + self.batch_size])
            for at in range(0, len(self.records), self.batch_size)
        ]
        return [(at, own) for at, own in batches if any(s.find_open(range(at, at + len(own))) for s in self.shards)]

    @property
    def num_open(self) -> int:
        """Pictures that are to be looked at."""
        return sum(len(own) for _, own in self.list_batches())


def plan_layer(num_images: int, layer: Layer, settings: ExtractSettings) -> ShardGrid:
    """Which pictures are in which shard of a layer."""
    return plan_shards(num_images, layer, settings.batch_size, settings.shard_images, settings.shard_bytes)


def plan_grid(inputs: ExtractionInputs, layer: Layer) -> ShardGrid:
    """The same of what is asked for."""
    return plan_layer(len(inputs.pictures.value.records), layer, inputs.settings)


def find_compression(settings: ExtractSettings, device: str) -> Compression:
    """What is asked for; on a GPU `auto` is none: one processor that compresses would keep it waiting."""
    return "none" if settings.compression == "auto" and device == "cuda" else settings.compression


def plan_blocks(inputs: ExtractionInputs, folders: Mapping[str, Path]) -> list[Block]:
    """What is left to do: blocks of `shard_images` pictures, of which some layer lacks a shard.

    Args:
        folders: layer name -> folder of its store.
    """
    model, settings = inputs.model, inputs.settings
    records = inputs.pictures.value.without_labels().records
    stores = []
    for name, folder in folders.items():
        layer = model.find_layer(name)
        grid = plan_grid(inputs, layer)
        _drop_mended(folder, grid, records, model)
        missing = frozenset(s for s in range(grid.num_shards) if not has_shard(folder, s))
        provenance = {"model": model.digest, **describe_provenance(model, name)}
        stores.append(LayerShards(folder, layer, grid, missing, provenance, find_compression(settings, inputs.device)))
    blocks = []
    for start in range(0, len(records), settings.shard_images):
        own = range(start, min(start + settings.shard_images, len(records)))
        shards = tuple(replace(store, numbers=frozenset(store.find_open(own))) for store in stores)
        if any(s.numbers for s in shards):
            blocks.append(Block(start, PackedList(records[own.start : own.stop]), shards, settings.batch_size))
    return blocks


def _drop_mended(folder: Path, grid: ShardGrid, records: Sequence[ImageRecord], model: TargetModel) -> None:
    """Remove finished shards of an earlier attempt that lack a picture which can be read now: the file was mended, the
    disk answered again, or only a worker did not see it."""
    for shard in (s for s in range(grid.num_shards) if has_shard(folder, s)):
        if not (broken := read_broken(folder, shard)):
            continue
        if any(_can_be_read(records[i], model) for i in grid.images_of(shard) if records[i].key in broken):
            (folder / shard_name(shard)).unlink()


def _can_be_read(record: ImageRecord, model: TargetModel) -> bool:
    try:
        load_input(record, model.geometry, model.channels)
    except BrokenImageError:
        return False
    return True


def extract_blocks(
    model: TargetModel,
    blocks: Sequence[Block],
    settings: ExtractSettings,
    device: str,
    advance: Callable[[int], None] = lambda _: None,
) -> Generator[dict[str, str], None, None]:
    """Write the shards of some blocks, one block after the other; all of the same layers.

    Three things go on at once: pictures are decoded, the network computes, shards are written. What was yielded is
    written when the iterator has ended.

    Args:
        advance: told of the pictures of each batch that is done.

    Yields:
        of each block, the pictures that cannot be read: key -> reason.

    Raises:
        CheckpointError: activations that are not finite.
    """
    layers = [shards.layer for shards in blocks[0].shards] if blocks else []
    batches = (own for block in blocks for _, own in block.list_batches())
    network = model.place(device)
    with (
        ActivationTap(network, layers) as tap,
        open_writer() as writer,
        closing(decode_batches(batches, model, settings.decode_threads, device)) as decoded,
    ):
        fillers = [ShardFiller(writer, device) for _ in layers]
        for block in blocks:
            broken: dict[str, str] = {}
            for start, _ in block.list_batches():
                batch = next(decoded)
                if batch.positions:
                    run_network(network, normalise_images(batch.pictures, model, device), settings.precision)
                for filler, shards in zip(fillers, block.shards, strict=True):
                    filler.add(shards, start, batch, tap.maps[shards.layer.name] if batch.positions else None)
                broken |= batch.broken
                writer.check()
                advance(len(batch.records))
            yield broken


def extract_here(
    inputs: ExtractionInputs, blocks: Sequence[Block], advance: Callable[[int], None]
) -> Generator[dict[str, str]]:
    """`extract_blocks` of what is asked for, in this process."""
    return extract_blocks(inputs.model, blocks, inputs.settings, inputs.device, advance)


# Makes blocks in their order, tells of pictures that are done, and yields those of each that cannot be read.
MakeBlocks = Callable[[ExtractionInputs, Sequence[Block], Callable[[int], None]], Generator[dict[str, str]]]


def extract_activations(
    inputs: ExtractionInputs, folders: Mapping[str, Path], make_blocks: MakeBlocks = extract_here
) -> dict[str, Info]:
    """Write the activation stores of several layers in one pass; finished shards are kept.

    Args:
        folders: layer name -> folder of its store; of those layers that are not there yet.
        make_blocks: who does it; the bits are the same.

    Returns:
        layer name -> facts: num_images, shape [C, H, W], num_broken, and where there are any, num_flat: pictures that
        are nearly of one shade.

    Raises:
        UserError: too many broken pictures, or activations that are not finite.
    """
    model, dataset, settings = inputs.model, inputs.pictures.value, inputs.settings
    check_precision(settings.precision, inputs.device)
    blocks = plan_blocks(inputs, folders)
    num_open = sum(block.num_open for block in blocks)
    broken: dict[str, str] = {}
    with (
        inputs.progress("extract", num_open) as bar,
        closing(make_blocks(inputs, blocks, bar.advance)) as made,
    ):
        for found in made:
            broken |= found
            check_broken(broken, len(dataset.records), settings.max_broken_share, dataset.name)
    infos: dict[str, Info] = {}
    for name, folder in folders.items():
        grid = plan_grid(inputs, model.find_layer(name))
        index = finish_store(folder, grid)
        flat_of = {"num_flat": len(index["flat"])} if "flat" in index else {}
        num_broken = len(index["broken"])
        infos[name] = {"num_images": index["num_images"], "shape": index["shape"], "num_broken": num_broken, **flat_of}
        if plain := read_plain_digests(folder, grid.num_shards):
            infos[name] = {**infos[name], PLAIN_FILES: plain}
    return infos


def check_broken(broken: Mapping[str, str], num_images: int, max_share: float, name: str) -> None:
    """Stop where more than `max_share` of the pictures cannot be read.

    Raises:
        UserError: names the first of them.
    """
    if len(broken) > max_share * num_images or len(broken) == num_images:
        shown = "; ".join(f"{k}: {v}" for k, v in list(broken.items())[:_NUM_SHOWN])
        raise UserError(
            f"data set {name}: {len(broken)} of {num_images} pictures cannot be read ({shown}); allowed: a share of "
            f"{max_share:g} (extract.max_broken_share); mend or remove them"
        )
