"""Audits from Python: a few functions, and objects that show themselves in a notebook as tables and pictures."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.paths import expand_home
from lavise.configs.roles import Role
from lavise.flows.past_audits.past_runs import PastRun, open_past_run, open_stores
from lavise.flows.shared.inputs import open_target
from lavise.storage.activations import ActivationStore
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.progress import default_progress, no_progress
from lavise.storage.tracking import NullTracker, open_tracker
from lavise.tasks.analyses.analysis import Table as AnalysisTable
from lavise.tasks.analyses.analysis import list_analyses
from lavise.tasks.engine.stage import StageRunner

if TYPE_CHECKING:
    import pandas as pd

_IMAGES, _IMAGE_PX = 8, 160


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


def open_audit(audit: str) -> Audit:
    """An audit that has ended, by the id of its MLflow run or by its run folder.

    Raises:
        UserError: no such audit.
    """
    if (expand_home(audit) / file_names.CONFIG).is_file():  # nothing but the folder is needed, and nothing is made
        return Audit(open_past_run(audit, NullTracker(), find_state_root(None)))
    tracker, root = open_stores(audit)
    return Audit(open_past_run(audit, tracker, root))


@dataclass(frozen=True)
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
        """Recall@s of each method on the evaluation pictures, with intervals."""
        import pandas as pd

        rows = [
            {"layer": layer, "vocabulary": vocabulary, "method": method, "s": int(s), **cell}
            for layer, found in self.past.read_metrics()["layers"].items()
            for vocabulary, methods in found["recall"].items()
            for method, by_s in methods.items()
            for s, cell in by_s.items()
        ]
        return pd.DataFrame(rows)

    def search(self, word: str) -> pd.DataFrame:
        """The filters that are explained by a word, the most confident first."""
        rows = self.filters
        has_word = rows["words"].map(lambda words: word in list(words)) & rows["explained"]
        return rows[has_word].sort_values(["confidence", "filter"], ascending=[False, True]).reset_index(drop=True)

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

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(layer)}</td><td>{found['num_explained']} of {found['num_filters']}</td></tr>"
            for layer, found in self.past.read_metrics()["layers"].items()
        )
        return (
            f"<h3>{html.escape(self.past.title)}</h3>"
            f"<table><thead><tr><th>layer</th><th>filters explained</th></tr></thead><tbody>{rows}</tbody></table>"
            f"{_show_png((self.folder / 'overview.png').read_bytes())}"
        )


@dataclass(frozen=True)
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

    @cached_property
    def picture(self) -> bytes:
        """PNG of the top pictures, dimmed outside the filter's region.

        Raises:
            UserError: the activations or the pictures are away.
        """
        return _draw_images(self.audit.past, self.layer, self.row)

    def _repr_html_(self) -> str:
        said = ", ".join(self.row["words"]) if self.row["explained"] else f"unexplained: {self.row['reason']}"
        heading = f"<h4>{html.escape(self.layer)}, filter {self.number}: {html.escape(said)}</h4>"
        return heading + _show_png(self.picture) + self.words.to_html(escape=True, index=False, float_format="%.3g")


def _draw_images(past: PastRun, layer: str, row: dict[str, Any]) -> bytes:
    from lavise.tasks.activations import extract
    from lavise.tasks.report.pictures import draw_filter

    root = find_state_root(past.config.storage.root)
    store = ArtefactStore(root)
    handle = past.find_artefact(store, extract.STAGE, Role.TARGET, past.layers.index(layer))
    if handle is None:
        raise UserError(
            f"audit: the activations of run {past.run_id} are not in {root} any more; audit again with its config.yaml"
        )
    target = open_target(past.config, StageRunner(store, progress=no_progress), no_progress)
    return draw_filter(
        ActivationStore(handle.folder), row, target.by_key, _IMAGES, _IMAGE_PX, past.title, past.config.report.bands
    )


def _show_png(content: bytes) -> str:
    return (
        f'<img alt="" style="max-width:100%" src="data:image/png;base64,{base64.b64encode(content).decode("ascii")}">'
    )
