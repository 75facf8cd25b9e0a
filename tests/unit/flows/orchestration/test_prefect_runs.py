"""Names of flow runs, their log, and an audit whose pictures cannot be shown."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.configs.loading import dump_config
from lavise.flows.audit.results import Occasion
from lavise.flows.orchestration import prefect_runs
from lavise.flows.orchestration.prefect_runs import _LogToPrefect, audit_here, name_model, to_prefect_log
from lavise.flows.shared.results import RunResult
from lavise.storage.tracking import NullTracker
from lavise.tasks.engine.stage import StageOutcome
from tests.unit.flows.helpers import make_config


@pytest.mark.parametrize(
    ("config", "weights", "expected"),
    [
        ("demo", None, "demo"),
        ("demo", "", "demo"),
        ("configs/mine.yaml", None, "mine"),
        ("/data/my.configs/mine.yml", "/checkpoints/run 7/epoch9.pt", "mine epoch9.pt"),
        ("v1.2", "random", "v1.2 random"),
    ],
)
def test_runs_are_named_by_config_and_checkpoint(config: str, weights: str | None, expected: str) -> None:
    assert name_model(config, weights) == expected


def test_the_name_is_that_of_the_audit(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(dump_config(make_config(tmp_path)), "utf-8")
    assert name_model(str(path), None) == make_config(tmp_path).name != "file"


# The log


@pytest.fixture
def flow_log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Lines that come to the log of the flow run, which here is not one of Prefect's."""
    lines: list[tuple[int, str]] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.levelno, record.getMessage()))

    logger = logging.Logger("flow run")
    logger.addHandler(Collect())
    monkeypatch.setattr(prefect_runs, "get_run_logger", lambda: logger)
    return lines


def test_our_lines_go_to_the_flow_run_while_it_runs(flow_log: list[tuple[int, str]]) -> None:
    own = logging.getLogger("lavise")
    with to_prefect_log() as log:
        assert log is own
        log.info("extract %s", "target")
        logging.getLogger("lavise.below").warning("slow")
        log.debug("not of interest")
        assert not own.propagate
    own.warning("after the run")
    assert flow_log == [(logging.INFO, "extract target"), (logging.WARNING, "slow")]
    assert own.propagate
    assert not [h for h in own.handlers if isinstance(h, _LogToPrefect)]


def test_the_log_is_given_back_after_a_failure_too(flow_log: list[tuple[int, str]]) -> None:
    own = logging.getLogger("lavise")
    with pytest.raises(UserError), to_prefect_log():
        raise UserError("seed: found x")
    assert own.propagate
    assert not [h for h in own.handlers if isinstance(h, _LogToPrefect)]


def test_percent_signs_in_a_line_are_not_filled_in_twice(flow_log: list[tuple[int, str]]) -> None:
    with to_prefect_log() as log:
        log.info("picture %r", "100%d.png")
    assert flow_log == [(logging.INFO, "picture '100%d.png'")]


def test_lines_of_threads_outside_of_any_run_go_to_the_outer_log() -> None:
    """Here Prefect itself says that there is no run."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    outer = logging.Logger("outer")
    outer.addHandler(Keep())
    own = logging.Logger("own")
    own.addHandler(_LogToPrefect(outer))
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        own.exception("stage %d failed", 3)
    (record,) = records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "stage 3 failed")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


# An audit in a flow run


class Stub:
    """An audit that has ended, and what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.result = RunResult("a" * 32, None, folder, {}, {}, 0)
        self.titles: list[str] = []
        self.calls: list[tuple[Any, ...]] = []

    def audit(self, *arguments: Any) -> RunResult:
        self.calls.append(arguments)
        return self.result

    def publish(self, result: RunResult, tracker: Any, title: str) -> None:
        self.titles.append(title)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stub:
    made = Stub(tmp_path)
    monkeypatch.setattr(prefect_runs, "run_audit", made.audit)
    monkeypatch.setattr(prefect_runs, "publish_audit", made.publish)
    return made


@pytest.mark.parametrize(("checkpoint", "title"), [(None, "tiny"), ("epoch9.pt", "tiny epoch9.pt")])
def test_what_is_shown_bears_the_name_of_what_was_audited(
    stub: Stub, tmp_path: Path, checkpoint: str | None, title: str
) -> None:
    occasion = Occasion(checkpoint_name=checkpoint)
    assert audit_here(make_config(tmp_path), NullTracker(), occasion) is stub.result
    assert stub.titles == [title]
    assert stub.calls[0][-1] is occasion


def test_an_audit_has_ended_well_whatever_becomes_of_its_pictures(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(prefect_runs, "publish_audit", refuse)
    with caplog.at_level(logging.WARNING, "lavise"):
        assert audit_here(make_config(tmp_path), NullTracker(), Occasion()) is stub.result
    (record,) = caplog.records
    assert record.getMessage() == "  the flow run's artifacts could not be made: the server is gone"


def test_its_stages_become_tasks_that_bear_the_devices_tag(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefect

    made = []

    class Inline(prefect.Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            made.append(self)
            return self.fn()

    monkeypatch.setattr(prefect, "Task", Inline)
    audit_here(make_config(tmp_path), NullTracker(), Occasion())
    execute: Any = stub.calls[0][3]
    outcome = StageOutcome((), False, 0.1, "d" * 64, "extract")
    assert execute("extract target", lambda: outcome, True) is outcome
    assert [(task.name, task.tags) for task in made] == [("extract target", {"lavise-cpu"})]
