"""All kinds of analysis: told apart by name, place and file, and each one true to its record on a real layer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from lavise.configs.roles import Role
from lavise.tasks.analyses import kinds
from lavise.tasks.analyses.analysis import Analysis, list_analyses
from lavise.tasks.report.sections.section import list_sections
from tests.unit.tasks.analyses.explained_layer import SmallLayer, make_config, make_layer

ANALYSES = list_analyses()
OTHERS_OFF: dict[str, Any] = {"expect": {"must_not": []}}
each_analysis = pytest.mark.parametrize("analysis", ANALYSES, ids=lambda a: a.name)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> SmallLayer:
    return make_layer(tmp_path_factory.mktemp("layer"))


def are_different(values: Iterable[Any]) -> bool:
    found = list(values)
    return len(set(found)) == len(found) > 0


# The list


def test_analyses_come_in_their_order() -> None:
    assert [a.name for a in ANALYSES] == ["bias", "classes", "causes", "expect"]
    assert [a.place for a in ANALYSES] == sorted(a.place for a in ANALYSES)


def test_every_module_of_the_folder_is_a_kind() -> None:
    (folder,) = kinds.__path__
    assert len(ANALYSES) == len([p for p in Path(folder).glob("*.py") if p.name != "__init__.py"])


def test_no_two_share_a_name_a_place_or_a_file() -> None:
    """Their files lie side by side in the run folder, and their tables are attributes of one audit."""
    assert are_different(a.name for a in ANALYSES)
    assert are_different(a.place for a in ANALYSES)
    assert are_different([*(t.file for a in ANALYSES for t in a.tables), *(a.facts_file for a in ANALYSES)])
    assert are_different(t.attribute for a in ANALYSES for t in a.tables if t.attribute)


def test_each_has_its_section_of_the_report() -> None:
    assert {s.analysis for s in list_sections()} == {a.name for a in ANALYSES}


# Settings


@each_analysis
def test_the_setting_that_is_named_switches_it_on_and_off(analysis: Analysis[Any]) -> None:
    section, _, key = analysis.setting.partition(".")
    on: Any
    off: Any
    on, off = {"groups": ("folder", None), "enabled": (True, False), "must": (["dog"], [])}[key]
    assert analysis.is_wanted(make_config(**{section: {**OTHERS_OFF.get(section, {}), key: on}}))
    assert not analysis.is_wanted(make_config(**{section: {**OTHERS_OFF.get(section, {}), key: off}}))


@each_analysis
def test_only_its_own_setting_switches_it(analysis: Analysis[Any]) -> None:
    off = {
        "bias": {"groups": None},
        "classes": {"enabled": False},
        "causes": {"enabled": False},
        "expect": {"must": [], "must_not": []},
    }
    others = {section: value for section, value in off.items() if section != analysis.setting.partition(".")[0]}
    assert len(others) == len(off) - 1
    assert analysis.is_wanted(make_config(**others))


@each_analysis
def test_settings_without_a_fault_pass(analysis: Analysis[Any], layer: SmallLayer) -> None:
    analysis.check_settings(layer.config)
    analysis.check_data(layer.config, layer.find)


@each_analysis
def test_what_it_depends_on_is_json_and_always_the_same(analysis: Analysis[Any], layer: SmallLayer) -> None:
    request = analysis.inputs(layer).request()
    assert json.loads(json.dumps(request.settings)) == request.settings
    assert request == analysis.inputs(layer).request()
    assert request.inputs


@each_analysis
def test_other_words_are_another_artefact(analysis: Analysis[Any], layer: SmallLayer) -> None:
    renamed = SmallLayer(**{**vars(layer), "words": [["bird"], *layer.words[1:]]})
    assert analysis.inputs(renamed).request() != analysis.inputs(layer).request()


# What it makes


@pytest.fixture(scope="module")
def made(layer: SmallLayer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and facts of each."""
    found = {}
    for analysis in ANALYSES:
        folder = tmp_path_factory.mktemp(analysis.name)
        found[analysis.name] = (folder, dict(analysis.compute(analysis.inputs(layer), folder)))
    return found


Made = dict[str, tuple[Path, dict[str, Any]]]


@each_analysis
def test_its_files_are_those_of_its_record(analysis: Analysis[Any], made: Made) -> None:
    folder, _ = made[analysis.name]
    written = {p.name for p in folder.iterdir()}
    expected = {table.file for table in analysis.tables if not table.needs}
    assert {analysis.facts_file, *expected} <= written
    assert {name for name in written if name.endswith(".parquet")} == expected
    json.loads((folder / analysis.facts_file).read_text("utf-8"))


@each_analysis
def test_its_tables_have_the_columns_that_it_speaks_of(analysis: Analysis[Any], made: Made) -> None:
    for table in (t for t in analysis.tables if not t.needs):
        found = parquet.read_table(made[analysis.name][0] / table.file)
        assert {*table.order, *(("found",) if table.found_only else ())} <= set(found.column_names)
        assert set(found.column("layer").to_pylist()) == {"act"}


@each_analysis
def test_its_facts_are_told_in_a_line_of_json(analysis: Analysis[Any], made: Made) -> None:
    """Numbers among them become metrics."""
    _, facts = made[analysis.name]
    assert any(isinstance(value, int | float) for value in facts.values())
    json.dumps(facts, allow_nan=False)


@each_analysis
def test_its_rows_are_shown_as_text(analysis: Analysis[Any], made: Made) -> None:
    folder, _ = made[analysis.name]
    files = [table.file for table in analysis.tables if not table.needs]
    rows = {name: parquet.read_table(folder / name).to_pylist() for name in files}
    shown = list(analysis.show(rows))
    assert shown
    for table in shown:
        assert table.title
        assert all(len(row) == len(table.headings) for row in table.rows)
        assert all(isinstance(cell, str) for row in table.rows for cell in row)
        assert max(table.right, default=0) < len(table.headings)


@each_analysis
def test_without_rows_nothing_is_shown(analysis: Analysis[Any]) -> None:
    assert list(analysis.show({table.file: [] for table in analysis.tables})) == []


@each_analysis
def test_the_pictures_that_it_shows_are_a_part_of_the_data(analysis: Analysis[Any]) -> None:
    role = analysis.shows_images(make_config())
    assert role is None or role in list(Role)


def test_causes_of_a_multi_label_classifier_have_all_their_tables(tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "state", model={"arch": "small", "head": "sigmoid"})
    causes = next(a for a in ANALYSES if a.name == "causes")
    folder = tmp_path / "causes"
    folder.mkdir()
    causes.compute(causes.inputs(layer), folder)
    assert {p.name for p in folder.glob("*.parquet")} == {table.file for table in causes.tables}
    rows = {table.file: parquet.read_table(folder / table.file).to_pylist() for table in causes.tables}
    (shown,) = causes.show(rows)
    assert shown.headings[4] == "lost, gained"
    assert all(isinstance(cell, str) for row in shown.rows for cell in row)
