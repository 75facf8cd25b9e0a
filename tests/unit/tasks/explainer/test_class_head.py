"""The classifier head in words: lexicon by hand, posterior and ConSE's vector against loops in float64."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.words.word_vectors import PhraseMatch, Vocabulary, WordVectors
from lavise.tasks.explainer.class_head import (
    HEAD_PREFIX,
    ClassifierHead,
    HeadFacts,
    build_head,
    load_head,
    measure_scale,
)
from tests.unit.tasks.helpers import AnyArray

WORDS = ("terrier", "dog", "hotdog", "bull", "pencil", "case", "pencil case", "kite")
CHANNELS, DIMENSIONS = 5, 4
CLASSES = (
    ("Kerry blue terrier",),
    ("bull dog", "dog"),
    ("hot dog", "red hot"),
    ("qwxyz",),
    ("pencil case",),
)
SCALE = 7.0
TENSORS = {"weight", "bias", "vectors", "lexicon", "word_J", "name_M3"}


def make_vectors() -> WordVectors:
    matrix = np.random.default_rng(0).normal(size=(len(WORDS), DIMENSIONS)).astype(np.float32)
    return WordVectors(WORDS, matrix)


def make_vocabulary() -> Vocabulary:
    matrix = make_vectors().matrix
    return Vocabulary(WORDS, matrix / np.linalg.norm(matrix, axis=1, keepdims=True), len(WORDS), ())


def make_linear(num_classes: int = len(CLASSES), seed: int = 1) -> LinearHead:
    generator = torch.Generator().manual_seed(seed)
    return LinearHead(
        torch.randn(num_classes, CHANNELS, generator=generator), torch.randn(num_classes, generator=generator)
    )


def build(classes: tuple[tuple[str, ...], ...] = CLASSES) -> tuple[ClassifierHead, HeadFacts]:
    names = ClassNames(classes, "settings")
    return build_head(make_linear(len(classes)), names, make_vectors(), make_vocabulary(), SCALE)


def posterior_by_loops(features: AnyArray, linear: LinearHead) -> AnyArray:
    weight, bias = linear.weight.double().numpy(), linear.bias.double().numpy()
    rows = []
    for feature in features.astype(np.float64):
        length = math.sqrt(sum(v * v for v in feature))
        logits = [
            (sum(w * v / length * SCALE for w, v in zip(row, feature, strict=True)) + b) / 1.5
            for row, b in zip(weight, bias, strict=True)
        ]
        exponentials = [math.exp(v) for v in logits]
        rows.append([v / sum(exponentials) for v in exponentials])
    return np.array(rows)


def test_words_of_classes_by_hand() -> None:
    """Synonyms and head nouns; a phrase whose token is a word stands under that; nonsense has none."""
    head, facts = build()
    named = [{WORDS[int(head.word_J[j])]: float(p) for j, p in enumerate(row) if p > 0} for row in head.lexicon]
    assert named == [
        {"terrier": 1.0},
        {"dog": 1.0},
        {"hotdog": 0.5, "dog": 0.5},
        {},
        {"pencil case": 0.5, "case": 0.5},
    ]
    assert facts == HeadFacts(SCALE, "settings", num_classes=5, num_named=4, num_words=5, num_names=len(head.name_M3))
    assert sorted(set(head.word_J.tolist())) == head.word_J.tolist()
    assert torch.equal(head.vectors.norm(dim=1) > 0, torch.tensor([True, True, True, False, True]))


def test_words_that_are_true_of_classes() -> None:
    """Their names, and what WordNet says that they are a kind of, as far as the vocabulary has it."""
    head, _ = build()
    found: dict[int, dict[str, bool]] = {}
    for number, row, is_own in head.name_M3.tolist():
        found.setdefault(number, {})[WORDS[row]] = bool(is_own)
    assert found[0] == {"terrier": True, "dog": False}
    assert found[1]["dog"] is True
    assert 3 not in found
    assert found[4] == {"pencil case": True, "case": True}


def test_forms_of_a_category_stand_for_the_category() -> None:
    matches = tuple(PhraseMatch(name, "exact", (name,)) for name in ("dog",))
    plain = make_vocabulary()
    vocabulary = Vocabulary(plain.words, plain.matrix, plain.num_words, matches)
    classes = ClassNames((("Kerry blue terrier",), ("dogs",)), "settings")
    head, facts = build_head(make_linear(2), classes, make_vectors(), vocabulary, SCALE)
    assert sorted(head.name_M3.tolist()) == [[0, 0, 1], [0, 1, 0], [1, 1, 1]]
    assert facts.num_names == 3


def test_explainers_of_before_have_no_names_of_classes() -> None:
    head, facts = build()
    stored = {HEAD_PREFIX + k: v.clone() for k, v in head.state_dict().items() if k != "name_M3"}
    content = asdict(facts)
    del content["num_names"]
    assert load_head(HeadFacts(**content), stored).name_M3.shape == (0, 3)


def test_answer_is_the_networks_own() -> None:
    head, _ = build()
    means = torch.randn(6, CHANNELS, generator=torch.Generator().manual_seed(3))
    expected = torch.softmax(means.double() @ head.weight.double().T + head.bias.double(), dim=1)
    torch.testing.assert_close(head.answer(means).double(), expected, atol=1e-6, rtol=1e-5)


def test_posterior_vs_loops_and_the_length_does_not_matter() -> None:
    head, _ = build()
    features = np.random.default_rng(2).normal(size=(6, CHANNELS)).astype(np.float32)
    expected = posterior_by_loops(features, make_linear())
    for factor in (1.0, 1e-3, 50.0):
        np.testing.assert_allclose(head.posterior(torch.from_numpy(features * np.float32(factor))), expected, atol=1e-5)


def test_feature_of_zeros_has_the_posterior_of_the_bias() -> None:
    head, _ = build()
    expected = torch.softmax(make_linear().bias / 1.5, dim=0)
    torch.testing.assert_close(head.posterior(torch.zeros(1, CHANNELS))[0], expected)


def test_word_probabilities_vs_loops() -> None:
    head, _ = build()
    posterior = torch.softmax(torch.randn(4, 5, generator=torch.Generator().manual_seed(3)), dim=1)
    found = head.word_probabilities(posterior)
    column = {WORDS[int(r)]: j for j, r in enumerate(head.word_J)}
    for row, p in zip(found.tolist(), posterior.tolist(), strict=True):
        assert row[column["terrier"]] == pytest.approx(p[0])
        assert row[column["dog"]] == pytest.approx(p[1] + p[2] / 2)
        assert row[column["case"]] == pytest.approx(p[4] / 2)
        # The class without a name keeps its share to itself.
        assert sum(row) == pytest.approx(1 - p[3])


def test_combined_vector_vs_loops_over_the_ten_best_named_classes() -> None:
    """ConSE: twelve classes have a name, the two least probable of them do not count, nor does the nameless one."""
    classes = (*[(w,) for w in WORDS], ("bull dog",), ("pencil",), ("a kite",), ("Kerry blue terrier",), ("qwxyz",))
    head, facts = build(classes)
    assert facts.num_named == 12
    posterior = torch.softmax(torch.randn(5, 13, generator=torch.Generator().manual_seed(4)) * 2, dim=1)
    posterior[0] = torch.softmax(torch.tensor([0.0] * 12 + [9.0]), dim=0) + torch.arange(13) * 1e-5
    found = head.combine_vectors(posterior)
    for row, p in zip(found.numpy(), posterior.double().numpy(), strict=True):
        best = sorted(range(12), key=lambda k: -p[k])[:10]
        total = sum(p[k] * head.vectors[k].double().numpy() for k in best)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-5)


def test_head_comes_back_from_its_tensors_to_the_bit() -> None:
    head, facts = build()
    stored = {HEAD_PREFIX + k: v.clone() for k, v in head.state_dict().items()} | {"norm1.bias": torch.zeros(1)}
    back = load_head(HeadFacts(**asdict(facts)), stored)
    assert set(back.state_dict()) == set(head.state_dict()) == TENSORS
    assert all(torch.equal(v, head.state_dict()[k]) for k, v in back.state_dict().items())
    assert back.scale == SCALE
    assert list(back.parameters()) == []


def test_classes_that_no_word_names() -> None:
    head, facts = build((("qwxyz",), ("vwxyz",)))
    assert (facts.num_named, facts.num_words) == (0, 0)
    posterior = torch.tensor([[0.25, 0.75]])
    assert head.word_probabilities(posterior).shape == (1, 0)
    assert torch.equal(head.combine_vectors(posterior), torch.zeros(1, DIMENSIONS))


def test_scale_is_the_median_length() -> None:
    means = np.array([[3, 4], [0, 1], [6, 8], [0, 0]], dtype=np.float32)
    assert measure_scale([means[:1], means[1:]]) == pytest.approx(3.0)
