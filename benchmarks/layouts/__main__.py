"""Have the writers write their data sets, read each, and write the table."""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks.common import save_result
from benchmarks.environments import REPOSITORY, make_files, write_between
from benchmarks.layouts.writers import WRITERS, Case
from lavise.configs.errors import UserError
from lavise.configs.schema import ReferenceSettings, TargetSettings
from lavise.storage.datasets.base import Annotation, Dataset
from lavise.storage.datasets.formats import find_format, find_target_format
from lavise.storage.images.images import read_size

PAGE = REPOSITORY / "docs" / "data.md"
BEGIN, END = "<!-- begin: python -m benchmarks.layouts -->", "<!-- end: python -m benchmarks.layouts -->"
_SEED = 0


@dataclass(frozen=True)
class Result:
    """What was read of a data set, beside what the tool's own reader makes of it.

    Attributes:
        num_labels: of (ours, theirs) pairs that name the same picture and concept, and of all of theirs.
        least_overlap: intersection over union of the worst pair of masks; None where there are no masks.
        message: of the refusal, where it was refused.
    """

    writer: str
    version: str
    case: str
    what: str
    settings: dict[str, Any]
    num_images: tuple[int, int] = (0, 0)
    num_labels: tuple[int, int] = (0, 0)
    num_more: int = 0
    least_overlap: float | None = None
    skipped: dict[str, int] | None = None
    message: str = ""


def compare(case: Case, root: Path, writer: str, version: str) -> Result:
    """Read a data set and hold it against its truth."""
    said = Result(writer, version, case.folder, case.what, dict(case.settings))
    truth = json.loads(root.with_name(f"{root.name}.truth.json").read_text("utf-8"))
    try:
        parts = _read(case, root)
    except UserError as err:
        return Result(**{**asdict(said), "message": str(err).replace(f"{root.parent}/", "")})
    records = [record for part in parts for record in part.records]
    names = [Path(record.key).name for record in records]
    pairs, num_more, overlaps = 0, 0, []
    theirs: dict[tuple[str, str], list[Annotation]] = defaultdict(list)
    for label in truth["labels"]:
        theirs[label["image"], label["concept"]].append(_to_annotation(label))
    num_theirs = len(truth["labels"])
    for name, record in zip(names, records, strict=True):
        size = read_size(record.path) if record.annotations else (0, 0)
        for annotation in record.annotations:
            waiting = theirs[name, annotation.concept]
            if not waiting:
                num_more += 1
                continue
            best = max(range(len(waiting)), key=lambda i: _overlap(annotation, waiting[i], size))
            overlaps.append(_overlap(annotation, waiting.pop(best), size))
            pairs += 1
    skipped: dict[str, int] = defaultdict(int)
    for part in parts:
        for reason, number in part.skipped.items():
            skipped[reason] += number
    return Result(
        **{
            **asdict(said),
            "num_images": (len(set(names) & set(truth["images"])), len(truth["images"])),
            "num_labels": (pairs, num_theirs),
            "num_more": num_more + len(set(names) - set(truth["images"])),
            "least_overlap": min(overlaps, default=None),
            "skipped": dict(skipped),
        }
    )


def _read(case: Case, root: Path) -> tuple[Dataset, ...]:
    content = {**case.settings, "root": str(root)}
    if case.role == "target":
        target: Any = TypeAdapter(TargetSettings).validate_python(content)
        return (find_target_format(target.kind).read(target),)
    reference: Any = TypeAdapter(ReferenceSettings).validate_python(content)
    read = find_format(reference.kind).read(reference, _SEED)
    return (read.train, read.evaluation)


def _to_annotation(label: dict[str, Any]) -> Annotation:
    rle = label.get("rle")
    if rle is not None:
        return Annotation(label["concept"], rle={"size": rle["size"], "counts": rle["counts"].encode("ascii")})
    return Annotation(label["concept"], boxes=(tuple(label["box"]),) if "box" in label else ())


def _overlap(one: Annotation, other: Annotation, size: tuple[int, int]) -> float:
    a, b = one.make_mask(*size), other.make_mask(*size)
    return float(np.logical_and(a, b).sum() / max(np.logical_or(a, b).sum(), 1))


def make_results(work: Path, names: Sequence[str]) -> list[Result]:
    """Of all data sets of the named writers."""
    results = []
    for writer in WRITERS:
        tool = writer.tool
        if tool.name not in names:
            continue
        folder, version = make_files(tool, f"benchmarks.layouts.write_{tool.name}", work)
        for case in writer.cases:
            results.append(compare(case, folder / case.folder, tool.name, version))
            print(version, case.folder, _describe(results[-1]), sep=" | ")
    return results


def _describe(result: Result) -> str:
    if result.message:
        return f"refused: {result.message}"
    (images, all_images), (labels, all_labels) = result.num_images, result.num_labels
    words = [f"{images} of {all_images} pictures", f"{labels} of {all_labels} labels"]
    if result.num_more:
        words.append(f"{result.num_more} that the tool does not have")
    if result.least_overlap is not None:
        words.append(f"least IoU {result.least_overlap:.3f}")
    if result.skipped:
        words.append("skipped: " + ", ".join(f"{n} {reason}" for reason, n in sorted(result.skipped.items())))
    return "; ".join(words)


def write_table(results: Sequence[Result]) -> None:
    """Into the page, between its marks."""
    lines = ["| written and read by | data set | settings | lavise reads |", "|---|---|---|---|"]
    for result in results:
        settings = ", ".join(f"{name}: {value}" for name, value in result.settings.items()).replace("|", "\\|")
        text = _describe(result).replace("|", "\\|")
        lines.append(f"| {result.version} | {result.what} | `{settings}` | {text} |")
    write_between(PAGE, BEGIN, END, lines)


def main() -> None:
    """From the command line."""
    names = [writer.tool.name for writer in WRITERS]
    parser = argparse.ArgumentParser(description="What lavise reads of data sets that other tools write.")
    parser.add_argument("--work", type=Path, required=True, help="for environments and files; some GB")
    parser.add_argument("--only", nargs="+", choices=names, help="these writers; nothing is written")
    arguments = parser.parse_args()
    logging.getLogger("lavise").setLevel(logging.WARNING)
    results = make_results(arguments.work.resolve(), arguments.only or names)
    if not arguments.only:
        write_table(results)
        save_result("layouts", {"data_sets": [asdict(result) for result in results]})


if __name__ == "__main__":
    main()
