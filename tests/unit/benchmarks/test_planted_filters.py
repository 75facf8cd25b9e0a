from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import planted_filters
from benchmarks.planted_filters import PlanSizes, PlantedFilter, judge_planted, plan_filters, plant_filters
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from tests.unit.tasks.helpers import AnyArray, encode_mask, write_image, write_store

SIZE = 28
GEOMETRY = Geometry(SIZE, "squash")
SIDE = 7
CONCEPTS = ("ant", "bee", "cow", "dog")


def make_mask(top: int, left: int, side: int = 12) -> AnyArray:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def make_dataset(folder: Path, contents: Sequence[Mapping[str, AnyArray]]) -> Dataset:
    """A picture for each entry, with the masks of its concepts."""
    records = []
    for number, masks in enumerate(contents):
        key = f"{number:03d}.png"
        path = write_image(folder / key, SIZE, SIZE, seed=number)
        records.append(ImageRecord(key, path, tuple(encode_mask(c, m) for c, m in masks.items())))
    return Dataset("tests", tuple(records), CONCEPTS)


def label(contents: Sequence[str]) -> Dataset:
    """Pictures that need not be there; each entry lists its concepts by their first letters."""
    names = {c[0]: c for c in CONCEPTS}
    whole = np.ones((SIZE, SIZE), dtype=bool)
    return Dataset(
        "tests",
        tuple(
            ImageRecord(f"{i:03d}.png", Path(f"{i:03d}.png"), tuple(encode_mask(names[c], whole) for c in letters))
            for i, letters in enumerate(contents)
        ),
        CONCEPTS,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    contents: list[dict[str, AnyArray]] = [
        {"ant": make_mask(0, 0)},
        {"bee": make_mask(12, 12, 16)},
        {"ant": make_mask(14, 2), "bee": make_mask(2, 14)},
        {},
        {"cow": make_mask(0, 0, 28)},
    ]
    return make_dataset(tmp_path_factory.mktemp("pictures"), contents)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    maps = np.random.default_rng(0).uniform(0, 4, (5, 3, SIDE, SIDE)).astype(np.float16)
    return write_store(tmp_path_factory.mktemp("store"), maps, shard_images=2)


def plant(
    store: ActivationStore, dataset: Dataset, folder: Path, *plan: PlantedFilter, seed: int = 0
) -> tuple[ActivationStore, AnyArray]:
    """The new store and the maps of the planted channels, [N, Q, H, W]."""
    folder.mkdir()
    found = plant_filters(store, dataset, GEOMETRY, plan, seed, folder)
    return found, found.read_images(range(store.shape[0]))[:, store.shape[1] :].astype(np.float32)


class TestPlan:
    def test_takes_only_concepts_in_enough_pictures(self) -> None:
        plan = plan_filters(label(["ab", "a", "ac", "b"]), 2, 0, PlanSizes(ratios=(0.0, 1.0)))
        concepts = [(p.concepts, p.noise) for p in plan if p.kind == "concept"]
        assert concepts == [(("ant",), 0.0), (("bee",), 0.0), (("ant",), 1.0), (("bee",), 1.0)]

    def test_has_every_sort_in_the_asked_numbers(self) -> None:
        plan = plan_filters(label(["a", "b", "c"]), 1, 0, PlanSizes(2, 5, 4, 3))
        kinds = [p.kind for p in plan]
        assert {k: kinds.count(k) for k in kinds} == {"concept": 10, "mixture": 1, "noise": 12, "constant": 6}
        assert [p.variant for p in plan if p.kind == "noise"] == ["white"] * 4 + ["smooth"] * 4 + ["bursts"] * 4

    def test_is_the_same_for_the_same_seed_only(self) -> None:
        data = label(["a", "b", "c", "d"])
        plans = {plan_filters(data, 1, seed, PlanSizes(2)) for seed in range(8)}
        assert plan_filters(data, 1, 3, PlanSizes(2)) == plan_filters(data, 1, 3, PlanSizes(2))
        assert len(plans) > 1

    def test_mixtures_are_of_concepts_that_share_no_picture_and_are_as_frequent(self) -> None:
        data = label(["ab", "a", "b", "c", "c", "d", "d", "d", "d", "d"])
        assert set(planted_filters.find_separate_pairs(data, CONCEPTS, 10, 0)) == {("ant", "cow"), ("bee", "cow")}

    def test_uses_all_concepts_before_one_is_used_twice(self) -> None:
        pairs = planted_filters.find_separate_pairs(label(["a", "b", "c", "d"]), CONCEPTS, 2, 0)
        assert sorted(c for pair in pairs for c in pair) == sorted(CONCEPTS)


class TestPlanting:
    def test_keeps_the_own_channels_and_the_pictures(
        self, store: ActivationStore, dataset: Dataset, tmp_path: Path
    ) -> None:
        found, added = plant(store, dataset, tmp_path / "out", PlantedFilter("concept", ("ant",), 1.0))
        everything = range(5)
        assert found.keys == store.keys
        assert found.shape == (5, 4, SIDE, SIDE)
        assert np.array_equal(found.read_images(everything)[:, :3], store.read_images(everything))
        assert found.num_shards == store.num_shards
        assert (added >= 0).all()

    def test_a_clean_concept_is_where_its_mask_is_and_as_large_as_the_layer(
        self, store: ActivationStore, dataset: Dataset, tmp_path: Path
    ) -> None:
        _, added = plant(store, dataset, tmp_path / "out", PlantedFilter("concept", ("ant",)))
        maps = added[:, 0]
        assert [bool(m.any()) for m in maps] == [True, False, True, False, False]
        assert maps[0].argmax() // SIDE <= 2
        assert maps[0].argmax() % SIDE <= 2
        assert maps[2].argmax() // SIDE >= 3
        assert maps[[0, 2]].max(axis=(1, 2)).mean() == pytest.approx(
            planted_filters.measure_activation(store), rel=1e-3
        )

    def test_a_mixture_shows_both(self, store: ActivationStore, dataset: Dataset, tmp_path: Path) -> None:
        plan = (
            PlantedFilter("mixture", ("ant", "bee")),
            PlantedFilter("concept", ("ant",)),
            PlantedFilter("concept", ("bee",)),
        )
        _, added = plant(store, dataset, tmp_path / "out", *plan)
        assert np.allclose(added[:, 0], added[:, 1] + added[:, 2], atol=5e-3)

    def test_noise_has_the_asked_ratio_to_the_signal(self, tmp_path: Path) -> None:
        contents = [{"ant": make_mask(0, 0)}] * 40
        data = make_dataset(tmp_path / "pictures", contents)
        store = write_store(tmp_path / "store", np.ones((40, 1, SIDE, SIDE)))
        plan = (PlantedFilter("concept", ("ant",)), PlantedFilter("concept", ("ant",), 2.0))
        _, added = plant(store, data, tmp_path / "out", *plan)
        signal, noise = added[:, 0], added[:, 1] - added[:, 0]
        # The mean square of |noise| is the variance of the noise.
        assert np.sqrt((noise**2).mean()) == pytest.approx(2 * signal[signal > 0].std(), rel=0.05)

    def test_a_concept_that_no_picture_has_leaves_noise_alone(
        self, store: ActivationStore, dataset: Dataset, tmp_path: Path
    ) -> None:
        plan = (PlantedFilter("concept", ("dog",)), PlantedFilter("concept", ("dog",), 0.5))
        _, added = plant(store, dataset, tmp_path / "out", *plan)
        assert not added[:, 0].any()
        assert added[:, 1].all()

    def test_constants_do_not_vary(self, store: ActivationStore, dataset: Dataset, tmp_path: Path) -> None:
        plan = (PlantedFilter("constant", variant="dead"), PlantedFilter("constant", variant="active"))
        _, added = plant(store, dataset, tmp_path / "out", *plan)
        assert not added[:, 0].any()
        assert added[:, 1].min() == added[:, 1].max() > 0

    @pytest.mark.parametrize("variant", planted_filters.NOISES)
    def test_noise_is_another_for_each_filter_and_seed(
        self, store: ActivationStore, dataset: Dataset, tmp_path: Path, variant: str
    ) -> None:
        noise = PlantedFilter("noise", noise=1.0, variant=variant)
        _, first = plant(store, dataset, tmp_path / "a", noise, noise)
        _, again = plant(store, dataset, tmp_path / "b", noise, noise)
        _, other = plant(store, dataset, tmp_path / "c", noise, noise, seed=1)
        assert np.array_equal(first, again)
        assert not np.array_equal(first[:, 0], first[:, 1])
        assert not np.array_equal(first, other)
        assert (first >= 0).all()
        assert first.std() > 0

    def test_bursts_differ_in_gain_and_smooth_noise_has_alike_neighbours(self) -> None:
        rng = np.random.default_rng(0)
        drawn = {
            v: planted_filters.draw_maps(PlantedFilter("noise", variant=v), {}, range(300), SIDE, SIDE, rng)
            for v in planted_filters.NOISES
        }
        variation = {v: m.mean(axis=(1, 2)).std() / m.mean() for v, m in drawn.items()}
        assert variation["bursts"] > 4 * variation["white"]
        neighbours = {v: np.corrcoef(m[:, :, :-1].ravel(), m[:, :, 1:].ravel())[0, 1] for v, m in drawn.items()}
        assert abs(neighbours["white"]) < 0.1
        assert neighbours["smooth"] > 0.4

    def test_refuses_a_store_of_other_pictures(self, dataset: Dataset, tmp_path: Path) -> None:
        store = write_store(tmp_path / "store", np.ones((1, 1, SIDE, SIDE)), keys=["other.png"])
        with pytest.raises(ValueError, match="other pictures"):
            plant(store, dataset, tmp_path / "out", PlantedFilter("concept", ("ant",)))


def make_row(*words: str, meanings: Sequence[Sequence[str]] = (), reason: str = "") -> dict[str, Any]:
    own = meanings or ([list(words)] if words else [])
    return {"explained": bool(words), "reason": reason, "words": list(words), "meanings": [{"words": m} for m in own]}


class TestJudging:
    def test_counts_right_words_among_the_first_k_of_all_filters(self) -> None:
        plan = [PlantedFilter("concept", ("ant",))] * 4
        rows = [make_row("ants", "bee"), make_row("bee", "ant"), make_row("bee"), make_row(reason="none")]
        (group,) = judge_planted(rows, plan)
        assert group.named_at == {1: 0.25, 5: 0.5}
        assert (group.unexplained, group.reasons) == (0.25, {"none": 1})
        assert group.split_rightly is None

    def test_keeps_noise_levels_apart(self) -> None:
        plan = [PlantedFilter("concept", ("ant",)), PlantedFilter("concept", ("ant",), 0.5)]
        groups = judge_planted([make_row("ant"), make_row("bee")], plan)
        assert [(g.name, g.named_at[1]) for g in groups] == [("concept, noise 0", 1.0), ("concept, noise 0.5", 0.0)]

    def test_a_clean_concept_with_two_meanings_is_split(self) -> None:
        (group,) = judge_planted(
            [make_row("ant", "bee", meanings=(["ant"], ["bee"]))], [PlantedFilter("concept", ("ant",))]
        )
        assert (group.several_meanings, group.split_rightly) == (1.0, None)

    def test_a_mixture_is_split_rightly_if_each_concept_leads_a_meaning(self) -> None:
        plan = [PlantedFilter("mixture", ("ant", "bee"))] * 4
        rows = [
            make_row("ant", "bee", meanings=(["ant"], ["bees"])),
            make_row("ant", "bee", meanings=(["ant", "bee"], ["ant"])),
            make_row("ant", "bee"),
            make_row("cow"),
        ]
        (group,) = judge_planted(rows, plan)
        assert group.split_rightly == 0.25
        assert group.several_meanings == 0.5
        assert group.both_named_at == {1: 0.0, 5: 0.75}
        assert group.named_at == {1: 0.75, 5: 0.75}

    def test_noise_and_constants_are_judged_together_and_by_variant(self) -> None:
        plan = [PlantedFilter("noise", variant="white"), PlantedFilter("noise", variant="smooth")]
        groups = {g.name: g for g in judge_planted([make_row("ant"), make_row(reason="no word")], plan)}
        assert {n: g.unexplained for n, g in groups.items()} == {"noise": 0.5, "noise, white": 0, "noise, smooth": 1}
        assert groups["noise"].named_at == groups["noise"].both_named_at == {1: 0.0, 5: 0.0}

    def test_refuses_rows_of_other_filters(self) -> None:
        with pytest.raises(ValueError, match="a row for each of 1"):
            judge_planted([], [PlantedFilter("noise")])

    def test_detection_is_of_the_planted_concept(self) -> None:
        plan = [
            PlantedFilter("concept", ("ant",)),
            PlantedFilter("concept", ("bee",)),
            PlantedFilter("mixture", ("ant", "cow")),
            PlantedFilter("noise"),
        ]
        right = np.array([[1, 0, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]], dtype=bool)
        assert planted_filters.judge_detection(right, plan, CONCEPTS) == {"concept, noise 0": 0.5, "mixture": 1.0}
