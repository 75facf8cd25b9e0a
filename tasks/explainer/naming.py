"""From region features to words: who names a region, and with which words of the vocabulary.

- `learned`: cosine of v̂ = Exp(feature) with every word, as published.
- `head`: cosine of ConSE's v̂ with every word (see tasks.explainer.class_head).
- `fused`: a probability for every word. With probability `open_share` the word is none of the supervised categories,
  else it is one of them:
    P(w) = (1 - open_share) · P(category w | feature)                            for supervised categories
    P(w) = open_share · softmax_w(log(h(w) + ε) + λ · v_c·v_w)                   for all other words
  with h the head's word probabilities and v_c the mean of the supervised categories' vectors, weighted by the roots of
  their probabilities and scaled to length 1: the head proposes words, what the region is like among the categories
  decides between them. Where the target model has no head that can be used, h is left out, and the learned v̂ takes the
  place of v_c. The learned v̂ takes it beside h, too, once it has been taught by the head on the target (`uses_learned`;
  see tasks.explainer.transfer).

Shape legend: R regions, C filters, V words, E embedding, S supervised categories, s words per region.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from torch.nn import functional

from lavise.configs.errors import UserError
from lavise.configs.schema import ExplainerSettings
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of, digest_tensors
from lavise.storage.words.word_vectors import Vocabulary, WordVectors
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, StageInputs, Stated
from lavise.tasks.explainer.class_head import ClassifierHead, build_head
from lavise.tasks.explainer.network import (
    Explainer,
    ExplainerFacts,
    load_attached_head,
    load_explainer,
    save_explainer,
    scale_features,
)

STAGE = Stage("explainer", version=3, libraries=("simplemma",))
_HEAD_FLOOR = 1e-7
_CATEGORY_WEIGHT = 10.0
_LEARNED_WEIGHT = 20.0
_MEANING_WORDS = 10
# A block of scores that stays in the processor's cache is several times faster than one that does not.
_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class NamedRegions:
    """Words of regions, best first, on the device.

    Attributes:
        words: int64 [R, s], rows of the vocabulary (or of the candidates that were asked for).
        scores: float32 [R, s]; cosines (learned, head) or probabilities (fused).
        vectors: float32 [R, E], the semantic vector v̂ of each region, length 1.
    """

    words: torch.Tensor
    scores: torch.Tensor
    vectors: torch.Tensor


class Namer:
    """An explainer with its vocabulary."""

    def __init__(
        self,
        explainer: Explainer,
        facts: ExplainerFacts,
        head: ClassifierHead | None,
        vocabulary: Vocabulary,
        device: str,
    ) -> None:
        if facts.kind == "head" and head is None:
            raise ValueError(f"a head explainer without a head: {facts.no_head}")
        self.explainer, self.facts, self.head = explainer, facts, head
        self.matrix_VE = torch.from_numpy(vocabulary.matrix).to(device)
        self.vocabulary = vocabulary

    @cached_property
    def _supervised_rows(self) -> torch.Tensor:
        """Rows of the supervised categories."""
        rows = self.vocabulary.positions_of(self.facts.supervised)
        return torch.tensor(rows, dtype=torch.int64, device=self.matrix_VE.device)

    @property
    def block_rows(self) -> int:
        """Regions that can be scored at once."""
        return max(_BLOCK_ELEMENTS // len(self.matrix_VE), 1)

    def score(self, features_RC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Region features, not scaled -> ([R, V] scores, [R, E] semantic vectors)."""
        scores, vectors = self._score(scale_features(features_RC, self.facts.region_feature))
        if vectors is None:
            vectors = self._average_words(torch.topk(scores, min(_MEANING_WORDS, scores.shape[1]), dim=1))
        return scores, vectors

    def categories(self, features_RC: torch.Tensor) -> torch.Tensor:
        """Probability of each supervised category [R, S], if the region is of one of them.

        A fused explainer has a classifier for that; of a learned one it is a softmax over the cosines of v̂ with the
        categories' vectors.

        Args:
            features_RC: not scaled.
        """
        with torch.inference_mode():
            features = scale_features(features_RC, self.facts.region_feature)
            if self.facts.kind == "fused":
                return functional.softmax(self.explainer.category_logits(features), dim=1)
            cosines = self.explainer(features) @ self.matrix_VE[self._supervised_rows].T
            return functional.softmax(cosines * _LEARNED_WEIGHT, dim=1)

    def _score(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scaled features -> scores, and the semantic vectors unless they follow from the best words."""
        if self.facts.kind == "fused":
            return self._mix(features), None
        if self.facts.kind == "head":
            assert self.head is not None
            vectors = self.head.combine_vectors(self.head.posterior(features))
        else:
            vectors = self.explainer(features)
        return vectors @ self.matrix_VE.T, vectors

    def _average_words(self, best: torch.return_types.topk) -> torch.Tensor:
        """Mean vector of the best words, weighted by their probabilities: [R, E], length 1."""
        values, words = best.values[:, :_MEANING_WORDS], best.indices[:, :_MEANING_WORDS]
        return functional.normalize((values[:, :, None] * self.matrix_VE[words]).sum(dim=1), dim=1)

    def name(self, features_RC: torch.Tensor, num: int, candidates: torch.Tensor | None = None) -> NamedRegions:
        """The `num` best words of each region.

        Args:
            features_RC: not scaled.
            candidates: rows of the vocabulary to choose from (a closed vocabulary); the words are then positions in it.
        """
        num = min(num, len(self.matrix_VE) if candidates is None else len(candidates))
        words, best, vectors = [], [], []
        with torch.inference_mode():
            for block in features_RC.split(self.block_rows):
                scores, own = self._score(scale_features(block, self.facts.region_feature))
                top = torch.topk(scores, min(max(num, _MEANING_WORDS), scores.shape[1]), dim=1)
                vectors.append(self._average_words(top) if own is None else own)
                chosen = top if candidates is None else torch.topk(scores[:, candidates], num, dim=1)
                words.append(chosen.indices[:, :num])
                best.append(chosen.values[:, :num])
        if not words:
            empty = torch.zeros((0, num), device=self.matrix_VE.device)
            return NamedRegions(empty.long(), empty, empty.new_zeros((0, self.matrix_VE.shape[1])))
        return NamedRegions(torch.cat(words), torch.cat(best), torch.cat(vectors))

    def _mix(self, features_RC: torch.Tensor) -> torch.Tensor:
        own_RS = functional.softmax(self.explainer.category_logits(features_RC), dim=1)
        if self.head is not None:
            if self.facts.uses_learned:
                direction = self.explainer(features_RC)
            else:
                direction = functional.normalize(own_RS.sqrt() @ self.matrix_VE[self._supervised_rows], dim=1)
            logits = direction * _CATEGORY_WEIGHT @ self.matrix_VE.T
            found = self.head.word_probabilities(self.head.posterior(features_RC))
            logits.index_add_(1, self.head.word_J, torch.log1p(found / _HEAD_FLOOR))
        else:
            logits = self.explainer(features_RC) * _LEARNED_WEIGHT @ self.matrix_VE.T
        logits.index_fill_(1, self._supervised_rows, -torch.inf)
        mixed = functional.softmax(logits, dim=1).mul_(self.facts.open_share)
        return mixed.index_copy_(1, self._supervised_rows, own_RS * (1 - self.facts.open_share))


def load_namer(folder: Path, vocabulary: Vocabulary, device: str) -> Namer:
    """Read an explainer back, ready to name regions."""
    explainer, facts = load_explainer(folder, device)
    return Namer(explainer, facts, load_attached_head(folder, device), vocabulary, device)


def _digest_head(head: LinearHead | None) -> str | None:
    return digest_tensors(vars(head)) if head else None


def _digest_classes(classes: ClassNames | None) -> str | None:
    return digest_of(classes.names) if classes else None


@dataclass(frozen=True)
class AssemblyInputs(StageInputs):
    """What the explainer that names is assembled from.

    Attributes:
        trained: artefact of the trained explainer.
        head: that the layer feeds; None where there is none.
        no_head: why there is no head; empty where there is one.
        classes: names of the head's classes; None where nobody knows them.
        scale: see tasks.explainer.class_head.HeadFacts.
        vectors: reads the word vectors.
    """

    trained: Handle
    settings: ExplainerSettings
    head: Annotated[LinearHead | None, Stated(by=_digest_head)]
    no_head: str
    classes: Annotated[ClassNames | None, Stated(by=_digest_classes)]
    scale: float
    vectors: Given[Callable[[], WordVectors]]
    vocabulary: Given[Vocabulary]


def assemble_explainer(inputs: AssemblyInputs, folder: Path) -> Info:
    """Write the trained explainer once more, with the kind that was asked for and what that needs of the head.

    Returns:
        facts: kind, num_classes, num_named_classes, num_class_words (0 without a head).

    Raises:
        UserError: a head explainer is asked for, and the head cannot be used.
    """
    settings, head, classes = inputs.settings, inputs.head, inputs.classes
    explainer, facts = load_explainer(inputs.trained.folder, "cpu")
    reason = inputs.no_head or ("" if classes else "the names of its classes are not known (model.class_names)")
    attached = None
    facts = replace(facts, kind=settings.kind, open_share=settings.open_share)
    if settings.kind == "learned":
        facts = replace(facts, no_head="explainer.kind is learned")
    elif head is not None and classes is not None:
        attached, head_facts = build_head(head, classes, inputs.vectors.value(), inputs.vocabulary.value, inputs.scale)
        facts = replace(facts, head=head_facts)
    elif settings.kind == "head":
        raise UserError(f"explainer.kind: found 'head', but {reason}; allowed here: fused, learned")
    else:
        facts = replace(facts, no_head=reason)
    save_explainer(explainer, facts, folder, attached)
    found = facts.head
    return {
        "kind": facts.kind,
        "num_classes": found.num_classes if found else 0,
        "num_named_classes": found.num_named if found else 0,
        "num_class_words": found.num_words if found else 0,
    }
