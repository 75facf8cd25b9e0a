"""What a rerun says of inputs and of an environment that are not what they were, before anything is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lavise.configs.errors import UserError
from lavise.configs.loading import with_overrides
from lavise.configs.schema import Config
from lavise.flows.past_audits.past_runs import PastRun, open_past_run
from lavise.flows.repeats.rerun import RerunResult, describe_changes, find_changed_inputs, rerun_audit
from lavise.flows.shared.inputs import open_inputs
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.environment import describe_environment
from lavise.storage.state.progress import no_progress
from lavise.storage.tracking import MlflowTracker, NullTracker
from lavise.storage.words.word_vectors import digest_vectors
from lavise.tasks.engine.stage import StageRunner, run_inline
from lavise.tasks.history.rerun_verdict import Finding
from tests.unit.flows.helpers import ARCH, held, make_config, make_tracker, write_run_folder
from tests.unit.tasks.helpers import TinyNetwork, write_image

ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.9",
    "platform": "Linux",
    "device": "cpu",
    "gpu": None,
    "cpu_threads": 2,
    "packages": {"torch": "2.11.0", "numpy": "2.0.0"},
    "git": {"commit": "a" * 40, "dirty": False},
}


def save_weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(TinyNetwork().state_dict(), path)


class Audited:
    """An audit of real pictures, a real checkpoint and real word vectors, as its run folder tells of it."""

    def __init__(self, home: Path) -> None:
        self.home, self.root = home, home / "state"
        for concept in ("cat", "dog"):
            for number in range(3):
                write_image(home / "reference" / concept / f"{number}.png", 16, 16, seed=number + len(concept))
        write_image(home / "target" / "a.png", 16, 16, seed=8)
        write_image(home / "target" / "b.png", 16, 16, seed=9)
        save_weights(home / "weights.pth", 1)
        (home / "vectors.txt").write_text("cat 0.1 0.2\ndog 0.3 0.4\n", "utf-8")
        self.config = make_config(
            self.root,
            model={"arch": ARCH, "weights": str(home / "weights.pth")},
            reference={"kind": "image_folder", "root": str(home / "reference")},
            target={"kind": "image_folder", "root": str(home / "target")},
            words={"vectors": str(home / "vectors.txt")},
        )
        inputs = open_inputs(self.config, StageRunner(ArtefactStore(self.root)), no_progress)
        self.folder = write_run_folder(
            home / "runs" / "first",
            self.config,
            checkpoint=load_target_model(self.config.model, self.config.seed).digest,
            data=inputs.digests,
            pictures=inputs.image_digests,
            vectors=digest_vectors(self.config.words),
        )

    @property
    def past(self) -> PastRun:
        return open_past_run(str(self.folder), NullTracker(), self.root)

    def find_changed(self, config: Config | None = None) -> list[str]:
        return find_changed_inputs(self.past, config or self.config, self.root / "reruns" / "first", no_progress)


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audited:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Audited(tmp_path)


# Inputs


def test_nothing_has_changed(audited: Audited) -> None:
    assert audited.find_changed() == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda home: save_weights(home / "weights.pth", 2), ["checkpoint"]),
        (lambda home: write_image(home / "target" / "a.png", 16, 16, seed=77), ["target data"]),
        (lambda home: write_image(home / "target" / "c.png", 16, 16, seed=77), ["target data"]),
        (lambda home: (home / "target" / "b.png").rename(home / "target" / "z.png"), ["target data"]),
        (lambda home: (home / "vectors.txt").write_text("cat 0.1 0.3\ndog 0.3 0.4\n"), ["word vectors"]),
        # A label: the name of the class is in both parts.
        (
            lambda home: (home / "reference" / "cat").rename(home / "reference" / "lion"),
            ["train data", "evaluation data"],
        ),
    ],
    ids=["weights", "picture", "one more", "renamed", "vectors", "label"],
)
def test_what_has_changed_is_named(audited: Audited, change: Callable[[Path], Any], what: list[str]) -> None:
    change(audited.home)
    lines = audited.find_changed()
    assert [line.split(" (")[0] for line in lines] == [f"input: the {w}" for w in what]
    assert all("is not what it was: " in line and "\n" not in line for line in lines)


def test_a_reference_picture_is_in_one_of_the_parts(audited: Audited) -> None:
    write_image(audited.home / "reference" / "cat" / "0.png", 16, 16, seed=77)
    (line,) = audited.find_changed()
    assert line.startswith(("input: the train data (reference/train)", "input: the evaluation data (reference/eval"))


def test_the_line_holds_where_it_is_and_both_digests(audited: Audited) -> None:
    path, before = audited.home / "weights.pth", audited.past.inputs["checkpoint"]
    save_weights(path, 2)
    now = load_target_model(audited.config.model, 0).digest
    assert audited.find_changed() == [
        f"input: the checkpoint ({path}) is not what it was: {now[:12]} instead of {before[:12]}"
    ]


def test_the_same_inputs_from_another_place(audited: Audited) -> None:
    moved = audited.home / "moved"
    for name in ("reference", "target", "weights.pth", "vectors.txt"):
        moved.mkdir(exist_ok=True)
        shutil.move(audited.home / name, moved / f"my_{name}")
    overrides = [
        f"reference.root={moved / 'my_reference'}",
        f"target.root={moved / 'my_target'}",
        f"model.weights={moved / 'my_weights.pth'}",
        f"words.vectors={moved / 'my_vectors.txt'}",
    ]
    assert audited.find_changed(with_overrides(audited.config, overrides)) == []


def test_the_same_weights_saved_again(audited: Audited) -> None:
    path = audited.home / "weights.pth"
    before = path.read_bytes()
    tensors = torch.load(path, weights_only=True)
    torch.save({"epoch": 3, "state_dict": dict(reversed(tensors.items()))}, path)
    assert path.read_bytes() != before
    assert audited.find_changed() == []


# Nothing is run


@pytest.fixture
def tracker(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> MlflowTracker:
    return make_tracker(tmp_path_factory, tmp_path)


def rerun(audited: Audited, tracker: MlflowTracker, *overrides: str, anyway: bool = False) -> RerunResult:
    return rerun_audit(str(audited.folder), overrides, anyway, tracker, audited.root, no_progress, run_inline)


def test_every_changed_input_is_named_and_nothing_is_run(audited: Audited, tracker: MlflowTracker) -> None:
    save_weights(audited.home / "weights.pth", 2)
    write_image(audited.home / "target" / "a.png", 16, 16, seed=77)
    with pytest.raises(UserError) as caught:
        rerun(audited, tracker)
    lines = str(caught.value).splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "input: the checkpoint",
        "input: the target data",
        "nothing was run; mend this, or repeat it --anyway",
    ]
    assert tracker.find({}) == []
    assert not (audited.root / "runs").exists()


def test_an_input_that_is_gone(audited: Audited, tracker: MlflowTracker) -> None:
    shutil.rmtree(audited.home / "target")
    with pytest.raises(UserError, match=r"target\.root: found .*, which is no folder"):
        rerun(audited, tracker)
    (audited.home / "target").mkdir()
    with pytest.raises(UserError, match=r"target\.root: no pictures below"):
        rerun(audited, tracker)
    assert tracker.find({}) == []


def test_a_wrong_override(audited: Audited, tracker: MlflowTracker) -> None:
    with pytest.raises(UserError, match=r"target\.roots: unknown key"):
        rerun(audited, tracker, "target.roots=/data")
    assert not (audited.root / "reruns").exists()


def test_one_repetition_at_a_time(audited: Audited, tracker: MlflowTracker) -> None:
    """Even where it is to be run anyway."""
    with (
        held(audited.root / "reruns" / "first.lock"),
        pytest.raises(UserError, match="first is being repeated already by another process"),
    ):
        rerun(audited, tracker, anyway=True)
    assert tracker.find({}) == []


# The environment


def test_the_same_environment_says_nothing() -> None:
    assert describe_changes(ENVIRONMENT, ENVIRONMENT) == []
    now = describe_environment("cpu")
    unchanged = describe_changes(json.loads(json.dumps(now)), now)
    assert [line for line in unchanged if "the checkout had changes" not in line] == []


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        ({"python": "3.12.0"}, ["python: 3.11.9 then, 3.12.0 now"]),
        ({"device": "cuda", "gpu": "H100"}, ["device: cpu then, cuda now", "gpu: None then, H100 now"]),
        ({"packages": {"torch": "2.12.0", "numpy": "2.0.0"}}, ["torch: 2.11.0 then, 2.12.0 now"]),
        (
            {"packages": {"torch": None, "numpy": "2.0.0", "timm": "1.0"}},
            ["torch: 2.11.0 then, None now", "timm: None then, 1.0 now"],
        ),
        ({"git": {"commit": "b" * 40, "dirty": False}}, [f"git commit: {'a' * 40} then, {'b' * 40} now"]),
        ({"git": {"commit": "a" * 40, "dirty": True}}, ["git: the checkout had changes now that no commit holds"]),
        ({"git": {}}, [f"git commit: {'a' * 40} then, None now"]),
    ],
)
def test_what_of_the_environment_is_another_one(now: dict[str, Any], lines: list[str]) -> None:
    assert describe_changes(ENVIRONMENT, {**ENVIRONMENT, **now}) == lines


def test_a_checkout_with_changes_on_both_sides_is_said_of_both() -> None:
    dirty = {**ENVIRONMENT, "git": {"commit": "a" * 40, "dirty": True}}
    assert describe_changes(dirty, dirty) == [
        "git: the checkout had changes then that no commit holds",
        "git: the checkout had changes now that no commit holds",
    ]
    assert describe_changes({**ENVIRONMENT, "git": {}}, {**ENVIRONMENT, "git": {}}) == []


def test_the_result_is_one_line(tmp_path: Path) -> None:
    finding = Finding("stage train tail", "different", "differ: a\nb")
    result = RerunResult("old", "new", tmp_path, "different", False, (finding,), ("torch: 1 then, 2 now",))
    assert "\n" not in result.to_json()
    assert json.loads(result.to_json()) == {
        "original": "old",
        "rerun": "new",
        "run_dir": str(tmp_path),
        "verdict": "different",
        "repeated": False,
        "findings": [{"what": "stage train tail", "outcome": "different", "detail": "differ: a\nb"}],
        "notes": ["torch: 1 then, 2 now"],
    }
