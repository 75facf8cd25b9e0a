"""Formats of labelled data sets: each reader registers itself where it is written, by the `kind` of its settings."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavise.storage import datasets
from lavise.storage.datasets.base import Reference


@dataclass(frozen=True)
class Format:
    """How a labelled data set is read.

    Attributes:
        read: its settings and the audit's seed -> both parts; raises UserError.
        list_files: files and folders below its root that it needs, by the setting that names them; none where any
            picture will do.
    """

    read: Callable[[Any, int], Reference]
    list_files: Callable[[Any], Mapping[str, Sequence[str]]] = lambda settings: {}


_FORMATS: dict[str, Format] = {}


def register_format(kind: str, known: Format) -> None:
    """Whatever has settings of this kind is read so."""
    _FORMATS[kind] = known


def find_format(kind: str) -> Format:
    """The format of settings of this kind.

    Raises:
        KeyError: no module of this folder registers it.
    """
    for module in pkgutil.iter_modules(datasets.__path__):
        importlib.import_module(f"{datasets.__name__}.{module.name}")
    return _FORMATS[kind]
