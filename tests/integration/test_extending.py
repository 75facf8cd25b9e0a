"""docs/extending.md, tried: a new kind of analysis is its stage, its section and its settings, and nothing else; an
installed package brings names of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavise.flows.notebook import open_audit
from lavise.tasks.analyses import kinds
from lavise.tasks.report import sections
from tests.integration.tiny import make_arguments, make_environment, run_here, run_lavise
from tests.toy_package import install_package

pytestmark = pytest.mark.slow

_STAGE = """
from dataclasses import dataclass
import pyarrow as pa
import pyarrow.parquet as parquet
from lavise.storage.activations import ActivationStore
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.files import write_json
from lavise.configs.roles import Role
from lavise.tasks.analyses.analysis import Analysis, Table, TextTable
from lavise.tasks.engine.stage import Stage
from lavise.tasks.engine.stage_inputs import StageInputs

STAGE = Stage("loudness", version=1)


@dataclass(frozen=True)
class LoudnessInputs(StageInputs):
    layer: str
    activations: Handle


def compute(inputs, folder):
    peaks = ActivationStore(inputs.activations.folder).read_peaks().max(axis=0)
    rows = [{"layer": inputs.layer, "filter": u, "loudness": float(p)} for u, p in enumerate(peaks)]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "loudness.parquet")
    write_json(folder / "loudness.json", {"loudest": float(peaks.max())})
    return {"loudest": float(peaks.max())}


def show(rows):
    first = sorted(rows["loudness.parquet"], key=lambda r: -r["loudness"])[:3]
    cells = [(str(r["filter"]), str(r["loudness"])) for r in first]
    yield TextTable("the loudest filters", ("filter", "[peak]"), cells)


ANALYSIS = Analysis(
    stage=STAGE, place=9, setting="none", is_wanted=lambda config: True,
    inputs=lambda layer: LoudnessInputs(layer.layer, layer.activations(Role.TARGET)),
    compute=compute, facts_file="loudness.json", tables=(Table("loudness.parquet", "loudness"),), show=show,
)
"""
_SECTION = """
from lavise.tasks.report.filter_entries import read_rows
from lavise.tasks.report.sections.section import Section


def describe(layer, folder):
    rows = read_rows(folder / "loudness.parquet")[:3]
    table = {"title": "first", "headings": ["filter", "peak"], "rows": [[r["filter"], r["loudness"]] for r in rows]}
    return {"layer": layer, "says": "How <loud> filters get.", "chart": None, "tables": [table]}


SECTION = Section(analysis="loudness", link="Loudness", describe=describe)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The two files, as if they lay in their folders."""
    for package, text in ((kinds, _STAGE), (sections, _SECTION)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "loudness.py").write_text(text, "utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for package in (kinds, sections):
        sys.modules.pop(f"{package.__name__}.loudness", None)
        vars(package).pop("loudness", None)


def test_a_new_analysis_is_everywhere(toy: None, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = run_here(home, "run", "demo", "--json", *make_arguments())
    assert done.code == 0, done.stderr
    folder = Path(done.result["run_dir"])
    assert (folder / "loudness.parquet").is_file()
    assert (folder / "loudness.json").is_file()
    assert done.result["metrics"]["bn2/loudness/loudest"] > 0
    said = " ".join(done.stdout.split())
    assert "the loudest filters" in said
    assert "[peak]" in said
    page = (folder / "report.html").read_text("utf-8")
    assert '<a href="#loudness">Loudness</a>' in page
    assert "How &lt;loud&gt; filters get." in page
    audit = open_audit(str(folder))
    assert len(audit.loudness) == 1280
    assert "loudness" in dir(audit)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(done.result["tracking_uri"])
    run = client.get_run(done.result["run_id"])
    assert run.data.metrics["bn2/loudness/loudest"] == done.result["metrics"]["bn2/loudness/loudest"]
    assert "tables/loudness.json" in {a.path for a in client.list_artifacts(run.info.run_id, "tables")}


_RANKING = """
from functools import partial
from lavise.configs.registry import RANKINGS
from lavise.tasks.words.ranking import Ranking
from lavise.tasks.words.voted_words import find_voted_words

RANKINGS.register("mine")(Ranking(partial(find_voted_words, leading=None), least_confidence={least}))
"""


def test_the_ranking_of_an_installed_package(tmp_path: Path) -> None:
    """Its code is in the digest of the stage that uses it: what another code gave is not taken from the cache."""
    home, site = tmp_path / "home", tmp_path / "site"
    home.mkdir()
    path = os.pathsep.join([str(site), *sys.path])

    def audit(least: float) -> dict[str, str]:
        install_package(site, "toy-words", "toy_words", _RANKING.format(least=least))
        settings = make_arguments(explain__ranking="mine")
        done = run_lavise(home, "run", "demo", *settings, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")
        assert done.code == 0, done.stderr
        return dict(re.findall(r"(train bn2|explain bn2) +(started|cached)", done.stderr))

    assert audit(0.25) == {"train bn2": "started", "explain bn2": "started"}
    assert audit(0.25) == {"train bn2": "cached", "explain bn2": "cached"}
    assert audit(0.75) == {"train bn2": "cached", "explain bn2": "started"}


_SOURCE = """
from typing import Literal
from lavise.configs.base import UserPath
from lavise.configs.sources import CheckpointSource, register_source
from lavise.storage.checkpoint_sources.base import SCANNERS, Scan


@register_source
class ListSource(CheckpointSource):
    kind: Literal["list"] = "list"
    file: UserPath


def look_up(source, look):
    return Scan((), tuple(source.file.read_text("utf-8").split()), ())


SCANNERS["list"] = look_up
"""


def test_the_checkpoint_source_of_an_installed_package(tmp_path: Path) -> None:
    """Known to the command line and to the form of the deployment."""
    home, site = tmp_path / "home", tmp_path / "site"
    home.mkdir()
    install_package(site, "toy-source", "toy_source", _SOURCE)
    path = os.pathsep.join([str(site), *sys.path])
    (home / "list.txt").write_text("epoch1.pth epoch2.pth")
    chosen = ("--source", "kind=list", "--source", "file=list.txt", "--json")
    done = run_lavise(home, "reaudit", "demo", *chosen, PYTHONPATH=path)
    assert done.code == 0, done.stderr
    assert [(c["name"], c["outcome"]) for c in done.result["checkpoints"]] == [
        ("epoch1.pth", "waiting"),
        ("epoch2.pth", "waiting"),
    ]
    refused = run_lavise(home, "reaudit", "demo", "--source", "kind=lost", PYTHONPATH=path)
    allowed = "'folder', 'registered_model' or 'list'"
    assert (refused.code, refused.stderr) == (2, f"lavise: --source kind: found 'lost'; allowed: {allowed}\n")
    code = (
        "from prefect.utilities.callables import parameter_schema; import json;"
        "from lavise.flows.orchestration.reaudit_flow import reaudit; print(parameter_schema(reaudit.fn).json())"
    )
    form = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=make_environment(home, PYTHONPATH=path),
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    offered = json.loads(form.stdout)["properties"]["source"]["anyOf"]
    names = ("FolderSource", "RegisteredModelSource", "ListSource")
    assert [entry["$ref"] for entry in offered] == [f"#/definitions/{name}" for name in names]
