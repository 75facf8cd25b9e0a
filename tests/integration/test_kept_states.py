"""State folders and MLflow stores of earlier builds (`make state`), read by this one, at another place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.tiny_audit import last_json
from tests import kept_state

ARCHIVES = sorted(kept_state.FOLDER.glob("*.tar.xz"))


def rounded(value: Any) -> Any:
    """As it would be read from JSON, without the last digits, which depend on the processor."""
    return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 9))


def test_some_are_kept() -> None:
    assert ARCHIVES


@pytest.fixture(scope="module", params=ARCHIVES, ids=[path.name.partition(".")[0] for path in ARCHIVES])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The unpacked folder, and what the build that wrote it read in it."""
    folder = tmp_path_factory.mktemp("kept")
    kept_state.unpack(request.param, folder)
    return folder, json.loads((folder / kept_state.FACTS).read_text("utf-8"))


def test_it_is_read_as_it_was_written(kept: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = kept
    found = kept_state.read_facts(folder / kept_state.HOME, facts["order"])
    assert rounded(found) == rounded(facts)


def test_a_comparison_and_a_review_can_be_made_of_it(kept: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = kept
    home, (old, new) = folder / kept_state.HOME, facts["order"]
    compared = kept_state.invoke(home, "diff", old, new, "--json")
    assert compared.exit_code == 0, compared.output
    changes = last_json(compared.stdout)["layers"]["tail"]
    words = {run: [row["words"] for row in facts["words"][run]] for run in (old, new)}
    assert (changes["num_old"], changes["num_new"]) == (len(words[old]), len(words[new]))
    reviewed = kept_state.invoke(home, "review", old, folder / kept_state.NOTES, "--json")
    assert reviewed.exit_code == 0, reviewed.output
    review = json.loads((home / "runs" / old / "review.json").read_text("utf-8"))["all"]
    assert rounded(review) == rounded(facts["review"])


@pytest.mark.slow
def test_an_audit_goes_on_from_what_lies_there(kept: tuple[Path, dict[str, Any]]) -> None:
    """Stages that this build computes as that one did are taken from it; the others are computed anew."""
    folder, facts = kept
    home, first = folder / kept_state.HOME, facts["order"][0]
    there = {p.parent.name for p in (home / "artefacts").glob("*/*/handle.json")}
    done = kept_state.invoke(home, "run", folder / kept_state.CONFIG, "--json")
    assert done.exit_code == 0, done.output
    new = Path(last_json(done.stdout)["run_dir"])
    anew = {p.parent.name for p in (home / "artefacts").glob("*/*/handle.json")} - there
    stages = json.loads((new / "artefacts.json").read_text("utf-8"))["stages"]
    taken = {title for title, own in stages.items() if all(made["digest"][:24] not in anew for made in own)}
    print(f"computed anew: {sorted(set(stages) - taken) or 'nothing'}")
    if "explain tail" in taken:
        assert rounded(kept_state.read_words(new)) == rounded(facts["words"][first])
    assert len(kept_state.read_words(new)) == len(facts["words"][first])
    assert rounded(kept_state.read_facts(home, facts["order"])["words"]) == rounded(facts["words"])
