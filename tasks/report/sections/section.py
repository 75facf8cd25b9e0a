"""A section of the report for one kind of analysis, as a record; the page goes through the list of these."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavise.tasks.analyses.analysis import list_analyses
from lavise.tasks.report import sections

Found = dict[str, Any]
ShownImage = tuple[str, str]
"""A data set's role and the picture's key in it."""


def _draw_nothing(_: Path) -> Iterator[tuple[str, bytes]]:
    yield from ()


def _list_nothing(_: Found) -> Sequence[ShownImage]:
    return ()


def _number_nothing(_: Found, __: Callable[[ShownImage], int | None]) -> None:
    return None


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        analysis: its name; the section is there where the analysis has run.
        link: in the page's navigation.
        describe: a layer's name and the artefact's folder -> what the template gets of them, `layer` among it.
        template: of the section; analysis.html.j2 shows a title, a text, a chart and tables.
        draw: names and contents (PNG) of the charts that also become files.
        list_images: those that the section shows.
        number_images: writes the pictures' numbers in the page into what was described.
    """

    analysis: str
    link: str
    describe: Callable[[str, Path], Found]
    template: str = "analysis.html.j2"
    draw: Callable[[Path], Iterator[tuple[str, bytes]]] = _draw_nothing
    list_images: Callable[[Found], Sequence[ShownImage]] = _list_nothing
    number_images: Callable[[Found, Callable[[ShownImage], int | None]], None] = _number_nothing


@dataclass(frozen=True)
class ShownSection:
    """A section with what it shows of each layer."""

    section: Section
    found: Sequence[Found]


def list_sections() -> list[Section]:
    """The records of the modules of this folder, in the order of their analyses."""
    names = sorted(module.name for module in pkgutil.iter_modules(sections.__path__))
    modules = [importlib.import_module(f"{sections.__name__}.{name}") for name in names]
    by_analysis = {own.analysis: own for m in modules if isinstance(own := getattr(m, "SECTION", None), Section)}
    return [by_analysis[a.name] for a in list_analyses() if a.name in by_analysis]


def describe_sections(layers: Sequence[tuple[str, Mapping[str, Path]]]) -> list[ShownSection]:
    """What there is to show.

    Args:
        layers: name of each, and the folders of its analyses by their names.
    """
    shown = []
    for section in list_sections():
        found = [section.describe(name, own[section.analysis]) for name, own in layers if section.analysis in own]
        if found:
            shown.append(ShownSection(section, found))
    return shown
