"""An audit that cannot begin, or is stopped, says so in its run; what two audits must share; what was left out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavise.configs.errors import NoRoomError, UserError
from lavise.configs.policy import Policy
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.audit.layer_context import LayerResult
from lavise.flows.audit.results import Occasion
from lavise.flows.audit.run import _apply_policy, _environment_tags, describe_skipped, digest_identity, run_audit
from lavise.flows.shared.inputs import Inputs
from lavise.flows.shared.results import RunResult
from lavise.storage.activations import ShardGrid, finish_store, write_shard
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.layers import Layer
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.progress import no_progress
from lavise.storage.tracking import MlflowTracker, RunRecord
from lavise.storage.words.word_vectors import PhraseMatch, Vocabulary
from lavise.tasks.engine.stage import StageOutcome, Work
from tests.unit.flows.helpers import client_of, make_config, make_tracker, tags_of, write_run_folder
from tests.unit.tasks.helpers import publish, write_image

OPENMOJI: dict[str, Any] = {"reference": {"kind": "openmoji", "train_scenes": 2, "evaluation_scenes": 1}}


@pytest.fixture
def tracker(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> MlflowTracker:
    return make_tracker(tmp_path_factory, tmp_path)


def make_openmoji_config(root: Path, **sections: Any) -> Config:
    """Its first stage draws scenes."""
    data = make_config(root, **sections).model_dump(mode="json")
    return Config.model_validate(data | OPENMOJI)


def make_whole_config(root: Path, **sections: Any) -> Config:
    """Every picture that it asks for is there."""
    for name in ("reference/cat", "reference/dog", "target"):
        for number in range(3):
            write_image(root / name / f"{number}.png", 20, 20, number)
    return make_config(root, **sections)


def runs_of(tracker: MlflowTracker, config: Config) -> list[RunRecord]:
    """The audits' own runs, without those of stages."""
    return tracker.find({"lavise.config": config.name})


# Audits that do not come to their end


def test_missing_word_vectors_leave_no_run_and_nothing_made(tracker: MlflowTracker, tmp_path: Path) -> None:
    config = make_whole_config(tmp_path, words={"vectors": str(tmp_path / "no.txt")})
    with pytest.raises(UserError, match=r"words\.vectors: found '.*no\.txt', which is no file"):
        run_audit(config, tracker, no_progress)
    assert runs_of(tracker, config) == []
    assert not list((tmp_path / "artefacts").iterdir())
    assert not (tmp_path / "runs").exists()


def test_a_layer_that_is_not_there_is_found_before_the_pictures_are_read(
    tracker: MlflowTracker, tmp_path: Path
) -> None:
    """The pictures are not there either; only the first mistake is told."""
    config = make_config(tmp_path, model={"layers": ["tale"]})
    with pytest.raises(UserError, match=r"model\.layers: found 'tale'.*tail"):
        run_audit(config, tracker, no_progress)
    assert runs_of(tracker, config) == []


def test_missing_pictures_leave_no_run(tracker: MlflowTracker, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with pytest.raises(UserError, match=r"reference\.root"):
        run_audit(config, tracker, no_progress)
    assert runs_of(tracker, config) == []


def test_a_mistake_that_only_a_long_stage_can_find_fails_the_run(tracker: MlflowTracker, tmp_path: Path) -> None:
    def execute(title: str, work: Work, uses_device: bool) -> StageOutcome:
        if title == "extract target":
            raise UserError("data set target: 3 of 3 pictures cannot be read")
        return work()

    config = make_whole_config(tmp_path, evaluate={"baselines": ["random_words"]})
    with pytest.raises(UserError, match="3 of 3"):
        run_audit(config, tracker, no_progress, execute)
    (record,) = runs_of(tracker, config)
    assert record.status == "FAILED"
    assert len(record.tags["lavise.checkpoint"]) == 64


def test_groups_of_pictures_are_checked_before_the_first_stage(tracker: MlflowTracker, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("file,gender\n0.png,a\n1.png,b\n", "utf-8")
    config = make_whole_config(tmp_path, bias={"groups": f"csv:{tmp_path / 'people.csv'}:age"})
    with pytest.raises(UserError, match="has no column 'age'; allowed: file, gender"):
        run_audit(config, tracker, no_progress)
    assert runs_of(tracker, config) == []
    assert not list((tmp_path / "artefacts").iterdir())


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("no memory"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "KILLED")],
    ids=["error", "Ctrl-C", "exit"],
)
def test_a_stage_that_fails_or_is_stopped_ends_the_run(
    tracker: MlflowTracker, tmp_path: Path, error: BaseException, status: str
) -> None:
    titles = []

    def execute(title: str, work: Work, uses_device: bool) -> StageOutcome:
        titles.append(title)
        raise error

    config = make_openmoji_config(tmp_path)
    with pytest.raises(type(error)):
        run_audit(config, tracker, no_progress, execute)
    assert [r.status for r in runs_of(tracker, config)] == [status]
    assert titles == ["scenes reference"]


def test_what_was_finished_before_the_mistake_is_kept(tracker: MlflowTracker, tmp_path: Path) -> None:
    """The scenes are drawn, then the target's folder is not there; their runs are taken back with the audit's."""
    config = make_openmoji_config(tmp_path)
    made = []
    for _ in range(2):
        with pytest.raises(UserError, match=r"target\.root"):
            run_audit(config, tracker, no_progress)
        (folder,) = (tmp_path / "artefacts" / "scenes").glob("*/handle.json")
        made.append(folder.stat().st_mtime_ns)
    assert made[0] == made[1]
    assert runs_of(tracker, config) == tracker.find({"lavise.stage": "scenes"}) == []


def test_a_disk_that_is_too_small_leaves_no_run_and_nothing_begun(
    tracker: MlflowTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scenes were drawn before their masks could be counted; their run is taken back as well."""
    write_image(tmp_path / "target" / "a.png", 20, 20, 0)
    config = make_openmoji_config(tmp_path)
    monkeypatch.setattr("lavise.flows.shared.room.measure_free_bytes", lambda folder: 1_000_000)
    with pytest.raises(NoRoomError, match=r"storage\.root: needs .*found 1\.0 MB free at .*artefacts;"):
        run_audit(config, tracker, no_progress)
    assert tracker.find({"lavise.config": config.name}) == tracker.find({"lavise.stage": "scenes"}) == []
    assert [f.name for f in (tmp_path / "artefacts").iterdir()] == ["scenes"]
    assert not (tmp_path / "runs").exists()


def test_a_compression_that_is_not_installed_is_told_first(
    tracker: MlflowTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)  # as if it were not installed
    config = make_config(tmp_path, extract={"compression": "blosc2"})
    with pytest.raises(UserError, match=r"extract\.compression: found 'blosc2'.*pip install"):
        run_audit(config, tracker, no_progress)


# What a run says of itself from the start


def fail(title: str, work: Work, uses_device: bool) -> StageOutcome:
    raise RuntimeError("no memory")


def test_a_run_bears_its_settings_and_the_occasion(tracker: MlflowTracker, tmp_path: Path) -> None:
    config = make_openmoji_config(tmp_path, seed=7)
    occasion = Occasion(tags={"lavise.source": "folder"}, checkpoint_name="epoch 9.pt")
    with pytest.raises(RuntimeError):
        run_audit(config, tracker, no_progress, fail, occasion)
    (record,) = runs_of(tracker, config)
    assert record.name == "tiny epoch 9.pt"
    assert record.tags["lavise.source"] == "folder"
    assert record.tags["lavise.config_digest"] == digest_identity(config)
    assert record.tags["lavise.device"] == "cpu"
    params = client_of(tracker).get_run(record.run_id).data.params
    assert (params["seed"], params["target.root"]) == ("7", str(tmp_path / "target"))
    assert params["model.layers"] == "auto"
    assert "model.num_classes" not in params  # which is None


def test_a_run_is_called_as_its_flow_run_is(tracker: MlflowTracker, tmp_path: Path) -> None:
    config = make_openmoji_config(tmp_path)
    occasion = Occasion(checkpoint_name="epoch 9.pt", run_name="tiny of Monday")
    with pytest.raises(RuntimeError):
        run_audit(config, tracker, no_progress, fail, occasion)
    assert [record.name for record in runs_of(tracker, config)] == ["tiny of Monday"]


def test_a_password_is_not_written_down(tracker: MlflowTracker, tmp_path: Path) -> None:
    uri = "http://someone:secret@127.0.0.1:5000"
    config = make_openmoji_config(tmp_path, tracking={"uri": uri})
    with pytest.raises(RuntimeError):
        run_audit(config, tracker, no_progress, fail)
    (record,) = runs_of(tracker, config)
    logged = client_of(tracker).get_run(record.run_id).data
    assert logged.params["tracking.uri"] == "http://127.0.0.1:5000"
    assert "secret" not in f"{logged.params} {logged.tags}"


def make_environment(git: Mapping[str, Any]) -> dict[str, Any]:
    return {"device": "cuda", "packages": {"lavise": "0.1.0", "torch": "2.11"}, "git": git}


@pytest.mark.parametrize(("dirty", "shown"), [(True, "true"), (False, "false")])
def test_tags_of_a_checkout(dirty: bool, shown: str) -> None:
    tags = _environment_tags(make_environment({"commit": "ab12", "dirty": dirty}))
    assert tags == {
        "lavise.device": "cuda",
        "lavise.version": "0.1.0",
        "mlflow.source.git.commit": "ab12",
        "lavise.git_dirty": shown,
    }


def test_an_installed_wheel_has_no_commit() -> None:
    assert _environment_tags(make_environment({})) == {"lavise.device": "cuda", "lavise.version": "0.1.0"}


# What makes audits comparable


def test_identity_goes_by_where_a_path_leads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    written_out = digest_identity(make_config(tmp_path / "data"))
    assert digest_identity(make_config(Path("data"))) == written_out
    monkeypatch.chdir(tmp_path / "below")
    assert digest_identity(make_config(tmp_path / "data")) == written_out
    assert digest_identity(make_config(Path("data"))) != written_out


@pytest.mark.parametrize(
    "sections",
    [
        {"name": "other"},
        {"model": {"weights": "epoch9.pt"}},
        {"statistics": {"num_workers": 1}},
        {"report": {"thumbnail_px": 48}},
        {"tracking": {"experiment": "other"}},
        {"bias": {"groups": "folder"}},
    ],
    ids=str,
)
def test_identity_leaves_out_what_does_not_change_the_words(tmp_path: Path, sections: dict[str, Any]) -> None:
    assert digest_identity(make_config(tmp_path, **sections)) == digest_identity(make_config(tmp_path))


@pytest.mark.parametrize(
    "sections",
    [
        {"seed": 1},
        {"model": {"layers": ["tail"]}},
        {"statistics": {"quantile": 0.99}},
        {"target": {"root": "/elsewhere"}},
        {"explain": {"top_images": 3}},
    ],
    ids=str,
)
def test_identity_tells_settings_apart_that_change_the_words(tmp_path: Path, sections: dict[str, Any]) -> None:
    assert digest_identity(make_config(tmp_path, **sections)) != digest_identity(make_config(tmp_path))


# What was left out


def publish_activations(root: Path, broken: Mapping[str, str], flat: Sequence[str] = ()) -> Handle:
    def fill(folder: Path) -> None:
        write_shard(folder, 0, np.ones((2, 3, 2, 2), np.float16), ["a.png", "b.png"], broken, {}, flat)
        finish_store(folder, ShardGrid(2 + len(broken), 8))

    return publish(root, "extract", fill)


def test_skipped_pictures_and_masks_by_part(tmp_path: Path) -> None:
    broken = {Role.TRAIN: {"c.png": "truncated"}, Role.EVALUATION: {}, Role.TARGET: {"x.png": "empty", "y.png": "gone"}}
    result = LayerResult(
        Layer("tail", "Conv2d", 3, 2, 2),
        {
            role: publish_activations(tmp_path / role, found, ["b.png"] if role == Role.TARGET else [])
            for role, found in broken.items()
        },
        regions={Role.TRAIN: publish(tmp_path, "regions", lambda _: {"skipped": {"wrong size": 2}})},
    )
    result.keep(publish(tmp_path, "overlaps", lambda _: {"skipped": {"wrong size": 1, "crowd": 4}}))
    train, evaluation, target = (Dataset("d", (), left_out=own) for own in ({"link": 2}, {}, {"hidden": 1}))
    matches = (PhraseMatch("qwx", "missing"), PhraseMatch("diningtable", "mean", ("dining", "table"), "dining table"))
    words = Vocabulary(("dog",), np.ones((1, 2), np.float32), 1, matches, {"word that stands twice": 3})
    assert describe_skipped(result, Inputs(train, evaluation, target, {}, {}), words) == {
        "pictures": {
            "train": {"c.png": "truncated"},
            "evaluation": {},
            "target": {"x.png": "empty", "y.png": "gone"},
        },
        "masks": {"train": {"wrong size": 2}, "evaluation": {"wrong size": 1, "crowd": 4}},
        "files": {"reference": {"link": 2}, "target": {"hidden": 1}},
        "nearly_of_one_shade": {"train": [], "evaluation": [], "target": ["b.png"]},
        "categories": {"qwx": "no word vector"},
        "read_as": {"diningtable": "dining table"},
        "word_vectors": {"word that stands twice": 3},
    }


# A policy never takes the audit down


@pytest.mark.parametrize(
    ("metric", "outcome"),
    [("share_explained", "failed"), ("no_such_metric", "invalid"), ("num_explained", "passed")],
)
def test_outcome_of_a_policy_is_a_tag(tracker: MlflowTracker, tmp_path: Path, metric: str, outcome: str) -> None:
    """Three of four filters are explained."""
    run = tracker.start("tiny", {})
    folder = write_run_folder(tmp_path / "runs" / run.run_id, make_config(tmp_path))
    policy = Policy.model_validate({"name": "p", "rules": [{"metric": metric, "at_least": 0.9}]})
    result = RunResult(run.run_id, None, folder, {}, {}, 0)
    assert _apply_policy(policy, result, run, "tiny", False) == outcome
    assert tags_of(tracker, run.run_id)["lavise.gate"] == outcome


def test_a_policy_on_changes_is_invalid_where_the_comparison_is_missing(tracker: MlflowTracker, tmp_path: Path) -> None:
    run = tracker.start("tiny", {})
    folder = write_run_folder(tmp_path / "runs" / run.run_id, make_config(tmp_path))
    rules = [{"metric": "share_explained", "at_least": 0.5}, {"metric": "diff/share_kept", "at_least": 0.9}]
    policy = Policy.model_validate({"name": "p", "rules": rules})
    result = RunResult(run.run_id, None, folder, {}, {}, 0)
    assert _apply_policy(policy, result, run, "tiny", is_missing=False) == "passed"
    assert _apply_policy(policy, result, run, "tiny", is_missing=True) == "invalid"
