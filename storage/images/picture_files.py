"""Which files below a folder are pictures; whatever else is there is counted by the reason why it is left out."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lavise.storage.images.images import IMAGE_SUFFIXES, is_picture
from lavise.storage.state.text import printable

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
_MAX_ENDINGS = 12
_MAX_ENDING = 12

SYSTEM = "file of the system or hidden (__MACOSX, .ipynb_checkpoints, Thumbs.db, ._FILE)"
OUTSIDE = "link that leads out of"
NOWHERE = "link that leads nowhere"
INSIDE = "link to a folder of the same data"
AGAIN = "link to a folder that is read already"
ABOVE = "link to a folder that holds this one"
CLOSED = "folder that cannot be read"


@dataclass(frozen=True)
class FoundPictures:
    """Picture files below a folder.

    Attributes:
        paths: by path.
        left_out: number of files, by reason.
    """

    paths: tuple[Path, ...]
    left_out: Mapping[str, int]


def find_pictures(root: Path, setting: str, follow_links: bool = False) -> FoundPictures:
    """All pictures below `root`: by the ending of their names, those without an ending by their content.

    Args:
        setting: `reference` or `target`; for what is said of links.
        follow_links: also what links that lead out of root lead to; each folder once, links after folders.
    """
    paths: list[Path] = []
    left_out: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    for path, reason in walk(root, follow_links):
        if not reason:
            paths.append(path)
        elif reason.startswith("."):
            endings[reason] += 1
        else:
            left_out[reason] += 1
    if outside := left_out.pop(OUTSIDE, 0):
        left_out[f"{OUTSIDE} {root}; set {setting}.follow_links=true to read it"] = outside
    shown = sorted(endings.items(), key=lambda e: (-e[1], e[0]))[:_MAX_ENDINGS]
    for ending, number in shown:
        left_out[f"file with the ending {ending}"] = number
    if rest := endings.total() - sum(number for _, number in shown):
        left_out["file with another ending"] = rest
    return FoundPictures(tuple(sorted(paths, key=lambda p: p.as_posix())), dict(left_out))


def has_picture(root: Path, follow_links: bool = False) -> bool:
    """Whether there is any picture below `root`; stops at the first."""
    return any(not reason for _, reason in walk(root, follow_links))


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """`3 x file with the ending .heic, 1 x ...`, in one line; empty where nothing was left out."""
    return ", ".join(f"{number} x {reason}" for reason, number in left_out.items())


def walk(root: Path, follow_links: bool) -> Iterator[tuple[Path, str]]:
    """Every file with the reason why it is left out: empty for a picture, the ending (with its dot) for other names.

    A folder that a link leads to is walked after all others, and no folder twice, so that circles end.
    """
    inside = root.resolve()
    seen: set[tuple[int, int]] = set()
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        if folders:
            folder = folders.popleft()
        else:
            folder = links.popleft()
            if _identify(folder) in seen:
                yield folder, AGAIN
                continue
        try:
            seen.add(_identify(folder))
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError:
            yield folder, CLOSED
            continue
        for entry in entries:
            path = Path(entry.path)
            try:
                is_folder, is_link = entry.is_dir(), entry.is_symlink()
            except OSError:  # a link that leads to itself
                is_folder, is_link = False, True
            if not is_folder:
                yield from _judge_file(path, is_link, inside, follow_links)
            elif _is_system(path.name):
                yield from ((p, SYSTEM) for p in _list_pictures_of_system(path, is_link))
            elif not is_link:
                folders.append(path)
            elif reason := _judge_folder_link(path, inside, follow_links):
                yield path, reason
            else:
                links.append(path)


def _judge_file(path: Path, is_link: bool, inside: Path, follow_links: bool) -> Iterator[tuple[Path, str]]:
    ending = path.suffix.lower()
    if _is_system(path.name):
        if ending in IMAGE_SUFFIXES or path.name.lower() in _SYSTEM_FILES:
            yield path, SYSTEM
    elif ending and ending not in IMAGE_SUFFIXES:
        yield path, printable(ending)[:_MAX_ENDING]
    elif is_link and (reason := _judge_file_link(path, inside, follow_links)):
        yield path, reason
    elif not path.is_file():
        yield path, "no file (a socket or the like)"
    elif ending or is_picture(path):
        yield path, ""
    else:
        yield path, "file without an ending that is no picture"


def _judge_file_link(path: Path, inside: Path, follow_links: bool) -> str:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return NOWHERE
    return "" if follow_links or target.is_relative_to(inside) else OUTSIDE


def _judge_folder_link(path: Path, inside: Path, follow_links: bool) -> str:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return NOWHERE
    if inside.is_relative_to(target):
        return ABOVE
    if follow_links:
        return ""
    return INSIDE if target.is_relative_to(inside) else OUTSIDE


def _is_system(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS or name.lower() in _SYSTEM_FILES


def _list_pictures_of_system(folder: Path, is_link: bool) -> Iterator[Path]:
    """What would be a picture elsewhere."""
    if not is_link:
        for own, _, names in os.walk(folder):
            yield from (Path(own, name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)


def _identify(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
