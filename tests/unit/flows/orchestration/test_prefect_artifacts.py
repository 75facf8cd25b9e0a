"""What a flow run shows: stages, a link or a folder, a picture, and what became of checkpoints, as plain text."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lavise.flows.orchestration import prefect_artifacts
from lavise.flows.orchestration.prefect_artifacts import publish_audit, publish_reaudit
from lavise.flows.repeats.reaudit import CheckpointOutcome, ReauditResult
from lavise.flows.shared.results import RunResult, StageFacts
from lavise.storage.tracking import NullTracker

RUN = "a" * 32


class Linked(NullTracker):
    """A store with pages."""

    def link(self, run_id: str) -> str | None:
        return f"http://127.0.0.1:5000/#/runs/{run_id}"


@dataclass
class Sent:
    """What would have gone to Prefect's server, by key."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, kind: str) -> Callable[..., None]:
        def create(markdown: str = "", *, key: str, **content: Any) -> None:
            self.found[key] = {"kind": kind, **({"markdown": markdown} if markdown else {}), **content}

        return create


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Prefect's own functions need a server."""
    collected = Sent()
    for kind in ("table", "link", "markdown", "image"):
        monkeypatch.setattr(prefect_artifacts, f"create_{kind}_artifact", collected.take(kind))
    return collected


def make_result(folder: Path) -> RunResult:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overview.png").write_bytes(b"\x89PNG picture")
    stages = {
        "extract target": StageFacts(digest="0123456789abcdef" * 4, cached=False, seconds=12.345),
        "report": StageFacts(digest="f" * 64, cached=True, seconds=0.04),
    }
    return RunResult(RUN, None, folder, {}, stages, 0)


def test_stages_are_a_table_in_their_order(sent: Sent, tmp_path: Path) -> None:
    publish_audit(make_result(tmp_path), NullTracker(), "demo")
    assert sent.found["lavise-stages"] == {
        "kind": "table",
        "table": [
            {"stage": "extract target", "digest": "0123456789ab", "cached": "no", "seconds": 12.3},
            {"stage": "report", "digest": "f" * 12, "cached": "yes", "seconds": 0.0},
        ],
        "description": "Stages of demo",
    }


def test_the_picture_travels_in_its_address(sent: Sent, tmp_path: Path) -> None:
    publish_audit(make_result(tmp_path), NullTracker(), "demo")
    kind, _, content = sent.found["lavise-filters"]["image_url"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == b"\x89PNG picture"


def test_a_run_with_a_page_is_a_link(sent: Sent, tmp_path: Path) -> None:
    publish_audit(make_result(tmp_path), Linked(), "demo")
    assert sent.found["lavise-mlflow-run"]["link"] == f"http://127.0.0.1:5000/#/runs/{RUN}"
    assert sent.found["lavise-report"]["link"] == f"http://127.0.0.1:5000/#/runs/{RUN}/artifacts/report.html"
    assert next(iter(sent.found)) == "lavise-report"
    assert "lavise-run-folder" not in sent.found


def test_a_run_without_a_page_is_its_folder(sent: Sent, tmp_path: Path) -> None:
    publish_audit(make_result(tmp_path / "a `b` [c]"), NullTracker(), "demo")
    assert "lavise-mlflow-run" not in sent.found
    shown = sent.found["lavise-run-folder"]["markdown"]
    assert shown == f"Run folder: `{tmp_path}/a \ufffdb\ufffd \ufffdc\ufffd`"


def test_titles_are_no_markdown(sent: Sent, tmp_path: Path) -> None:
    publish_audit(make_result(tmp_path), NullTracker(), "a|b <img> **c**\n`d`\x1b[0m Größe")
    assert sent.found["lavise-stages"]["description"] == (
        "Stages of a\ufffdb \ufffdimg\ufffd \ufffd\ufffdc\ufffd\ufffd\ufffd\ufffdd\ufffd\ufffd\ufffd0m Größe"
    )


def test_an_audit_without_its_picture_is_an_error(sent: Sent, tmp_path: Path) -> None:
    """Which whoever publishes must not take for the audit's own."""
    result = make_result(tmp_path)
    (tmp_path / "overview.png").unlink()
    with pytest.raises(FileNotFoundError):
        publish_audit(result, NullTracker(), "demo")


CHECKPOINTS = (
    CheckpointOutcome("epoch1.pt", "audited", RUN, "failed"),
    CheckpointOutcome("<b>.pt", "broken", detail="no `state dict` | in it"),
)


@pytest.mark.parametrize(
    ("tracker", "shown"), [(Linked(), f"http://127.0.0.1:5000/#/runs/{RUN}"), (NullTracker(), RUN)]
)
def test_checkpoints_are_a_table(sent: Sent, tracker: NullTracker, shown: str) -> None:
    publish_reaudit(ReauditResult(CHECKPOINTS), tracker)
    assert sent.found["lavise-checkpoints"]["table"] == [
        {"checkpoint": "epoch1.pt", "outcome": "audited", "policy": "failed", "MLflow run": shown, "detail": ""},
        {
            "checkpoint": "\ufffdb\ufffd.pt",
            "outcome": "broken",
            "policy": "",
            "MLflow run": "",
            "detail": "no \ufffdstate dict\ufffd \ufffd in it",
        },
    ]


def test_no_checkpoints_no_table(sent: Sent) -> None:
    publish_reaudit(ReauditResult(()), NullTracker())
    assert sent.found == {}


@pytest.mark.parametrize("key", ["lavise-stages", "lavise-run-folder", "lavise-filters"])
def test_keys_are_as_prefect_allows_them(sent: Sent, tmp_path: Path, key: str) -> None:
    """Lower case, digits and dashes."""
    publish_audit(make_result(tmp_path), NullTracker(), "demo")
    assert key in sent.found
    assert all(c.islower() or c.isdigit() or c == "-" for c in key)
