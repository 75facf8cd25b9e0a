"""The explainer as an MLflow model, from code and safetensors: nothing in it is a pickle."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import UserError
from lavise.storage.datasets.input_images import COLOUR_CHANNELS
from lavise.storage.state import file_names

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from lavise.storage.models.packed_network import PackedNetwork

_EXPLAINER_FILES = (file_names.EXPLAINER_WEIGHTS, file_names.EXPLAINER_FACTS)
_VOCABULARY_FILES = (file_names.VOCABULARY, file_names.VOCABULARY_MATRIX)


def save_explainer_model(destination: Path, explainer: Path, vocabulary: Path, network: PackedNetwork | None) -> None:
    """Write a model folder that `mlflow.pyfunc.load_model` loads where lavise is installed.

    The model takes a pandas data frame with a row per region. A row has either

    - `region_features`: C numbers, pooled over the region and not scaled (mean over H·W of F ⊙ M), or
    - `image`: the bytes of a picture file (of a TIFF, for a network of bands), or base64 of them, and `box`: [left,
      top, right, bottom] in pixels of the upright picture. Without a box (a missing column, None or NaN) the region is
      the whole picture. What of a box lies outside the picture does not count.

    It returns a row per region, in the same order: `words` and `scores` (see tasks.explainer.naming), lists with the
    best first. The parameter `num_words` says how many. The model's config has `device` (auto, cpu, cuda).

    An array [n, C] does not go in as it is, since MLflow drops columns without a known name; it goes in as
    `DataFrame({"region_features": list(array)})`.

    MLflow's server takes `dataframe_records` and `dataframe_split`, images as base64. A row of features among images
    has "" as its image there, and a row with an image null as its region_features.

    The model is tried before it is written: the network is built again from its files, and explains a picture.

    Args:
        destination: must not exist, or be empty.
        explainer: folder with explainer.safetensors and explainer.json.
        vocabulary: folder with vocabulary.json and matrix.npy.
        network: without it, the model takes region features only. Where its weights are kept elsewhere, the model
            takes pictures only where they are found.

    Raises:
        UserError: the network cannot be built again from its name and weights (see `load_packed_network`).
    """
    import mlflow.pyfunc
    import pandas as pd

    from lavise.flows.serving.explainer_pyfunc import _load_pyfunc
    from lavise.storage.models.packed_network import save_packed_network

    facts: dict[str, Any] = json.loads((explainer / file_names.EXPLAINER_FACTS).read_text("utf-8"))
    example = pd.DataFrame({"region_features": [[1.0] * facts["channels"]]})
    with tempfile.TemporaryDirectory() as folder, _quiet():
        data = Path(folder) / "explainer"
        data.mkdir()
        for source, names in ((explainer, _EXPLAINER_FILES), (vocabulary, _VOCABULARY_FILES)):
            for name in names:
                shutil.copyfile(source / name, data / name)
        if network is not None:
            save_packed_network(network, data)
        model = _load_pyfunc(str(data), {"device": "cpu"})
        model.predict(example)
        if network is not None:
            if model.lack:
                raise UserError(model.lack)
            model.predict(pd.DataFrame({"image": [_draw_image(network.model.channels)]}))
        mlflow.pyfunc.save_model(
            path=str(destination),
            loader_module="lavise.flows.serving.explainer_pyfunc",
            data_path=str(data),
            signature=make_signature(),
            input_example=example,
            pip_requirements=["lavise"],
            model_config={"device": "auto"},
        )


def make_signature() -> ModelSignature:
    """What goes in and comes out (see `save_explainer_model`); the same with and without the network."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    from lavise.flows.serving.explainer_pyfunc import DEFAULT_NUM_WORDS

    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(Array(DataType.double), "region_features", required=False),
                ColSpec(DataType.binary, "image", required=False),
                # An array of double would refuse whole numbers, and NaN where a record has no box.
                ColSpec(AnyType(), "box", required=False),
            ]
        ),
        outputs=Schema([ColSpec(Array(DataType.string), "words"), ColSpec(Array(DataType.double), "scores")]),
        params=ParamSchema([ParamSpec("num_words", DataType.long, DEFAULT_NUM_WORDS)]),
    )


def _draw_image(channels: int) -> bytes:
    """A small picture to try a network with; of bands, where it takes such."""
    import numpy as np
    import tifffile
    from PIL import Image

    file, gradient = io.BytesIO(), Image.linear_gradient("L")
    if channels in COLOUR_CHANNELS:
        gradient.convert("RGB").save(file, "PNG")
    else:
        bands = np.repeat(np.asarray(gradient)[..., None], channels, axis=2)
        tifffile.imwrite(file, bands, photometric="minisblack", planarconfig="contig")
    return file.getvalue()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow talks about pip, uv and type hints while it saves; none of it concerns the user of an audit."""
    logger = logging.getLogger("mlflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Or the folder that the user happens to stand in would be packed as the model's project.
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
