"""The classifier head as an explainer: class posteriors become words through the names of the classes.

ConSE (Norouzi et al., *Zero-Shot Learning by Convex Combination of Semantic Embeddings*, ICLR 2014) needs no reference
data: v̂ is the convex combination of the class names' word vectors under the class posterior of the region feature.

Shape legend: R regions, C filters, K classes, V words, J words of the lexicon, E embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lavise.storage.array_types import FloatArray
from lavise.storage.models.class_names import ClassNames, embed_class_names
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.words.class_taxonomy import find_hypernyms, find_synset
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.storage.words.word_vectors import Vocabulary, WordVectors, match_phrase
from lavise.tasks.numerics.random_streams import Stream, make_rng

# Region features come in length 1. Logits are those of a feature with the usual length of the training pictures, made
# softer: a region is less than a picture, and the classes of a region of several things share it.
_TEMPERATURE = 1.5
_CONSE_CLASSES = 10
HEAD_PREFIX = "head."


@dataclass(frozen=True)
class HeadFacts:
    """Where a head's words come from.

    Attributes:
        scale: usual length of a pooled feature (median over the training pictures).
        source: of the class names (see storage.models.class_names.ClassNames).
        num_classes: K.
        num_named: classes with a word vector.
        num_words: J, words of the vocabulary that are names of classes, or head nouns of such names.
        num_names: M, pairs of a class and a word that is true of it: its names, and what it is a kind of.
    """

    scale: float
    source: str
    num_classes: int
    num_named: int
    num_words: int
    num_names: int = 0


class ClassifierHead(nn.Module):
    """Class posterior of region features, and what it says in words. Nothing in it is trained.

    Attributes:
        weight: [K, C], bias: [K]: the head itself.
        vectors: [K, E], word vector of each class's name, length 1 or 0.
        lexicon: [K, J], row k is a distribution over the words that name class k (zero where there is none).
        word_J: int64 [J], rows of the vocabulary.
        name_M3: int64 [M, 3], class, row of the vocabulary, and 1 where the word is a name of the class (or the
            category that it is a form of), 0 where it is what the class is a kind of (see
            storage.words.class_taxonomy).
    """

    def __init__(
        self, num_classes: int, channels: int, dimensions: int, num_words: int, num_names: int, scale: float
    ) -> None:
        super().__init__()
        self.scale = scale
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.vectors: torch.Tensor
        self.lexicon: torch.Tensor
        self.word_J: torch.Tensor
        self.name_M3: torch.Tensor
        self.register_buffer("weight", torch.zeros(num_classes, channels))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("vectors", torch.zeros(num_classes, dimensions))
        self.register_buffer("lexicon", torch.zeros(num_classes, num_words))
        self.register_buffer("word_J", torch.zeros(num_words, dtype=torch.int64))
        self.register_buffer("name_M3", torch.zeros((num_names, 3), dtype=torch.int64))

    def posterior(self, features_RC: torch.Tensor) -> torch.Tensor:
        """Class posterior [R, K] of region features of any length."""
        unit = functional.normalize(features_RC, dim=1) * self.scale
        return functional.softmax((unit @ self.weight.T + self.bias) / _TEMPERATURE, dim=1)

    def answer(self, means_NC: torch.Tensor) -> torch.Tensor:
        """The network's own answer [N, K] to whole pictures, from their pooled maps."""
        return functional.softmax(means_NC @ self.weight.T + self.bias, dim=1)

    def combine_vectors(self, posterior_RK: torch.Tensor) -> torch.Tensor:
        """ConSE's v̂ [R, E], length 1: the ten most probable classes with a vector, as published."""
        named = posterior_RK * (self.vectors.norm(dim=1) > 0)
        best = torch.topk(named, min(_CONSE_CLASSES, named.shape[1]), dim=1)
        sparse = torch.zeros_like(named).scatter_(1, best.indices, best.values)
        return functional.normalize(sparse @ self.vectors, dim=1)

    def word_probabilities(self, posterior_RK: torch.Tensor) -> torch.Tensor:
        """[R, J]: each class shares its probability out among the words that name it."""
        return posterior_RK @ self.lexicon


def build_head(
    head: LinearHead, classes: ClassNames, vectors: WordVectors, vocabulary: Vocabulary, scale: float
) -> tuple[ClassifierHead, HeadFacts]:
    """The head with its words.

    The words that name a class: its synonyms, and the head nouns (last word, last two words) of those of several words
    (`Kerry blue terrier` is a `terrier`), as far as they are in the vocabulary. They share the class equally.
    """
    embedded, how = embed_class_names(classes, vectors)
    index = {w: i for i, w in enumerate(vocabulary.words)}
    found = [_words_of(synonyms, vectors, index) for synonyms in classes.names]
    rows = sorted(set().union(*found)) if found else []
    column = {row: j for j, row in enumerate(rows)}
    categories = [m.name for m in vocabulary.matches if m.name in index]
    forms, language = index_categories(categories, vocabulary.language), vocabulary.language
    category_of = {form: index[categories[c]] for form, c in forms.items()}
    names = [
        (k, row, int(is_own))
        for k, (own, synonyms) in enumerate(zip(found, classes.names, strict=True))
        for row, is_own in sorted(
            _name_class([vocabulary.words[r] for r in own], synonyms, index, category_of, language).items()
        )
    ]
    channels, dimensions = head.weight.shape[1], embedded.shape[1]
    module = ClassifierHead(len(found), channels, dimensions, len(rows), len(names), scale)
    module.weight.copy_(head.weight)
    module.bias.copy_(head.bias)
    module.vectors.copy_(torch.from_numpy(embedded))
    module.word_J.copy_(torch.tensor(rows, dtype=torch.int64))
    module.name_M3.copy_(torch.tensor(names, dtype=torch.int64).reshape(-1, 3))
    for k, own in enumerate(found):
        for row in own:
            module.lexicon[k, column[row]] = 1 / len(own)
    num_named = sum(h != "missing" for h in how)
    return module, HeadFacts(scale, classes.source, len(found), num_named, len(rows), len(names))


def _name_class(
    own: Sequence[str],
    synonyms: Sequence[str],
    index: Mapping[str, int],
    category_of: Mapping[str, int],
    language: str,
) -> dict[int, bool]:
    """Rows of the words that are true of a class, and whether they are its own names.

    A form of a category of the reference stands for that category, and for nothing else.

    Args:
        own: words that name it, in the vocabulary.
        index: rows of all words; category_of: rows of the categories, by form (see storage.words.lemmas.find_category).
    """
    synset = find_synset(synonyms)
    named = dict.fromkeys(sorted(find_hypernyms(synset)) if synset is not None else (), False)
    named |= dict.fromkeys([*own, *(" ".join(name.lower().split()) for name in synonyms)], True)
    rows: dict[int, bool] = {}
    for name, is_own in named.items():
        row = find_category(name, category_of, language)
        if row is None:
            row = index.get(name)
        if row is not None:
            rows[row] = rows.get(row, False) or is_own
    return rows


def load_head(facts: HeadFacts, tensors: Mapping[str, torch.Tensor]) -> ClassifierHead:
    """From the tensors of an explainer's file."""
    own = {k.removeprefix(HEAD_PREFIX): v for k, v in tensors.items() if k.startswith(HEAD_PREFIX)}
    own.setdefault("name_M3", torch.zeros((facts.num_names, 3), dtype=torch.int64))  # explainers of before
    channels, dimensions = own["weight"].shape[1], own["vectors"].shape[1]
    module = ClassifierHead(facts.num_classes, channels, dimensions, facts.num_words, facts.num_names, facts.scale)
    module.load_state_dict(own)
    return module.eval()


def measure_scale(means: Iterable[FloatArray]) -> float:
    """Median length of the pictures' pooled features, which come in parts [n, C]."""
    lengths = [np.linalg.norm(means_nC.astype(np.float64), axis=1) for means_nC in means]
    return float(np.median(np.concatenate(lengths)))


def _words_of(synonyms: tuple[str, ...], vectors: WordVectors, index: Mapping[str, int]) -> set[int]:
    rows = set()
    for synonym in synonyms:
        words = re.split(r"\s+", synonym.lower().strip())
        for ending in {" ".join(words), words[-1], " ".join(words[-2:])}:
            match = match_phrase(vectors, ending)
            token = match.tokens[0] if match.how in ("exact", "joined") else ending
            for name in (ending, token):
                if name in index:
                    rows.add(index[name])
    return rows


def shuffle_names(classes: ClassNames, seed: int) -> ClassNames:
    """The names of the classes dealt out at random, for a baseline that knows none of them."""
    order = make_rng(seed, Stream.SHUFFLED_CLASS_NAMES).permutation(len(classes.names))
    return replace(classes, names=tuple(classes.names[i] for i in order))
