"""Modules of installed packages that register something with lavise when they are imported.

A package says so in its metadata, with an entry point of the group `lavise.extensions` that names the module.
"""

from __future__ import annotations

import functools
import hashlib
import linecache
import sys
from importlib import metadata

from lavise.configs.errors import UserError

GROUP = "lavise.extensions"


@functools.cache
def import_extensions() -> None:
    """Import what installed packages name, once.

    Raises:
        UserError: one of them cannot be imported; names the package.
    """
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        try:
            point.load()
        except Exception as err:  # whatever somebody else's module raises
            package = point.dist.name if point.dist else point.name
            cause = " ".join(f"{type(err).__name__}: {err}".split())
            raise UserError(
                f"package {package}: its module {point.value!r}, which registers with lavise, cannot be imported "
                f"({cause}); mend, update or uninstall the package"
            ) from err


def digest_outside_code() -> str:
    """sha256 of the file, or the cell of a notebook, that calls lavise; empty where nobody knows what it says.

    What it imports from elsewhere is not in it.
    """
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith("lavise."):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    name = frame.f_code.co_filename
    linecache.checkcache(name)
    text = "".join(linecache.getlines(name, frame.f_globals))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else ""
