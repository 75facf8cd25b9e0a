"""Keras: a whole model in its own format and in HDF5, and its weights."""

from __future__ import annotations

from pathlib import Path

import keras

from benchmarks.producers.shared import run_script


def make(folder: Path) -> None:
    """One of each."""
    layers = keras.layers
    network = keras.Sequential(
        [layers.Input((32, 32, 3)), layers.Conv2D(8, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    network.compile("sgd", "mse")
    network.save(folder / "model.keras")
    network.save(folder / "model.h5")
    network.save_weights(folder / "model.weights.h5")


if __name__ == "__main__":
    run_script(make)
