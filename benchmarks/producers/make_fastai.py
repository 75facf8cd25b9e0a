"""fastai: Learner.save with and without the optimizer, export, and what vision_learner does to names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastai.callback.schedule  # noqa: F401 - gives Learner fit_one_cycle
import torchvision
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import SaveModelCallback
from fastai.data.transforms import get_image_files
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import Learner, vision_learner

from benchmarks.producers.shared import CLASSES, copy_state, make_network, run_script, write_images, write_truth


def get_label(path: Path) -> str:
    """Class of a picture: the name of its folder."""
    return path.parent.name


def make(folder: Path) -> None:
    """One epoch each of a plain network, torchvision's and timm's."""
    write_images(folder / "pictures")
    files = get_image_files(folder / "pictures")
    loaders = ImageDataLoaders.from_path_func(
        folder, files, get_label, valid_pct=0.3, bs=4, num_workers=0, seed=1, device="cpu", item_tfms=Resize(32)
    )
    shared: dict[str, Any] = {"loss_func": CrossEntropyLossFlat(), "metrics": accuracy, "path": folder}

    plain = Learner(loaders, make_network(), **shared)
    plain.remove_cb(ProgressCallback)
    plain.fit_one_cycle(1, cbs=SaveModelCallback(monitor="valid_loss", fname="best"))
    plain.save("with_opt")
    plain.save("without_opt", with_opt=False)
    plain.export("export.pkl")
    write_truth(folder, "raw weights", copy_state(plain.model))

    options = {"n_out": len(CLASSES), "pretrained": False, "normalize": False, **shared}
    vision = vision_learner(loaders, torchvision.models.resnet18, **options)
    vision.remove_cb(ProgressCallback)
    vision.fit(1)
    vision.save("vision_learner", with_opt=False)

    wrapped = vision_learner(loaders, "test_resnet", **options)
    wrapped.remove_cb(ProgressCallback)
    wrapped.fit(1)
    wrapped.save("vision_learner_timm", with_opt=False)
    write_truth(folder, "raw weights of timm's body", copy_state(wrapped.model, "0.model."))


if __name__ == "__main__":
    run_script(make)
