"""Have the producers write their files, load each, and write the table."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.common import save_result
from benchmarks.environments import REPOSITORY, make_files, write_between
from benchmarks.producers.producer_list import PRODUCERS
from benchmarks.producers.rows import ROWS, Row
from benchmarks.producers.shared import TRUTH
from lavise.configs.base import TRANSFORMERS
from lavise.configs.errors import CheckpointError, UserError
from lavise.storage.models.architectures import find_architecture
from lavise.storage.models.checkpoint_files import read_checkpoint
from lavise.storage.models.state_dicts import load_weights
from lavise.storage.models.transformers_networks import find_names_in_files
from lavise.storage.models.weight_files import read_weights

PAGE = REPOSITORY / "docs" / "checkpoints.md"
BEGIN, END = "<!-- begin: python -m benchmarks.producers -->", "<!-- end -->"
_MAX_LINE_CHARS = 600


@dataclass(frozen=True)
class Result:
    """What became of a file: `read`, `asked` or `refused`, and the words for it."""

    producer: str
    version: str
    file: str
    what: str
    outcome: str
    text: str


def load(row: Row, folder: Path) -> tuple[str, str]:
    """Outcome of a row, and what to say about it.

    Raises:
        FileNotFoundError: the producer has not written it.
    """
    files = sorted(folder.glob(row.file))
    if len(files) != 1:
        raise FileNotFoundError(f"{row.producer}: found {len(files)} files {row.file}")
    try:
        return "read", _load_with(row, files[0], {}, folder)
    except CheckpointError as err:
        return "refused", _clean(err, folder)
    except UserError as err:
        if not row.answers:
            return "refused", _clean(err, folder)
        answers = [f"{_show(answer)}: {_load_with(row, files[0], answer, folder)}" for answer in row.answers]
        return "asked", f"{_clean(err, folder)}. {'; '.join(answers)}"


def _load_with(row: Row, path: Path, settings: Mapping[str, str], folder: Path) -> str:
    """Load, and say which of the producer's own weights it is that was loaded."""
    own = f"{TRANSFORMERS}{folder / row.arch}" if row.arch else ""
    network = find_architecture(own, None).build(False) if own else row.build()
    names = find_names_in_files(network) if own else None
    keys = (settings["weights_key"],) if "weights_key" in settings else ()
    load_weights(network, *read_weights(str(path)), keys, settings.get("weights_prefix"), names_in_files=names)
    return _recognise(network, folder)


def _recognise(network: nn.Module, folder: Path) -> str:
    loaded, found = network.state_dict(), []
    for path in sorted((folder / TRUTH).glob("*.safetensors")):
        truth = read_checkpoint(path)
        if truth.keys() == loaded.keys() and all(torch.equal(truth[key], loaded[key]) for key in truth):
            found.append(path.stem)
    return found[0] if found else "weights of no network that was in use"


def _show(settings: Mapping[str, str]) -> str:
    return ", ".join(f"model.{name}={value}" for name, value in settings.items())


def _clean(err: Exception, folder: Path) -> str:
    """The line, without the folder of this run."""
    return str(err).replace(f"{folder}/", "")[:_MAX_LINE_CHARS]


def make_results(work: Path, names: Sequence[str]) -> list[Result]:
    """Of all rows of the named producers."""
    results = []
    for producer in PRODUCERS:
        if producer.name not in names:
            continue
        folder, version = make_files(producer, f"benchmarks.producers.make_{producer.name}", work)
        for row in ROWS:
            if row.producer == producer.name:
                results.append(Result(producer.name, version, row.file, row.what, *load(row, folder)))
                print(results[-1].producer, results[-1].file, results[-1].outcome, results[-1].text, sep=" | ")
    return results


def write_table(results: Sequence[Result]) -> None:
    """Into the page, between its marks."""
    lines = ["| producer | file | what it is | outcome |", "|---|---|---|---|"]
    for result in results:
        text = result.text.replace("|", "\\|")
        lines.append(f"| {result.version} | `{result.file}` | {result.what} | **{result.outcome}**: {text} |")
    write_between(PAGE, BEGIN, END, lines)


def main() -> None:
    """From the command line."""
    names = [producer.name for producer in PRODUCERS]
    parser = argparse.ArgumentParser(description="What lavise makes of files that other libraries write.")
    parser.add_argument("--work", type=Path, required=True, help="for environments and files; some GB")
    parser.add_argument("--only", nargs="+", choices=names, help="these producers; nothing is written")
    arguments = parser.parse_args()
    logging.getLogger("lavise").setLevel(logging.WARNING)
    results = make_results(arguments.work.resolve(), arguments.only or names)
    if not arguments.only:
        write_table(results)
        counts = {o: sum(r.outcome == o for r in results) for o in ("read", "asked", "refused")}
        save_result("producers", {"counts": counts, "files": [asdict(result) for result in results]})


if __name__ == "__main__":
    main()
