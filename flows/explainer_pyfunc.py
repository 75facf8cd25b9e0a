"""What MLflow loads an explainer with (the `loader_module` of the model that `explainer_model` saves)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.explainer import Explainer, ExplainerFacts, load_explainer, scale_features


class ExplainerModel:
    """Region features, pooled and not scaled, float32 [n, C] -> semantic vectors v̂ of length 1, float32 [n, E]."""

    def __init__(self, explainer: Explainer, facts: ExplainerFacts) -> None:
        self._explainer, self._facts = explainer, facts

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """As MLflow calls it; there are no parameters."""
        features = model_input["region_features"] if isinstance(model_input, dict) else model_input
        with torch.inference_mode():
            rows = torch.from_numpy(np.array(features, dtype=np.float32))
            return self._explainer(scale_features(rows, self._facts.region_feature)).numpy()


def _load_pyfunc(path: str) -> ExplainerModel:
    """The hook that MLflow looks for."""
    return ExplainerModel(*load_explainer(Path(path), "cpu"))
