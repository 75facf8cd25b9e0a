"""The explainer Exp: region feature [C] -> semantic vector [E]; and what it is stored with.

Shape legend: R regions, C filters, E embedding, S supervised categories.
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

from lavise.storage.state import file_names
from lavise.storage.state.files import write_json
from lavise.tasks.explainer.class_head import HEAD_PREFIX, ClassifierHead, HeadFacts, load_head

# cuBLAS is deterministic only with a fixed workspace, and reads this when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Features of length 1 are too short for a classifier to become certain within a few epochs.
_CATEGORY_SCALE = 20.0


@dataclass(frozen=True)
class ExplainerFacts:
    """What an explainer is, beside its weights.

    Attributes:
        region_feature: `l2` or `raw`; how features are scaled before they go in.
        supervised: categories that it was trained on.
        held_out: categories with regions that it was not trained on, on purpose.
        kind: `learned`, `head` or `fused`; who names regions (see tasks.explainer.naming).
        open_share: of a fused explainer's words, the probability that goes to words that it was not trained on.
        head: of the target model's classifier head, if it is part of the explainer.
        no_head: why it is not.
        uses_learned: a fused explainer with a head uses the learned v̂ in place of v_c (see tasks.explainer.naming).
    """

    channels: int
    dimensions: int
    dropout: float
    region_feature: str
    objective: str
    supervised: tuple[str, ...]
    held_out: tuple[str, ...]
    training: Mapping[str, Any]
    kind: str = "learned"
    open_share: float = 0.0
    head: HeadFacts | None = None
    no_head: str = ""
    uses_learned: bool = False


class Adapter(nn.Module):
    """An affine map of scaled region features, from the target domain to what the learned parts were trained on.

    Attributes:
        weight: [C], one factor for each filter, or [C, C], that the rows of features are multiplied with.
        bias: [C].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, features_RC: torch.Tensor) -> torch.Tensor:
        """[R, C] -> [R, C]."""
        scaled = features_RC * self.weight if self.weight.ndim == 1 else features_RC @ self.weight
        return scaled + self.bias


class Explainer(nn.Module):
    """As published: BatchNorm, Dropout, Linear C->C, ReLU, BatchNorm, Dropout, Linear C->E.

    Beside it, and not published, a linear classifier of the supervised categories, C->S, and an adapter that both of
    them see features through, where the explainer was fitted to a target domain (see tasks.explainer.transfer).
    """

    adapter: Adapter | None

    def __init__(self, channels: int, dimensions: int, dropout: float, num_categories: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(channels)
        self.drop1 = nn.Dropout(dropout)
        self.linear1 = nn.Linear(channels, channels)
        self.norm2 = nn.BatchNorm1d(channels)
        self.drop2 = nn.Dropout(dropout)
        self.linear2 = nn.Linear(channels, dimensions)
        self.categories = nn.Linear(channels, num_categories) if num_categories else None
        self.adapter = None

    def adapt(self, features_RC: torch.Tensor) -> torch.Tensor:
        """[R, C] -> [R, C], through the adapter where there is one."""
        if self.adapter is None:
            return features_RC
        adapted: torch.Tensor = self.adapter(features_RC)
        return adapted

    def hidden(self, features_RC: torch.Tensor) -> torch.Tensor:
        """[R, C] -> [R, C], what the second normalisation sees."""
        return functional.relu(self.linear1(self.drop1(self.norm1(self.adapt(features_RC)))))

    def forward(self, features_RC: torch.Tensor) -> torch.Tensor:
        """[R, C], scaled by `scale_features` -> v̂ [R, E], each of length 1."""
        out = self.linear2(self.drop2(self.norm2(self.hidden(features_RC))))
        return functional.normalize(out, dim=1)

    def category_logits(self, features_RC: torch.Tensor) -> torch.Tensor:
        """[R, C] -> [R, S], of the supervised categories in the order of `ExplainerFacts.supervised`."""
        assert self.categories is not None, "this explainer has no classifier of categories"
        logits: torch.Tensor = self.categories(self.adapt(features_RC) * _CATEGORY_SCALE)
        return logits


def scale_features(features_RC: torch.Tensor, how: str) -> torch.Tensor:
    """`l2`: each row to length 1 (a row of zeros stays); `raw`: unchanged. The same for training and explaining."""
    return functional.normalize(features_RC, dim=1) if how == "l2" else features_RC


def save_explainer(
    explainer: Explainer, facts: ExplainerFacts, folder: Path, head: ClassifierHead | None = None
) -> None:
    """Write explainer.safetensors and explainer.json."""
    weights = {k: v.detach().cpu().contiguous() for k, v in explainer.state_dict().items()}
    if head is not None:
        weights |= {HEAD_PREFIX + k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
    save_file(weights, folder / file_names.EXPLAINER_WEIGHTS)
    write_json(folder / file_names.EXPLAINER_FACTS, asdict(facts))


def load_explainer(folder: Path, device: str) -> tuple[Explainer, ExplainerFacts]:
    """Read an explainer back, in evaluation mode."""
    facts = load_facts(folder)
    tensors = load_file(folder / file_names.EXPLAINER_WEIGHTS)
    num_categories = len(tensors["categories.bias"]) if "categories.bias" in tensors else 0
    explainer = Explainer(facts.channels, facts.dimensions, facts.dropout, num_categories)
    if "adapter.weight" in tensors:
        explainer.adapter = Adapter(tensors["adapter.weight"], tensors["adapter.bias"])
    explainer.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(HEAD_PREFIX)})
    return explainer.to(device).eval(), facts


def load_attached_head(folder: Path, device: str) -> ClassifierHead | None:
    """The classifier head that an explainer is stored with, if there is one."""
    facts = load_facts(folder)
    if facts.head is None:
        return None
    return load_head(facts.head, load_file(folder / file_names.EXPLAINER_WEIGHTS)).to(device)


def load_facts(folder: Path) -> ExplainerFacts:
    """Read explainer.json."""
    content = json.loads((folder / file_names.EXPLAINER_FACTS).read_text("utf-8"))
    content |= {k: tuple(content[k]) for k in ("supervised", "held_out")}
    content["head"] = HeadFacts(**content["head"]) if content.get("head") else None
    return ExplainerFacts(**content)


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
