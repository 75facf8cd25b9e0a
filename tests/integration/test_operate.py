"""diff, gate, rerun and gc on real audits of the real network, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from mlflow.tracking import MlflowClient

from tests.integration.checkpoints import drop, load_original, permute
from tests.integration.tiny import Finished, run_lavise, run_tiny

pytestmark = pytest.mark.slow


class Audited:
    """Two audits in one state folder: of the original, and of the same network with its channels in another order."""

    def __init__(self, home: Path) -> None:
        self.home = home
        original = load_original()
        weights = [drop(original, home / "original.pth"), drop(permute(original), home / "permuted.pth")]
        self.old, self.new = (run_tiny(home, model__weights=w).result for w in weights)
        self.uri: str = self.old["tracking_uri"]

    def run(self, *arguments: str, home: Path | None = None, cwd: Path | None = None) -> Finished:
        return run_lavise(home or self.home, *arguments, cwd=cwd, MLFLOW_TRACKING_URI=self.uri)

    def diff(self, *runs: str) -> dict[str, Any]:
        done = self.run("diff", *runs, "--json")
        assert done.code == 0, done.stderr
        found: dict[str, Any] = done.result["layers"]["bn2"]
        return found


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return Audited(tmp_path_factory.mktemp("operate"))


def test_an_audit_compared_with_itself_shows_nothing(audited: Audited) -> None:
    found = audited.diff(audited.old["run_id"], audited.old["run_id"])
    assert (found["num_same"], found["num_moved"], found["num_uncertain"]) == (1280, 0, 0)
    assert found["words_gained"] == found["words_lost"] == []
    assert found["mean_similarity"] == 1.0


def test_permuted_channels_are_a_full_match(audited: Audited) -> None:
    found = audited.diff(audited.old["run_id"], audited.new["run_id"])
    assert (found["num_same"], found["num_changed"], found["num_lost"], found["num_new_filters"]) == (1280, 0, 0, 0)
    assert found["num_moved"] > 1200
    folder = audited.home / "diffs" / f"{audited.old['run_id']}..{audited.new['run_id']}"
    rows = parquet.read_table(folder / "diff.parquet").to_pylist()
    assert len({r["old_filter"] for r in rows}) == len({r["new_filter"] for r in rows}) == 1280
    assert "Every filter is the same." in (folder / "diff.html").read_text("utf-8")
    logged = {a.path for a in MlflowClient(audited.uri).list_artifacts(audited.new["run_id"], "diffs")}
    assert logged == {f"diffs/{audited.old['run_id']}"}


def test_gate_says_no_with_exit_code_3_and_tags_the_run(audited: Audited, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: strict\nrules:\n  - metric: share_explained\n    at_least: 0.99\n", "utf-8")
    client, run_id = MlflowClient(audited.uri), audited.new["run_id"]
    no = audited.run("gate", run_id, "--policy", str(policy), "--json")
    assert no.code == 3
    assert no.result["outcome"] == client.get_run(run_id).data.tags["lavise.gate"] == "failed"
    policy.write_text("name: lax\nrules:\n  - metric: diff/share_kept\n    at_least: 0.99\n", "utf-8")
    yes = audited.run("gate", run_id, "--policy", str(policy), "--against", audited.old["run_id"])
    assert yes.code == 0, yes.stderr
    assert client.get_run(run_id).data.tags["lavise.gate"] == "passed"
    without = audited.run("gate", run_id, "--policy", str(policy), "--json")
    assert without.result["verdicts"][0]["outcome"] == "not_applicable"
    assert audited.run("gate", audited.old["run_id"]).code == 2


def test_rerun_from_another_folder_is_identical_to_the_bit(audited: Audited, tmp_path: Path) -> None:
    """From MLflow alone: neither the state folder nor the current one is that of the first time."""
    home, cwd = tmp_path / "home", tmp_path / "elsewhere"
    cwd.mkdir()
    done = audited.run("rerun", audited.old["run_id"], "--json", home=home, cwd=cwd)
    assert done.code == 0, done.stdout
    found = done.result
    assert found["verdict"] == "identical"
    assert {f["outcome"] for f in found["findings"]} == {"identical"}
    stages = {f["what"] for f in found["findings"] if f["what"].startswith("stage ")}
    assert stages == {f"stage {title}" for title in audited.old["stages"]}
    client = MlflowClient(audited.uri)
    tags = {run: client.get_run(run).data.tags for run in (audited.old["run_id"], found["rerun"])}
    assert [t["lavise.rerun_verdict"] for t in tags.values()] == ["identical", "identical"]
    assert tags[found["rerun"]]["lavise.rerun_of"] == audited.old["run_id"]
    assert tags[audited.old["run_id"]]["lavise.rerun_by"] == found["rerun"]


def test_rerun_names_the_input_that_is_another_one_now(audited: Audited, tmp_path: Path) -> None:
    done = audited.run("rerun", audited.old["run_id"], "--set", f"model.weights={audited.home / 'permuted.pth'}")
    assert done.code == 2
    assert "input: the checkpoint" in done.stderr
    assert "is not what it was" in done.stderr
    assert len(done.stderr.split("lavise: input:")) == 2


def test_gc_removes_what_no_kept_run_needs(audited: Audited) -> None:
    """Last of all: one of the runs is deleted, as people do it, in MLflow."""
    before = {p for p in (audited.home / "artefacts").rglob("*") if p.is_file()}
    MlflowClient(audited.uri).delete_run(audited.new["run_id"])
    planned = audited.run("gc", "--dry-run", "--json")
    assert planned.code == 0, planned.stderr
    assert {p for p in (audited.home / "artefacts").rglob("*") if p.is_file()} == before
    done = audited.run("gc", "--json")
    assert done.code == 0, done.stderr
    assert done.result["num_bytes"] == planned.result["num_bytes"] > 0
    kept = json.loads((audited.home / "runs" / audited.old["run_id"] / "artefacts.json").read_text("utf-8"))
    for entries in kept["stages"].values():
        for entry in entries:
            folder = audited.home / "artefacts" / entry["stage"] / entry["digest"][:24]
            assert set(entry["files"]) <= {p.relative_to(folder).as_posix() for p in folder.rglob("*")}
    assert not (audited.home / "runs" / audited.new["run_id"]).exists()
    again = run_tiny(audited.home, model__weights=audited.home / "original.pth").result
    assert all(stage["cached"] for stage in again["stages"].values())
