"""Names that installed packages register: a real one on the path of a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavise.configs.registry import OBJECTIVES, RANKINGS
from tests.toy_package import install_package

_TOY = """
from lavise.configs.registry import OBJECTIVES
from lavise.configs.registry import RANKINGS

RANKINGS.register("mine")(object())
OBJECTIVES.register("mine too")(object())
"""


def run_python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *sys.path])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, "LAVISE_HOME": str(site / "home")},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )


def run_lavise(site: Path, ranking: str) -> subprocess.CompletedProcess[str]:
    """An audit whose weights are not there, which is found after the settings were read."""
    settings = (f"explain.ranking={ranking}", "model.weights=none.pt")
    return run_python(site, "-m", "lavise", "run", "demo", *(part for s in settings for part in ("--set", s)))


def test_the_command_line_knows_names_of_an_installed_package(tmp_path: Path) -> None:
    tmp_path.joinpath("home").mkdir()
    without = run_lavise(tmp_path, "mine")
    assert without.returncode == 2
    allowed = "'auroc', 'evidence', 'frequency' or 'peak_weighted'"
    assert without.stderr == f"lavise: demo: explain.ranking: found 'mine'; allowed: {allowed}\n"
    install_package(tmp_path, "toy-words", "toy_words", _TOY)
    accepted = run_lavise(tmp_path, "mine")
    assert (accepted.returncode, "explain.ranking" in accepted.stderr) == (2, False)
    assert "model.weights: found" in accepted.stderr
    refused = run_lavise(tmp_path, "other")
    assert refused.returncode == 2
    allowed = "'auroc', 'evidence', 'frequency', 'peak_weighted' or 'mine'"
    assert refused.stderr == f"lavise: demo: explain.ranking: found 'other'; allowed: {allowed}\n"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        (
            "from lavise.configs.registry import RANKINGS as R\nR.register('auroc')(1)\nR.register('auroc')(2)",
            "ValueError: explain.ranking: 'auroc' is registered twice",
        ),
    ],
)
def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path, text: str, cause: str) -> None:
    install_package(tmp_path, "toy-words", "toy_words", text)
    done = run_lavise(tmp_path, "mine")
    assert done.returncode == 2
    assert done.stderr == (
        "lavise: package toy-words: its module 'toy_words', which registers with lavise, cannot be imported "
        f"({cause}); mend, update or uninstall the package\n"
    )


def test_known_names_ask_no_package(tmp_path: Path) -> None:
    install_package(tmp_path, "toy-words", "toy_words", "raise RuntimeError")
    code = "from lavise.configs.loading import load_config; load_config('demo', ['explain.ranking=evidence'])"
    assert run_python(tmp_path, "-c", code).returncode == 0


def test_the_code_of_an_outside_name_is_described(tmp_path: Path) -> None:
    install_package(tmp_path, "toy-words", "toy_words", _TOY)
    code = (
        "import json; from lavise.configs.registry import OBJECTIVES, RANKINGS; "
        "print(json.dumps([RANKINGS.describe_code('mine', 'auroc'), OBJECTIVES.describe_code('mine too')]))"
    )
    done = run_python(tmp_path, "-c", code)
    digest = hashlib.sha256((tmp_path / "toy_words.py").read_bytes()).hexdigest()
    assert json.loads(done.stdout) == [
        {"code of explain.ranking": {"mine": digest}},
        {"code of train.objective": {"mine too": digest}},
    ]


def test_names_of_this_version_have_no_code() -> None:
    """Or the digests of all stages would be others."""
    assert RANKINGS.describe_code(*RANKINGS._names) == {}
    assert OBJECTIVES.describe_code() == {}


def test_the_code_is_that_of_the_file_that_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RANKINGS, "_entries", dict(RANKINGS._entries))
    RANKINGS.register("here")(object())
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert RANKINGS.describe_code("here") == {"code of explain.ranking": {"here": digest}}
    scope = {"RANKINGS": RANKINGS, "__name__": "__main__"}
    exec("RANKINGS.register('typed')(object())", scope)
    assert RANKINGS.describe_code("typed") == {}
