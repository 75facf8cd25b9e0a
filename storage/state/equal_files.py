"""Files with the same bytes, kept once: several names of one file (hard links)."""

from __future__ import annotations

import filecmp
import logging
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("lavise")
_LEAST_BYTES = 100_000
_MOST_COMPARED = 50


def link_equal_files(folder: Path, others: Sequence[Path]) -> int:
    """Make each larger file in a folder another name of an equal one, where one of the other folders has it.

    Only for files that nobody writes to: who changes one changes all. Where a file system has no hard links, or
    something vanishes meanwhile, the files stay as they are.

    Args:
        others: looked through in this order, for a file at the same place.

    Returns:
        bytes that are no longer kept twice.
    """
    saved = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        try:
            saved += _link(path, [other / path.relative_to(folder) for other in others])
        except OSError as err:
            log.debug("  %s is kept as it is: %s", path, err)
    return saved


def _link(path: Path, candidates: Sequence[Path]) -> int:
    own = path.stat()
    if own.st_size < _LEAST_BYTES:
        return 0
    seen = {(own.st_dev, own.st_ino)}
    for candidate in candidates:
        if not candidate.is_file() or candidate.is_symlink() or len(seen) > _MOST_COMPARED:
            continue
        found = candidate.stat()
        key = (found.st_dev, found.st_ino)
        if found.st_size != own.st_size or found.st_dev != own.st_dev or key in seen:
            continue
        seen.add(key)
        if filecmp.cmp(path, candidate, shallow=False):
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
            os.link(candidate, temporary)
            os.replace(temporary, path)
            return own.st_size
    return 0
