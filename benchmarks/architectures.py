"""What `auto` takes as the target layer of every architecture of torchvision and timm, with random weights.

Each network is built in a process of its own, probed at a small size where it takes one, at the size that it was made
for otherwise. One line of JSON per network goes to a file, so that an interrupted run goes on where it was; a table of
them, grouped by family, is written as Markdown.

    python -m benchmarks.architectures --out architectures.jsonl --processes 2
    python -m benchmarks.architectures --out architectures.jsonl --table docs/architectures.md
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track

SMALL_PX = 96
_MAX_REASON_CHARS = 200


def list_architectures() -> list[str]:
    """All of both libraries that classify pictures, each by its name here."""
    import timm
    import torchvision.models as models

    return [f"torchvision:{n}" for n in models.list_models(module=models)] + [f"timm:{n}" for n in timm.list_models()]


def look_at(arch: str, most_million: int) -> dict[str, Any]:
    """What `auto` takes of one architecture, at the smallest of the sizes that it takes."""
    import torch

    from lavise.configs.errors import UserError
    from lavise.configs.schema import ModelSettings
    from lavise.storage.models.architectures import find_architecture
    from lavise.storage.models.layer_survey import select_layers, survey_layers

    torch.set_num_threads(1)
    start = time.monotonic()
    found: dict[str, Any] = {"arch": arch}
    try:
        settings = ModelSettings(arch=arch)
        architecture = find_architecture(settings.arch, None)
        found["parameters"] = parameters = _count_parameters(architecture)
        if parameters > most_million * 10**6:
            return {**found, "error": f"not tried: {parameters / 1e6:,.0f} million parameters"}
        torch.manual_seed(0)
        network = architecture.build(False).eval()
    except Exception as err:  # noqa: BLE001 - of hundreds of builders, each may fail in its own way
        return {**found, "error": _shorten(err)}
    for size_px in dict.fromkeys((SMALL_PX, architecture.size_px)):
        try:
            survey = survey_layers(network, size_px)
            found |= {"size_px": size_px, "num_layers": len(survey.layers), "num_refused": len(survey.refused)}
            found.pop("error", None)
            found["auto"] = vars(select_layers(survey, "auto")[0])
            break
        except UserError as err:
            found["error"] = _shorten(err)
        except Exception as err:  # noqa: BLE001
            found["error"] = f"FAULT {_shorten(err)}"
    return {**found, "seconds": round(time.monotonic() - start, 1)}


def _count_parameters(architecture: Any) -> int:
    """Without its memory, where it can be built so; 0 where not."""
    import torch

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in architecture.build(False).parameters())
    except Exception:  # noqa: BLE001 - some builders compute with what they have built
        return 0


def run(archs: Sequence[str], out: Path, processes: int, most_million: int) -> None:
    """Look at what is not yet in the file."""
    known = {json.loads(line)["arch"] for line in out.read_text("utf-8").splitlines()} if out.exists() else set()
    waiting = [arch for arch in archs if arch not in known]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, maxtasksperchild=20) as pool, out.open("a", encoding="utf-8") as file:
        for found in track(
            pool.imap_unordered(partial(look_at, most_million=most_million), waiting),
            total=len(waiting),
            description="architectures",
        ):
            file.write(json.dumps(found) + "\n")
            file.flush()


def make_table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown: per layer that `auto` takes, the networks; then those for which a layer has to be named, and why."""
    taken: dict[tuple[str, ...], list[str]] = defaultdict(list)
    asked: dict[str, list[str]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: str(row["arch"])):
        library, _, name = row["arch"].partition(":")
        if "auto" in row:
            auto = row["auto"]
            layout = auto["layout"] + (f" + {auto['num_prefix_tokens']}" if auto["num_prefix_tokens"] else "")
            taken[library, auto["name"], auto["kind"], layout].append(name)
        else:
            asked[_name_reason(row["error"])].append(f"{library}:{name}")
    num_taken, num_asked = sum(map(len, taken.values())), sum(map(len, asked.values()))
    lines = [
        f"`auto` takes a layer of {num_taken} architectures; of {num_asked} it does not.",
        "",
        "| library | layer | module | output | architectures |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {library} | `{layer}` | {kind} | {layout} | {len(names)}: {', '.join(names)} |"
        for (library, layer, kind, layout), names in sorted(taken.items())
    ]
    lines += ["", "| why not | architectures |", "|---|---|"]
    lines += [f"| {reason.replace('|', ' ')} | {len(names)}: {', '.join(names)} |" for reason, names in asked.items()]
    return "\n".join(lines) + "\n"


def _name_reason(error: str) -> str:
    """The same for networks that differ in numbers and names of layers alone."""
    if error.startswith("not tried"):
        return "not tried: too many parameters"
    if "cannot tell the last map" in error:
        return (
            "asked: the last tokens are not in the order of the picture with random weights, so that a name is wanted"
        )
    return "no layer: patches are cut without a convolution, and no grid is stated" if "no module" in error else error


def _shorten(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MAX_REASON_CHARS]


def main() -> None:
    """Run, or make the table of what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of results, a line per network")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--most-million", type=int, default=400, help="parameters; larger networks are not tried")
    parser.add_argument("--only", default="", help="only architectures whose name contains this")
    parser.add_argument("--table", type=Path, help="write the table of the results to this file, and run nothing")
    arguments = parser.parse_args()
    if arguments.table:
        rows = [json.loads(line) for line in arguments.out.read_text("utf-8").splitlines()]
        arguments.table.write_text(make_table(rows), "utf-8")
        return
    archs = [arch for arch in list_architectures() if arguments.only in arch]
    run(archs, arguments.out, arguments.processes, arguments.most_million)


if __name__ == "__main__":
    main()
