"""Extraction against its parts on the same pictures in one run: decode only (with 1, 2 and more threads), forward only,
write only, and the whole.

    python -m benchmarks.extraction --root FOLDER [--device cuda] [--threads 16] [--precision bfloat16]

`whole_over` holds the whole's seconds over each part's: 1 where nothing but that part is waited for. `over_sum` is the
whole over decode + forward + write: 1 where they only follow each other.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import measure_alternating, read_arguments, save_result
from lavise.configs.loading import load_config
from lavise.configs.schema import CocoReference
from lavise.storage.activations import ActivationStore, write_shard
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.input_images import load_input
from lavise.storage.datasets.readers.coco import load_coco_reference
from lavise.storage.models.layers import ActivationTap
from lavise.storage.models.target_model import load_target_model
from lavise.tasks.activations.decoding import decode_batches
from lavise.tasks.activations.extract import ExtractionInputs, extract_activations
from lavise.tasks.activations.forward import normalise_images, run_network
from lavise.tasks.engine.stage_inputs import Given

LAYER = "bn2"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of decoding, in the whole")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--times", type=int, default=1, help="how often the pictures are taken")


def main() -> None:
    arguments = read_arguments(__doc__ or "", _add_arguments)
    config = load_config("coco-mini", [f"reference.root={arguments.root}"])
    assert isinstance(config.reference, CocoReference)
    train = load_coco_reference(config.reference).train
    data = Dataset(train.name, train.records * arguments.times)
    model = load_target_model(config.model, config.seed)
    device: str = arguments.device
    settings = config.extract.model_copy(update={"decode_threads": arguments.threads, "precision": arguments.precision})
    starts = range(0, len(data.records), settings.batch_size)
    batches = [data.records[start : start + settings.batch_size] for start in starts]
    read = [load_input(r, model.geometry, model.channels) for r in train.records] * arguments.times
    stacked = [torch.from_numpy(np.stack(read[start : start + settings.batch_size])) for start in starts]
    pictures = [images.pin_memory() if device == "cuda" else images for images in stacked]
    network = model.place(device)

    def decode(num_threads: int) -> None:
        with closing(decode_batches(batches, model, num_threads, device)) as decoded:
            for _ in decoded:
                pass

    def forward() -> None:
        with ActivationTap(network, [model.find_layer(LAYER)]):
            for images in pictures:
                run_network(network, normalise_images(images, model, device), settings.precision)
            if device == "cuda":
                torch.cuda.synchronize()

    inputs = ExtractionInputs(model, (LAYER,), Given(data, data.digest_images()), settings, device)

    def extract(folder: Path) -> None:
        extract_activations(inputs, {LAYER: folder})

    def in_a_folder(work: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            work(Path(folder))

    with tempfile.TemporaryDirectory() as made:
        extract(Path(made))  # the first pass prepares kernels
        store = ActivationStore(Path(made))
        maps_NCHW = store.read_images(range(store.shape[0]))

    def write(folder: Path) -> None:
        for shard, (start, stop) in enumerate(zip(store.starts[:-1], store.starts[1:], strict=True)):
            write_shard(folder, shard, maps_NCHW[start:stop], store.keys[start:stop], {}, {})

    threads = sorted({1, 2, settings.decode_threads})
    parts = {f"decode, {n} threads": partial(decode, n) for n in threads}
    work: dict[str, Callable[[], None]] = {
        **parts,
        "forward": forward,
        "write": partial(in_a_folder, write),
        "whole": partial(in_a_folder, extract),
    }
    seconds = measure_alternating(work, arguments.repeats)
    medians = {name: s["median"] for name, s in seconds.items()}
    decoding = f"decode, {settings.decode_threads} threads"
    save_result(
        "extraction" if device == "cpu" else f"extraction-{device}",
        {
            "num_images": len(data.records),
            "decode_threads": settings.decode_threads,
            "precision": settings.precision,
            "shape": list(store.shape),
            "seconds": seconds,
            "images_per_second": {n: len(data.records) / s for n, s in medians.items()},
            "whole_over": {n: medians["whole"] / medians[n] for n in (decoding, "forward", "write")},
            "over_sum": medians["whole"] / (medians[decoding] + medians["forward"] + medians["write"]),
        },
        device,
    )


if __name__ == "__main__":
    main()
