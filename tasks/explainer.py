"""The explainer Exp: region feature [C] -> semantic vector [E].

Shape legend: R regions, C filters, E embedding.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from storage.artefacts import write_json

# cuBLAS is deterministic only with a fixed workspace, and reads this when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@dataclass(frozen=True)
class ExplainerFacts:
    """What an explainer is, beside its weights.

    Attributes:
        region_feature: `l2` or `raw`; how features are scaled before they go in.
        supervised: categories that it was trained on.
        held_out: categories with regions that it was not trained on, on purpose.
    """

    channels: int
    dimensions: int
    dropout: float
    region_feature: str
    objective: str
    supervised: tuple[str, ...]
    held_out: tuple[str, ...]
    training: Mapping[str, Any]


class Explainer(nn.Module):
    """As published: BatchNorm, Dropout, Linear C->C, ReLU, BatchNorm, Dropout, Linear C->E."""

    def __init__(self, channels: int, dimensions: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(channels)
        self.drop1 = nn.Dropout(dropout)
        self.linear1 = nn.Linear(channels, channels)
        self.norm2 = nn.BatchNorm1d(channels)
        self.drop2 = nn.Dropout(dropout)
        self.linear2 = nn.Linear(channels, dimensions)

    def hidden(self, features_RC: torch.Tensor) -> torch.Tensor:
        """[R, C] -> [R, C], what the second normalisation sees."""
        return functional.relu(self.linear1(self.drop1(self.norm1(features_RC))))

    def forward(self, features_RC: torch.Tensor) -> torch.Tensor:
        """[R, C], scaled by `scale_features` -> v̂ [R, E], each of length 1."""
        out = self.linear2(self.drop2(self.norm2(self.hidden(features_RC))))
        return functional.normalize(out, dim=1)


def scale_features(features_RC: torch.Tensor, how: str) -> torch.Tensor:
    """`l2`: each row to length 1 (a row of zeros stays); `raw`: unchanged. The same for training and explaining."""
    return functional.normalize(features_RC, dim=1) if how == "l2" else features_RC


def save_explainer(explainer: Explainer, facts: ExplainerFacts, folder: Path) -> None:
    """Write explainer.safetensors and explainer.json."""
    weights = {k: v.detach().cpu().contiguous() for k, v in explainer.state_dict().items()}
    save_file(weights, folder / "explainer.safetensors")
    write_json(folder / "explainer.json", asdict(facts))


def load_explainer(folder: Path, device: str) -> tuple[Explainer, ExplainerFacts]:
    """Read an explainer back, in evaluation mode."""
    content = json.loads((folder / "explainer.json").read_text("utf-8"))
    content |= {k: tuple(content[k]) for k in ("supervised", "held_out")}
    facts = ExplainerFacts(**content)
    explainer = Explainer(facts.channels, facts.dimensions, facts.dropout)
    explainer.load_state_dict(load_file(folder / "explainer.safetensors"))
    return explainer.to(device).eval(), facts


@contextlib.contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Seeded, with deterministic kernels; global state is put back afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.backends.cudnn.benchmark = benchmark
