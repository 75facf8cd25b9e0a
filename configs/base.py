"""What all settings are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home


def _expand(path: object) -> object:
    """Before it becomes a Path, which forgets the dot of `./~`; what is no path is left to pydantic."""
    if not isinstance(path, str | Path):
        return path
    try:
        return type(path)(expand_home(path))  # JSON has no Path, and strict pydantic takes none there
    except UserError as err:
        raise ValueError(str(err)) from None


UserPath = Annotated[Path, BeforeValidator(_expand)]
"""A path in which a leading `~` is the home folder. Whatever holds a Path is made absolute before it is kept."""


@dataclass(frozen=True)
class PathUnless:
    """Marks a text that is a path, but for some names and whatever begins with `package:`."""

    names: tuple[str, ...] = ()

    def is_path(self, value: str) -> bool:
        return value not in self.names and not value.startswith("package:")


TRANSFORMERS = "transformers:"
"""Before the folder of a network of that library."""


@dataclass(frozen=True)
class CallableOfFile:
    """Marks a text that may be `path/to/file.py:callable`, or `transformers:path/to/folder`."""

    def is_path(self, value: str) -> bool:
        return value.startswith(TRANSFORMERS) or value.rpartition(":")[0].endswith(".py")


class _Mark:
    """Something that a field is marked with."""


NOT_IDENTITY = _Mark()
"""Marks a field on which the words of an audit do not depend, or that differs between audits of one series."""


SINCE_DEFAULT = _Mark()
"""Marks a field that came later: at its default an audit is the same as before there was the field."""


class Settings(BaseModel):
    """Base of all sections: immutable, and a key that is not listed is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
