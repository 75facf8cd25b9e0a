"""How data sets are read, labelled (the reference) or not (the target): each reader registers itself where it is
written, by the `kind` of its settings.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lavise.configs.base import Settings
from lavise.configs.loading import with_absolute_paths
from lavise.storage.datasets import readers
from lavise.storage.datasets.base import Dataset, Reference
from lavise.storage.packed_list import PackedList


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


@dataclass(frozen=True)
class TargetFormat:
    """How a data set is read of which no label is looked at.

    Attributes:
        read: its settings -> the pictures; raises UserError.
        list_files: as of `Format`.
    """

    read: Callable[[Any], Dataset]
    list_files: Callable[[Any], Mapping[str, Sequence[str]]] = lambda settings: {}


_FORMATS: dict[str, Format] = {}
_TARGET_FORMATS: dict[str, TargetFormat] = {}


def register_format(kind: str, known: Format) -> None:
    """Whatever has settings of this kind, as a reference, is read so."""

    def read(settings: Any, seed: int) -> Reference:
        found = known.read(_at_one_place(settings), seed)
        return Reference(_set_range(found.train, settings), _set_range(found.evaluation, settings))

    _FORMATS[kind] = replace(known, read=read)


def register_target_format(kind: str, known: TargetFormat) -> None:
    """Whatever has settings of this kind, as a target, is read so."""
    _TARGET_FORMATS[kind] = replace(
        known, read=lambda settings: _set_range(known.read(_at_one_place(settings)), settings)
    )


def _at_one_place(settings: Any) -> Any:
    """With absolute paths, as an audit has them, whoever else reads: readers join paths in many ways."""
    return with_absolute_paths(settings) if isinstance(settings, Settings) else settings


def _set_range(dataset: Dataset, settings: Any) -> Dataset:
    """Pictures with the range of grey values that the settings ask for, where their kind has that setting."""
    value_range = getattr(settings, "value_range", None)
    if value_range is None:
        return dataset
    return replace(dataset, records=PackedList(replace(r, value_range=value_range) for r in dataset.records))


def find_format(kind: str) -> Format:
    """The format of a reference's settings of this kind.

    Raises:
        KeyError: no module of this folder registers it.
    """
    _import_readers()
    return _FORMATS[kind]


def find_target_format(kind: str) -> TargetFormat:
    """The format of a target's settings of this kind.

    Raises:
        KeyError: no module of this folder registers it.
    """
    _import_readers()
    return _TARGET_FORMATS[kind]


def _import_readers() -> None:
    for module in pkgutil.iter_modules(readers.__path__):
        importlib.import_module(f"{readers.__name__}.{module.name}")
