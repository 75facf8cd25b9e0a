"""skorch: save_params in both formats, the files of its callbacks, and a whole pickled estimator."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint

from benchmarks.producers.shared import CLASSES, copy_state, make_data, make_network, run_script, write_truth


class Classifier(torch.nn.Module):
    """With probabilities, as skorch wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = make_network()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Probabilities of the classes."""
        scores: torch.Tensor = self.body(pictures)
        return scores.softmax(1)


def make(folder: Path) -> None:
    """One epoch."""
    pictures, targets = (tensor.numpy() for tensor in make_data().tensors)
    saver = Checkpoint(monitor=None, dirname=str(folder / "callback"))
    estimator = NeuralNetClassifier(
        Classifier,
        max_epochs=1,
        batch_size=4,
        callbacks=[saver],
        train_split=None,
        verbose=0,
        classes=range(len(CLASSES)),
    )
    estimator.fit(pictures, targets)
    estimator.save_params(f_params=folder / "params.pt")
    estimator.save_params(f_params=folder / "params.safetensors", use_safetensors=True)
    (folder / "whole.pkl").write_bytes(pickle.dumps(estimator))
    write_truth(folder, "raw weights", copy_state(estimator.module_, "body."))


if __name__ == "__main__":
    run_script(make)
