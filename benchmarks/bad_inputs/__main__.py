"""Ask about every input, and print what was answered."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.bad_inputs import checkpoints, coco_sets, other_sets, past_audits, pictures, tables, word_vectors
from benchmarks.bad_inputs.answers import COUNTED, MAX_LINES, READ, REFUSED, Answer, Case, ask
from benchmarks.bad_inputs.checkpoints import Stranger, make_state
from benchmarks.bad_inputs.good_sets import write_good, write_text
from benchmarks.common import save_result
from benchmarks.environments import REPOSITORY, write_between

PAGE = REPOSITORY / "docs" / "reliability.md"
BEGIN, END = "<!-- begin: python -m benchmarks.bad_inputs -->", "<!-- end: python -m benchmarks.bad_inputs -->"
_LIMIT_SECONDS = 300
_EXIT_USER_ERROR = 2
_SHOWN = 160


def list_cases() -> Iterator[Case]:
    """Every input that is asked about in this process."""
    for group in (pictures, coco_sets, other_sets, word_vectors, checkpoints, tables, past_audits):
        yield from group.list_cases()


def ask_all(work: Path, only: str = "") -> list[Answer]:
    """What comes of each, in a folder of its own below `work`."""
    cases = [case for case in list_cases() if only in f"{case.group}: {case.what}"]
    return [ask(case, work / f"{number:04d}") for number, case in enumerate(cases)]


def list_commands(work: Path) -> Iterator[tuple[str, list[str]]]:
    """What is given to the command line: words for it, and arguments; each has to end with exit code 2."""
    import pickle

    import torch

    good, bad = write_good("coco", work / "coco"), work / "bad"
    bad.mkdir()
    inside = f"root: '{good['root']}', train_images: images, evaluation_share: 0.5"
    reference = f"reference={{kind: coco, {inside}, train_annotations: %s}}"
    small = ("tracking.enabled=false", "reference.train_scenes=8", "reference.evaluation_scenes=4", "target.scenes=8")
    off = [part for setting in small for part in ("--set", setting)]
    write_text(work / "coco" / "cut.json", '{"images": [')
    yield "COCO, cut", ["run", "demo", *off[:2], "--set", reference % "cut.json"]
    write_text(
        work / "coco" / "out.json",
        '{"images": [{"id": 1, "file_name": "../../x"}], "annotations": [], "categories": []}',
    )
    yield "COCO, a name that leads out", ["run", "demo", *off[:2], "--set", reference % "out.json"]
    write_text(bad / "empty" / "notes.txt", "no pictures here")
    yield (
        "a folder without a picture",
        ["run", "demo", *off[:6], "--set", f"target={{kind: image_folder, root: '{bad / 'empty'}'}}"],
    )
    write_text(bad / "vectors.txt", "dog 1 0", "cat 1")
    yield "GloVe, a short row", ["run", "demo", "--set", f"words.vectors={bad / 'vectors.txt'}", *off]
    state = make_state()
    torch.save({"state_dict": state, "config": Stranger(work / "witness")}, bad / "stranger.pth")
    (bad / "stranger.kv").write_bytes(pickle.dumps(Stranger(work / "witness")))
    network = f"model={{arch: '{checkpoints.__name__}:Small', weights: '{bad / 'stranger.pth'}'}}"
    yield "a checkpoint with a foreign class", ["run", "demo", "--set", network, *off]
    yield "vectors with a foreign class", ["run", "demo", "--set", f"words.vectors={bad / 'stranger.kv'}", *off]
    write_text(bad / "mine.yaml", "name: !!python/object/apply:os.mkdir [witness]")
    yield "YAML with a tag of Python", ["run", str(bad / "mine.yaml")]
    write_text(bad / "date.yaml", "name: 2020-13-45")
    yield "YAML with a date of month 13", ["doctor", str(bad / "date.yaml")]
    yield "a setting with a date of month 13", ["run", "demo", "--set", "seed=2020-13-45"]
    write_text(bad / "people.csv", "image,gender", 'a.png,"f')
    yield (
        "groups with a quote that is not closed",
        ["bias", "demo", "--groups", f"csv:{bad / 'people.csv'}:gender", *off],
    )
    yield "a predicate that is none", ["bias", "demo", "--groups", "annotations:dog and", *off]


def ask_command(what: str, arguments: Sequence[str], home: Path) -> Answer:
    """One call of the command line, from outside."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "LAVISE_"))}
    paths = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    environment = {**kept, "LAVISE_HOME": str(home), "PYTHONPATH": paths}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lavise", *arguments],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer("command line", what, "no answer", f"after {_LIMIT_SECONDS} s", "it hangs", _LIMIT_SECONDS)
    lines = [line.removeprefix("lavise: ") for line in done.stderr.splitlines() if line.startswith("lavise: ")]
    fault = ""
    if done.returncode != _EXIT_USER_ERROR:
        fault = f"exit code {done.returncode}"
    elif "Traceback" in done.stderr or not 0 < len(lines) <= MAX_LINES:
        fault = "no clear line"
    elif any((place / "witness").exists() for place in (home, home.parent)):
        fault = "something in the input was run"
    return Answer(
        "command line", what, REFUSED if not fault else "fault", " / ".join(lines) or done.stderr[-200:], fault, 0
    )


def show(answers: Sequence[Answer]) -> None:
    """The table, and what was not as it should be."""
    print("| group | input | what happened | the line |\n|---|---|---|---|")
    for answer in answers:
        line = answer.line if len(answer.line) <= _SHOWN else f"{answer.line[:_SHOWN]}…"
        cells = (answer.group, answer.what, answer.fault or answer.kind, line.replace("\n", " / "))
        print("|", " | ".join(c.replace("|", "\\|") for c in cells), "|")
    counts = Counter(answer.kind for answer in answers)
    print(f"\n{len(answers)} inputs: {', '.join(f'{counts[k]} {k}' for k in (REFUSED, COUNTED, READ))}")


def write_counts(answers: Sequence[Answer]) -> None:
    """Into the page, between its marks: how many inputs of each group came to what."""
    kinds = (REFUSED, COUNTED, READ)
    lines = [f"| inputs | number | {' | '.join(kinds)} |", "|---|---|---|---|---|"]
    for group in [*dict.fromkeys(answer.group for answer in answers), ""]:
        own = [answer.kind for answer in answers if group in ("", answer.group)]
        cells = [group or "all", str(len(own)), *(str(own.count(kind)) for kind in kinds)]
        lines.append(f"| {' | '.join(cells)} |")
    write_between(PAGE, BEGIN, END, lines)


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="inputs whose group and words have this in them; nothing is written")
    parser.add_argument("--no-commands", action="store_true", help="readers alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        answers = ask_all(work / "readers", arguments.only)
        if not arguments.no_commands and not arguments.only:
            (work / "home").mkdir()
            for what, command in list_commands(work):
                answers.append(ask_command(what, command, work / "home"))
    show(answers)
    if not arguments.only:
        content = {"counts": Counter(a.kind for a in answers), "inputs": [asdict(a) for a in answers]}
        save_result("bad-inputs", content)
    if not arguments.only and not arguments.no_commands:
        write_counts(answers)
    if faults := [answer for answer in answers if answer.fault]:
        for answer in faults:
            print(f"FAULT: {answer.group}: {answer.what}: {answer.fault}: {answer.line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
