"""The list of audits, on run folders as they are written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.flows.past_audits.run_list import list_runs, resolve_run
from lavise.storage.state.files import write_json
from tests.unit.flows.helpers import make_config, write_run_folder

FIRST, SECOND = "ab12" + 28 * "0", "ab34" + 28 * "0"


def write_folder(root: Path, run: str) -> Path:
    return write_run_folder(root / "runs" / run, make_config(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for age, run in ((200, FIRST), (100, SECOND)):
        folder = write_folder(tmp_path, run)
        os.utime(folder / "metrics.json", (10**9 - age, 10**9 - age))
    return tmp_path


def test_the_newest_first_with_what_was_explained(root: Path) -> None:
    runs = list_runs(root)
    assert [run.run_id for run in runs] == [SECOND, FIRST]
    assert runs[0].damage == ""
    assert (runs[0].num_explained, runs[0].num_filters, runs[0].layers) == (3, 4, ("tail",))
    assert runs[0].gate == ""


def test_a_copy_without_times_has_the_same_order(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for hour, run in ((3, FIRST), (2, SECOND)):
        about = root / "runs" / run / "environment.json"
        write_json(about, {**json.loads(about.read_text("utf-8")), "written": f"2026-11-28T0{hour}:00:00+00:00"})
    copy = tmp_path_factory.mktemp("copy") / "state"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    for place in (root, copy):
        assert [run.run_id for run in list_runs(place)] == [FIRST, SECOND]
        assert resolve_run("latest", place) == FIRST


@pytest.mark.parametrize("written", ["yesterday", 5, None])
def test_a_time_that_is_none(root: Path, written: object) -> None:
    about = root / "runs" / SECOND / "environment.json"
    write_json(about, {**json.loads(about.read_text("utf-8")), "written": written})
    assert [bool(run.damage) for run in list_runs(root) if run.run_id == SECOND] == [written is not None]


def test_the_gate_is_told(root: Path) -> None:
    write_json(root / "runs" / FIRST / "gate.json", {"outcome": "failed"})
    assert [run.gate for run in list_runs(root)] == ["", "failed"]


@pytest.mark.parametrize("content", ["", "[1, 2]", "{}"])
def test_a_damaged_one_is_listed_as_such(root: Path, content: str) -> None:
    (root / "runs" / FIRST / "metrics.json").write_text(content, "utf-8")
    by_id = {run.run_id: run for run in list_runs(root)}
    assert by_id[FIRST].damage
    assert not by_id[SECOND].damage


def test_other_folders_are_no_audits(root: Path) -> None:
    (root / "runs" / f"{FIRST}.partial").mkdir()
    (root / "runs" / "notes").mkdir()
    assert len(list_runs(root)) == 2


def test_a_state_folder_without_audits(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    with pytest.raises(UserError, match=r"there is no audit in .*; make one with `lavise run CONFIG`"):
        resolve_run("latest", tmp_path)


def test_the_start_of_an_id_will_do(root: Path) -> None:
    assert resolve_run("ab12", root) == FIRST
    assert resolve_run("latest", root) == SECOND
    for as_it_is in (FIRST, "some/folder", "a", "runs"):
        assert resolve_run(as_it_is, root) == as_it_is


def test_a_start_that_several_have_or_none(root: Path) -> None:
    third = write_folder(root, "ab12" + 28 * "f").name
    with pytest.raises(UserError, match=r"2 audits in .* begin with 'ab12'"):
        resolve_run("ab12", root)
    assert resolve_run(third[:-1], root) == third
    with pytest.raises(UserError, match=r"none in .* begins so; allowed: an id"):
        resolve_run("cccc", root)
