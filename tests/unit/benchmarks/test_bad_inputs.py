"""A part of `python -m benchmarks.bad_inputs`: every eleventh input, and those that once ended otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bad_inputs.__main__ import list_cases
from benchmarks.bad_inputs.answers import COUNTED, LIMIT_SECONDS, READ, REFUSED, Case, Found, ask
from benchmarks.bad_inputs.checkpoints import Stranger
from lavise.configs.errors import UserError

CASES = tuple(list_cases())
# Each of these was a traceback, had no end, or put controls on the terminal.
MENDED = {
    "visual_genome": ("image_id infinite", "a width of 400 digits", "a width of 1e308 beside x of 1e308"),
    "coco_panoptic": ("a segment's id infinite",),
    "pascal_voc": ("a list with a name of 5,000 characters", "a box of 1e308"),
    "yolo": (
        "data.yaml with a date that is none",
        "data.yaml of aliases of aliases",
        "names with a number of 5,000 digits",
    ),
    "ade20k": ("name_ndx infinite", "_atr.txt with a number of 5,000 digits"),
    "broden": (
        "index.csv with a PNG of control characters",
        "index.csv with a number of 5,000 digits",
        "label.csv with a number of 5,000 digits",
    ),
    "webdataset": ("a box of 400 digits",),
    "YAML": ("a date of month 13", "a whole number that is none", "a time that is none", "aliases of aliases"),
    "pictures": ("AVIF, cut after 5 tenths", "AVIF with bytes turned over"),
}


def is_asked(number: int, case: Case) -> bool:
    return number % 11 == 0 or case.what in MENDED.get(case.group, ())


ASKED = [case for number, case in enumerate(CASES) if is_asked(number, case)]


@pytest.mark.parametrize("case", ASKED, ids=[f"{case.group}: {case.what}"[:80] for case in ASKED])
def test_answer_is_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ask(case, tmp_path / "input")
    assert not answer.fault, f"{answer.kind}: {answer.line}"


def test_there_are_more_than_200_and_none_twice() -> None:
    names = [(case.group, case.what) for case in CASES]
    assert len(names) > 200
    assert len(set(names)) == len(names)
    known = set(names)
    assert all((group, what) in known for group, mended in MENDED.items() for what in mended)


def answer_with(tmp_path: Path, error: Exception | None, good: int = 1, left_out: int = 0) -> tuple[str, str]:
    def read(folder: Path) -> Found:
        if error is not None:
            raise error
        found = Found(good)
        found.left_out.update({"bad": left_out} if left_out else {})
        return found

    answer = ask(Case("group", "what", read), tmp_path / "input")
    return answer.kind, answer.fault


@pytest.mark.parametrize(
    ("error", "good", "left_out", "expected"),
    [
        (UserError("field: found x; allowed: y"), 1, 0, (REFUSED, "")),
        (UserError(""), 1, 0, (REFUSED, "an empty line")),
        (UserError("a\n" * 9), 1, 0, (REFUSED, "10 lines of up to 1 characters")),
        (ValueError("x"), 1, 0, ("traceback", "traceback")),
        (None, 1, 0, (READ, f"expected: {REFUSED}")),
        (None, 0, 2, (COUNTED, "nothing was kept")),
    ],
)
def test_faults_are_seen(
    tmp_path: Path, error: Exception | None, good: int, left_out: int, expected: tuple[str, str]
) -> None:
    assert answer_with(tmp_path, error, good, left_out) == expected


def test_what_runs_and_what_hangs_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle
    import time

    from benchmarks.bad_inputs import answers

    def run(folder: Path) -> Found:
        pickle.loads(pickle.dumps(Stranger(folder / answers.WITNESS)))
        return Found(1)

    assert ask(Case("group", "what", run, (READ,)), tmp_path / "a").fault == "something in the input was run"

    def hang(folder: Path) -> Found:
        time.sleep(LIMIT_SECONDS)
        return Found(1)

    monkeypatch.setattr(answers, "LIMIT_SECONDS", 1)
    assert ask(Case("group", "what", hang, (READ,)), tmp_path / "b").fault == "it hangs"
