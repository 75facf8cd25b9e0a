"""Small classifiers and pictures of theirs, for the tests of contributions and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from lavise.storage.datasets.base import Annotation, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.models.target_model import TargetModel
from tests.unit.tasks.helpers import make_model, write_image

NUM_CLASSES, NUM_FILTERS = 5, 8


class Classifier(nn.Module):
    """Two convolutions, each followed by an in-place ReLU, mean pooling, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.first_act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, NUM_FILTERS, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(NUM_FILTERS, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.act(self.second(self.first_act(self.first(images))))
        out: torch.Tensor = self.head(maps.mean(dim=(2, 3)))
        return out

    def after_first(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits from the output of `first`, written out with no in-place operation."""
        out: torch.Tensor = self.head(self.second(maps.relu()).relu().mean(dim=(2, 3)))
        return out


class Colours(nn.Module):
    """Filter u is a fixed mixture of the three colours; classes are read off the pooled filters."""

    def __init__(self, mixture_C3: torch.Tensor, weight_KC: torch.Tensor, bias_K: torch.Tensor) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, len(mixture_C3), 1, bias=False)
        self.mix.weight.data = mixture_C3[:, :, None, None]
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(*weight_KC.T.shape)
        self.head.weight.data, self.head.bias.data = weight_KC, bias_K

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.act(self.mix(images)).mean(dim=(2, 3)))
        return out


def make_classifier(seed: int = 0) -> tuple[TargetModel, Classifier, LinearHead]:
    torch.manual_seed(seed)
    network = Classifier()
    # Larger weights, so that pictures get different classes.
    network.head.weight.data *= 20
    model = make_model(network, size_px=16)
    return model, network, head_of(network.head)


def make_colours(mixture_C3: torch.Tensor, weight_KC: torch.Tensor, bias_K: torch.Tensor) -> TargetModel:
    """Takes pictures as they are, on the scale 0..1."""
    model = make_model(Colours(mixture_C3, weight_KC, bias_K), size_px=8)
    geometry = Geometry(8, "squash", interpolation="bilinear")
    return TargetModel(model.arch, model.network, model.digest, model.code, geometry, (0, 0, 0), (1, 1, 1))


def head_of(linear: nn.Linear) -> LinearHead:
    return LinearHead(linear.weight.detach().clone(), linear.bias.detach().clone())


def make_records(folder: Path, num: int, concepts: Sequence[Sequence[str]] = ()) -> list[ImageRecord]:
    """Pictures of noise, with the annotations of concepts[i]."""
    return [
        ImageRecord(
            f"{i:02d}.png",
            write_image(folder / f"{i:02d}.png", 20 + i, 30 - i, seed=i),
            tuple(Annotation(c) for c in concepts[i]) if concepts else (),
        )
        for i in range(num)
    ]


def make_plain(
    folder: Path, colours: Sequence[tuple[int, int, int]], concepts: Sequence[str] = ()
) -> list[ImageRecord]:
    """Pictures of one colour each, with the one annotation concepts[i]."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, colour in enumerate(colours):
        path = folder / f"{i:02d}.png"
        Image.new("RGB", (8, 8), colour).save(path)
        records.append(ImageRecord(path.name, path, (Annotation(concepts[i]),) if concepts else ()))
    return records


def break_image(record: ImageRecord) -> None:
    record.file.write_bytes(b"no picture")


def names(*classes: str) -> ClassNames:
    """A class per argument, synonyms separated by commas."""
    return ClassNames(tuple(tuple(c.split(", ")) for c in classes), "settings")


def load_images(model: TargetModel, records: Sequence[ImageRecord]) -> torch.Tensor:
    """float32 [N, 3, Y, X], decoded and normalised straight from the formula."""
    height, width = model.geometry.shape
    images = []
    for record in records:
        with Image.open(record.file) as picture:
            square = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(square)).float() / 255
        images.append(((pixels - torch.tensor(model.mean)) / torch.tensor(model.std)).permute(2, 0, 1))
    return torch.stack(images)
