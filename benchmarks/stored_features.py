"""Training on stored region features against running the network again for each annotation (the naive way).

    python -m benchmarks.stored_features --root FOLDER

Both do the same epochs' worth of the same objective on the same regions. The stored way pays for extraction and
pooling once, which is counted; the naive way pays a forward pass per annotation per epoch, of which one epoch is
measured. The ratio is given for 1, 10 and 30 epochs.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import read_arguments, save_result
from lavise.configs.loading import load_config
from lavise.configs.schema import CocoReference
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.input_images import load_input, read_input_size
from lavise.storage.datasets.readers.coco import load_coco_reference
from lavise.storage.models.layers import ActivationTap
from lavise.storage.models.target_model import TargetModel, load_target_model
from lavise.storage.state import file_names
from lavise.storage.words.word_vectors import build_vocabulary, load_word_vectors
from lavise.tasks.activations.extract import ExtractionInputs, extract_activations
from lavise.tasks.activations.forward import normalise_images, run_network
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.explainer.network import Explainer, scale_features
from lavise.tasks.explainer.training import Objective
from lavise.tasks.masks.region_pooling import pool_regions

LAYER = "bn2"
EPOCHS = (1, 10, 30)


class Trainer:
    """One step of training, the same for both ways."""

    def __init__(self, model: TargetModel, data: Dataset) -> None:
        self.config = load_config("coco-mini", ["train.objective=hinge"])
        vocabulary = build_vocabulary(load_word_vectors(self.config.words), 1000, data.concepts)
        self.rows = torch.tensor(vocabulary.positions_of(data.concepts))
        matrix = torch.from_numpy(vocabulary.matrix)
        torch.manual_seed(0)
        self.explainer = Explainer(1280, matrix.shape[1], self.config.train.dropout)
        self.objective = Objective(self.config.train, matrix, self.rows)
        self.adam = torch.optim.Adam(self.explainer.parameters(), lr=self.config.train.learning_rate)
        self.model = model

    def step(self, features: torch.Tensor, concepts: torch.Tensor) -> None:
        words = self.rows[concepts]
        output = self.explainer(scale_features(features, self.config.train.region_feature))
        loss = self.objective(output, words, torch.ones(len(words)))
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


def main() -> None:
    arguments = read_arguments(__doc__ or "")
    config = load_config("coco-mini", [f"reference.root={arguments.root}"])
    assert isinstance(config.reference, CocoReference)
    data = load_coco_reference(config.reference).train
    model = load_target_model(config.model, config.seed)
    trainer = Trainer(model, data)
    inputs = ExtractionInputs(model, (LAYER,), Given(data, data.digest_images()), config.extract, "cpu")
    with tempfile.TemporaryDirectory() as folder, StatisticsCluster(config.statistics) as cluster:
        cluster.map("start", len, [[]])  # starting workers is not what is compared
        start = time.perf_counter()
        activations, regions = Path(folder) / "activations", Path(folder) / "regions"
        activations.mkdir()
        regions.mkdir()
        extract_activations(inputs, {LAYER: activations})
        info = pool_regions(ActivationStore(activations), data, model.geometry, regions, cluster)
        preparation = time.perf_counter() - start
        features = torch.from_numpy(np.load(regions / file_names.REGION_FEATURES))
        concepts = torch.from_numpy(np.load(regions / file_names.REGION_CONCEPTS))
        start = time.perf_counter()
        for chosen in torch.randperm(len(features)).split(64):
            trainer.step(features[chosen], concepts[chosen])
        stored_epoch = time.perf_counter() - start
    start = time.perf_counter()
    num_naive = run_naive_epoch(trainer, model, data)
    naive_epoch = time.perf_counter() - start
    save_result(
        "stored-features",
        {
            "num_regions": info["num_regions"],
            "num_regions_naive": num_naive,
            "seconds": {"prepare_once": preparation, "epoch_stored": stored_epoch, "epoch_naive": naive_epoch},
            "ratio_naive_to_stored": {e: e * naive_epoch / (preparation + e * stored_epoch) for e in EPOCHS},
        },
    )


def run_naive_epoch(trainer: Trainer, model: TargetModel, data: Dataset) -> int:
    """A forward pass of the frozen network for every annotation, in batches, then the same step."""
    number_of = {c: i for i, c in enumerate(data.concepts)}
    entries = [(record, annotation) for record in data.records for annotation in record.annotations]
    order = np.random.default_rng(0).permutation(len(entries))
    batch_size = trainer.config.extract.batch_size
    network = model.place("cpu")
    with ActivationTap(network, (model.find_layer(LAYER),)) as tap:
        for start in range(0, len(order), batch_size):
            batch = [entries[i] for i in order[start : start + batch_size]]
            pictures = np.stack([load_input(r.path, model.geometry, model.channels) for r, _ in batch])
            run_network(network, normalise_images(pictures, model, "cpu"))
            maps = tap.maps[LAYER].clone()
            height, width = maps.shape[2:]
            masks = [model.geometry.shrink_mask(a.make_mask(*read_input_size(r.path)), height, width) for r, a in batch]
            features = (maps * torch.from_numpy(np.stack(masks))[:, None]).mean(dim=(2, 3))
            if len(batch) > 1:
                trainer.step(features, torch.tensor([number_of[a.concept] for _, a in batch]))
    return len(entries)


if __name__ == "__main__":
    main()
