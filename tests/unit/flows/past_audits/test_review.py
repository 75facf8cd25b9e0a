"""Reviews: what is left of them in the run folder and in MLflow, and that a mistake leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lavise.configs.errors import UserError
from lavise.flows.command_line.commands import app
from lavise.flows.past_audits.review import review_run
from lavise.storage.tracking import MlflowTracker, NullTracker
from tests.unit.flows.helpers import client_of, make_config, make_tracker, read_table, tags_of, write_run_folder

HEADER = "layer,filter,word,verdict,note,reviewer\n"
NOTES = "tail,0,dog,fits,,ann\ntail,1,cat,no,'=no cat [red],ann\ntail,2,,no,,ann\n"
VERDICT = "3 of 4 filters reviewed; words: 25% fits, 25% partly, 50% no; best guesses: 0% fits, 0% partly, 100% no"
OTHER = "tail,0,dog,partly,,bob\ntail,1,cat,no,,bob\n"


@pytest.fixture
def tracker(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> MlflowTracker:
    return make_tracker(tmp_path_factory, tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


def write_notes(path: Path, rows: str) -> Path:
    path.write_text(HEADER + rows, "utf-8")
    return path


def test_a_review_is_in_the_run_folder_and_in_mlflow(tracker: MlflowTracker, root: Path, tmp_path: Path) -> None:
    run = tracker.start("tiny", {})
    folder = write_run_folder(root / "runs" / run.run_id, make_config(root))
    run.end()
    files = [write_notes(tmp_path / "ann.csv", NOTES), write_notes(tmp_path / "bob.csv", OTHER)]
    result = review_run(run.run_id, files, tracker, root)
    assert result.verdict == VERDICT
    assert [(row["word"], row["note"]) for row in result.refused] == [("cat", "=no cat [red]"), ("cat", "")]
    kept = json.loads((folder / "review.json").read_text("utf-8"))
    assert kept["all"]["num_reviewed"] == 3
    assert kept["agreement"][0]["agreed"] == 0.5
    tags = tags_of(tracker, run.run_id)
    assert tags["lavise.review"] == result.verdict
    client = client_of(tracker)
    metrics = client.get_run(run.run_id).data.metrics
    assert (metrics["review/num_reviewed"], metrics["review/share_no"]) == (3, 0.5)
    assert {a.path for a in client.list_artifacts(run.run_id)} == {"review.csv", "review.json", "tables"}
    table = read_table(tracker, run.run_id, "tables/review.json", tmp_path / "table")
    assert table["columns"] == ["layer", "filter", "word", "verdict", "note", "reviewer"]
    assert len(table["data"]) == 5
    # What is kept is a file like those that were read, and a review takes the place of the one before.
    again = review_run(run.run_id, [folder / "review.csv"], tracker, root)
    assert again == result
    fewer = review_run(run.run_id, files[1:], tracker, root)
    assert fewer.measured["reviewers"] == ["bob"]
    assert "ann" not in (folder / "review.csv").read_text("utf-8")


def test_a_mistake_leaves_what_was_kept(root: Path, tmp_path: Path) -> None:
    folder = write_run_folder(root / "runs" / ("a" * 32), make_config(root))
    review_run(str(folder), [write_notes(tmp_path / "a.csv", NOTES)], NullTracker(), root)
    before = {name: (folder / name).read_bytes() for name in ("review.csv", "review.json")}
    with pytest.raises(UserError, match=r"found verdict 'maybe'"):
        review_run(str(folder), [write_notes(tmp_path / "b.csv", "tail,0,dog,maybe,,\n")], NullTracker(), root)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_the_command_prints_tables_and_one_object(root: Path, tmp_path: Path) -> None:
    folder = write_run_folder(root / "runs" / ("a" * 32), make_config(root, tracking={"enabled": False}))
    files = [write_notes(tmp_path / "ann.csv", NOTES), write_notes(tmp_path / "bob.csv", OTHER)]
    done = CliRunner().invoke(app, ["review", str(folder), *map(str, files), "--json"])
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"tiny: {VERDICT}" in said
    assert "tail 4 3 words 4 1 1 2" in said
    assert "tail 4 3 best guesses 1 0 0 1" in said
    assert "ann bob 2 50%" in said
    assert "tail 1 0.50 cat =no cat [red] ann" in said
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["all"]["words"]["num_no"] == 2
    assert answer["folder"] == str(folder)
    wrong = CliRunner().invoke(app, ["review", str(folder), str(tmp_path / "none.csv")])
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("lavise: notes: cannot read ")
