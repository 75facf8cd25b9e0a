"""Our code goes by the name of lavise: folders of the user's called configs, storage, tasks or flows are the user's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.users_folder import write_users_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_users_folder(tmp_path_factory.mktemp("project"))


def run_python(folder: Path, *arguments: str) -> str:
    """Python as started in that folder, which then comes first on its path, as in a notebook's kernel."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_network_in_a_package_called_tasks(folder: Path) -> None:
    shown = json.loads(run_python(folder, "-m", "lavise", "layers", "tasks.net:make", "--json").splitlines()[-1])
    assert shown["auto"] == "bn2"
    assert {layer["name"]: layer["channels"] for layer in shown["layers"]}["bn2"] == 1280


_CELL = """
import configs, flows, storage, tasks
from tasks.net import make

from lavise.configs.schema import StatisticsSettings
from lavise.flows.notebook import run
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.numerics.ranked_lists import find_repeated


def main():
    import numpy as np
    with StatisticsCluster(StatisticsSettings(num_workers=2)) as cluster:
        found = cluster.map("lists", find_repeated, [np.array([[1, 1, 2]]), np.array([[3, 4, 3]])])
    print([f.tolist() for f in found], run.__module__, configs.OWNER, flows.OWNER, storage.OWNER, tasks.OWNER, sep="; ")


if __name__ == "__main__":
    main()
"""


def test_in_a_notebook_and_in_dask_workers_started_from_it(folder: Path) -> None:
    (folder / "cell.py").write_text(_CELL, "utf-8")
    assert run_python(folder, "cell.py").strip() == (
        "[[[False, True, False]], [[False, False, True]]]; lavise.flows.notebook; the user's configs; "
        "the user's flows; the user's storage; the user's tasks"
    )


def test_logged_models_still_find_their_loader(tmp_path: Path) -> None:
    code = "import flows.explainer_pyfunc as old, lavise.flows.serving.explainer_pyfunc as new"
    assert run_python(tmp_path, "-c", f"{code}; print(old._load_pyfunc is new._load_pyfunc)") == "True\n"
