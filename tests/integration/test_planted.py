"""Planted filters on a small scale: the real network, a few hundred scenes, everything from the statistics on."""

from __future__ import annotations

import pytest

from benchmarks.planted import PlantedResult, describe, run_planted
from benchmarks.planted_filters import PlanSizes, judge_planted
from lavise.configs.loading import load_config
from lavise.configs.roles import Role
from lavise.storage.datasets.readers.openmoji import BACKGROUNDS

pytestmark = pytest.mark.slow

SETTINGS = (
    "model.preprocessing.size_px=160",
    "reference.train_scenes=300",
    "reference.evaluation_scenes=120",
    "reference.size_px=160",
    "target.scenes=300",
    "target.size_px=160",
    "extract.batch_size=20",
    "extract.shard_images=60",
    "words.vocabulary_size=3000",
    "evaluate.baselines=[]",
    "evaluate.bootstrap_samples=100",
)
SIZES = PlanSizes(max_concepts=24, max_mixtures=8, num_noise=10, num_constants=1)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> PlantedResult:
    return run_planted(load_config("demo", SETTINGS), tmp_path_factory.mktemp("home"), SIZES)


def test_clean_concepts_that_were_taught_are_named(found: PlantedResult) -> None:
    """Backgrounds: each is behind two dozen training scenes; an emoji is in five, too few to be learned."""
    rows = [
        (p, row)
        for p, row in zip(found.plan, found.planted_rows, strict=True)
        if p.kind == "concept" and p.noise == 0 and p.concepts[0] in BACKGROUNDS
    ]
    (group,) = judge_planted([row for _, row in rows], [p for p, _ in rows])
    assert group.num == len(BACKGROUNDS)
    assert group.named_at[5] >= 0.95, describe(found)["missed"]


def test_noise_is_unexplained(found: PlantedResult) -> None:
    assert found.group("noise").unexplained >= 0.95, describe(found)["missed"]


def test_the_more_noise_the_fewer_are_named(found: PlantedResult) -> None:
    named = [found.group(f"concept, noise {ratio:g}").named_at[5] for ratio in (0, 1, 2)]
    assert named == sorted(named, reverse=True)
    assert named[0] > named[-1]


def test_constants_have_no_region(found: PlantedResult) -> None:
    assert found.group("constant").unexplained == 1
    assert found.group("constant").reasons == {"never above its threshold": 2}


def test_a_clean_concept_has_one_meaning(found: PlantedResult) -> None:
    assert found.group("concept, noise 0").several_meanings <= 0.1


def test_planted_concepts_are_detected_where_they_are(found: PlantedResult) -> None:
    assert found.detected["concept, noise 0"] >= 0.6
    assert found.detected["concept, noise 0"] >= found.detected["concept, noise 2"]


def test_the_explainer_reads_the_own_channels_alone(found: PlantedResult) -> None:
    assert len(found.filters) - len(found.plan) == 1280
    assert found.result.final_explainer.path("explainer.safetensors").is_file()
    assert found.result.regions[Role.TRAIN].info["num_regions"] > 500
    assert {f["filter"] for f in found.planted_rows} == set(range(1280, 1280 + len(found.plan)))
