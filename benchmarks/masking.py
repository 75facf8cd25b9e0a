"""Image masking in batches of one size, across pictures, against batches of each picture's own filters.

    python -m benchmarks.masking --photos FOLDER [--device cuda] [--images 12] [--filters 40] [--repeats 3]

A GPU chooses its kernels anew for every shape of a batch that it has not seen, so that `shapes` is what the first pass
costs there; `first_s` is that pass, and the other seconds are those of passes with known shapes. Filters are unevenly
many on each picture, as they are in an audit. Both ways must say the same, but for the last bits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import measure_alternating, save_result
from lavise.configs.loading import load_config
from lavise.configs.schema import ImageFolderTarget
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import FloatArray
from lavise.storage.datasets.input_images import load_input
from lavise.storage.datasets.readers.image_folder import load_image_folder_target
from lavise.storage.images.geometry import find_regions
from lavise.storage.models.layers import ActivationTap
from lavise.storage.models.target_model import load_target_model
from lavise.tasks.activations.attention import pool_features
from lavise.tasks.activations.extract import ExtractionInputs, extract_activations, normalise_images, run_network
from lavise.tasks.activations.layer_maps import LayerMaps, MaskedForward
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import Given

LAYER = "bn2"


def look_picture_by_picture(maps: LayerMaps, pairs: Pairs) -> FloatArray:
    """Features float32 [P, C], each picture's filters in batches of their own, the last one smaller."""
    forward = maps.forward
    assert forward is not None
    model, features = forward.model, np.zeros((len(pairs), maps.store.shape[1]), np.float32)
    with ActivationTap(model.place(forward.device), (model.find_layer(forward.layer),)) as tap:
        for image in np.unique(pairs.image).tolist():
            maps_CHW = maps.store.read_images([image])[0].astype(np.float32)
            pixels = load_input(forward.pictures[image], model.geometry, model.channels)[None]
            image_1CYX = normalise_images(pixels, model, forward.device)
            rows = np.flatnonzero(pairs.image == image)
            for start in range(0, len(rows), forward.batch_size):
                own = rows[start : start + forward.batch_size]
                filters = pairs.filter[own]
                regions = find_regions(maps_CHW[filters], maps.thresholds_C[filters], model.geometry.size_px)
                masked = image_1CYX * torch.from_numpy(regions).to(forward.device)[:, None]
                run_network(model.network, masked.contiguous(memory_format=torch.channels_last))
                features[own] = tap.maps[forward.layer].float().mean(dim=(2, 3)).cpu().numpy()
    return features


def make_pairs(num_images: int, num_filters: int, channels: int) -> Pairs:
    """On each picture between one filter and twice as many as asked for."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 2 * num_filters, size=num_images)
    filters = np.concatenate([np.sort(rng.choice(channels, n, replace=False)) for n in counts])
    images = np.repeat(np.arange(num_images), counts)
    return Pairs(filters, images, np.ones(len(images), np.float32))


def count_shapes(network: torch.nn.Module, work: Callable[[], Any]) -> tuple[int, int, float]:
    """(distinct shapes of batches, passes, seconds) of a piece of work."""
    seen: list[tuple[int, ...]] = []
    hook = network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    hook.remove()
    return len(set(seen)), len(seen), seconds


def list_cpu_seconds(work: dict[str, Callable[[], Any]], repeats: int) -> Iterator[tuple[str, float]]:
    """The least of several, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return ((name, min(own)) for name, own in seconds.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--filters", type=int, default=40, help="on a picture, in the mean")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    config, device = load_config("coco-mini", []), arguments.device
    model = load_target_model(config.model, config.seed)
    data = load_image_folder_target(ImageFolderTarget(root=arguments.photos, max_images=arguments.images))
    model.find_layer(LAYER)
    with tempfile.TemporaryDirectory() as folder:
        inputs = ExtractionInputs(model, (LAYER,), Given(data, data.digest_images()), config.extract, device)
        extract_activations(inputs, {LAYER: Path(folder)})
        store = ActivationStore(Path(folder))
        thresholds = np.quantile(store.read_images(range(store.shape[0])).astype(np.float32), 0.98, axis=(0, 2, 3))
        record_of = {record.key: record for record in data.records}
        pictures = [record_of[key] for key in store.keys]
        forward = MaskedForward(model, LAYER, pictures, config.extract.batch_size, device)
        maps = LayerMaps(store, thresholds.astype(np.float32), forward)
        pairs = make_pairs(store.shape[0], arguments.filters, store.shape[1])
        found: dict[str, FloatArray] = {}

        def look_across() -> None:
            found["across"] = pool_features(maps, pairs, "image_masking", store.shape[1], Computing(device=device))

        def look_at_each() -> None:
            found["each picture"] = look_picture_by_picture(maps, pairs)

        work = {"each picture": look_at_each, "across": look_across}
        network = model.place(device)
        first = {name: count_shapes(network, run) for name, run in work.items()}
        seconds = measure_alternating(work, arguments.repeats)
        cpu = dict(list_cpu_seconds(work, arguments.repeats))
    scale = float(np.abs(found["each picture"]).max())
    save_result(
        "masking",
        {
            "device": device,
            "num_images": int(store.shape[0]),
            "num_pairs": len(pairs),
            "batch_size": forward.batch_size,
            "largest_difference": float(np.abs(found["across"] - found["each picture"]).max()) / scale,
            **{
                name: {
                    "shapes": shapes,
                    "passes": passes,
                    "first_s": once,
                    "cpu_s": cpu[name],
                    "seconds": seconds[name],
                }
                for name, (shapes, passes, once) in first.items()
            },
        },
    )


if __name__ == "__main__":
    main()
