"""Which analyses run on a layer, what they may read of it, and what is refused before anything long is begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from lavise.configs.errors import UserError
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.audit.layer_analyses import LayerView, check_analyses, run_analyses
from lavise.flows.audit.layer_context import Context, LayerResult, Subject
from lavise.flows.audit.layer_stages import check_transfer
from lavise.flows.shared.inputs import Inputs
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.models.classifier_head import SOFTMAX, AnswerRule
from lavise.storage.models.layers import Layer
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.state.progress import no_progress
from lavise.tasks.analyses.analysis import classifier_of
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.words.tables import FILTERS_SCHEMA
from tests.unit.flows.helpers import make_config, make_filters
from tests.unit.tasks.classifiers import make_classifier
from tests.unit.tasks.helpers import make_model, make_vocabulary, publish, write_store

# Six pictures in each of two folders; the fourth of four filters answers in the first folder alone.
KEYS = tuple(f"{folder}/{number}.png" for folder in ("day", "night") for number in range(6))
OFF = {"classes": {"enabled": False}, "causes": {"enabled": False}}
BIAS = {"groups": "folder", "min_images": 2, "permutations": 1000}


def make_inputs(root: Path, keys: Sequence[str] = KEYS) -> Inputs:
    """Pictures that need not be there; every other one of the reference has a cat."""

    def data(role: Role) -> Dataset:
        records = [ImageRecord(key, root / key, (Annotation("cat" if i % 2 else "dog"),)) for i, key in enumerate(keys)]
        own = Dataset(f"{role} set", tuple(records), ("cat", "dog"))
        return own.without_labels() if role is Role.TARGET else own

    parts = {role: data(role) for role in Role}
    digests = {role: f"data of {role}" for role in Role}
    pictures = {role: f"pictures of {role}" for role in Role}
    return Inputs(parts[Role.TRAIN], parts[Role.EVALUATION], parts[Role.TARGET], digests, pictures)


def make_context(root: Path, config: Config) -> Context:
    vocabulary = Given(make_vocabulary(4, ["cat"]), "w" * 64)
    runner = StageRunner(ArtefactStore(root))
    cluster = StatisticsCluster(config.statistics)
    return Context(config, "cpu", runner, cluster, no_progress, vocabulary, "v" * 64)


def publish_explained(root: Path, rows: Sequence[dict[str, Any]]) -> Handle:
    def fill(folder: Path) -> None:
        parquet.write_table(pa.Table.from_pylist(list(rows), FILTERS_SCHEMA), folder / "filters.parquet")

    return publish(root, "explain", fill)


def make_result(root: Path, words: Sequence[str | None] = ("cat", "dog", None, "sun")) -> LayerResult:
    """Filters of the layer `act`, explained by a word each."""

    def extract(folder: Path) -> None:
        maps = np.random.default_rng(0).uniform(0, 0.4, (len(KEYS), len(words), 4, 4))
        maps[:6, 3, 1, 2] = 1
        write_store(folder, maps, keys=KEYS)

    def save(folder: Path) -> None:
        np.save(folder / "thresholds.npy", np.full(len(words), 0.5, np.float32))

    result = LayerResult(
        Layer("act", "ReLU", len(words), 4, 4),
        {role: publish(root, f"extract {role}", extract) for role in Role},
        {role: publish(root, f"thresholds {role}", save) for role in Role},
    )
    result.keep(publish_explained(root, make_filters("act", words)))
    return result


def make_view(root: Path, network: TargetModel | None = None, **sections: Any) -> LayerView:
    config = make_config(root, **sections)
    return LayerView(make_context(root, config), Subject(network or make_model(), make_inputs(root)), make_result(root))


# What analyses see


def test_words_are_in_the_order_of_the_filters_and_believed_ones_only(tmp_path: Path) -> None:
    rows = make_filters("act", ["cat", None, "sun", "dog"])
    rows[0]["words"] = ["cat", "kitten"]
    rows[3] |= {"explained": False, "words": ["dog"]}  # a guess that was not believed
    result = make_result(tmp_path)
    result.keep(publish_explained(tmp_path, rows[::-1]))
    view = LayerView(
        make_context(tmp_path, make_config(tmp_path)), Subject(make_model(), make_inputs(tmp_path)), result
    )
    assert view.words == [["cat", "kitten"], [], ["sun"], []]


def test_each_part_of_the_data_is_its_own(tmp_path: Path) -> None:
    view = make_view(tmp_path)
    for role in Role:
        data, pictures = view.data(role), view.pictures(role)
        assert data.value.name == f"{role} set"
        assert data.value is pictures.value
        assert (data.digest, pictures.digest) == (f"data of {role}", f"pictures of {role}")
        assert view.activations(role).stage == f"extract {role}"
        assert view.thresholds(role).stage == f"thresholds {role}"
    assert view.data(Role.TARGET).value.concepts == ()
    assert (view.layer, view.computing.device) == ("act", "cpu")


def test_class_names_are_those_of_the_settings(tmp_path: Path) -> None:
    model, _, _ = make_classifier()
    names = ["tench, Tinca tinca", "goldfish", "shark", "ray", "cock"]
    found = make_view(tmp_path, model, model={"class_names": names}).class_names
    assert found is not None
    assert found.names == (("tench", "Tinca tinca"), ("goldfish",), ("shark",), ("ray",), ("cock",))
    assert make_view(tmp_path, model, model={"class_names": "none"}).class_names is None


def test_too_few_class_names_are_refused(tmp_path: Path) -> None:
    model, _, _ = make_classifier()
    with pytest.raises(UserError, match="found 2 classes in the list; allowed: 5"):
        _ = make_view(tmp_path, model, model={"class_names": ["tench", "goldfish"]}).class_names


def test_answers_are_those_of_the_settings(tmp_path: Path) -> None:
    model, _, _ = make_classifier()
    names = ["tench", "goldfish", "shark", "ray", "cock"]
    plain = classifier_of(make_view(tmp_path, model, model={"class_names": names}))
    assert plain.rule == SOFTMAX
    assert not {"head", "head_threshold"} & plain.describe().keys()
    asked = {"class_names": names, "head": "sigmoid", "head_threshold": 0.3}
    found = classifier_of(make_view(tmp_path, model, model=asked))
    assert found.rule == AnswerRule("sigmoid", 0.3)
    assert found.describe() == {**plain.describe(), "head": "sigmoid", "head_threshold": 0.3}


@pytest.mark.parametrize(
    ("head", "method"), [("softmax", "distil_head"), ("sigmoid", "renormalise"), ("sigmoid", "none")]
)
def test_transfers_that_a_head_allows(tmp_path: Path, head: str, method: str) -> None:
    check_transfer(make_config(tmp_path, model={"head": head}, transfer={"method": method}))


def test_a_multi_label_head_teaches_no_words(tmp_path: Path) -> None:
    config = make_config(tmp_path, model={"head": "sigmoid"}, transfer={"method": "distil_head"})
    with pytest.raises(
        UserError, match=r"^transfer\.method: found 'distil_head', but model\.head is sigmoid.*here: .*none"
    ):
        check_transfer(config)


def test_a_network_without_classes_has_no_names(tmp_path: Path) -> None:
    """Not even where the settings have some."""
    view = make_view(tmp_path, make_model(torch.nn.Conv2d(3, 4, 3)), model={"class_names": ["a", "b"]})
    assert view.class_names is None


def test_the_head_is_the_classifiers_own(tmp_path: Path) -> None:
    model, _, expected = make_classifier()
    head, _ = make_view(tmp_path, model).head
    assert head is not None
    assert torch.equal(head.weight, expected.weight)


def describe_answers(view: LayerView) -> dict[str, Any]:
    """What analyses of the network's answers state of it."""
    return {**classifier_of(view).describe(), **view.computing.describe()}


def test_description_of_the_network_tells_whatever_changes_its_answers(tmp_path: Path) -> None:
    model, _, _ = make_classifier()
    base = describe_answers(make_view(tmp_path, model))
    assert base == describe_answers(make_view(tmp_path, model))
    assert base["checkpoint"] == model.digest
    others = [
        make_view(tmp_path, make_classifier(seed=1)[0]),
        make_view(tmp_path, replace(model, code="other code")),
        make_view(tmp_path, replace(model, mean=(0.0, 0.0, 0.0))),
        make_view(tmp_path, model, model={"class_names": list("abcde")}),
        make_view(tmp_path, model, seed=1),
        make_view(tmp_path, model, extract={"batch_size": 16}),
    ]
    descriptions = [describe_answers(other) for other in others]
    assert all(found != base for found in descriptions)
    # How many words are kept is not among it.
    assert describe_answers(make_view(tmp_path, model, explain={"num_words": 3})) == base


# What runs


def test_what_the_settings_want_runs_and_is_kept(tmp_path: Path) -> None:
    config = make_config(tmp_path, bias=BIAS, **OFF)
    context, result = make_context(tmp_path, config), make_result(tmp_path)
    run_analyses(context, Subject(make_model(), make_inputs(tmp_path)), result)
    assert list(context.runner.outcomes) == ["bias act"]
    assert list(result.find_analyses()) == ["bias"]
    rows = parquet.read_table(result.made["bias"].path("bias_filters.parquet")).to_pylist()
    assert [(r["filter"], r["found"]) for r in rows] == [(0, False), (1, False), (2, False), (3, True)]
    assert (rows[3]["group"], rows[3]["share_group"], rows[3]["share_other"]) == ("day", 1, 0)
    assert rows[3]["words"] == ["sun"]


def test_an_analysis_is_not_computed_twice(tmp_path: Path) -> None:
    """Only with other words does it become another one."""
    config = make_config(tmp_path, bias=BIAS, **OFF)
    subject = Subject(make_model(), make_inputs(tmp_path), "random network")
    cached = []
    for words in (("cat", "dog", None, "sun"), ("cat", "dog", None, "sun"), ("cat", "dog", None, "moon")):
        context = make_context(tmp_path, config)
        run_analyses(context, subject, make_result(tmp_path, words))
        cached.append(context.runner.outcomes["random network: bias act"].cached)
    assert cached == [False, True, False]


def test_nothing_runs_that_is_not_wanted(tmp_path: Path) -> None:
    context, result = make_context(tmp_path, make_config(tmp_path, **OFF)), make_result(tmp_path)
    run_analyses(context, Subject(make_model(), make_inputs(tmp_path)), result)
    assert not context.runner.outcomes
    assert list(result.made) == ["explain"]


# What is refused


@pytest.mark.parametrize("setting", ["groups", "stratify_by"])
def test_a_csv_file_that_is_not_there_is_refused_before_the_data_is_opened(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "people.csv"
    config = make_config(tmp_path, bias={"groups": "folder", setting: f"csv:{path}:gender"})
    with pytest.raises(UserError, match=rf"^bias\.{setting}\.file: found '{path}', which is no file"):
        check_analyses(config)
    path.write_text("file,gender\n", "utf-8")
    check_analyses(config)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"groups": "folder:2"}, r"bias\.groups: found 0 groups by folder, level 2"),
        ({"groups": "annotations:cat"}, r"bias\.groups: .*the pictures \(target set\) have none"),
        ({"groups": "folder", "stratify_by": "annotations:cat"}, r"bias\.stratify_by: .*\(target set\) have none"),
        ({"groups": "annotations:unicorn", "images": "train"}, r"bias\.groups: .*unicorn"),
    ],
)
def test_groups_that_the_data_does_not_have_are_refused(tmp_path: Path, bias: dict[str, Any], message: str) -> None:
    config = make_config(tmp_path, bias=bias)
    check_analyses(config)
    with pytest.raises(UserError, match=message):
        check_analyses(config, make_inputs(tmp_path))


def test_groups_are_looked_for_in_the_pictures_that_the_settings_name(tmp_path: Path) -> None:
    config = make_config(tmp_path, bias={"groups": "annotations:cat", "images": "evaluation"})
    check_analyses(config, make_inputs(tmp_path))


def test_settings_of_an_analysis_that_is_not_wanted_are_not_checked(tmp_path: Path) -> None:
    config = make_config(tmp_path, bias={"stratify_by": f"csv:{tmp_path / 'no.csv'}:age"})
    check_analyses(config)
    check_analyses(config, make_inputs(tmp_path))
