"""Files of pictures by what labels call them: other machines' folders, Windows separators, encoded names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import TooLongNameError, resolve_inside
from lavise.storage.images.picture_files import find_pictures
from lavise.storage.state.text import printable

# Label Studio puts eight hexadecimal digits before the name of a picture that was uploaded.
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")


class ImageFinder:
    """Finds pictures below one folder, and counts those whose names had to be searched for.

    Attributes:
        num_searched: names that stand for a file elsewhere below the folder.
        missing: names for which there is no file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.num_searched = 0
        self.missing: list[str] = []

    def find(self, name: str) -> tuple[str, Path]:
        """(key, path) of a picture: the file of that name, else the only one below the folder with the same last parts.

        A file that is not there keeps its name: extraction leaves it out and counts it.

        Raises:
            UserError: the name leads out of the folder, or several files have the same last parts.
        """
        outside = None
        try:
            path = resolve_inside(self._folder, name)
            if path.is_file():
                return name, path
        except TooLongNameError:
            pass
        except UserError as err:
            outside = err
        if (key := self._find_below_its_own_name(name)) is not None:
            return key, resolve_inside(self._folder, key)
        if (key := self._search(name)) is not None:
            self.num_searched += 1
            return key, resolve_inside(self._folder, key)
        if outside is not None:
            raise outside
        self.missing.append(name)
        return name, self._folder / name

    def _find_below_its_own_name(self, name: str) -> str | None:
        """LVIS writes `train2017/1.jpg`, and the folder is train2017; this spares the list of all files."""
        first, _, rest = name.partition("/")
        if first != self._folder.resolve().name or not rest:
            return None
        try:
            return rest if resolve_inside(self._folder, rest).is_file() else None
        except UserError:
            return None

    def _search(self, name: str) -> str | None:
        for text in (name, unquote(name)):
            parts = [p for p in re.split(r"[/\\]|\?d=", text) if p not in {"", ".", ".."}]
            for last in (parts[-1:], [_UPLOAD.sub("", parts[-1])] if parts else []):
                if last and last[0] in self._files and (key := self._choose([*parts[:-1], *last], name)):
                    return key
        return None

    def _choose(self, parts: Sequence[str], name: str) -> str:
        found = self._files[parts[-1]]
        for depth in range(2, len(parts) + 1):
            closer = [key for key in found if key.split("/")[-depth:] == list(parts[-depth:])]
            if not closer:
                break
            found = closer
        if len(found) > 1:
            raise UserError(
                f"data set: file name {printable(name)!r} may be {printable(found[0])} or {printable(found[1])} below "
                f"{self._folder}; allowed: names whose last parts only one file has; name the folder of the pictures "
                "more closely"
            )
        return found[0]

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """Paths below the folder by their last part; made once, when a name is searched for."""
        files: dict[str, list[str]] = defaultdict(list)
        for path in find_pictures(self._folder, "reference").paths:
            files[path.name].append(path.relative_to(self._folder).as_posix())
        return dict(files)
