"""Where re-audits look for checkpoints: registered models, and sources as the command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from lavise.configs import sources
from lavise.configs.base import UserPath
from lavise.configs.errors import UserError
from lavise.configs.sources import CheckpointSource, FolderSource, RegisteredModelSource
from lavise.flows.repeats.reaudit import make_source
from lavise.storage.checkpoint_sources.base import SCANNERS, FoundCheckpoint, Looking, Scan
from lavise.storage.state.digest import digest_file, digest_tensors
from tests.unit.flows.helpers import client_of
from tests.unit.flows.repeats.watched_folder import Tensors, Watched, make_weights, raising


def register(watched: Watched, model: str, *contents: Tensors) -> RegisteredModelSource:
    client = client_of(watched.tracker)
    client.create_registered_model(model)
    run = watched.tracker.start("training", {})
    for number, tensors in enumerate(contents, start=1):
        path = watched.drop(f"version{number}.pth", tensors)
        client.log_artifact(run.run_id, str(path), str(number))
        path.unlink()
        client.create_model_version(model, f"runs:/{run.run_id}/{number}")
    run.end()
    return RegisteredModelSource(model=model)


def test_versions_of_a_registered_model(watched: Watched) -> None:
    source = register(watched, "classifier", make_weights(1), make_weights(2))
    found = watched.look(source=source)
    assert {name: c.outcome for name, c in found.items()} == {
        "classifier version 1": "audited",
        "classifier version 2": "audited",
    }
    first, second = (c.run_id for c in found.values())
    assert watched.audits.audited == [
        ("classifier version 1", digest_tensors(make_weights(1)), None),
        ("classifier version 2", digest_tensors(make_weights(2)), first),
    ]
    # The same weights in a folder are known, and the other way round.
    watched.drop("epoch2.pth", make_weights(2))
    assert watched.look()["epoch2.pth"].run_id == second
    assert watched.outcomes(source=source) == dict.fromkeys(found, "known")


def test_a_version_that_cannot_be_downloaded_stops_none_of_the_others(watched: Watched) -> None:
    source = register(watched, "lost", make_weights(1), make_weights(2))
    watched.audits.during = raising(ConnectionError("gone"))
    watched.look(source=source)
    (uploaded,) = watched.root.parent.rglob("artifacts/1/version1.pth")
    (watched.root / "checkpoints" / "registered" / f"{digest_file(uploaded)}.pth").unlink()
    uploaded.unlink()
    watched.audits.during = lambda config, occasion: None
    found = watched.look(source=source)
    assert {name: c.outcome for name, c in found.items()} == {"lost version 1": "failed", "lost version 2": "audited"}
    assert "cannot download lost version 1" in found["lost version 1"].detail


def test_the_source_of_the_command_line(tmp_path: Path) -> None:
    folder = make_source(tmp_path, "*.pt", 5.0, None, [])
    assert folder == FolderSource(folder=tmp_path, pattern="*.pt", stable_seconds=5)
    every = make_source(None, "**/*", 30.0, "classifier", [])
    assert every == RegisteredModelSource(model="classifier", select="all")
    some = make_source(None, "**/*", 30.0, "classifier", ["champion"])
    assert some == RegisteredModelSource(model="classifier", select="aliases", aliases=("champion",))
    assert (folder.describe(), every.describe()) == (tmp_path.name, "classifier")
    assert FolderSource(folder=Path()).describe() == "."


@pytest.mark.parametrize(
    ("folder", "model", "stable", "pattern", "message"),
    [
        (None, None, 30.0, "**/*", "--folder, --model, --source: give one of them"),
        (Path("a"), "b", 30.0, "**/*", "--folder, --model, --source: give one of them"),
        (Path("a"), None, -1.0, "**/*", "source: stable_seconds: found -1"),
        (Path("a"), None, 30.0, "../*", "source: pattern: .* without '..'"),
        (None, "models:/a/1", 30.0, "**/*", "source: model: .* without / and :"),
    ],
)
def test_a_source_that_is_none(
    folder: Path | None, model: str | None, stable: float, pattern: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_source(folder, pattern, stable, model, [])
    assert "\n" not in str(caught.value)


def test_any_source_by_its_settings(tmp_path: Path) -> None:
    folder = make_source(None, "**/*", 30.0, None, [], ["kind=folder", f"folder={tmp_path}", "stable_seconds=5"])
    assert folder == FolderSource(folder=tmp_path, stable_seconds=5)
    some = make_source(
        None, "**/*", 30.0, None, [], ["kind=registered_model", "model=cnn", "select=aliases", "aliases=[champion]"]
    )
    assert some == RegisteredModelSource(model="cnn", select="aliases", aliases=("champion",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["folder=x"], "--source kind: found None; allowed: 'folder' or 'registered_model'"),
        (["kind=bucket"], "--source kind: found 'bucket'; allowed: 'folder' or 'registered_model'"),
        (["kind=[folder]"], "--source kind: found ['folder']; allowed: 'folder' or 'registered_model'"),
        (["kind"], "--source: found 'kind'; allowed: key=value"),
        (["kind=["], "--source kind: '[' is not valid YAML; quote it"),
        (["kind=folder"], "source: folder: missing; give a value, on the command line (--source folder=...)"),
        (
            ["kind=folder", "folder=x", "patern=y"],
            "source: patern: unknown key; allowed: kind, folder, pattern, stable_seconds; did you mean pattern?",
        ),
    ],
)
def test_settings_that_are_no_source(settings: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make_source(None, "**/*", 30.0, None, [], settings)
    assert str(caught.value) == message


def test_a_new_kind_of_source_is_one_registration(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and a look, from which the audits are made as from any other."""
    monkeypatch.setattr(sources, "_SOURCES", dict(sources._SOURCES))
    asked: list[str] = []

    @sources.register_source
    class OneFile(CheckpointSource):
        kind: Literal["one_file"] = "one_file"
        file: UserPath

    def look_up(source: OneFile, look: Looking) -> Scan:
        client = look.open_registry()
        assert client is not None
        asked.append(client.tracking_uri)
        return Scan((FoundCheckpoint(source.file.name, source.file, digest_file(source.file)),), (), ())

    monkeypatch.setitem(SCANNERS, "one_file", look_up)
    path = watched.drop("epoch1.pth", make_weights(1))
    source = make_source(None, "**/*", 30.0, None, [], ["kind=one_file", f"file={path}"])
    assert watched.outcomes(source=source) == {"epoch1.pth": "audited"}
    assert watched.outcomes(source=source) == {"epoch1.pth": "known"}
    assert asked == [watched.tracker.uri] * 2
