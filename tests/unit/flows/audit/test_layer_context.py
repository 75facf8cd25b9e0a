"""What the stages of a layer share: vectors read when needed, handles by stage, thresholds and heads made once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lavise.configs.roles import Role
from lavise.configs.schema import Config, StatisticsSettings
from lavise.flows.audit.layer_context import Context, LayerResult, Subject, find_head, find_naming_head, find_thresholds
from lavise.flows.shared.inputs import Inputs
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.classifier_head import NO_SHARES
from lavise.storage.models.layers import Layer
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.state.progress import no_progress
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Stage, StageRunner
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.flows.helpers import make_config
from tests.unit.tasks.classifiers import make_classifier
from tests.unit.tasks.helpers import AnyArray, make_model, make_vocabulary, publish, write_store


@pytest.fixture(scope="module")
def cluster() -> Iterator[StatisticsCluster]:
    """One worker in this process."""
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
        ) as running,
        StatisticsCluster(StatisticsSettings(scheduler=running.scheduler_address)) as statistics,
    ):
        yield statistics


def make_context(root: Path, config: Config | None = None, cluster: StatisticsCluster | None = None) -> Context:
    settings = config or make_config(root)
    vocabulary = Given(make_vocabulary(4, ["cat"]), "w" * 64)
    runner = StageRunner(ArtefactStore(root))
    statistics = cluster or StatisticsCluster(settings.statistics)
    return Context(settings, "cpu", runner, statistics, no_progress, vocabulary, "v" * 64)


def make_subject(model: TargetModel | None = None, title: str = "") -> Subject:
    nothing = Dataset("none", ())
    inputs = Inputs(nothing, nothing, nothing, dict.fromkeys(Role, "d" * 64), dict.fromkeys(Role, "e" * 64))
    return Subject(model or make_model(), inputs, title)


def publish_maps(root: Path, maps_NCHW: AnyArray, stage: str = "extract") -> Handle:
    """The name of the stage is all that its digest depends on."""

    def fill(folder: Path) -> None:
        write_store(folder, maps_NCHW)

    return publish(root, stage, fill)


def make_result(name: str = "tail", activations: dict[Role, Handle] | None = None) -> LayerResult:
    return LayerResult(Layer(name, "Conv2d", 5, 8, 8), activations or {})


# Context


def test_vectors_are_read_when_asked_for_and_once(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    context = make_context(tmp_path, make_config(tmp_path, words={"vectors": str(path)}))
    path.write_text("cat 1.0 0.0\ndog 0.0 1.0\n", "utf-8")
    assert context.vectors.digest == "v" * 64
    np.testing.assert_array_equal(context.vectors.value().matrix, [[1, 0], [0, 1]])
    path.unlink()
    assert context.vectors.value().matrix.shape == (2, 2)


def test_all_stages_compute_alike(tmp_path: Path) -> None:
    computing = replace(make_context(tmp_path, make_config(tmp_path, seed=3)), device="cuda").computing
    assert (computing.seed, computing.device, computing.progress) == (3, "cuda", no_progress)


@pytest.mark.parametrize(
    ("title", "expected"), [("", "extract target"), ("random network", "random network: extract target")]
)
def test_stages_of_baselines_bear_their_title(title: str, expected: str) -> None:
    assert make_subject(title=title).name("extract target") == expected


# LayerResult


def test_what_is_kept_is_found_by_its_stage(tmp_path: Path) -> None:
    result = make_result()
    handle = publish(tmp_path, "panel", lambda _: {"a": 1})
    assert result.find(Stage("panel", 1)) is None
    assert result.keep(handle) is handle
    assert result.find(Stage("panel", 2)) is handle
    assert result.of(Stage("panel", 1)) is handle


def test_a_later_artefact_of_a_stage_replaces_the_earlier(tmp_path: Path) -> None:
    result = make_result()
    first, second = (publish(tmp_path / n, "panel", lambda _: {}) for n in "ab")
    result.keep(first)
    result.keep(second)
    assert result.of(Stage("panel", 1)).folder == second.folder != first.folder


def test_what_was_not_made_is_named_with_its_layer() -> None:
    with pytest.raises(KeyError, match=r"stage panel of layer body\.1 has not run"):
        make_result("body.1").of(Stage("panel", 1))


def test_analyses_are_told_from_other_stages(tmp_path: Path) -> None:
    result = make_result()
    handles = {name: publish(tmp_path, name, lambda _: {}) for name in ("causes", "explain", "bias", "panel")}
    for handle in handles.values():
        result.keep(handle)
    found = result.find_analyses()
    assert found == {"bias": handles["bias"], "causes": handles["causes"]}
    assert make_result().find_analyses() == {}


def test_the_final_explainer_is_there_or_missed(tmp_path: Path) -> None:
    result = make_result()
    with pytest.raises(AssertionError, match="no explainer yet"):
        _ = result.final_explainer
    result.explainer = publish(tmp_path, "train", lambda _: {})
    assert result.final_explainer is result.explainer


# Head


def test_the_head_is_looked_for_once() -> None:
    model, network, expected = make_classifier()
    result = LayerResult(Layer("act", "ReLU", 8, 4, 4), {})
    head, _ = find_head(make_subject(model), result)
    assert head is not None
    assert torch.equal(head.weight, expected.weight)
    assert torch.equal(head.bias, expected.bias)
    network.head = torch.nn.Linear(8, 3)
    assert find_head(make_subject(model), result)[0] is head


def test_a_network_without_a_classifier_has_a_reason_and_no_head() -> None:
    result = make_result()
    head, reason = find_head(make_subject(), result)
    assert head is None
    assert reason
    assert result.head == (None, reason)


def test_a_multi_label_head_is_for_analyses_and_names_nothing(tmp_path: Path, cluster: StatisticsCluster) -> None:
    model, network, _ = make_classifier()
    result = LayerResult(Layer("act", "ReLU", 8, 4, 4), {})
    context = make_context(tmp_path, make_config(tmp_path, model={"head": "sigmoid"}), cluster)
    assert find_naming_head(context, make_subject(model), result) == (None, NO_SHARES)
    head, _ = find_head(make_subject(model), result, context.rule)
    assert head is not None
    assert torch.equal(head.weight, network.head.weight)
    softmax = make_context(tmp_path, make_config(tmp_path), cluster)
    assert find_naming_head(softmax, make_subject(model), result)[0] is head


# Thresholds


def test_thresholds_are_those_of_the_part_that_is_asked_for(tmp_path: Path, cluster: StatisticsCluster) -> None:
    """T_u with a quarter of the activations above it, by sorting."""
    rng = np.random.default_rng(0)
    maps = {role: rng.normal(size=(6, 5, 4, 4)).astype(np.float16) for role in Role}
    for found in maps.values():
        found[:, 0] = np.abs(found[:, 0])  # one filter of five is rectified
    result = make_result(activations={role: publish_maps(tmp_path, maps[role], f"extract {role}") for role in Role})
    context = make_context(tmp_path, make_config(tmp_path, statistics={"quantile": 0.75}), cluster)
    for role in (Role.TARGET, Role.TRAIN):
        handle = find_thresholds(context, make_subject(), result, role)
        values = maps[role].astype(np.float32).transpose(1, 0, 2, 3).reshape(5, -1)
        np.testing.assert_array_equal(load_thresholds(handle), np.sort(values, axis=1)[:, ::-1][:, 96 // 4 - 1])
        assert handle.info == {"num_filters": 5, "num_saturated": 0, "num_signed": 4}
    assert set(result.thresholds) == {Role.TARGET, Role.TRAIN}
    assert list(context.runner.outcomes) == ["thresholds target tail", "thresholds train tail"]


def test_thresholds_are_computed_once(tmp_path: Path, cluster: StatisticsCluster) -> None:
    """A layer that has them is not asked again; another one on the same maps takes them from the store."""
    maps = np.random.default_rng(1).normal(size=(3, 5, 4, 4))
    activations = {Role.TARGET: publish_maps(tmp_path, maps)}
    context, result = make_context(tmp_path, cluster=cluster), make_result(activations=activations)
    first = find_thresholds(context, make_subject(), result, Role.TARGET)
    context.runner.outcomes.clear()
    assert find_thresholds(context, make_subject(), result, Role.TARGET) is first
    assert not context.runner.outcomes
    baseline = make_subject(title="random network")
    again = find_thresholds(context, baseline, make_result(activations=activations), Role.TARGET)
    assert again.digest == first.digest
    (outcome,) = context.runner.outcomes.items()
    assert (outcome[0], outcome[1].cached) == ("random network: thresholds target tail", True)


def test_another_quantile_gives_other_thresholds(tmp_path: Path, cluster: StatisticsCluster) -> None:
    activations = {Role.TARGET: publish_maps(tmp_path, np.random.default_rng(2).normal(size=(3, 5, 8, 8)))}
    found = []
    for quantile in (0.75, 0.9):
        context = make_context(tmp_path, make_config(tmp_path, statistics={"quantile": quantile}), cluster)
        found.append(find_thresholds(context, make_subject(), make_result(activations=activations), Role.TARGET))
    assert found[0].digest != found[1].digest
    assert (load_thresholds(found[0]) < load_thresholds(found[1])).all()
