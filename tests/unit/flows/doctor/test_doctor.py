"""The doctor as a whole: order, table, JSON, and checks that go wrong themselves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.faults.tiny_audit import write_inputs
from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.schema import ImageFolderTarget, ModelSettings, StatisticsSettings, TrackingSettings
from lavise.flows import doctor
from lavise.flows.doctor import Check, Report, run_check
from lavise.flows.doctor.extraction import check_extraction
from lavise.flows.doctor.inputs import check_model
from tests.unit.flows.doctor.helpers import make_config


def test_a_crash_is_a_failed_check() -> None:
    def look_wrongly() -> Iterator[Check]:
        yield Check("first", "ok", "fine", "")
        raise ZeroDivisionError("of\nnothing")

    first, second = run_check("second", look_wrongly)
    assert (first.name, first.status) == ("first", "ok")
    assert (second.name, second.status, second.found) == ("second", "failed", "ZeroDivisionError: of nothing")
    assert second.advice


def test_an_exit_is_a_failed_check() -> None:
    def leave() -> Iterator[Check]:
        raise SystemExit(3)
        yield

    assert [(c.status, c.found) for c in run_check("leave", leave)] == [("failed", "SystemExit: 3")]


def test_a_check_that_hangs_is_a_failed_check() -> None:
    release = threading.Event()

    def hang() -> Iterator[Check]:
        release.wait()
        yield Check("late", "ok", "", "")

    try:
        assert [(c.status, c.found) for c in run_check("slow", hang, 0.05)] == [
            ("failed", "not finished within 0.05 s")
        ]
    finally:
        release.set()


def test_what_the_user_can_put_right_is_advice() -> None:
    def refuse() -> Iterator[Check]:
        raise UserError("field: found 1; allowed: 2; do that")
        yield

    assert run_check("x", refuse) == [Check("x", "failed", "field: found 1", "allowed: 2; do that")]


def test_passwords_are_not_shown() -> None:
    def tell() -> Iterator[Check]:
        yield Check("x", "failed", "postgresql://me:se@cret@host/db and http://host", "use http://me:secret@host")

    (check,) = run_check("x", tell)
    assert check == Check("x", "failed", "postgresql://host/db and http://host", "use http://host")


def test_everything_without_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy = doctor.run_doctor(None, as_json=True)
    printed = capsys.readouterr().out.splitlines()
    said = json.loads(printed[-1])
    found = {c["name"]: c for c in said["checks"]}
    assert [n for n, c in found.items() if c["status"] == "failed"] == []
    assert healthy is said["healthy"] is True
    assert list(found) == [
        *("Python", "packages", "torch", "device", "memory", "state folder", "disk", "git"),
        *("word vectors", "demo", "Prefect", "servers", "MLflow"),
    ]
    assert all(bool(c["advice"]) is (c["status"] != "ok") for c in found.values())
    assert "400,000 words of 50 numbers, first 'the'" in found["word vectors"]["found"]
    assert max(map(len, printed[:-1])) <= 120
    assert list(tmp_path.iterdir()) == [], "the doctor only looks"


def test_a_failure_is_told_in_table_json_and_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(
        model=ModelSettings(arch="torchvision:squeezenet1_1", layers=("[red]x",)),
        target=ImageFolderTarget(root=tmp_path / "absent"),
        tracking=TrackingSettings(enabled=False),
    )
    assert doctor.run_doctor(config, as_json=True) is False
    table, _, line = capsys.readouterr().out.strip().rpartition("\n")
    said = json.loads(line)
    found = {c["name"]: c for c in said["checks"]}
    assert said["healthy"] is False
    assert {n for n, c in found.items() if c["status"] == "failed"} == {"target model", "target"}
    assert found["target model"]["found"] == "model.layers: found '[red]x'"
    assert found["target model"]["advice"].startswith("allowed: features")
    assert found["target"]["advice"].endswith("`--set target.root=PATH`")
    assert found["reference"]["found"] == "OpenMoji scenes, drawn by the run"
    assert found["MLflow"]["found"] == "off (tracking.enabled: false)"
    assert "found '[red]x'" in table, "names are no markup"
    assert "failed: 2, warnings: " in table


def test_scheduler_is_looked_at_only_where_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def note(name: str, look: Callable[[], Report]) -> list[Check]:
        looked.append(name)
        return []

    monkeypatch.setattr(doctor, "run_check", note)
    doctor.examine(make_config())
    assert "Dask" not in looked
    doctor.examine(make_config(statistics=StatisticsSettings(scheduler="tcp://127.0.0.1:1")))
    assert looked[-1] == "Dask"
    assert {"target model", "data"} <= set(looked)


def test_where_weights_were_taken_from_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The network is loaded again to reckon what it writes."""
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path / "state"))
    config = write_inputs(tmp_path, 1)
    weights = tmp_path / "checkpoints" / "step-0000.pt"
    torch.save({"state_dict": torch.load(weights), "epoch": 1}, weights)
    with caplog.at_level("INFO", "lavise"):
        settings = load_config(str(config))
        found = [check.status for look in (check_model, check_extraction) for check in look(settings)]
    assert len(found) > 2
    assert [record.message for record in caplog.records if "taken from" in record.message] == [
        "  model.weights: taken from state_dict of step-0000.pt"
    ]
