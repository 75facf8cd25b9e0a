"""What MLflow runs when it loads an explainer (models from code)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from tasks.explainer import load_explainer, scale_features


class ExplainerModel(PythonModel):
    """Region features, pooled and not scaled, float32 [n, C] -> semantic vectors v̂ of length 1, float32 [n, E]."""

    def load_context(self, context: Any) -> None:
        self.network, self.facts = load_explainer(Path(context.artifacts["json"]).parent, "cpu")

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        features = model_input["region_features"] if isinstance(model_input, dict) else model_input
        with torch.inference_mode():
            rows = torch.from_numpy(np.asarray(features, dtype=np.float32))
            return self.network(scale_features(rows, self.facts.region_feature)).numpy()


set_model(ExplainerModel())
