"""Audits from Python: a few functions, and objects that show themselves in a notebook as tables and pictures."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.paths import expand_home
from lavise.configs.roles import Role
from lavise.flows.past_audits.past_runs import PastRun, open_past_run, open_stores
from lavise.flows.shared.inputs import open_target
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import ImageRecord
from lavise.storage.images.images import BrokenImageError
from lavise.storage.state import file_names
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.progress import default_progress, no_progress
from lavise.storage.state.text import one_line
from lavise.storage.tracking import NullTracker, open_tracker
from lavise.tasks.analyses.analysis import Table as AnalysisTable
from lavise.tasks.analyses.analysis import list_analyses
from lavise.tasks.engine.stage import StageRunner

if TYPE_CHECKING:
    import pandas as pd

_IMAGES, _IMAGE_PX = 8, 160
_GALLERY_IMAGES, _GALLERY_PX = 5, 112
_FIRST = ("value", "low", "high")


def run(config: str, *overrides: str) -> Audit:
    """Audit a checkpoint, like `lavise run CONFIG --set ...`.

    Args:
        config: a preset's name or a YAML file.
        overrides: `section.key=value`.

    Raises:
        UserError: a mistake in settings or inputs.
    """
    from lavise.flows.audit.run import run_audit
    from lavise.flows.shared.retries import run_with_retries

    settings = load_config(config, overrides)
    root = find_state_root(settings.storage.root)
    result = run_audit(settings, open_tracker(settings.tracking, root), default_progress(), run_with_retries)
    return open_audit(str(result.run_dir))


def open_audit(audit: str | os.PathLike[str]) -> Audit:
    """An audit that has ended, by the id of its MLflow run or by its run folder.

    Raises:
        UserError: no such audit.
    """
    audit = os.fspath(audit)
    if (expand_home(audit) / file_names.CONFIG).is_file():  # nothing but the folder is needed, and nothing is made
        return Audit(open_past_run(audit, NullTracker(), find_state_root(None)))
    tracker, root = open_stores(audit)
    return Audit(open_past_run(audit, tracker, root))


@dataclass(frozen=True, repr=False)
class Audit:
    """One audit. Its tables are pandas data frames; the audit itself shows a summary and its overview."""

    past: PastRun

    @property
    def folder(self) -> Path:
        """With all files of the audit; report.html is among them."""
        return self.past.folder

    @property
    def report(self) -> Path:
        """The page to open in a browser."""
        return self.folder / file_names.REPORT

    @cached_property
    def filters(self) -> pd.DataFrame:
        """A row for each filter: words, confidence, threshold, why it is unexplained."""
        return self._read(file_names.FILTERS)

    @cached_property
    def words(self) -> pd.DataFrame:
        """A row for each filter and word, with votes, interval, background, p and q."""
        return self._read(file_names.EXPLANATIONS)

    @cached_property
    def recall(self) -> pd.DataFrame:
        """Recall@s of each method on the evaluation pictures, in the order of s: `value`, with its 95 % interval from
        `low` to `high`."""
        import pandas as pd

        rows = [
            {"layer": layer, "vocabulary": vocabulary, "method": method, "s": int(s), **_put_first(cell)}
            for layer, found in self.past.read_metrics()["layers"].items()
            for vocabulary, methods in found["recall"].items()
            for method, by_s in methods.items()
            for s, cell in sorted(by_s.items(), key=lambda entry: int(entry[0]))
        ]
        return pd.DataFrame(rows)

    def search(self, word: str) -> pd.DataFrame:
        """The filters that are explained by a word, the most confident first."""
        rows = self.filters
        has_word = rows["words"].map(lambda words: word in list(words)) & rows["explained"]
        return rows[has_word].sort_values(["confidence", "filter"], ascending=[False, True]).reset_index(drop=True)

    def gallery(self, word: str, most: int = 12) -> Gallery:
        """The filters that are explained by a word side by side, the most confident first, with their pictures.

        Args:
            most: filters that are shown at most.
        """
        return Gallery(self, word, most)

    def expect(
        self,
        must: str | Sequence[str] = (),
        must_not: str | Sequence[str] = (),
        by: str | None = None,
        relatives: str | None = None,
    ) -> pd.DataFrame:
        """What became of words that must, or must not, matter: a row for each word and layer, as in `expectations`.

        Args:
            must, must_not: words; where none are given, those of the audit's own settings.
            by: `words` or `causes`; relatives: `forms`, `synonyms` or `kinds` (see `lavise config expect`).

        Raises:
            UserError: no words, or some that are none.
        """
        import pandas as pd

        from lavise.flows.past_audits.expectations import choose_expectations, judge_run

        wanted, unwanted = ([words] if isinstance(words, str) else list(words) for words in (must, must_not))
        settings = choose_expectations(self.past.config.expect, wanted, unwanted, by, relatives)
        result = judge_run(self.past, settings)
        return pd.DataFrame([asdict(row) for row in result.words])

    def filter(self, number: int, layer: str | None = None) -> FilterView:
        """One filter with its pictures.

        Args:
            layer: may be left out where only one was audited.

        Raises:
            UserError: no such filter or layer.
        """
        layers = self.past.layers
        chosen = layer or layers[0]
        if chosen not in layers or (layer is None and len(layers) > 1):
            raise UserError(f"layer: found {layer!r}; allowed: {', '.join(layers)}")
        rows = self.filters
        found = rows[(rows["layer"] == chosen) & (rows["filter"] == number)]
        if found.empty:
            last = int(rows[rows["layer"] == chosen]["filter"].max())
            raise UserError(f"filter: found {number}; layer {chosen} has the filters 0 to {last}")
        return FilterView(self, chosen, number, found.iloc[0].to_dict())

    if TYPE_CHECKING:  # of analyses, for editors; at run time they are whatever `list_analyses` has

        @property
        def classes(self) -> pd.DataFrame:
            """A row for each class and filter that it leans on."""

        @property
        def causes(self) -> pd.DataFrame:
            """A row for each word: what the network answers without its filters."""

        @property
        def answers(self) -> pd.DataFrame:
            """Of a multi-label classifier, a row for each class without the filters of a word."""

        @property
        def differences(self) -> pd.DataFrame:
            """A row for each filter in which groups of pictures differ."""

        @property
        def differing_words(self) -> pd.DataFrame:
            """A row for each word in which groups of pictures differ."""

        @property
        def expectations(self) -> pd.DataFrame:
            """A row for each word that must, or must not, matter, with its outcome."""

        @property
        def expected_filters(self) -> pd.DataFrame:
            """A row for each filter that says such a word."""

    def __getattr__(self, name: str) -> pd.DataFrame:
        """Tables of analyses, by the names that these give them: `classes`, `causes`, `differences` and so on.

        Raises:
            UserError: the audit was made without that analysis.
        """
        for analysis in list_analyses():
            for table in analysis.tables:
                if table.attribute == name:
                    return self._read_analysis(table, analysis.setting)
        raise AttributeError(f"an audit has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        tables = [table.attribute for analysis in list_analyses() for table in analysis.tables if table.attribute]
        return [*super().__dir__(), *tables]

    def _read_analysis(self, table: AnalysisTable, setting: str) -> pd.DataFrame:
        if not (self.folder / table.file).is_file():
            needed = f"{setting}, {table.needs}" if table.needs else setting
            raise UserError(
                f"audit: run {self.past.run_id} has no {table.file}; allowed: an audit with that analysis ({needed})"
            )
        rows = self._read(table.file)
        if table.found_only:
            rows = rows[rows["found"]]
        return rows.sort_values(list(table.order)).reset_index(drop=True) if table.order else rows

    def _read(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self.folder / name)

    def __repr__(self) -> str:
        lines = [f"Audit of {self.past.title}, run {self.past.run_id}"]
        lines += [f"  {layer}: {said}" for layer, said in self._describe_layers()]
        tables = [t.attribute for a in list_analyses() for t in a.tables if t.attribute and self._has(t.file)]
        return "\n".join([*lines, f"  tables: {', '.join(['filters', 'words', 'recall', *tables])}"])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(layer)}</td><td>{html.escape(said)}</td></tr>"
            for layer, said in self._describe_layers()
        )
        overview = self.folder / file_names.OVERVIEW
        return (
            f"<h3>{html.escape(self.past.title)}</h3>"
            f"<table><thead><tr><th>layer</th><th>filters explained</th></tr></thead><tbody>{rows}</tbody></table>"
            f"{_show_png(overview.read_bytes()) if overview.is_file() else ''}"
        )

    def _find_target(self, layer: str) -> _Target:
        """Opened once."""
        if layer not in self._targets:
            self._targets[layer] = _open_pictures(self.past, layer)
        return self._targets[layer]

    @cached_property
    def _targets(self) -> dict[str, _Target]:
        return {}

    def _describe_layers(self) -> list[tuple[str, str]]:
        measured = self.past.read_metrics()["layers"]
        return [(layer, f"{own['num_explained']} of {own['num_filters']}") for layer, own in measured.items()]

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()


@dataclass(frozen=True, repr=False)
class FilterView:
    """One filter: its words with the evidence, and its top pictures with the region outlined."""

    audit: Audit
    layer: str
    number: int
    row: dict[str, Any]

    @property
    def words(self) -> pd.DataFrame:
        """With votes, interval, background, p, q and confidence."""
        rows = self.audit.words
        own = rows[(rows["layer"] == self.layer) & (rows["filter"] == self.number)]
        return own.sort_values("rank").drop(columns=["layer", "filter"]).reset_index(drop=True)

    @property
    def said(self) -> str:
        """Its words, or why it is unexplained."""
        return ", ".join(self.row["words"]) if self.row["explained"] else f"unexplained: {self.row['reason']}"

    @cached_property
    def picture(self) -> bytes:
        """PNG of the top pictures, dimmed outside the filter's region.

        Raises:
            UserError: the activations or the pictures are away.
        """
        return self.draw(_IMAGES, _IMAGE_PX)

    def draw(self, num: int, size_px: int) -> bytes:
        """The same of `num` pictures, of that many pixels along the longer side.

        Raises:
            UserError: the activations or the pictures are away.
        """
        from lavise.tasks.report.pictures import draw_filter

        past, target = self.audit.past, self.audit._find_target(self.layer)
        try:
            return draw_filter(
                *(target.activations, self.row, target.records, num, size_px, past.title), past.config.report.bands
            )
        except (BrokenImageError, OSError) as err:
            raise UserError(f"audit: a picture of the target cannot be read any more ({one_line(err)})") from None

    def __repr__(self) -> str:
        return f"{self._heading}\n{self.words[list(_SHOWN_COLUMNS)].to_string(index=False, float_format='%.3g')}"

    def _repr_html_(self) -> str:
        try:
            shown = _show_png(self.picture)
        except UserError as err:  # a run folder that was copied has words, and no pictures
            shown = f"<p>{html.escape(_NO_PICTURES.format(err))}</p>"
        words = self.words.to_html(escape=True, index=False, float_format="%.3g")
        return f"<h4>{html.escape(self._heading)}</h4>{shown}{words}"

    @property
    def _heading(self) -> str:
        return f"{self.layer}, filter {self.number}: {self.said}"


@dataclass(frozen=True, repr=False)
class Gallery(Sequence["FilterView"]):
    """The filters that are explained by a word; shows itself as their pictures, and is a sequence of them."""

    audit: Audit
    word: str
    most: int
    filters: tuple[FilterView, ...] = field(init=False)
    num: int = field(init=False)

    def __post_init__(self) -> None:
        found = self.audit.search(self.word)
        rows = found.head(self.most).to_dict("records")
        views = (FilterView(self.audit, row["layer"], int(row["filter"]), row) for row in rows)
        object.__setattr__(self, "filters", tuple(views))
        object.__setattr__(self, "num", len(found))

    def __len__(self) -> int:
        return len(self.filters)

    @overload
    def __getitem__(self, index: int) -> FilterView: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FilterView, ...]: ...
    def __getitem__(self, index: int | slice) -> FilterView | tuple[FilterView, ...]:
        return self.filters[index]

    @property
    def _heading(self) -> str:
        shown = f", the {len(self)} most confident" if self.num > len(self) else ""
        return f"{self.num} filter{'' if self.num == 1 else 's'} explained by {self.word}{shown}"

    def __repr__(self) -> str:
        lines = [f"  {_describe_card(view)}" for view in self.filters]
        return "\n".join([self._heading, *lines])

    def _repr_html_(self) -> str:
        note, cards = "", []
        for view in self.filters:
            picture = ""
            if not note:
                try:
                    picture = _show_png(view.draw(_GALLERY_IMAGES, _GALLERY_PX))
                except UserError as err:
                    note = f"<p>{html.escape(_NO_PICTURES.format(err))}</p>"
            cards.append(f'<div style="{_CARD}">{html.escape(_describe_card(view))}<br>{picture}</div>')
        grid = f'<div style="{_GRID}">{"".join(cards)}</div>'
        return f"<h4>{html.escape(self._heading)}</h4>{note}{grid}"


_NO_PICTURES = "no pictures here: {}"
_SHOWN_COLUMNS = ("rank", "word", "share", "confidence", "auroc")
_CARD = "border:1px solid #8888;border-radius:6px;padding:6px"
_GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr));gap:8px"


def _describe_card(view: FilterView) -> str:
    return f"{view.layer} {view.number}: {view.said} ({view.row['confidence']:.2f})"


def compare(old: Audit | str, new: Audit | str, *overrides: str) -> AuditComparison:
    """What changed between two audits, like `lavise diff OLD NEW --set ...`.

    Args:
        old, new: audits, or what `open_audit` takes.
        overrides: settings of the comparison, `diff.key=value`.

    Raises:
        UserError: no such audits, or nothing to compare.
    """
    from lavise.flows.past_audits.compare import diff_runs
    from lavise.flows.shared.retries import run_with_retries

    first, second = (str(audit.folder) if isinstance(audit, Audit) else audit for audit in (old, new))
    tracker, root = open_stores(second)
    result = diff_runs(first, second, overrides, tracker, root, default_progress(), run_with_retries)
    return AuditComparison(result.old_run, result.new_run, result.folder)


@dataclass(frozen=True, repr=False)
class AuditComparison:
    """What changed between two audits. Its tables are pandas data frames.

    Attributes:
        folder: with diff.parquet, diff.json, diff.png and diff.html.
    """

    old_run: str
    new_run: str
    folder: Path

    @property
    def page(self) -> Path:
        """To open in a browser."""
        return self.folder / "diff.html"

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row for each layer: how many filters are the same, changed, lost and new; words gained and lost."""
        import pandas as pd

        layers = json.loads((self.folder / "diff.json").read_text("utf-8"))["layers"]
        return pd.DataFrame([{"layer": layer, **found} for layer, found in layers.items()])

    @cached_property
    def filters(self) -> pd.DataFrame:
        """A row for each filter of either audit, with its match and their correlation."""
        import pandas as pd

        return pd.read_parquet(self.folder / "diff.parquet")

    @property
    def changes(self) -> pd.DataFrame:
        """The filters that are not the same, the least alike first; those without a match are first of all."""
        rows = self.filters[self.filters["status"] != "same"]
        return rows.sort_values(["layer", "similarity"], na_position="first", kind="stable").reset_index(drop=True)

    @property
    def _shown(self) -> pd.DataFrame:
        names = ("num_old", "num_same", "num_changed", "num_lost", "num_new_filters", "share_kept")
        return self.summary[["layer", *names, "words_gained", "words_lost"]]

    @property
    def _heading(self) -> str:
        return f"run {self.new_run} compared with {self.old_run}"

    def __repr__(self) -> str:
        return f"{self._heading}\n{self._shown.to_string(index=False, float_format='%.3g')}"

    def _repr_html_(self) -> str:
        chart = self.folder / "diff.png"
        shown = _show_png(chart.read_bytes()) if chart.is_file() else ""
        table = self._shown.to_html(escape=True, index=False, float_format="%.3g")
        return f"<h4>{html.escape(self._heading)}</h4>{table}{shown}"


@dataclass(frozen=True)
class _Target:
    """The target's activations of one layer, and its pictures by their keys."""

    activations: ActivationStore
    records: Mapping[str, ImageRecord]


def _open_pictures(past: PastRun, layer: str) -> _Target:
    from lavise.tasks.activations import extract

    store = past.open_store()
    handle = past.find_artefact(store, extract.STAGE, Role.TARGET, past.layers.index(layer)) if store else None
    if store is None or handle is None:
        raise UserError(
            f"audit: the activations of run {past.run_id} are not in {past.find_root()} any more; audit again with its "
            "config.yaml"
        )
    target = open_target(past.config, StageRunner(store, progress=no_progress), no_progress)
    return _Target(ActivationStore(handle.folder), target.by_key)


def _put_first(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The value before its interval, then whatever else there is."""
    return {**{name: cell[name] for name in _FIRST if name in cell}, **cell}


def _show_png(content: bytes) -> str:
    return (
        f'<img alt="" style="max-width:100%" src="data:image/png;base64,{base64.b64encode(content).decode("ascii")}">'
    )
