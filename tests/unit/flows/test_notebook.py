"""An audit in a notebook: tables, one filter, what is asked for in vain, and names from data as plain text."""

from __future__ import annotations

import ast
import base64
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.roles import Role
from lavise.configs.schema import ExtractSettings
from lavise.flows import notebook
from lavise.flows.notebook import Audit, AuditComparison, open_audit
from lavise.flows.shared.extraction import extract_layers
from lavise.storage.datasets.readers.image_folder import load_image_folder_target
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.files import write_json
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.analyses.analysis import list_analyses
from lavise.tasks.engine.stage import StageRunner, describe_artefacts
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.words.tables import EXPLANATIONS_SCHEMA, FILTERS_SCHEMA
from tests.unit.flows.helpers import make_config, make_filters, write_run_folder
from tests.unit.tasks.helpers import make_model, write_image

RUN = "a" * 32
TWO_LAYERS = {"body": ["cat", None], "tail": ["dog", "cat", None]}


@pytest.fixture(autouse=True)
def _state_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def make_audit(root: Path, words: dict[str, list[str | None]] | None = None, **given: Any) -> Audit:
    folder = write_run_folder(root / "runs" / RUN, make_config(root), words, **given)
    return open_audit(str(folder))


def write_rows(audit: Audit, name: str, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    parquet.write_table(pa.Table.from_pylist(rows, schema), audit.folder / name)


# Opening


def test_an_audit_is_opened_by_its_folder_and_nothing_is_made(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    assert audit.past.run_id == RUN
    assert audit.report == tmp_path / "runs" / RUN / "report.html"
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}


# Tables


def test_filters_of_all_layers_are_one_table(tmp_path: Path) -> None:
    found = make_audit(tmp_path, TWO_LAYERS).filters
    assert list(zip(found["layer"], found["filter"], strict=True)) == [
        ("body", 0),
        ("body", 1),
        ("tail", 0),
        ("tail", 1),
        ("tail", 2),
    ]


def test_a_word_is_found_where_it_is_believed_the_surest_first(tmp_path: Path) -> None:
    rows = make_filters("tail", ["cat", "dog", "cat", "cat", "cat"])
    rows[0]["confidence"], rows[2]["confidence"] = 0.4, 0.9
    rows[1]["words"] = ["dog", "cat"]
    rows[3] |= {"explained": False}
    audit = make_audit(tmp_path)
    write_rows(audit, "filters.parquet", rows, FILTERS_SCHEMA)
    assert audit.search("cat")["filter"].tolist() == [2, 1, 4, 0]
    assert audit.search("cat").index.tolist() == [0, 1, 2, 3]
    assert len(audit.search("ca")) == 0


def test_recall_is_a_row_for_each_method_and_s(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    metrics = audit.past.read_metrics()
    cells = {"10": {"high": 0.9, "low": 0.6, "value": 0.75}, "5": {"high": 0.6, "low": 0.4, "value": 0.5}}
    metrics["layers"]["tail"]["recall"] = {"closed": {"original": cells}, "open": {"original": {"5": cells["5"]}}}
    write_json(audit.folder / "metrics.json", metrics)
    found = audit.recall.to_dict("records")
    assert [(r["vocabulary"], r["s"], r["value"]) for r in found] == [
        ("closed", 5, 0.5),
        ("closed", 10, 0.75),
        ("open", 5, 0.5),
    ]
    assert list(audit.recall.columns) == ["layer", "vocabulary", "method", "s", "value", "low", "high"]
    assert {(r["layer"], r["method"]) for r in found} == {("tail", "original")}


# Tables of analyses


def test_each_table_of_an_analysis_is_an_attribute(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    names = [t.attribute for a in list_analyses() for t in a.tables if t.attribute]
    expected = {"classes", "causes", "answers", "differences", "differing_words", "expectations", "expected_filters"}
    assert expected == set(names) <= set(dir(audit))
    for name in names:
        with pytest.raises(UserError, match=rf"run {RUN} has no \w+\.parquet; allowed: an audit with that analysis"):
            getattr(audit, name)


def test_what_is_missing_names_the_setting_that_makes_it(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    for name, setting in {
        "causes": "causes.enabled",
        "classes": "classes.enabled",
        "differences": "bias.groups",
        "answers": "causes.enabled, model.head: sigmoid",
    }.items():
        with pytest.raises(UserError, match=rf"\({setting}\)$"):
            getattr(audit, name)


def test_differences_are_those_that_were_found_the_surest_first(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    rows = [
        {"filter": 3, "q_value": 0.02, "found": True},
        {"filter": 1, "q_value": 0.5, "found": False},
        {"filter": 2, "q_value": 0.02, "found": True},
        {"filter": 9, "q_value": 0.001, "found": True},
    ]
    write_rows(audit, "bias_filters.parquet", rows)
    assert audit.differences["filter"].tolist() == [9, 2, 3]
    assert audit.differences.index.tolist() == [0, 1, 2]


def test_rows_of_causes_stay_as_they_are(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    write_rows(audit, "causes.parquet", [{"word": w, "used": w == "b"} for w in "cab"])
    assert audit.causes["word"].tolist() == ["c", "a", "b"]


def test_any_other_attribute_is_a_mistake(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    with pytest.raises(AttributeError, match="an audit has no attribute 'class'"):
        getattr(audit, "class")
    assert not hasattr(audit, "_ipython_display_")


# One filter


def test_a_filter_of_the_only_layer(tmp_path: Path) -> None:
    found = make_audit(tmp_path).filter(2)
    assert (found.layer, found.number, found.row["explained"]) == ("tail", 2, False)


def test_of_several_layers_one_must_be_named(tmp_path: Path) -> None:
    audit = make_audit(tmp_path, TWO_LAYERS)
    assert audit.filter(2, "tail").layer == "tail"
    for layer in (None, "head"):
        with pytest.raises(UserError, match=rf"^layer: found {layer!r}; allowed: body, tail$"):
            audit.filter(0, layer)


@pytest.mark.parametrize("number", [2, -1])
def test_a_filter_that_the_layer_does_not_have(tmp_path: Path, number: int) -> None:
    audit = make_audit(tmp_path, TWO_LAYERS)
    with pytest.raises(UserError, match=rf"^filter: found {number}; layer body has the filters 0 to 1$"):
        audit.filter(number, "body")


def test_words_of_a_filter_are_its_own_in_their_order(tmp_path: Path) -> None:
    audit = make_audit(tmp_path, TWO_LAYERS)
    rows = [
        {"layer": layer, "filter": unit, "rank": rank, "word": f"{layer} {unit} {rank}"}
        for layer in ("body", "tail")
        for unit in (1, 0)
        for rank in (2, 1)
    ]
    write_rows(audit, "explanations.parquet", rows, EXPLANATIONS_SCHEMA)
    found = audit.filter(0, "tail").words
    assert found["word"].tolist() == ["tail 0 1", "tail 0 2"]
    assert not {"layer", "filter"} & set(found.columns)


# Pictures


def make_audit_with_images(root: Path) -> Audit:
    """The target's activations are kept, as an audit leaves them."""
    for number in range(4):
        write_image(root / "target" / f"{number}.png", 30, 40, seed=number)
    config = make_config(root)
    data = load_image_folder_target(config.target)  # type: ignore[arg-type]
    runner = StageRunner(ArtefactStore(root))
    settings, pictures = ExtractSettings(batch_size=2, shard_images=2), Given(data, data.digest_images())
    inputs = ExtractionInputs(make_model(), ("tail",), pictures, settings, "cpu")
    extract_layers(runner, "extract target", inputs, role=Role.TARGET)
    audit = make_audit(root, stages=describe_artefacts(runner.outcomes)["stages"])
    rows = make_filters("tail", ["dog", None])
    rows[0] |= {"top_images": ["2.png", "0.png", "gone.png"], "threshold": 0.0}
    write_rows(audit, "filters.parquet", rows, FILTERS_SCHEMA)
    return audit


def test_a_filter_shows_its_top_pictures(tmp_path: Path) -> None:
    """Of those that are still there; another filter has others."""
    audit = make_audit_with_images(tmp_path)
    (tmp_path / "a.png").write_bytes(audit.filter(0).picture)
    with Image.open(tmp_path / "a.png") as shown:
        assert shown.format == "PNG"
        assert np.asarray(shown.convert("RGB")).std() > 10
    assert audit.filter(0).picture != audit.filter(1).picture


def test_activations_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"the activations of run {RUN} are not in {tmp_path} any more"):
        _ = make_audit(tmp_path).filter(0).picture


# What shows itself


def test_an_audit_shows_its_layers_and_its_overview(tmp_path: Path) -> None:
    audit = make_audit(tmp_path, {"<b>tail</b>": ["dog", "cat", None]})
    (audit.folder / "overview.png").write_bytes(b"\x89PNG")
    page = audit._repr_html_()
    assert "<td>&lt;b&gt;tail&lt;/b&gt;</td><td>2 of 3</td>" in page
    assert base64.b64encode(b"\x89PNG").decode() in page


def test_a_filter_shows_its_words_as_text(tmp_path: Path) -> None:
    audit = make_audit_with_images(tmp_path)
    write_rows(
        audit,
        "explanations.parquet",
        [{"layer": "tail", "filter": 0, "rank": 1, "word": "<script>dog"}],
        EXPLANATIONS_SCHEMA,
    )
    write_rows(audit, "filters.parquet", make_filters("tail", ["<script>dog", None]), FILTERS_SCHEMA)
    page = audit.filter(0)._repr_html_()
    assert "<h4>tail, filter 0: &lt;script&gt;dog</h4>" in page
    assert "<script>" not in page
    assert "<table" in page
    assert "unexplained: the pictures do not agree" in audit.filter(1)._repr_html_()


def test_a_run_folder_without_its_state_has_words_and_no_pictures(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    write_rows(audit, "explanations.parquet", [], EXPLANATIONS_SCHEMA)
    copied = open_audit(str(shutil.copytree(audit.folder, tmp_path / "elsewhere" / "<b>copied")))
    page = copied.filter(0)._repr_html_()
    assert "<h4>tail, filter 0: dog</h4><p>no pictures here: audit: the activations of run &lt;b&gt;copied" in page
    assert "<table" in page
    assert "<img" not in page
    gallery = copied.gallery("dog")._repr_html_()
    assert gallery.count("no pictures here") == 1
    assert "tail 0: dog (0.50)" in gallery
    assert "<h3>tiny</h3>" in copied._repr_html_()


def test_pictures_that_are_gone_leave_the_words(tmp_path: Path) -> None:
    audit = make_audit_with_images(tmp_path)
    write_rows(audit, "explanations.parquet", [], EXPLANATIONS_SCHEMA)
    assert "<img" in audit.filter(0)._repr_html_()
    (tmp_path / "target" / "2.png").write_bytes(b"no picture")
    page = open_audit(str(audit.folder)).filter(0)._repr_html_()
    assert "a picture of the target cannot be read any more" in page
    assert "<table" in page


def test_on_a_plain_console_everything_is_text(tmp_path: Path) -> None:
    audit = make_audit(tmp_path, TWO_LAYERS)
    write_rows(audit, "causes.parquet", [{"word": "a"}])
    assert repr(audit) == (
        f"Audit of tiny, run {RUN}\n  body: 1 of 2\n  tail: 2 of 3\n  tables: filters, words, recall, causes"
    )
    write_rows(
        audit, "explanations.parquet", [{"layer": "tail", "filter": 1, "rank": 1, "word": "cat"}], EXPLANATIONS_SCHEMA
    )
    lines = repr(audit.filter(1, "tail")).splitlines()
    assert lines[0] == "tail, filter 1: cat"
    assert lines[1].split() == ["rank", "word", "share", "confidence", "auroc"]
    assert repr(audit.gallery("cat")) == "2 filters explained by cat\n  body 0: cat (0.50)\n  tail 1: cat (0.50)"


def test_a_gallery_is_a_sequence_of_the_surest_filters(tmp_path: Path) -> None:
    audit = make_audit_with_images(tmp_path)
    rows = make_filters("tail", ["dog", "<i>dog", "dog", "dog"])
    for number, row in enumerate(rows):
        row |= {"confidence": number / 10, "top_images": ["2.png"], "threshold": 0.0}
    write_rows(audit, "filters.parquet", rows, FILTERS_SCHEMA)
    found = open_audit(str(audit.folder)).gallery("dog", most=2)
    assert ([view.number for view in found], len(found), found[0].number) == ([3, 2], 2, 3)
    page = found._repr_html_()
    assert "<h4>3 filters explained by dog, the 2 most confident</h4>" in page
    assert page.count("<img") == 2
    hostile = open_audit(str(audit.folder)).gallery("<i>dog")._repr_html_()
    assert "<i>" not in hostile
    assert "1 filter explained by &lt;i&gt;dog" in hostile


# Expected words, and two audits


def test_words_are_expected_from_a_notebook(tmp_path: Path) -> None:
    audit = make_audit(tmp_path)
    write_rows(audit, "explanations.parquet", [], EXPLANATIONS_SCHEMA)
    found = audit.expect(must="dog", must_not=["tree", "moon"])
    assert list(zip(found["word"], found["outcome"], strict=True)) == [
        ("dog", "met"),
        ("tree", "broken"),
        ("moon", "unclear"),
    ]
    with pytest.raises(UserError, match=r"^expect: run a+ has no expected words of its own; give some"):
        audit.expect()


def test_tables_that_editors_know_are_those_of_the_analyses() -> None:
    """Declared for type checkers alone, so that no kind is named at run time."""
    tree = ast.parse(Path(notebook.__file__).read_text("utf-8"))
    declared = {
        entry.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for entry in node.body
        if isinstance(entry, ast.FunctionDef)
    }
    assert declared == {t.attribute for a in list_analyses() for t in a.tables if t.attribute}


def test_a_comparison_shows_itself(tmp_path: Path) -> None:
    counts = {"num_old": 4, "num_same": 1, "num_changed": 2, "num_lost": 1, "num_new_filters": 0, "share_kept": 0.25}
    words = {"words_gained": ["<b>"], "words_lost": []}
    write_json(tmp_path / "diff.json", {"old_run": "a", "layers": {"tail": {**counts, **words}}})
    statuses = [("same", 1.0), ("changed", 0.8), ("lost", None), ("changed", 0.6)]
    rows = [{"layer": "tail", "status": status, "similarity": value} for status, value in statuses]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "diff.parquet")
    found = AuditComparison("a", "b", tmp_path)
    assert found.summary["num_same"].tolist() == [1]
    assert found.changes["status"].tolist() == ["lost", "changed", "changed"]
    assert found.changes["similarity"].tolist()[1:] == [0.6, 0.8]
    assert repr(found).startswith("run b compared with a\nlayer ")
    assert "&lt;b&gt;" in found._repr_html_()
    assert found.page == tmp_path / "diff.html"


def test_what_notebooks_use_is_at_the_top_and_imports_nothing_before() -> None:
    code = (
        "import sys, lavise; early = {'torch', 'pandas', 'mlflow', 'pydantic'} & set(sys.modules); "
        "print(sorted(early), lavise.compare.__module__, 'open_audit' in dir(lavise), hasattr(lavise, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] lavise.flows.notebook True False"
