"""Verdicts and what is left of them: files, tags, tables; which comparison and which policy is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.configs.policy import Policy, load_policy
from lavise.flows.past_audits import gate
from lavise.flows.past_audits.gate import (
    GateResult,
    announce_outcome,
    gate_run,
    list_broken_rules,
    read_verdicts,
    record_verdict,
)
from lavise.flows.shared.results import RunResult
from lavise.storage.tracking import MlflowTracker, NullTracker
from tests.unit.flows.helpers import (
    UNKNOWN_RUN,
    client_of,
    make_config,
    make_tracker,
    read_table,
    tags_of,
    write_diff,
    write_run_folder,
)

LAX = "name: lax\nrules:\n  - metric: share_explained\n    at_least: 0.5\n"
STRICT = """
name: strict
rules:
  - metric: share_explained
    at_least: 0.9
  - forbidden_words: dog
    status: any
"""
KEPT = "name: kept\nrules:\n  - metric: diff/share_kept\n    at_least: 0.9\n"


@pytest.fixture
def tracker(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> MlflowTracker:
    return make_tracker(tmp_path_factory, tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


def audit(tracker: MlflowTracker, root: Path) -> str:
    """A run and its folder: of four filters, three are explained."""
    run = tracker.start("tiny", {})
    write_run_folder(root / "runs" / run.run_id, make_config(root))
    run.end()
    return run.run_id


def write_policy(folder: Path, text: str) -> str:
    path = folder / "my.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def outcomes_of(result: GateResult) -> list[str]:
    return [v.outcome for v in result.verdicts]


# What is recorded


def test_passed_is_in_files_and_tags(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    run_id = audit(tracker, root)
    result = gate_run(run_id, write_policy(tmp_path, LAX), None, tracker, root)
    assert (result.outcome, result.policy, result.title, result.compared_with) == ("passed", "lax", "tiny", None)
    tags = tags_of(tracker, run_id)
    assert (tags["lavise.gate"], tags["lavise.policy"]) == ("passed", "lax")
    folder = root / "runs" / run_id
    assert read_verdicts(folder) == result
    assert load_policy(folder / "policy.yaml") == load_policy(str(tmp_path / "my.yaml"))
    logged = {a.path for a in client_of(tracker).list_artifacts(run_id)}
    assert logged == {"policy.yaml", "gate.json", "tables"}


def test_failed_names_the_filters(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    run_id = audit(tracker, root)
    result = gate_run(run_id, write_policy(tmp_path, STRICT), None, tracker, root)
    assert (result.outcome, outcomes_of(result)) == ("failed", ["failed", "failed"])
    assert result.verdicts[0].found == "0.75"
    assert result.verdicts[1].filters == (0,)
    assert tags_of(tracker, run_id)["lavise.gate"] == "failed"
    assert read_verdicts(root / "runs" / run_id) == result
    broken = list_broken_rules(root / "runs" / run_id)
    assert broken.split("; ")[0] == f"{result.verdicts[0].rule} ({result.verdicts[0].layer}: 0.75)"
    assert len(broken.split("; ")) == 2
    assert list_broken_rules(tmp_path) == ""


def test_judged_again_the_table_and_the_tags_are_the_new_ones(
    tracker: MlflowTracker, root: Path, tmp_path: Path
) -> None:
    run_id = audit(tracker, root)
    gate_run(run_id, write_policy(tmp_path, STRICT), None, tracker, root)
    assert len(read_table(tracker, run_id, "tables/gate.json", tmp_path / "first")["data"]) == 2
    gate_run(run_id, write_policy(tmp_path, LAX), None, tracker, root)
    table = read_table(tracker, run_id, "tables/gate.json", tmp_path / "second")
    assert [row[table["columns"].index("outcome")] for row in table["data"]] == ["passed"]
    tags = tags_of(tracker, run_id)
    assert (tags["lavise.gate"], tags["lavise.policy"]) == ("passed", "lax")
    assert tags["mlflow.loggedArtifacts"].count("tables/gate.json") == 1


def test_the_policy_is_remembered(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    run_id = audit(tracker, root)
    policy = write_policy(tmp_path, STRICT)
    first = gate_run(run_id, policy, None, tracker, root)
    Path(policy).unlink()
    assert gate_run(run_id, None, None, tracker, root) == first


def test_remembered_where_the_run_was_fetched_to(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    run_id = audit(tracker, root)
    tracker.resume(run_id).log_folder(root / "runs" / run_id)
    gate_run(run_id, write_policy(tmp_path, STRICT), None, tracker, root)
    again = gate_run(run_id, None, None, tracker, tmp_path / "another machine")
    assert (again.policy, again.outcome) == ("strict", "failed")


def test_never_judged_and_no_policy_given(tracker: MlflowTracker, root: Path) -> None:
    run_id = audit(tracker, root)
    with pytest.raises(UserError, match=r"--policy: .* so there is no policy; give one"):
        gate_run(run_id, None, None, tracker, root)


def test_a_policy_that_does_not_fit_leaves_the_earlier_verdict(
    tracker: MlflowTracker, root: Path, tmp_path: Path
) -> None:
    run_id = audit(tracker, root)
    first = gate_run(run_id, write_policy(tmp_path, LAX), None, tracker, root)
    wrong = write_policy(tmp_path, "name: wrong\nrules:\n  - metric: share_explianed\n    at_least: 0.5\n")
    with pytest.raises(UserError, match=r"rules\.0\.metric: found 'share_explianed'.* share_explained"):
        gate_run(run_id, wrong, None, tracker, root)
    assert read_verdicts(root / "runs" / run_id) == first
    assert tags_of(tracker, run_id)["lavise.policy"] == "lax"
    assert gate_run(run_id, None, None, tracker, root).policy == "lax"


def test_a_folder_whose_run_is_not_in_mlflow(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    """Copied from another machine, or deleted in MLflow: judged all the same, and nothing is tagged."""
    policy = write_policy(tmp_path, LAX)
    copied = write_run_folder(tmp_path / "copied", make_config(root))
    assert gate_run(str(copied), policy, None, tracker, root).outcome == "passed"
    assert read_verdicts(copied).run_id == "copied"
    run_id = audit(tracker, root)
    client_of(tracker).delete_run(run_id)
    assert gate_run(run_id, policy, None, tracker, root).outcome == "passed"
    assert "lavise.gate" not in client_of(tracker).get_run(run_id).data.tags
    assert gate_run(run_id, policy, None, NullTracker(), root).outcome == "passed"


# Which comparison


def test_the_predecessor_is_the_default(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    run_id, policy = audit(tracker, root), write_policy(tmp_path, KEPT)
    without = gate_run(run_id, policy, None, tracker, root)
    assert (outcomes_of(without), without.outcome, without.compared_with) == (["not_applicable"], "passed", None)
    write_diff(root / "runs" / run_id, "predecessor", ["same", "same", "changed", "lost"])
    found = gate_run(run_id, policy, None, tracker, root)
    assert (found.outcome, found.compared_with, found.verdicts[0].found) == ("failed", "predecessor", "0.5")
    assert gate_run(run_id, policy, "predecessor", tracker, root) == found


def test_another_comparison_is_taken_from_its_own_folder(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    run_id, policy = audit(tracker, root), write_policy(tmp_path, KEPT)
    write_diff(root / "runs" / run_id, "predecessor", ["changed"] * 4)
    write_diff(root / "diffs" / f"{UNKNOWN_RUN}..{run_id}", UNKNOWN_RUN, ["same"] * 4)
    found = gate_run(run_id, policy, UNKNOWN_RUN, tracker, root)
    assert (found.outcome, found.compared_with) == ("passed", UNKNOWN_RUN)
    assert read_verdicts(root / "runs" / run_id).compared_with == UNKNOWN_RUN


def test_a_comparison_the_other_way_round_does_not_count(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    run_id = audit(tracker, root)
    write_diff(root / "diffs" / f"{run_id}..{UNKNOWN_RUN}", run_id, ["same"] * 4)
    with pytest.raises(UserError, match=f"not compared with '{UNKNOWN_RUN}'"):
        gate_run(run_id, write_policy(tmp_path, KEPT), UNKNOWN_RUN, tracker, root)


@pytest.mark.parametrize("against", [UNKNOWN_RUN, "../x", "x/../../y", "..", "", "/", "a\0b"])
def test_against_what_was_not_compared(tracker: MlflowTracker, root: Path, tmp_path: Path, against: str) -> None:
    """One line that says what to do; folders outside are never looked into, though they fit."""
    run_id = audit(tracker, root)
    (root / "diffs" / "x").mkdir(parents=True)
    for name in ("x", "y"):
        write_diff(root / f"{name}..{run_id}", against, ["same"] * 4)
    with pytest.raises(UserError, match=r"--against: .* was not compared with .*; run lavise diff") as caught:
        gate_run(run_id, write_policy(tmp_path, KEPT), against, tracker, root)
    assert "\n" not in str(caught.value)
    assert "lavise.gate" not in tags_of(tracker, run_id)


# After an audit


def test_the_audits_own_comparison_counts_only_where_it_was_compared(tracker: MlflowTracker, root: Path) -> None:
    """A diff.json that lies there for another reason is not looked at."""
    run_id = audit(tracker, root)
    folder = root / "runs" / run_id
    write_diff(folder, "predecessor", ["changed"] * 4)
    policy = Policy.model_validate({"name": "kept", "rules": [{"metric": "diff/share_kept", "at_least": 0.9}]})
    run = tracker.resume(run_id)
    assert record_verdict(policy, folder, run_id, "tiny", None, run).outcome == "passed"
    assert record_verdict(policy, folder, run_id, "tiny", "predecessor", run).outcome == "failed"


def test_a_comparison_that_should_be_there_and_is_not_passes_nothing(
    tracker: MlflowTracker, root: Path, tmp_path: Path
) -> None:
    run_id = audit(tracker, root)
    tracker.resume(run_id).set_tags({"lavise.predecessor": UNKNOWN_RUN})
    result = gate_run(run_id, write_policy(tmp_path, KEPT), None, tracker, root)
    assert result.outcome == read_verdicts(root / "runs" / run_id).outcome == "invalid"
    assert tags_of(tracker, run_id)["lavise.gate"] == "invalid"
    assert gate_run(run_id, write_policy(tmp_path, LAX), None, tracker, root).outcome == "passed"


def test_a_policy_that_could_not_be_applied_is_announced_too(
    root: Path, tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as not passed, and whoever waits for an event would wait for ever."""
    told: list[GateResult] = []
    monkeypatch.setattr(gate, "announce", told.append)
    run_id = audit(tracker, root)
    folder = root / "runs" / run_id
    for outcome in (None, "invalid"):
        announce_outcome(RunResult(run_id, None, folder, {}, {}, 0, "before", outcome))
    ((run, outcome, compared_with, verdicts),) = [(r.run_id, r.outcome, r.compared_with, r.verdicts) for r in told]
    assert (run, outcome, compared_with, verdicts) == (run_id, "invalid", "before", ())
