"""The bias analysis: what it writes, its verdicts, and data with known answers (null, planted, confounded)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from scipy import stats

from lavise.configs.errors import UserError
from lavise.configs.schema import BiasSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.groups import Grouping
from lavise.storage.table_rows import make_schema
from lavise.tasks.group_bias.analysis import (
    BIAS_FILE,
    FILTERS_FILE,
    WORDS_FILE,
    BiasInputs,
    FilterDifference,
    WordDifference,
    analyse_bias,
)
from lavise.tasks.group_bias.contrasts import (
    OTHERS,
    ContrastFigures,
    compare_filters,
    compare_words,
    count_scores,
    decide_contrasts,
    give_verdict,
    index_words,
    make_contrasts,
)
from lavise.tasks.numerics.group_tests import Difference, least_difference, reached_level
from tests.unit.tasks.helpers import AnyArray, publish, publish_thresholds, write_store

RATE = 0.05


@dataclass(frozen=True)
class Bias:
    """What `analyse_bias` wrote: bias.json, and the rows of both tables."""

    summary: dict[str, Any]
    filters: list[dict[str, Any]]
    words: list[dict[str, Any]]


def load_bias(folder: Path) -> Bias:
    """Read what `analyse_bias` wrote."""
    return Bias(
        json.loads((folder / BIAS_FILE).read_text("utf-8")),
        parquet.read_table(folder / FILTERS_FILE).to_pylist(),
        parquet.read_table(folder / WORDS_FILE).to_pylist(),
    )


def grouping(of_image: AnyArray, *names: str) -> Grouping:
    return Grouping("kind", names, np.asarray(of_image, np.int64))


def settings(**changed: Any) -> BiasSettings:
    return BiasSettings.model_validate({"permutations": 1000, "min_images": 5, **changed})


def store_of(folder: Path, qualified_NC: AnyArray, seed: int = 0) -> ActivationStore:
    """Peaks above .5 where a picture qualifies, at most .5 elsewhere."""
    above = np.random.default_rng(seed).uniform(0.51, 1, qualified_NC.shape)
    peaks = np.where(qualified_NC, above, 0.5)
    maps = np.zeros((*peaks.shape, 2, 2), np.float16)
    maps[:, :, 1, 0] = peaks
    return write_store(folder, maps, 16)


def open_store(folder: Path) -> ActivationStore:
    """The activations that `analyse` compared."""
    (made,) = (folder / "artefacts" / "extract").iterdir()
    return ActivationStore(made)


def analyse(
    folder: Path,
    qualified_NC: AnyArray,
    groups: Grouping,
    strata: Grouping | None = None,
    words: Sequence[Sequence[str]] | None = None,
    **changed: Any,
) -> dict[str, Any]:
    num = qualified_NC.shape[1]
    inputs = BiasInputs(
        layer="body",
        activations=publish(folder, "extract", lambda store: {"num": store_of(store, qualified_NC).shape[0]}),
        thresholds=publish_thresholds(folder, np.full(num, 0.5)),
        groups=groups,
        strata=strata,
        words=words if words is not None else [[]] * num,
        settings=settings(**changed),
        seed=3,
    )
    (folder / "out").mkdir(exist_ok=True)
    return dict(analyse_bias(inputs, folder / "out"))


def make_data() -> tuple[AnyArray, Grouping, Grouping]:
    """Filters: 0 differs, 1 differs by stratum only, 2 never, 3 always, 4 and 5 at random. Two pictures have no group,
    three another one, two no stratum."""
    rng = np.random.default_rng(1)
    stratum = np.arange(125) % 2
    in_a = rng.random(125) < np.where(stratum, 0.8, 0.2)
    qualified = np.zeros((125, 6), bool)
    qualified[:, 0] = rng.random(125) < np.where(in_a, 0.8, 0.2)
    qualified[:, 1] = rng.random(125) < np.where(stratum, 0.9, 0.1)
    qualified[:, 3] = True
    qualified[:, 4:] = rng.random((125, 2)) < 0.4
    of_image = np.where(in_a, 0, 1)
    of_image[:2], of_image[2:5] = -1, 2
    stratum[10:12] = -1
    return qualified, grouping(of_image, "a", "b", "tiny"), grouping(stratum, "day", "night")


def test_tables(tmp_path: Path) -> None:
    qualified, groups, strata = make_data()
    words = [["cat"], ["night", "cat"], [], ["sky"], ["dog", "dog"], ["dog"]]
    facts = analyse(tmp_path, qualified, groups, strata, words, images_shown=3)
    found = load_bias(tmp_path / "out")
    a, b = groups.of_image == 0, groups.of_image == 1
    assert [r["filter"] for r in found.filters] == list(range(6))
    assert [r["verdict"] for r in found.filters] == ["differs", "vanishes", "same", "same", "same", "same"]
    for unit, row in enumerate(found.filters):
        counts = (int(qualified[a, unit].sum()), int(qualified[b, unit].sum()))
        assert (row["layer"], row["group"], row["other"]) == ("body", "a", "b")
        assert (row["num_group"], row["num_other"]) == (a.sum(), b.sum())
        assert (row["qualified_group"], row["qualified_other"]) == counts
        table = [[counts[0], a.sum() - counts[0]], [counts[1], b.sum() - counts[1]]]
        assert row["p_value"] == pytest.approx(stats.fisher_exact(table)[1])
        assert row["difference"] == pytest.approx(row["share_group"] - row["share_other"])
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["words"] == words[unit]
        assert (row["least_difference"] is None) == (unit in (2, 3))
    # Filters 2 and 3 are no tests: q is adjusted for four.
    tested = [0, 1, 4, 5]
    q = stats.false_discovery_control([found.filters[u]["p_value"] for u in tested])
    assert [found.filters[u]["q_value"] for u in tested] == pytest.approx(q.tolist())
    assert [found.filters[u]["q_value"] for u in (2, 3)] == [1, 1]
    assert [found.filters[u]["stratified_q_value"] for u in (2, 3)] == [None, None]

    peaks = open_store(tmp_path).read_peaks()
    for side, column in ((a, "pictures_group"), (b, "pictures_other")):
        own = sorted(np.flatnonzero(side & qualified[:, 0]), key=lambda i: -peaks[i, 0])[:3]
        assert found.filters[0][column] == [f"{i:03d}.png" for i in own]
        assert found.filters[2][column] == []

    by_word = {r["word"]: r for r in found.words}
    assert [r["word"] for r in found.words] == ["cat", "dog", "night", "sky"]
    assert (by_word["cat"]["filters"], by_word["cat"]["num_filters"]) == ([0, 1], 2)
    assert by_word["dog"]["filters"] == [4, 5]
    assert by_word["cat"]["share_group"] == pytest.approx(qualified[a][:, :2].mean())
    assert by_word["night"]["verdict"] == "vanishes"
    assert by_word["night"]["share_other"] == pytest.approx(found.filters[1]["share_other"])
    assert (by_word["sky"]["p_value"], by_word["sky"]["least_difference"]) == (1, None)

    summary = found.summary
    assert summary["groups"] == [{"name": "a", "num_images": a.sum()}, {"name": "b", "num_images": b.sum()}]
    assert summary["left_out"] == {"num_images_without_group": 2, "small_groups": {"tiny": 3}}
    compared = strata.of_image[a | b]
    assert summary["strata"] == {
        "title": "kind",
        "groups": [
            {"name": "day", "num_images": (compared == 0).sum()},
            {"name": "night", "num_images": (compared == 1).sum()},
        ],
    }
    contrast = summary["contrasts"][0]
    assert (contrast["num_filters_tested"], contrast["num_filters_found"], contrast["num_vanishing"]) == (4, 2, 1)
    assert contrast["least_difference"] == pytest.approx(
        np.median([found.filters[u]["least_difference"] for u in tested])
    )
    level = reached_level(RATE, 2, 4)
    least = least_difference(np.array([qualified[a | b, 4].mean()]), int(a.sum()), int(b.sum()), level, 0.8)
    assert found.filters[4]["least_difference"] == pytest.approx(least[0])
    assert facts["num_found"] == 2
    assert (facts["num_filters_tested"], facts["num_vanishing"]) == (4, 1)
    assert (summary["images"], summary["grouping"], summary["permutations"]) == ("target", "kind", 1000)


def test_without_strata_and_words(tmp_path: Path) -> None:
    qualified, groups, _ = make_data()
    analyse(tmp_path, qualified, groups)
    found = load_bias(tmp_path / "out")
    assert [r["verdict"] for r in found.filters] == ["differs", "differs", "same", "same", "same", "same"]
    assert found.summary["strata"] is None
    assert found.words == []
    assert {v for r in found.filters for k, v in r.items() if k.startswith("stratified")} == {None}


def test_columns_and_repetition(tmp_path: Path) -> None:
    """The same columns whatever was found, and the same bytes."""
    qualified, groups, strata = make_data()
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        analyse(tmp_path / name, qualified, groups, strata, [["w"]] * 6)
        contents.append([(tmp_path / name / "out" / f).read_bytes() for f in (BIAS_FILE, FILTERS_FILE, WORDS_FILE)])
    assert contents[0] == contents[1]
    found = load_bias(tmp_path / "one" / "out")
    assert list(found.filters[0]) == make_schema(FilterDifference).names
    assert list(found.words[0]) == make_schema(WordDifference).names
    json.dumps(found.summary, allow_nan=False)


def test_three_groups_each_against_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    of_image = np.repeat([0, 1, 2], 40)
    qualified = np.stack([rng.random(120) < np.where(of_image == 1, 0.9, 0.1), rng.random(120) < 0.5], axis=1)
    facts = analyse(tmp_path, qualified, grouping(of_image, "a", "b", "c"), words=[["x"], ["y"]])
    found = load_bias(tmp_path / "out")
    assert [(c["group"], c["other"], c["num_group"], c["num_other"]) for c in found.summary["contrasts"]] == [
        (name, OTHERS, 40, 80) for name in "abc"
    ]
    q = stats.false_discovery_control([r["p_value"] for r in found.filters])
    assert [r["q_value"] for r in found.filters] == pytest.approx(q.tolist())
    differs = {(r["group"], r["filter"]): np.sign(r["difference"]) for r in found.filters if r["found"]}
    assert differs == {("a", 0): -1, ("b", 0): 1, ("c", 0): -1}
    assert facts["num_contrasts"] == 3


def test_too_few_groups() -> None:
    groups = grouping(np.array([0] * 20 + [1] * 3 + [-1]), "a", "b")
    with pytest.raises(UserError, match=r"^bias.groups: found 1 groups by kind with 5 .*: a \(20\), b \(3\)"):
        make_contrasts(groups, None, 5)


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    qualified, groups, strata = make_data()
    with pytest.raises(ValueError, match="expected a group for each of 125 pictures, found 10"):
        analyse(tmp_path, qualified, groups, grouping(strata.of_image[:10], "day", "night"))
    with pytest.raises(ValueError, match="expected words of 6 filters, found 2"):
        analyse(tmp_path, qualified, groups, words=[[], []])


def test_more_permutations_where_a_single_word_could_not_be_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    of_image = np.arange(60) % 2
    qualified = rng.random((60, 90)) < 0.4
    qualified[:, 0] = of_image == 0
    analyse(tmp_path, qualified, grouping(of_image, "a", "b"), words=[[f"w{i:02d}"] for i in range(90)])
    found = load_bias(tmp_path / "out")
    assert found.summary["permutations"] == 1800
    assert [r["word"] for r in found.words if r["found"]] == ["w00"]


# Verdicts


def compare_by_hand(value: float, low: float, high: float, p: float, marginal: float) -> str:
    one = np.ones(1)
    nothing = Difference(one * marginal, one * marginal, one * marginal)
    within = Difference(one * value, one * low, one * high)
    comparison = ContrastFigures(one, one, nothing, one, one, one > 0, within, one * p)
    return give_verdict(comparison, np.array([True]), RATE, True)[0]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("value", "low", "high", "p", "verdict"),
    [
        (0.3, 0.2, 0.4, 0.001, "differs"),
        (0.1, 0.02, 0.18, 0.02, "differs"),
        (0.1, -0.1, 0.3, 0.3, "vanishes"),
        (0.0, 0.0, 0.0, 1.0, "vanishes"),
        (-0.1, -0.25, 0.05, 0.2, "vanishes"),
        (0.16, -0.1, 0.4, 0.2, "undecided"),
        (-0.2, -0.35, -0.05, 0.01, "reverses"),
        (-0.1, -0.21, 0.01, 0.04, "undecided"),
        (np.nan, np.nan, np.nan, np.nan, "undecided"),
    ],
)
def test_verdicts(value: float, low: float, high: float, p: float, verdict: str, sign: int) -> None:
    """The marginal difference is .3, or the other way round."""
    ends = sorted([sign * low, sign * high])
    assert compare_by_hand(sign * value, ends[0], ends[1], p, sign * 0.3) == verdict


def test_strata_that_are_the_groups_decide_nothing(tmp_path: Path) -> None:
    qualified, groups, _ = make_data()
    same = grouping(np.where(groups.of_image == 0, 0, 1), "x", "y")
    analyse(tmp_path, qualified, groups, same, [["w"]] * 6)
    found = load_bias(tmp_path / "out")
    assert found.filters[0]["verdict"] == "undecided"
    assert found.filters[0]["stratified_p_value"] is None
    assert found.words[0]["stratified_difference"] is None


def analyse_cells(folder: Path, cells: Sequence[tuple[int, int, int, int]]) -> Bias:
    """One filter on pictures by (stratum, group, how many, how many of them qualify)."""
    sizes = [num for _, _, num, _ in cells]
    stratum, of_image = (np.repeat([cell[i] for cell in cells], sizes) for i in (0, 1))
    qualified = np.concatenate([np.arange(num) < count for _, _, num, count in cells])[:, None]
    analyse(folder, qualified, grouping(of_image, "a", "b"), grouping(stratum, "x", "y"))
    return load_bias(folder / "out")


def test_reversal(tmp_path: Path) -> None:
    """Simpson: group a has more in all, and less in every stratum (.8 < 1 and .1 < .3)."""
    row = analyse_cells(tmp_path, [(1, 0, 180, 144), (1, 1, 20, 20), (0, 0, 20, 2), (0, 1, 180, 54)]).filters[0]
    assert row["difference"] == pytest.approx(0.73 - 0.37)
    # Both strata weigh the same: (-.2 - .2) / 2.
    assert row["stratified_difference"] == pytest.approx(-0.2)
    assert row["verdict"] == "reverses"


def test_difference_that_only_strata_show(tmp_path: Path) -> None:
    """Shares of .6 and .3 in one stratum, of 1 and .83 in the other, .7 and .7 in all."""
    found = analyse_cells(tmp_path, [(1, 0, 150, 90), (1, 1, 50, 15), (0, 0, 50, 50), (0, 1, 150, 125)])
    assert found.filters[0]["difference"] == 0
    assert found.filters[0]["stratified_low"] > 0
    assert found.filters[0]["verdict"] == "same"
    assert found.summary["contrasts"][0]["num_only_within_strata"] == 1


# Data with known answers, scaled down from benchmarks/bias.py


def draw_correlated(num: int, filters: int, rng: np.random.Generator) -> AnyArray:
    """Filters that share pictures: ten hidden concepts, and noise."""
    concepts = rng.random((num, 10)) < 0.3
    chosen = rng.integers(0, 10, filters)
    return np.where(concepts[:, chosen], rng.random((num, filters)) < 0.7, rng.random((num, filters)) < 0.1)


def test_random_groups_are_left_alone() -> None:
    """60 draws: any false discovery in no more than a 5 % test would give by chance at the .999 quantile."""
    rng = np.random.default_rng(10)
    qualified = draw_correlated(120, 60, rng)
    words, member = index_words([[f"w{u % 12}"] for u in range(60)])
    scores, num_filters = count_scores(qualified, member), member.sum(axis=0)
    wrong = np.zeros(2, int)
    for draw in range(60):
        contrast = make_contrasts(grouping(rng.permutation(np.arange(120) % 2), "a", "b"), None, 10)[0]
        filters = compare_filters(qualified, contrast, False)
        pooled = compare_words(scores, num_filters, contrast, False, 300, (0, draw))
        wrong += [decide_contrasts([c], RATE, False)[0].found.any() for c in (filters, pooled)]
    assert len(words) == 12
    assert (wrong <= stats.binom.ppf(0.999, 60, RATE)).all(), wrong


@pytest.mark.parametrize(("size", "lowest", "highest"), [(0.5, 0, 0.2), (1.0, 0.7, 0.92), (1.5, 0.97, 1)])
def test_planted_difference_is_found_at_the_stated_power(size: float, lowest: float, highest: float) -> None:
    rng = np.random.default_rng(11)
    background = draw_correlated(200, 40, rng)
    least = float(least_difference(np.array([0.4]), 100, 100, reached_level(RATE, 1, 41), 0.8)[0])
    found = 0
    for _ in range(150):
        in_a = rng.permutation(200) < 100
        planted = rng.random(200) < np.where(in_a, 0.4 + size * least / 2, 0.4 - size * least / 2)
        contrast = make_contrasts(grouping(np.where(in_a, 0, 1), "a", "b"), None, 10)[0]
        comparison = compare_filters(np.column_stack([background, planted]), contrast, False)
        found += bool(decide_contrasts([comparison], RATE, False)[0].found[-1])
    assert lowest <= found / 150 <= highest


def test_confounded_differences_are_marked() -> None:
    """Filters 0 to 9 depend on the stratum alone, 10 to 19 on the group; 20 draws."""
    rng = np.random.default_rng(12)
    verdicts: list[list[str]] = []
    for _ in range(20):
        stratum = rng.permutation(300) % 2
        in_a = rng.random(300) < np.where(stratum, 0.8, 0.2)
        confounded = rng.random((300, 10)) < np.where(stratum, 0.6, 0.1)[:, None]
        direct = rng.random((300, 10)) < np.where(in_a, 0.6, 0.2)[:, None]
        strata = grouping(stratum, "x", "y")
        contrast = make_contrasts(grouping(np.where(in_a, 0, 1), "a", "b"), strata, 10)[0]
        comparison = compare_filters(np.hstack([confounded, direct]), contrast, True)
        verdicts.append(decide_contrasts([comparison], RATE, True)[0].verdict)
    table = np.array(verdicts)
    assert (table[:, :10] == "vanishes").mean() > 0.9
    assert (table[:, 10:] == "differs").mean() > 0.97


def test_words_within_strata(tmp_path: Path) -> None:
    """A word of three filters that the stratum explains, and one of three that the group does."""
    rng = np.random.default_rng(13)
    stratum = np.arange(240) % 2
    in_a = rng.random(240) < np.where(stratum, 0.8, 0.2)
    confounded = rng.random((240, 3)) < np.where(stratum, 0.6, 0.1)[:, None]
    direct = rng.random((240, 3)) < np.where(in_a, 0.6, 0.2)[:, None]
    groups, strata = grouping(np.where(in_a, 0, 1), "a", "b"), grouping(stratum, "x", "y")
    words = [["night"]] * 3 + [["cat"]] * 3
    facts = analyse(tmp_path, np.hstack([confounded, direct]), groups, strata, words)
    found = {r["word"]: r for r in load_bias(tmp_path / "out").words}
    assert found["night"]["verdict"] == "vanishes"
    assert found["cat"]["verdict"] == "differs"
    assert found["cat"]["stratified_low"] <= 0.4 <= found["cat"]["stratified_high"]
    assert facts["num_words_found"] == 2
