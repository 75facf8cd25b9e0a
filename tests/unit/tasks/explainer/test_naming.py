"""Words of regions by the three kinds of explainer, against loops in float64; and how an explainer is assembled."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lavise.configs.errors import UserError
from lavise.configs.schema import ExplainerSettings
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.word_vectors import WordVectors
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.explainer import naming
from lavise.tasks.explainer.class_head import ClassifierHead, build_head
from lavise.tasks.explainer.naming import AssemblyInputs, Namer, assemble_explainer, load_namer
from lavise.tasks.explainer.network import (
    Adapter,
    Explainer,
    ExplainerFacts,
    load_attached_head,
    load_explainer,
    save_explainer,
)
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, publish

CHANNELS, DIMENSIONS = 5, 6
CATEGORIES = ("cat", "hot dog", "zebra")
SUPERVISED = ("cat", "zebra")
VOCABULARY = make_vocabulary(9, CATEGORIES, DIMENSIONS)
WORDS = VOCABULARY.words
VECTORS = WordVectors(WORDS, VOCABULARY.matrix)
CLASSES = ClassNames((("word3",), ("cat", "word5"), ("nonsense",), ("word1", "word3")), "settings")
SCALE, OPEN_SHARE = 4.0, 0.65
FEATURES = torch.randn(8, CHANNELS, generator=torch.Generator().manual_seed(5)) * 3


def make_explainer(with_adapter: bool = False) -> Explainer:
    torch.manual_seed(0)
    explainer = Explainer(CHANNELS, DIMENSIONS, 0.1, len(SUPERVISED))
    explainer.train()
    explainer(torch.nn.functional.normalize(torch.randn(40, CHANNELS), dim=1))
    if with_adapter:
        explainer.adapter = Adapter(torch.randn(CHANNELS, CHANNELS), torch.randn(CHANNELS))
    return explainer.eval()


def make_facts(kind: str, how: str = "l2") -> ExplainerFacts:
    return ExplainerFacts(
        CHANNELS, DIMENSIONS, 0.1, how, "softmax", SUPERVISED, ("hot dog",), {}, kind=kind, open_share=OPEN_SHARE
    )


def make_linear() -> LinearHead:
    generator = torch.Generator().manual_seed(7)
    return LinearHead(torch.randn(4, CHANNELS, generator=generator), torch.randn(4, generator=generator))


def make_head() -> ClassifierHead:
    return build_head(make_linear(), CLASSES, VECTORS, VOCABULARY, SCALE)[0]


def unit(row: AnyArray) -> AnyArray:
    length = math.sqrt(sum(v * v for v in row))
    return np.array([v / length for v in row])


def softmax(logits: AnyArray) -> AnyArray:
    exponentials = [math.exp(v - max(logits)) for v in logits]
    return np.array([v / sum(exponentials) for v in exponentials])


def array(tensor: torch.Tensor | None) -> AnyArray:
    assert tensor is not None
    return tensor.detach().double().numpy()


def adapt(explainer: Explainer, feature: AnyArray) -> AnyArray:
    if explainer.adapter is None:
        return feature
    weight, bias = array(explainer.adapter.weight), array(explainer.adapter.bias)
    return np.array([sum(feature[i] * weight[i, j] for i in range(len(feature))) + bias[j] for j in range(len(bias))])


def learned_vector(explainer: Explainer, feature: AnyArray) -> AnyArray:
    """Exp of a feature of length 1."""

    def normalise(norm: torch.nn.BatchNorm1d, x: AnyArray) -> AnyArray:
        centred = (x - array(norm.running_mean)) / np.sqrt(array(norm.running_var) + norm.eps)
        return np.asarray(centred * array(norm.weight) + array(norm.bias))

    x = normalise(explainer.norm1, adapt(explainer, feature))
    x = np.maximum(array(explainer.linear1.weight) @ x + array(explainer.linear1.bias), 0)
    return unit(array(explainer.linear2.weight) @ normalise(explainer.norm2, x) + array(explainer.linear2.bias))


def category_probabilities(explainer: Explainer, feature: AnyArray) -> AnyArray:
    assert explainer.categories is not None
    weight, bias = array(explainer.categories.weight), array(explainer.categories.bias)
    return softmax(weight @ (adapt(explainer, feature) * 20) + bias)


def posterior(feature: AnyArray) -> AnyArray:
    linear = make_linear()
    return softmax((array(linear.weight) @ (feature * SCALE) + array(linear.bias)) / 1.5)


def fused_by_loops(explainer: Explainer, feature: AnyArray, has_head: bool, uses_learned: bool) -> AnyArray:
    """P(w) of the module's docstring."""
    rows = VOCABULARY.matrix.astype(np.float64)
    own = category_probabilities(explainer, feature)
    learned = learned_vector(explainer, feature)
    mean = unit(sum(math.sqrt(p) * rows[WORDS.index(c)] for p, c in zip(own, SUPERVISED, strict=True)))
    said: dict[str, float] = {}
    for p, synonyms in zip(posterior(feature), CLASSES.names, strict=True):
        known = [s for s in synonyms if s in WORDS]
        for name in known:
            said[name] = said.get(name, 0.0) + p / len(known)
    logits = {}
    for position, name in enumerate(WORDS):
        if name in SUPERVISED:
            continue
        if has_head:
            direction = learned if uses_learned else mean
            logits[name] = math.log(1 + said.get(name, 0.0) / 1e-7) + 10 * float(direction @ rows[position])
        else:
            logits[name] = 20 * float(learned @ rows[position])
    shares = softmax(np.array(list(logits.values())))
    others = dict(zip(logits, shares * OPEN_SHARE, strict=True))
    categories = dict(zip(SUPERVISED, own * (1 - OPEN_SHARE), strict=True))
    return np.array([others.get(w, categories.get(w, 0.0)) for w in WORDS])


def score(namer: Namer) -> tuple[AnyArray, AnyArray]:
    with torch.inference_mode():
        scores, vectors = namer.score(FEATURES)
    return scores.double().numpy(), vectors.double().numpy()


@pytest.mark.parametrize("with_adapter", [False, True])
@pytest.mark.parametrize("how", ["l2", "raw"])
def test_learned_vs_loops(how: str, with_adapter: bool) -> None:
    explainer = make_explainer(with_adapter)
    scores, vectors = score(Namer(explainer, make_facts("learned", how), None, VOCABULARY, "cpu"))
    for i, feature in enumerate(FEATURES.double().numpy()):
        expected = learned_vector(explainer, unit(feature) if how == "l2" else feature)
        np.testing.assert_allclose(vectors[i], expected, atol=1e-5)
        np.testing.assert_allclose(scores[i], [expected @ row for row in VOCABULARY.matrix], atol=1e-5)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_head_vs_loops_and_it_does_not_see_through_the_adapter(with_adapter: bool) -> None:
    namer = Namer(make_explainer(with_adapter), make_facts("head"), make_head(), VOCABULARY, "cpu")
    scores, vectors = score(namer)
    class_vectors = make_head().vectors.double().numpy()
    assert not class_vectors[2].any()
    for i, feature in enumerate(FEATURES.double().numpy()):
        expected = unit(sum(p * v for p, v in zip(posterior(unit(feature)), class_vectors, strict=True)))
        np.testing.assert_allclose(vectors[i], expected, atol=1e-5)
        np.testing.assert_allclose(scores[i], [expected @ row for row in VOCABULARY.matrix], atol=1e-5)


@pytest.mark.parametrize("with_adapter", [False, True])
@pytest.mark.parametrize(("has_head", "uses_learned"), [(True, False), (True, True), (False, False)])
def test_fused_vs_loops(has_head: bool, uses_learned: bool, with_adapter: bool) -> None:
    explainer = make_explainer(with_adapter)
    facts = replace(make_facts("fused"), uses_learned=uses_learned)
    scores, vectors = score(Namer(explainer, facts, make_head() if has_head else None, VOCABULARY, "cpu"))
    rows = VOCABULARY.matrix.astype(np.float64)
    for i, feature in enumerate(FEATURES.double().numpy()):
        expected = fused_by_loops(explainer, unit(feature), has_head, uses_learned)
        np.testing.assert_allclose(scores[i], expected, rtol=1e-3, atol=1e-7)
        best = sorted(range(len(WORDS)), key=lambda w: -expected[w])[:10]
        np.testing.assert_allclose(vectors[i], unit(sum(expected[w] * rows[w] for w in best)), atol=1e-4)


def test_fused_is_a_distribution_with_the_open_share() -> None:
    scores, _ = score(Namer(make_explainer(), make_facts("fused"), make_head(), VOCABULARY, "cpu"))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(scores[:, VOCABULARY.positions_of(SUPERVISED)].sum(axis=1), 1 - OPEN_SHARE, atol=1e-5)


def test_learned_vector_changes_the_words_only_where_it_is_used() -> None:
    facts = make_facts("fused")
    head = make_head()
    plain, taught = (
        score(Namer(make_explainer(), replace(facts, uses_learned=flag), head, VOCABULARY, "cpu"))[0]
        for flag in (False, True)
    )
    assert np.abs(plain - taught).max() > 1e-3


@pytest.mark.parametrize("kind", ["learned", "head", "fused"])
def test_names_are_the_best_scores_whatever_the_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    namer = Namer(make_explainer(), make_facts(kind), make_head(), VOCABULARY, "cpu")
    scores, vectors = score(namer)
    for elements in (1, 3 * len(WORDS), 1 << 20):
        monkeypatch.setattr(naming, "_BLOCK_ELEMENTS", elements)
        found = namer.name(FEATURES, 4)
        np.testing.assert_array_equal(found.words, np.argsort(-scores, axis=1)[:, :4])
        np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :4], atol=1e-6)
        np.testing.assert_allclose(found.vectors, vectors, atol=1e-6)


def test_closed_vocabulary_gives_positions_in_it() -> None:
    namer = Namer(make_explainer(), make_facts("fused"), make_head(), VOCABULARY, "cpu")
    scores, _ = score(namer)
    candidates = torch.tensor([10, 2, 7])
    found = namer.name(FEATURES, 20, candidates)
    np.testing.assert_array_equal(found.words, np.argsort(-scores[:, [10, 2, 7]], axis=1))


def test_more_words_than_there_are_and_no_region() -> None:
    namer = Namer(make_explainer(), make_facts("learned"), None, VOCABULARY, "cpu")
    assert namer.name(FEATURES, 1000).words.shape == (8, len(WORDS))
    none = namer.name(FEATURES[:0], 3)
    assert (none.words.shape, none.scores.shape, none.vectors.shape) == ((0, 3), (0, 3), (0, DIMENSIONS))


def test_head_explainer_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="a head explainer without a head: no names"):
        Namer(make_explainer(), replace(make_facts("head"), no_head="no names"), None, VOCABULARY, "cpu")


def publish_trained(root: Path) -> Handle:
    def fill(folder: Path) -> None:
        save_explainer(make_explainer(), replace(make_facts("learned"), open_share=0.0), folder)

    return publish(root, "train", fill)


def assemble(tmp_path: Path, kind: str, no_head: str = "", classes: ClassNames | None = CLASSES) -> dict[str, object]:
    trained = publish_trained(tmp_path / "artefacts")
    settings = ExplainerSettings.model_validate({"kind": kind, "open_share": OPEN_SHARE})
    inputs = AssemblyInputs(
        trained=trained,
        settings=settings,
        head=None if no_head else make_linear(),
        no_head=no_head,
        classes=classes,
        scale=SCALE,
        vectors=Given(lambda: VECTORS, "e" * 64),
        vocabulary=Given(VOCABULARY, "v" * 64),
    )
    return dict(assemble_explainer(inputs, tmp_path))


@pytest.mark.parametrize("kind", ["learned", "head", "fused"])
def test_assembled_explainer_names_as_its_parts_do(tmp_path: Path, kind: str) -> None:
    found = assemble(tmp_path, kind)
    has_head = kind != "learned"
    assert found == {
        "kind": kind,
        "num_classes": 4 if has_head else 0,
        "num_named_classes": 3 if has_head else 0,
        "num_class_words": 4 if has_head else 0,
    }
    namer = load_namer(tmp_path, VOCABULARY, "cpu")
    expected = Namer(make_explainer(), make_facts(kind), make_head() if has_head else None, VOCABULARY, "cpu")
    assert namer.facts.kind == kind
    assert namer.facts.open_share == OPEN_SHARE
    assert namer.facts.no_head == ("" if has_head else "explainer.kind is learned")
    for own, other in zip(score(namer), score(expected), strict=True):
        np.testing.assert_array_equal(own, other)


def test_assembling_leaves_the_trained_weights(tmp_path: Path) -> None:
    assemble(tmp_path, "fused")
    back, _ = load_explainer(tmp_path, "cpu")
    expected = make_explainer().state_dict()
    assert set(back.state_dict()) == set(expected)
    assert all(torch.equal(v, expected[k]) for k, v in back.state_dict().items())
    head = load_attached_head(tmp_path, "cpu")
    assert head is not None
    assert all(torch.equal(v, make_head().state_dict()[k]) for k, v in head.state_dict().items())


@pytest.mark.parametrize(
    ("no_head", "classes", "reason"),
    [
        ("layer a does not feed b", None, "layer a does not feed b"),
        ("", None, "the names of its classes are not known (model.class_names)"),
    ],
)
def test_without_a_usable_head(tmp_path: Path, no_head: str, classes: ClassNames | None, reason: str) -> None:
    found = assemble(tmp_path, "fused", no_head, classes)
    assert (found["kind"], found["num_classes"]) == ("fused", 0)
    namer = load_namer(tmp_path, VOCABULARY, "cpu")
    assert (namer.head, namer.facts.no_head) == (None, reason)
    (tmp_path / "again").mkdir()
    with pytest.raises(UserError) as error:
        assemble(tmp_path / "again", "head", no_head, classes)
    assert str(error.value) == f"explainer.kind: found 'head', but {reason}; allowed here: fused, learned"
