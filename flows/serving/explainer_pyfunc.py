"""What MLflow loads an explainer with (the `loader_module` of the model that `explainer_model` saves).

Rows of a data frame go in, words come out; a row is a region, given as its feature or as a box in a picture.

Shape legend: R rows, C filters, H x W map cells, Y x X input pixels, V words, E embedding.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lavise.configs.errors import UserError
from lavise.storage.array_types import FloatArray, HalfArray
from lavise.storage.datasets.input_images import InputImage
from lavise.storage.models.layers import ActivationTap
from lavise.storage.models.packed_network import PACKED_FACTS, PACKED_WEIGHTS, PackedNetwork, load_packed_network
from lavise.storage.state.environment import choose_device
from lavise.tasks.activations.forward import normalise_images, run_network
from lavise.tasks.explainer.naming import Namer, load_namer
from lavise.tasks.explainer.network import load_facts
from lavise.tasks.explainer.region_requests import pool_images, read_rows
from lavise.tasks.inputs.vocabulary import read_vocabulary

DEFAULT_NUM_WORDS = 10
_NOT_SAVED = "this model was saved without its target network"


class ExplainerModel:
    """Regions -> words of the vocabulary, with their scores.

    Attributes:
        lack: why there is no network; None where there is one.
    """

    def __init__(
        self,
        namer: Namer,
        words: Sequence[str],
        network: PackedNetwork | None,
        device: str,
        lack: str = _NOT_SAVED,
    ) -> None:
        self.lack = None if network else lack
        self._namer, self._facts, self._words = namer, namer.facts, words
        self._network, self._device = network, device
        # MLflow's server calls from several threads, and a forward pass is read through hooks of the one network.
        self._one_forward = threading.Lock()
        if network is not None:
            network.model.place(device)

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Words for each row, in the order of the rows.

        Args:
            model_input: columns as `save_explainer_model` describes them.
            params: num_words.

        Returns:
            `words` and `scores` (see tasks.explainer.naming), lists of num_words each (or of all words, if there are
            fewer), best first.

        Raises:
            ValueError: one line, which names the first row that is wrong.
        """
        asked = (params or {}).get("num_words")
        num_words = DEFAULT_NUM_WORDS if asked is None else int(asked)
        if num_words < 1:
            raise ValueError(f"num_words: found {num_words}; allowed: 1 or more")
        features_RC = self.pool_rows(model_input)
        with torch.inference_mode():
            found = self._namer.name(torch.from_numpy(features_RC).to(self._device), num_words)
        words, scores = found.words.tolist(), found.scores.double().tolist()
        content = {"words": [[self._words[w] for w in row] for row in words], "scores": scores}
        return pd.DataFrame(content, index=model_input.index)

    def pool_rows(self, frame: pd.DataFrame) -> FloatArray:
        """The region feature of each row, not scaled: float32 [R, C].

        Raises:
            ValueError: as `predict`.
        """
        given, regions = read_rows(frame, self._facts.channels)
        if regions and self._network is None:
            raise ValueError(f"row {regions[0].row}: found an image, but {self.lack}; allowed: region_features")
        features = given | (pool_images(self._network, regions, self._run) if self._network else {})
        features_RC = np.zeros((len(frame), self._facts.channels), np.float32)
        for row, feature in features.items():
            features_RC[row] = feature
        return features_RC

    def _run(self, images_NYXC: InputImage) -> HalfArray:
        """Maps of the layer, as the activation store keeps them: float16 [N, C, H, W]."""
        assert self._network is not None
        model, layer = self._network.model, self._network.layer
        with self._one_forward, ActivationTap(model.network, (model.find_layer(layer),)) as tap:
            run_network(model.network, normalise_images(images_NYXC, model, self._device))
            maps = tap.maps[layer]
        if maps.shape[1] != self._facts.channels:
            raise ValueError(
                f"layer {layer}: found {maps.shape[1]} filters; allowed: {self._facts.channels}, as the explainer has"
            )
        return maps.to(torch.float16).cpu().contiguous().numpy()


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> ExplainerModel:
    """The hook that MLflow looks for.

    Args:
        model_config: device, as in the settings of an audit.
    """
    folder = Path(path)
    device = choose_device((model_config or {}).get("device", "auto"))
    vocabulary = read_vocabulary(folder)
    facts = load_facts(folder)
    if vocabulary.matrix.shape != (len(vocabulary.words), facts.dimensions):
        raise ValueError(
            f"vocabulary: found a matrix {vocabulary.matrix.shape} for {len(vocabulary.words)} words and an explainer "
            f"of {facts.dimensions} dimensions; allowed: vectors of the explainer's own vocabulary"
        )
    namer = load_namer(folder, vocabulary, device)
    network, lack = _load_network(folder)
    return ExplainerModel(namer, vocabulary.words, network, device, lack)


def _load_network(folder: Path) -> tuple[PackedNetwork | None, str]:
    """The network that came along; where its weights were kept elsewhere and are not there, the reason."""
    if not (folder / PACKED_FACTS).is_file():
        return None, _NOT_SAVED
    try:
        return load_packed_network(folder), ""
    except UserError as err:
        if (folder / PACKED_WEIGHTS).is_file():
            raise
        return None, f"the target network, which this model names and does not hold, cannot be had ({err})"
