"""Extraction against its parts on the same pictures in one run: decode only, forward only.

    python -m benchmarks.extraction --root FOLDER

`ratio_to_sum` is extraction over decode + forward: below 1 where the two overlap, 1 where they only follow each other.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import measure_alternating, read_arguments, save_result
from lavise.configs.loading import load_config
from lavise.configs.schema import CocoReference
from lavise.storage.datasets.input_images import load_input
from lavise.storage.datasets.readers.coco import load_coco_reference
from lavise.storage.models.target_model import load_target_model
from lavise.tasks.activations.extract import ExtractionInputs, extract_activations, normalise_images, run_network
from lavise.tasks.engine.stage_inputs import Given

LAYER = "bn2"


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    config = load_config("coco-mini", [f"reference.root={arguments.root}"])
    assert isinstance(config.reference, CocoReference)
    data = load_coco_reference(config.reference).train
    model = load_target_model(config.model, config.seed)
    settings = config.extract
    pictures = np.stack([load_input(r.path, model.geometry, model.channels) for r in data.records])
    network = model.place("cpu")

    def decode() -> None:
        for record in data.records:
            load_input(record.path, model.geometry, model.channels)

    def forward() -> None:
        for start in range(0, len(pictures), settings.batch_size):
            run_network(network, normalise_images(pictures[start : start + settings.batch_size], model, "cpu"))

    inputs = ExtractionInputs(model, (LAYER,), Given(data, data.digest_images()), settings, "cpu")

    def extract() -> None:
        with tempfile.TemporaryDirectory() as folder:
            extract_activations(inputs, {LAYER: Path(folder)})

    forward()  # the first pass prepares kernels
    seconds = measure_alternating({"decode": decode, "forward": forward, "extract": extract}, arguments.repeats)
    medians = {name: s["median"] for name, s in seconds.items()}
    save_result(
        "extraction",
        {
            "num_images": len(data.records),
            "seconds": seconds,
            "images_per_second": {n: len(data.records) / s for n, s in medians.items()},
            "ratio_to_sum": medians["extract"] / (medians["decode"] + medians["forward"]),
            "ratio_to_forward": medians["extract"] / medians["forward"],
        },
    )


if __name__ == "__main__":
    main()
