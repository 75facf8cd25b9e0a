"""The explainer as an MLflow model, from code and safetensors: nothing in it is a pickle."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def save_explainer_model(explainer: Path, destination: Path) -> None:
    """Write a model folder that `mlflow.pyfunc.load_model` loads where lavise is installed.

    Args:
        explainer: folder with explainer.safetensors and explainer.json.
    """
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    facts: dict[str, Any] = json.loads((explainer / "explainer.json").read_text("utf-8"))
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, facts["channels"]), "region_features")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, facts["dimensions"]), "semantic_vectors")]),
    )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        data = Path(folder) / "explainer"
        data.mkdir()
        for name in ("explainer.safetensors", "explainer.json"):
            shutil.copyfile(explainer / name, data / name)
        mlflow.pyfunc.save_model(
            path=str(destination),
            loader_module="flows.explainer_pyfunc",
            data_path=str(data),
            signature=signature,
            input_example=np.ones((2, facts["channels"]), np.float32),
            pip_requirements=["lavise"],
        )


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
