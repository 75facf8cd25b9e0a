"""Ways of fitting the explainer to an unlabelled target domain, judged by labels that nothing else reads.

    python -m benchmarks.transfer --root FOLDER --photos FOLDER [--seeds 3]

The folder of photographs holds pictures and labels.csv (file,label). Right is a photograph for which one of the 10
words of its region explanation (the region is the whole picture) is the label, a lemma of it or a hypernym (see
benchmarks.photo_labels).
Mean over seeds of the training; the interval is a bootstrap over photographs of the mean over seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import save_result
from benchmarks.explainers import Bench, to_markdown
from benchmarks.photo_labels import chance_of_right, is_right, read_labels
from lavise.configs.roles import Role
from lavise.configs.schema import ImageFolderTarget, TrainSettings
from lavise.flows.shared.extraction import extract_layers
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.readers.image_folder import load_image_folder_target
from lavise.storage.models.layer_survey import select_layers
from lavise.storage.models.target_model import load_target_model
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.explainer import transfer
from lavise.tasks.explainer.naming import load_namer
from lavise.tasks.explainer.transfer import TransferInputs, transfer_explainer

NUM_WORDS = 10
METHODS = ("none", "renormalise", "align_covariance", "distil_head")
SAMPLES = 2000


def name_photos(bench: Bench, folder: Path, means_NC: torch.Tensor) -> list[list[str]]:
    words = load_namer(folder, bench.vocabulary, "cpu").name(means_NC, NUM_WORDS).words.tolist()
    return [[bench.vocabulary.words[w] for w in row] for row in words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="COCO folder: train2017, val2017, annotations")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs with labels.csv")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    labels = read_labels(arguments.photos / "labels.csv")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments.root, Path(scratch), "frequent")
        model = load_target_model(bench.config.model, bench.config.seed)
        layer = select_layers(model.survey, "auto")[0].name
        target = load_image_folder_target(ImageFolderTarget(root=arguments.photos))
        pictures = Given(target, target.digest_images())
        extraction = ExtractionInputs(model, (layer,), pictures, bench.config.extract, "cpu")
        (activations,) = extract_layers(bench.runner, "extract target", extraction, role=Role.TARGET)
        store = ActivationStore(activations.folder)
        means = torch.from_numpy(store.read_means())
        truth = [labels[Path(key).name] for key in store.keys]
        right: dict[str, list[Any]] = {}
        for seed in range(arguments.seeds):
            trained = bench.train(bench.config.train, seed)
            for kind in ("learned", "head", "fused"):
                explainer = bench.assemble(trained, kind)
                for method in METHODS:
                    if (kind == "head" and method != "none") or (kind == "learned" and method == "distil_head"):
                        continue  # the head is not fitted; a learned explainer has no head to learn from
                    fitted = explainer
                    if method != "none":
                        inputs = TransferInputs(
                            method=method,
                            explainer=explainer,
                            activations=activations,
                            regions=bench.regions,
                            vocabulary=bench.vocabulary,
                            training=TrainSettings(),
                            computing=Computing(seed),
                        )
                        fitted = bench.runner.run_one(transfer.STAGE, f"{kind} {method}", inputs, transfer_explainer)
                    named = name_photos(bench, fitted.folder, means)
                    hits = [is_right(t, words) for t, words in zip(truth, named, strict=True)]
                    right.setdefault(f"{kind}, {method}", []).append(hits)
                    print(seed, kind, method, round(float(np.mean(hits)), 3), flush=True)
        chance = float(np.mean([chance_of_right(t, bench.vocabulary.words, NUM_WORDS) for t in truth]))
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=SAMPLES) / len(truth)
    table = {}
    for name, hits in right.items():
        per_photo = np.mean(np.array(hits, dtype=float), axis=0)
        low, high = np.quantile(draws @ per_photo, [0.025, 0.975])
        table[name] = {"photographs": {"value": float(per_photo.mean()), "low": float(low), "high": float(high)}}
    save_result("transfer", {"num_photos": len(truth), "chance": chance, "table": table})
    print(to_markdown(table))


if __name__ == "__main__":
    main()
