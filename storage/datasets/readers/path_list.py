"""Pictures that a text file names, a path per line, without any label."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.configs.pictures import PathListTarget
from lavise.storage.datasets.base import Dataset, ImageRecord, require_file, require_folder, resolve_inside
from lavise.storage.datasets.formats import TargetFormat, register_target_format
from lavise.storage.state.text import one_line, printable


def load_path_list_target(settings: PathListTarget) -> Dataset:
    """The pictures in the order of the lines, each once. Blank lines are passed over.

    Raises:
        UserError: no such folder or file, a path that leads out of the folder, or none that is there.
    """
    root = require_folder(settings.root, "target.root")
    file = require_file(settings.file, "target.file")
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(
            f"target.file: cannot read {file} ({one_line(err)}); allowed: a text file in UTF-8 with a path per line"
        ) from None
    left_out: Counter[str] = Counter()
    path_of: dict[str, Path] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name = _find_name(root, line.strip(), number, file)
        if name in path_of:
            left_out["line that names a picture again"] += 1
            continue
        path_of[name] = _find_path(root, name, settings.follow_links)
        if settings.max_images and len(path_of) == settings.max_images:
            break
    missing = [name for name, path in path_of.items() if not path.is_file()]
    if len(missing) == len(path_of):
        example = f", for example {printable(missing[0])!r}" if missing else ""
        raise UserError(
            f"target.file: none of the {len(path_of)} pictures that {file} names is a file below {root}{example}; "
            "allowed: a path per line, relative to target.root or absolute"
        )
    records = (ImageRecord(name, path) for name, path in path_of.items())
    notes = (f"{len(missing)} pictures are not there, for example {printable(missing[0])!r}",) if missing else ()
    return Dataset(f"{root.name}/{file.name}", tuple(records), left_out=dict(left_out), notes=notes)


def _find_name(root: Path, line: str, number: int, file: Path) -> str:
    """The path below root that a line means, with `/`."""
    name = line
    if "\\" in line and not (root / line).exists():
        name = line.replace("\\", "/")
    for base in (root.absolute(), root.resolve()):
        below = os.path.relpath(os.path.normpath(base / name), base)
        if Path(below).parts[:1] not in ((), (os.pardir,)) and "\0" not in line:
            break
    else:
        raise UserError(
            f"target.file: line {number} of {file} is {printable(line)!r}, which is not below {root}; allowed: paths "
            "relative to target.root, or absolute ones in it"
        )
    return Path(below).as_posix()


def _find_path(root: Path, name: str, follow_links: bool) -> Path:
    if follow_links:
        return root / name
    try:
        return resolve_inside(root, name)
    except UserError as err:
        raise UserError(f"{err}; set target.follow_links=true if links may lead out of it") from None


register_target_format(
    "path_list", TargetFormat(load_path_list_target, lambda settings: {"file": (str(settings.file.absolute()),)})
)
