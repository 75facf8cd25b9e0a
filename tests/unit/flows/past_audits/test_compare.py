"""Which layers are compared, where their activations come from, and what is said of what came out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch

from lavise.configs.errors import UserError
from lavise.configs.schema import Config, ImageFolderTarget, StatisticsSettings
from lavise.flows.past_audits.compare import (
    Comparison,
    DiffResult,
    TargetImages,
    compare_audits,
    diff_runs,
    locate_layers,
    not_same,
    pair_layers,
)
from lavise.flows.past_audits.past_runs import PastRun, open_past_run
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.image_folder import load_image_folder_target
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.digest import short
from lavise.storage.state.progress import no_progress
from lavise.storage.tracking import NullTracker
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import StageRunner, describe_artefacts, run_inline
from lavise.tasks.history.filter_matching import AuditedLayer
from lavise.tasks.report.summary import describe_run, summarise_changes
from tests.unit.flows.helpers import ARCH, make_config, make_filters, write_run_folder
from tests.unit.tasks.helpers import TinyNetwork, write_image

WORDS: dict[str, list[str | None]] = {
    "tail": ["dog", "cat", None, "tree", "sky"],
    "body.0": ["red", None, None, "blue", "green", "dark", "light", "round"],
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[StatisticsCluster]:
    """One thread in this process behind an address."""
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
        ) as running,
        StatisticsCluster(StatisticsSettings(scheduler=running.scheduler_address)) as statistics,
    ):
        yield statistics


def never_opened() -> Dataset:
    raise AssertionError("the pictures were opened")


class Audit:
    """An audit that has ended: real pictures, a checkpoint, the activations of two layers on them."""

    def __init__(self, home: Path, name: str, pictures: Path, seed: int) -> None:
        self.root = home / "state"
        weights = home / f"{name}.pth"
        torch.manual_seed(seed)
        torch.save(TinyNetwork().state_dict(), weights)
        settings = {"arch": ARCH, "weights": str(weights), "preprocessing": {"size_px": 32}}
        target = {"kind": "image_folder", "root": str(pictures)}
        self.config = make_config(self.root, name=name, model=settings, target=target)
        self.weights, self.data = weights, load_image_folder_target(ImageFolderTarget(root=pictures))
        self.pictures = TargetImages(self.data.digest_images(), lambda: self.data)
        self.digest = load_target_model(self.config.model, 0).digest
        self.past = self.write(home / "runs" / name, WORDS)
        self.layers = self.locate()
        stages = describe_artefacts(self.runner.outcomes)["stages"]
        shutil.rmtree(self.past.folder)
        own = [{**entry, "subject": ""} for entry in next(iter(stages.values()))]
        self.past = self.write(self.past.folder, WORDS, {"extract target": own})

    def write(self, folder: Path, words: dict[str, list[str | None]], stages: Any = None) -> PastRun:
        pictures = {"target": self.pictures.digest}
        write_run_folder(folder, self.config, words, stages, checkpoint=self.digest, pictures=pictures)
        return open_past_run(str(folder), NullTracker(), self.root)

    def locate(self, names: tuple[str, ...] = tuple(WORDS)) -> list[AuditedLayer]:
        self.runner = StageRunner(ArtefactStore(self.root))
        return locate_layers(self.past, names, self.pictures, self.runner, "cpu", no_progress)

    @property
    def artefacts(self) -> Path:
        return self.root / "artefacts"


def write_images(folder: Path) -> Path:
    for number in range(4):
        write_image(folder / f"{number}.png", 20, 24, seed=number)
    return folder


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """One that a test may damage."""
    return Audit(tmp_path, "first", write_images(tmp_path / "pictures"), seed=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, Audit]:
    """Two in one state folder, for tests that only add to it."""
    home = tmp_path_factory.mktemp("two audits")
    pictures = write_images(home / "pictures")
    return Audit(home, "first", pictures, seed=1), Audit(home, "second", pictures, seed=2)


# Layers


@pytest.mark.parametrize(
    ("old", "new", "pairs"),
    [
        (["a", "b"], ["a", "b"], [("a", "a"), ("b", "b")]),
        (["a", "b"], ["b", "a"], [("b", "b"), ("a", "a")]),
        (["a", "b", "c"], ["d", "b"], [("b", "b")]),
        (["a"], ["b"], [("a", "b")]),
        (["a"], ["a"], [("a", "a")]),
    ],
)
def test_layers_are_paired_by_name(old: list[str], new: list[str], pairs: list[tuple[str, str]]) -> None:
    assert pair_layers(old, new) == pairs


@pytest.mark.parametrize(("old", "new"), [(["a"], ["b", "c"]), (["a", "b"], ["c"]), (["a", "b"], ["c", "d"])])
def test_no_layer_in_common(old: list[str], new: list[str]) -> None:
    with pytest.raises(UserError, match=rf"\({', '.join(old)} and {', '.join(new)}\); audit the same layers"):
        pair_layers(old, new)


# Activations


def test_stored_activations_need_no_checkpoint(audit: Audit) -> None:
    audit.weights.unlink()
    audit.pictures = TargetImages(audit.pictures.digest, never_opened)
    found = audit.locate(("body.0", "tail"))
    assert [layer.name for layer in found] == ["body.0", "tail"]
    assert {layer.name: layer.activations for layer in found} == {n.name: n.activations for n in audit.layers}
    assert [len(layer.filters) for layer in found] == [8, 5]
    assert ActivationStore(found[1].activations.folder).shape[:2] == (4, 5)
    assert audit.runner.outcomes == {}


def test_activations_that_are_gone_are_made_again_from_the_same_checkpoint(audit: Audit) -> None:
    shutil.rmtree(audit.artefacts)
    found = audit.locate()
    assert [layer.activations.digest for layer in found] == [layer.activations.digest for layer in audit.layers]
    assert [layer.activations.files for layer in found] == [layer.activations.files for layer in audit.layers]
    assert list(audit.runner.outcomes) == ["extract target of first"]


def test_activations_on_other_pictures_do_not_count(audit: Audit, tmp_path: Path) -> None:
    write_image(tmp_path / "others" / "new.png", 20, 24, seed=9)
    others = load_image_folder_target(ImageFolderTarget(root=tmp_path / "others"))
    audit.pictures = TargetImages(others.digest_images(), lambda: others)
    found = audit.locate(("tail",))
    assert found[0].activations.inputs["pictures"] == audit.pictures.digest
    assert ActivationStore(found[0].activations.folder).keys == ["new.png"]


@pytest.mark.parametrize("lost", ["all", "one of two"])
def test_activations_are_gone_and_the_checkpoint_is_another_one(audit: Audit, lost: str) -> None:
    shutil.rmtree(audit.artefacts if lost == "all" else audit.layers[1].activations.folder)
    torch.manual_seed(2)
    torch.save(TinyNetwork().state_dict(), audit.weights)
    other = load_target_model(audit.config.model, 0).digest
    audit.pictures = TargetImages(audit.pictures.digest, never_opened)
    with pytest.raises(UserError) as caught:
        audit.locate()
    said = str(caught.value)
    assert said.startswith("diff: the activations of run first on these pictures are not stored")
    assert f"{audit.weights} is another one now (sha256 {short(other)} instead of {short(audit.digest)})" in said
    assert "\n" not in said


def test_activations_and_checkpoint_are_gone(audit: Audit) -> None:
    shutil.rmtree(audit.artefacts)
    audit.weights.unlink()
    with pytest.raises(UserError, match=f"found '{audit.weights}', which is no file"):
        audit.locate()


def test_the_pictures_of_the_newer_audit_have_changed(audit: Audit, tmp_path: Path) -> None:
    shutil.rmtree(audit.artefacts)
    write_image(tmp_path / "pictures" / "0.png", 20, 24, seed=99)
    run = str(audit.past.folder)
    with pytest.raises(UserError, match=r"diff: the target pictures \(pictures\) are not those of run first any more"):
        diff_runs(run, run, [], NullTracker(), audit.root, no_progress, run_inline)
    assert not (audit.root / "diffs").exists()


def test_a_wrong_setting_of_the_comparison(audit: Audit) -> None:
    run = str(audit.past.folder)
    with pytest.raises(UserError, match=r"related_at must not be above same_at, found 0\.5 and 0\.2"):
        diff_runs(run, run, ["diff.same_at=0.2"], NullTracker(), audit.root, no_progress, run_inline)


# Comparisons


def compare(
    old: Audit, new: Audit, cluster: StatisticsCluster, config: Config | None = None, layers: Any = None
) -> tuple[Comparison, dict[str, bool]]:
    """A comparison, and which of its parts were there already."""
    runner = StageRunner(ArtefactStore(new.root))
    given = layers or new.layers
    found = compare_audits(old.past, given, new.pictures, config or new.config, runner, cluster, "cpu", no_progress)
    return found, {title: outcome.cached for title, outcome in runner.outcomes.items()}


def test_what_is_left_of_a_comparison(pair: tuple[Audit, Audit], cluster: StatisticsCluster, tmp_path: Path) -> None:
    old, new = pair
    found, _ = compare(old, new, cluster)
    summary = found.read_summary()
    assert {layer: s["num_new"] for layer, s in summary.items()} == {"tail": 5, "body.0": 8}
    assert all(s["num_same"] < s["num_old"] for s in summary.values())
    metrics = found.measure()
    assert metrics["body.0/diff/num_new"] == 8.0
    assert "tail/diff/words_gained" not in metrics
    found.write(tmp_path)
    rows = parquet.read_table(tmp_path / "diff.parquet").to_pylist()
    assert rows == found.read_table().to_pylist()
    assert {r["layer"] for r in rows} == {"tail", "body.0"}
    written = json.loads((tmp_path / "diff.json").read_text("utf-8"))
    assert written == {"old_run": "first", "layers": summary}
    assert (tmp_path / "diff.png").read_bytes().startswith(b"\x89PNG")
    part = found.to_report_part(new.config.diff)
    assert (part.old_run, part.old_name, part.old_checkpoint) == ("first", "first", short(old.digest))


def test_a_comparison_is_made_again_only_for_a_reason(pair: tuple[Audit, Audit], cluster: StatisticsCluster) -> None:
    old, new = pair
    config = make_config(new.root, diff={"bootstrap_samples": 150})
    first, cached = compare(old, new, cluster, config)
    assert cached == {"diff tail": False, "diff body.0": False}
    nowhere = StatisticsCluster(StatisticsSettings(scheduler="tcp://nowhere.invalid:1"))
    same, cached = compare(old, new, nowhere, make_config(new.root, name="other", diff={"bootstrap_samples": 150}))
    assert cached == {"diff tail": True, "diff body.0": True}
    assert same.digest == first.digest
    other_limit, cached = compare(old, new, cluster, make_config(new.root, diff={"bootstrap_samples": 151}))
    assert cached == {"diff tail": False, "diff body.0": False}
    reworded = [
        AuditedLayer("tail", ARCH, new.layers[0].activations, make_filters("tail", ["frog", *WORDS["tail"][1:]])),
        new.layers[1],
    ]
    other_words, cached = compare(old, new, cluster, config, layers=reworded)
    assert cached == {"diff tail": False, "diff body.0": True}
    assert "frog" in other_words.read_summary()["tail"]["words_gained"]
    fewer, cached = compare(old, new, cluster, config, layers=new.layers[1:])
    assert cached == {"diff body.0": True}
    assert list(fewer.handles) == ["body.0"]
    assert len({c.digest for c in (first, other_limit, other_words, fewer)}) == 4


def test_the_digest_tells_earlier_audits_apart_that_found_the_same(
    pair: tuple[Audit, Audit], cluster: StatisticsCluster, tmp_path: Path
) -> None:
    """The page names the run that it was compared with."""
    old, new = pair
    first, _ = compare(old, new, cluster)
    shutil.copytree(old.past.folder, tmp_path / "copies" / "again")
    again = open_past_run(str(tmp_path / "copies" / "again"), NullTracker(), old.root)
    second = Comparison(again, first.handles)
    assert second.read_summary() == first.read_summary()
    assert second.digest != first.digest


def test_an_audit_with_itself(pair: tuple[Audit, Audit], cluster: StatisticsCluster) -> None:
    found, _ = compare(pair[0], pair[0], cluster)
    assert [(s["num_same"], s["num_changed"]) for s in found.read_summary().values()] == [(5, 0), (8, 0)]
    assert not_same(found.read_table().to_pylist()) == []


# What is said


def test_the_least_alike_stand_first() -> None:
    rows = [
        {"layer": layer, "status": status, "similarity": similarity}
        for layer, status, similarity in (
            ("b", "changed", 0.1),
            ("a", "changed", 0.7),
            ("a", "same", 0.95),
            ("a", "new", None),
            ("a", "changed", -0.9),
        )
    ]
    assert [(r["layer"], r["similarity"]) for r in not_same(rows)] == [("a", None), ("a", -0.9), ("a", 0.7), ("b", 0.1)]


def test_the_result_is_one_line(tmp_path: Path) -> None:
    line = DiffResult("a", "b", tmp_path, {"tail": {"num_same": 1, "words_gained": ["x\ny"]}}).to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "old_run": "a",
        "new_run": "b",
        "folder": str(tmp_path),
        "layers": {"tail": {"num_same": 1, "words_gained": ["x\ny"]}},
    }


def test_the_runs_description(pair: tuple[Audit, Audit], cluster: StatisticsCluster) -> None:
    by_layer = {"tail": {"num_explained": 4, "num_filters": 5}, "body.0": {"num_explained": 6, "num_filters": 8}}
    assert describe_run(by_layer, None).splitlines() == [
        "- `tail`: **4 of 5 filters explained (80%).**",
        "- `body.0`: **6 of 8 filters explained (75%).**",
        "- look at report.html, overview.png and tables/ among the artifacts",
    ]
    linked = describe_run(by_layer, None, "a1", "experiments/3/runs/a1").splitlines()
    assert linked[0].startswith("- look at: [report](#/experiments/3/runs/a1/artifacts/report.html), [filters](#/exp")
    assert linked[1:3] == describe_run(by_layer, None).splitlines()[:2]
    assert linked[-1] == "![The most confident filters](get-artifact?path=overview.png&run_uuid=a1)"
    found, _ = compare(pair[0], pair[0], cluster)
    assert summarise_changes({"tail": found.compared.layers["tail"]}) == (
        "tail: 5 filters the same, 0 changed, 0 lost, 0 new"
    )
    assert describe_run(by_layer, found.compared).splitlines()[2:-1] == [
        "- compared with run `first` (first):",
        "  - `tail`: 5 filters the same, 0 changed, 0 lost, 0 new",
        "  - `body.0`: 8 filters the same, 0 changed, 0 lost, 0 new",
    ]


def test_names_from_data_are_no_markup_in_the_description(tmp_path: Path) -> None:
    hostile = "a`](javascript:x)\n# <img src=x>|**"
    folder = write_run_folder(tmp_path / "hostile", make_config(tmp_path), checkpoint_name=hostile)
    comparison = Comparison(open_past_run(str(folder), NullTracker(), tmp_path), {})
    said = describe_run({hostile: {"num_explained": 1, "num_filters": 1}}, comparison.compared)
    plain = "a???javascript?x??? ?img src?x????"
    assert said.replace("\ufffd", "?").splitlines()[:-1] == [
        f"- `{plain}`: **1 of 1 filters explained (100%).**",
        f"- compared with run `hostile` (tiny, {plain}):",
    ]
