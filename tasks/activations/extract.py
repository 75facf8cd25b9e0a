"""Activation extraction: one pass over each picture, for all asked layers, into HDF5 shards.

Decoding (threads) overlaps with the forward pass. Batches never cross a shard's border, so a resumed extraction does
the very same forward passes as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import PIL

from lavise.configs.errors import UserError
from lavise.configs.schema import ExtractSettings
from lavise.storage.activations import ShardGrid, finish_store, has_shard, read_plain_digests, write_shard
from lavise.storage.array_types import HalfArray
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.datasets.input_images import InputImage, load_input, make_blank
from lavise.storage.images.images import BrokenImageError, uses_little
from lavise.storage.models.layers import ActivationTap
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.digest import canonical_json
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.engine.computing import describe_arithmetic
from lavise.tasks.engine.stage import PLAIN_FILES, Info, Stage
from lavise.tasks.engine.stage_inputs import HOW, Given, Request, Spread, StageInputs, Unstated

if TYPE_CHECKING:
    import torch

STAGE = Stage("extract", version=2, resumable=True, uses_device=True, libraries=("pillow",))
_NUM_SHOWN = 5

Decoded = InputImage | str


def _describe_model(model: TargetModel) -> dict[str, Any]:
    return {"arch": model.arch, "code": model.code, "preprocessing": model.describe_preprocessing()}


def _describe_batches(settings: ExtractSettings) -> dict[str, int]:
    """The order of pictures in a batch can change the last bits; threads and what is allowed to be broken cannot."""
    return {"batch_size": settings.batch_size, "shard_images": settings.shard_images}


def _describe_device(device: str) -> dict[str, str]:
    return {**describe_arithmetic(device), "pillow": PIL.__version__}


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
    device: Annotated[str, Spread(_describe_device)]
    progress: Annotated[Progress, HOW] = no_progress

    def list_requests(self) -> list[Request]:
        """One for each layer, in their order."""
        shared = self.request()
        return [
            Request({**shared.settings, "layer": layer, **_describe_layout(self.model, layer)}, shared.inputs)
            for layer in self.layers
        ]


def _describe_layout(model: TargetModel, layer: str) -> dict[str, str]:
    """How the output lies, where it is not as in most networks."""
    found = model.find_layer(layer)
    return {} if found.layout == "NCHW" else {"layout": found.describe_layout()}


def describe_provenance(model: TargetModel, layer: str) -> dict[str, str]:
    """What a shard says of itself, beside the weights' digest."""
    preprocessing = canonical_json(model.describe_preprocessing())
    return {"arch": model.arch, "layer": layer, "preprocessing": preprocessing}


def extract_activations(inputs: ExtractionInputs, folders: Mapping[str, Path]) -> dict[str, Info]:
    """Write the activation stores of several layers in one pass; finished shards are kept.

    Args:
        folders: layer name -> folder of its store; of those layers that are not there yet.

    Returns:
        layer name -> facts: num_images, shape [C, H, W], num_broken, and where there are any, num_flat: pictures that
        are nearly of one shade.

    Raises:
        UserError: too many broken pictures, or activations that are not finite.
    """
    import torch

    model, dataset, settings = inputs.model, inputs.pictures.value, inputs.settings
    device, progress = inputs.device, inputs.progress
    grid = ShardGrid(len(dataset.records), settings.shard_images)
    network = model.place(device)
    open_shards = [s for s in range(grid.num_shards) if not all(has_shard(f, s) for f in folders.values())]
    num_open = sum(len(grid.images_of(s)) for s in open_shards)
    with (
        ActivationTap(network, [model.find_layer(name) for name in folders]) as tap,
        ThreadPoolExecutor(settings.decode_threads) as pool,
        progress("extract", num_open) as bar,
    ):
        all_broken: dict[str, str] = {}
        broken: dict[str, str]
        flat: list[str]
        records = [[dataset.records[i] for i in grid.images_of(s)] for s in open_shards]
        for shard, decoded in zip(open_shards, _decode_ahead(pool, records, model, settings), strict=True):
            keys: list[str] = []
            broken, flat = {}, []
            parts: dict[str, list[HalfArray]] = {name: [] for name in folders}
            for batch in decoded:
                good = [(r.key, picture) for r, picture in batch if not isinstance(picture, str)]
                broken.update({r.key: picture for r, picture in batch if isinstance(picture, str)})
                if good:
                    pictures = np.stack([p for _, p in good if not isinstance(p, str)])
                    run_network(network, normalise_images(pictures, model, device))
                    keys += [key for key, _ in good]
                    flat += [key for key, p in good if not isinstance(p, str) and uses_little(p)]
                    for name in folders:
                        parts[name].append(tap.maps[name].to(torch.float16).cpu().contiguous().numpy())
                bar.advance(len(batch))
            all_broken |= broken
            check_broken(all_broken, len(dataset.records), settings.max_broken_share, dataset.name)
            for name, folder in folders.items():
                if not has_shard(folder, shard):
                    maps = np.concatenate(parts[name]) if keys else _no_maps(tap, network, model, name, device)
                    provenance = {"model": model.digest, **describe_provenance(model, name)}
                    write_shard(folder, shard, maps, keys, broken, provenance, flat, settings.compression)
    infos: dict[str, Info] = {}
    for name, folder in folders.items():
        index = finish_store(folder, grid)
        flat_of = {"num_flat": len(index["flat"])} if "flat" in index else {}
        num_broken = len(index["broken"])
        infos[name] = {"num_images": index["num_images"], "shape": index["shape"], "num_broken": num_broken, **flat_of}
        if plain := read_plain_digests(folder, grid.num_shards):
            infos[name] = {**infos[name], PLAIN_FILES: plain}
    return infos


def normalise_images(images_NYXC: InputImage, model: TargetModel, device: str) -> torch.Tensor:
    """Pictures -> [N, C, Y, X], (x - mean) / std on the scale 0..1, channels-last, in the network's precision.

    Args:
        images_NYXC: uint8 [N, Y, X, 3], of which grey is made where C is 1; or bands, float32 [N, Y, X, C] on 0..1.
    """
    import torch

    pictures = torch.from_numpy(np.require(images_NYXC, requirements="W")).to(device, non_blocking=True)
    # NHWC storage viewed as NCHW is channels-last already; nothing is copied.
    images = (_to_grey(pictures) if model.channels == 1 else pictures).permute(0, 3, 1, 2).to(torch.float32)
    mean = torch.tensor(model.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(model.std, device=device).view(1, -1, 1, 1)
    if pictures.dtype == torch.uint8:
        images = images.div_(255)
    return images.sub(mean).div_(std).to(model.dtype)


def _to_grey(images_NYX3: torch.Tensor) -> torch.Tensor:
    """uint8 [N, Y, X, 1]: luma after ITU-R BT.601 in whole numbers, as Pillow's mode L; grey stays what it is."""
    import torch

    red, green, blue = images_NYX3.to(torch.int32).unbind(dim=3)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).unsqueeze(3)


def run_network(network: torch.nn.Module, images_NCYX: torch.Tensor) -> None:
    """One forward pass; what is wanted of it is read by an ActivationTap."""
    import torch

    with torch.inference_mode():
        network(images_NCYX)


def _decode_ahead(
    pool: ThreadPoolExecutor, shards: Sequence[Sequence[ImageRecord]], model: TargetModel, settings: ExtractSettings
) -> Iterator[Iterator[list[tuple[ImageRecord, Decoded]]]]:
    """Per shard, its batches of decoded pictures; decoding runs a few batches ahead of whoever reads them."""
    batches = [
        (position, list(shard[start : start + settings.batch_size]))
        for position, shard in enumerate(shards)
        for start in range(0, len(shard), settings.batch_size)
    ]

    def decode(record: ImageRecord) -> Decoded:
        try:
            return load_input(record, model.geometry, model.channels)
        except BrokenImageError as err:
            return str(err)

    waiting: list[tuple[int, list[ImageRecord], list[Future[Decoded]]]] = []
    ahead = 2 + -(-settings.decode_threads // settings.batch_size)
    upcoming = iter(batches)

    def refill() -> None:
        while len(waiting) < ahead and (entry := next(upcoming, None)) is not None:
            position, records = entry
            waiting.append((position, records, [pool.submit(decode, r) for r in records]))

    def batches_of(position: int) -> Iterator[list[tuple[ImageRecord, Decoded]]]:
        refill()
        while waiting and waiting[0][0] == position:
            _, records, futures = waiting.pop(0)
            refill()
            yield [(r, f.result()) for r, f in zip(records, futures, strict=True)]

    for position in range(len(shards)):
        yield batches_of(position)


def _no_maps(tap: ActivationTap, network: torch.nn.Module, model: TargetModel, layer: str, device: str) -> HalfArray:
    """[0, C, H, W] for a shard of which no picture could be read."""
    run_network(network, normalise_images(make_blank(model.geometry, model.channels)[None], model, device))
    return np.zeros((0, *tap.maps[layer].shape[1:]), np.float16)


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
